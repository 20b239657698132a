package dns

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/registry"
)

// Config says which names to ask for, and whom. The zero value of each field but Services is a good one.
type Config struct {
	// Resolvers are host, host:port, or tcp://host:port to ask by TCP only; the nameservers of ResolvConf if empty.
	Resolvers []string `yaml:"resolvers"`
	// ResolvConf is read again when it changes; /etc/resolv.conf if empty.
	ResolvConf string `yaml:"resolvConf"`
	// Services are the names to ask for. Several of one service are its union.
	Services []Service `yaml:"services,required"`
	// MinTTL and MaxTTL bound how long an answer is good, whatever it says itself; 1 s and 5 min if 0.
	MinTTL time.Duration `yaml:"minTTL"`
	MaxTTL time.Duration `yaml:"maxTTL"`
	// Interval, if set, is how often each name is asked for, whatever its TTL.
	Interval time.Duration `yaml:"interval"`
	// Timeout is how long one resolver may take for one answer; 1 s if 0.
	Timeout time.Duration `yaml:"timeout"`
	// Namespace is the namespace of services whose name has none; registry.DefaultNamespace if empty.
	Namespace string `yaml:"namespace"`
}

// Service is one name in DNS and the service of the mesh that it is a part of. Exactly one of SRV and Host is set.
type Service struct {
	Name     string            `yaml:"name,required"` // in the mesh: name or namespace/name
	SRV      string            `yaml:"srv"`           // a name with SRV records: _http._tcp.web.example.com
	Host     string            `yaml:"host"`          // a name with A and AAAA records
	Port     uint16            `yaml:"port"`          // where Host's addresses listen
	Family   Family            `yaml:"family"`        // which addresses are asked for
	Protocol registry.Protocol `yaml:"protocol"`      // what is spoken there
	// PortName and ServicePort are the port's name and number for callers; unnamed, and left to the merge, if empty.
	PortName    string            `yaml:"portName"`
	ServicePort uint16            `yaml:"servicePort"`
	Labels      map[string]string `yaml:"labels"` // of every endpoint
}

// Family says which addresses are asked for: both kinds if empty.
type Family string

// The families.
const (
	Any  Family = "any"
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

const (
	defaultResolvConf = "/etc/resolv.conf"
	defaultMinTTL     = time.Second
	defaultMaxTTL     = 5 * time.Minute
	defaultTimeout    = time.Second
)

// withDefaults returns cfg with every field set but those whose absence means something.
func (cfg Config) withDefaults() Config {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&cfg.MinTTL, defaultMinTTL)
	set(&cfg.MaxTTL, max(defaultMaxTTL, cfg.MinTTL))
	set(&cfg.Timeout, defaultTimeout)
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = defaultResolvConf
	}
	if cfg.Namespace == "" {
		cfg.Namespace = registry.DefaultNamespace
	}
	return cfg
}

// Check reports each mistake in cfg by the path of its field, what was got and what is wanted. It reads no file.
func (cfg Config) Check(report func(path, got, want string)) {
	for i, text := range cfg.Resolvers {
		if _, err := parseServer(text); err != nil {
			report(fmt.Sprintf("resolvers[%d]", i), strconv.Quote(text), err.Error())
		}
	}
	if cfg.ResolvConf != "" && !filepath.IsAbs(cfg.ResolvConf) {
		report("resolvConf", strconv.Quote(cfg.ResolvConf), "an absolute path")
	}
	if cfg.ResolvConf != "" && len(cfg.Resolvers) > 0 {
		report("resolvConf", strconv.Quote(cfg.ResolvConf), "resolvers or resolvConf, not both")
	}
	cfg.checkTimes(report)
	if cfg.Namespace != "" && !isLabel(cfg.Namespace) {
		report("namespace", strconv.Quote(cfg.Namespace), "an RFC 1123 label")
	}
	if cfg.Namespace == "host" {
		report("namespace", strconv.Quote(cfg.Namespace), "another namespace, that one is reserved for hosts")
	}
	if len(cfg.Services) == 0 {
		report("services", "none", "at least one name to ask for")
	}
	seen := make(map[string]int, len(cfg.Services))
	for i, s := range cfg.Services {
		at := fmt.Sprintf("services[%d]", i)
		s.check(func(path, got, want string) { report(at+"."+path, got, want) })
		key := newName(s, cfg.withDefaults().Namespace).key
		if first, ok := seen[key]; ok {
			report(at, key, fmt.Sprintf("it once (first at services[%d])", first))
			continue
		}
		seen[key] = i
	}
}

