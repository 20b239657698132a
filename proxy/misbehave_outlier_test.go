package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// ejecting is an outlier detection that detects nothing yet, and ejects for good.
func ejecting(change func(*config.Outlier)) *config.Outlier {
	o := &config.Outlier{
		Interval: 20 * time.Millisecond, BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour, MaxEjectionPercent: 50,
		Enforce5xx: 100, EnforceGateway: 100, EnforceLocal: 100,
	}
	change(o)
	return o
}

// flaky is a back end of which every nth answer is a 500.
func flaky(t testing.TB, n int32, requests *atomic.Int32) string {
	return server(t, func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1)%n == 0 {
			w.WriteHeader(500)
		}
	})
}

// TestTimeoutsAreHeldAgainstHosts: a host that does not answer in time is ejected as one that answers 504.
func TestTimeoutsAreHeldAgainstHosts(t *testing.T) {
	for name, change := range map[string]func(*config.Route){
		"route": func(r *config.Route) { r.Timeout = 30 * time.Millisecond },
		"per try": func(r *config.Route) {
			r.Retry = config.Retry{On: config.Retry5xx, PerTryTimeout: 30 * time.Millisecond}
		},
	} {
		t.Run(name, func(t *testing.T) {
			silent := rawBackend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
			v := plain("web")
			change(v.Routes[0])
			cl := cluster("web", silent, newPatient(t, "good").addr)
			cl.Outlier = ejecting(func(o *config.Outlier) { o.ConsecutiveGateway = 2 })
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cl)}, nil)
			p.settled(10, only("good"))
			p.waitFlags(silent, "/failed_outlier_check")
			p.waitStat("cluster.web.outlier_detection.ejections_enforced_consecutive_gateway_failure", "1")
		})
	}
}

// TestRatesAreCompared: a host whose rate of failures stands out is ejected though it never fails twice in a row.
func TestRatesAreCompared(t *testing.T) {
	rule := config.RateRule{MinimumHosts: 4, RequestVolume: 8, Enforce: 100}
	for _, c := range []struct {
		name, kind string
		change     func(*config.Outlier)
	}{
		{"success rate", "success_rate", func(o *config.Outlier) { o.SuccessRate = rule; o.SuccessRate.Threshold = 1000 }},
		{"failure percentage", "failure_percentage", func(o *config.Outlier) { o.FailurePercentage = rule; o.FailurePercentage.Threshold = 40 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests [5]atomic.Int32
			var addrs []string
			for i := range requests {
				n := int32(1000000)
				if i == 2 {
					n = 2
				}
				addrs = append(addrs, flaky(t, n, &requests[i]))
			}
			cl := cluster("web", addrs...)
			cl.Outlier = ejecting(func(o *config.Outlier) { o.Interval = 300 * time.Millisecond; o.Consecutive5xx = 2; c.change(o) })
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, oneLoop)
			for began := time.Now(); p.stat("cluster.web.outlier_detection.ejections_active") != "1" && time.Since(began) < 20*time.Second; {
				p.served(50)
			}
			p.waitFlags(addrs[2], "/failed_outlier_check")
			p.waitStat("cluster.web.outlier_detection.ejections_enforced_"+c.kind, "1")
			p.settled(20, only(""))
		})
	}
}

