package registry_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

func TestWhatIsMissingAfterAnOutageIsDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(t, registry.Guard{}, 1, services(10)...)
		g.fail(errors.New("connection reset"))
		time.Sleep(time.Minute)
		g.publish(view(1, services(6)...))
		g.want(t, "four of ten", 10, 4)
		g.fail(errors.New("connection reset"))
		time.Sleep(time.Minute)
		v := view(1, services(9)...)
		v.Problems = []registry.Problem{{Object: "x", Reason: "unreadable", Kind: "syntax"}}
		g.publish(v)
		g.want(t, "one of ten, but there are problems", 10, 1)
		time.Sleep(time.Hour)
		g.want(t, "as long as there are", 10, 1)
		if s := g.catalog.Sources()[0]; s.ProblemKinds["syntax"] != 1 {
			t.Errorf("problems %v, want one of its kind", s.ProblemKinds)
		}
		g.publish(view(1, services(9)...))
		time.Sleep(guardTime - time.Second)
		g.want(t, "not at once when there are none any more", 10, 1)
		time.Sleep(time.Second)
		g.want(t, "then", 9, 0)
	})
}

// An entry that could not be read before either is not why something is missing; one that newly cannot may be.
func TestOnlyNewProblemsMakeWhatIsMissingUnclear(t *testing.T) {
	odd := registry.Problem{Object: "odd", Kind: "syntax", Reason: "as ever"}
	external := registry.Problem{Object: "external", Kind: "type", Reason: "got type ExternalName"}
	broken := registry.Problem{Object: "broken", Kind: "syntax", Reason: "since today"}
	stale := func(p registry.Problem) registry.Problem { p.Stale = true; return p }
	for _, c := range []struct {
		name          string
		before, after []registry.Problem
		unclear       bool
	}{
		{"none", nil, nil, false},
		{"one that stood", []registry.Problem{odd}, []registry.Problem{odd}, false},
		{"one that stood, for another reason", []registry.Problem{odd}, []registry.Problem{{Object: "odd", Kind: "syntax", Reason: "worse"}}, false},
		{"one of two that stood", []registry.Problem{broken, odd}, []registry.Problem{odd}, false},
		{"of a type that is not served", nil, []registry.Problem{external}, false},
		{"a new one", nil, []registry.Problem{broken}, true},
		{"a new one beside one that stood", []registry.Problem{odd}, []registry.Problem{broken, odd}, true},
		{"the same object, for another kind of reason", []registry.Problem{odd}, []registry.Problem{{Object: "odd", Kind: "size"}}, true},
		{"its last good state was served", []registry.Problem{stale(odd)}, []registry.Problem{odd}, true},
		{"its last good state still is", []registry.Problem{stale(odd)}, []registry.Problem{stale(odd)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGuarded(t, registry.Guard{}, 1, services(10)...)
				publish := func(n int, problems []registry.Problem) {
					v := view(1, services(n)...)
					v.Problems = problems
					g.publish(v)
				}
				publish(10, c.before)
				g.fail(errors.New("connection reset"))
				time.Sleep(time.Minute)
				publish(6, c.after)
				g.want(t, "four of ten", 10, 4)
				publish(6, c.after) // what came with the first view is still new
				g.fail(errors.New("connection reset"))
				time.Sleep(time.Minute)
				publish(6, c.after)
				if time.Sleep(guardTime); !c.unclear {
					g.want(t, "repeated", 6, 0)
					return
				}
				g.want(t, "unclear", 10, 4)
				time.Sleep(time.Hour)
				g.want(t, "for as long as it stands", 10, 4)
				publish(6, c.before)
				time.Sleep(guardTime - time.Second)
				g.want(t, "not at once when it does not any more", 10, 4)
				publish(6, c.after) // what comes later takes nothing away that is missing already
				time.Sleep(time.Second)
				g.want(t, "then", 6, 0)
			})
		})
	}
}

// What is not new is known over a restart, too, and so is what is unclear.
func TestNewProblemsAreNewAfterARestart(t *testing.T) {
	dir := t.TempDir()
	odd, broken := registry.Problem{Object: "odd", Kind: "syntax"}, registry.Problem{Object: "broken", Kind: "syntax"}
	run := func(what string, n int, problems []registry.Problem, served, doubted int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			s := make(script)
			c := newCatalog(t, registry.Options{StateDir: dir}, registry.Source{Name: "dc1", Kind: "script", Registry: s})
			defer start(t, c)()
			v := view(1, services(n)...)
			v.Problems = problems
			s.publish(v)
			time.Sleep(time.Hour)
			(&guarded{catalog: c}).want(t, what, served, doubted)
		})
	}
	run("all is well", 10, nil, 10, 0)
	run("nothing is missing beside what cannot be read", 10, []registry.Problem{odd}, 10, 0)
	run("it hid nothing", 6, []registry.Problem{odd}, 6, 0)
	run("one is new", 5, []registry.Problem{broken, odd}, 6, 1)
	run("it still is", 5, []registry.Problem{broken, odd}, 6, 1)
	run("it is mended", 5, []registry.Problem{odd}, 5, 0)
}

func TestDoubtsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	run := func(t *testing.T, work func(c *registry.Catalog, s script)) {
		synctest.Test(t, func(t *testing.T) {
			s := make(script)
			c := newCatalog(t, registry.Options{StateDir: dir}, registry.Source{Name: "dc1", Kind: "script", Registry: s})
			defer start(t, c)()
			work(c, s)
			time.Sleep(time.Second)
		})
	}
	var since time.Time
	run(t, func(c *registry.Catalog, s script) {
		s.publish(view(2, services(4)...))
		time.Sleep(time.Minute)
		s.publish(view(2, services(2)...))
		synctest.Wait()
		since = c.Sources()[0].DoubtedSince
	})
	run(t, func(c *registry.Catalog, s script) {
		g := &guarded{catalog: c}
		g.want(t, "from the seal", 8, 4)
		if status := c.Sources()[0]; !status.DoubtedSince.Equal(since) || !strings.HasPrefix(status.DoubtReason, "4 of 8 endpoints") {
			t.Errorf("since %v, %q, want since %v", status.DoubtedSince, status.DoubtReason, since)
		}
		v := view(2, services(3)...)
		s.publish(without(v, "s000-0"))
		time.Sleep(time.Second)
		g.want(t, "one service is back, an endpoint left", 7, 2)
		time.Sleep(guardTime - 2*time.Second)
		g.want(t, "it was not repeated for long enough", 7, 2)
		time.Sleep(time.Second)
		g.want(t, "it was", 5, 0)
	})
	run(t, func(c *registry.Catalog, s script) {
		(&guarded{catalog: c}).want(t, "released for good", 5, 0)
		s.publish(registry.View{Problems: []registry.Problem{{Object: "x", Reason: "y"}}})
	})
	run(t, func(c *registry.Catalog, _ script) {
		g := &guarded{catalog: c}
		g.want(t, "nothing could be read", 5, 5)
		if n, err := c.Accept("dc1"); n != 5 || err != nil {
			t.Errorf("Accept: %d, %v, want all, before the source has spoken", n, err)
		}
		g.want(t, "accepted", 0, 0)
	})
}

// Names that a new mapping does not make any more are no loss: the sealed ones give way to the first view.
func TestAnotherMappingIsNoLoss(t *testing.T) {
	dir := t.TempDir()
	run := func(m registry.Mapping, work func(c *registry.Catalog, s script)) {
		synctest.Test(t, func(t *testing.T) {
			s := make(script)
			c := newCatalog(t, registry.Options{StateDir: dir}, registry.Source{Name: "dc1", Kind: "script", Registry: s, Mapping: m})
			defer start(t, c)()
			work(c, s)
			time.Sleep(time.Second)
		})
	}
	run(registry.Mapping{}, func(c *registry.Catalog, s script) {
		s.publish(view(2, "api", "web"))
		time.Sleep(time.Minute)
		s.publish(view(2, "api"))
		(&guarded{catalog: c}).want(t, "web has left", 4, 2)
	})
	run(registry.Mapping{Namespaces: map[string]string{"*": "shop"}}, func(c *registry.Catalog, s script) {
		(&guarded{catalog: c}).want(t, "from the seal", 4, 2)
		s.publish(view(2, "api"))
		(&guarded{catalog: c}).want(t, "under its new name", 2, 0)
		if s := current(c).Service(registry.Name{Namespace: "shop", Name: "api"}); s == nil || len(s.Endpoints) != 2 {
			t.Errorf("got %+v, want shop/api", s)
		}
		s.publish(registry.View{})
		(&guarded{catalog: c}).want(t, "empty", 2, 2)
	})
	run(registry.Mapping{Namespaces: map[string]string{"*": "shop"}}, func(c *registry.Catalog, s script) {
		s.publish(registry.View{})
		(&guarded{catalog: c}).want(t, "under the same mapping", 2, 2)
	})
	run(registry.Mapping{
		Namespaces: map[string]string{"*": "shop"}, Labels: map[string]string{"dc": "1"},
		Ports: map[string]registry.PortMapping{"*": {Number: 81}},
	}, func(c *registry.Catalog, s script) {
		s.publish(registry.View{})
		(&guarded{catalog: c}).want(t, "with other ports and labels", 2, 2)
		s.publish(view(2, "api"))
		(&guarded{catalog: c}).want(t, "reported again", 2, 0)
		if s := current(c).Services[0]; s.Ports[0].Number != 81 || s.Endpoints[0].Labels["dc"] != "1" {
			t.Errorf("got %+v, want what the mapping says", s)
		}
	})
	run(registry.Mapping{Namespaces: map[string]string{"*": "shop"}, Exclude: []string{"nothing"}}, func(c *registry.Catalog, s script) {
		s.publish(registry.View{})
		(&guarded{catalog: c}).want(t, "chosen otherwise", 0, 0)
	})
}
