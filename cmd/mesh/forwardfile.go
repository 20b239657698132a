package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/forward"
	"github.com/hostmesh/hostmesh/internal/tlsfile"
)

// forwardSection says who is asked for names that are not the mesh's, and for whom.
type forwardSection struct {
	To          []upstreamSection `yaml:"to,required"`
	Allow       []netip.Prefix    `yaml:"allow"`
	CacheBytes  int               `yaml:"cacheBytes"`
	MinTTL      time.Duration     `yaml:"minTTL"`
	MaxTTL      time.Duration     `yaml:"maxTTL"`
	NegativeTTL time.Duration     `yaml:"negativeTTL"`
	Stale       time.Duration     `yaml:"stale"`
	PassOn      []string          `yaml:"passOn"`
	// PlaintextFallback has upstreams asked without TLS where none that is asked over it answers.
	PlaintextFallback bool `yaml:"plaintextFallback"`
}

// upstreamSection is one that is asked.
type upstreamSection struct {
	Address    string        `yaml:"address,required"`
	ServerName string        `yaml:"serverName"`
	CAFile     string        `yaml:"caFile"`
	Timeout    time.Duration `yaml:"timeout"`
}

const (
	leastCache, mostCache = 64 << 10, 1 << 30
	longestKept           = 7 * 24 * time.Hour
	longestMinTTL         = time.Hour
	longestUpstream       = 5 * time.Second

	// Shorter prefixes than these are no site's.
	leastBits4, leastBits6 = 8, 7
)

