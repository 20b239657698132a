package zone

import (
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

// kubernetesVersion is the version of Kubernetes' DNS specification whose names there are.
const kubernetesVersion = "1.1.0"

func kubernetesKey(name registry.Name) string { return Key(name) + ".svc" }

// inKubernetes says whether a service is one of Kubernetes: one of its registries reports an endpoint, or it is an external name.
func (b *Builder) inKubernetes(s *registry.Service) bool {
	if len(b.opts.Kubernetes) == 0 {
		return false
	}
	if s.ExternalName != "" && len(s.Endpoints) == 0 {
		return true
	}
	return slices.ContainsFunc(s.Endpoints, func(e *registry.Endpoint) bool {
		return slices.ContainsFunc(e.Sources, func(source string) bool { return slices.Contains(b.opts.Kubernetes, source) })
	})
}

// kubernetes makes the names that Kubernetes' DNS specification has for a service, in the mesh's domain. They are those of a
// headless service: the mesh knows of no cluster IP. An endpoint goes by its ID, which is its pod's or host's name.
func (b *Builder) kubernetes(s *registry.Service) *dnsserver.Branch {
	owner := kubernetesKey(s.Name)
	n := b.begin(s, []string{owner}, func(e *registry.Endpoint) string {
		id, _, _ := strings.Cut(e.ID, "/") // of two that go by one name the second has its address too
		label := registry.Label(id)
		if id != e.ID || label != id {
			label = Label(e.Addr)
		}
		return label + "." + owner
	})
	if !n.alias() {
		n.endpoints()
		n.addresses()
		n.ports()
	}
	const after = 1 // where a service of namespace svc has such a name it keeps it
	return dnsserver.NewBranch(b.origin, after, n.names)
}
