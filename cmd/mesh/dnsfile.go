package main

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/internal/tlsfile"
)

// dnsSection is controlplane.DNS as it is written.
type dnsSection struct {
	Listen   []string `yaml:"listen"`
	TLS      []string `yaml:"tls"`
	HTTPS    []string `yaml:"https"`
	CertFile string   `yaml:"certFile"`
	KeyFile  string   `yaml:"keyFile"`

	Signed      bool                `yaml:"signed"`
	NameServers []nameServerSection `yaml:"nameServers"`
	Mailbox     string              `yaml:"mailbox"`
	TTL         time.Duration       `yaml:"ttl"`
	ApexTTL     time.Duration       `yaml:"apexTTL"`
	NegativeTTL time.Duration       `yaml:"negativeTTL"`

	Control    []controlSection `yaml:"control"`
	Reverse    []netip.Prefix   `yaml:"reverse"`
	Provenance bool             `yaml:"provenance"`

	NSID            string            `yaml:"nsid"`
	RateLimit       uint32            `yaml:"rateLimit"`
	TrustSubnetFrom []netip.Prefix    `yaml:"trustSubnetFrom"`
	Localities      []localitySection `yaml:"localities"`

	Keys        []keySection       `yaml:"keys"`
	Secondaries []secondarySection `yaml:"secondaries"`

	QueryLog *queryLogSection `yaml:"queryLog"`
	Forward  *forwardSection  `yaml:"forward"`
}

type nameServerSection struct {
	Name      string       `yaml:"name,required"`
	Addresses []netip.Addr `yaml:"addresses"`
}

// controlSection says where a control plane is.
type controlSection struct {
	nameServerSection `yaml:",inline"`
	Port              uint16 `yaml:"port"`
}

// SetDefaults implements the hook of internal/yamlpos.
func (c *controlSection) SetDefaults() { c.Port = 15012 }

// localitySection says where the clients of a subnet are.
type localitySection struct {
	Subnet  netip.Prefix `yaml:"subnet,required"`
	Region  string       `yaml:"region"`
	Zone    string       `yaml:"zone"`
	SubZone string       `yaml:"subZone"`
}

func newDNSSection() dnsSection {
	return dnsSection{
		Listen: []string{"127.0.0.1:8053"}, Signed: true, RateLimit: 10_000,
		TTL: 5 * time.Second, ApexTTL: time.Minute, NegativeTTL: time.Second,
	}
}

// longestTTL is what signatures outlast.
const longestTTL = time.Hour

// check reports what makes no sense, by its path in the section.
func (d *dnsSection) check(domain string, report func(path, got, want string)) {
	for field, addrs := range map[string][]string{"listen": d.Listen, "tls": d.TLS, "https": d.HTTPS} {
		for i, addr := range addrs {
			if !isListenAddr(addr) {
				report(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%q", addr), `IP:port, or ":port" for all addresses of the host`)
			}
		}
	}
	d.checkFiles(report)
	for field, ttl := range map[string]time.Duration{"ttl": d.TTL, "apexTTL": d.ApexTTL, "negativeTTL": d.NegativeTTL} {
		if ttl < time.Second || ttl > longestTTL || ttl%time.Second != 0 {
			report(field, ttl.String(), "whole seconds from 1s to "+longestTTL.String())
		}
	}
	for i, ns := range d.NameServers {
		ns.check(domain, func(path, got, want string) { report(fmt.Sprintf("nameServers[%d].%s", i, path), got, want) })
	}
	for i, c := range d.Control {
		c.check(domain, func(path, got, want string) { report(fmt.Sprintf("control[%d].%s", i, path), got, want) })
		if c.Port == 0 {
			report(fmt.Sprintf("control[%d].port", i), "0", "the port of its xDS, 1 to 65535")
		}
	}
	d.checkReverse(report)
	d.checkTransfers(report)
	d.checkLoops(report)
	if _, ok := mailboxName(d.Mailbox); d.Mailbox != "" && !ok {
		report("mailbox", fmt.Sprintf("%q", d.Mailbox), "a mail address, such as hostmaster@example.org")
	}
	const longestNSID = 64
	if len(d.NSID) > longestNSID {
		report("nsid", fmt.Sprintf("%d bytes", len(d.NSID)), fmt.Sprintf("at most %d", longestNSID))
	}
	for i, p := range d.TrustSubnetFrom {
		checkPrefix(p, func(got, want string) { report(fmt.Sprintf("trustSubnetFrom[%d]", i), got, want) })
	}
	seen := map[netip.Prefix]int{}
	for i, l := range d.Localities {
		path := fmt.Sprintf("localities[%d]", i)
		checkPrefix(l.Subnet, func(got, want string) { report(path+".subnet", got, want) })
		if first, dup := seen[l.Subnet]; dup {
			report(path+".subnet", l.Subnet.String(), fmt.Sprintf("a subnet of its own; localities[%d] has that one", first))
		}
		seen[l.Subnet] = i
		if l.Region == "" {
			report(path+".region", `""`, "the region, as endpoints have it")
		}
	}
}

func (d *dnsSection) checkFiles(report func(path, got, want string)) {
	secure := len(d.TLS)+len(d.HTTPS) > 0
	for field, file := range map[string]string{"certFile": d.CertFile, "keyFile": d.KeyFile} {
		switch {
		case secure && file == "":
			report(field, "nothing", "a PEM file: tls and https are served with certFile and keyFile")
		case !secure && file != "":
			report(field, fmt.Sprintf("%q", file), "no file without tls or https to serve with it, such as tls: [\":853\"]")
		}
	}
}

// check reports what makes no sense of somebody who has a name.
func (ns nameServerSection) check(domain string, report func(path, got, want string)) {
	name, err := dnsserver.ParseName(ns.Name)
	origin, _ := dnsserver.ParseName(domain)
	switch {
	case err != nil || ns.Name == "" || strings.ContainsAny(ns.Name, " /:@"):
		report("name", fmt.Sprintf("%q", ns.Name), "a domain name, such as ns1."+domain)
	case (name == origin || strings.HasSuffix(name.String(), "."+origin.String())) && len(ns.Addresses) == 0:
		report("addresses", "none", "the addresses of a name in the zone: nobody else can tell them")
	}
	for i, addr := range ns.Addresses {
		if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" || addr.Is4In6() {
			report(fmt.Sprintf("addresses[%d]", i), addr.String(), "an address that others can reach")
		}
	}
}

