package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// guarded is a source that a test scripts, behind a guard, in a Catalog that is asked what it serves.
type guarded struct {
	script
	catalog *registry.Catalog
	base    registry.View
}

const guardTime = 2 * time.Minute

// startGuarded serves a first view of services by name, each with n endpoints, which is long ago.
func startGuarded(t *testing.T, g registry.Guard, n int, names ...string) *guarded {
	t.Helper()
	s := make(script)
	c := newCatalog(t, registry.Options{Interval: time.Millisecond}, registry.Source{Name: "dc1", Kind: "script", Registry: s, Guard: g})
	t.Cleanup(start(t, c))
	sourced := &guarded{script: s, catalog: c, base: view(n, names...)}
	sourced.publish(sourced.base)
	time.Sleep(time.Minute)
	return sourced
}

// services returns n names that sort as they are made.
func services(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("s%03d", i))
	}
	return names
}

// without returns a view that lacks endpoints by ID and services by name, with the pointers of what stays.
func without(v registry.View, gone ...string) registry.View {
	var next registry.View
	for _, s := range v.Services {
		if slices.Contains(gone, s.Name.Name) {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(s.Endpoints), func(e *registry.Endpoint) bool { return slices.Contains(gone, e.ID) })
		if len(left) < len(s.Endpoints) {
			c := *s
			c.Endpoints, s = left, &c
		}
		next.Services = append(next.Services, s)
	}
	return next
}

// with returns a view in which a service has these endpoints too.
func with(v registry.View, service string, more ...*registry.Endpoint) registry.View {
	next := registry.View{Services: slices.Clone(v.Services)}
	for i, s := range next.Services {
		if s.Name.Name == service {
			c := *s
			c.Endpoints = append(slices.Clone(s.Endpoints), more...)
			slices.SortFunc(c.Endpoints, func(a, b *registry.Endpoint) int { return strings.Compare(a.ID, b.ID) })
			next.Services[i] = &c
		}
	}
	return next
}

func instance(id, addr string, health registry.Health) *registry.Endpoint {
	return &registry.Endpoint{
		ID: id, Addr: netip.MustParseAddr(addr), Ports: []registry.EndpointPort{{Number: 8080}}, Weight: 1, Health: health,
	}
}

// changed returns a view in which the endpoints of these IDs have that health.
func changed(v registry.View, health registry.Health, ids ...string) registry.View {
	next := registry.View{Services: slices.Clone(v.Services)}
	for i, s := range next.Services {
		c := *s
		c.Endpoints = slices.Clone(s.Endpoints)
		for j, e := range c.Endpoints {
			if slices.Contains(ids, e.ID) {
				changed := *e
				changed.Health = health
				c.Endpoints[j] = &changed
				next.Services[i] = &c
			}
		}
	}
	return next
}

// want tells what is served and doubted after everything that is due now: endpoints by ID, "?" for doubted ones.
func (g *guarded) want(t *testing.T, when string, served, doubted int) {
	t.Helper()
	time.Sleep(2 * time.Millisecond) // the catalog's interval
	synctest.Wait()
	_, n := count(g.catalog)
	doubts, _ := g.catalog.Doubts()
	status := g.catalog.Sources()[0]
	if n != served || len(doubts) != doubted || status.Doubted != doubted || status.Endpoints != served {
		t.Errorf("%s: %d endpoints are served, %d doubted (status: %d, %d, %q), want %d and %d",
			when, n, len(doubts), status.Endpoints, status.Doubted, status.DoubtReason, served, doubted)
	}
}

