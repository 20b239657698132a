package etcd

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// Config says which etcd to read, and how. Only Endpoints is needed.
type Config struct {
	// Endpoints are members of one cluster: host:port, http://host:port or https://host:port. The first that works, in
	// this order, is read; one that failed while it was read is tried last.
	Endpoints []string `yaml:"endpoints"`
	// Layout is how services are written: hostmesh, grpc or skydns; hostmesh if empty.
	Layout string `yaml:"layout"`
	// Prefix is what all keys begin with; it ends in a slash. If empty, /hostmesh/services/ or /skydns/ by the layout;
	// grpc has no usual one.
	Prefix string `yaml:"prefix"`
	// Domain is the zone that skydns names are in: with skydns.local the key /skydns/local/skydns/web/1 is of service web.
	Domain string `yaml:"domain"`
	// Namespace is the namespace of the mesh for services whose key names none; registry.DefaultNamespace if empty.
	Namespace string `yaml:"namespace"`
	// Username and PasswordFile are a user of etcd. The file is read at each Watch.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
	// CAFile has the PEM certificates that sign the server's; the system's if empty. It is read at each Watch.
	CAFile string `yaml:"caFile"`
	// CertFile and KeyFile are the client's certificate, read at each handshake.
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	// ServerName is what the server's certificate must be for, if it is not the host of the endpoint.
	ServerName string `yaml:"serverName"`
	// DialTimeout bounds how long an endpoint may take to be connected, to authenticate and to answer; 2 s if 0.
	DialTimeout time.Duration `yaml:"dialTimeout"`
	// KeepAliveTime is how often the server is asked whether it is there, has a leader and still lets us read; 1 s if 0.
	KeepAliveTime time.Duration `yaml:"keepAliveTime"`
	// KeepAliveTimeout is how long it may take to answer that; 3 s if 0.
	KeepAliveTimeout time.Duration `yaml:"keepAliveTimeout"`
}

// The layouts.
const (
	layoutHostmesh = "hostmesh"
	layoutGRPC     = "grpc"
	layoutSkyDNS   = "skydns"
)

// withDefaults returns cfg with every field set that has a default.
func (cfg Config) withDefaults() Config {
	cfg.Layout = cmp.Or(cfg.Layout, layoutHostmesh)
	if cfg.Prefix == "" {
		cfg.Prefix = map[string]string{layoutHostmesh: "/hostmesh/services/", layoutSkyDNS: "/skydns/"}[cfg.Layout]
	}
	cfg.Domain = strings.Trim(cfg.Domain, ".")
	cfg.Namespace = cmp.Or(cfg.Namespace, registry.DefaultNamespace)
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, 2*time.Second)
	cfg.KeepAliveTime = cmp.Or(cfg.KeepAliveTime, time.Second)
	cfg.KeepAliveTimeout = cmp.Or(cfg.KeepAliveTimeout, 3*time.Second)
	return cfg
}

// root is what all keys begin with that are read: one range, which the user's role must let read.
func (cfg Config) root() string {
	if cfg.Layout != layoutSkyDNS {
		return cfg.Prefix
	}
	labels := strings.Split(strings.ToLower(cfg.Domain), ".")
	slices.Reverse(labels)
	return cfg.Prefix + strings.Join(labels, "/") + "/"
}

var (
	labelPattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	domainPattern = regexp.MustCompile(`^[A-Za-z0-9_]([-A-Za-z0-9_]{0,62})(\.[A-Za-z0-9_]([-A-Za-z0-9_]{0,62}))*\.?$`)
)