// checkReverse wants zones that there are, each once.
func (d *dnsSection) checkReverse(report func(path, got, want string)) {
	seen := map[netip.Prefix]bool{}
	for i, p := range d.Reverse {
		path := fmt.Sprintf("reverse[%d]", i)
		checkPrefix(p, func(got, want string) { report(path, got, want) })
		if _, ok := zone.ReverseDomain(p); !ok {
			report(path, p.String(), "a prefix of whole labels: /8, /16, /24 or /32 of IPv4, a multiple of 4 of IPv6")
		}
		if seen[p] {
			report(path, p.String(), "each prefix once")
		}
		seen[p] = true
	}
}

// isListenAddr says whether an address is IP:port or :port.
func isListenAddr(addr string) bool {
	if port, ok := strings.CutPrefix(addr, ":"); ok {
		addr = "0.0.0.0:" + port
	}
	_, err := netip.ParseAddrPort(addr)
	return err == nil
}

func checkPrefix(p netip.Prefix, report func(got, want string)) {
	if p != p.Masked() {
		report(p.String(), p.Masked().String())
	}
}

// mailboxName is a mail address as SOA has it: the first label is what stands before the @.
func mailboxName(mail string) (name string, ok bool) {
	local, domain, found := strings.Cut(mail, "@")
	if !found || local == "" || domain == "" || strings.ContainsAny(mail, " \\\"();<>") || strings.Contains(domain, "@") {
		return "", false
	}
	name = strings.ReplaceAll(local, ".", `\.`) + "." + domain
	_, err := dnsserver.ParseName(name)
	return name, err == nil
}

// options makes what the control plane serves for a domain. state is the directory of its keys.
func (d *dnsSection) options(domain, state string, log *slog.Logger) (controlplane.DNS, error) {
	seconds := func(t time.Duration) uint32 { return uint32(min(t/time.Second, math.MaxInt32)) }
	o := controlplane.DNS{
		Listen: d.Listen, TLS: d.TLS, HTTPS: d.HTTPS,
		TTL: seconds(d.TTL), ApexTTL: seconds(d.ApexTTL), NegativeTTL: seconds(d.NegativeTTL),
		Reverse: d.Reverse, Provenance: d.Provenance, NSID: d.NSID, RateLimit: d.RateLimit, SubnetFrom: d.TrustSubnetFrom,
	}
	o.Mailbox, _ = mailboxName(d.Mailbox)
	for _, ns := range d.NameServers {
		o.NameServers = append(o.NameServers, dnsserver.NameServer{Name: ns.Name, Addrs: ns.Addresses})
	}
	for _, c := range d.Control {
		o.Control = append(o.Control, zone.Control{Name: c.Name, Addrs: c.Addresses, Port: c.Port})
	}
	for _, l := range d.Localities {
		o.Places = append(o.Places, controlplane.Place{Subnet: l.Subnet, Locality: dnsserver.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone}})
	}
	if d.Signed {
		o.Keys = state
	}
	if d.QueryLog != nil {
		o.QueryLog = d.QueryLog.log(d.NSID, log)
	}
	if err := d.forwarder(domain, &o, log); err != nil {
		return o, err
	}
	if err := d.transfers(&o); err != nil {
		return o, err
	}
	if len(d.TLS)+len(d.HTTPS) > 0 {
		pair, err := tlsfile.LoadPair(d.CertFile, d.KeyFile, log)
		if err != nil {
			return o, fmt.Errorf("serve DNS over TLS: %w (dns.certFile and dns.keyFile name them)", err)
		}
		o.Certificate = pair.Certificate
	}
	return o, nil
}
