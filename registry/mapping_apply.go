package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// mapper applies a Mapping to the views of one source. It keeps what it made of the last one, so a service that keeps
// its pointer in the view keeps it in the result. A view costs as much as the services that changed in it, and a look at
// the pointers of all. It belongs to one goroutine at a time.
type mapper struct {
	mapping Mapping
	ports   []string // the keys of mapping.Ports, longest first
	none    bool     // the mapping is the zero one
	moves   bool     // it may change names

	from    []*Service        // of the last view
	to      []mapped          // by from
	members map[Name][]mapped // by their new name, if the mapping moves; who gives it its service first
	moved   []*Service        // what was made of members, sorted
}

// mapped is what became of one service.
type mapped struct {
	service *Service // nil: it is not taken
	from    *Service
	renamed bool
	problem string // what the mapping could not do
}

// newMapper fails on a mapping that makes no sense, with all its mistakes by place.
func newMapper(m Mapping, source string) (*mapper, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("map services of source %q: %w", source, err)
	}
	m = Mapping{
		Include: slices.Clone(m.Include), Exclude: slices.Clone(m.Exclude), Rename: maps.Clone(m.Rename),
		Namespaces: maps.Clone(m.Namespaces), Ports: maps.Clone(m.Ports), Labels: maps.Clone(m.Labels),
	}
	byLength := func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) }
	return &mapper{
		mapping: m, ports: slices.SortedFunc(maps.Keys(m.Ports), byLength),
		moves: len(m.Rename)+len(m.Namespaces) > 0, members: make(map[Name][]mapped),
		none: len(m.Include)+len(m.Exclude)+len(m.Rename)+len(m.Namespaces)+len(m.Ports)+len(m.Labels) == 0,
	}, nil
}

// apply returns what the mapping makes of a view, which validates and is not changed by anybody; so does the result. The
// zero mapping returns the view itself.
func (m *mapper) apply(v View) View {
	if m.none {
		return v
	}
	to := make([]mapped, len(v.Services))
	from, last := m.from, m.to
	changed := make(map[Name]struct{}) // new names
	for i, s := range v.Services {
		for len(from) > 0 && from[0].Name.Compare(s.Name) < 0 {
			m.leave(last[0], changed)
			from, last = from[1:], last[1:]
		}
		switch same := len(from) > 0 && from[0].Name == s.Name; {
		case same && from[0] == s:
			to[i] = last[0]
		case same:
			m.leave(last[0], changed)
			fallthrough
		default:
			to[i] = m.service(s)
			m.enter(to[i], changed)
		}
		if len(from) > 0 && from[0].Name == s.Name {
			from, last = from[1:], last[1:]
		}
	}
	for _, gone := range last {
		m.leave(gone, changed)
	}
	m.from, m.to = v.Services, to

	out := View{Hosts: v.Hosts, Problems: slices.Clip(v.Problems)}
	for _, s := range to {
		if s.service == nil {
			continue
		}
		if !m.moves {
			out.Services = append(out.Services, s.service)
		}
		if s.problem != "" {
			out.Problems = append(out.Problems, Problem{Object: s.from.Name.String(), Reason: s.problem, Kind: "mapping"})
		}
	}
	if m.moves {
		m.unite(slices.SortedFunc(maps.Keys(changed), Name.Compare))
		out.Services = m.moved
	}
	return out
}

// leave takes a service out of those of its new name, which has changed then.
func (m *mapper) leave(s mapped, changed map[Name]struct{}) {
	if !m.moves || s.service == nil {
		return
	}
	name := s.service.Name
	changed[name] = struct{}{}
	if m.members[name] = slices.DeleteFunc(m.members[name], func(o mapped) bool { return o.from == s.from }); len(m.members[name]) == 0 {
		delete(m.members, name)
	}
}

// enter adds a service to those of its new name, which has changed then.
func (m *mapper) enter(s mapped, changed map[Name]struct{}) {
	if m.moves && s.service != nil {
		name := s.service.Name
		changed[name] = struct{}{}
		m.members[name] = append(m.members[name], s)
	}
}

// service maps one service.
func (m *mapper) service(s *Service) mapped {
	result := mapped{from: s}
	if !m.mapping.takes(s) {
		return result
	}
	c := *s
	c.Name, result.renamed = m.mapping.name(s)
	if c.Name != s.Name && c.Original == "" {
		if spelt := strings.TrimPrefix(s.Name.String(), DefaultNamespace+"/"); spelt != c.Name.Name {
			c.Original = spelt
		}
	}
	c.Ports, result.problem = m.mapPorts(s)
	c.Endpoints = m.label(s.Endpoints)
	result.service = &c
	if c.equal(s) {
		result.service = s
	}
	return result
}

