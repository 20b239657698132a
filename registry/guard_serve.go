package registry

import (
	"cmp"
	"maps"
	"slices"
)

// doubts of one reason that began, or ended, since the last call of events.
type doubts struct {
	reason    string
	endpoints int
}

// events returns what to tell, and forgets it.
func (g *guard) events() (began, ended []doubts) {
	take := func(counts map[string]int) (all []doubts) {
		for _, reason := range slices.Sorted(maps.Keys(counts)) {
			all = append(all, doubts{reason, counts[reason]})
		}
		clear(counts)
		return all
	}
	return take(g.began), take(g.ended)
}

// serve returns what the source says with what is kept. It is the source's own list when nothing is.
func (g *guard) serve() []*Service {
	for name := range g.dirty {
		switch s, old := g.cover(name), g.overlay[name]; {
		case s == nil:
			delete(g.overlay, name)
		case old == nil || !s.equal(old):
			g.overlay[name] = s
		}
	}
	switch {
	case len(g.overlay) == 0:
		g.served = g.truth
	case len(g.dirty) > 0:
		g.served = g.patched(slices.SortedFunc(maps.Keys(g.dirty), Name.Compare))
	}
	g.dirty = make(map[Name]struct{}) // to clear a map that was large costs as if it still were
	return g.served
}

// patched returns what was served, anew where it is dirty.
func (g *guard) patched(dirty []Name) []*Service {
	rest := g.served
	all := make([]*Service, 0, len(rest)+len(dirty))
	for _, name := range dirty {
		i, found := slices.BinarySearchFunc(rest, name, compareName)
		all = append(all, rest[:i]...)
		if rest = rest[i:]; found {
			rest = rest[1:]
		}
		if s := g.overlay[name]; s != nil {
			all = append(all, s)
		} else if i, ok := slices.BinarySearchFunc(g.truth, name, compareName); ok {
			all = append(all, g.truth[i])
		}
	}
	return append(all, rest...)
}

// cover makes what is served of a service, of what the source says and what is kept; nil when nothing is kept.
func (g *guard) cover(name Name) *Service {
	lost := g.losses[name]
	if lost == nil {
		return nil
	}
	var kept []*loss
	for _, l := range lost.byID {
		if l.state != left {
			kept = append(kept, l)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	slices.SortFunc(kept, func(a, b *loss) int { // the latest first: it has the shape to show if the source has none
		return cmp.Or(b.since.Compare(a.since), cmp.Compare(a.endpoint.ID, b.endpoint.ID))
	})
	s := *kept[0].service
	if i, ok := slices.BinarySearchFunc(g.truth, name, compareName); ok {
		s = *g.truth[i]
	}
	s.Endpoints = slices.Clone(s.Endpoints)
	for _, l := range kept {
		s.Endpoints = append(s.Endpoints, l.endpoint)
		for _, p := range l.endpoint.Ports {
			s.Ports = withPort(s.Ports, p.Name, l.service.Ports)
		}
	}
	slices.SortFunc(s.Endpoints, func(a, b *Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return &s
}

// withPort returns ports with the one of that name, which is taken of others if it is missing. It never changes ports.
func withPort(ports []Port, name string, others []Port) []Port {
	i, found := searchPort(ports, name)
	if found {
		return ports
	}
	if at, ok := searchPort(others, name); ok {
		return slices.Insert(slices.Clone(ports), i, others[at])
	}
	return ports
}

func searchPort(ports []Port, name string) (int, bool) {
	return slices.BinarySearchFunc(ports, name, func(p Port, name string) int { return cmp.Compare(p.Name, name) })
}

// load takes what was served in an earlier process, and returns it: its doubts stand, and everything else is taken as
// the source's last word.
func (g *guard) load(services []*Service) []*Service {
	g.known = true
	for _, s := range services {
		said := make([]*Endpoint, 0, len(s.Endpoints))
		shape := *s
		shape.Endpoints = nil
		var lost *serviceLosses
		for _, e := range s.Endpoints {
			if e.Doubt == nil {
				said = append(said, e)
				continue
			}
			if lost == nil {
				lost = &serviceLosses{byID: make(map[string]*loss)}
				g.losses[s.Name] = lost
			}
			l := &loss{service: &shape, endpoint: e, since: e.Doubt.Since, state: doubted}
			lost.byID[e.ID] = l
			g.kept[l] = struct{}{}
			for p := range places(e) {
				g.at[p] = append(g.at[p], l)
			}
		}
		switch {
		case lost == nil:
			g.truth = append(g.truth, s)
		case len(said) > 0:
			t := shape
			t.Endpoints = said
			g.truth = append(g.truth, &t)
		}
		if lost != nil {
			g.overlay[s.Name] = s
			lost.count(&Service{Endpoints: said})
		}
	}
	for _, s := range g.truth {
		n := countUsed(s)
		g.endpoints += n
		g.services += min(n, 1)
	}
	g.queueAgain()
	g.served = services
	return services
}
