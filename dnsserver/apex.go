package dnsserver

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/miekg/dns"
)

// The SOA's timers, in seconds. Secondaries learn of changes by NOTIFY; these are for when it is lost.
const (
	soaRefresh = 30
	soaRetry   = 10
	soaExpire  = 7 * 24 * 3600
)

// serialFromEnd is where the serial begins in SOA's RDATA.
const serialFromEnd = 20

func startOfAuthority(primary, mailbox Name, serial, negativeTTL uint32) []byte {
	b := append([]byte(primary), mailbox...)
	for _, v := range [...]uint32{serial, soaRefresh, soaRetry, soaExpire, negativeTTL} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// newApex makes the branch of the origin's sets, without SOA, and of the name servers. Its rank is before all others'.
func newApex(origin Name, sets []Set, glue map[Name][]Set) *Branch {
	const first = -1 << 31
	own := &node{name: origin, rank: first, sets: sortSets(sets)}
	b := &Branch{nodes: map[Name]*node{origin: own}}
	for name, sets := range glue {
		b.nodes[name] = &node{name: name, rank: first, sets: sortSets(sets)}
	}
	b.complete(origin)
	return b
}

// withSOA returns the apex of a zone: what it was, with the zone's SOA, which becomes the zone's. Sets that stay are the same.
func (b *Branch) withSOA(z *Zone) *Branch {
	soa := &Set{Type: dns.TypeSOA, TTL: z.soaTTL, Data: [][]byte{z.soa}}
	soa.prepare()
	before := b.nodes[z.origin]
	own := &node{name: before.name, rank: before.rank}
	own.sets = slices.DeleteFunc(slices.Clone(before.sets), func(s *Set) bool { return s.Type == dns.TypeSOA })
	at, _ := slices.BinarySearchFunc(own.sets, soa, byType)
	own.sets = slices.Insert(own.sets, at, soa)
	next := &Branch{nodes: maps.Clone(b.nodes)}
	next.nodes[z.origin] = own
	z.soaSet = soa
	return next
}

// negative is the SOA record as answers without records carry it, compressed: all its names end in a pointer to the origin at
// the end of the question's name, which is filled in.
type negative struct {
	image    []byte
	pointers []int
	serial   int
	ttl      uint32 // in seconds, also of what proves that there is none (RFC 9077)
}

// newNegative makes it. RFC 2308 §3 and §5: the SOA's own TTL says how long the negative answer lives.
func newNegative(z *Zone, primary, mailbox Name, ttl uint32) negative {
	n := negative{image: make([]byte, 2), pointers: []int{0}, ttl: ttl}
	n.image = binary.BigEndian.AppendUint16(n.image, dns.TypeSOA)
	n.image = binary.BigEndian.AppendUint16(n.image, dns.ClassINET)
	n.image = binary.BigEndian.AppendUint32(n.image, ttl)
	n.image = append(n.image, 0, 0)
	start := len(n.image)
	for _, name := range [...]Name{primary, mailbox} {
		if !name.within(z.origin) {
			n.image = append(n.image, name...)
			continue
		}
		n.image = append(n.image, name[:len(name)-len(z.origin)]...)
		n.pointers = append(n.pointers, len(n.image))
		n.image = append(n.image, 0, 0)
	}
	n.serial = len(n.image)
	n.image = append(n.image, z.soa[len(z.soa)-serialFromEnd:]...)
	binary.BigEndian.PutUint16(n.image[start-2:], uint16(len(n.image)-start))
	return n
}

func (n negative) withSerial(serial uint32) negative {
	n.image = slices.Clone(n.image)
	binary.BigEndian.PutUint32(n.image[n.serial:], serial)
	return n
}

// appendTo appends the record; origin is where the origin stands in the message.
func (n negative) appendTo(b []byte, origin int) []byte {
	start := len(b)
	b = append(b, n.image...)
	for _, at := range n.pointers {
		binary.BigEndian.PutUint16(b[start+at:], pointer|uint16(origin))
	}
	return b
}
