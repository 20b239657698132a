package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
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
		v := vhost("web.mesh.internal", cluster)
		v.Routes[0].Timeout = time.Minute // the stream that stays must not end by it
		l := httpConfig(addr, v)
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
		var resp *http.Response
		if resp, err = client.Get(pairURL + "/"); err != nil { // the same name: net/http takes the same connection
			break
		}
		var body []byte
		body, err = io.ReadAll(resp.Body)
		_, got = resp.Body.Close(), string(body)
	}
	if err != nil || got != "new" {
		t.Errorf("the busy connection is still served by %q (%v)", got, err)
	}
	close(release)
	if body, err := io.ReadAll(watch.Body); err != nil || string(body) != "old" {
		t.Errorf("the stream that was there got %q (%v)", body, err)
	}
	_ = watch.Body.Close()
	if before, after := p.stat("http.before.downstream_cx_total"), p.stat("http.after.downstream_cx_total"); before != "1" || after != "0" {
		t.Errorf("%s and %s connections were made, want one that serves everything", before, after)
	}
	client.CloseIdleConnections()
	for _, name := range []string{"http.before.downstream_cx_active", "http.before.downstream_rq_active", "http.after.downstream_rq_active"} {
		p.waitStat(name, "0")
	}
}

// TestOpenTCPConnectionsAreCountedWhereTheyBegan: a connection of TCP that is open when the prefix of its figures changes is counted out
// under the one that it was counted in under.
func TestOpenTCPConnectionsAreCountedWhereTheyBegan(t *testing.T) {
	addr := freeAddr(t)
	back := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) })
	cfg := func(prefix string) *config.Config {
		l := &config.Listener{Name: "tcp", Addresses: []netip.AddrPort{addr}}
		l.TCP = &config.TCP{StatPrefix: prefix, Clusters: []config.WeightedCluster{{Name: "echo", Weight: 1}}, IdleTimeout: time.Minute}
		return &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("echo", back))}
	}
	p := start(t, cfg("before"), nil)
	conn := p.dial()
	p.waitStat("tcp.before.downstream_cx_active", "1")
	p.config.Set(cfg("after"))
	for deadline := time.Now().Add(10 * time.Second); p.stat("tcp.after.downstream_cx_total") == "missing" || p.stat("tcp.after.downstream_cx_total") == "0"; {
		if time.Now().After(deadline) {
			t.Fatal("no new connection is counted under the new prefix")
		}
		_ = p.dial().Close()
	}
	if got := p.stat("tcp.before.downstream_cx_active"); got == "0" {
		t.Error("the connection that is open is counted out already")
	}
	_ = conn.Close()
	p.waitStat("tcp.before.downstream_cx_active", "0")
	p.waitStat("tcp.after.downstream_cx_active", "0")
}

// TestAnsweredCallsHaveNoRequestTimeout: as in Envoy a call whose response has begun may go on with its request as long as it likes,
// as calls of gRPC do that stream both ways.
func TestAnsweredCallsHaveNoRequestTimeout(t *testing.T) {
	const limit = 2 * time.Second // in which the response has to begin, on a busy machine too
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			t.Parallel()
			l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "echo"))
			l.HTTP.Protocol, l.HTTP.RequestTimeout = pair.down, limit
			c := cluster("echo", plainServer(t, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
				_, _ = io.Copy(w, r.Body)
			}))
			c.Protocol = pair.up
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
			body, write := io.Pipe()
			go func() { _, _ = io.WriteString(write, "first ") }()
			r, err := http.NewRequest(http.MethodPost, pairURL+"/", body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := p.plainClient(pair.down).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			time.Sleep(limit + limit/2)
			go func() { _, _ = io.WriteString(write, "last"); _ = write.Close() }()
			if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "first last" {
				t.Errorf("got %q, %v", got, err)
			}
			p.waitStat("http.outbound.downstream_rq_timeout", "0")
		})
	}
}
