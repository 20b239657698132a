// Package chain finds the filter chain that takes a connection, as Envoy finds it.
//
// It is pure. What a chain asks for is compared in one order: destination port and address, server name, transport, application
// protocol, direct source, type, address and port of the source. At each step only the chains with the most specific value
// that matches stay; a chain that asked for less is not gone back to. So a connection without a server name, or with
// one that no chain names, reaches a chain for any name or none at all, never one for another name.
package chain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Connection is what is known of a connection.
type Connection struct {
	Local      netip.AddrPort // that the client connected to
	Remote     netip.AddrPort // of the client: behind a proxy that tells, what it told
	Direct     netip.Addr     // of who is connected
	ServerName string         // of SNI, lower case
	TLS        bool
	Protocols  []string // of ALPN, in the client's order
}

// Table holds the chains of a listener. It is immutable.
type Table struct {
	root      *node
	otherwise int
	names     bool
}

// step is one of the things that are compared, in order.
type step uint8

const (
	stepPort step = iota
	stepDestination
	stepName
	stepTransport
	stepProtocol
	stepDirect
	stepType
	stepSource
	stepSourcePort
	steps
)

// key is one value of a step; the zero key is "any", of prefixes too.
type key struct {
	text   string
	prefix netip.Prefix
	number uint16
}

// node holds the chains that agree in all steps before its own.
type node struct {
	next     map[key]*node
	prefixes []netip.Prefix // of next, the longest first
	chain    int            // after the last step
}

// None is the chain of a connection that no chain takes.
const None = -1

// New prepares the chains of a listener: their numbers are those of l.Each. It fails if two of them match the same.
func New(l *config.Listener) (*Table, error) {
	t := &Table{otherwise: None}
	if l.Otherwise != nil {
		t.otherwise = len(l.Chains)
	}
	all := make([]int, len(l.Chains))
	for i := range all {
		all[i] = i
		m := &l.Chains[i].Match
		t.names = t.names || len(m.ServerNames) > 0 || len(m.Protocols) > 0 || m.Transport != config.TransportAny
	}
	var err error
	t.root, err = build(l.Chains, all, 0)
	return t, err
}

// Inspects reports whether a match depends on a connection's first bytes.
func (t *Table) Inspects() bool { return t.names }

// build makes the node of a step for the chains that are left.
func build(chains []*config.FilterChain, left []int, at step) (*node, error) {
	n := &node{chain: None}
	if at == steps {
		if len(left) > 1 {
			return nil, fmt.Errorf("got filter chains %s and %s with the same match, want each match once", called(chains, left[0]), called(chains, left[1]))
		}
		n.chain = left[0]
		return n, nil
	}
	groups := map[key][]int{}
	for _, i := range left {
		for _, k := range keys(&chains[i].Match, at) {
			if g := groups[k]; !slices.Contains(g, i) {
				groups[k] = append(g, i)
			}
		}
	}
	n.next = make(map[key]*node, len(groups))
	for k, group := range groups {
		next, err := build(chains, group, at+1)
		if err != nil {
			return nil, err
		}
		n.next[k] = next
		if k.prefix.IsValid() {
			n.prefixes = append(n.prefixes, k.prefix)
		}
	}
	slices.SortFunc(n.prefixes, func(a, b netip.Prefix) int { return cmp.Compare(b.Bits(), a.Bits()) })
	return n, nil
}

// called is how a chain is named in a complaint.
func called(chains []*config.FilterChain, i int) string {
	if name := chains[i].Name; name != "" {
		return name
	}
	return fmt.Sprintf("number %d", i)
}

// keys are the values of a step that a match names.
func keys(m *config.ChainMatch, at step) []key {
	switch at {
	case stepPort:
		return []key{{number: m.Port}}
	case stepDestination:
		return prefixKeys(m.Destinations)
	case stepName:
		return textKeys(m.ServerNames)
	case stepTransport:
		return []key{{number: uint16(m.Transport)}}
	case stepProtocol:
		return textKeys(m.Protocols)
	case stepDirect:
		return prefixKeys(m.Directs)
	case stepType:
		return []key{{number: uint16(m.From)}}
	case stepSource:
		return prefixKeys(m.Sources)
	default:
		if len(m.SourcePorts) == 0 {
			return []key{{}}
		}
		out := make([]key, len(m.SourcePorts))
		for i, p := range m.SourcePorts {
			out[i] = key{number: p}
		}
		return out
	}
}

func prefixKeys(list []netip.Prefix) []key {
	if len(list) == 0 {
		return []key{{}}
	}
	out := make([]key, len(list))
	for i, p := range list {
		out[i] = key{prefix: p}
	}
	return out
}

func textKeys(list []string) []key {
	if len(list) == 0 {
		return []key{{}}
	}
	out := make([]key, len(list))
	for i, text := range list {
		out[i] = key{text: text}
	}
	return out
}

// Match returns the number of the chain that takes the connection, or None.
func (t *Table) Match(c *Connection) int {
	n := t.root
	for at := range steps {
		if n = n.follow(c, at); n == nil {
			return t.otherwise
		}
	}
	return n.chain
}

// follow returns the node for the most specific value of a step that the connection matches, nil if there is none.
func (n *node) follow(c *Connection, at step) *node {
	switch at {
	case stepPort:
		return n.number(c.Local.Port())
	case stepDestination:
		return n.within(c.Local.Addr())
	case stepName:
		return n.named(c.ServerName)
	case stepTransport:
		if c.TLS {
			return n.number(uint16(config.TransportTLS))
		}
		return n.number(uint16(config.TransportPlain))
	case stepProtocol:
		for _, p := range c.Protocols {
			if next := n.next[key{text: p}]; next != nil && p != "" {
				return next
			}
		}
		return n.next[key{}]
	case stepDirect:
		return n.within(c.Direct)
	case stepType:
		return n.typed(c)
	case stepSource:
		return n.within(c.Remote.Addr())
	default:
		return n.number(c.Remote.Port())
	}
}

func (n *node) number(want uint16) *node {
	if next := n.next[key{number: want}]; next != nil {
		return next
	}
	return n.next[key{}]
}

func (n *node) within(addr netip.Addr) *node {
	addr = addr.Unmap()
	for _, p := range n.prefixes {
		if p.Contains(addr) {
			return n.next[key{prefix: p}]
		}
	}
	return n.next[key{}]
}

// named prefers the name itself, then the longest end of it that a chain names.
func (n *node) named(name string) *node {
	if name == "" {
		return n.next[key{}]
	}
	if next := n.next[key{text: name}]; next != nil {
		return next
	}
	for from := 1; from < len(name); {
		dot := strings.IndexByte(name[from:], '.')
		if dot < 0 || from+dot == len(name)-1 {
			break
		}
		from += dot
		if next := n.next[key{text: name[from:]}]; next != nil {
			return next
		}
		from++
	}
	return n.next[key{}]
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// typed prefers the source's own type.
func (n *node) typed(c *Connection) *node {
	source := config.SourceExternal
	// As in Envoy only 127.0.0.1 is the loopback of IPv4.
	if a := c.Remote.Addr().Unmap(); a == loopback4 || a == netip.IPv6Loopback() || a == c.Local.Addr().Unmap() {
		source = config.SourceLocal
	}
	return n.number(uint16(source))
}
