package proxy_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestBusyConnectionsTakeNewRoutes: a request is served by the listener as it is when it comes, though another stream of its HTTP/2
// connection lives since before; and what is counted in under a prefix is counted out under it.
func TestBusyConnectionsTakeNewRoutes(t *testing.T) {
	release := make(chan struct{})
	host := func(name string) string {
		return plainServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			if r.URL.Path == "/watch" {
				<-release
			}
			_, _ = io.WriteString(w, name)
		})
	}
	addr := freeAddr(t)
	cfg := func(cluster, prefix string) *config.Config {
		l := httpConfig(addr, vhost("web.mesh.internal", cluster))
		l.HTTP.Protocol, l.HTTP.StatPrefix = config.ProtocolHTTP2, prefix
		return &config.Config{Listeners: []*config.Listener{l}}
	}
	all := clusters(cluster("old", host("old")), cluster("new", host("new")))
	first, second := cfg("old", "before"), cfg("new", "after")
	first.Clusters, second.Clusters = all, clusters(all["new"])
	p := start(t, first, nil)
	client := p.plainClient(config.ProtocolHTTP2)
	watch, err := client.Get(pairURL + "/watch")
	if err != nil {
		t.Fatal(err)
	}
	p.config.Set(second)
	got := ""
	for deadline := time.Now().Add(10 * time.Second); got != "new" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_, got, err = p.get(client, "web.mesh.internal", "/")
	}
	if err != nil || got != "new" {
		t.Errorf("the busy connection is still served by %q (%v)", got, err)
	}
	close(release)
	if body, err := io.ReadAll(watch.Body); err != nil || string(body) != "old" {
		t.Errorf("the stream that was there got %q (%v)", body, err)
	}
	_ = watch.Body.Close()
	client.CloseIdleConnections()
	for _, name := range []string{"http.before.downstream_cx_active", "http.before.downstream_rq_active", "http.after.downstream_rq_active"} {
		p.waitStat(name, "0")
	}
}
