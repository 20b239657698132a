package config

import (
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// FilterChain is what is done with those connections of a listener that match. Exactly one of HTTP and TCP is set.
type FilterChain struct {
	Name  string
	Match ChainMatch
	HTTP  *HTTP
	TCP   *TCP
	TLS   *DownstreamTLS   // nil: plaintext
	Limit *ConnectionLimit // nil: none
	// ConnectTimeout is how long a TLS handshake may take; 0: as long as the proxy allows at most.
	ConnectTimeout time.Duration
}

// ChainMatch says which connections a chain takes. What is empty matches everything. As in Envoy the fields are compared in
// the order in which they stand here; of each only the chains with the most specific match stay, and none of the others
// is gone back to. Prefixes are masked.
type ChainMatch struct {
	Port         uint16         // that was connected to; 0: any
	Destinations []netip.Prefix // of the address that was connected to
	ServerNames  []string       // of SNI, lower case: a name, or ".a.b" for all names that end so
	Transport    Transport
	Protocols    []string // of ALPN; the client's order counts
	Directs      []netip.Prefix
	From         SourceType
	Sources      []netip.Prefix
	SourcePorts  []uint16
}

// Transport is what a connection's first bytes are.
type Transport uint8

// The transports a chain can ask for.
const (
	TransportAny Transport = iota
	TransportTLS
	TransportPlain
)

// SourceType is where a connection comes from.
type SourceType uint8

// The types. A local source is 127.0.0.1, ::1, or the address that it connected to.
const (
	SourceAny SourceType = iota
	SourceLocal
	SourceExternal
)

// Filters say what is found out about a connection before it is given to a chain (Envoy's listener filters). What a
// chain's match needs to know is found out in any case.
type Filters struct {
	Timeout           time.Duration // for everything; 0: none
	ContinueOnTimeout bool          // with what is known by then; otherwise the connection is closed
	InspectHTTP       bool          // HTTP in plaintext is known by its first bytes and matches as an application protocol
	// MaxClientHello bounds a ClientHello in bytes; 0: 16 KiB. A larger one ends its connection.
	MaxClientHello int
}

// Each returns the listener's chains, that for the rest last.
func (l *Listener) Each() iter.Seq[*FilterChain] {
	return func(yield func(*FilterChain) bool) {
		for _, c := range l.Chains {
			if !yield(c) {
				return
			}
		}
		if l.Otherwise != nil {
			yield(l.Otherwise)
		}
	}
}

// Chain is a chain by its number in Each.
func (l *Listener) Chain(i int) *FilterChain {
	if i == len(l.Chains) {
		return l.Otherwise
	}
	return l.Chains[i]
}

// Whole returns the listener with its only chain among its chains, if it has no other.
func (l *Listener) Whole() *Listener {
	if l.HTTP == nil && l.TCP == nil {
		return l
	}
	whole := *l
	whole.HTTP, whole.TCP = nil, nil
	whole.Chains = []*FilterChain{{HTTP: l.HTTP, TCP: l.TCP}}
	return &whole
}

// LeadsTo reports whether a route of the listener names the cluster.
func (l *Listener) LeadsTo(cluster string) bool {
	return l.LeadsToAny(func(name string) bool { return name == cluster })
}

// LeadsToAny reports whether a route of the listener names a cluster that matches.
func (l *Listener) LeadsToAny(matches func(cluster string) bool) bool {
	if leadsTo(l.HTTP, l.TCP, matches) {
		return true
	}
	for c := range l.Each() {
		if leadsTo(c.HTTP, c.TCP, matches) {
			return true
		}
	}
	return false
}

func leadsTo(http *HTTP, tcp *TCP, matches func(cluster string) bool) bool {
	named := func(c WeightedCluster) bool { return matches(c.Name) }
	if tcp != nil && slices.ContainsFunc(tcp.Clusters, named) {
		return true
	}
	if http == nil {
		return false
	}
	for _, vh := range http.Routes.VirtualHosts {
		for _, route := range vh.Routes {
			if slices.ContainsFunc(route.Clusters, named) {
				return true
			}
		}
	}
	return false
}

// Marks are names with values in one text, so that what has them can be compared.
type Marks string

// NewMarks makes Marks; neither names nor values have a NUL.
func NewMarks(values map[string]string) Marks {
	var b strings.Builder
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b.WriteString(name + "\x00" + values[name] + "\x00")
	}
	return Marks(b.String())
}

// All reports whether l has all names of other with the same values.
func (l Marks) All(other Marks) bool {
	for len(other) > 0 {
		want := other.first()
		other = other[len(want):]
		if !l.has(want) {
			return false
		}
	}
	return true
}

// first is the first name with its value.
func (l Marks) first() Marks {
	name := strings.IndexByte(string(l), 0) + 1
	return l[:name+strings.IndexByte(string(l[name:]), 0)+1]
}

func (l Marks) has(want Marks) bool {
	for len(l) > 0 {
		one := l.first()
		if one == want {
			return true
		}
		l = l[len(one):]
	}
	return false
}
