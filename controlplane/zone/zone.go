// Package zone turns Snapshots into the zone that DNS serves.
//
//	<service>.<namespace>.<domain>              A, AAAA of what serves; SRV of all its ports
//	_<port>._<proto>.<service>.<namespace>.…    SRV of one port; an unnamed one goes by its protocol (_http._tcp)
//	<endpoint>.<service>.<namespace>.<domain>   what SRV points to; it exists for every endpoint, serving or not
//	<service>.<domain>, _<port>._<proto>.<service>.<domain>   the same for namespace default
//
// A service or namespace may have the name of the name server (ns): then that name alone is the server's, and the service
// has its long form only. An endpoint's label is its address: 192-0-2-1, or 2001-0db8-0000-0000-0000-0000-0000-0001.
package zone

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

// Options say what a zone is called and how long it is remembered. Zero values take the defaults.
type Options struct {
	Domain      string                 // default mesh.internal
	NameServers []dnsserver.NameServer // default ns.<domain> without an address
	Mailbox     string                 // SOA's RNAME; default hostmaster.<domain>
	TTL         uint32                 // of a service's records, in seconds; default 5
	ApexTTL     uint32                 // of SOA and NS, in seconds; default 60
	NegativeTTL uint32                 // of "there is none", in seconds; default 1
}

// Builder builds one zone after the other. It is not safe for concurrent use; the zones are.
type Builder struct {
	opts   Options
	domain string // lower case, without the last dot
	built  map[*registry.Service]branches
}

// branches are a service's part of the zone.
type branches struct {
	long  *dnsserver.Branch // <service>.<namespace>
	short *dnsserver.Branch // <service>; nil outside the namespace default
}

// New returns a builder without a zone yet.
func New(opts Options) *Builder {
	opts.Domain = cmp.Or(strings.ToLower(strings.TrimSuffix(opts.Domain, ".")), "mesh.internal")
	opts.TTL = cmp.Or(opts.TTL, 5)
	opts.ApexTTL = cmp.Or(opts.ApexTTL, 60)
	opts.NegativeTTL = cmp.Or(opts.NegativeTTL, 1)
	if len(opts.NameServers) == 0 {
		opts.NameServers = []dnsserver.NameServer{{Name: "ns." + opts.Domain}}
	}
	return &Builder{opts: opts, domain: opts.Domain}
}

// Build returns the zone of a snapshot; its serial is the snapshot's number modulo 2³² (RFC 1982). What belongs to a
// service whose pointer was in the snapshot before is the same as in the zone before.
func (b *Builder) Build(snap *registry.Snapshot) *dnsserver.Zone {
	built := make(map[*registry.Service]branches, len(snap.Services))
	all := make(map[string]*dnsserver.Branch, 2*len(snap.Services))
	for _, s := range snap.Services {
		part, ok := b.built[s]
		if !ok {
			part = b.service(s)
		}
		built[s] = part
		all[s.Name.Name+"."+s.Name.Namespace] = part.long
		if part.short != nil {
			all[s.Name.Name] = part.short
		}
	}
	b.built = built
	return dnsserver.NewZone(dnsserver.Apex{
		Origin: b.domain, Serial: uint32(snap.Number), Mailbox: b.opts.Mailbox, NameServers: b.opts.NameServers,
		TTL: b.opts.ApexTTL, NegativeTTL: b.opts.NegativeTTL,
	}, all)
}

