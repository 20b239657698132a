package dnsserver

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"math"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// Apex is what a zone says of itself.
type Apex struct {
	Origin  string // the domain, "mesh.internal"
	Serial  uint32
	Mailbox string // SOA's RNAME as a domain name; "" for hostmaster.<origin>
	// NameServers are the zone's NS records, at least one. The first is SOA's MNAME. The names of those within the zone
	// resolve to their addresses, whatever else the zone holds under that name.
	NameServers []NameServer
	TTL         uint32 // of SOA and NS, in seconds
	NegativeTTL uint32 // how long "there is none" may be remembered, in seconds
	Sets        []Set  // what else stands at the origin; not SOA, NS, DNSKEY, CDS and CDNSKEY
	// Signer signs the zone for those who ask for it; nil: the zone is not signed. What its keys publish stands at the origin.
	Signer *dnssec.Signer
}

// NameServer is one server of a zone.
type NameServer struct {
	Name  string // fully qualified, with or without the last dot
	Addrs []netip.Addr
}

// Zone is all that a server answers for a domain. It is immutable, but for signatures, which are made when they are asked for.
type Zone struct {
	origin   Name
	serial   uint32
	soa      []byte // RDATA
	soaTTL   uint32
	apex     *Branch  // the origin and the name servers
	branches []hung   // in the order of their keys
	index    *index   // of all names
	negative negative // the SOA record of negative answers
	soaSet   *Set
	signer   *dnssec.Signer // nil: not signed
	wire     []byte         // the origin, where it is signed
	denier   *dnssec.Denier
}

// hung is a branch of a zone.
type hung struct {
	key    string
	branch *Branch
}

// NewZone makes a zone of branches, each by a key of the caller's, such as a service's name. It takes time for every name:
// Next makes one of another. NewZone panics when the apex has a name that cannot be.
func NewZone(apex Apex, branches map[string]*Branch) *Zone {
	z := &Zone{origin: mustParse(apex.Origin), serial: apex.Serial, soaTTL: apex.TTL, signer: apex.Signer}
	if z.signer != nil {
		z.denier, z.wire = dnssec.NewDenier(z.signer), []byte(z.origin)
	}
	mailbox := "hostmaster." + apex.Origin
	if apex.Mailbox != "" {
		mailbox = apex.Mailbox
	}
	servers := Set{Type: dns.TypeNS, TTL: apex.TTL}
	glue := map[Name][]Set{}
	for _, server := range apex.NameServers {
		name := mustParse(server.Name)
		servers.Data = append(servers.Data, []byte(name))
		if name.within(z.origin) && name != z.origin {
			glue[name] = Addresses(apex.TTL, server.Addrs, nil)
		}
	}
	primary := z.origin
	if len(apex.NameServers) > 0 {
		primary = mustParse(apex.NameServers[0].Name)
	}
	z.soa = startOfAuthority(primary, mustParse(mailbox), z.serial, apex.NegativeTTL)
	z.apex = newApex(z.origin, append([]Set{servers}, apex.Sets...), glue).withSOA(z)
	z.negative = newNegative(z, primary, mustParse(mailbox), min(apex.TTL, apex.NegativeTTL))

	names := 1
	for key, branch := range branches {
		z.branches = append(z.branches, hung{key, branch})
		names += len(branch.nodes)
	}
	slices.SortFunc(z.branches, func(a, b hung) int { return cmp.Compare(a.key, b.key) })
	empty := newIndex(maphash.MakeSeed(), names)
	changes := make([]change, 0, names)
	changes = empty.changes(changes, nil, z.apex)
	for _, h := range z.branches {
		changes = empty.changes(changes, nil, h.branch)
	}
	z.index = empty.with(changes)
	return z
}

func mustParse(s string) Name {
	name, err := ParseName(s)
	if err != nil {
		panic(err)
	}
	return name
}