func (cfg Config) checkTimes(report func(path, got, want string)) {
	for _, f := range []struct {
		path             string
		value, low, high time.Duration
	}{
		{"minTTL", cfg.MinTTL, 100 * time.Millisecond, time.Hour},
		{"maxTTL", cfg.MaxTTL, 100 * time.Millisecond, 24 * time.Hour},
		{"interval", cfg.Interval, 100 * time.Millisecond, time.Hour},
		{"timeout", cfg.Timeout, 10 * time.Millisecond, 5 * time.Second},
	} {
		if f.value != 0 && (f.value < f.low || f.value > f.high) {
			report(f.path, f.value.String(), fmt.Sprintf("%s to %s", f.low, f.high))
		}
	}
	if full := cfg.withDefaults(); full.MinTTL > full.MaxTTL {
		report("minTTL", full.MinTTL.String(), fmt.Sprintf("at most maxTTL, which is %s", full.MaxTTL))
	}
	if cfg.Interval != 0 && cfg.MinTTL+cfg.MaxTTL != 0 {
		report("interval", cfg.Interval.String(), "interval, or minTTL and maxTTL, not both")
	}
}

// check reports the mistakes of one service.
func (s Service) check(report func(path, got, want string)) {
	space, label, spaced := strings.Cut(s.Name, "/")
	if !spaced {
		space, label = registry.DefaultNamespace, s.Name
	}
	switch {
	case !isLabel(space) || !isLabel(label):
		report("name", strconv.Quote(s.Name), "name or namespace/name, each an RFC 1123 label")
	case space == "host":
		report("name", strconv.Quote(s.Name), "another namespace, that one is reserved for hosts")
	}
	switch {
	case (s.SRV == "") == (s.Host == ""):
		report("host", fmt.Sprintf("host %q and srv %q", s.Host, s.SRV), "exactly one of them")
	case s.SRV != "":
		checkDomain(report, "srv", s.SRV)
		if s.Port != 0 {
			report("port", fmt.Sprint(s.Port), "none: SRV records say the port")
		}
	default:
		checkDomain(report, "host", s.Host)
		if s.Port == 0 {
			report("port", "0", "where the addresses listen, or srv instead of host")
		}
	}
	if !slices.Contains([]Family{"", Any, IPv4, IPv6}, s.Family) {
		report("family", strconv.Quote(string(s.Family)), "any, ipv4 or ipv6")
	}
	protocols := []registry.Protocol{"", registry.TCP, registry.UDP, registry.HTTP, registry.HTTP2, registry.GRPC, registry.TLS}
	if !slices.Contains(protocols, s.Protocol) {
		report("protocol", strconv.Quote(string(s.Protocol)), "tcp, udp, http, http2, grpc or tls")
	}
	if s.PortName != "" && !isLabel(s.PortName) {
		report("portName", strconv.Quote(s.PortName), "an RFC 1123 label")
	}
}

func checkDomain(report func(path, got, want string), field, domain string) {
	if _, err := netip.ParseAddr(domain); err == nil {
		report(field, strconv.Quote(domain), "a name; for addresses there is the file registry")
		return
	}
	if _, ok := dns.IsDomainName(domain); !ok || strings.ContainsFunc(domain, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }) {
		report(field, strconv.Quote(domain), "a domain name in ASCII")
	}
}

func isLabel(s string) bool { return s != "" && registry.Label(s) == s }

// server is one resolver.
type server struct {
	network string // udp, with tcp for what is truncated; or tcp
	address string // host:port
}

func (s server) String() string { return s.network + "://" + s.address }

func parseServer(text string) (server, error) {
	want := fmt.Errorf("host, host:port or tcp://host:port")
	s := server{network: "udp", address: strings.TrimPrefix(text, "udp://")}
	if rest, ok := strings.CutPrefix(text, "tcp://"); ok {
		s = server{network: "tcp", address: rest}
	}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s.address, "["), "]"), "53"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return server{}, want
	}
	if _, err := netip.ParseAddr(host); err != nil {
		if _, ok := dns.IsDomainName(host); !ok || strings.ContainsAny(host, "/:@ ") {
			return server{}, want
		}
	}
	s.address = net.JoinHostPort(host, port)
	return s, nil
}
