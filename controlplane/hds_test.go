package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	proxyxds "github.com/hostmesh/hostmesh/proxy/xds"
	"github.com/hostmesh/hostmesh/registry"
)

// TestProxiesProveThatEndpointsAreGone: a registry loses four of seven endpoints. Three are really gone, which two
// proxies find out; the fourth still takes connections, and stays.
func TestProxiesProveThatEndpointsAreGone(t *testing.T) {
	live, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	whole := registry.View{Services: []*registry.Service{{
		Name: registry.Name{Namespace: "default", Name: "web"}, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
	}}}
	web := whole.Services[0]
	for i := range 7 {
		addr := live.Addr().String()
		if i > 0 {
			addr = freeAddr(t)
		}
		at := netip.MustParseAddrPort(addr)
		web.Endpoints = append(web.Endpoints, &registry.Endpoint{
			ID: fmt.Sprintf("web-%d", i), Addr: at.Addr(), Ports: []registry.EndpointPort{{Number: at.Port()}}, Weight: 1,
		})
	}
	half := *web
	half.Endpoints = web.Endpoints[4:]

	views := given{make(chan registry.View)}
	catalog, err := registry.NewCatalog([]registry.Source{{Name: "dc1", Kind: "given", Registry: views}}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	xdsAddr := freeAddr(t)
	server, err := controlplane.New(controlplane.Options{Domain: "mesh.internal", Catalog: catalog, Log: log, XDS: []string{xdsAddr}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	run := func(what string, run func(context.Context) error) {
		running.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("run %s: %v", what, err)
			}
		})
	}
	defer running.Wait()
	defer cancel()
	run("catalog", catalog.Run)
	run("server", server.Run)
	for _, id := range []string{"host-1", "host-2"} {
		client, err := proxyxds.New(proxyxds.Options{Bootstrap: &proxyxds.Bootstrap{Control: xdsAddr, Node: proxyxds.Node{ID: id}}, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		run(id, client.Run)
	}

	views.views <- whole
	views.views <- registry.View{Services: []*registry.Service{&half}}
	eventually(t, "4 of 7 are doubted", func() bool { s := catalog.Sources()[0]; return s.Endpoints == 7 && s.Doubted == 4 })
	deadline := time.After(30 * time.Second)
	for {
		doubts, changed := catalog.Doubts()
		if len(doubts) == 1 {
			if doubts[0].Endpoint.ID != "web-0" {
				t.Errorf("%s stays doubted, want the one that takes connections", doubts[0].Endpoint.ID)
			}
			break
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("still doubted: %+v", doubts)
		}
	}
	want := []string{"web-0", "web-4", "web-5", "web-6"}
	for {
		snapshot, changed := catalog.Current()
		var served []string
		for _, e := range snapshot.Service(web.Name).Endpoints {
			served = append(served, e.ID)
		}
		if slices.Equal(served, want) {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%v are served, want %v", served, want)
		}
	}
	if s := catalog.Sources()[0]; s.Released["proved by proxies"] != 3 || s.Doubted != 1 {
		t.Errorf("status %+v, want three proved", s)
	}
}
