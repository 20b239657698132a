package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Entry is what one entry of a registry (a key, a node, a record) says: a service and, mostly, one endpoint of it.
type Entry struct {
	Namespace string // as the registry spells it; "" is DefaultNamespace
	Service   string // as the registry spells it
	Ports     []Port // of the service, as this entry declares them; sorted by Name
	Labels    map[string]string
	Endpoint  *Endpoint // nil: the entry only declares the service
}

// Assembly makes Views out of entries: the part that registries of keys and values have in common. It groups entries
// by service, turns names into labels, keeps the pointers of what did not change, and keeps the last good word of an
// entry that cannot be read. A change costs as much as the service it touches. It belongs to one goroutine.
type Assembly struct {
	entries  map[string]*assembled // by key
	problems map[string]Problem    // by key
	groups   map[Name]*group
	dirty    map[Name]*group
	services []*Service // sorted, as of the last View
}

// assembled is an entry and where it belongs.
type assembled struct {
	Entry
	group *group
}

// group is the entries of one service.
type group struct {
	name  Name
	keys  []string   // of its entries, and of some that have left since it was built last; sorted as far as built
	last  *assembled // what its next entries are likely to share
	built *Service
}

// NewAssembly returns an Assembly without entries.
func NewAssembly() *Assembly {
	return &Assembly{
		entries: make(map[string]*assembled), problems: make(map[string]Problem),
		groups: make(map[Name]*group), dirty: make(map[Name]*group),
	}
}

// Set takes the entry of a key in place of what it said before; the Assembly owns it from now on. An entry that no
// View may hold is rejected, with the reason as a Problem, and the last good one stays.
func (a *Assembly) Set(key string, e Entry) {
	name, err := e.check()
	if err != nil {
		a.RejectAs(key, "entry", err.Error())
		return
	}
	delete(a.problems, key)
	old := a.entries[key]
	if old != nil && old.equal(&e) {
		return
	}
	g := a.groups[name]
	if g == nil {
		g = &group{name: name}
		a.groups[name] = g
	}
	if old == nil || old.group != g {
		a.drop(old)
		g.keys = append(g.keys, key)
	}
	next := &assembled{e, g}
	next.share(g.last)
	g.last = next
	a.entries[key] = next
	a.dirty[name] = g
}

// Reject says that the entry of a key cannot be read: what it said last, if anything, stays, and reason is listed.
func (a *Assembly) Reject(key, reason string) { a.RejectAs(key, "", reason) }

// RejectAs is Reject, with the kind of the Problem.
func (a *Assembly) RejectAs(key, kind, reason string) {
	a.Note(key, Problem{Kind: kind, Reason: reason})
}

// Note is RejectAs for a Problem that may be Stale although nothing is set under its key: what it is about stands in
// entries of other keys.
func (a *Assembly) Note(key string, p Problem) {
	p.Object = key
	a.problems[key] = p
}

// Delete forgets a key and its problem.
func (a *Assembly) Delete(key string) {
	delete(a.problems, key)
	a.drop(a.entries[key])
	delete(a.entries, key)
}

