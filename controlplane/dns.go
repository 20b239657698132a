package controlplane

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
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

	NSID       string         // see dnsserver.Options, as the rest
	RateLimit  uint32         // answers over UDP to one source in a second; 0: no limit
	SubnetFrom []netip.Prefix // resolvers whose word about their clients is taken
	Places     []Place        // where clients are
}

func (d DNS) served() bool { return len(d.Listen)+len(d.TLS)+len(d.HTTPS) > 0 }

func (d DNS) options(zones func() []*dnsserver.Zone, log *slog.Logger) dnsserver.Options {
	o := dnsserver.Options{
		Addrs: d.Listen, TLS: d.TLS, HTTPS: d.HTTPS, Certificate: d.Certificate, Zones: zones, Log: log,
		NSID: d.NSID, SubnetFrom: d.SubnetFrom, RateLimit: d.RateLimit,
	}
	if len(d.Places) > 0 {
		o.Locality = newPlaces(d.Places).locate
	}
	return o
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

// zoneBuilder returns what builds the zone, signed when there is where to keep its keys.
func (s *Server) zoneBuilder(o Options) (*zone.Builder, error) {
	options := zone.Options{
		Domain: o.Domain, NameServers: o.DNS.nameServers(o.Domain), Mailbox: o.DNS.Mailbox,
		TTL: o.DNS.TTL, ApexTTL: o.DNS.ApexTTL, NegativeTTL: o.DNS.NegativeTTL,
	}
	if o.DNS.Keys != "" && o.DNS.served() {
		signer, err := s.signer(o.Domain, o.DNS.Keys)
		if err != nil {
			return nil, err
		}
		options.Signer = signer
	}
	return zone.New(options), nil
}

// signer opens the keys of a zone.
func (s *Server) signer(domain, dir string) (*dnssec.Signer, error) {
	keys, err := dnssec.OpenKeys(dir, domain, dnssec.Policy{}, s.log)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", strings.TrimSuffix(domain, "."), err)
	}
	signer := dnssec.NewSigner(keys.Ring, 0)
	s.keys, s.signers = append(s.keys, keys), append(s.signers, signer)
	return signer, nil
}
