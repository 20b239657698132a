package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/registry"
)

// name is one name of the configuration, and what is known about it. What is below "known" belongs to the poller.
type name struct {
	key       string // how Problems call it
	namespace string
	service   string
	domain    string // fully qualified, in lower case
	srv       bool
	port      uint16
	families  []Family
	ports     []registry.Port // what it declares of its service
	labels    map[string]string

	// known:
	last     *found          // the last good answer, kept from Watch to Watch
	set      map[string]bool // the keys of its endpoints and problems in the Assembly
	failure  string          // why the last lookup failed, or ""
	tried    bool            // asked for to the end, in this Watch
	answered bool            // in this Watch
	due      time.Time       // when to ask again
	place    int             // in the queue, -1 when it is not there
}

func newName(s Service, namespace string) *name {
	n := &name{namespace: namespace, service: s.Name, srv: s.SRV != "", port: s.Port, labels: s.Labels}
	if space, label, ok := strings.Cut(s.Name, "/"); ok {
		n.namespace, n.service = space, label
	}
	n.domain = dns.CanonicalName(s.Host)
	if n.srv {
		n.domain = dns.CanonicalName(s.SRV)
	}
	n.families = []Family{IPv4, IPv6}
	if s.Family == IPv4 || s.Family == IPv6 {
		n.families = []Family{s.Family}
	}
	n.ports = []registry.Port{{Name: s.PortName, Number: s.ServicePort, Protocol: s.Protocol}}
	if s.Protocol == "" && n.srv {
		n.ports[0].Protocol = protocolOf(n.domain)
	}
	n.key = fmt.Sprintf("%s/%s at %s", n.namespace, n.service, n.domain)
	if !n.srv {
		n.key += fmt.Sprintf(":%d", n.port)
	}
	return n
}

// protocolOf reads the protocol out of an SRV name's two first labels (RFC 6335 §5.1), as far as it says one.
func protocolOf(domain string) registry.Protocol {
	labels := strings.SplitN(domain, ".", 3)
	switch {
	case len(labels) < 3:
		return ""
	case labels[1] == "_udp":
		return registry.UDP
	case labels[1] != "_tcp":
		return ""
	}
	return map[string]registry.Protocol{"_http": registry.HTTP, "_grpc": registry.GRPC, "_https": registry.TLS}[labels[0]]
}

// endpoint makes the endpoint at an address.
func (n *name) endpoint(addr netip.Addr, port uint16, weight uint32) *registry.Endpoint {
	return &registry.Endpoint{
		ID: netip.AddrPortFrom(addr, port).String(), Addr: addr, Labels: n.labels, Weight: weight,
		Ports: []registry.EndpointPort{{Name: n.ports[0].Name, Number: port}},
	}
}

// entry is what the name says in the mesh, with one of its endpoints or without any.
func (n *name) entry(e *registry.Endpoint) registry.Entry {
	return registry.Entry{Namespace: n.namespace, Service: n.service, Ports: n.ports, Endpoint: e}
}
