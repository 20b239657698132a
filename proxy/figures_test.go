package proxy_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// wantStats waits until figures have their values.
func (p *testProxy) wantStats(want map[string]string) {
	p.t.Helper()
	for name, value := range want {
		p.waitStat(name, value)
	}
}

// TestFiguresOfStatuses: each status that was seen is counted, by Envoy's names and labels.
func TestFiguresOfStatuses(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.Routes.VirtualHosts[0].Routes = append([]*config.Route{{Path: "/direct", Direct: &config.DirectResponse{Status: 200}}}, l.HTTP.Routes.VirtualHosts[0].Routes...)
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/missing":
			w.WriteHeader(404)
		case "/teapot":
			w.WriteHeader(418)
		}
	})))}, nil)
	for _, path := range []string{"/", "/", "/missing", "/teapot", "/missing", "/missing", "/direct"} {
		if _, _, err := p.get(http.DefaultClient, "web.mesh.internal", path); err != nil {
			t.Fatal(err)
		}
	}
	p.wantStats(map[string]string{
		"cluster.web.upstream_rq_200": "2", "cluster.web.upstream_rq_404": "3", "cluster.web.upstream_rq_418": "1", "cluster.web.upstream_rq_4xx": "4",
		"cluster.web.upstream_rq_500": "missing", "http.outbound.rq_direct_response": "1", "http.outbound.downstream_rq_http1_total": "7",
	})
	text := p.adminGet("/stats/prometheus?filter=upstream_rq_")
	for _, want := range []string{
		`envoy_cluster_upstream_rq{envoy_response_code="404",envoy_cluster_name="web"} 3`, `envoy_cluster_upstream_rq_xx{envoy_response_code_class="4",envoy_cluster_name="web"} 4`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "downstream") {
		t.Errorf("the filter does not keep\n%s", text)
	}
}

// TestStatsAsJSON: the figures are Envoy's objects, and a format that is none is refused.
func TestStatsAsJSON(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(http.ResponseWriter, *http.Request) {})))}, nil)
	for range 3 {
		if _, _, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); err != nil {
			t.Fatal(err)
		}
	}
	p.waitStat("cluster.web.upstream_rq_completed", "3")
	var got struct {
		Stats []struct {
			Name       string
			Value      uint64
			Histograms struct {
				Supported []float64 `json:"supported_quantiles"`
				Computed  []struct {
					Name   string
					Values []struct{ Cumulative, Interval *float64 }
				} `json:"computed_quantiles"`
			}
		}
	}
	text := p.adminGet("/stats?format=json&filter=^cluster.web.upstream_rq_(200|time|xx)")
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if len(got.Stats) != 3 || got.Stats[0].Name != "cluster.web.upstream_rq_timeout" || got.Stats[1].Name != "cluster.web.upstream_rq_200" || got.Stats[1].Value != 3 {
		t.Fatalf("got %s", text)
	}
	h := got.Stats[2].Histograms
	if len(h.Computed) != 1 || h.Computed[0].Name != "cluster.web.upstream_rq_time" || len(h.Computed[0].Values) != len(h.Supported) || h.Computed[0].Values[0].Cumulative == nil || h.Supported[0] != 50 {
		t.Errorf("got %s", text)
	}
	resp, err := http.Get("http://" + p.AdminAddr() + "/stats?format=xml")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another format is answered with %d", resp.StatusCode)
	}
}

