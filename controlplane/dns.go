package controlplane

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
	"github.com/hostmesh/hostmesh/dnsserver/dnstap"
	"github.com/hostmesh/hostmesh/dnsserver/forward"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

// DNS says what is served as DNS, and how. The zero DNS is not served.
type DNS struct {
	// Listen are IP:port pairs for UDP and TCP, TLS and HTTPS those for DNS over TLS and over HTTPS; ":port" is all of the host's.
	Listen, TLS, HTTPS []string
	Certificate        func(*tls.ClientHelloInfo) (*tls.Certificate, error) // for TLS and HTTPS

	// Keys is the directory of the zones' keys, which are made where there are none; "": the zones are not signed.
	Keys string

	// NameServers are the zone's; without any it is ns.<domain>, with the addresses listened on.
	NameServers               []dnsserver.NameServer
	Mailbox                   string // SOA's RNAME; default hostmaster.<domain>
	TTL, ApexTTL, NegativeTTL uint32 // in seconds; see zone.Options
	Control                   []zone.Control
	Reverse                   []netip.Prefix // whose PTR records are served, each in a zone of its own (zone.ReverseDomain)
	Provenance                bool
	Kubernetes                []string // registries

	NSID       string         // see dnsserver.Options, as the rest
	RateLimit  uint32         // answers over UDP to one source in a second; 0: no limit
	SubnetFrom []netip.Prefix // resolvers whose word about their clients is taken
	Places     []Place        // where clients are

	TransferKeys []*tsig.Key          // zones are copied to who signs with one of them, and to the host itself
	Secondaries  []transfer.Secondary // that are told of changes

	Forward    *forward.Forwarder // of names of no zone, for clients in ForwardFor; nil: such names are refused. Run runs it
	ForwardFor []netip.Prefix

	QueryLog *dnstap.Log // nil: what is asked is not logged. Run runs it
}

func (d DNS) served() bool { return len(d.Listen)+len(d.TLS)+len(d.HTTPS) > 0 }

func (d DNS) options(zones func() []*dnsserver.Zone, log *slog.Logger) dnsserver.Options {
	o := dnsserver.Options{
		Addrs: d.Listen, TLS: d.TLS, HTTPS: d.HTTPS, Certificate: d.Certificate, Zones: zones, Log: log,
		NSID: d.NSID, SubnetFrom: d.SubnetFrom, RateLimit: d.RateLimit, Keys: d.TransferKeys,
	}
	if d.Forward != nil {
		o.Forward, o.ForwardFor = d.Forward, d.ForwardFor
	}
	if d.QueryLog != nil {
		o.Tap = d.QueryLog
	}
	if len(d.Places) > 0 {
		o.Locality = newPlaces(d.Places).locate
	}
	return o
}

// secondaries are told from the address that they know us by: the one listened on that they can answer to, if it is told.
func (d DNS) secondaries() []transfer.Secondary {
	all := slices.Clone(d.Secondaries)
	for i := range all {
		to := all[i].Addr.Addr()
		for _, listen := range d.Listen {
			addr, err := netip.ParseAddrPort(listen)
			if from := addr.Addr(); err == nil && !from.IsUnspecified() && from.Is4() == to.Is4() && from.IsLoopback() == to.IsLoopback() {
				all[i].From = from
				break
			}
		}
	}
	return all
}

// nameServers names this server in its zone, with the addresses that it has which are not wildcards, if nothing else is said.
func (d DNS) nameServers(domain string) []dnsserver.NameServer {
	if len(d.NameServers) > 0 {
		return d.NameServers
	}
	ns := dnsserver.NameServer{Name: "ns." + domain}
	for _, listen := range d.Listen {
		if addr, err := netip.ParseAddrPort(listen); err == nil && !addr.Addr().IsUnspecified() {
			ns.Addrs = append(ns.Addrs, addr.Addr())
		}
	}
	return []dnsserver.NameServer{ns}
}

// zoneBuilders returns what builds the zones, signed when there is where to keep their keys.
func (s *Server) zoneBuilders(o Options) ([]zoneBuilder, error) {
	options := zone.Options{
		Domain: o.Domain, NameServers: o.DNS.nameServers(o.Domain), Mailbox: o.DNS.Mailbox,
		TTL: o.DNS.TTL, ApexTTL: o.DNS.ApexTTL, NegativeTTL: o.DNS.NegativeTTL,
		Control: o.DNS.Control, Provenance: o.DNS.Provenance, Kubernetes: o.DNS.Kubernetes,
	}
	if ns := options.NameServers[0]; o.DNS.served() && len(o.DNS.NameServers) == 0 && len(ns.Addrs) == 0 {
		s.log.Warn("the zone's name server has no address: nobody can follow a delegation to it (dns.nameServers says where it is)", "zone", o.Domain, "server", ns.Name)
	}
	options.Signer = s.signer(o.Domain, o.DNS)
	all := []zoneBuilder{zone.New(options)}
	for _, prefix := range o.DNS.Reverse {
		domain, ok := zone.ReverseDomain(prefix)
		if !ok {
			return nil, fmt.Errorf("serve the names of %s: want a length of whole labels, 8 bits of IPv4 or 4 of IPv6 each", prefix)
		}
		options.Signer = s.signer(domain, o.DNS)
		all = append(all, zone.NewReverse(options, prefix))
	}
	return all, nil
}

// signer opens the keys of a zone. It is nil for a zone that is not signed, also for one whose keys cannot be used: everything
// else is served, and the zone to those who do not validate. Those who do take nothing of it.
func (s *Server) signer(domain string, d DNS) *dnssec.Signer {
	if d.Keys == "" || !d.served() {
		return nil
	}
	keys, err := dnssec.OpenKeys(d.Keys, domain, dnssec.Policy{}, s.log)
	if err != nil {
		s.log.Error("the zone is not signed, so who validates believes nothing of it", "zone", domain, "error", err)
		s.unsigned[domain+"."] = err.Error()
		return nil
	}
	signer := dnssec.NewSigner(keys.Ring, 0)
	s.keys, s.signers = append(s.keys, keys), append(s.signers, signer)
	return signer
}
