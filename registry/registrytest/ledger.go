package registrytest

import (
	"fmt"
	"maps"
	"net/netip"
	"sync"

	"github.com/hostmesh/hostmesh/registry"
)

// ledger is the truth as the suite made it: for each endpoint that it ever put, how often that turned. The count is odd
// while the endpoint is there and serves, even before and after. A turn is entered when the driver begins to make it, as
// a view may show it from then on. It may be used from several goroutines.
type ledger struct {
	prefix netip.Prefix // where the suite's endpoints are, and nobody else's

	mu    sync.Mutex
	turns map[registry.Name]turns
	ill   map[registry.Name]map[netip.AddrPort]bool // put, but not serving
}

// turns counts the turns of the endpoints of one service.
type turns map[netip.AddrPort]uint32

func (t turns) serves(at netip.AddrPort) bool { return t[at]%2 == 1 }

func newLedger(prefix netip.Prefix) *ledger {
	return &ledger{prefix: prefix, turns: make(map[registry.Name]turns), ill: make(map[registry.Name]map[netip.AddrPort]bool)}
}

// put enters that the service will be exactly that; without endpoints, that it will be gone.
func (l *ledger) put(s *registry.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.turns[s.Name]
	if t == nil {
		t = make(turns)
		l.turns[s.Name] = t
	}
	delete(l.ill, s.Name)
	want := make(map[netip.AddrPort]bool, len(s.Endpoints))
	for _, e := range s.Endpoints {
		at := place(e)
		want[at] = true
		if !t.serves(at) {
			t[at]++
		}
	}
	for at := range t {
		if t.serves(at) && !want[at] {
			t[at]++
		}
	}
}

// setHealth enters that the endpoints of the service at addr will serve, or not.
func (l *ledger) setHealth(name registry.Name, addr netip.Addr, health registry.Health) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.turns[name]
	for at := range t {
		ill := l.ill[name][at]
		switch {
		case at.Addr() != addr:
		case t.serves(at) && !health.Serving():
			t[at]++
			if l.ill[name] == nil {
				l.ill[name] = make(map[netip.AddrPort]bool)
			}
			l.ill[name][at] = true
		case ill && health.Serving():
			t[at]++
			delete(l.ill[name], at)
		}
	}
}

// equals tells how the view differs from the truth of now; nil when it is the truth, with no problem listed.
func (l *ledger) equals(v registry.View) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(v.Problems) > 0 {
		return fmt.Errorf("%d problems are listed where all is well, the first is %s: %s", len(v.Problems), v.Problems[0].Object, v.Problems[0].Reason)
	}
	serving := make(map[registry.Name]int, len(l.turns))
	for _, s := range v.Services {
		t := l.turns[s.Name]
		for _, e := range s.Endpoints {
			if !l.prefix.Contains(e.Addr) {
				continue
			}
			if len(e.Ports) != 1 {
				return fmt.Errorf("service %s: endpoint %s has ports %v, want one", s.Name, e.ID, e.Ports)
			}
			at := place(e)
			switch {
			case t.serves(at) && !e.Health.Serving():
				return fmt.Errorf("service %s: endpoint %s is %s", s.Name, at, e.Health)
			case t.serves(at):
				serving[s.Name]++
			case !l.ill[s.Name][at]:
				return fmt.Errorf("service %s: endpoint %s is not wanted", s.Name, at)
			}
		}
	}
	for name, t := range l.turns {
		want := 0
		for at := range t {
			if t.serves(at) {
				want++
			}
		}
		if serving[name] != want {
			return fmt.Errorf("service %s: %d of %d endpoints are there", name, serving[name], want)
		}
	}
	return nil
}

// place is what tells an endpoint of the suite from the others of its service. The caller knows that it has a port.
func place(e *registry.Endpoint) netip.AddrPort { return netip.AddrPortFrom(e.Addr, e.Ports[0].Number) }

// reader follows what one Watch after the other shows, against the ledger: for each endpoint, it knows the turn that was
// seen last. A view may lag behind the truth, but no view may go back, nor show what never was the truth. So an endpoint
// that was seen and that nobody removed must be in every later view, however briefly that stands and whichever call of
// Watch published it; and one whose removal was seen may not come back.
type reader struct {
	*ledger
	seen   map[registry.Name]turns
	judged map[registry.Name]*registry.Service // what the last view held: the verdict on the same pointer is the same
}

// newReader makes a reader for Watch that was not called yet: what is true by now must be in the first view already.
func (l *ledger) newReader() *reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &reader{ledger: l, seen: make(map[registry.Name]turns, len(l.turns)), judged: make(map[registry.Name]*registry.Service)}
	for name, t := range l.turns {
		r.seen[name] = maps.Clone(t)
		r.judged[name] = new(registry.Service) // no view holds it: the first one is judged whole
	}
	return r
}

// judge reports each endpoint in which the view breaks the rule.
func (r *reader) judge(v registry.View, report func(format string, args ...any)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[registry.Name]*registry.Service, len(v.Services))
	for _, s := range v.Services {
		next[s.Name] = s
		if r.judged[s.Name] != s {
			r.judgeService(s.Name, s.Endpoints, report)
		}
	}
	for name := range r.judged {
		if next[name] == nil {
			r.judgeService(name, nil, report)
		}
	}
	r.judged = next
}

// judgeService judges the endpoints that a view shows of one service. r.mu is held.
func (r *reader) judgeService(name registry.Name, endpoints []*registry.Endpoint, report func(format string, args ...any)) {
	shown := make(map[netip.AddrPort]registry.Health, len(endpoints))
	truth, seen := r.turns[name], r.seen[name]
	for _, e := range endpoints {
		if !r.prefix.Contains(e.Addr) || len(e.Ports) == 0 {
			continue
		}
		at := place(e)
		shown[at] = e.Health
		if truth[at] == 0 {
			report("service %s: endpoint %s was never there", name, at)
		}
	}
	if seen == nil && len(shown) > 0 {
		seen = make(turns)
		r.seen[name] = seen
	}
	for at, now := range truth {
		health, there := shown[at]
		switch {
		case (there && health.Serving()) == seen.serves(at):
		case seen[at] < now:
			seen[at]++
		case there && health.Serving():
			report("service %s: endpoint %s is back, which was removed", name, at)
		case there:
			report("a view lost what was there: service %s: endpoint %s is %s", name, at, health)
		default:
			report("a view lost what was there: service %s: endpoint %s, which nobody removed", name, at)
		}
	}
}
