package dnsserver

import (
	"slices"
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// Branch is some names of a zone that change together, such as those of a service with its ports and endpoints. It is
// immutable and may hang in many zones of one origin, so that a change of one branch costs nothing for the others.
type Branch struct {
	nodes map[Name]*node // with those above them that have nothing of their own, without the origin
}

// node is a name and what stands at it.
type node struct {
	name Name
	sets []*Set  // in the order of their types; none: the name exists, for something stands below it or because it was said
	own  [2]*Set // what sets most often is: one place less in memory to look at
	rank int
	refs int                           // in a zone's index: how many branches say that an empty name exists
	nsec atomic.Pointer[dnssec.Denial] // of a signed zone, when somebody has asked for it
}

// NewBranch makes a branch of the sets of each name, written as in zone files relative to the origin: "" for the origin itself,
// "_http._tcp.web.default". A name without sets exists and has none, as do all names between it and the origin (RFC 8020).
// Names that cannot be (a label of more than 63 bytes, more than 255 in all) are left out, as are sets of a type that the name
// has already. Where branches of a zone have sets at the same name, those of the lowest rank are answered, and only those; two of
// the same rank have no such name. The map and the sets are the branch's from now on.
func NewBranch(origin Name, rank int, names map[string][]Set) *Branch {
	b := &Branch{nodes: make(map[Name]*node, len(names)+1)}
	for relative, sets := range names {
		name, err := Join(relative, origin)
		if err != nil {
			continue
		}
		n := &node{name: name, rank: rank}
		n.sets = slices.CompactFunc(sortSets(sets), func(a, b *Set) bool { return a.Type == b.Type })
		if len(n.sets) <= len(n.own) {
			n.sets = append(n.own[:0], n.sets...)
		}
		b.nodes[name] = n
	}
	b.complete(origin)
	return b
}

// complete prepares the sets and adds the names between the branch's names and the origin.
func (b *Branch) complete(origin Name) {
	for name, n := range b.nodes {
		for _, s := range n.sets {
			s.prepare()
		}
		for len(name) > len(origin) {
			if name = name.parent(); b.nodes[name] == nil && name != origin {
				b.nodes[name] = &node{name: name}
			}
		}
	}
	for _, n := range b.nodes {
		for _, s := range n.sets {
			s.attach(origin, func(name Name) *node { return b.nodes[name] })
		}
	}
}

// Set returns the records of a type at a name, nil when there is none.
func (b *Branch) Set(name Name, rtype uint16) *Set {
	if n := b.nodes[name]; n != nil {
		return n.set(rtype)
	}
	return nil
}

// set is linear: a name has few types.
func (n *node) set(rtype uint16) *Set {
	for _, s := range n.sets {
		if s.Type == rtype {
			return s
		}
	}
	return nil
}

// addresses are the images of a name's A and AAAA records, of a large set the first window. They are not to be changed.
func (n *node) addresses() []byte {
	v4, v6 := n.set(dns.TypeA), n.set(dns.TypeAAAA)
	switch {
	case v4 == nil && v6 == nil:
		return nil
	case v6 == nil:
		return v4.firstWindow()
	case v4 == nil:
		return v6.firstWindow()
	}
	return slices.Concat(v4.firstWindow(), v6.firstWindow())
}

func (s *Set) firstWindow() []byte { return s.image[:s.start(s.windows[0].to)] }
