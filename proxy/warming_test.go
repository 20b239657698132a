package proxy_test

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// silent is a host that answers no check before the test ends, and requests at once.
func silent(t *testing.T) string {
	hang := make(chan struct{})
	addr := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "silent")
	})
	t.Cleanup(func() { close(hang) }) // before the server, which waits for its requests
	return addr
}

// TestWarmingIsBounded: a cluster whose checks do not end is used all the same after a while, and what was not checked is unhealthy.
func TestWarmingIsBounded(t *testing.T) {
	good := newPatient(t, "good")
	c := cluster("web", good.addr, silent(t))
	c.HealthCheck = readiness()
	c.HealthCheck.Timeout = time.Hour
	addr := freeAddr(t)
	given := watch.New[*config.Config](nil)
	p := start(t, &config.Config{}, func(o *proxy.Options) { o.Config = given })
	p.WarmFor(100 * time.Millisecond)
	given.Set(&config.Config{Listeners: []*config.Listener{httpConfig(addr, plain("web"))}, Clusters: clusters(c)})
	p.addr = addr
	p.waitBound(addr)
	p.waitStat("server.live", "1")
	p.waitStat("cluster.web.health_check.warming_timeout", "1")
	p.settled(20, only("good"))
}

// TestColdClustersHoldBackOnlyWhatLeadsToThem: while a cluster is not checked yet, listeners that do not lead to it come, change
// and go as they should.
func TestColdClustersHoldBackOnlyWhatLeadsToThem(t *testing.T) {
	cold := cluster("cold", silent(t))
	cold.HealthCheck = readiness()
	cold.HealthCheck.Timeout = time.Hour
	named := func(name, cluster string) *config.Listener {
		l := httpConfig(freeAddr(t), plain(cluster))
		l.Name = name
		return l
	}
	moves, stays, goes, comes := named("moves", "old"), named("stays", "old"), named("goes", "old"), named("comes", "new")
	a, b := newPatient(t, "old"), newPatient(t, "new")
	p := start(t, &config.Config{Listeners: []*config.Listener{goes, moves, stays}, Clusters: clusters(cluster("old", a.addr))}, nil)
	on := func(l *config.Listener, who string) {
		t.Helper()
		p.addr = l.Addresses[0]
		p.settled(5, only(who))
	}
	to := func(l *config.Listener, cluster string) *config.Listener {
		next := *l
		http := *l.HTTP
		http.Routes = &config.RouteTable{Name: "next", VirtualHosts: []*config.VirtualHost{plain(cluster)}}
		next.HTTP = &http
		return &next
	}
	for _, l := range []*config.Listener{moves, stays, goes} {
		p.waitBound(l.Addresses[0])
		on(l, "old")
	}
	p.config.Set(&config.Config{
		Version: "2", Listeners: []*config.Listener{comes, to(moves, "new"), to(stays, "cold")}, Clusters: clusters(cluster("new", b.addr), cold),
	})
	p.waitBound(comes.Addresses[0])
	on(comes, "new")
	on(moves, "new")
	on(stays, "old") // whose cluster has gone from the configuration
	if conn, err := net.Dial("tcp", goes.Addresses[0].String()); err == nil {
		conn.Close()
		t.Error("the listener that was removed is there")
	}
}
