package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// startHTTP runs a proxy that sends web.mesh.internal to the given backends.
func startHTTP(t testing.TB, addrs ...string) *testProxy {
	t.Helper()
	return start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))},
		Clusters:  clusters(cluster("web", addrs...)),
	}, nil)
}

func server(t testing.TB, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestRequestReachesBackend(t *testing.T) {
	var got *http.Request
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		_, _ = io.WriteString(w, "echo "+string(body))
	}))
	req, _ := http.NewRequest(http.MethodPost, "http://"+p.addr.String()+"/a/b?c=d", strings.NewReader("hello"))
	req.Host = "web.mesh.internal"
	req.Header.Set("User-Agent", "tester \"1\"")
	req.Header.Set("Connection", "X-Secret, x-forwarded-for")
	req.Header.Set("X-Secret", "hop")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "echo hello" || resp.StatusCode != 200 {
		t.Fatalf("%d %q %v", resp.StatusCode, body, err)
	}
	if resp.Header.Get("Server") != "envoy" || resp.Header.Get("X-Answer") != "yes" || resp.Header.Get("Date") == "" {
		t.Errorf("response headers: %v", resp.Header)
	}
	if got.Host != "web.mesh.internal" || got.URL.String() != "/a/b?c=d" {
		t.Errorf("the backend saw %s %s", got.Host, got.URL)
	}
	if got.Header.Get("X-Secret") != "" {
		t.Error("a header that Connection names was passed on")
	}
	if got.Header.Get("X-Forwarded-For") != "127.0.0.1" || got.Header.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("forwarded: %v", got.Header)
	}
	id := got.Header.Get("X-Request-Id")
	if len(id) != 36 || id[14] != '4' {
		t.Errorf("x-request-id %q is no UUIDv4", id)
	}
	p.stop()
	line := p.log.String()
	for _, want := range []string{`"POST /a/b?c=d HTTP/1.1" 200 - 5 10 `, `"127.0.0.1" "tester \x221\x22" "` + id + `" "web.mesh.internal" "127.0.0.1:`} {
		if !strings.Contains(line, want) {
			t.Errorf("access log %q has no %q", line, want)
		}
	}
}