// privateNetworks are those of hosts and sites: RFC 1918, 4193.
func privateNetworks() (all []netip.Prefix) {
	for _, p := range []string{"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// SetDefaults implements the hook of internal/yamlpos.
func (f *forwardSection) SetDefaults() {
	f.Allow, f.CacheBytes = privateNetworks(), 16<<20
	f.MaxTTL, f.NegativeTTL, f.Stale = 24*time.Hour, time.Hour, 24*time.Hour
}

// SetDefaults implements the hook of internal/yamlpos.
func (u *upstreamSection) SetDefaults() { u.Timeout = 2 * time.Second }

// Check implements the hook of internal/yamlpos.
func (f *forwardSection) Check(report func(path, got, want string)) {
	if len(f.To) == 0 {
		report("to", "none", "at least one upstream, such as {address: 192.0.2.53}")
	}
	seen, secret := map[netip.AddrPort]int{}, -1
	for i, u := range f.To {
		path := fmt.Sprintf("to[%d]", i)
		addr, ok := u.addr()
		if first, dup := seen[addr]; ok && dup {
			report(path+".address", u.Address, fmt.Sprintf("each upstream once; to[%d] is that one", first))
		}
		seen[addr] = i
		switch {
		case u.ServerName != "":
			secret = i
		case secret >= 0 && ok && !addr.Addr().IsLoopback() && !f.PlaintextFallback:
			report(path+".address", u.Address, fmt.Sprintf("one that is asked over TLS, with serverName, as to[%d] before it is; or plaintextFallback: true, for all to read when that one does not answer", secret))
		}
	}
	for i, p := range f.Allow {
		checkPrefix(p, func(got, want string) { report(fmt.Sprintf("allow[%d]", i), got, want) })
		if least := map[bool]int{true: leastBits4, false: leastBits6}[p.Addr().Is4()]; p.Bits() < least {
			report(fmt.Sprintf("allow[%d]", i), p.String(), fmt.Sprintf("networks of the site, /%d or longer: a resolver for everybody is used to attack others", least))
		}
	}
	if f.CacheBytes != 0 && (f.CacheBytes < leastCache || f.CacheBytes > mostCache) {
		report("cacheBytes", fmt.Sprint(f.CacheBytes), fmt.Sprintf("0 for no cache, or %d to %d", leastCache, mostCache))
	}
	for field, d := range map[string][2]time.Duration{
		"minTTL": {f.MinTTL, min(longestMinTTL, f.MaxTTL)}, "maxTTL": {f.MaxTTL, longestKept}, "negativeTTL": {f.NegativeTTL, longestKept}, "stale": {f.Stale, longestKept},
	} {
		if d[0] > d[1] || d[0]%time.Second != 0 {
			report(field, d[0].String(), "whole seconds, "+d[1].String()+" at most")
		}
	}
	local := forward.LocalDomains()
	for i, domain := range f.PassOn {
		name, err := dnsserver.ParseName(domain)
		found := false
		for _, l := range local {
			found = found || l == name
		}
		if err != nil || !found {
			report(fmt.Sprintf("passOn[%d]", i), fmt.Sprintf("%q", domain), "one of the domains that are answered here, such as 10.in-addr.arpa; all others are passed on")
		}
	}
}

// Check implements the hook of internal/yamlpos.
func (u *upstreamSection) Check(report func(path, got, want string)) {
	if _, ok := u.addr(); !ok {
		report("address", fmt.Sprintf("%q", u.Address), "IP or IP:port of a DNS server")
	}
	if u.ServerName != "" {
		if _, err := dnsserver.ParseName(u.ServerName); err != nil || strings.ContainsAny(u.ServerName, " /:@") {
			report("serverName", fmt.Sprintf("%q", u.ServerName), "what the server's certificate is for, such as dns.example.org")
		}
	}
	if u.CAFile != "" && (u.ServerName == "" || !filepath.IsAbs(u.CAFile)) {
		report("caFile", fmt.Sprintf("%q", u.CAFile), "an absolute path, with serverName: then the server is asked over TLS")
	}
	if u.Timeout < 100*time.Millisecond || u.Timeout > longestUpstream {
		report("timeout", u.Timeout.String(), "100ms to "+longestUpstream.String())
	}
}

// addr is where an upstream is: on port 53, over TLS 853, if no other is said.
func (u *upstreamSection) addr() (netip.AddrPort, bool) {
	port := uint16(53)
	if u.ServerName != "" {
		port = 853
	}
	addr, err := netip.ParseAddrPort(u.Address)
	if ip, failed := netip.ParseAddr(u.Address); failed == nil {
		addr, err = netip.AddrPortFrom(ip, port), nil
	}
	return addr, err == nil && addr.Port() != 0 && !addr.Addr().IsUnspecified() && !addr.Addr().IsMulticast() && !addr.Addr().Is4In6()
}

// checkLoops wants upstreams that are not this server, as far as the file tells.
func (d *dnsSection) checkLoops(report func(path, got, want string)) {
	if d.Forward == nil {
		return
	}
	for i, u := range d.Forward.To {
		addr, ok := u.addr()
		if !ok {
			continue
		}
		for _, listen := range append(append([]string(nil), d.Listen...), d.TLS...) {
			port, all := strings.CutPrefix(listen, ":")
			at, err := netip.ParseAddrPort(listen)
			all = all || err == nil && at.Addr().IsUnspecified()
			if at == addr || all && addr.Addr().IsLoopback() && (port == fmt.Sprint(addr.Port()) || at.Port() == addr.Port()) {
				report(fmt.Sprintf("forward.to[%d].address", i), u.Address, "another server than this one, which listens there")
				break
			}
		}
	}
}

// forwarder makes what forwards. Own are the zones' domains.
func (d *dnsSection) forwarder(domain string, o *controlplane.DNS, log *slog.Logger) error {
	f := d.Forward
	if f == nil {
		return nil
	}
	options := forward.Options{CacheBytes: f.CacheBytes, MinTTL: f.MinTTL, MaxTTL: f.MaxTTL, NegativeTTL: f.NegativeTTL, Stale: f.Stale, Log: log}
	if o.QueryLog != nil {
		options.Tap = o.QueryLog
	}
	for _, u := range f.To {
		addr, _ := u.addr()
		up := forward.Upstream{Addr: addr, Timeout: u.Timeout}
		if u.ServerName != "" {
			config, err := tlsfile.Files{CA: u.CAFile, Server: u.ServerName}.Config()
			if err != nil {
				return fmt.Errorf("forward DNS to %s: %w", u.Address, err)
			}
			up.TLS = config
		}
		options.Upstreams = append(options.Upstreams, up)
	}
	domains := []string{domain}
	for _, p := range d.Reverse {
		reverse, _ := zone.ReverseDomain(p)
		domains = append(domains, reverse)
	}
	for _, own := range domains {
		name, err := dnsserver.ParseName(own)
		if err != nil {
			return fmt.Errorf("forward DNS: %w", err)
		}
		options.Own = append(options.Own, name)
	}
	for _, domain := range f.PassOn {
		name, _ := dnsserver.ParseName(domain)
		options.PassOn = append(options.PassOn, name)
	}
	o.Forward, o.ForwardFor = forward.New(options), f.Allow
	return nil
}
