package registry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// naive is a source's history, from which what the guard must keep is told again and again by counting.
type naive struct {
	rules Guard
	truth map[Name]map[string]*Endpoint
	gone  map[Name]map[string]time.Time // what was serving and is not reported, since when
	fresh map[Name]bool                 // what has lost something in the last view: only that makes a doubt

	failed map[Name]map[string]time.Time // when what served became unhealthy, last
	served map[Name]map[string]bool      // of gone: it was serving when it left
}

func newNaive(rules Guard) *naive {
	return &naive{
		rules: rules, gone: make(map[Name]map[string]time.Time),
		failed: make(map[Name]map[string]time.Time), served: make(map[Name]map[string]bool),
	}
}

// sudden returns what the rules keep: losses of the window in a service, or in the source, that are too many.
func (n *naive) sudden(now time.Time) (keep [][2]string) {
	all, serving := 0, 0
	recent := make(map[Name][]string)
	for name, gone := range n.gone {
		for id, since := range gone {
			if now.Sub(since) < n.rules.Window {
				recent[name] = append(recent[name], id)
				all++
			}
		}
	}
	for _, endpoints := range n.truth {
		serving += naiveUsed(endpoints)
	}
	whole := len(n.fresh) > 0 && all >= 2 && float64(all) > n.rules.Share*float64(all+serving)+1e-9
	for name, ids := range recent {
		if whole || n.fresh[name] && len(ids) >= 2 && float64(len(ids)) > n.rules.Share*float64(len(ids)+n.rest(name))+1e-9 {
			for _, id := range ids {
				keep = append(keep, [2]string{name.Name, id})
			}
		}
	}
	return keep
}

func naiveServing(endpoints map[string]*Endpoint) (n int) {
	for _, e := range endpoints {
		if e.Health.Serving() {
			n++
		}
	}
	return n
}

// naiveUsed counts what gets requests: what serves, else what is unhealthy.
func naiveUsed(endpoints map[string]*Endpoint) int {
	unhealthy := 0
	for _, e := range endpoints {
		if e.Health == Unhealthy {
			unhealthy++
		}
	}
	if n := naiveServing(endpoints); n > 0 {
		return n
	}
	return unhealthy
}

// rest is what a service still has of what it lost: unhealthy ones do not stand for those that served.
func (n *naive) rest(name Name) int {
	if naiveServing(n.truth[name]) == 0 {
		for id := range n.gone[name] {
			if n.served[name][id] {
				return 0
			}
		}
	}
	return naiveUsed(n.truth[name])
}

// lost reports whether an endpoint that is not reported any more got requests.
func (n *naive) lost(now time.Time, name Name, e *Endpoint) bool {
	switch {
	case e.Health.Serving():
		return true
	case e.Health != Unhealthy:
		return false
	}
	failed, ok := n.failed[name][e.ID]
	return naiveServing(n.truth[name]) == 0 || ok && now.Sub(failed) < n.rules.Window
}

// take notes what the next view lacks and has again.
func (n *naive) take(now time.Time, services []*Service) {
	next := make(map[Name]map[string]*Endpoint)
	for _, s := range services {
		next[s.Name] = make(map[string]*Endpoint)
		for _, e := range s.Endpoints {
			next[s.Name][e.ID] = e
			delete(n.gone[s.Name], e.ID)
		}
	}
	n.fresh = make(map[Name]bool)
	for name, endpoints := range n.truth {
		for id, e := range endpoints {
			switch later := next[name][id]; {
			case later == nil && n.lost(now, name, e):
				put(n.gone, name, id, now)
				put(n.served, name, id, e.Health.Serving())
				n.fresh[name] = true
			case later != nil && e.Health.Serving() && later.Health == Unhealthy:
				put(n.failed, name, id, now)
			}
			if later := next[name][id]; later == nil || later.Health.Serving() {
				delete(n.failed[name], id)
			}
		}
	}
	n.truth = next
}

