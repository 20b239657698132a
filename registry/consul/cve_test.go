package consul

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// consulLike answers as Consul does, with what answer makes of it.
func consulLike(answer func(http.ResponseWriter, *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Consul-Index", "7")
		w.Header().Set("X-Consul-LastContact", "0")
		w.Header().Set("X-Consul-KnownLeader", "true")
		answer(w, r)
	})
}

func ask(t *testing.T, cfg Config) (answer, error) {
	t.Helper()
	return clientFor(t, cfg).get(t.Context(), query{path: "/v1/health/service/x", index: 3, wait: time.Second})
}

func tokenAt(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A redirect is an error: whoever answers for Consul must not send us, with our token, elsewhere (CVE-2022-29153).
func TestCVEClass12_RedirectsAreNotFollowed(t *testing.T) {
	var reached atomic.Int32
	elsewhere := httptest.NewServer(consulLike(func(w http.ResponseWriter, _ *http.Request) { reached.Add(1); _, _ = io.WriteString(w, "[]") }))
	defer elsewhere.Close()
	server := httptest.NewServer(consulLike(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	if _, err := ask(t, Config{Address: server.URL, TokenFile: tokenAt(t, "secret")}); err == nil || !strings.Contains(err.Error(), "status 307") {
		t.Errorf("got %v, want the status", err)
	}
	if reached.Load() != 0 {
		t.Error("the redirect was followed")
	}
}

// endless never ends.
type endless struct{ given int64 }

func (e *endless) Read(p []byte) (int, error) { e.given += int64(len(p)); return len(p), nil }

// An answer without end is an error before it fills the memory, and of an error only its start is read (CVE-2026-26998).
func TestCVEClass18_AnswersAreBounded(t *testing.T) {
	for status, most := range map[int]int64{http.StatusOK: maxBody, http.StatusInternalServerError: 2 * maxErrorBody} {
		from := &endless{}
		resp, err := guard(&http.Request{Method: http.MethodGet}, &http.Response{
			StatusCode: status, Body: io.NopCloser(from), Header: http.Header{"Content-Type": {"application/json"}, "X-Consul-Index": {"1"}},
		}, "secret")
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if n > most || from.given > most+1<<16 {
			t.Errorf("status %d: %d bytes of %d, want at most %d", status, n, from.given, most)
		}
		if status == http.StatusOK && !errors.Is(err, errTooLarge) {
			t.Errorf("status %d: %v, want %v: a part is never taken for the whole", status, err, errTooLarge)
		}
	}
}

// Nobody is believed, and told the token, whose certificate was not verified (CVE-2018-19653, CVE-2025-66491).
func TestCVEClass19_TLSIsVerified(t *testing.T) {
	var reached atomic.Int32
	server := httptest.NewTLSServer(consulLike(func(w http.ResponseWriter, _ *http.Request) { reached.Add(1); _, _ = io.WriteString(w, "[]") }))
	defer server.Close()
	other := filepath.Join(t.TempDir(), "none.pem")
	if err := os.WriteFile(other, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, Config{Address: server.URL, TokenFile: tokenAt(t, "secret")}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	cfg := Config{Address: server.URL, CAFile: other}.withDefaults()
	target, err := parseAddress(cfg.Address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(cfg, target); err == nil {
		t.Error("a file without an authority is taken for one")
	}
	c := clientFor(t, Config{Address: server.URL, ServerName: "server.dc1.consul"})
	c.transport.dialer.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if _, err := c.get(t.Context(), query{path: "/v1/x", index: 3, wait: time.Second}); err == nil || !strings.Contains(err.Error(), "server.dc1.consul") {
		t.Errorf("another name: %v", err)
	}
	if reached.Load() != 0 {
		t.Error("a request was sent")
	}
}

// A token that cannot be read is never "no token": anonymous may see less, or more (CVE-2026-54762).
func TestCVEClass26_NoTokenNoRequest(t *testing.T) {
	var reached atomic.Int32
	server := httptest.NewServer(consulLike(func(w http.ResponseWriter, _ *http.Request) { reached.Add(1); _, _ = io.WriteString(w, "[]") }))
	defer server.Close()
	for what, path := range map[string]string{
		"no file": filepath.Join(t.TempDir(), "none"), "empty": tokenAt(t, "\n"), "two lines": tokenAt(t, "secret\nX-Evil: 1"), "a directory": t.TempDir(),
	} {
		if _, err := ask(t, Config{Address: server.URL, TokenFile: path}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want an error that does not show the file", what, err)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// No error, and so no log and no answer of the API, shows the token: not even when what stands before Consul repeats the
// request (CVE-2022-23469). What it says is one line (CVE-2025-25294).
func TestCVEClass27_ErrorsShowNoSecret(t *testing.T) {
	const token = "f00dcafe-0000-1111-2222-333344445555"
	for _, status := range []int{400, 401, 403, 404, 500, 502} {
		server := httptest.NewServer(consulLike(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "bad\n\x1b[2Jtoken "+r.Header.Get("X-Consul-Token")+strings.Repeat(" ", maxErrorBody-60)+r.Header.Get("X-Consul-Token"))
		}))
		_, err := ask(t, Config{Address: server.URL, TokenFile: tokenAt(t, token)})
		if err == nil || strings.Contains(err.Error(), token[:8]) || strings.ContainsAny(err.Error(), "\n\x1b") || !strings.Contains(err.Error(), "bad") {
			t.Errorf("status %d: %v, want its text in one line without the token", status, err)
		}
		c := clientFor(t, Config{Address: server.URL, TokenFile: tokenAt(t, token)})
		if err := c.mayRead(t.Context(), "", []access{{Resource: "node", Access: "read"}}); err == nil || strings.Contains(err.Error(), token[:8]) {
			t.Errorf("status %d: %v, want an error without the token", status, err)
		}
		server.Close()
	}
	for _, address := range []string{"http://user:hunter2@127.0.0.1:8500", "https://hunter2@h:1", "user:hunter2@127.0.0.1:8500", "http://u:hun@ter2@h:1"} {
		_, err := New(Config{Address: address}, nil)
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "hun@") {
			t.Errorf("%v, want an error without the password", err)
		}
	}
}

// An instance cannot say that it is at the caller's own address, or at everybody's, in whatever way that is written.
func TestCVEClass12_AddressesLeadToOneHost(t *testing.T) {
	for _, address := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:0:0", "224.0.0.1", "::ffff:224.0.0.1", "ff02::1", "fe80::1%eth0", "127.1", "0x7f.1", "169.254.169.254.nip.io"} {
		body := `[{"Node": {"Node": "n", "Datacenter": "dc1", "Address": "10.0.0.1"}, "Service": {"ID": "w", "Service": "web", "Address": "` + address + `", "Port": 80}}]`
		cfg := Config{}.withDefaults()
		p, err := cfg.parse("web", []byte(body), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.endpoints) != 0 || len(p.problems) != 1 {
			t.Errorf("%s: %d endpoints, problems %v, want it told and left out", address, len(p.endpoints), p.problems)
		}
	}
}
