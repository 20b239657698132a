package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// versions is a cluster of back ends with a label each, and routes by host to each label.
func versions(t *testing.T, n int) (*config.Cluster, []*config.VirtualHost) {
	t.Helper()
	c := cluster("web")
	c.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"v"}}}, Fallback: config.FallbackAny}
	var vhosts []*config.VirtualHost
	for i := range n {
		addr := server(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) })
		label := config.Labels(fmt.Sprintf(`{"v":"%d"}`, i%3))
		c.Endpoints = append(c.Endpoints, &config.Endpoint{Addr: config.Address{IP: netip.MustParseAddrPort(addr)}, Weight: 1, Labels: label})
		if i < 3 {
			v := vhost(fmt.Sprintf("v%d.mesh.internal", i), "web")
			v.Routes[0].Clusters[0].Labels = label
			vhosts = append(vhosts, v)
		}
	}
	return c, append(vhosts, vhost("web.mesh.internal", "web"))
}

func TestSubsetsServeRoutes(t *testing.T) {
	for _, policy := range []config.Policy{config.RoundRobin, config.LeastRequest, config.Random, config.RingHash, config.Maglev} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			c, vhosts := versions(t, 6)
			c.Policy = policy
			l := httpConfig(freeAddr(t), vhosts...)
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
			for v := range 3 {
				for range 10 {
					if status, body, err := p.get(http.DefaultClient, fmt.Sprintf("v%d.mesh.internal", v), "/"); err != nil || status != 200 || body != fmt.Sprint(v) && body != fmt.Sprint(v+3) {
						t.Errorf("version %d was answered %d %q, %v", v, status, body, err)
					}
				}
			}
			if got := p.served(30); len(got) < 4 {
				t.Errorf("without a version: %v", got)
			}
			for name, want := range map[string]string{"lb_subsets_selected": "30", "lb_subsets_fallback": "30", "lb_subsets_fallback_panic": "0", "lb_subsets_active": "3", "lb_subsets_created": "3"} {
				if got := p.stat("cluster.web." + name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			// A version loses its hosts: its requests fall back, and the others notice nothing.
			next := *c
			next.Endpoints = []*config.Endpoint{c.Endpoints[0], c.Endpoints[1], c.Endpoints[3], c.Endpoints[4]}
			p.config.Set(&config.Config{Version: "2", Listeners: []*config.Listener{l}, Clusters: clusters(&next)})
			p.waitStat("cluster.web.lb_subsets_active", "2")
			p.waitStat("cluster.web.membership_total", "4")
			if status, body, err := p.get(http.DefaultClient, "v2.mesh.internal", "/"); err != nil || status != 200 || body == "2" || body == "5" {
				t.Errorf("the version that is gone was answered %d %q, %v", status, body, err)
			}
			if status, body, err := p.get(http.DefaultClient, "v1.mesh.internal", "/"); err != nil || status != 200 || body != "1" && body != "4" {
				t.Errorf("version 1 was answered %d %q, %v", status, body, err)
			}
		})
	}
}

// TestSubsetsShareConnections: a host has one pool, whichever subset leads to it.
func TestSubsetsShareConnections(t *testing.T) {
	c, vhosts := versions(t, 1)
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhosts...)}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	for range 5 {
		for _, host := range []string{"v0.mesh.internal", "web.mesh.internal"} {
			if status, body, err := p.get(http.DefaultClient, host, "/"); err != nil || status != 200 || body != "0" {
				t.Fatalf("%d %q, %v", status, body, err)
			}
		}
	}
	if n := p.stat("cluster.web.upstream_cx_total"); n != "1" {
		t.Errorf("%s connections for one host", n)
	}
}

func TestNoSubsetNoHost(t *testing.T) {
	c, vhosts := versions(t, 1)
	c.Subsets.Fallback = config.FallbackNone
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhosts...)}, Clusters: clusters(c)}, nil)
	if got := p.served(3); got["503"] != 3 {
		t.Errorf("got %v", got)
	}
	if n := p.stat("cluster.web.upstream_cx_none_healthy"); n != "3" {
		t.Errorf("upstream_cx_none_healthy is %s", n)
	}
}

// TestSubsetsOfTCP: a connection that is passed on as it is goes to hosts with its labels too, and a retry stays among them.
func TestSubsetsOfTCP(t *testing.T) {
	c := cluster("web", freeAddr(t).String())
	for i := range 4 {
		addr := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) { fmt.Fprint(conn, i) })
		c.Endpoints = append(c.Endpoints, &config.Endpoint{Addr: config.Address{IP: netip.MustParseAddrPort(addr)}, Weight: 1})
	}
	for i, e := range c.Endpoints {
		e.Labels = config.Labels(fmt.Sprintf(`{"v":"%d"}`, i/2)) // the dead one and the first are version 0
	}
	c.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"v"}}}}
	l := &config.Listener{Name: "tcp", Addresses: []netip.AddrPort{freeAddr(t)}, TCP: &config.TCP{StatPrefix: "tcp", Attempts: 3, Clusters: []config.WeightedCluster{{Name: "web", Weight: 1, Labels: `{"v":"0"}`}}}}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
	for range 10 {
		if got := p.raw(""); got != "0" {
			t.Errorf("answered by %q", got)
		}
	}
}

func TestSubsetsAllocateNothing(t *testing.T) {
	c, vhosts := versions(t, 0)
	c.Endpoints = []*config.Endpoint{{Addr: config.Address{IP: netip.MustParseAddrPort(fixed(t))}, Weight: 1, Labels: `{"v":"0"}`}}
	vhosts[0].Routes[0].Clusters[0].Labels = `{"v":"0"}`
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhosts...)}, Clusters: clusters(c)}, func(o *proxy.Options) { o.AccessLog, o.Loops = io.Discard, 1 })
	if n := allocations(t, p, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n"); n > .05 {
		t.Errorf("%v allocations for a request", n)
	}
}