func put[V any](in map[Name]map[string]V, name Name, id string, v V) {
	if in[name] == nil {
		in[name] = make(map[string]V)
	}
	in[name][id] = v
}

// forget takes out what the guard remembers no more; all that is left may come back without being new.
func (n *naive) forget(now time.Time, kept map[[2]string]time.Time) {
	for name, gone := range n.gone {
		for id, since := range gone {
			k := [2]string{name.Name, id}
			doubted, ok := kept[k]
			if ok && now.Sub(doubted) >= n.rules.Time || !ok && now.Sub(since) >= n.rules.Window {
				delete(gone, id)
			}
		}
	}
	for k := range kept {
		if _, gone := n.gone[Name{"default", k[0]}][k[1]]; !gone {
			delete(kept, k)
		}
	}
}

// Whatever is removed, changed and put back, and whenever: what the source reports is served as it is, and what the
// rules keep is served. Nothing new arrives here, so nothing is replaced.
func TestGuardAgainstANaiveModel(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		rules := Guard{Share: []float64{0.1, 0.3, 0.5, 0.9}[r.IntN(4)], Window: 10 * time.Second, Time: time.Minute}
		g := newGuard(rules)
		model := newNaive(g.rules)
		all := randomServices(r, 1+r.IntN(8), 6)
		now := time.Unix(1_000_000, 0)
		served := g.take(now, all, nil)
		model.take(now, all)
		kept := make(map[[2]string]time.Time) // by the rules, since
		truth := all
		for step := range 120 {
			now = now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
			what := fmt.Sprintf("seed %d, step %d", seed, step)
			before := served
			switch r.IntN(12) {
			case 0:
				var n int
				if served, n = g.accept(now); n < len(kept) {
					t.Fatalf("%s: %d accepted, want at least %d", what, n, len(kept))
				}
				clear(kept)
				if !samePointers(served, truth) {
					t.Fatalf("%s: what was accepted is served", what)
				}
				g, truth = newGuard(rules), all // again from the start
				served = g.take(now, truth, nil)
				model.take(now, truth)
				clear(model.gone)
			case 1, 2:
				served = g.tick(now)
			default:
				model.forget(now, kept)
				truth = mutate(r, truth, all, model.gone)
				served = g.take(now, truth, nil)
				model.take(now, truth)
				for _, k := range model.sudden(now) {
					if _, ok := kept[k]; !ok {
						kept[k] = now
					}
				}
			}
			model.forget(now, kept)
			checkServed(t, what, served, truth, before, kept)
			if at := g.next(); !at.IsZero() && at.Before(now) {
				t.Fatalf("%s: the next tick was due %v ago", what, now.Sub(at))
			}
			if t.Failed() {
				return
			}
		}
		for range 1000 { // in silence everything is released
			if at := g.next(); !at.IsZero() {
				now = at
				served = g.tick(now)
			}
		}
		if !samePointers(served, truth) || len(g.losses)+len(g.kept)+len(g.at)+len(g.recent)+len(g.overlay)+len(g.sick)+len(g.queue)+len(g.holding)+len(g.young)+g.sudden != 0 {
			t.Fatalf("seed %d: after a long time something is kept or remembered: %+v", seed, g.losses)
		}
	}
}

