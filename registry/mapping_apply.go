package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// mapper applies a Mapping to the views of one source. It keeps what it made of the last one, so a service that keeps
// its pointer in the view keeps it in the result. It belongs to one goroutine at a time.
type mapper struct {
	mapping Mapping
	ports   []string // the keys of mapping.Ports, longest first
	none    bool     // the mapping is the zero one

	from  []*Service // of the last view
	to    []mapped   // by from
	units map[Name]unit
}

// mapped is what became of one service.
type mapped struct {
	service *Service // nil: it is not taken
	from    *Service
	renamed bool
	problem string // what the mapping could not do
}

// unit is a service of several that the mapping gives one name.
type unit struct {
	members []mapped
	service *Service
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
	for i, s := range v.Services {
		for len(from) > 0 && from[0].Name.Compare(s.Name) < 0 {
			from, last = from[1:], last[1:]
		}
		if len(from) > 0 && from[0] == s {
			to[i] = last[0]
		} else {
			to[i] = m.service(s)
		}
	}
	m.from, m.to = v.Services, to

	out := View{Services: make([]*Service, 0, len(to)), Hosts: v.Hosts, Problems: slices.Clip(v.Problems)}
	sorted := true
	for _, s := range to {
		if s.service == nil {
			continue
		}
		if n := len(out.Services); n > 0 && out.Services[n-1].Name.Compare(s.service.Name) >= 0 {
			sorted = false
		}
		out.Services = append(out.Services, s.service)
		if s.problem != "" {
			out.Problems = append(out.Problems, Problem{Object: s.from.Name.String(), Reason: s.problem, Kind: "mapping"})
		}
	}
	if !sorted {
		out.Services = m.unite(to)
	} else {
		m.units = nil
	}
	return out
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

// unite sorts services by their new names and makes one of those that have the same.
func (m *mapper) unite(all []mapped) []*Service {
	taken := sortMapped(all)
	services := make([]*Service, 0, len(taken))
	units := make(map[Name]unit)
	for len(taken) > 0 {
		name := taken[0].service.Name
		n := 1
		for n < len(taken) && taken[n].service.Name == name {
			n++
		}
		members := taken[:n]
		taken = taken[n:]
		if n == 1 {
			services = append(services, members[0].service)
			continue
		}
		u, ok := m.units[name]
		if !ok || !slices.Equal(u.members, members) {
			u = unit{members, uniteMapped(name, members)}
		}
		units[name] = u
		services = append(services, u.service)
	}
	m.units = units
	return services
}

// sortMapped returns what is taken by its new name, who gives the name its service first. Those that are not renamed
// mostly are in order already, so they are sorted apart, which costs little, and the others put between them.
func sortMapped(all []mapped) []mapped {
	var renamed []mapped
	taken := make([]mapped, 0, len(all))
	for _, s := range all {
		switch {
		case s.service == nil:
		case s.renamed:
			renamed = append(renamed, s)
		default:
			taken = append(taken, s)
		}
	}
	slices.SortFunc(taken, compareMapped)
	slices.SortFunc(renamed, compareMapped)
	sorted := make([]mapped, 0, len(taken)+len(renamed))
	for _, s := range renamed {
		at, _ := slices.BinarySearchFunc(taken, s, compareMapped)
		sorted = append(append(sorted, taken[:at]...), s)
		taken = taken[at:]
	}
	return append(sorted, taken...)
}

func compareMapped(a, b mapped) int {
	if c := a.service.Name.Compare(b.service.Name); c != 0 {
		return c
	}
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
	u.service.Original = claims[0].service.Original
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
