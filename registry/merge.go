package registry

import (
	"slices"
)

// merger keeps the last view of every source and what they are together. It belongs to one goroutine.
//
// The rule is union: every endpoint of every source, and what two sources say of one (address, port) is one endpoint.
type merger struct {
	sources []string     // names, in configured order
	views   [][]*Service // by source
	dirty   map[Name]struct{}
	merged  []*Service
	origins map[string][]string // Endpoint.Sources for one source alone, shared by all its endpoints
}

func newMerger(sources []string) *merger {
	m := &merger{
		sources: sources,
		views:   make([][]*Service, len(sources)),
		dirty:   make(map[Name]struct{}),
		origins: make(map[string][]string, len(sources)),
	}
	for _, name := range sources {
		m.origins[name] = []string{name}
	}
	return m
}

// set replaces the view of a source. Only services whose pointer and content changed will be merged again.
func (m *merger) set(source int, next []*Service) {
	prev := m.views[source]
	m.views[source] = next
	for len(prev) > 0 || len(next) > 0 {
		switch {
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

	changed := false
	next := make([]*Service, 0, len(m.merged)+len(names))
	rest := m.merged
	for _, name := range names {
		i, found := slices.BinarySearchFunc(rest, name, compareName)
		next = append(next, rest[:i]...)
		rest = rest[i:]
		var old *Service
		if found {
			old, rest = rest[0], rest[1:]
		}
		s := m.service(name, old)
		switch {
		case s != nil && old != nil && s.equal(old):
			s = old
		case s != nil || old != nil:
			changed = true
		}
		if s != nil {
			next = append(next, s)
		}
	}
	if !changed {
		return m.merged, false
	}
	m.merged = append(next, rest...)
	return m.merged, true
}

func compareName(s *Service, name Name) int { return s.Name.Compare(name) }

// claim is what one source says of a service.
type claim struct {
	source  string
	service *Service
}

// service merges what all sources say of one service; nil when none knows it. old is what they said last, or nil.
func (m *merger) service(name Name, old *Service) *Service {
	var claims []claim
	for i, view := range m.views {
		if at, ok := slices.BinarySearchFunc(view, name, compareName); ok {
			claims = append(claims, claim{m.sources[i], view[at]})
		}
	}
	if len(claims) == 0 {
		return nil
	}
	u := &union{service: &Service{Name: name}, origins: m.origins}
	claims = u.alignPorts(claims)
	for _, c := range claims {
		u.describe(c)
	}
	if len(claims) > 1 || !u.alone(claims[0]) {
		u.join(claims)
	}
	u.resolvePorts(claims, old)
	u.service.Conflicts = append(u.service.Conflicts, u.notes.conflicts()...)
	return u.service
}

// union is one service in the making.
type union struct {
	service *Service
	origins map[string][]string
	notes   notes

	original, label origin // who said first what the service has
}

// describe adds the labels, the original spelling and the conflicts that a source reports.
func (u *union) describe(c claim) {
	s := c.service
	if u.service.Original == "" {
		u.service.Original, u.original = s.Original, origin{"": c.source}
	} else if s.Original != "" && s.Original != u.service.Original {
		u.notes.differ("original name", u.original[""], u.service.Original, c.source, s.Original, "")
	}
	u.service.Labels = u.mergeLabels(u.service.Labels, &u.label, s.Labels, c.source, "")
	for _, conflict := range s.Conflicts {
		u.service.Conflicts = append(u.service.Conflicts, conflict.from(c.source))
	}
}

// origin tells for each key which source said it first.
type origin map[string]string

// mergeLabels adds to have, whose keys come from by, the labels that source says; the first to say a key wins. It
// shares the map of the only source that has labels, and copies before it writes.
func (u *union) mergeLabels(have map[string]string, by *origin, more map[string]string, source, endpoint string) map[string]string {
	if len(more) == 0 {
		return have
	}
	if len(have) == 0 {
		*by = origin{"": source}
		return more
	}
	first := (*by)[""]
	copied := len(*by) > 1
	for _, k := range sortedKeys(more) {
		v := more[k]
		old, ok := have[k]
		if ok {
			if old != v {
				from := first
				if named, ok := (*by)["label "+k]; ok {
					from = named
				}
				u.notes.differ("label "+quote(k), from, old, source, v, endpoint)
			}
			continue
		}
		if !copied {
			have, copied = cloneLabels(have), true
		}
		have[k] = v
		(*by)["label "+k] = source
	}
	return have
}

// alone takes the endpoints of the only source, and reports false when two of them are one.
func (u *union) alone(c claim) bool {
	n := len(c.service.Endpoints)
	if n == 0 {
		return true
	}
	seen := make(map[place]struct{}, n)
	for _, e := range c.service.Endpoints {
		for p := range places(e) {
			if _, ok := seen[p]; ok {
				return false
			}
		}
		for p := range places(e) {
			seen[p] = struct{}{}
		}
	}
	block := make([]Endpoint, n)
	u.service.Endpoints = make([]*Endpoint, n)
	for i, e := range c.service.Endpoints {
		block[i] = *e
		block[i].Sources = u.origins[c.source]
		u.service.Endpoints[i] = &block[i]
	}
	return true
}