// An instance is not reported again by another one that has one of its ports.
func TestGuardTellsInstancesThatShareAPortApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(t, registry.Guard{}, 4, "web")
		v := view(4, "web")
		s := *v.Services[0]
		s.Ports = []registry.Port{{Name: "admin", Number: 81}, {Name: "main", Number: 80}}
		s.Endpoints = nil
		for i, e := range v.Services[0].Endpoints {
			c := *e
			c.Addr = v.Services[0].Endpoints[0].Addr
			c.Ports = []registry.EndpointPort{{Name: "admin", Number: 8081}, {Name: "main", Number: uint16(31000 + i)}}
			s.Endpoints = append(s.Endpoints, &c)
		}
		g.publish(registry.View{Services: []*registry.Service{&s}})
		time.Sleep(time.Minute)
		g.want(t, "four at one address", 4, 0)
		half := s
		half.Endpoints = s.Endpoints[:2]
		g.publish(registry.View{Services: []*registry.Service{&half}})
		g.want(t, "two of them left", 4, 2)
	})
}

func TestGuardLetsCleanRemovalsPass(t *testing.T) {
	for _, c := range []struct {
		name      string
		services  int
		endpoints int
		next      func(v registry.View) registry.View
		at        time.Duration // when it has left
		want      int
	}{
		{"one of four", 1, 4, func(v registry.View) registry.View { return without(v, "s000-1") }, 0, 3},
		{"two of ten", 1, 10, func(v registry.View) registry.View { return without(v, "s000-1", "s000-7") }, 0, 8},
		{"the only one of a service", 10, 1, func(v registry.View) registry.View { return without(v, "s004-0") }, 250 * time.Millisecond, 9},
		{"the only service of one", 1, 1, func(v registry.View) registry.View { return registry.View{} }, 250 * time.Millisecond, 0},
		{"one of two", 10, 2, func(v registry.View) registry.View { return without(v, "s004-0") }, 250 * time.Millisecond, 19},
		{"all that were unhealthy or draining", 1, 9, func(v registry.View) registry.View {
			return without(v, "s000-1", "s000-2", "s000-3", "s000-4")
		}, 0, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGuarded(t, registry.Guard{}, c.endpoints, services(c.services)...)
				if strings.HasPrefix(c.name, "all that") {
					g.base = changed(changed(g.base, registry.Unhealthy, "s000-1", "s000-2"), registry.Draining, "s000-3", "s000-4")
					g.publish(g.base)
					time.Sleep(time.Minute)
				}
				g.publish(c.next(g.base))
				if c.at > 0 {
					g.want(t, "at once", c.services*c.endpoints, 0)
					time.Sleep(c.at - 6*time.Millisecond)
					g.want(t, "just before", c.services*c.endpoints, 0)
					time.Sleep(2 * time.Millisecond)
				}
				g.want(t, "then", c.want, 0)
				if s := g.catalog.Sources()[0]; len(s.Released) != 0 {
					t.Errorf("released %v, want nothing that was ever doubted", s.Released)
				}
			})
		})
	}
}

// Half of a registry is deregistered within a second, whatever the size of its services: nothing leaves, not even for
// a moment.
func TestGuardKeepsHalfOfARegistry(t *testing.T) {
	for _, c := range []struct {
		name                 string
		endpoints            int
		views                int // the removals arrive as
		oneEndpointAtATime   bool
		services, deregister int
	}{
		{"services of one, 50 views", 1, 50, false, 100, 50},
		{"services of two, 50 views", 2, 50, false, 100, 50},
		{"services of two, endpoint by endpoint", 2, 50, true, 50, 25},
		{"services of three, endpoint by endpoint", 3, 75, true, 50, 25},
		{"services of ten, one view", 10, 1, false, 100, 50},
		{"services of one, one view", 1, 1, false, 100, 50},
		{"few services", 1, 2, false, 4, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGuarded(t, registry.Guard{}, c.endpoints, services(c.services)...)
				all := c.services * c.endpoints
				var gone []string
				for _, name := range services(c.deregister) {
					for i := range c.endpoints {
						gone = append(gone, fmt.Sprintf("%s-%d", name, i))
					}
				}
				if c.oneEndpointAtATime { // the first of each service, then the second of each, …
					slices.SortStableFunc(gone, func(a, b string) int { return strings.Compare(a[len(a)-1:], b[len(b)-1:]) })
				}
				for i := range c.views {
					v := without(g.base, gone[:len(gone)*(i+1)/c.views]...)
					v.Services = slices.DeleteFunc(v.Services, func(s *registry.Service) bool { return len(s.Endpoints) == 0 })
					g.publish(v)
					synctest.Wait()
					if _, n := count(g.catalog); n != all {
						t.Fatalf("after view %d: %d endpoints are served, want all %d", i+1, n, all)
					}
					time.Sleep(time.Second / time.Duration(c.views))
				}
				g.want(t, "after the last", all, len(gone))
				time.Sleep(time.Minute)
				g.want(t, "a minute later", all, len(gone))

				n, err := g.catalog.Accept("dc1")
				if err != nil || n != len(gone) {
					t.Errorf("Accept: %d, %v, want %d", n, err, len(gone))
				}
				g.want(t, "accepted", all-len(gone), 0)
				if s := g.catalog.Sources()[0]; s.Released["accepted by the operator"] != uint64(len(gone)) || s.DoubtReason != "" {
					t.Errorf("status %+v, want what was released counted", s)
				}
			})
		})
	}
}