func checkServed(t *testing.T, what string, served, truth, before []*Service, kept map[[2]string]time.Time) {
	t.Helper()
	if err := validate(served, nil); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	found := make(map[[2]string]bool)
	for _, s := range served {
		i, ok := slices.BinarySearchFunc(truth, s.Name, compareName)
		extra := 0
		for _, e := range s.Endpoints {
			found[[2]string{s.Name.Name, e.ID}] = true
			if ok && truth[i].endpoint(e.ID) != nil {
				if !truth[i].endpoint(e.ID).equal(e) {
					t.Errorf("%s: %s/%s is not served as it is reported", what, s.Name, e.ID)
				}
				continue
			}
			extra++
			if e.Health == Draining {
				t.Errorf("%s: %s/%s is kept, though it was %s", what, s.Name, e.ID, e.Health)
			}
		}
		if extra == 0 && (!ok || truth[i] != s) {
			t.Errorf("%s: %s lacks nothing, and has another pointer", what, s.Name)
		}
		if j, was := slices.BinarySearchFunc(before, s.Name, compareName); was && before[j] != s && before[j].equal(s) && hasDoubt(s) {
			t.Errorf("%s: %s is another pointer to the same", what, s.Name)
		}
	}
	for _, s := range truth {
		for _, e := range s.Endpoints {
			if !found[[2]string{s.Name.Name, e.ID}] {
				t.Errorf("%s: %s/%s is reported and not served", what, s.Name, e.ID)
			}
		}
	}
	for k := range kept {
		if !found[k] {
			t.Errorf("%s: %v has left, and the rules keep it", what, k)
		}
	}
}

func hasDoubt(s *Service) bool {
	return slices.ContainsFunc(s.Endpoints, func(e *Endpoint) bool { return e.Doubt != nil })
}

func randomServices(r *rand.Rand, n, most int) (all []*Service) {
	for i := range n {
		s := &Service{Name: Name{"default", fmt.Sprintf("s%d", i)}, Ports: []Port{{Number: 80}}}
		for j := range 1 + r.IntN(most) {
			s.Endpoints = append(s.Endpoints, &Endpoint{
				ID: fmt.Sprintf("e%d", j), Addr: netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j + 1)}), Ports: []EndpointPort{{Number: 8080}}, Weight: 1,
			})
		}
		all = append(all, s)
	}
	return all
}

// mutate removes endpoints, changes health, and puts back what is gone.
func mutate(r *rand.Rand, truth, all []*Service, gone map[Name]map[string]time.Time) (next []*Service) {
	remove, restore, health := r.Float64()*r.Float64(), r.Float64()*r.Float64(), 0.2*r.Float64()
	outage := r.IntN(10) == 0 // of health checks
	for _, full := range all {
		i, ok := slices.BinarySearchFunc(truth, full.Name, compareName)
		s := &Service{Name: full.Name, Ports: full.Ports}
		changed := !ok
		for _, e := range full.Endpoints {
			now := (*Endpoint)(nil)
			if ok {
				now = truth[i].endpoint(e.ID)
			}
			was := now
			switch {
			case now == nil && !gone[full.Name][e.ID].IsZero() && r.Float64() < restore:
				now = e
			case now != nil && r.Float64() < remove:
				now = nil
			case now != nil && outage:
				c := *now
				c.Health = Unhealthy
				now = &c
			case now != nil && r.Float64() < health:
				c := *now
				c.Health = Health(r.IntN(4))
				now = &c
			}
			changed = changed || was != now
			if now != nil {
				s.Endpoints = append(s.Endpoints, now)
			}
		}
		switch {
		case !changed:
			next = append(next, truth[i])
		case len(s.Endpoints) > 0 || r.IntN(3) == 0:
			next = append(next, s)
		}
	}
	return next
}

// TestAccountsOfDoubtEnd has a source lose and find the same again for an hour: what is remembered of it does not grow.
func TestAccountsOfDoubtEnd(t *testing.T) {
	g := newGuard(Guard{})
	now := time.Unix(1, 0)
	all := numbered(2, 3)
	less := *all[1]
	less.Endpoints = less.Endpoints[2:]
	views := [][]*Service{all, {all[0], &less}}
	for i := range 7200 {
		now = now.Add(500 * time.Millisecond)
		g.take(now, views[i%2], nil)
	}
	kept, doubts := 0, 0
	for _, a := range g.accounts {
		kept += len(a.losses)
	}
	for _, n := range g.began {
		doubts += n
	}
	if most := 3 * int(g.rules.Window/time.Second); doubts < 5000 || kept > most {
		t.Errorf("%d losses are remembered of %d doubts, want at most %d", kept, doubts, most)
	}
}
