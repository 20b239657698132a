package kubernetes

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostmesh/hostmesh/registry"
)

// build makes the service of a Service and its EndpointSlices, by their names. It is nil when the Service cannot be
// one. nodes tells the locality of a Node.
func build(name types.NamespacedName, s *service, parts map[string]*slice, nodes map[string]registry.Locality) (*registry.Service, []registry.Problem) {
	problems := problemsOf("services/"+name.String(), s.problems)
	if s.absent {
		return nil, problems
	}
	out := &registry.Service{
		Name: registry.Name{Namespace: name.Namespace, Name: name.Name}, Ports: slices.Clone(s.ports), Labels: s.labels,
		ExternalName: s.external,
	}
	if s.external != "" {
		return out, problems // slices that bear its name are nobody's
	}
	g := gathering{ids: make(map[string]*registry.Endpoint), nodes: nodes}
	names := slices.Sorted(maps.Keys(parts))
	// The Service's primary family goes first: an instance that it has is not taken again from the other one.
	for _, primary := range []bool{true, false} {
		for _, n := range names {
			p := parts[n]
			if (p.ipv6 == s.ipv6) != primary {
				continue
			}
			if p.ownerUID != "" && p.ownerUID != s.uid {
				problems = append(problems, registry.Problem{
					Object: "endpointslices/" + name.Namespace + "/" + n, Kind: "owner",
					Reason: "got a slice made for a Service of that name before or after this one, want this one's uid in ownerReferences, or none",
				})
				continue
			}
			ports, matched := match(out.Ports, p.ports)
			problems = append(problems, problemsOf("endpointslices/"+name.Namespace+"/"+n, p.problems)...)
			if !matched {
				problems = append(problems, registry.Problem{
					Object: "endpointslices/" + name.Namespace + "/" + n, Kind: "port",
					Reason: "got ports of which the Service has none, want its ports by name and protocol",
				})
			}
			g.add(p, ports)
		}
	}
	out.Endpoints = g.endpoints
	slices.SortFunc(out.Endpoints, func(x, y *registry.Endpoint) int { return strings.Compare(x.ID, y.ID) })
	return out, problems
}

// problemsOf returns problems as those of an object.
func problemsOf(object string, of []registry.Problem) []registry.Problem {
	problems := slices.Clone(of)
	for i := range problems {
		problems[i].Object = object
	}
	return problems
}

// match joins a slice's ports to the Service's by name and transport. What the Service leaves open of the protocol the
// slice fills in. It is not matched when both have ports, and none in common.
func match(ports []registry.Port, of []slicePort) (at []registry.EndpointPort, matched bool) {
	for i := range ports {
		p := &ports[i]
		k := slices.IndexFunc(of, func(s slicePort) bool { return s.name == p.Name && s.udp == (p.Protocol == registry.UDP) })
		if k < 0 {
			continue
		}
		p.Protocol = cmp.Or(p.Protocol, of[k].protocol)
		at = append(at, registry.EndpointPort{Name: p.Name, Number: cmp.Or(of[k].number, p.Number)})
	}
	return at, len(at) > 0 || len(ports) == 0 || len(of) == 0
}

// gathering joins the endpoints of several slices. One instance may be in two of them: while a controller moves it,
// or as each slice tells other ports.
type gathering struct {
	nodes     map[string]registry.Locality
	ids       map[string]*registry.Endpoint
	endpoints []*registry.Endpoint
}

func (g *gathering) add(p *slice, ports []registry.EndpointPort) {
	block := make([]registry.Endpoint, 0, len(p.instances)) // one allocation for all
	for i := range p.instances {
		in := &p.instances[i]
		id := in.id
		have := g.ids[id]
		if have != nil && have.Addr.Is6() != in.addr.Is6() {
			continue // the same instance in its other family
		}
		for have != nil && have.Addr != in.addr {
			// Two instances say that they are one (a pod of a StatefulSet that came back elsewhere, names written by
			// hand): none may hide the other.
			id += "/" + in.addr.String()
			have = g.ids[id]
		}
		if have != nil {
			have.Ports = union(have.Ports, ports)
			have.Health = worse(have.Health, in.health)
			continue
		}
		locality := g.nodes[in.node]
		locality.Zone = cmp.Or(in.zone, locality.Zone)
		block = append(block, registry.Endpoint{
			ID: id, Addr: in.addr, Ports: ports, Host: in.node, Locality: locality, Weight: 1, Health: in.health,
		})
		e := &block[len(block)-1]
		g.ids[id] = e
		g.endpoints = append(g.endpoints, e)
	}
}

// union returns the ports of both, sorted by name; the first stands where they differ. It changes neither.
func union(a, b []registry.EndpointPort) []registry.EndpointPort {
	for _, p := range b {
		i, found := slices.BinarySearchFunc(a, p.Name, func(x registry.EndpointPort, name string) int { return strings.Compare(x.Name, name) })
		if !found {
			a = slices.Insert(slices.Clone(a), i, p)
		}
	}
	return a
}

// worse is the rule of the merge: draining if any says so, else unhealthy if any says so, else healthy if any does.
func worse(a, b registry.Health) registry.Health { return max(a, b) }
