package registry_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

func TestGuardReleases(t *testing.T) {
	half := func(t *testing.T) (*guarded, registry.View) {
		g := startGuarded(t, registry.Guard{}, 10, "web", "zzz")
		v := without(g.base, "web-0", "web-1", "web-2", "web-3", "web-4")
		g.publish(v)
		g.want(t, "half has left", 20, 5)
		return g, v
	}
	t.Run("what is repeated, in silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, _ := half(t)
			time.Sleep(guardTime - time.Second)
			g.want(t, "before its time", 20, 5)
			time.Sleep(time.Second)
			g.want(t, "after its time", 15, 0)
			if s := g.catalog.Sources()[0]; s.Released["repeated by the registry"] != 5 {
				t.Errorf("released %v", s.Released)
			}
		})
	})
	t.Run("not while the registry is away, and from the start when it is back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, v := half(t)
			time.Sleep(guardTime - time.Second)
			g.fail(errors.New("connection reset"))
			time.Sleep(time.Hour)
			g.want(t, "an hour away", 20, 5)
			g.publish(v)
			time.Sleep(guardTime - time.Second)
			g.want(t, "back", 20, 5)
			time.Sleep(time.Second)
			g.want(t, "after its time", 15, 0)
		})
	})
	t.Run("nor while it talks nonsense", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, v := half(t)
			time.Sleep(guardTime - time.Second)
			g.publish(view(1, "web", "api"))
			time.Sleep(time.Hour)
			g.want(t, "an hour of nonsense", 20, 5)
			g.publish(v)
			time.Sleep(guardTime)
			g.want(t, "after its time", 15, 0)
		})
	})
	t.Run("what is replaced", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, v := half(t)
			time.Sleep(30 * time.Second)
			v = with(v, "web", instance("new-0", "10.1.0.1", registry.Healthy), instance("new-1", "10.1.0.2", registry.Unhealthy))
			g.publish(v)
			g.want(t, "one serves, one does not yet", 21, 4)
			g.publish(changed(v, registry.Healthy, "new-1"))
			g.want(t, "both do", 20, 3)
		})
	})
	t.Run("what is proved", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g, _ := half(t)
			doubts, more := g.catalog.Doubts()
			at := doubts[0].Connect[0]
			prove := func(proxy string, connected bool) { g.catalog.Prove(proxy, at, connected) }
			prove("a", false)
			prove("a", false)
			g.want(t, "one proxy, twice", 20, 5)
			prove("b", true)
			prove("c", false)
			g.want(t, "one of three connects", 20, 5)
			time.Sleep(20 * time.Second)
			prove("b", true)
			time.Sleep(20 * time.Second)
			prove("b", false)
			g.want(t, "the others' word is old", 20, 5)
			g.catalog.Prove("c", netip.MustParseAddrPort("192.0.2.7:1"), false)
			select {
			case <-more:
				t.Error("the doubts changed")
			default:
			}
			prove("c", false)
			g.want(t, "two cannot connect, none can", 19, 4)
			<-more
			if doubts, _ := g.catalog.Doubts(); doubts[0].Connect[0] == at || doubts[0].Source != "dc1" || doubts[0].Endpoint.Doubt == nil {
				t.Errorf("%+v is doubted", doubts[0])
			}
			if s := g.catalog.Sources()[0]; s.Released["proved by proxies"] != 1 {
				t.Errorf("released %v", s.Released)
			}
		})
	})
	t.Run("few services that lost their last endpoint together", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 1, services(20)...)
			g.publish(without(g.base, "s003"))
			time.Sleep(100 * time.Millisecond)
			g.publish(without(g.base, "s003", "s007"))
			time.Sleep(time.Second)
			g.want(t, "two at once", 20, 2)
			if s := g.catalog.Sources()[0]; s.DoubtReason != "2 services lost their last endpoint within 100ms" {
				t.Errorf("because %q", s.DoubtReason)
			}
			time.Sleep(9 * time.Second)
			g.want(t, "after the window", 18, 0)
		})
	})
}