// Keys returns the keys that are set or rejected, in no order.
func (a *Assembly) Keys() []string {
	keys := slices.Collect(maps.Keys(a.entries))
	for key := range a.problems {
		if _, ok := a.entries[key]; !ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// drop has the group of an entry, which may be nil, look for what is left of it.
func (a *Assembly) drop(old *assembled) {
	if old != nil {
		a.dirty[old.group.name] = old.group
	}
}

// View returns everything that is set now. The caller owns it.
func (a *Assembly) View() View {
	var names []Name
	for name, g := range a.dirty {
		s := a.build(g)
		if g.built != nil && s != nil && g.built.equal(s) {
			continue
		}
		if g.built = s; s == nil {
			delete(a.groups, name)
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		slices.SortFunc(names, Name.Compare)
		made := make([]*Service, len(names))
		for i, name := range names {
			made[i] = a.dirty[name].built
		}
		a.services = splice(a.services, names, made)
	}
	clear(a.dirty)
	v := View{Services: slices.Clone(a.services)}
	for _, key := range slices.Sorted(maps.Keys(a.problems)) {
		p := a.problems[key]
		p.Stale = p.Stale || a.entries[key] != nil
		v.Problems = append(v.Problems, p)
	}
	return v
}

// build makes the service of a group from its entries, in the order of their keys; nil without any.
func (a *Assembly) build(g *group) *Service {
	slices.Sort(g.keys)
	g.keys = slices.DeleteFunc(slices.Compact(g.keys), func(key string) bool {
		e := a.entries[key]
		return e == nil || e.group != g
	})
	if len(g.keys) == 0 {
		return nil
	}
	chosen := a.chooseSpelling(g)
	b := a.assemble(g, chosen, nil)
	if b.contested {
		b = a.assemble(g, chosen, a.vote(g, chosen))
	}
	slices.SortFunc(b.service.Endpoints, func(x, y *Endpoint) int { return strings.Compare(x.ID, y.ID) })
	b.service.Conflicts = withMore(b.service.Conflicts, len(b.service.Conflicts)+b.more)
	return b.service
}

// assemble puts together what the entries of that spelling say; of ports, what is given goes before their word.
func (a *Assembly) assemble(g *group, chosen string, ports []Port) *assembling {
	b := &assembling{service: &Service{Name: g.name, Ports: ports}, ids: make(map[string]owner, len(g.keys))}
	if chosen != g.name.String() && chosen != "/"+g.name.Name {
		b.service.Original = strings.TrimPrefix(chosen, "/")
	}
	for _, key := range g.keys {
		e := a.entries[key]
		if !e.spells(chosen) {
			b.clash("name", "", "", chosen, key, e.spelling())
			continue
		}
		b.add(key, &e.Entry)
	}
	return b
}

// vote returns the ports with the number and the protocol that most entries declare, so that one of them does not turn
// the service; of as many, with those of the first.
func (a *Assembly) vote(g *group, chosen string) (ports []Port) {
	votes := make(map[Port]int) // by what is said: a number without a protocol, or the other way round
	each := func(do func(p Port)) {
		for _, key := range g.keys {
			if e := a.entries[key]; e.spells(chosen) {
				for _, p := range e.Ports {
					do(p)
				}
			}
		}
	}
	number := func(p Port) Port { return Port{Name: p.Name, Number: p.Number} }
	protocol := func(p Port) Port { return Port{Name: p.Name, Protocol: p.Protocol} }
	each(func(p Port) {
		if p.Number != 0 {
			votes[number(p)]++
		}
		if p.Protocol != "" {
			votes[protocol(p)]++
		}
	})
	each(func(p Port) {
		i, found := slices.BinarySearchFunc(ports, p.Name, comparePort)
		if !found {
			ports = slices.Insert(ports, i, Port{Name: p.Name})
		}
		have := &ports[i]
		if votes[number(p)] > votes[number(*have)] {
			have.Number = p.Number
		}
		if votes[protocol(p)] > votes[protocol(*have)] {
			have.Protocol = p.Protocol
		}
	})
	return ports
}

// chooseSpelling returns the spelling that is the name itself, else the first.
func (a *Assembly) chooseSpelling(g *group) string {
	best := ""
	for _, key := range g.keys {
		e := a.entries[key]
		if best != "" && e.spells(best) {
			continue
		}
		s := e.spelling()
		own := s == g.name.String() || s == "/"+g.name.Name
		if best == "" || own || s < best {
			best = s
		}
		if own {
			break
		}
	}
	return best
}

// assembling is a service in the making.
type assembling struct {
	service *Service
	ids     map[string]owner // by endpoint ID
	copied  bool             // the service's labels are its own map
	more    int              // conflicts that are not listed

	contested bool // entries say different things of a port
}

// owner is who said an endpoint ID first.
type owner struct {
	key      string
	endpoint *Endpoint
}

// add adds what an entry says.
func (b *assembling) add(key string, e *Entry) {
	b.addPorts(key, e.Ports)
	b.addLabels(key, e.Labels)
	if e.Endpoint == nil {
		return
	}
	if first, ok := b.ids[e.Endpoint.ID]; ok {
		b.clash("endpoint ID", e.Endpoint.ID, first.key, first.endpoint.Addr.String(), key, e.Endpoint.Addr.String())
		return
	}
	b.ids[e.Endpoint.ID] = owner{key, e.Endpoint}
	b.service.Endpoints = append(b.service.Endpoints, e.Endpoint)
}

func (b *assembling) addPorts(key string, ports []Port) {
	s := b.service
	for _, p := range ports {
		i, found := slices.BinarySearchFunc(s.Ports, p.Name, comparePort)
		if !found {
			s.Ports = slices.Insert(s.Ports, i, p)
			continue
		}
		have := &s.Ports[i]
		if have.Number != p.Number && p.Number != 0 && have.Number != 0 {
			b.contested = true
			b.clash("port number", p.Name, "", fmt.Sprint(have.Number), key, fmt.Sprint(p.Number))
		}
		if have.Protocol != p.Protocol && p.Protocol != "" && have.Protocol != "" {
			b.contested = true
			b.clash("port protocol", p.Name, "", string(have.Protocol), key, string(p.Protocol))
		}
		have.Number, have.Protocol = cmp.Or(have.Number, p.Number), cmp.Or(have.Protocol, p.Protocol)
	}
}

// addLabels shares the map of the only entry that has labels, and copies before it writes.
func (b *assembling) addLabels(key string, labels map[string]string) {
	s := b.service
	if len(s.Labels) == 0 {
		s.Labels = labels
		return
	}
	var clashing []string
	for k, v := range labels {
		have, ok := s.Labels[k]
		switch {
		case !ok && !b.copied:
			s.Labels, b.copied = maps.Clone(s.Labels), true
			fallthrough
		case !ok:
			s.Labels[k] = v
		case have != v:
			clashing = append(clashing, k)
		}
	}
	slices.Sort(clashing)
	for _, k := range clashing {
		b.clash("label", k, "", s.Labels[k], key, labels[k])
	}
}

// clash notes what two entries say differently; what is said first is taken. It is one conflict for each thing and side, up to
// mostConflicts.
func (b *assembling) clash(what, object, first, says, second, other string) {
	says, other = brief(says), brief(other)
	s := b.service
	for i := range s.Conflicts {
		c := &s.Conflicts[i]
		if c.What == what && c.Object == object && c.Sides[0].Says == says && c.Sides[1].Says == other {
			c.More++
			return
		}
	}
	if len(s.Conflicts) == mostConflicts {
		b.more++
		return
	}
	text := strings.TrimSpace(what+" "+brief(object)) + fmt.Sprintf(": %q is taken, %s says %q", says, brief(second), other)
	s.Conflicts = append(s.Conflicts, Conflict{
		What: what, Object: object, Sides: []Side{{first, says}, {second, other}}, Text: text,
	})
}