// Next makes the zone that differs from z by its serial and by some branches: nil for one that is gone. It takes time for
// what changes; all else is shared. It makes the index of names anew when z has much grown.
func (z *Zone) Next(serial uint32, changed map[string]*Branch) *Zone {
	next := *z
	next.serial = serial
	next.soa = slices.Clone(z.soa)
	binary.BigEndian.PutUint32(next.soa[len(next.soa)-serialFromEnd:], serial)
	next.negative = z.negative.withSerial(serial)
	next.apex = z.apex.withSOA(&next)
	changes := z.index.changes(nil, z.apex, next.apex)
	keys := make([]string, 0, len(changed))
	for key, branch := range changed {
		if old := z.Branch(key); old != branch {
			changes = z.index.changes(changes, old, branch)
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	next.branches = make([]hung, 0, len(z.branches)+len(keys))
	rest := z.branches
	for _, key := range keys {
		at, found := slices.BinarySearchFunc(rest, key, compareKey)
		next.branches = append(next.branches, rest[:at]...)
		if found {
			at++
		}
		rest = rest[at:]
		if branch := changed[key]; branch != nil {
			next.branches = append(next.branches, hung{key, branch})
		}
	}
	next.branches = append(next.branches, rest...)
	base := z.index
	if base.crowded(len(changes)) {
		base, changes = newIndex(base.seed, base.names+len(changes)), nil
		for branch := range next.all() {
			changes = base.changes(changes, nil, branch)
		}
	}
	next.index = base.with(changes)
	return &next
}

func compareKey(h hung, key string) int { return cmp.Compare(h.key, key) }

// all are the zone's branches, the apex first.
func (z *Zone) all() iter.Seq[*Branch] {
	return func(yield func(*Branch) bool) {
		if !yield(z.apex) {
			return
		}
		for _, h := range z.branches {
			if !yield(h.branch) {
				return
			}
		}
	}
}

// Origin returns the zone's domain.
func (z *Zone) Origin() Name { return z.origin }

// Serial returns the SOA's serial.
func (z *Zone) Serial() uint32 { return z.serial }

// Signer returns what signs the zone, nil when it is not signed.
func (z *Zone) Signer() *dnssec.Signer { return z.signer }

// NegativeTTL returns for how many seconds may be remembered that there is none (RFC 9077).
func (z *Zone) NegativeTTL() uint32 { return z.negative.ttl }

// Branch returns the branch of a key, or nil.
func (z *Zone) Branch(key string) *Branch {
	if at, found := slices.BinarySearchFunc(z.branches, key, compareKey); found {
		return z.branches[at].branch
	}
	return nil
}

// Lookup returns the sets of a name, without those of its keys, in the order of their types, and whether the name exists. The
// caller changes nothing.
func (z *Zone) Lookup(name Name) (sets []*Set, exists bool) {
	n := z.index.find([]byte(name))
	if n == nil {
		return nil, false
	}
	return n.sets, true
}

// Set returns the records of a type at a name, nil when there is none.
func (z *Zone) Set(name Name, rtype uint16) *Set {
	if n := z.index.find([]byte(name)); n != nil {
		return n.set(rtype)
	}
	return nil
}

// All yields every set that is answered, with its name: those of the origin first, SOA among them, else in no order.
func (z *Zone) All() iter.Seq2[Name, *Set] {
	return func(yield func(Name, *Set) bool) {
		for branch := range z.all() {
			for name, n := range branch.nodes {
				if len(n.sets) == 0 || z.index.find([]byte(name)) != n {
					continue
				}
				for _, s := range n.sets {
					if !yield(name, s) {
						return
					}
				}
			}
		}
	}
}

// Difference is what differs between two zones at one name and type: nil for no set there. Old and New are never equal.
type Difference struct {
	Name     Name
	Old, New *Set
}

// Diff returns what differs between two zones of one origin, without the SOA, in no order. What they share costs a comparison
// of pointers for each branch.
func Diff(old, next *Zone) []Difference {
	names := map[Name]bool{}
	note := func(b *Branch) {
		if b != nil {
			for name := range b.nodes {
				names[name] = true
			}
		}
	}
	note(old.apex)
	note(next.apex)
	a, b := old.branches, next.branches
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].key < b[0].key:
			note(a[0].branch)
			a = a[1:]
		case len(a) == 0 || b[0].key < a[0].key:
			note(b[0].branch)
			b = b[1:]
		default:
			if a[0].branch != b[0].branch {
				note(a[0].branch)
				note(b[0].branch)
			}
			a, b = a[1:], b[1:]
		}
	}
	var out []Difference
	for name := range names {
		was, _ := old.Lookup(name)
		is, _ := next.Lookup(name)
		out = differences(out, name, was, is)
	}
	return out
}

// differences compares the sets of a name; both are in the order of their types.
func differences(out []Difference, name Name, was, is []*Set) []Difference {
	for len(was) > 0 || len(is) > 0 {
		d := Difference{Name: name}
		rtype := uint16(math.MaxUint16)
		if len(was) > 0 {
			rtype = was[0].Type
		}
		if len(is) > 0 {
			rtype = min(rtype, is[0].Type)
		}
		if len(was) > 0 && was[0].Type == rtype {
			d.Old, was = was[0], was[1:]
		}
		if len(is) > 0 && is[0].Type == rtype {
			d.New, is = is[0], is[1:]
		}
		if rtype != dns.TypeSOA && !d.Old.Equal(d.New) {
			out = append(out, d)
		}
	}
	return out
}