// Addresses are used again: who calls a service must not reach an instance of another.
func TestGuardReleasesWhatAnotherServiceTakesThePlaceOf(t *testing.T) {
	start := func(t *testing.T) *guarded {
		g := startGuarded(t, registry.Guard{}, 4, "api", "web")
		g.base = with(without(g.base, "api-0", "api-1", "api-2", "api-3"), "api",
			instance("api-0", "10.1.0.1", registry.Healthy), instance("api-1", "10.1.0.2", registry.Healthy))
		g.publish(g.base)
		time.Sleep(2 * guardTime)
		return g
	}
	t.Run("one address of two", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := start(t)
			v := without(g.base, "api-0", "api-1")
			g.publish(v)
			g.want(t, "two are gone", 6, 2)
			v = with(v, "web", instance("web-4", "10.1.0.2", registry.Unhealthy))
			g.publish(v)
			g.want(t, "one address is another service's", 6, 1)
			if s := g.catalog.Sources()[0]; s.Released["another service has its address and port"] != 1 {
				t.Errorf("released %v", s.Released)
			}
			if doubts, _ := g.catalog.Doubts(); doubts[0].Endpoint.ID != "api-0" {
				t.Errorf("%+v is doubted, want the other", doubts[0].Endpoint)
			}
		})
	})
	t.Run("one that had the place all along takes nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := start(t)
			g.base = with(g.base, "web", instance("web-4", "10.1.0.1", registry.Healthy), instance("web-5", "10.1.0.2", registry.Healthy))
			g.publish(g.base)
			time.Sleep(time.Minute)
			v := without(g.base, "api-0", "api-1")
			g.publish(v)
			g.want(t, "two are gone", 8, 2)
			g.publish(changed(v, registry.Unhealthy, "web-4"))
			g.want(t, "something else changed", 8, 2)
			g.publish(registry.View{})
			g.want(t, "all are", 8, 8)
			g.publish(v)
			g.want(t, "one service is back before the other", 8, 2)
			g.publish(with(without(v, "web-4"), "web", instance("web-9", "10.1.0.1", registry.Healthy)))
			g.want(t, "nor one that has another ID now", 8, 2)
		})
	})
	t.Run("a service that is renamed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 4, "web")
			g.publish(view(4, "shop"))
			g.want(t, "under its new name alone", 4, 0)
			g.publish(registry.View{})
			g.want(t, "empty", 4, 4)
			g.publish(view(4, "zoo"))
			g.want(t, "renamed later", 4, 0)
		})
	})
}

func TestGuardDoesNotTakeProofsItIsToldNotTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(t, registry.Guard{Proofs: -1}, 10, "web")
		g.publish(without(g.base, "web-0", "web-1", "web-2", "web-3", "web-4"))
		synctest.Wait()
		if doubts, _ := g.catalog.Doubts(); len(doubts[0].Connect) != 0 {
			t.Errorf("proxies are to try %v", doubts[0].Connect)
		}
		for _, proxy := range services(20) {
			g.catalog.Prove(proxy, netip.MustParseAddrPort("10.0.0.1:8080"), false)
		}
		g.want(t, "twenty proofs", 10, 5)
	})
}

// Deploys replace everything, in whatever order, and nothing of it is doubted in the end.
func TestDeploysPass(t *testing.T) {
	fresh := func(n int, health registry.Health) (all []*registry.Endpoint) {
		for i := range n {
			all = append(all, instance(fmt.Sprintf("x-%d", i), fmt.Sprintf("10.2.0.%d", i+1), health))
		}
		return all
	}
	old := []string{"web-0", "web-1", "web-2", "web-3"}
	t.Run("start, then stop", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 4, "web")
			green := with(g.base, "web", fresh(4, registry.Unhealthy)...)
			g.publish(green)
			time.Sleep(time.Minute)
			green = changed(green, registry.Healthy, "x-0", "x-1", "x-2", "x-3")
			g.publish(green)
			time.Sleep(5 * time.Second)
			g.publish(without(green, old...))
			g.want(t, "all at once", 4, 0)
		})
	})
	t.Run("in one view", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 4, "web")
			g.publish(without(with(g.base, "web", fresh(4, registry.Unknown)...), old...))
			g.want(t, "at once", 4, 0)
		})
	})
	t.Run("stop, then start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 4, "web")
			stopped := without(g.base, old...)
			g.publish(stopped)
			g.want(t, "stopped", 4, 4)
			time.Sleep(20 * time.Second)
			g.publish(with(stopped, "web", fresh(4, registry.Unknown)...))
			g.want(t, "started", 4, 0)
		})
	})
	t.Run("one after the other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 4, "web")
			v := g.base
			for i, e := range fresh(4, registry.Healthy) {
				v = without(v, old[i])
				g.publish(v)
				time.Sleep(time.Second)
				v = with(v, "web", e)
				g.publish(v)
				g.want(t, "replaced", 4, 0)
				time.Sleep(time.Second)
			}
		})
	})
	t.Run("what replaces nothing: it leaves again itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := startGuarded(t, registry.Guard{}, 4, "web")
			more := with(g.base, "web", fresh(4, registry.Healthy)...)
			g.publish(more)
			time.Sleep(time.Second)
			g.publish(g.base)
			g.want(t, "half has left", 8, 4)
		})
	})
}