// mapPorts returns the ports of a service, and why its port mapping does not fit.
func (m *mapper) mapPorts(s *Service) (ports []Port, problem string) {
	at := slices.IndexFunc(m.ports, func(glob string) bool { return matches(glob, s) })
	if at < 0 {
		return s.Ports, ""
	}
	want := m.mapping.Ports[m.ports[at]]
	i := slices.IndexFunc(s.Ports, func(p Port) bool { return p.Name == want.Port })
	if want.Port == "" && len(s.Ports) == 1 {
		i = 0
	}
	if i < 0 {
		return s.Ports, fmt.Sprintf("mapping.ports[%.200s]: got ports %s, want port %q among them", m.ports[at], brief("["+portNames(s)+"]"), want.Port)
	}
	ports = slices.Clone(s.Ports)
	ports[i].Number = cmp.Or(want.Number, ports[i].Number)
	ports[i].Protocol = cmp.Or(want.Protocol, ports[i].Protocol)
	return ports, ""
}

// label returns endpoints with the mapping's labels. Neighbours of the same labels share one map.
func (m *mapper) label(endpoints []*Endpoint) []*Endpoint {
	if len(m.mapping.Labels) == 0 || len(endpoints) == 0 {
		return endpoints
	}
	block := make([]Endpoint, len(endpoints))
	labelled := make([]*Endpoint, len(endpoints))
	for i, e := range endpoints {
		block[i] = *e
		labelled[i] = &block[i]
		switch {
		case len(e.Labels) == 0:
			block[i].Labels = m.mapping.Labels
		case i > 0 && maps.Equal(e.Labels, endpoints[i-1].Labels):
			block[i].Labels = block[i-1].Labels
		default:
			block[i].Labels = maps.Clone(e.Labels)
			maps.Copy(block[i].Labels, m.mapping.Labels)
		}
	}
	return labelled
}

// unite makes the services of these names, which are sorted, anew: where several members have one, one of them.
func (m *mapper) unite(names []Name) {
	if len(names) == 0 {
		return
	}
	made := make([]*Service, len(names))
	for i, name := range names {
		members := m.members[name]
		slices.SortFunc(members, compareMapped)
		switch len(members) {
		case 0:
		case 1:
			made[i] = members[0].service
		default:
			made[i] = uniteMapped(name, members)
		}
	}
	m.moved = splice(m.moved, names, made)
}

// compareMapped orders members of one name.
func compareMapped(a, b mapped) int {
	return cmp.Or(cmp.Compare(a.rank(), b.rank()), a.from.Name.Compare(b.from.Name))
}

// rank says who gives a name its service: who had it all along, then who was moved, then who was renamed.
func (s *mapped) rank() int {
	switch {
	case s.service.Name == s.from.Name:
		return 0
	case !s.renamed:
		return 1
	}
	return 2
}

// uniteMapped makes one service of the first member and those that were renamed to be one with it; others are left out.
func uniteMapped(name Name, members []mapped) *Service {
	var claims []claim
	var left []Side
	for i, s := range members {
		spelt := cmp.Or(s.from.Original, s.from.Name.String())
		if i == 0 || s.renamed {
			claims = append(claims, claim{spelt, i, s.service})
		} else {
			left = append(left, Side{spelt, "another service"})
		}
	}
	u := &union{service: &Service{Name: name}}
	claims = u.alignPorts(claims)
	u.mergeServiceLabels(claims)
	u.service.Original, u.service.ExternalName = claims[0].service.Original, claims[0].service.ExternalName
	for _, e := range u.join(claims) {
		e.Sources = nil // these were the registry's own names; the merge says which source it is
		u.service.Endpoints = append(u.service.Endpoints, e.Endpoint)
	}
	u.service.Ports = u.declaredPorts(claims)
	for _, side := range left {
		u.notes.add(Conflict{
			What: "name", Object: side.Source, Sides: []Side{{claims[0].source, name.String()}, side},
			Text: fmt.Sprintf("name %s: %s is taken, %s is left out", name, quote(claims[0].source), quote(side.Source)),
		}, "")
	}
	u.service.Conflicts = u.notes.conflicts(claims)
	return u.service
}
