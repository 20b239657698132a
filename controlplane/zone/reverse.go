package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

// ReverseDomain is the domain of a prefix's PTR records: in-addr.arpa takes 8 bits a label, ip6.arpa 4. ok is false for a prefix
// that ends within a label, and for that of all addresses.
func ReverseDomain(prefix netip.Prefix) (domain string, ok bool) {
	labels, bits, root := reverseLabels(prefix.Addr())
	if !prefix.IsValid() || prefix.Bits() == 0 || prefix.Bits()%bits != 0 {
		return "", false
	}
	return strings.Join(labels[len(labels)-prefix.Bits()/bits:], ".") + "." + root, true
}

// reverseLabels are those of an address, the last first.
func reverseLabels(addr netip.Addr) (labels []string, bits int, root string) {
	if addr.Is4() {
		for _, b := range addr.As4() {
			labels = append(labels, fmt.Sprint(b))
		}
		slices.Reverse(labels)
		return labels, 8, "in-addr.arpa"
	}
	for _, b := range addr.As16() {
		labels = append(labels, fmt.Sprintf("%x", b>>4), fmt.Sprintf("%x", b&0xf))
	}
	slices.Reverse(labels)
	return labels, 4, "ip6.arpa"
}

// Reverse builds the zone of PTR records for a prefix: an address leads to its host's name if one has it, else to the names of
// the endpoints there. It is not safe for concurrent use; the zones are.
type Reverse struct {
	opts   Options // Domain is the mesh's
	prefix netip.Prefix
	domain string
	origin dnsserver.Name // of this zone
	mesh   *Builder
	before *registry.Snapshot
	zone   *dnsserver.Zone
	at     map[netip.Addr]*place
}

// place is what is at an address.
type place struct {
	hosts     []dnsserver.Name
	endpoints []dnsserver.Name // each once for each service
}

// NewReverse returns a builder without a zone yet. The options are the mesh's, with the name servers and the signer of this
// zone. It panics when there is no such zone (ReverseDomain).
func NewReverse(opts Options, prefix netip.Prefix) *Reverse {
	domain, ok := ReverseDomain(prefix)
	if !ok {
		panic("no zone is " + prefix.String() + "'s")
	}
	origin, err := dnsserver.ParseName(domain)
	if err != nil {
		panic(err)
	}
	r := &Reverse{mesh: New(opts), prefix: prefix.Masked(), domain: domain, origin: origin, at: map[netip.Addr]*place{}}
	r.opts = r.mesh.opts
	return r
}

// Build returns the zone of a snapshot, as Builder.Build does.
func (r *Reverse) Build(snap *registry.Snapshot) *dnsserver.Zone {
	before := r.before
	if before == nil {
		before = &registry.Snapshot{}
	}
	touched := map[netip.Addr]bool{}
	eachService(before, snap, func(was, is *registry.Service) {
		r.service(was, touched, (*place).withoutEndpoint)
		r.service(is, touched, (*place).withEndpoint)
	})
	eachHost(before, snap, func(was, is *registry.Host) {
		r.host(was, touched, (*place).withoutHost)
		r.host(is, touched, (*place).withHost)
	})
	changed := make(map[string]*dnsserver.Branch, len(touched))
	for addr := range touched {
		changed[addr.String()] = r.branch(addr)
	}
	if r.zone == nil {
		for key, branch := range changed {
			if branch == nil {
				delete(changed, key)
			}
		}
		r.zone = dnsserver.NewZone(dnsserver.Apex{
			Origin: r.domain, Serial: uint32(snap.Number), Mailbox: mailbox(r.opts), NameServers: r.opts.NameServers,
			TTL: r.opts.ApexTTL, NegativeTTL: r.opts.NegativeTTL, Signer: r.opts.Signer,
		}, changed)
	} else {
		r.zone = r.zone.Next(uint32(snap.Number), changed)
	}
	r.before = snap
	return r.zone
}

// mailbox is the mesh's: nobody reads mail for in-addr.arpa.
func mailbox(opts Options) string {
	if opts.Mailbox != "" {
		return opts.Mailbox
	}
	return "hostmaster." + opts.Domain
}

func (r *Reverse) service(s *registry.Service, touched map[netip.Addr]bool, change func(*place, dnsserver.Name)) {
	if s == nil {
		return
	}
	seen := make(map[netip.Addr]bool, len(s.Endpoints))
	for _, e := range s.Endpoints {
		addr := e.Addr.WithZone("")
		if seen[addr] || !r.prefix.Contains(addr) {
			continue
		}
		seen[addr] = true
		if name, err := dnsserver.Join(Label(addr)+"."+Key(s.Name), r.mesh.origin); err == nil {
			change(r.place(addr), name)
			touched[addr] = true
		}
	}
}

func (r *Reverse) host(h *registry.Host, touched map[netip.Addr]bool, change func(*place, dnsserver.Name)) {
	if h == nil {
		return
	}
	name, err := dnsserver.Join(registry.Label(h.ID)+"."+hostNamespace, r.mesh.origin)
	for _, addr := range h.Addrs {
		if err == nil && r.prefix.Contains(addr) {
			change(r.place(addr), name)
			touched[addr] = true
		}
	}
}

func (r *Reverse) place(addr netip.Addr) *place {
	p := r.at[addr]
	if p == nil {
		p = &place{}
		r.at[addr] = p
	}
	return p
}

func (p *place) withEndpoint(name dnsserver.Name)    { p.endpoints = append(p.endpoints, name) }
func (p *place) withoutEndpoint(name dnsserver.Name) { p.endpoints = without(p.endpoints, name) }
func (p *place) withHost(name dnsserver.Name)        { p.hosts = append(p.hosts, name) }
func (p *place) withoutHost(name dnsserver.Name)     { p.hosts = without(p.hosts, name) }

func without(names []dnsserver.Name, name dnsserver.Name) []dnsserver.Name {
	if i := slices.Index(names, name); i >= 0 {
		return slices.Delete(names, i, i+1)
	}
	return names
}

// branch makes the records of an address, nil when nothing is there.
func (r *Reverse) branch(addr netip.Addr) *dnsserver.Branch {
	p := r.at[addr]
	names := p.hosts
	if len(names) == 0 {
		names = p.endpoints
	}
	if len(names) == 0 {
		delete(r.at, addr)
		return nil
	}
	set := dnsserver.Set{Type: dns.TypePTR, TTL: r.opts.TTL}
	for _, name := range names {
		set.Data = append(set.Data, []byte(name))
	}
	labels, bits, _ := reverseLabels(addr)
	owner := strings.Join(labels[:len(labels)-r.prefix.Bits()/bits], ".")
	return dnsserver.NewBranch(r.origin, 0, map[string][]dnsserver.Set{owner: {set}})
}