// Check reports each mistake in cfg by the path of its field, what was got and what is wanted. It reads no file.
func (cfg Config) Check(report func(path, got, want string)) {
	cfg.checkEndpoints(report)
	cfg.checkLayout(report)
	for _, f := range []struct{ path, value string }{
		{"passwordFile", cfg.PasswordFile}, {"caFile", cfg.CAFile}, {"certFile", cfg.CertFile}, {"keyFile", cfg.KeyFile},
	} {
		if f.value != "" && !filepath.IsAbs(f.value) {
			report(f.path, quote(f.value), "an absolute path")
		}
	}
	if (cfg.Username == "") != (cfg.PasswordFile == "") {
		report("username", quote(cfg.Username), "username and passwordFile together")
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		report("certFile", quote(cfg.CertFile), "certFile and keyFile together")
	}
	if cfg.Namespace != "" && !labelPattern.MatchString(cfg.Namespace) {
		report("namespace", quote(cfg.Namespace), "an RFC 1123 label")
	}
	if cfg.Namespace == "host" {
		report("namespace", quote(cfg.Namespace), "another namespace, that one is reserved for hosts")
	}
	for _, d := range []struct {
		path  string
		value time.Duration
	}{{"dialTimeout", cfg.DialTimeout}, {"keepAliveTime", cfg.KeepAliveTime}, {"keepAliveTimeout", cfg.KeepAliveTimeout}} {
		if d.value != 0 && (d.value < 100*time.Millisecond || d.value > time.Minute) {
			report(d.path, d.value.String(), "100ms to 1m")
		}
	}
}

func (cfg Config) checkEndpoints(report func(path, got, want string)) {
	if len(cfg.Endpoints) == 0 {
		report("endpoints", "none", "at least one: host:port, http://host:port or https://host:port")
	}
	seen := make(map[string]bool, len(cfg.Endpoints))
	for i, e := range cfg.Endpoints {
		path := fmt.Sprintf("endpoints[%d]", i)
		target, err := cfg.parseEndpoint(e)
		switch {
		case err != nil:
			report(path, withoutUser(e), err.Error())
		case seen[target.host]:
			report(path, quote(e), "an endpoint that is not there twice")
		case !target.tls && cfg.wantsTLS():
			report(path, quote(e), "https://… as caFile, certFile or serverName is set")
		}
		seen[target.host] = true
	}
}

func (cfg Config) checkLayout(report func(path, got, want string)) {
	switch cfg.Layout {
	case "", layoutHostmesh, layoutGRPC, layoutSkyDNS:
	default:
		report("layout", quote(cfg.Layout), "hostmesh, grpc or skydns")
		return
	}
	switch {
	case cfg.Prefix == "" && cfg.Layout == layoutGRPC:
		report("prefix", "none", "what the keys of all services begin with, as /services/: layout grpc has no usual one")
	case cfg.Prefix != "" && (!strings.HasSuffix(cfg.Prefix, "/") || len(cfg.Prefix) > maxKey/2 || strings.ContainsRune(cfg.Prefix, 0)):
		report("prefix", quote(cfg.Prefix), "the beginning of the keys, up to and with a slash")
	}
	switch isSkyDNS := cfg.Layout == layoutSkyDNS; {
	case isSkyDNS && cfg.Domain == "":
		report("domain", "none", "the zone of the names, as skydns.local")
	case isSkyDNS && (!domainPattern.MatchString(cfg.Domain) || len(cfg.Domain) > 253):
		report("domain", quote(cfg.Domain), "a domain name, as skydns.local")
	case !isSkyDNS && cfg.Domain != "":
		report("domain", quote(cfg.Domain), "none, it is for layout skydns")
	}
}

// withoutUser quotes an address without what stands before an @: it may be a password, and the text goes to a log.
func withoutUser(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return quote("…" + address[at:])
	}
	return quote(address)
}

func quote(s string) string { return fmt.Sprintf("%.200q", s) }

// target is where one member of the cluster is.
type target struct {
	host string // host:port
	tls  bool
}

// wantsTLS tells whether the configuration makes sense only with TLS.
func (cfg Config) wantsTLS() bool { return cfg.CAFile+cfg.CertFile+cfg.ServerName != "" }

// parseEndpoint reads one of cfg.Endpoints. One without a scheme is TLS if a field of TLS is set, as etcdctl has it.
func (cfg Config) parseEndpoint(endpoint string) (target, error) {
	want := fmt.Errorf("host:port, http://host:port or https://host:port")
	if !strings.Contains(endpoint, "://") {
		scheme := "http://"
		if cfg.wantsTLS() {
			scheme = "https://"
		}
		endpoint = scheme + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return target{}, want
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return target{}, want
	}
	if p, err := netip.ParseAddrPort("127.0.0.1:" + port); err != nil || p.Port() == 0 {
		return target{}, want
	}
	return target{host: u.Host, tls: u.Scheme == "https"}, nil
}