// Many views that doubt are two lines of the log: when it begins, and how much it was in the end.
func TestDoubtsAreLoggedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer // written under the source's lock, and read in quiet
		s := make(script)
		c := newCatalog(t, registry.Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))},
			registry.Source{Name: "dc1", Kind: "script", Registry: s})
		t.Cleanup(start(t, c))
		s.publish(view(1, services(100)...))
		time.Sleep(time.Minute)
		for i := range 50 {
			s.publish(view(1, services(100)[i+1:]...))
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "endpoints=31") ||
			!strings.Contains(lines[1], "endpoints=19") || !strings.Contains(lines[1], "50 of 100") {
			t.Errorf("the log says\n%s", log.String())
		}
	})
}

func TestAcceptKnowsItsSources(t *testing.T) {
	c := newCatalog(t, registry.Options{}, source("a", away()))
	if _, err := c.Accept("b"); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("Accept: %v, want that there is no such registry", err)
	}
	if n, err := c.Accept("a"); n != 0 || err != nil {
		t.Errorf("Accept: %d, %v, want nothing to release", n, err)
	}
}

func TestGuardOfSenselessNumbersIsRefused(t *testing.T) {
	for _, g := range []registry.Guard{{Share: -1}, {Share: 1.1}, {Window: -1}, {Hold: -1}, {Time: -1}, {Proofs: -2}} {
		if _, err := registry.NewCatalog([]registry.Source{{Name: "a", Registry: away(), Guard: g}}, registry.Options{}); err == nil || !strings.Contains(err.Error(), "guard: got") {
			t.Errorf("%+v: %v, want it refused", g, err)
		}
	}
}

func TestGuardBringsBackWhatLeftEarlierInTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(t, registry.Guard{}, 10, "web", "zzz")
		v := g.base
		for i := range 3 {
			v = without(v, fmt.Sprintf("web-%d", i))
			g.publish(v)
			g.want(t, "few left", 19-i, 0)
			time.Sleep(2 * time.Second)
		}
		v = without(v, "web-3")
		g.publish(v)
		g.want(t, "the fourth of ten", 20, 4)
		if s := g.catalog.Sources()[0]; s.DoubtReason != "4 of 10 endpoints of the service left within 7s" || time.Since(s.DoubtedSince).Round(time.Second) != 6*time.Second {
			t.Errorf("since %v ago: %q", time.Since(s.DoubtedSince), s.DoubtReason)
		}
		// It comes back, with two of the others; one of them moved, and the other has another ID.
		moved, renamed := *g.base.Services[0].Endpoints[1], *g.base.Services[0].Endpoints[2]
		moved.Addr, renamed.ID = netip.MustParseAddr("10.0.0.200"), "other"
		g.publish(with(v, "web", g.base.Services[0].Endpoints[3], &moved, &renamed))
		g.want(t, "three are back", 20, 1)
		if s := g.catalog.Sources()[0]; s.Released["reported again"] != 3 {
			t.Errorf("released %v", s.Released)
		}
	})
}

