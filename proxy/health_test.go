package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// patient is a back end whose every answer is what it is told to be: a status, or 0 to close without any.
type patient struct {
	addr         string
	name         string
	ready, other atomic.Int32 // statuses
	requests     atomic.Int32 // without checks
}

func newPatient(t testing.TB, name string) *patient {
	p := &patient{name: name}
	p.ready.Store(200)
	p.other.Store(200)
	p.addr = rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			status := &p.other
			if strings.HasPrefix(head, "GET /ready ") {
				status = &p.ready
			} else {
				p.requests.Add(1)
			}
			n := status.Load()
			if n == 0 {
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%s", n, len(name), name)
		}
	})
	return p
}

// readiness checks /ready very often, whatever the traffic.
func readiness() *config.HealthCheck {
	const often = 5 * time.Millisecond
	return &config.HealthCheck{
		Timeout: 5 * time.Second, Interval: often, UnhealthyInterval: often, UnhealthyEdgeInterval: often, HealthyEdgeInterval: often, NoTrafficInterval: often,
		NoTrafficHealthyInterval: often, UnhealthyThreshold: 2, HealthyThreshold: 2, ReuseConnection: true,
		HTTP: &config.HTTPCheck{Method: "GET", Path: "/ready", Expected: []config.StatusRange{{From: 200, To: 201}}},
	}
}

// plain is a route without retries.
func plain(cluster string) *config.VirtualHost {
	v := vhost("web.mesh.internal", cluster)
	v.Routes[0].Retry = config.Retry{}
	return v
}

// waitFlags waits until a host has these flags in /clusters.
func (p *testProxy) waitFlags(addr, want string) {
	p.t.Helper()
	line := "web::" + addr + "::health_flags::" + want + "\n"
	all := ""
	for range 500 {
		if all = p.adminGet("/clusters"); strings.Contains(all, line) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Fatalf("no %q in\n%s", line, all)
}

// served counts who answers n requests; what is not a 200 counts by its status.
func (p *testProxy) served(n int) map[string]int {
	p.t.Helper()
	got := map[string]int{}
	for range n {
		status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/")
		if err != nil {
			p.t.Fatal(err)
		}
		if status != 200 {
			body = fmt.Sprint(status)
		}
		got[body]++
	}
	return got
}

// settled waits until n requests in a row are served in this way: the loops are told after the admin interface.
func (p *testProxy) settled(n int, want func(map[string]int) bool) {
	p.t.Helper()
	var got map[string]int
	for range 200 {
		if got = p.served(n); want(got) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Errorf("served by %v", got)
}

func only(name string) func(map[string]int) bool {
	return func(got map[string]int) bool { return len(got) == 1 && got[name] > 0 }
}

func TestHealthChecksTakeHostsOutAndBack(t *testing.T) {
	a, b := newPatient(t, "a"), newPatient(t, "b")
	c := cluster("web", a.addr, b.addr)
	c.HealthCheck = readiness()
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, nil)
	if got := p.served(20); got["a"] == 0 || got["b"] == 0 || len(got) != 2 {
		t.Errorf("at first: %v", got)
	}
	b.ready.Store(503)
	p.waitFlags(b.addr, "/failed_active_hc")
	p.settled(20, only("a"))
	b.ready.Store(0) // resets: the host stays out
	p.settled(20, only("a"))
	a.ready.Store(503) // none is healthy: panic, all are used
	p.waitFlags(a.addr, "/failed_active_hc")
	p.settled(20, func(got map[string]int) bool { return got["a"] > 0 && got["b"] > 0 && len(got) == 2 })
	a.ready.Store(200)
	b.ready.Store(200)
	p.waitFlags(a.addr, "healthy")
	p.waitFlags(b.addr, "healthy")
	p.settled(20, func(got map[string]int) bool { return got["a"] > 0 && got["b"] > 0 && len(got) == 2 })
	p.waitStat("cluster.web.health_check.healthy", "2")
	for _, name := range []string{"attempt", "success", "failure", "network_failure"} {
		if n := p.stat("cluster.web.health_check." + name); n == "0" || n == "missing" {
			t.Errorf("health_check.%s is %s", name, n)
		}
	}
}

// TestWarming: nothing is served by a cluster before each of its hosts was checked once, and what was there stays until then.
func TestWarming(t *testing.T) {
	check := make(chan struct{})
	slow := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" {
			<-check
		}
		_, _ = io.WriteString(w, "slow")
	})
	c := cluster("web", slow)
	c.HealthCheck = readiness()
	addr := freeAddr(t)
	first := &config.Config{Listeners: []*config.Listener{httpConfig(addr, plain("old"))}, Clusters: clusters(cluster("old", ok(t)))}
	p := start(t, first, nil)
	if got := p.served(2); got["ok"] != 2 {
		t.Fatalf("%v", got)
	}
	p.config.Set(&config.Config{Listeners: []*config.Listener{httpConfig(addr, plain("web"))}, Clusters: clusters(c)})
	p.waitFlags(slow, "/failed_active_hc/pending_active_hc")
	if got := p.served(10); got["ok"] != 10 {
		t.Errorf("while the new cluster is not checked: %v", got)
	}
	close(check)
	p.waitFlags(slow, "healthy")
	p.settled(10, only("slow"))
}

