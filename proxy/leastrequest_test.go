package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestLeastRequestCountsOverLoops: as many requests as there are hosts, begun one after the other and not answered, meet a host
// each, whichever loops their connections are on; by subsets as well.
func TestLeastRequestCountsOverLoops(t *testing.T) {
	const hosts = 12
	for _, labels := range []config.Labels{"", `{"v":1}`} {
		began, release := make(chan int, hosts), make(chan struct{})
		c := cluster("web")
		for i := range hosts {
			addr := server(t, func(http.ResponseWriter, *http.Request) { began <- i; <-release })
			c.Endpoints = append(c.Endpoints, &config.Endpoint{Addr: config.Address{IP: netip.MustParseAddrPort(addr)}, Weight: 1, Labels: labels})
		}
		c.Policy, c.Choice = config.LeastRequest, &config.Choice{All: true}
		if labels != "" {
			c.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"v"}}}}
		}
		v := plain("web")
		v.Routes[0].Clusters[0].Labels = labels
		l := []*config.Listener{httpConfig(freeAddr(t), v)}
		p := start(t, &config.Config{Listeners: l, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 4 })
		met := map[int]bool{}
		for i := range hosts {
			_, _ = io.WriteString(p.dial(), "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
			met[<-began] = true
			if i == hosts/2 { // what is counted survives an update
				next := *c
				next.MaxRequests = 77
				p.config.Set(&config.Config{Version: "2", Listeners: l, Clusters: clusters(&next)})
				p.waitStat("cluster.web.upstream_rq_active", fmt.Sprint(i+1))
			}
		}
		if len(met) != hosts {
			t.Errorf("%d requests met %d hosts", hosts, len(met))
		}
		close(release)
		p.waitStat("cluster.web.upstream_rq_active", "0")
		p.stop()
	}
}
