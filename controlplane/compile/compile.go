// Package compile turns a Snapshot into the xDS resources that a client is served. It is pure: equal input gives
// byte-identical output, and what did not change keeps its pointer.
//
// It works in two steps. Update makes, once a snapshot, everything that is equal for all clients; it recompiles only
// the services whose pointer changed. ForClass then says what the clients of one class see of it: their scope, and the
// few resources that depend on them. Nothing of it is copied, so a class costs little.
//
// # Names
//
// A service is <service>.<namespace>.<domain>, in namespace "default" also <service>.<domain>; both are matched with
// and without port.
//
//	Cluster, ClusterLoadAssignment   outbound|<port>||<fqdn>          (Istio's form)
//	RouteConfiguration               <fqdn>:<port>                    one service
//	                                 outbound                         everything in a proxy's scope
//	Listener, for a proxy            outbound                         HTTP by Host, at the node's outbound address
//	                                 <fqdn>                           all ports, at the service's loopback address
//	Cluster, ClusterLoadAssignment   <fqdn>                           for proxies, by name only: the endpoints of a service that has a
//	                                                                  port of UDP, or no port at all, or its ExternalName
//	Listener, for gRPC               <fqdn>, <short>, each also with :<port>   api_listener, by name only
package compile

import (
	"slices"

	"github.com/hostmesh/hostmesh/registry"
)

// DefaultDomain is the mesh's domain unless Options says otherwise. ".internal" is reserved for private use.
const DefaultDomain = "mesh.internal"

// Options is what holds for the whole mesh.
type Options struct {
	Domain string // without a leading or trailing dot; "" is DefaultDomain
}

// Common is what one Snapshot means for all clients. It is immutable; a service that did not change is shared with the
// Common before.
type Common struct {
	number    uint64
	domain    string
	services  []*service // sorted by name
	conflicts []Conflict
	hidden    map[registry.Name]bool // services whose loopback address is taken: their listener is in no wildcard
	previous  *change
}

// change is the difference from one Common to the next. It names its predecessor by identity only, so that a chain of
// old states is never kept alive by the newest.
type change struct {
	from  *token
	to    *token
	names [kinds][types][]string // resources that came, went or differ; sorted
}

// token is the identity of a Common or of Resources.
type token struct{ _ byte }

// Conflict is a service that cannot be served as it stands.
type Conflict struct {
	Service registry.Name `json:"service"`
	Reason  string        `json:"reason"`
}

// Update compiles snapshot. previous is the result of the last call with the same options, or nil: what did not
// change since is taken from it.
func Update(previous *Common, snapshot *registry.Snapshot, options Options) *Common {
	if options.Domain == "" {
		options.Domain = DefaultDomain
	}
	c := &Common{number: snapshot.Number, domain: options.Domain, previous: &change{to: new(token)}}
	var old []*service
	if previous != nil && previous.domain == c.domain {
		old, c.previous.from = previous.services, previous.previous.to
	}
	c.services = make([]*service, 0, len(snapshot.Services))
	membership := previous == nil || len(old) != len(snapshot.Services)
	i := 0
	for _, src := range snapshot.Services {
		for i < len(old) && old[i].src.Name.Compare(src.Name) < 0 {
			i, membership = i+1, true
		}
		switch {
		case i == len(old) || old[i].src.Name != src.Name:
			c.services, membership = append(c.services, newService(nil, src, c.domain)), true
			continue
		case old[i].src == src:
			c.services = append(c.services, old[i])
		default:
			c.services = append(c.services, newService(old[i], src, c.domain))
		}
		i++
	}
	if membership {
		c.hidden, c.conflicts = collisions(c.services)
	} else {
		c.hidden, c.conflicts = previous.hidden, previous.conflicts
	}
	if c.previous.from != nil {
		c.diff(previous)
	}
	return c
}

// Number is the number of the snapshot that c was compiled from.
func (c *Common) Number() uint64 { return c.number }

// Conflicts lists the services that are not served in full, sorted by name, with the reason.
func (c *Common) Conflicts() []Conflict { return c.conflicts }

// Changed returns the names of the resources of type t that clients of kind k see differently than in previous: they
// came, went or have another body. ok is false when c was not made from previous; then nothing is known.
func (c *Common) Changed(previous *Common, k Kind, t Type) (names []string, ok bool) {
	if previous == nil || c.previous.from != previous.previous.to {
		return nil, false
	}
	return c.previous.names[k][t], true
}

// diff fills c's change with what differs from previous. Only services of another pointer, or of another visibility,
// are looked at.
func (c *Common) diff(previous *Common) {
	walk(previous.services, c.services, func(before, after *service) {
		hiddenBefore := before != nil && previous.hidden[before.src.Name]
		hiddenAfter := after != nil && c.hidden[after.src.Name]
		if before == after && hiddenBefore == hiddenAfter {
			return
		}
		for k := range kinds {
			for t := range types {
				names := &c.previous.names[k][t]
				*names = appendChanged(*names, before.resources(k, t, hiddenBefore), after.resources(k, t, hiddenAfter))
			}
		}
	})
	for k := range kinds {
		for t := range types {
			slices.Sort(c.previous.names[k][t])
		}
	}
}

// walk merges two sorted lists of services and calls visit for each name that is in one of them.
func walk(before, after []*service, visit func(before, after *service)) {
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		order := 0
		switch {
		case i == len(before):
			order = 1
		case j == len(after):
			order = -1
		case before[i] != after[j]:
			order = before[i].src.Name.Compare(after[j].src.Name)
		}
		switch {
		case order < 0:
			visit(before[i], nil)
			i++
		case order > 0:
			visit(nil, after[j])
			j++
		default:
			visit(before[i], after[j])
			i, j = i+1, j+1
		}
	}
}

// appendChanged appends the names whose resource is not the same pointer in both lists.
func appendChanged(names []string, before, after []*Resource) []string {
	for _, b := range before {
		if a := find(after, b.Name); a != b {
			names = append(names, b.Name)
		}
	}
	for _, a := range after {
		if find(before, a.Name) == nil {
			names = append(names, a.Name)
		}
	}
	return names
}

// find returns the resource of that name. A service has few of one type: a list is the smallest map.
func find(resources []*Resource, name string) *Resource {
	for _, r := range resources {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// service returns the compiled service of that name, or nil.
func (c *Common) service(name registry.Name) *service {
	i, ok := slices.BinarySearchFunc(c.services, name, func(s *service, n registry.Name) int { return s.src.Name.Compare(n) })
	if !ok {
		return nil
	}
	return c.services[i]
}