// TestFiguresOfClientsConnections: by version, by who ended them and whether a request was under way.
func TestFiguresOfClientsConnections(t *testing.T) {
	block := make(chan struct{})
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.Protocol, l.HTTP.IdleTimeout = config.ProtocolAuto, 5*time.Second
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/block" {
			<-block
		}
	})))}, nil)
	defer close(block)
	const request = " HTTP/1.1\r\nHost: web.mesh.internal\r\n"
	at := func(name string) string { return "http.outbound.downstream_" + name }

	p.raw("GET /" + request + "Connection: close\r\n\r\n")
	p.wantStats(map[string]string{at("cx_http1_total"): "1", at("cx_http1_active"): "0", at("cx_destroy"): "1", at("cx_destroy_local"): "1", at("cx_destroy_active_rq"): "0"})

	conn := p.dial()
	_, _ = io.WriteString(conn, "GET /"+request+"\r\n")
	_, _ = http.ReadResponse(bufio.NewReader(conn), nil)
	p.wantStats(map[string]string{at("cx_http1_active"): "1"})
	conn.Close()
	p.wantStats(map[string]string{at("cx_destroy_remote"): "1", at("cx_destroy_remote_active_rq"): "0", at("cx_http1_active"): "0"})

	conn = p.dial()
	_, _ = io.WriteString(conn, "GET /block"+request+"\r\n")
	p.waitStat(at("rq_active"), "1")
	conn.Close()
	p.wantStats(map[string]string{at("cx_destroy_remote"): "2", at("cx_destroy_remote_active_rq"): "1", at("cx_destroy_active_rq"): "1"})

	client := p.plainClient(config.ProtocolHTTP2)
	if status, _, err := p.get(client, "web.mesh.internal", "/"); status != 200 {
		t.Fatal(status, err)
	}
	p.wantStats(map[string]string{at("cx_http2_total"): "1", at("cx_http2_active"): "1", at("cx_http1_total"): "3", at("rq_http2_total"): "1"})
	client.CloseIdleConnections()
	p.wantStats(map[string]string{at("cx_http2_active"): "0", at("cx_destroy"): "4", at("cx_destroy_remote"): "3"})
	if lives := p.stat(at("cx_length_ms")); !strings.HasPrefix(lives, "P50(") {
		t.Errorf("lives are told as %q", lives)
	}
}

// TestFiguresOfTunnels: those that are open.
func TestFiguresOfTunnels(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = r.ReadByte()
	})))}, nil)
	conn := p.dial()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	if head := readHead(bufio.NewReader(conn)); !strings.Contains(head, " 101 ") {
		t.Fatal(head)
	}
	p.wantStats(map[string]string{"http.outbound.downstream_cx_upgrades_active": "1", "http.outbound.downstream_cx_upgrades_total": "1"})
	conn.Close()
	p.wantStats(map[string]string{"http.outbound.downstream_cx_upgrades_active": "0"})
}

// TestFiguresOfHostsConnections: by version, by who ended them, and how long they took and lived.
func TestFiguresOfHostsConnections(t *testing.T) {
	block := make(chan struct{})
	closing := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		switch head := readHead(r); {
		case strings.HasPrefix(head, "GET /die"):
		case strings.HasPrefix(head, "GET /block"):
			<-block
		default:
			answer(conn, "")
		}
	})
	defer close(block)
	two := cluster("two", plainServer(t, func(http.ResponseWriter, *http.Request) {}))
	two.Protocol, two.IdleTimeout = config.ProtocolHTTP2, 20*time.Millisecond
	one := vhost("one.mesh.internal", "one")
	one.Routes[0].Retry = config.Retry{}
	one.Routes[0].Timeout = 200 * time.Millisecond
	l := httpConfig(freeAddr(t), one, vhost("two.mesh.internal", "two"), vhost("dead.mesh.internal", "dead"))
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("one", closing), two, cluster("dead", freeAddr(t).String()))}, nil)
	ask := func(host, path string, want int) {
		t.Helper()
		if status, body, err := p.get(http.DefaultClient, host, path); status != want {
			t.Fatal(status, body, err)
		}
	}
	at := func(name string) string { return "cluster.one.upstream_cx_" + name }
	ask("one.mesh.internal", "/", 200) // the host closes an idle connection
	p.wantStats(map[string]string{at("http1_total"): "1", at("http2_total"): "0", at("destroy"): "1", at("destroy_remote"): "1", at("destroy_with_active_rq"): "0"})
	ask("one.mesh.internal", "/die", 503) // and one with a request
	p.wantStats(map[string]string{at("destroy_remote"): "2", at("destroy_remote_with_active_rq"): "1", at("destroy_local"): "0"})
	ask("one.mesh.internal", "/block", 504) // which is given up here
	p.wantStats(map[string]string{at("destroy_local"): "1", at("destroy_local_with_active_rq"): "1", at("destroy_with_active_rq"): "2", at("http1_total"): "3"})
	for _, name := range []string{"connect_ms", "length_ms"} {
		if times := p.stat(at(name)); !strings.HasPrefix(times, "P50(") {
			t.Errorf("%s is %q", name, times)
		}
	}
	ask("two.mesh.internal", "/", 200)
	p.wantStats(map[string]string{
		"cluster.two.upstream_cx_http1_total": "0", "cluster.two.upstream_cx_http2_total": "1", "cluster.two.upstream_cx_destroy_local": "1",
		"cluster.two.upstream_cx_destroy_with_active_rq": "0", "cluster.two.http2.rx_reset": "0",
	})
	ask("dead.mesh.internal", "/", 503) // as the stock Envoy counts it
	p.wantStats(map[string]string{"cluster.dead.upstream_cx_destroy": "3", "cluster.dead.upstream_cx_destroy_remote": "3", "cluster.dead.upstream_cx_connect_ms": "missing"})
}

