package kubernetes

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unique"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/hostmesh/hostmesh/registry"
)

// What is kept of the API's objects: only what a view needs, as most of an object (managed fields, status,
// annotations) would be held for nothing. The values are immutable.

// service is a Service.
type service struct {
	uid      types.UID       // of this life of the name
	ports    []registry.Port // sorted by Name
	labels   map[string]string
	external string             // of type ExternalName: the name that stands for it
	ipv6     bool               // its primary address family
	absent   bool               // it cannot be a service of the mesh
	problems []registry.Problem // without Object
}

// slice is an EndpointSlice.
type slice struct {
	owner     types.NamespacedName // its Service
	ownerUID  types.UID            // the life of the Service that it was made for; "": any
	ipv6      bool
	ports     []slicePort
	instances []instance
	problems  []registry.Problem // without Object
}

// slicePort is where the instances of a slice listen for a port of the Service.
type slicePort struct {
	name     string
	number   uint16 // 0: on any port
	udp      bool
	protocol registry.Protocol
}

// instance is an endpoint of a slice.
type instance struct {
	id         string
	addr       netip.Addr
	node, zone string
	health     registry.Health
}

// add adds a problem of a kind (see registry.Problem).
func add(to []registry.Problem, kind, format string, args ...any) []registry.Problem {
	return append(to, registry.Problem{Kind: kind, Reason: fmt.Sprintf(format, args...)})
}

// reservedNamespace holds the hosts of the mesh.
const reservedNamespace = "host"

func convertService(o *core.Service) *service {
	s := &service{uid: o.UID, labels: o.Labels}
	s.ipv6 = len(o.Spec.IPFamilies) > 0 && o.Spec.IPFamilies[0] == core.IPv6Protocol
	switch {
	case o.Namespace == reservedNamespace:
		s.absent = true
		s.problems = add(nil, "name", "got namespace host, want another: the mesh keeps that one for hosts")
		return s
	case o.Spec.Type == core.ServiceTypeExternalName:
		if s.external = externalName(o.Spec.ExternalName); s.external == "" {
			s.absent = true
			s.problems = add(nil, "type", "got external name %.253q, want a domain name; for an address write an EndpointSlice", o.Spec.ExternalName)
		}
		return s
	}
	for i := range o.Spec.Ports {
		p := &o.Spec.Ports[i]
		if !carries(p.Protocol) || p.Port < 1 || p.Port > 65535 {
			s.problems = add(s.problems, "port", "port %.63q: got %.20s %d, want TCP or UDP, 1 to 65535", p.Name, p.Protocol, p.Port)
			continue
		}
		if slices.ContainsFunc(s.ports, func(x registry.Port) bool { return x.Name == p.Name }) {
			s.problems = add(s.problems, "duplicate", "port %.63q: got it twice, want names that are unique", p.Name)
			continue
		}
		s.ports = append(s.ports, registry.Port{
			Name: intern(p.Name), Number: uint16(p.Port), Protocol: protocol(p.Protocol, p.AppProtocol),
		})
	}
	slices.SortFunc(s.ports, func(x, y registry.Port) int { return cmp.Compare(x.Name, y.Name) })
	return s
}

// externalName returns a domain name in lower case without its last dot, "" for what is none. An address is a name, to
// Kubernetes; nobody could look it up.
func externalName(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if _, err := netip.ParseAddr(name); err == nil || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return ""
	}
	return name
}