// Health checks fail, and what reaps unhealthy instances follows: callers still use them, for they have no better ones.
func TestGuardKeepsWhatIsUnhealthyWhereNothingServes(t *testing.T) {
	for name, after := range map[string]time.Duration{"just now": 50 * time.Millisecond, "for an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGuarded(t, registry.Guard{}, 4, services(10)...)
				var all []string
				for _, s := range g.base.Services {
					for _, e := range s.Endpoints {
						all = append(all, e.ID)
					}
				}
				g.base = changed(g.base, registry.Unhealthy, all...)
				g.publish(g.base)
				time.Sleep(after)
				g.publish(without(g.base, "s001-2"))
				g.want(t, "one of four", 39, 0)
				time.Sleep(time.Second)
				g.publish(registry.View{})
				g.want(t, "all", 40, 40)
				if s := g.catalog.Sources()[0]; s.DoubtReason != "40 of 40 endpoints of the registry left within 2s" {
					t.Errorf("because %q", s.DoubtReason)
				}
			})
		})
	}
	t.Run("but not among others that serve", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 4, services(10)...)
			g.base = changed(g.base, registry.Unhealthy, "s001-0", "s001-1", "s001-2", "s002-0")
			g.publish(g.base)
			time.Sleep(time.Second)
			g.publish(without(g.base, "s002-0"))
			g.want(t, "one that served until now", 39, 0)
			g.publish(without(g.base, "s002-0", "s001-0", "s001-1", "s001-2"))
			g.want(t, "three that did, within the window", 39, 3)
			if n, err := g.catalog.Accept("dc1"); n != 3 || err != nil {
				t.Errorf("Accept: %d, %v", n, err)
			}
			g.base = changed(without(g.base, "s001", "s002"), registry.Unhealthy, "s003-0", "s003-1", "s003-2")
			g.publish(g.base)
			time.Sleep(11 * time.Second)
			n := g.catalog.Sources()[0].Endpoints
			g.publish(without(g.base, "s003-0", "s003-1", "s003-2"))
			g.want(t, "three that did long ago", n-3, g.catalog.Sources()[0].Doubted)
		})
	})
}

func TestSlowRemovalsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(t, registry.Guard{}, 1, services(8)...)
		v := g.base
		for i := range 8 {
			v = without(v, fmt.Sprintf("s%03d", i))
			g.publish(v)
			time.Sleep(time.Second)
			g.want(t, "one every 11 s", 7-i, 0)
			time.Sleep(10 * time.Second)
		}
	})
}

func TestADoubtfulServiceKeepsItsPortsAndValidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(t, registry.Guard{}, 4, "web")
		v := registry.View{Services: []*registry.Service{{
			Name: g.base.Services[0].Name, Ports: []registry.Port{{Name: "grpc", Number: 90, Protocol: registry.GRPC}},
			Endpoints: []*registry.Endpoint{{
				ID: "new", Addr: netip.MustParseAddr("10.3.0.1"), Ports: []registry.EndpointPort{{Name: "grpc", Number: 1}}, Weight: 1,
			}},
		}}}
		g.publish(v)
		g.want(t, "one replaces one", 4, 3)
		s := current(g.catalog)
		if err := (registry.View{Services: s.Services}).Validate(); err != nil {
			t.Error(err)
		}
		if e := s.Services[0].Endpoints[3]; e.ID != "web-3" || e.Port("") != 8080 || len(s.Services[0].Ports) != 2 {
			t.Errorf("%+v in %+v, want it to serve its port", e, s.Services[0])
		}
	})
}

func TestTheGuardEndsWithItsCatalog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which wants every timer's goroutine ended
		s := make(script)
		c := newCatalog(t, registry.Options{}, registry.Source{Name: "dc1", Kind: "script", Registry: s})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		s.publish(view(2, "web"))
		s.publish(view(1, "web"))
		cancel()
		<-ended
		g := &guarded{catalog: c}
		time.Sleep(time.Hour)
		if status := g.catalog.Sources()[0]; status.Endpoints != 2 {
			t.Errorf("%d endpoints, want that nothing left after the end", status.Endpoints)
		}
	})
}
