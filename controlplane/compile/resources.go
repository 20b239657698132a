package compile

import (
	"bytes"
	"iter"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hostmesh/hostmesh/registry"
)

// Resources is what the clients of one class see of a Common. It is immutable.
type Resources struct {
	common   *Common
	class    Class
	names    []registry.Name // named as upstreams, sorted
	scope    []*service      // in its wildcard, sorted by name
	listener *Resource       // outbound; nil for gRPC
	routes   *Resource       // outbound; nil for gRPC
	from, to *token
}

// ForClass returns what class sees of common. previous is the result for the Common before, or nil: what did not change
// since is taken from it.
func ForClass(previous *Resources, common *Common, class Class) *Resources {
	r := &Resources{common: common, class: class, to: new(token)}
	if previous != nil && previous.class == class && previous.common.domain == common.domain {
		r.names, r.from = previous.names, previous.to
	} else {
		r.names, previous = class.names(), nil
	}
	if class.All {
		r.scope = common.services
	} else {
		for _, name := range r.names {
			if s := common.service(name); s != nil {
				r.scope = append(r.scope, s)
			}
		}
	}
	if class.Kind == GRPC {
		return r
	}
	if previous == nil {
		r.listener = newResource(nil, Listener, outbound, outboundListener(class.Outbound))
		r.routes = outboundRoutes(nil, r.scope)
		return r
	}
	r.listener, r.routes = previous.listener, previous.routes
	sameHosts := func(a, b *service) bool { return a.hosts == b.hosts }
	if !slices.EqualFunc(previous.scope, r.scope, sameHosts) {
		r.routes = outboundRoutes(previous.routes, r.scope)
	}
	return r
}

// outboundRoutes routes to the HTTP ports of all services, by Host. It joins what each service has marshalled.
func outboundRoutes(old *Resource, services []*service) *Resource {
	body := protowire.AppendTag(nil, 1, protowire.BytesType) // RouteConfiguration.name
	body = protowire.AppendString(body, outbound)
	for _, s := range services {
		body = append(body, s.hosts.wire...)
	}
	if old != nil && bytes.Equal(old.Body, body) {
		return old
	}
	return wrap(Route, outbound, body)
}

// Number is the number of the snapshot behind r.
func (r *Resources) Number() uint64 { return r.common.number }

// Get returns the resource of that name, or nil when there is none. Names are not limited to the scope: who asks by
// name gets what exists, a listener whose address is another service's too. Where it listens is then for the client to choose.
func (r *Resources) Get(t Type, name string) *Resource {
	if name == outbound {
		switch t {
		case Listener:
			return r.listener
		case Route:
			return r.routes
		}
		return nil
	}
	s := r.owner(t, name)
	if s == nil {
		return nil
	}
	return s.find(r.class.Kind, t, name)
}

// InWildcard reports whether a wildcard subscription to t covers the resource of that name, if there is one.
func (r *Resources) InWildcard(t Type, name string) bool {
	switch {
	case t == Listener && r.class.Kind == GRPC, t == Endpoint, t == Route:
		return false
	case name == outbound:
		return true
	case t == Cluster && isDirect(name):
		return false
	case t == Cluster && r.class.All:
		return true
	}
	owner, ok := r.parse(t, name)
	if !ok {
		return false
	}
	_, named := slices.BinarySearchFunc(r.names, owner, registry.Name.Compare)
	return named && !(t == Listener && r.common.hidden[owner])
}

// Wildcard yields the resources of t that a wildcard subscription covers: clusters in the scope, and for a proxy the
// outbound listener and those of the services that it names. Only these two types have a wildcard, as xDS has it.
func (r *Resources) Wildcard(t Type) iter.Seq[*Resource] {
	return func(yield func(*Resource) bool) {
		if t == Endpoint || t == Route || t == Listener && r.class.Kind == GRPC {
			return
		}
		if t == Listener && !yield(r.listener) {
			return
		}
		for _, s := range r.scope {
			if t == Listener && !r.isNamed(s) {
				continue
			}
			for _, res := range s.resources(r.class.Kind, t, r.common.hidden[s.src.Name]) {
				if t == Cluster && isDirect(res.Name) {
					continue
				}
				if !yield(res) {
					return
				}
			}
		}
	}
}

func (r *Resources) isNamed(s *service) bool {
	_, named := slices.BinarySearchFunc(r.names, s.src.Name, registry.Name.Compare)
	return named
}

// Changed returns the names of the resources of type t that came, went or differ since previous, in the scope or not.
// ok is false when r was not made from previous: then nothing is known.
func (r *Resources) Changed(previous *Resources, t Type) (names []string, ok bool) {
	if previous == nil || r.from != previous.to {
		return nil, false
	}
	names, ok = r.common.Changed(previous.common, r.class.Kind, t)
	if t == Route && r.routes != previous.routes {
		names = append(slices.Clone(names), outbound)
	}
	return names, ok
}

// owner returns the service to which a resource of that name belongs, or nil.
func (r *Resources) owner(t Type, name string) *service {
	owner, ok := r.parse(t, name)
	if !ok {
		return nil
	}
	return r.common.service(owner)
}

// parse returns the service that a resource's name speaks of.
func (r *Resources) parse(t Type, name string) (registry.Name, bool) {
	host := name
	if t == Cluster || t == Endpoint {
		i := strings.LastIndexByte(name, '|')
		host = name[i+1:]
	} else if i := strings.IndexByte(name, ':'); i >= 0 {
		host = name[:i]
	}
	host, ok := strings.CutSuffix(host, r.common.domain)
	if !ok || !strings.HasSuffix(host, ".") {
		return registry.Name{}, false
	}
	service, namespace, ok := strings.Cut(host[:len(host)-1], ".")
	if !ok {
		namespace = registry.DefaultNamespace
	}
	return registry.Name{Namespace: namespace, Name: service}, true
}