func convertSlice(o *discovery.EndpointSlice) *slice {
	s := &slice{owner: types.NamespacedName{Namespace: o.Namespace, Name: intern(o.Labels[discovery.LabelServiceName])}}
	for _, r := range o.OwnerReferences {
		if r.Kind == "Service" && r.Name == s.owner.Name {
			s.ownerUID = r.UID
		}
	}
	switch o.AddressType {
	case discovery.AddressTypeIPv4:
	case discovery.AddressTypeIPv6:
		s.ipv6 = true
	default:
		s.problems = add(nil, "type", "got address type %.20q, want IPv4 or IPv6; read host names with the dns registry", o.AddressType)
		return s
	}
	for i := range o.Ports {
		p := &o.Ports[i]
		transport := deref(p.Protocol, core.ProtocolTCP)
		number := deref(p.Port, 0)
		if !carries(transport) || number < 0 || number > 65535 {
			s.problems = add(s.problems, "port", "port %.63q: got %.20s %d, want TCP or UDP, 1 to 65535", deref(p.Name, ""), transport, number)
			continue
		}
		s.ports = append(s.ports, slicePort{
			name: intern(deref(p.Name, "")), number: uint16(number), udp: transport == core.ProtocolUDP,
			protocol: protocol(transport, p.AppProtocol),
		})
	}
	s.instances = make([]instance, 0, len(o.Endpoints))
	for i := range o.Endpoints {
		e, err := convertEndpoint(&o.Endpoints[i], s.ipv6)
		if err != nil {
			s.problems = add(s.problems, "address", "endpoint %d: %v", i+1, err)
			continue
		}
		s.instances = append(s.instances, e)
	}
	return s
}

// convertEndpoint takes the first address: no meaning is defined for others, and no controller writes any.
func convertEndpoint(o *discovery.Endpoint, ipv6 bool) (instance, error) {
	if len(o.Addresses) == 0 {
		return instance{}, fmt.Errorf("got no address, want one")
	}
	addr, err := netip.ParseAddr(o.Addresses[0])
	if err != nil || addr.Is6() != ipv6 || addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
		return instance{}, fmt.Errorf("got address %.50q, want one of the slice's family that leads to one host", o.Addresses[0])
	}
	e := instance{
		addr: addr, node: intern(deref(o.NodeName, "")), zone: intern(deref(o.Zone, "")), health: health(o.Conditions),
	}
	switch {
	case o.TargetRef != nil && o.TargetRef.Name != "":
		e.id = o.TargetRef.Name
	case deref(o.Hostname, "") != "":
		e.id = *o.Hostname
	default:
		e.id = addr.String()
	}
	return e, nil
}

// health reads the conditions. What is said to be ready is, even while it terminates: Services with
// publishNotReadyAddresses want that. What nothing is said of counts as ready, but nobody checks it.
func health(c discovery.EndpointConditions) registry.Health {
	switch {
	case c.Ready == nil && !deref(c.Terminating, false) && deref(c.Serving, true):
		return registry.Unknown
	case c.Ready != nil && *c.Ready:
		return registry.Healthy
	case deref(c.Terminating, false) && deref(c.Serving, c.Ready == nil):
		return registry.Draining
	}
	return registry.Unhealthy
}

func carries(p core.Protocol) bool { return p == core.ProtocolTCP || p == core.ProtocolUDP || p == "" }

// protocol reads appProtocol: the names that Kubernetes defines and the usual ones. One that says nothing to the mesh
// (mysql, example.com/custom) is left open; the merge then looks at the port's name.
func protocol(transport core.Protocol, app *string) registry.Protocol {
	if transport == core.ProtocolUDP {
		return registry.UDP
	}
	switch strings.ToLower(deref(app, "")) {
	case "kubernetes.io/h2c", "http2", "h2c":
		return registry.HTTP2
	case "http", "kubernetes.io/ws", "ws", "grpc-web":
		return registry.HTTP
	case "grpc":
		return registry.GRPC
	case "https", "tls", "kubernetes.io/wss", "wss":
		return registry.TLS
	case "tcp":
		return registry.TCP
	}
	return ""
}

// Labels of Nodes, and those of their time before 1.17.
const (
	regionLabel    = "topology.kubernetes.io/region"
	zoneLabel      = "topology.kubernetes.io/zone"
	oldRegionLabel = "failure-domain.beta.kubernetes.io/region"
	oldZoneLabel   = "failure-domain.beta.kubernetes.io/zone"
)

func convertNode(o *meta.PartialObjectMetadata) registry.Locality {
	return registry.Locality{
		Region: intern(cmp.Or(o.Labels[regionLabel], o.Labels[oldRegionLabel])),
		Zone:   intern(cmp.Or(o.Labels[zoneLabel], o.Labels[oldZoneLabel])),
	}
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// intern returns s by the one copy of it: names of nodes and ports are in thousands of objects.
func intern(s string) string { return unique.Make(s).Value() }