// TestFiguresOfBreakers: a limit that is used up is told as open, and no more when it is not.
func TestFiguresOfBreakers(t *testing.T) {
	block := make(chan struct{})
	c := cluster("web", server(t, func(http.ResponseWriter, *http.Request) { <-block }))
	c.MaxRequests, c.MaxConnections, c.MaxPending = 2, 1, 1
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
	at := func(name string) string { return "cluster.web.circuit_breakers.default." + name + "_open" }
	open := func() net.Conn {
		conn := p.dial()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
		return conn
	}
	open()
	p.wantStats(map[string]string{at("cx"): "1", at("rq"): "0", at("rq_pending"): "0", at("rq_retry"): "0"})
	open()
	p.wantStats(map[string]string{at("cx"): "1", at("rq"): "1", at("rq_pending"): "1", "cluster.web.circuit_breakers.high.rq_open": "0"})
	close(block)
	p.wantStats(map[string]string{at("rq"): "0", at("rq_pending"): "0"})
}

// TestFiguresOfHostsHandshakes: done, taken up again, and failed by their cause.
func TestFiguresOfHostsHandshakes(t *testing.T) {
	a := testbed.NewAuthority(t)
	far := inbound(t, a, config.ProtocolHTTP1, func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		name      string
		authority *testbed.Authority
		host      string
		want      map[string]string
	}{
		{"done", a, "b.mesh.internal", map[string]string{"handshake": "1", "connection_error": "0", "fail_verify_error": "0", "fail_verify_san": "0"}},
		{"another name", a, "c.mesh.internal", map[string]string{"handshake": "0", "fail_verify_san": "3", "fail_verify_error": "0"}},
		{"another authority", testbed.NewAuthority(t), "b.mesh.internal", map[string]string{"handshake": "0", "fail_verify_error": "3", "fail_verify_san": "0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			near := outbound(t, c.authority, config.ProtocolHTTP1, config.ProtocolHTTP1, far.addr, c.host)
			if _, _, err := near.get(http.DefaultClient, "web.mesh.internal", "/"); err != nil {
				t.Fatal(err)
			}
			for name, value := range c.want {
				near.waitStat("cluster.hop.ssl."+name, value)
			}
		})
	}
}

// TestFiguresOfChanges: of listeners, and of a cluster's hosts.
func TestFiguresOfChanges(t *testing.T) {
	block := make(chan struct{})
	host, other := server(t, func(http.ResponseWriter, *http.Request) { <-block }), server(t, func(http.ResponseWriter, *http.Request) {})
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	second := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	second.Name = "second"
	cfg := &config.Config{Listeners: []*config.Listener{l, second}, Clusters: clusters(cluster("web", host))}
	p := start(t, cfg, func(o *proxy.Options) { o.DrainTime = time.Second })
	p.wantStats(map[string]string{"listener_manager.listener_added": "2", "listener_manager.listener_modified": "0", "listener_manager.listener_removed": "0"})

	p.addr = second.Addresses[0]
	conn := p.dial()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
	p.waitStat("cluster.web.upstream_rq_active", "1")
	p.wantStats(map[string]string{"cluster.web.membership_change": "1", "cluster.web.membership_degraded": "0"})

	changed, degraded := *l, cluster("web", host, other)
	degraded.Endpoints[1].Health = config.Degraded
	p.config.Set(&config.Config{Listeners: []*config.Listener{&changed}, Clusters: clusters(degraded)})
	p.wantStats(map[string]string{
		"listener_manager.listener_added": "2", "listener_manager.listener_modified": "1", "listener_manager.listener_removed": "1",
		"listener_manager.total_listeners_draining": "1", "cluster.web.membership_change": "2", "cluster.web.membership_degraded": "1",
	})
	close(block)
	conn.Close()
	p.wantStats(map[string]string{"listener_manager.total_listeners_draining": "0"})

	healthy := cluster("web", host, other)
	p.config.Set(&config.Config{Listeners: []*config.Listener{&changed}, Clusters: clusters(healthy)})
	p.wantStats(map[string]string{"cluster.web.membership_degraded": "0", "cluster.web.membership_change": "2", "cluster.web.membership_total": "2"})
}