// TestWhoIsNotEjected has a row for each rule that keeps a host which misbehaves.
func TestWhoIsNotEjected(t *testing.T) {
	for _, c := range []struct {
		name   string
		good   int // hosts beside the bad one
		change func(*config.Outlier)
		stat   string
	}{
		{"not enforced", 1, func(o *config.Outlier) { o.Enforce5xx = 0 }, "ejections_detected_consecutive_5xx"},
		{"a tenth of nine", 8, func(o *config.Outlier) { o.MaxEjectionPercent = 10 }, "ejections_overflow"},
		{"none may be", 1, func(o *config.Outlier) { o.MaxEjectionPercent = 0 }, "ejections_overflow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := newPatient(t, "bad")
			bad.other.Store(500)
			addrs := []string{bad.addr}
			for range c.good {
				addrs = append(addrs, newPatient(t, "good").addr)
			}
			cl := cluster("web", addrs...)
			cl.Outlier = ejecting(func(o *config.Outlier) { o.Consecutive5xx = 3; c.change(o) })
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
			for began := time.Now(); time.Since(began) < 10*time.Second; {
				p.served(20)
				if n := p.stat("cluster.web.outlier_detection." + c.stat); n != "0" && n != "missing" {
					break
				}
			}
			if got := p.served(40); got["500"] == 0 {
				t.Errorf("%s is %s, and served by %v", c.stat, p.stat("cluster.web.outlier_detection."+c.stat), got)
			}
			p.waitNone("cluster.web.outlier_detection.ejections_active")
		})
	}
	t.Run("but always one", func(t *testing.T) {
		bad := newPatient(t, "bad")
		bad.other.Store(500)
		cl := cluster("web", bad.addr, newPatient(t, "good").addr)
		cl.Outlier = ejecting(func(o *config.Outlier) { o.Consecutive5xx, o.MaxEjectionPercent, o.AlwaysEjectOne = 3, 0, true })
		p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
		p.settled(10, only("good"))
	})
}

// TestStaleConnectionsAreNoFailures: a host that closes idle connections just when they are used again is not held responsible.
func TestStaleConnectionsAreNoFailures(t *testing.T) {
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		answer(conn, "ok")
		_, _ = r.Peek(1)
		_ = conn.(*net.TCPConn).SetLinger(0)
	})
	cl := cluster("web", backend)
	cl.Outlier = ejecting(func(o *config.Outlier) {
		o.Consecutive5xx, o.ConsecutiveGateway, o.ConsecutiveLocal, o.MaxEjectionPercent = 1, 1, 1, 100
	})
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, oneLoop)
	conn := p.dial()
	r := bufio.NewReader(conn)
	for i := range 10 {
		_, _ = io.WriteString(conn, get)
		if resp, body := readResponse(t, r, "GET"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("request %d: %s %q", i, resp.Status, body)
		}
	}
	p.waitNone("cluster.web.outlier_detection.ejections_enforced_total")
}