// TestWarmingAtTheStart: the proxy is not live, and listens nowhere, before the first checks have ended.
func TestWarmingAtTheStart(t *testing.T) {
	check := make(chan struct{})
	slow := server(t, func(w http.ResponseWriter, r *http.Request) { <-check })
	c := cluster("web", slow)
	c.HealthCheck = readiness()
	addr := freeAddr(t)
	given := watch.New[*config.Config](nil)
	late := start(t, &config.Config{}, func(o *proxy.Options) { o.Config = given })
	given.Set(&config.Config{Listeners: []*config.Listener{httpConfig(addr, plain("web"))}, Clusters: clusters(c)})
	late.waitFlags(slow, "/failed_active_hc/pending_active_hc")
	if info := late.adminGet("/server_info"); strings.Contains(info, `"LIVE"`) {
		t.Errorf("before the first check: %s", info)
	}
	if conn, err := net.Dial("tcp", addr.String()); err == nil {
		conn.Close()
		t.Error("it listens before the first check")
	}
	close(check)
	late.waitBound(addr)
	if info := late.adminGet("/server_info"); !strings.Contains(info, `"LIVE"`) {
		t.Errorf("after the first check: %s", info)
	}
}

// TestRemovedHostIsUsedWhileItsChecksPass follows Envoy's table of discovery and health.
func TestRemovedHostIsUsedWhileItsChecksPass(t *testing.T) {
	a, b := newPatient(t, "a"), newPatient(t, "b")
	both := cluster("web", a.addr, b.addr)
	both.HealthCheck = readiness()
	l := []*config.Listener{httpConfig(freeAddr(t), plain("web"))}
	p := start(t, &config.Config{Listeners: l, Clusters: clusters(both)}, nil)
	one := cluster("web", a.addr)
	one.HealthCheck = both.HealthCheck
	p.config.Set(&config.Config{Version: "2", Listeners: l, Clusters: clusters(one)})
	p.waitFlags(b.addr, "/pending_dynamic_removal")
	if got := p.served(20); got["b"] == 0 {
		t.Errorf("a host that is gone from discovery but passes its checks: %v", got)
	}
	b.ready.Store(500)
	p.settled(20, only("a"))
	for range 500 {
		if !strings.Contains(p.adminGet("/clusters"), b.addr) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the host is still there after its check failed")
}

// TestOutliersAreEjected has a row for each way in which a back end misbehaves.
func TestOutliersAreEjected(t *testing.T) {
	dead := func(t *testing.T) string { return freeAddr(t).String() }
	const five, gateway, local = "consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure"
	for _, c := range []struct {
		name   string
		status int32 // of the bad back end; -1: nobody listens
		change func(*config.Outlier)
		kind   string
	}{
		{"500", 500, nil, five},
		{"503 as a gateway failure", 503, func(o *config.Outlier) { o.Consecutive5xx = 0 }, gateway},
		{"resets", 0, nil, five},
		{"refuses connections", -1, nil, five},
		{"refuses connections, told apart", -1, func(o *config.Outlier) { o.SplitLocal = true }, local},
	} {
		t.Run(c.name, func(t *testing.T) {
			good := newPatient(t, "good")
			bad, addr := newPatient(t, "bad"), ""
			if addr = bad.addr; c.status < 0 {
				addr = dead(t)
			} else {
				bad.other.Store(c.status)
			}
			cl := cluster("web", good.addr, addr)
			cl.Outlier = &config.Outlier{
				Interval: 5 * time.Millisecond, BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour, MaxEjectionPercent: 50,
				Consecutive5xx: 3, ConsecutiveGateway: 3, ConsecutiveLocal: 3, Enforce5xx: 100, EnforceGateway: 100, EnforceLocal: 100,
			}
			if c.change != nil {
				c.change(cl.Outlier)
			}
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
			p.settled(20, only("good"))
			p.waitFlags(addr, "/failed_outlier_check")
			p.waitStat("cluster.web.outlier_detection.ejections_active", "1")
			for _, name := range []string{"detected", "enforced"} {
				if n := p.stat("cluster.web.outlier_detection.ejections_" + name + "_" + c.kind); n != "1" {
					t.Errorf("%s %s is %s, want 1", name, c.kind, n)
				}
			}
			// The last good host stays, whatever it does.
			good.other.Store(500)
			p.served(20)
			if n := p.stat("cluster.web.outlier_detection.ejections_active"); n != "1" {
				t.Errorf("%s ejected, of which at most half may be", n)
			}
		})
	}
}

func TestEjectedHostComesBack(t *testing.T) {
	good, bad := newPatient(t, "good"), newPatient(t, "bad")
	bad.other.Store(500)
	cl := cluster("web", good.addr, bad.addr)
	cl.Outlier = &config.Outlier{
		Interval: 5 * time.Millisecond, BaseEjectionTime: 200 * time.Millisecond, MaxEjectionTime: time.Second, MaxEjectionPercent: 50, Consecutive5xx: 3, Enforce5xx: 100,
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
	p.settled(10, only("good"))
	bad.other.Store(200)
	p.waitFlags(bad.addr, "healthy")
	p.settled(10, func(got map[string]int) bool { return got["bad"] > 0 })
}

// TestOutlierOfTCP: a connection that cannot be made is a failure of the host.
func TestOutlierOfTCP(t *testing.T) {
	good := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(conn, "hello") })
	dead := freeAddr(t).String()
	cl := cluster("web", good, dead)
	cl.Outlier = &config.Outlier{Interval: time.Hour, BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour, MaxEjectionPercent: 50, Consecutive5xx: 3, Enforce5xx: 100}
	l := &config.Listener{Name: "tcp", Addresses: []netip.AddrPort{freeAddr(t)}, TCP: &config.TCP{StatPrefix: "tcp", Attempts: 2, Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}}}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, nil)
	for range 20 {
		if got := p.raw(""); got != "hello" {
			t.Errorf("%q", got)
		}
	}
	p.waitFlags(dead, "/failed_outlier_check")
}

