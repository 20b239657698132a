package registry

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
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
	entries  map[string]Entry           // by key
	problems map[string]string          // by key
	names    map[Name]map[string]string // key → the service's spelling
	built    map[Name]*Service
	dirty    map[Name]struct{}
	services []*Service // sorted, as of the last View
}

// NewAssembly returns an Assembly without entries.
func NewAssembly() *Assembly {
	return &Assembly{
		entries: make(map[string]Entry), problems: make(map[string]string), names: make(map[Name]map[string]string),
		built: make(map[Name]*Service), dirty: make(map[Name]struct{}),
	}
}

// Set takes the entry of a key in place of what it said before; the Assembly owns it from now on. An entry that no
// View may hold is rejected, with the reason as a Problem, and the last good one stays.
func (a *Assembly) Set(key string, e Entry) {
	name, err := e.check()
	if err != nil {
		a.Reject(key, err.Error())
		return
	}
	delete(a.problems, key)
	old, had := a.entries[key]
	if had && reflect.DeepEqual(old, e) {
		return
	}
	if had {
		a.drop(key, old)
	}
	a.entries[key] = e
	if a.names[name] == nil {
		a.names[name] = make(map[string]string)
	}
	a.names[name][key] = e.Namespace + "/" + e.Service
	a.dirty[name] = struct{}{}
}

// Reject says that the entry of a key cannot be read: what it said last, if anything, stays, and reason is listed.
func (a *Assembly) Reject(key, reason string) { a.problems[key] = reason }

// Delete forgets a key and its problem.
func (a *Assembly) Delete(key string) {
	delete(a.problems, key)
	if e, ok := a.entries[key]; ok {
		delete(a.entries, key)
		a.drop(key, e)
	}
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

func (a *Assembly) drop(key string, e Entry) {
	name := e.name()
	a.dirty[name] = struct{}{}
	if delete(a.names[name], key); len(a.names[name]) == 0 {
		delete(a.names, name)
	}
}

// View returns everything that is set now. The caller owns it.
func (a *Assembly) View() View {
	moved := false
	for name := range a.dirty {
		old := a.built[name]
		s := a.build(name)
		switch {
		case s == nil:
			delete(a.built, name)
		case old != nil && reflect.DeepEqual(old, s):
			continue
		default:
			a.built[name] = s
		}
		moved = true
	}
	clear(a.dirty)
	if moved {
		a.services = slices.SortedFunc(maps.Values(a.built), func(x, y *Service) int { return x.Name.Compare(y.Name) })
	}
	v := View{Services: slices.Clone(a.services)}
	for _, key := range slices.Sorted(maps.Keys(a.problems)) {
		v.Problems = append(v.Problems, Problem{Object: key, Reason: a.problems[key]})
	}
	return v
}

// build makes the service of a name from its entries, in the order of their keys; nil without any.
func (a *Assembly) build(name Name) *Service {
	spellings := a.names[name]
	if len(spellings) == 0 {
		return nil
	}
	s := &Service{Name: name}
	chosen := chooseSpelling(name, spellings)
	if chosen != name.String() && chosen != "/"+name.Name {
		s.Original = strings.TrimPrefix(chosen, "/")
	}
	ids := make(map[string]string) // endpoint ID → key
	for _, key := range slices.Sorted(maps.Keys(spellings)) {
		e := a.entries[key]
		if spellings[key] != chosen {
			s.clash("name", "", "", chosen, key, spellings[key])
			continue
		}
		s.addPorts(key, e.Ports)
		s.addLabels(key, e.Labels)
		if e.Endpoint == nil {
			continue
		}
		if first, ok := ids[e.Endpoint.ID]; ok {
			s.clash("endpoint ID", e.Endpoint.ID, first, e.Endpoint.Addr.String(), key, e.Endpoint.Addr.String())
			continue
		}
		ids[e.Endpoint.ID] = key
		s.Endpoints = append(s.Endpoints, e.Endpoint)
	}
	slices.SortFunc(s.Endpoints, func(x, y *Endpoint) int { return strings.Compare(x.ID, y.ID) })
	return s
}

// chooseSpelling returns the spelling that is the name itself, else the first.
func chooseSpelling(name Name, spellings map[string]string) string {
	best := ""
	for _, s := range spellings {
		own := s == name.String() || s == "/"+name.Name
		if best == "" || own || s < best {
			best = s
		}
		if own {
			break
		}
	}
	return best
}

func (s *Service) addPorts(key string, ports []Port) {
	for _, p := range ports {
		i, found := slices.BinarySearchFunc(s.Ports, p.Name, func(p Port, name string) int { return cmp.Compare(p.Name, name) })
		if !found {
			s.Ports = slices.Insert(slices.Clip(s.Ports), i, p)
			continue
		}
		have := &s.Ports[i]
		if have.Number != p.Number && p.Number != 0 && have.Number != 0 {
			s.clash("port number", p.Name, "", fmt.Sprint(have.Number), key, fmt.Sprint(p.Number))
		}
		if have.Protocol != p.Protocol && p.Protocol != "" && have.Protocol != "" {
			s.clash("port protocol", p.Name, "", string(have.Protocol), key, string(p.Protocol))
		}
		have.Number, have.Protocol = cmp.Or(have.Number, p.Number), cmp.Or(have.Protocol, p.Protocol)
	}
}

func (s *Service) addLabels(key string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		have, ok := s.Labels[k]
		switch {
		case !ok && s.Labels == nil:
			s.Labels = map[string]string{k: labels[k]}
		case !ok:
			s.Labels[k] = labels[k]
		case have != labels[k]:
			s.clash("label", k, "", have, key, labels[k])
		}
	}
}

// clash notes what two entries say differently; the first is taken. It is one conflict for each thing and side.
func (s *Service) clash(what, object, first, says, second, other string) {
	for i := range s.Conflicts {
		c := &s.Conflicts[i]
		if c.What == what && c.Object == object && c.Sides[0].Says == says && c.Sides[1].Says == other {
			c.More++
			return
		}
	}
	text := strings.TrimSpace(what+" "+object) + fmt.Sprintf(": %q is taken, %s says %q", says, second, other)
	s.Conflicts = append(s.Conflicts, Conflict{
		What: what, Object: object, Sides: []Side{{first, says}, {second, other}}, Text: text,
	})
}

func (e *Entry) name() Name {
	return Name{Namespace: Label(cmp.Or(e.Namespace, DefaultNamespace)), Name: Label(e.Service)}
}

// check returns the name of the entry's service, or why no View may hold the entry.
func (e *Entry) check() (Name, error) {
	name := e.name()
	s := Service{Name: name, Ports: e.Ports}
	if e.Endpoint != nil {
		s.Endpoints = []*Endpoint{e.Endpoint}
	}
	if name.Name == "" || name.Namespace == "" {
		return name, fmt.Errorf("got service %.100q in namespace %.100q, want names with a letter or digit", e.Service, e.Namespace)
	}
	return name, s.validate()
}
