package registry

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
)

// merger keeps the last view of every source and what they are together. It belongs to one goroutine.
type merger struct {
	sources []string // names, in configured order
	rules   Rules
	views   [][]*Service // by source
	hosts   [][]Host     // by source
	at      map[netip.Addr]atHost
	known   []Host                          // of all sources together
	vitals  map[netip.AddrPort]*Unreachable // see setVitals
	dirty   map[Name]struct{}
	merged  []*Service
	alone   [][]string // by source: Endpoint.Sources of what it alone reports, shared by all of that
}

func newMerger(sources []string, rules Rules) *merger {
	m := &merger{
		sources: sources,
		rules:   rules.clone(),
		views:   make([][]*Service, len(sources)),
		hosts:   make([][]Host, len(sources)),
		dirty:   make(map[Name]struct{}),
	}
	for _, name := range sources {
		m.alone = append(m.alone, []string{name})
	}
	return m
}

// set replaces the view of a source. Only services whose pointer and content changed will be merged again.
func (m *merger) set(source int, next []*Service) {
	prev := m.views[source]
	m.views[source] = next
	for len(prev) > 0 || len(next) > 0 {
		switch {
		case len(prev) > 0 && len(next) > 0 && prev[0] == next[0]:
			prev, next = prev[1:], next[1:]
		case len(prev) == 0 || len(next) > 0 && next[0].Name.Compare(prev[0].Name) < 0:
			m.dirty[next[0].Name] = struct{}{}
			next = next[1:]
		case len(next) == 0 || prev[0].Name.Compare(next[0].Name) < 0:
			m.dirty[prev[0].Name] = struct{}{}
			prev = prev[1:]
		default:
			if !prev[0].equal(next[0]) {
				m.dirty[next[0].Name] = struct{}{}
			}
			prev, next = prev[1:], next[1:]
		}
	}
}

// setRules replaces the rules. Only services whose rule changed will be merged again.
func (m *merger) setRules(next Rules) {
	prev := m.rules
	m.rules = next.clone()
	for _, s := range m.merged {
		if !prev.of(s.Name).equal(m.rules.of(s.Name)) {
			m.dirty[s.Name] = struct{}{}
		}
	}
}

// merge returns all services, and whether anything changed since the last merge. What did not keeps its pointer; the
// slice is a new one when anything changed.
func (m *merger) merge() ([]*Service, bool) {
	if len(m.dirty) == 0 {
		return m.merged, false
	}
	names := make([]Name, 0, len(m.dirty))
	for name := range m.dirty {
		names = append(names, name)
	}
	clear(m.dirty)
	slices.SortFunc(names, Name.Compare)

	made := make([]*Service, len(names))
	changed := make([]bool, len(names))
	inParallel(len(names), func(i int) {
		var old *Service
		if at, found := slices.BinarySearchFunc(m.merged, names[i], compareName); found {
			old = m.merged[at]
		}
		made[i] = m.service(names[i], old)
		if made[i] != nil && old != nil && made[i].equal(old) {
			made[i] = old
		}
		changed[i] = made[i] != old
	})
	if !slices.Contains(changed, true) {
		return m.merged, false
	}
	m.merged = splice(m.merged, names, made)
	return m.merged, true
}

// inParallel calls do for 0 … n-1, on several processors when that is worth it, and returns when all have ended.
func inParallel(n int, do func(int)) {
	const worth = 256
	workers := max(1, min(runtime.GOMAXPROCS(0), n/worth))
	work := func(from, to int) {
		for i := from; i < to; i++ {
			do(i)
		}
	}
	var others sync.WaitGroup
	for w := 1; w < workers; w++ {
		others.Go(func() { work(n*w/workers, n*(w+1)/workers) })
	}
	work(0, n/workers)
	others.Wait()
}

// splice returns a copy of services, which are sorted, in which made[i] stands for names[i], which are sorted too; nil
// takes the service out.
func splice(services []*Service, names []Name, made []*Service) []*Service {
	next := make([]*Service, 0, len(services)+len(names))
	for i, name := range names {
		at, found := slices.BinarySearchFunc(services, name, compareName)
		next = append(next, services[:at]...)
		if made[i] != nil {
			next = append(next, made[i])
		}
		if found {
			at++
		}
		services = services[at:]
	}
	return append(next, services...)
}

func compareName(s *Service, name Name) int { return s.Name.Compare(name) }

// claim is what one source says of a service.
type claim struct {
	source  string
	order   int // of the source, as configured
	service *Service
}

// service merges what all sources say of one service; nil when none knows it. old is what they said last, or nil.
func (m *merger) service(name Name, old *Service) *Service {
	claims := make([]claim, 0, len(m.views))
	for i, view := range m.views {
		if at, ok := slices.BinarySearchFunc(view, name, compareName); ok {
			claims = append(claims, claim{m.sources[i], i, view[at]})
		}
	}
	if len(claims) == 0 {
		return nil
	}
	rule := m.rules.of(name)
	rule.sort(claims)
	u := &union{service: &Service{Name: name}, rule: rule, vitals: m.vitals}
	claims = u.alignPorts(claims)
	u.describe(claims)
	if len(claims) == 1 && len(rule.Weights) == 0 && distinct(claims[0].service.Endpoints) {
		u.take(claims[0].service.Endpoints, m.alone[claims[0].order])
	} else {
		u.choose(claims, u.join(claims))
	}
	u.placeOnHosts(m.at)
	u.resolvePorts(claims, old)
	u.service.Conflicts = u.notes.conflicts(claims)
	return u.service
}
