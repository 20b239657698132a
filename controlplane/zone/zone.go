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

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
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
	Signer      *dnssec.Signer         // nil: the zone is not signed
}

// Builder builds one zone after the other. It is not safe for concurrent use; the zones are.
type Builder struct {
	opts   Options
	origin dnsserver.Name
	before *registry.Snapshot // that zone is of
	zone   *dnsserver.Zone
}

// New returns a builder without a zone yet. It panics when the domain cannot be one (dnsserver.ParseName).
func New(opts Options) *Builder {
	opts.Domain = cmp.Or(strings.ToLower(strings.TrimSuffix(opts.Domain, ".")), "mesh.internal")
	opts.TTL = cmp.Or(opts.TTL, 5)
	opts.ApexTTL = cmp.Or(opts.ApexTTL, 60)
	opts.NegativeTTL = cmp.Or(opts.NegativeTTL, 1)
	if len(opts.NameServers) == 0 {
		opts.NameServers = []dnsserver.NameServer{{Name: "ns." + opts.Domain}}
	}
	origin, err := dnsserver.ParseName(opts.Domain)
	if err != nil {
		panic(err)
	}
	return &Builder{opts: opts, origin: origin}
}

// Build returns the zone of a snapshot; its serial is the snapshot's number modulo 2³² (RFC 1982). What belongs to a
// service whose pointer was in the snapshot before is the same as in the zone before, and costs no more than a look.
func (b *Builder) Build(snap *registry.Snapshot) *dnsserver.Zone {
	if b.zone == nil {
		all := make(map[string]*dnsserver.Branch, len(snap.Services))
		for _, s := range snap.Services {
			all[Key(s.Name)] = b.service(s)
		}
		b.zone = dnsserver.NewZone(dnsserver.Apex{
			Origin: b.opts.Domain, Serial: uint32(snap.Number), Mailbox: b.opts.Mailbox, NameServers: b.opts.NameServers,
			TTL: b.opts.ApexTTL, NegativeTTL: b.opts.NegativeTTL, Signer: b.opts.Signer,
		}, all)
	} else {
		b.zone = b.zone.Next(uint32(snap.Number), b.changed(snap))
	}
	b.before = snap
	return b.zone
}

// changed are the branches that a snapshot changes, nil for a service that is gone. Snapshots are sorted by name.
func (b *Builder) changed(snap *registry.Snapshot) map[string]*dnsserver.Branch {
	out := map[string]*dnsserver.Branch{}
	was, is := b.before.Services, snap.Services
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(was) > 0 && len(is) > 0 && was[0] == is[0]:
			was, is = was[1:], is[1:]
		case len(is) == 0 || len(was) > 0 && was[0].Name.Compare(is[0].Name) < 0:
			out[Key(was[0].Name)] = nil
			was = was[1:]
		default:
			if len(was) > 0 && was[0].Name == is[0].Name {
				was = was[1:]
			}
			out[Key(is[0].Name)] = b.service(is[0])
			is = is[1:]
		}
	}
	return out
}

// Key is the key of a service's branch in the zone.
func Key(name registry.Name) string { return name.Name + "." + name.Namespace }

// service makes the records of one service.
func (b *Builder) service(s *registry.Service) *dnsserver.Branch {
	long := Key(s.Name)
	owners := []string{long}
	if s.Name.Namespace == registry.DefaultNamespace {
		owners = append(owners, s.Name.Name)
	}
	names, ports := make(map[string][]dnsserver.Set, len(s.Endpoints)+2*len(s.Ports)+2), make(map[string][]record, len(s.Ports))

	targets := make(map[netip.Addr]dnsserver.Name, len(s.Endpoints))
	for _, e := range s.Endpoints {
		if _, ok := targets[e.Addr]; !ok {
			label := Label(e.Addr) + "." + long
			names[label] = dnsserver.Addresses(b.opts.TTL, []netip.Addr{e.Addr.WithZone("")}, nil)
			targets[e.Addr], _ = dnsserver.Join(label, b.origin) // a name that cannot be has no record
		}
	}
	serving := serving(s.Endpoints)
	addrs, order := make([]netip.Addr, 0, len(serving)), &dnsserver.Order{Weights: make([]uint32, 0, len(serving))}
	placed := slices.ContainsFunc(serving, func(e *registry.Endpoint) bool { return e.Locality != registry.Locality{} })
	for _, e := range serving {
		addrs, order.Weights = append(addrs, e.Addr.WithZone("")), append(order.Weights, e.Weight)
		if placed {
			order.Localities = append(order.Localities, dnsserver.Locality(e.Locality))
		}
	}
	var all []record
	heaviest := heaviest(serving)
	for _, p := range s.Ports {
		var srv []record
		for _, e := range serving {
			if number := e.Port(p.Name); number != 0 && targets[e.Addr] != "" {
				srv = append(srv, record{weight(e.Weight, heaviest), number, targets[e.Addr], dnsserver.Locality(e.Locality)})
			}
		}
		if len(targets) < len(s.Endpoints) {
			srv = onePerPlace(srv)
		}
		if name := portName(p); name != "" {
			ports[name] = append(ports[name], srv...) // two names may differ only in what DNS cannot tell
		}
		all = append(all, srv...)
	}
	for _, owner := range owners {
		names[owner] = append(dnsserver.Addresses(b.opts.TTL, addrs, order), b.serviceSet(all, placed))
		for name, srv := range ports {
			names[name+"."+owner] = []dnsserver.Set{b.serviceSet(srv, placed)}
		}
	}
	return dnsserver.NewBranch(b.origin, 0, names)
}

// record is one SRV record to be.
type record struct {
	weight, port uint16
	target       dnsserver.Name
	place        dnsserver.Locality
}

func (b *Builder) serviceSet(srv []record, placed bool) dnsserver.Set {
	set := dnsserver.Set{Type: dns.TypeSRV, TTL: b.opts.TTL, Order: &dnsserver.Order{}}
	for _, r := range srv {
		set.Data = append(set.Data, dnsserver.ServiceData(0, r.weight, r.port, r.target))
		set.Order.Weights = append(set.Order.Weights, uint32(r.weight))
		if placed {
			set.Order.Localities = append(set.Order.Localities, r.place)
		}
	}
	return set
}

// onePerPlace makes one record of those of endpoints that share a port, with the sum of their weights: a record set has no
// record twice.
func onePerPlace(all []record) []record {
	type place struct {
		target dnsserver.Name
		port   uint16
	}
	first := make(map[place]int, len(all))
	kept := all[:0]
	for _, r := range all {
		at := place{r.target, r.port}
		if i, ok := first[at]; ok {
			kept[i].weight = uint16(min(uint32(kept[i].weight)+uint32(r.weight), math.MaxUint16))
			continue
		}
		first[at] = len(kept)
		kept = append(kept, r)
	}
	return kept
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
