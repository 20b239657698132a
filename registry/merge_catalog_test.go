package registry_test

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hostmesh/hostmesh/registry"
)

// TestSetRulesMovesARunningService moves one service between two sources while the catalog runs.
func TestSetRulesMovesARunningService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := make(script), make(script)
		c := newCatalog(t, registry.Options{}, source("old", a), source("new", b))
		defer start(t, c)()
		moved := view(2, "api", "orders")
		for _, s := range moved.Services {
			for _, e := range s.Endpoints {
				e.Ports = []registry.EndpointPort{{Number: 9090}}
			}
		}
		a.publish(view(2, "api", "orders"))
		b.publish(moved)
		for s, changed := c.Current(); len(s.Services) == 0 || len(s.Services[0].Endpoints) < 4; s, changed = c.Current() {
			<-changed
		}
		orders := registry.Name{Namespace: registry.DefaultNamespace, Name: "orders"}
		for _, step := range []struct {
			weights         map[string]uint32
			active, standby int
		}{
			{map[string]uint32{"old": 90, "new": 10}, 4, 0},
			{map[string]uint32{"old": 0, "new": 100}, 2, 2},
			{map[string]uint32{"old": 90, "new": 10}, 4, 0},
		} {
			before, changed := c.Current()
			rules := registry.Rules{Services: map[registry.Name]registry.Rule{orders: {Weights: step.weights}}}
			if err := c.SetRules(rules); err != nil {
				t.Fatal(err)
			}
			want := step.weights["old"]
			step.weights["old"] = 7 // the catalog has its own copy
			<-changed
			now := current(c)
			if now.Services[0] != before.Services[0] {
				t.Error("api has another pointer, its rule did not change")
			}
			s := now.Services[1]
			if len(s.Endpoints) != step.active || len(s.Standby) != step.standby || s.Ports[0].Number != 80 {
				t.Errorf("old has weight %d: %d active, %d standby, ports %v", want, len(s.Endpoints), len(s.Standby), s.Ports)
			}
		}
		before := current(c)
		err := c.SetRules(registry.Rules{Default: registry.Rule{Failover: []string{"old", "older"}}})
		if err == nil || !strings.Contains(err.Error(), `merge.default.failover[1]: got "older", want one of old, new`) {
			t.Errorf("SetRules: %v, want the place of the mistake", err)
		}
		synctest.Wait()
		if current(c) != before {
			t.Error("rules that were refused made a snapshot")
		}
	})
}

// TestSetRulesFromManyGoroutines wants the last of many to count, whatever the views do meanwhile.
func TestSetRulesFromManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := make(script), make(script)
		c := newCatalog(t, registry.Options{}, source("a", a), source("b", b))
		defer start(t, c)()
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for n := range 20 {
					prefer := registry.Rule{Prefer: []string{"a", "b"}[(i+n)%2:][:1]}
					if err := c.SetRules(registry.Rules{Default: prefer}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Go(func() {
			for n := range 20 {
				a.publish(view(1+n%2, "web"))
			}
		})
		all.Go(func() {
			for range 20 {
				b.publish(view(3, "web"))
			}
		})
		all.Wait()
		if err := c.SetRules(registry.Rules{Default: registry.Rule{Prefer: []string{"b"}}}); err != nil {
			t.Fatal(err)
		}
		for {
			snapshot, changed := c.Current()
			if s := snapshot.Services; len(s) == 1 && len(s[0].Endpoints) == 3 {
				return // what b has; a, which has some of that too, has two at most
			}
			<-changed // there will be none if the last rules are lost, and the test ends with all asleep
		}
	})
}

// TestHostsOfOneSourcePlaceEndpointsOfAnother wants a change of hosts alone to make a snapshot, and the seal to have them.
func TestHostsOfOneSourcePlaceEndpointsOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, hosts := make(script), make(script)
		c := newCatalog(t, registry.Options{StateDir: dir}, source("a", a), source("hosts", hosts))
		stop := start(t, c)
		defer func() { stop() }()
		await := func(c *registry.Catalog, host string) {
			t.Helper()
			for {
				snapshot, changed := c.Current()
				if s := snapshot.Services; len(s) == 1 && s[0].Endpoints[0].Host == host {
					return
				}
				<-changed // never, and the test ends with all asleep, if the host does not come
			}
		}
		at := netip.MustParseAddr("10.0.0.1")
		a.publish(view(1, "web"))
		await(c, "")
		hosts.publish(registry.View{Hosts: []registry.Host{{ID: "h1", Addrs: []netip.Addr{at}}}})
		await(c, "h1")
		hosts.publish(registry.View{Hosts: []registry.Host{{ID: "h1", Addrs: []netip.Addr{at}, Dead: true}, {ID: "h2", Addrs: []netip.Addr{at}}}})
		await(c, "h2")
		three := []registry.Host{{ID: "h1", Dead: true}, {ID: "h2", Addrs: []netip.Addr{at}}, {ID: "h3", Addrs: []netip.Addr{at.Next()}}}
		before, changed := c.Current()
		hosts.publish(registry.View{Hosts: three})
		<-changed // hosts alone make a snapshot
		if s := current(c); len(s.Hosts) != 3 || s.Hosts[2].ID != "h3" || s.Services[0] != before.Services[0] {
			t.Errorf("the snapshot has the hosts %v", s.Hosts)
		}
		hosts.publish(registry.View{Hosts: []registry.Host{{ID: ""}}})
		synctest.Wait()
		await(c, "h2")
		if s := c.Sources()[1]; s.RefusedViews != 1 || !strings.Contains(s.Error, "no ID") {
			t.Errorf("%+v, want the view with a nameless host refused", s)
		}
		stop()
		again := newCatalog(t, registry.Options{StateDir: dir}, source("a", make(script)), source("hosts", make(script)))
		stop = start(t, again)
		await(again, "h2")
	})
}