// TestCheckThatDoesNotEndAnEjection: where a passed check is not to count, an ejected host stays out.
func TestCheckThatDoesNotEndAnEjection(t *testing.T) {
	good, bad := newPatient(t, "good"), newPatient(t, "bad")
	bad.other.Store(500)
	cl := cluster("web", good.addr, bad.addr)
	cl.HealthCheck = readiness()
	cl.Outlier = ejecting(func(o *config.Outlier) { o.Consecutive5xx, o.KeepOnCheck = 3, true })
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
	p.settled(10, only("good"))
	bad.other.Store(200)
	passed := p.stat("cluster.web.health_check.success")
	for range 300 {
		if p.stat("cluster.web.health_check.success") != passed {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.waitFlags(bad.addr, "/failed_outlier_check")
	p.settled(10, only("good"))
}

// TestChecksOfEveryKindFindTheSick has a row for each way in which a host fails a check.
func TestChecksOfEveryKindFindTheSick(t *testing.T) {
	tcp := func(h *config.HealthCheck) {
		h.HTTP, h.TCP = nil, &config.TCPCheck{Send: []byte("ping"), Receive: [][]byte{[]byte("po"), []byte("ng")}}
	}
	web := func(said string) func(conn net.Conn, r *bufio.Reader) {
		return func(conn net.Conn, r *bufio.Reader) {
			for readHead(r) != "" {
				_, _ = io.WriteString(conn, said)
			}
		}
	}
	raw := func(said string) func(conn net.Conn, r *bufio.Reader) {
		return func(conn net.Conn, r *bufio.Reader) {
			_, _ = io.ReadFull(r, make([]byte, 4))
			_, _ = io.WriteString(conn, said)
			_, _ = io.Copy(io.Discard, r)
		}
	}
	for _, c := range []struct {
		name   string
		serve  func(conn net.Conn, r *bufio.Reader)
		change func(*config.HealthCheck)
		flags  string
	}{
		{"well", web("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), nil, "healthy"},
		{"another status", web("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"), nil, "/failed_active_hc"},
		{"another status that is expected", web("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"), func(h *config.HealthCheck) {
			h.HTTP.Expected = []config.StatusRange{{From: 404, To: 405}}
		}, "healthy"},
		{"redirects", web("HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), nil, "/failed_active_hc"},
		{"no HTTP", web("garbage\r\n\r\n"), nil, "/failed_active_hc"},
		{"silent", func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) }, func(h *config.HealthCheck) { h.Timeout = 20 * time.Millisecond }, "/failed_active_hc/active_hc_timeout"},
		{"stops within a head", func(conn net.Conn, r *bufio.Reader) {
			readHead(r)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: ")
			_, _ = io.Copy(io.Discard, r)
		}, func(h *config.HealthCheck) { h.Timeout = 20 * time.Millisecond }, "/failed_active_hc/active_hc_timeout"},
		{"degraded", web("HTTP/1.1 200 OK\r\nX-Envoy-Degraded: 1\r\nContent-Length: 0\r\n\r\n"), nil, "/degraded_active_hc"},
		{"TCP", raw("..po..ng"), tcp, "healthy"},
		{"TCP, the wrong words", raw("ng po"), func(h *config.HealthCheck) { tcp(h); h.Timeout = 20 * time.Millisecond }, "/failed_active_hc/active_hc_timeout"},
		{"TCP, hangs up", func(net.Conn, *bufio.Reader) {}, tcp, "/failed_active_hc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := rawBackend(t, c.serve)
			cl := cluster("web", addr)
			cl.HealthCheck = readiness()
			if c.change != nil {
				c.change(cl.HealthCheck)
			}
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
			p.waitFlags(addr, c.flags)
		})
	}
}

// TestDegradedHostsAreTheReserve: a host that calls itself degraded gets requests when too few others are healthy. Three of four are
// enough: they stand for 1.4 times their number.
func TestDegradedHostsAreTheReserve(t *testing.T) {
	worn := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Envoy-Degraded", "1")
		if r.URL.Path != "/ready" {
			_, _ = io.WriteString(w, "worn")
		}
	})
	addrs, good := []string{worn}, []*patient(nil)
	for range 3 {
		g := newPatient(t, "good")
		good, addrs = append(good, g), append(addrs, g.addr)
	}
	cl := cluster("web", addrs...)
	cl.HealthCheck, cl.PanicThreshold = readiness(), 0
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, nil)
	p.waitFlags(worn, "/degraded_active_hc")
	p.settled(20, only("good"))
	for _, g := range good {
		g.ready.Store(503)
	}
	p.settled(20, only("worn"))
	for _, g := range good {
		g.ready.Store(200)
	}
	p.settled(20, only("good"))
}

// TestRemovedHostsAndNewOnes: the two settings that have discovery go before checks.
func TestRemovedHostsAndNewOnes(t *testing.T) {
	a, b := newPatient(t, "a"), newPatient(t, "b")
	l := []*config.Listener{httpConfig(freeAddr(t), plain("web"))}
	hosts := func(drop, skip bool, addrs ...string) *config.Cluster {
		c := cluster("web", addrs...)
		c.HealthCheck, c.DropRemoved, c.SkipUnchecked = readiness(), drop, skip
		return c
	}
	p := start(t, &config.Config{Listeners: l, Clusters: clusters(hosts(true, true, a.addr, b.addr))}, nil)
	p.settled(20, func(got map[string]int) bool { return got["a"] > 0 && got["b"] > 0 })
	p.config.Set(&config.Config{Version: "2", Listeners: l, Clusters: clusters(hosts(true, true, a.addr))})
	p.settled(20, only("a")) // b passes its checks and is out all the same
	if strings.Contains(p.adminGet("/clusters"), b.addr) {
		t.Error("the removed host is still there")
	}
	unchecked := rawBackend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	p.config.Set(&config.Config{Version: "3", Listeners: l, Clusters: clusters(hosts(true, true, a.addr, unchecked))})
	p.waitFlags(unchecked, "/failed_active_hc/pending_active_hc")
	p.settled(20, only("a"))
	if n := p.stat("cluster.web.membership_excluded"); n != "1" && n != "missing" {
		t.Errorf("membership_excluded is %s", n)
	}
	p.waitStat("cluster.web.membership_healthy", fmt.Sprint(1))
}
