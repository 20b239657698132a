// Package zone turns Snapshots into the zone that DNS serves.
//
//	<service>.<namespace>.<domain>              A, AAAA of what serves; SRV of all its ports
//	_<port>._<proto>.<service>.<namespace>.…    SRV of one port; an unnamed one goes by its protocol (_http._tcp)
//	<endpoint>.<service>.<namespace>.<domain>   what SRV points to; it exists for every endpoint, serving or not
//	<service>.<domain>, _<port>._<proto>.<service>.<domain>   the same for namespace default
//	_<port>._<proto>.<service>.…                SVCB with ALPN, where the port's protocol says what is spoken
//	<service>.…, _<port>._https.<service>.…     HTTPS, for ports of TLS that are called https: 443, others
//	<host>.host.<domain>                        A, AAAA of a host of the mesh
//	_mesh-control._tcp.<domain>                 SRV of the control planes, when they are told
//	<service>.<namespace>.svc.<domain>, and below it, as Kubernetes has them, for services that come from there
//
// A service that stands for an external name is a CNAME. With provenance, services and endpoints have TXT records of which
// registries report them. A service or namespace may have the name of the name server (ns): then that name alone is the
// server's, and the service has its long form only. An endpoint's label is its address: 192-0-2-1, or
// 2001-0db8-0000-0000-0000-0000-0000-0001. A Reverse builds the zone of PTR records for a prefix of addresses.
package zone

import (
	"cmp"
	"net/netip"
	"strings"

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
	Control     []Control              // the mesh's control planes
	Provenance  bool                   // TXT records of which registries report what
	Kubernetes  []string               // the registries whose services have names as Kubernetes' DNS has them
}

// Control is where a control plane is.
type Control struct {
	Name  string // fully qualified; one in the zone has its addresses there
	Addrs []netip.Addr
	Port  uint16
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
		all := make(map[string]*dnsserver.Branch, len(snap.Services)+1)
		for _, s := range snap.Services {
			b.branches(all, s)
		}
		for i := range snap.Hosts {
			b.host(all, &snap.Hosts[i])
		}
		all[controlKey] = b.extras()
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

// changed are the branches that a snapshot changes, nil for one that is gone.
func (b *Builder) changed(snap *registry.Snapshot) map[string]*dnsserver.Branch {
	out := map[string]*dnsserver.Branch{}
	eachService(b.before, snap, func(was, is *registry.Service) {
		if was != nil {
			out[Key(was.Name)] = nil
			if b.inKubernetes(was) {
				out[kubernetesKey(was.Name)] = nil
			}
		}
		if is != nil {
			b.branches(out, is)
		}
	})
	eachHost(b.before, snap, func(was, is *registry.Host) {
		if was != nil {
			out[hostKey(was)] = nil
		}
		if is != nil {
			b.host(out, is)
		}
	})
	return out
}

// branches adds what there is of a service.
func (b *Builder) branches(to map[string]*dnsserver.Branch, s *registry.Service) {
	to[Key(s.Name)] = b.service(s)
	if b.inKubernetes(s) {
		to[kubernetesKey(s.Name)] = b.kubernetes(s)
	}
}

// Key is the key of a service's branch in the zone.
func Key(name registry.Name) string { return name.Name + "." + name.Namespace }
