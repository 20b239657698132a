package upstream

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// TestCommonCountsEnd: what loops count together follows hosts, policies and clusters that come and go, and nothing is left of it.
func TestCommonCountsEnd(t *testing.T) {
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = l.Run(ended)
	}()
	endpoints := []*config.Endpoint{{Addr: config.Address{IP: netip.MustParseAddrPort("127.0.0.1:1")}, Weight: 1}, {Addr: config.Address{IP: netip.MustParseAddrPort("127.0.0.1:2")}, Weight: 1}}
	least := &config.Cluster{Name: "c", Policy: config.LeastRequest, Endpoints: endpoints}
	turns := &config.Cluster{Name: "c", Endpoints: endpoints}
	one := &config.Cluster{Name: "c", Policy: config.LeastRequest, Endpoints: endpoints[:1]}
	all := NewBreakers()
	loops := make([]*Cluster, 2)
	for i := range loops {
		loops[i] = New(l, 2, least, rand.New(rand.NewPCG(1, 2)))
		loops[i].Join(all)
		loops[i].Hosts()[0].busy(i + 1)
	}
	common := all.clusters["c"]
	want := func(what string, loads int, requests ...int) {
		t.Helper()
		if len(common.loads) != loads {
			t.Errorf("%s: %d common counts, want %d", what, len(common.loads), loads)
		}
		for i, n := range requests {
			if got := loops[i].Hosts()[0].requests(); got != n {
				t.Errorf("%s: loop %d sees %d requests, want %d", what, i, got, n)
			}
		}
	}
	want("together", 2, 3, 3)
	loops[0].Update(turns)
	want("one loop by turns", 2, 1, 2)
	loops[0].Update(least)
	want("together again", 2, 3, 3)
	gone := loops[0].Hosts()[1]
	gone.busy(5)
	loops[0].Update(one)
	want("a host left one loop", 2, 3, 3)
	if n := loops[1].Hosts()[1].requests(); n != 0 {
		t.Errorf("what left one loop counts %d for the other", n)
	}
	gone.busy(-5)
	loops[1].Update(one)
	want("a host left", 1, 3, 3)
	loops[0].Close()
	loops[0].Update(nil)
	want("a cluster left one loop", 1)
	loops[1].Close()
	want("all left", 0)
}