// TestPassedCheckEndsEjection: both at once; a host that passes its checks is not kept out.
func TestPassedCheckEndsEjection(t *testing.T) {
	good, bad := newPatient(t, "good"), newPatient(t, "bad")
	bad.other.Store(500)
	cl := cluster("web", good.addr, bad.addr)
	cl.HealthCheck = readiness()
	cl.Outlier = &config.Outlier{Interval: time.Hour, BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour, MaxEjectionPercent: 50, Consecutive5xx: 3, Enforce5xx: 100}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
	for p.stat("cluster.web.outlier_detection.ejections_enforced_total") == "0" {
		p.served(10)
	}
	bad.other.Store(200)
	p.waitFlags(bad.addr, "healthy")
	p.settled(10, func(got map[string]int) bool { return got["bad"] > 0 && got["500"] == 0 })
}

// TestClusterThatComesAgain: a cluster may leave, come back as it was and get its rules later; what it does counts each time.
func TestClusterThatComesAgain(t *testing.T) {
	good, bad := newPatient(t, "good"), newPatient(t, "bad")
	bad.other.Store(500)
	without := cluster("web", good.addr, bad.addr)
	with := *without
	with.Outlier = &config.Outlier{Interval: time.Hour, BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour, MaxEjectionPercent: 50, Consecutive5xx: 3, Enforce5xx: 100}
	l := []*config.Listener{httpConfig(freeAddr(t), plain("web"))}
	p := start(t, &config.Config{Listeners: l, Clusters: clusters(without)}, nil)
	some := func(status string) func(map[string]int) bool {
		return func(got map[string]int) bool { return got[status] > 0 }
	}
	p.settled(10, some("500"))
	for i, step := range []struct {
		c    *config.Cluster
		want func(map[string]int) bool
	}{
		{&with, only("good")},
		{nil, only("503")},
		{&with, only("good")},
		{without, some("500")},
		{&with, only("good")},
	} {
		next := &config.Config{Version: fmt.Sprint(i), Listeners: l}
		if step.c != nil {
			next.Clusters = clusters(step.c)
		}
		p.config.Set(next)
		p.settled(10, step.want)
	}
}