// service makes the records of one service.
func (b *Builder) service(s *registry.Service) branches {
	own := &dnsserver.Records{TTL: b.opts.TTL}
	owner := s.Name.Name + "." + s.Name.Namespace + "." + b.domain + "."
	long, short := map[string]*dnsserver.Records{"": own}, map[string]*dnsserver.Records{"": own}

	targets := make(map[netip.Addr]string, len(s.Endpoints))
	for _, e := range s.Endpoints {
		if _, ok := targets[e.Addr]; !ok {
			label := Label(e.Addr)
			targets[e.Addr] = label + "." + owner
			long[label] = &dnsserver.Records{TTL: b.opts.TTL}
			add(long[label], e.Addr)
		}
	}
	serving := serving(s.Endpoints)
	added := make(map[netip.Addr]bool, len(serving))
	for _, e := range serving {
		if !added[e.Addr] {
			added[e.Addr] = true
			add(own, e.Addr)
		}
	}
	heaviest := heaviest(serving)
	for _, p := range s.Ports {
		srv := make([]dnsserver.SRV, 0, len(serving))
		for _, e := range serving {
			if number := e.Port(p.Name); number != 0 {
				srv = append(srv, dnsserver.SRV{
					Weight: weight(e.Weight, heaviest), Port: number, Target: targets[e.Addr], Addr: e.Addr,
				})
			}
		}
		if len(targets) < len(s.Endpoints) {
			srv = onePerPlace(srv)
		}
		if name := portName(p); name != "" {
			records := &dnsserver.Records{TTL: b.opts.TTL, SRV: srv}
			if clash := long[name]; clash != nil { // two names that differ only in what DNS cannot tell
				records.SRV = append(slices.Clip(clash.SRV), srv...)
			}
			long[name], short[name] = records, records
		}
		own.SRV = append(own.SRV, srv...)
	}
	part := branches{long: dnsserver.NewBranch(long)}
	if s.Name.Namespace == registry.DefaultNamespace {
		part.short = dnsserver.NewBranch(short)
	}
	return part
}

// onePerPlace makes one record of those of endpoints that share a port, with the sum of their weights: a record set has no
// record twice.
func onePerPlace(all []dnsserver.SRV) []dnsserver.SRV {
	first := make(map[netip.AddrPort]int, len(all))
	kept := all[:0]
	for _, r := range all {
		at := netip.AddrPortFrom(r.Addr, r.Port)
		if i, ok := first[at]; ok {
			kept[i].Weight = uint16(min(uint32(kept[i].Weight)+uint32(r.Weight), math.MaxUint16))
			continue
		}
		first[at] = len(kept)
		kept = append(kept, r)
	}
	return kept
}

func add(r *dnsserver.Records, addr netip.Addr) {
	if addr.Is4() {
		r.V4 = append(r.V4, addr)
	} else {
		r.V6 = append(r.V6, addr.WithZone(""))
	}
}

// serving returns the endpoints that serve, or all when none does: then health says more about who checks.
func serving(all []*registry.Endpoint) []*registry.Endpoint {
	some := make([]*registry.Endpoint, 0, len(all))
	for _, e := range all {
		if e.Health.Serving() {
			some = append(some, e)
		}
	}
	if len(some) == 0 {
		return all
	}
	return some
}

func heaviest(all []*registry.Endpoint) (most uint32) {
	for _, e := range all {
		most = max(most, e.Weight)
	}
	return most
}

// weight returns a weight as SRV can tell it, in 16 bits. Where the heaviest of a service is more than that, all are told
// in proportion, so that the shares stay; 0 would be next to never (RFC 2782).
func weight(own, heaviest uint32) uint16 {
	if heaviest <= math.MaxUint16 {
		return uint16(own)
	}
	return uint16(max((uint64(own)*math.MaxUint16+uint64(heaviest)/2)/uint64(heaviest), 1))
}

// Label returns the label of the endpoints at an address. Different addresses have different labels.
func Label(addr netip.Addr) string {
	addr = addr.WithZone("")
	if addr.Is4() {
		return strings.ReplaceAll(addr.String(), ".", "-")
	}
	return strings.ReplaceAll(addr.StringExpanded(), ":", "-")
}

// portName returns the name of a port's SRV records relative to the service, "" for a port that has none.
func portName(p registry.Port) string {
	const longest = 62 // and the underscore
	name := p.Name
	if name == "" {
		name = string(p.Protocol)
	}
	if name == "" || p.Name == "" && (p.Protocol == registry.TCP || p.Protocol == registry.UDP) {
		return ""
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, name)
	if len(name) > longest {
		return ""
	}
	if p.Protocol == registry.UDP {
		return "_" + name + "._udp"
	}
	return "_" + name + "._tcp"
}
