package dnsserver

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
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
}

// NameServer is one server of a zone.
type NameServer struct {
	Name  string // fully qualified, with or without the last dot
	Addrs []netip.Addr
}

// Records are what stands at one name. All nil means that the name exists and has none.
type Records struct {
	TTL uint32 // in seconds, of all of them
	V4  []netip.Addr
	V6  []netip.Addr
	SRV []SRV
}

// SRV is an SRV record (RFC 2782) with its target's address, which goes along in the additional section.
type SRV struct {
	Priority, Weight, Port uint16
	Target                 string // fully qualified, with the last dot
	Addr                   netip.Addr
}

// Branch is a name with all that stands below it, such as a service with its ports and endpoints. It is immutable and
// may hang in many zones, so that a change of one branch costs nothing for the others.
type Branch struct {
	names map[string]*Records // relative to the branch; "" for itself
}

// NewBranch makes a branch of the records of each name relative to it: "" for its own, "_http._tcp". Names are in
// lower case. The map and the records are the branch's from now on.
func NewBranch(names map[string]*Records) *Branch {
	empty := &Records{}
	if names[""] == nil {
		names[""] = empty
	}
	for name := range names {
		for {
			_, parent, ok := strings.Cut(name, ".")
			if !ok || names[parent] != nil {
				break
			}
			names[parent] = empty // RFC 8020: it exists, as something stands below it
			name = parent
		}
	}
	return &Branch{names: names}
}

// Records returns what stands at a name relative to the branch, nil when there is no such name.
func (b *Branch) Records(name string) *Records { return b.names[name] }

// Zone is all that a server answers. It is immutable.
type Zone struct {
	apex     Apex
	origin   string // canonical: lower case, with the last dot
	mailbox  string
	servers  []string // canonical names of the NS records
	glue     map[string]*Records
	branches map[string]*Branch
	between  map[string]bool // names above branches that have nothing of their own
}

// NewZone makes a zone of branches by their names relative to the origin ("web.default"), in lower case. No branch holds
// a name that is another branch's. The map is the zone's from now on.
func NewZone(apex Apex, branches map[string]*Branch) *Zone {
	z := &Zone{
		apex: apex, origin: dns.CanonicalName(apex.Origin), mailbox: dns.CanonicalName(apex.Mailbox),
		branches: branches, glue: map[string]*Records{}, between: map[string]bool{},
	}
	if apex.Mailbox == "" {
		z.mailbox = "hostmaster." + z.origin
	}
	for _, server := range apex.NameServers {
		name := dns.CanonicalName(server.Name)
		z.servers = append(z.servers, name)
		if relative, ok := z.relative(name); ok && relative != "" {
			z.glue[relative] = addressRecords(apex.TTL, server.Addrs)
			z.above(relative)
		}
	}
	for name := range branches {
		z.above(name)
	}
	return z
}

func addressRecords(ttl uint32, addrs []netip.Addr) *Records {
	r := &Records{TTL: ttl}
	for _, addr := range addrs {
		if addr = addr.Unmap(); addr.Is4() {
			r.V4 = append(r.V4, addr)
		} else {
			r.V6 = append(r.V6, addr)
		}
	}
	return r
}

// above records that the names above a name exist.
func (z *Zone) above(name string) {
	for {
		_, parent, ok := strings.Cut(name, ".")
		if !ok || z.between[parent] {
			return
		}
		z.between[parent] = true
		name = parent
	}
}

// Origin returns the zone's domain in lower case, with the last dot.
func (z *Zone) Origin() string { return z.origin }

// Serial returns the SOA's serial.
func (z *Zone) Serial() uint32 { return z.apex.Serial }

// Branch returns the branch at a name relative to the origin, or nil.
func (z *Zone) Branch(name string) *Branch { return z.branches[name] }

// relative returns a canonical name without the origin ("" for the origin itself), and whether it is in the zone.
func (z *Zone) relative(name string) (string, bool) {
	if name == z.origin {
		return "", true
	}
	if strings.Contains(name, `\`) && !dns.IsSubDomain(z.origin, name) {
		return "", false // a dot within a label looks like the origin's
	}
	relative, ok := strings.CutSuffix(name, z.origin)
	if !ok || z.origin == "." {
		return strings.TrimSuffix(name, "."), ok
	}
	return strings.CutSuffix(relative, ".")
}

// find returns what stands at a name below the origin, nil when there is no such name.
func (z *Zone) find(name string) *Records {
	if r := z.glue[name]; r != nil {
		return r
	}
	for at := 0; ; {
		if branch := z.branches[name[at:]]; branch != nil {
			r := branch.names[strings.TrimSuffix(name[:at], ".")]
			if r == nil && z.between[name] {
				break
			}
			return r
		}
		next := strings.IndexByte(name[at:], '.')
		if next < 0 {
			break
		}
		at += next + 1
	}
	if z.between[name] {
		return &Records{}
	}
	return nil
}

// soa returns the zone's SOA record.
func (z *Zone) soa(owner string, ttl uint32) *dns.SOA {
	const refresh, retry, expire = 30, 10, 7 * 24 * 3600
	server := z.origin
	if len(z.servers) > 0 {
		server = z.servers[0]
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  server, Mbox: z.mailbox, Serial: z.apex.Serial,
		Refresh: refresh, Retry: retry, Expire: expire, Minttl: z.apex.NegativeTTL,
	}
}
