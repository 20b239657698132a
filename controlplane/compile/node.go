package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/hostmesh/hostmesh/registry"
)

// Kind is what sort of client asks; each is served what it understands.
type Kind uint8

// The kinds of clients.
const (
	Proxy Kind = iota // mesh-proxy, Envoy
	GRPC              // a proxyless gRPC client
	kinds
)

// String returns "proxy" or "grpc".
func (k Kind) String() string { return [kinds]string{"proxy", "grpc"}[k] }

// Node is who asks for resources, as it described itself.
type Node struct {
	ID       string
	Cluster  string
	Locality registry.Locality
	Kind     Kind
	// Upstreams are the services that the node names as those it calls, sorted, without duplicates.
	Upstreams []registry.Name
	// All is set when the node wants every service in its scope: it says "*", or names none.
	All bool
	// Outbound is where a proxy takes HTTP for the services in its scope.
	Outbound netip.AddrPort
}

// DefaultOutbound is Node.Outbound unless the node says otherwise.
func DefaultOutbound() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 15001)
}

const (
	maxUpstreams = 10_000
	maxNodeText  = 1024 // bytes of each thing that a node calls itself: they are kept for a while after it left
)

// ParseNode reads what a client says of itself. A user agent that contains "gRPC" is a gRPC client, everything else a
// proxy. Of the metadata it reads "upstreams", a list of "name", "namespace/name" or "*", and "outbound", "ip:port".
func ParseNode(n *corev3.Node) (Node, error) {
	l := n.GetLocality()
	for _, text := range []string{n.GetId(), n.GetCluster(), l.GetRegion(), l.GetZone(), l.GetSubZone()} {
		if len(text) > maxNodeText {
			return Node{}, fmt.Errorf("read node %.100q: got %d bytes in id, cluster or locality, want at most %d", n.GetId(), len(text), maxNodeText)
		}
	}
	node := Node{
		ID:       n.GetId(),
		Cluster:  n.GetCluster(),
		Locality: registry.Locality{Region: l.GetRegion(), Zone: l.GetZone(), SubZone: l.GetSubZone()},
		Outbound: DefaultOutbound(),
	}
	if strings.Contains(n.GetUserAgentName(), "gRPC") {
		node.Kind = GRPC
	}
	fields := n.GetMetadata().GetFields()
	upstreams := fields["upstreams"].GetListValue().GetValues()
	if len(upstreams) > maxUpstreams {
		return Node{}, fmt.Errorf("read node %q: metadata.upstreams: got %d names, want at most %d", node.ID, len(upstreams), maxUpstreams)
	}
	for _, v := range upstreams {
		if v.GetStringValue() == "*" {
			node.All = true
			continue
		}
		name, ok := parseUpstream(v.GetStringValue())
		if !ok {
			return Node{}, fmt.Errorf("read node %q: metadata.upstreams: got %q, want name, namespace/name or *", node.ID, v.GetStringValue())
		}
		node.Upstreams = append(node.Upstreams, name)
	}
	slices.SortFunc(node.Upstreams, registry.Name.Compare)
	node.Upstreams = slices.Compact(node.Upstreams)
	node.All = node.All || len(node.Upstreams) == 0
	if v, ok := fields["outbound"]; ok {
		at, err := netip.ParseAddrPort(v.GetStringValue())
		if err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
			return Node{}, fmt.Errorf("read node %q: metadata.outbound: got %q, want ip:port", node.ID, v.GetStringValue())
		}
		node.Outbound = at
	}
	return node, nil
}

func parseUpstream(s string) (registry.Name, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		namespace, name = registry.DefaultNamespace, s
	}
	return registry.Name{Namespace: namespace, Name: name}, label(namespace) && label(name)
}

// label reports whether s is an RFC 1123 label in lower case.
func label(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}

// Class is what of a Node decides over its resources. Clients of an equal Class are served the same.
type Class struct {
	Kind      Kind
	Outbound  netip.AddrPort
	All       bool
	upstreams string // canonical: "namespace/name," for each
}

// Class returns the class of n.
func (n Node) Class() Class {
	var names strings.Builder
	for _, u := range n.Upstreams {
		names.WriteString(u.String())
		names.WriteByte(',')
	}
	class := Class{Kind: n.Kind, All: n.All, upstreams: names.String()}
	if n.Kind == Proxy {
		class.Outbound = n.Outbound
	}
	return class
}

// names returns the services that the class names, sorted.
func (c Class) names() []registry.Name {
	var names []registry.Name
	for s := range strings.SplitSeq(c.upstreams, ",") {
		if namespace, name, ok := strings.Cut(s, "/"); ok {
			names = append(names, registry.Name{Namespace: namespace, Name: name})
		}
	}
	return names
}
