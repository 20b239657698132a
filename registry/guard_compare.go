package registry

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// walk calls visit for each service that is in one of two sorted lists alone, or in both under another pointer.
func walk(a, b []*Service, visit func(a, b *Service)) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) > 0 && len(b) > 0 && a[0] == b[0]:
			a, b = a[1:], b[1:]
		case len(a) == 0 || len(b) > 0 && b[0].Name.Compare(a[0].Name) < 0:
			visit(nil, b[0])
			b = b[1:]
		case len(b) == 0 || a[0].Name.Compare(b[0].Name) < 0:
			visit(a[0], nil)
			a = a[1:]
		default:
			visit(a[0], b[0])
			a, b = a[1:], b[1:]
		}
	}
}

// compare takes what the source says, against what it said before. It returns what that has lost, by service.
func (g *guard) compare(now time.Time, before []*Service) (fresh [][]*loss) {
	var changes [][2]*Service
	walk(before, g.truth, func(old, new *Service) {
		changes = append(changes, [2]*Service{old, new})
		if lost := g.lose(now, old, new); len(lost) > 0 {
			fresh = append(fresh, lost)
		}
	})
	some := len(g.losses) > 0
	for _, c := range changes { // now that all is known that was lost, wherever
		old, new := c[0], c[1]
		if some {
			g.dirty[nameOf(old, new)] = struct{}{}
		}
		if new != nil {
			g.welcome(now, old, new)
			g.replace(now, new)
		}
	}
	for i := range fresh {
		fresh[i] = slices.DeleteFunc(fresh[i], g.struck)
	}
	return slices.DeleteFunc(fresh, func(lost []*loss) bool { return len(lost) == 0 })
}

// lose takes what the source says of one service, nil is nothing, and notes the endpoints of old that were used and are
// not in new.
func (g *guard) lose(now time.Time, old, new *Service) (fresh []*loss) {
	before, used := countUsed(old), countUsed(new)
	g.endpoints += used - before
	g.services += min(used, 1) - min(before, 1)
	fresh = g.missing(now, old, new)
	name := nameOf(old, new)
	lost := g.losses[name]
	if lost == nil && len(fresh) > 0 {
		lost = &serviceLosses{byID: make(map[string]*loss)}
		g.losses[name] = lost
	}
	for _, l := range fresh {
		lost.byID[l.endpoint.ID] = l
		for p := range places(l.endpoint) {
			g.at[p] = append(g.at[p], l)
		}
	}
	if lost != nil {
		lost.count(new)
	}
	if len(fresh) > 0 {
		g.recent = append(g.recent, fresh...)
		g.sudden += len(fresh)
		g.sweepLater(now)
	}
	return fresh
}

// missing returns the endpoints of old that were used and are not in new.
func (g *guard) missing(now time.Time, old, new *Service) (lost []*loss) {
	if old == nil {
		return nil
	}
	someServed := countServing(old) > 0
	var shape *Service
	for _, e := range old.Endpoints {
		if still := new.endpoint(e.ID); still != nil {
			g.sicken(now, old.Name, e, still)
			continue
		}
		failed, wasServing := g.sick[old.Name][e.ID]
		delete(g.young[old.Name], e.ID)
		delete(g.sick[old.Name], e.ID)
		switch {
		case e.Health.Serving():
		case e.Health == Unhealthy && (!someServed || wasServing && now.Sub(failed) < g.rules.Window):
		default:
			continue // it had no traffic
		}
		if shape == nil {
			shape = &Service{Name: old.Name, Original: old.Original, Ports: old.Ports, Labels: old.Labels, Conflicts: old.Conflicts}
		}
		lost = append(lost, &loss{service: shape, endpoint: e, since: now, recent: true})
	}
	return lost
}

// sicken notes when an endpoint that served becomes unhealthy: an outage of health checks is often followed by removals.
func (g *guard) sicken(now time.Time, name Name, old, new *Endpoint) {
	switch {
	case new.Health.Serving():
		delete(g.sick[name], new.ID)
	case old.Health.Serving() && new.Health == Unhealthy:
		if g.sick[name] == nil {
			g.sick[name] = make(map[string]time.Time)
		}
		g.sick[name][new.ID] = now
		g.sweepLater(now)
	}
}

// count counts what the source still reports.
func (s *serviceLosses) count(reported *Service) {
	s.used = countUsed(reported)
	s.rest = s.used
	if countServing(reported) > 0 {
		return
	}
	for _, l := range s.byID {
		if l.endpoint.Health.Serving() {
			s.rest = 0
			return
		}
	}
}

