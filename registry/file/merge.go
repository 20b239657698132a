package file

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/internal/hostfile"
	"github.com/hostmesh/hostmesh/registry"
)

// merge makes the view of all files. A service that stands in several is the union of them; where they contradict each
// other the first file (by name) is believed and the other one's entry is a problem.
func (f *files) merge(names []string) registry.View {
	var view registry.View
	building := map[registry.Name]*union{}
	for _, name := range names {
		known := f.known[name]
		view.Problems = append(view.Problems, known.problems...)
		for i := range known.services {
			s := &known.services[i]
			key := registry.Name{Namespace: s.Namespace, Name: s.Service}
			u := building[key]
			if u == nil {
				u = &union{service: &registry.Service{Name: key}, ids: map[string]string{}, ports: map[string]string{}}
				building[key] = u
			}
			view.Problems = append(view.Problems, u.add(name, s)...)
		}
	}
	for _, u := range building {
		view.Services = append(view.Services, u.finish())
	}
	slices.SortFunc(view.Services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	before := registry.Snapshot{Services: f.last}
	for i, s := range view.Services {
		if old := before.Service(s.Name); old != nil && reflect.DeepEqual(old, s) {
			view.Services[i] = old
		}
	}
	f.last = view.Services
	return registry.View{Services: slices.Clone(view.Services), Problems: view.Problems} // the receiver owns it
}

// union is a service being put together from several files.
type union struct {
	service *registry.Service
	ids     map[string]string // endpoint ID → where it stands
	ports   map[string]string // port name → where it stands
}

func (u *union) add(file string, s *hostfile.Service) (problems []registry.Problem) {
	for _, p := range s.Ports {
		port := registry.Port{Name: p.Name, Number: p.Port, Protocol: registry.Protocol(p.Protocol)}
		here := at(file, s.Line)
		if i := slices.IndexFunc(u.service.Ports, func(have registry.Port) bool { return have.Name == p.Name }); i >= 0 {
			if have := &u.service.Ports[i]; !agree(have, port) {
				problems = append(problems, registry.Problem{Object: here, Kind: "port", Reason: fmt.Sprintf(
					"service %s: got port %s, want %s as in %s", u.service.Name, portString(port), portString(*have), u.ports[p.Name])})
			}
			continue
		}
		u.service.Ports = append(u.service.Ports, port)
		u.ports[p.Name] = here
	}
	for i := range s.Endpoints {
		e := endpoint(&s.Endpoints[i])
		here := at(file, s.Endpoints[i].Line)
		if first, ok := u.ids[e.ID]; ok {
			problems = append(problems, registry.Problem{Object: here, Kind: "duplicate", Reason: fmt.Sprintf(
				"service %s: got endpoint %s a second time, want it once (first at %s)", u.service.Name, e.ID, first)})
			continue
		}
		u.ids[e.ID] = here
		u.service.Endpoints = append(u.service.Endpoints, e)
	}
	return problems
}

// agree reports whether two files say the same of a port, and lets have learn what only the other says.
func agree(have *registry.Port, other registry.Port) bool {
	if have.Number != 0 && other.Number != 0 && have.Number != other.Number ||
		have.Protocol != "" && other.Protocol != "" && have.Protocol != other.Protocol {
		return false
	}
	have.Number = cmp.Or(have.Number, other.Number)
	have.Protocol = cmp.Or(have.Protocol, other.Protocol)
	return true
}

func portString(p registry.Port) string {
	return strings.TrimSpace(fmt.Sprintf("%s %d %s", p.Name, p.Number, p.Protocol))
}

// finish puts everything in order.
func (u *union) finish() *registry.Service {
	s := u.service
	slices.SortFunc(s.Ports, func(a, b registry.Port) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Endpoints, func(a, b *registry.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

func endpoint(from *hostfile.Endpoint) *registry.Endpoint {
	e := &registry.Endpoint{
		Addr: from.Address, Labels: from.Labels, Weight: from.Weight, Health: health(from.Health),
		Locality: registry.Locality(from.Locality),
	}
	var numbers []string
	for _, name := range slices.Sorted(maps.Keys(from.Ports)) {
		e.Ports = append(e.Ports, registry.EndpointPort{Name: name, Number: from.Ports[name]})
		numbers = append(numbers, strconv.Itoa(int(from.Ports[name])))
	}
	e.ID = from.Address.String() + ":" + strings.Join(numbers, ",")
	if from.Address.Is6() {
		e.ID = "[" + from.Address.String() + "]:" + strings.Join(numbers, ",")
	}
	return e
}

func health(s string) registry.Health {
	var h registry.Health
	if err := h.UnmarshalText([]byte(s)); err != nil {
		return registry.Unknown // the decoder has let no other name pass
	}
	return h
}
