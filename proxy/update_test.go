package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// hostStat is a figure of a host in /clusters.
func (p *testProxy) hostStat(addr, name string) string {
	p.t.Helper()
	for line := range strings.Lines(p.adminGet("/clusters")) {
		if rest, ok := strings.CutPrefix(line, "web::"+addr+"::"+name+"::"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "missing"
}

// TestHostsSurviveUpdates: a cluster changes again and again, in its settings, its weights, the order of its hosts and its other
// hosts. Those that stay keep their connections, what they are busy with, their counts and their ejection.
func TestHostsSurviveUpdates(t *testing.T) {
	release := make(chan struct{})
	busy := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(w, "busy")
	})
	bad := newPatient(t, "bad")
	bad.other.Store(500)
	other := newPatient(t, "other")
	version := func(i int) *config.Config {
		addrs := []string{busy, bad.addr}
		if i%2 == 1 {
			addrs = []string{bad.addr, busy}
		}
		if i%3 == 1 {
			addrs = append(addrs, other.addr)
		}
		c := cluster("web", addrs...)
		for j, e := range c.Endpoints {
			e.Weight, e.Locality.Zone, e.Labels = uint32(1+(i+j)%3), fmt.Sprint(i%4), config.Labels(fmt.Sprintf(`{"i":%d}`, i))
		}
		c.Policy, c.MaxRequests = config.Policy(i%5), uint32(1000+i)
		c.Outlier = &config.Outlier{
			Interval: time.Hour, BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour, MaxEjectionPercent: 50, Consecutive5xx: 3, Enforce5xx: 100, EnforceGateway: uint32(i % 100),
		}
		if i%7 == 3 {
			c.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"i"}}}, Fallback: config.FallbackAny}
		}
		return &config.Config{Version: fmt.Sprint(i), Clusters: clusters(c)}
	}
	l := []*config.Listener{httpConfig(freeAddr(t), plain("web"))}
	first := version(0)
	first.Listeners = l
	p := start(t, first, func(o *proxy.Options) { o.Loops = 1 })
	p.settled(10, only("busy"))
	p.waitFlags(bad.addr, "/failed_outlier_check")
	slow := p.dial()
	_, _ = io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
	for p.hostStat(busy, "rq_active") != "1" {
		time.Sleep(time.Millisecond)
	}
	p.served(3)
	conns := p.hostStat(busy, "cx_total")
	for i := 1; i <= 40; i++ {
		next := version(i)
		next.Listeners = l
		p.config.Set(next)
		for !strings.Contains(p.adminGet("/clusters"), fmt.Sprintf("max_requests::%d\n", 1000+i)) {
			time.Sleep(time.Millisecond)
		}
		if got := p.served(3); got["500"] > 0 || got["503"] > 0 {
			t.Errorf("update %d: %v", i, got)
		}
		if flags := p.hostStat(bad.addr, "health_flags"); flags != "/failed_outlier_check" {
			t.Errorf("update %d: the ejected host is %s", i, flags)
		}
		if n := p.hostStat(busy, "rq_active"); n != "1" {
			t.Errorf("update %d: %s requests are active", i, n)
		}
	}
	if n := p.hostStat(busy, "cx_total"); n != conns {
		t.Errorf("%s connections, %s before the updates", n, conns)
	}
	close(release)
	if out := readAnswer(t, slow); !strings.HasSuffix(out, "busy") {
		t.Errorf("the request that saw all updates: %q", out)
	}
}

func readAnswer(t *testing.T, conn io.Reader) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestIdleConnectionsEnd: a pooled connection that nobody needs is closed after the cluster's idle timeout, one in use is not.
func TestIdleConnectionsEnd(t *testing.T) {
	release := make(chan struct{})
	c := cluster("web", server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	}))
	c.IdleTimeout = 20 * time.Millisecond
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	slow := p.dial()
	_, _ = io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
	p.waitStat("cluster.web.upstream_rq_active", "1")
	p.served(1)
	p.waitStat("cluster.web.upstream_cx_idle_timeout", "1")
	if n := p.stat("cluster.web.upstream_cx_active"); n != "1" {
		t.Errorf("%s connections are open, want the busy one", n)
	}
	close(release)
	if out := readAnswer(t, slow); !strings.HasSuffix(out, "ok") {
		t.Errorf("got %q", out)
	}
	p.waitStat("cluster.web.upstream_cx_idle_timeout", "2")
	p.waitStat("cluster.web.upstream_cx_active", "0")
}