// welcome strikes what is reported again, under its ID or at its place, and what was where another service is now. It
// notes what is really new.
func (g *guard) welcome(now time.Time, old, new *Service) {
	if !g.known {
		return // its first word
	}
	lost := g.losses[new.Name]
	for _, e := range new.Endpoints {
		back := g.reclaim(old, new.Name, e)
		if lost != nil {
			if l := lost.byID[e.ID]; l != nil {
				g.strike(l, byReturn)
				back = true
			}
		}
		if back || old.endpoint(e.ID) != nil {
			continue
		}
		if g.young[new.Name] == nil {
			g.young[new.Name] = make(map[string]time.Time)
		}
		g.young[new.Name][e.ID] = time.Time{}
		g.sweepLater(now)
	}
}

// reclaim strikes what was lost where e is now: by its own service, or by others if its own was not there. It reports
// whether its own was.
func (g *guard) reclaim(old *Service, name Name, e *Endpoint) (back bool) {
	if len(g.at) == 0 {
		return false
	}
	was := old.endpoint(e.ID)
	for p := range places(e) {
		there := slices.Clone(g.at[p]) // strike changes it
		own := slices.IndexFunc(there, func(l *loss) bool { return l.service.Name == name })
		for _, l := range there {
			switch {
			case l.service.Name == name && !sameEndpoint(l.endpoint, e): // two that share a port
			case l.service.Name == name:
				g.strike(l, byReturn)
				back = true
			case own < 0 && !was.isAt(p) && !old.isAt(p):
				g.strike(l, byTaking) // callers would reach another service
			}
		}
	}
	return back
}

// replace has the young endpoints that serve answer for losses: first for those kept, the oldest first.
func (g *guard) replace(now time.Time, new *Service) {
	young := g.young[new.Name]
	var answered []*loss // those to answer for, in order
	for _, id := range slices.Sorted(maps.Keys(young)) {
		e := new.endpoint(id)
		if e == nil || !e.Health.Serving() {
			continue
		}
		if young[id].IsZero() {
			young[id] = now
		}
		if now.Sub(young[id]) > g.rules.Window {
			delete(young, id)
			continue
		}
		if answered == nil {
			answered = g.losses[new.Name].inOrder()
		}
		if len(answered) > 0 {
			g.strike(answered[0], byReplacement)
			answered = answered[1:]
			delete(young, id)
		}
	}
	if len(young) == 0 {
		delete(g.young, new.Name)
	}
}

// inOrder returns the losses in the order in which new endpoints answer for them: first those kept, the oldest first.
func (s *serviceLosses) inOrder() []*loss {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(s.byID), func(a, b *loss) int {
		return cmp.Or(
			-cmp.Compare(min(a.state, held), min(b.state, held)), // kept or not
			a.since.Compare(b.since), cmp.Compare(a.endpoint.ID, b.endpoint.ID),
		)
	})
}

// endpoint returns the endpoint of that ID, or nil.
func (s *Service) endpoint(id string) *Endpoint {
	if s == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(s.Endpoints, id, func(e *Endpoint, id string) int { return cmp.Compare(e.ID, id) })
	if !ok {
		return nil
	}
	return s.Endpoints[i]
}

// countUsed counts the endpoints that get requests: those that serve or, where none does, the unhealthy ones, which
// callers then use for want of better.
func countUsed(s *Service) int {
	if s == nil {
		return 0
	}
	unhealthy := 0
	for _, e := range s.Endpoints {
		if e.Health == Unhealthy {
			unhealthy++
		}
	}
	return cmp.Or(countServing(s), unhealthy)
}

// isAt reports whether an endpoint of s is at p.
func (s *Service) isAt(p place) bool {
	return s != nil && slices.ContainsFunc(s.Endpoints, func(e *Endpoint) bool { return e.isAt(p) })
}

func (e *Endpoint) isAt(p place) bool {
	if e != nil {
		for at := range places(e) {
			if at == p {
				return true
			}
		}
	}
	return false
}

func countServing(s *Service) (n int) {
	if s == nil {
		return 0
	}
	for _, e := range s.Endpoints {
		if e.Health.Serving() {
			n++
		}
	}
	return n
}

func nameOf(a, b *Service) Name {
	if a != nil {
		return a.Name
	}
	return b.Name
}
