package consul

import (
	"maps"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// part is what one datacenter says about one of its services. It is immutable.
type part struct {
	name      string // Consul's spelling
	label     string // what it becomes in the mesh
	instances int    // entries in Consul's answer, of whatever kind
	ports     []registry.Port
	endpoints []*registry.Endpoint // sorted by ID
	problems  []registry.Problem
}

func (p *part) problem(kind, object, reason string) {
	p.problems = append(p.problems, registry.Problem{Object: object, Kind: kind, Reason: reason})
}

// unread notes that an instance cannot be read, and takes over the endpoint of its ID from before, if there is one.
func (p *part) unread(before *part, id, kind, object, reason string) {
	p.problem(kind, object, reason)
	if e := before.endpoint(id); e != nil {
		p.endpoints = append(p.endpoints, e)
		p.problems[len(p.problems)-1].Stale = true
	}
}

// endpoint returns the endpoint of that ID, or nil. p may be nil.
func (p *part) endpoint(id string) *registry.Endpoint {
	if p == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(p.endpoints, id, func(e *registry.Endpoint, id string) int { return strings.Compare(e.ID, id) })
	if !ok {
		return nil
	}
	return p.endpoints[i]
}

// lost tells whether before had an endpoint, or an instance, that p has not.
func (p *part) lost(before *part) bool {
	if before == nil {
		return false
	}
	if p.instances < before.instances {
		return true
	}
	return slices.ContainsFunc(before.endpoints, func(e *registry.Endpoint) bool { return p.endpoint(e.ID) == nil })
}

// equal tells whether p and q say the same.
func (p *part) equal(q *part) bool {
	return p.instances == q.instances && slices.Equal(p.ports, q.ports) && slices.Equal(p.problems, q.problems) &&
		slices.EqualFunc(p.endpoints, q.endpoints, sameEndpoint)
}

// reuse takes the endpoints that did not change from before, so that they are in memory once.
func (p *part) reuse(before *part) {
	for i, e := range p.endpoints {
		if old := before.endpoint(e.ID); old != nil && sameEndpoint(old, e) {
			p.endpoints[i] = old
		}
	}
}

func sameEndpoint(x, y *registry.Endpoint) bool {
	return x == y || x.ID == y.ID && x.Addr == y.Addr && slices.Equal(x.Ports, y.Ports) && x.Host == y.Host &&
		x.Locality == y.Locality && maps.Equal(x.Labels, y.Labels) && x.Weight == y.Weight && x.Health == y.Health
}

func sameService(x, y *registry.Service) bool {
	return x.Name == y.Name && x.Original == y.Original && slices.Equal(x.Ports, y.Ports) &&
		slices.EqualFunc(x.Endpoints, y.Endpoints, sameEndpoint)
}
