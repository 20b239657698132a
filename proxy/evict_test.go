package proxy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// startCramped runs a proxy whose cluster may have one connection to its one host, which is asked in whatever version its clients speak,
// or in bytes at the second listener.
func startCramped(t *testing.T, host string) (p *testProxy, bytes string) {
	t.Helper()
	l, c := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web")), cluster("web", host)
	l.HTTP.Protocol, c.Protocol = config.ProtocolAuto, config.ProtocolDownstream
	unhurried(l, c)
	tcp := &config.Listener{Name: "bytes", Addresses: []netip.AddrPort{freeAddr(t)}}
	tcp.TCP = &config.TCP{StatPrefix: "bytes", Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}, IdleTimeout: time.Minute}
	p = start(t, &config.Config{Listeners: []*config.Listener{l, tcp}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	p.waitBound(tcp.Addresses[0])
	return p, tcp.Addresses[0].String()
}

// TestIdleConnectionsOfAnotherKindMakeRoom: a connection that nobody uses keeps nobody waiting who cannot use it, also at the same host,
// and each is dialled for a request.
func TestIdleConnectionsOfAnotherKindMakeRoom(t *testing.T) {
	p, bytes := startCramped(t, plainServer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	one, two := p.plainClient(config.ProtocolHTTP1), p.plainClient(config.ProtocolHTTP2)
	asked := func(client *http.Client, want string) {
		t.Helper()
		if status, body, err := p.get(client, "web.mesh.internal", "/"); err != nil || status != 200 || body != want {
			t.Fatalf("got %d %q %v, want %q", status, body, err, want)
		}
	}
	throughBytes := func() {
		t.Helper()
		conn, err := net.Dial("tcp", bytes)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || len(got) == 0 {
			t.Fatalf("got %q %v", got, err)
		}
	}
	dialled := 0
	for range 3 {
		for _, ask := range []func(){func() { asked(one, "HTTP/1.1") }, func() { asked(two, "HTTP/2.0") }, throughBytes, func() { asked(two, "HTTP/2.0") }} {
			ask()
			dialled++
			p.waitStat("cluster.web.upstream_cx_total", strconv.Itoa(dialled))
		}
		asked(two, "HTTP/2.0") // it is of the right kind
		asked(one, "HTTP/1.1")
		asked(one, "HTTP/1.1")
		dialled++
		p.waitStat("cluster.web.upstream_cx_total", strconv.Itoa(dialled))
		throughBytes()
		dialled++
	}
}

// TestWhoWaitsForAnotherKindHasItsTurn: a connection that becomes idle goes to who waits for another kind as well, and many of all kinds
// at once are all served, with no more connections than requests.
func TestWhoWaitsForAnotherKindHasItsTurn(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	p, _ := startCramped(t, plainServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, r.Proto)
	}))
	versions := []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2}
	ask := func(version config.Protocol, path string) {
		if status, body, err := p.get(p.plainClient(version), "web.mesh.internal", path); err != nil || status != 200 {
			t.Errorf("%s in version %d: got %d %q %v", path, version, status, body, err)
		}
	}
	for i, first := range versions {
		t.Run(fmt.Sprint("after version ", first), func(t *testing.T) {
			var all sync.WaitGroup
			all.Go(func() { ask(first, "/slow") })
			<-arrived
			all.Go(func() { ask(versions[1-i], "/") })
			p.waitStat("cluster.web.upstream_rq_pending_active", "1")
			release <- struct{}{}
			all.Wait()
		})
	}
	const clients, each = 16, 20
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			for range each {
				ask(versions[i%2], "/")
			}
		})
	}
	all.Wait()
	if n, err := strconv.Atoi(p.stat("cluster.web.upstream_cx_total")); err != nil || n > clients*each+4 {
		t.Errorf("%d connections for %d requests (%v)", n, clients*each+4, err)
	}
	p.waitStat("cluster.web.upstream_rq_pending_active", "0")
}
