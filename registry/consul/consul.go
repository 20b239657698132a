// Package consul reads services, their instances and their health from HashiCorp Consul.
//
// Over HTTPS it keeps one blocking query for each service outstanding, multiplexed as HTTP/2 on a few connections, so
// a change is there in milliseconds. Over plain HTTP, where each query takes a connection of its own and Consul grants
// a client 200, it does the same for up to about a hundred services; for more it watches what is not passing and that
// anything changed at all, and reads again what did. README.md tells what is read and how it becomes a registry.View.
package consul

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

// Config says which Consul to read, and how. The zero value of each field but Address is a good one.
type Config struct {
	// Address is host:port, http://host:port, https://host:port or unix:///path/of/socket.
	Address string `yaml:"address"`
	// TokenFile holds an ACL token. It is read again when it changes and when Consul refuses the token.
	TokenFile string `yaml:"tokenFile"`
	// CAFile has the PEM certificates that sign the server's; the system's if empty. It is read at each Watch.
	CAFile string `yaml:"caFile"`
	// CertFile and KeyFile are the client's certificate, read at each handshake.
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	// ServerName is what the server's certificate must be for, if it is not the host of Address.
	ServerName string `yaml:"serverName"`
	// Datacenters are read together as one truth; the agent's own if empty.
	Datacenters []string `yaml:"datacenters"`
	// Services names what is read; all services but Consul's own if empty. Needed for a token that may not read all.
	Services []string `yaml:"services"`
	// Tags and Meta must all be on an instance, or it is left out.
	Tags []string          `yaml:"tags"`
	Meta map[string]string `yaml:"meta"`
	// Namespace is the namespace of the mesh that the services get; registry.DefaultNamespace if empty.
	Namespace string `yaml:"namespace"`
	// TaggedAddress names the tagged address (lan, wan, …) to prefer over an instance's address.
	TaggedAddress string `yaml:"taggedAddress"`
	// Stale lets any server answer, not only the leader; true if nil. What is read first is always the leader's.
	Stale *bool `yaml:"stale"`
	// MaxStale bounds how long ago a server that answers may have heard of its leader; 10 s if 0.
	MaxStale time.Duration `yaml:"maxStale"`
	// WaitTime is how long Consul holds a query that nothing answers; 5 min if 0.
	WaitTime time.Duration `yaml:"waitTime"`
	// MaxConnections bounds the connections to Consul; 128 if 0.
	MaxConnections int `yaml:"maxConnections"`
}

const (
	defaultMaxStale       = 10 * time.Second
	defaultWaitTime       = 5 * time.Minute
	defaultMaxConnections = 128
	minConnections        = 8 // below that the few questions that are always outstanding starve the others
)

// withDefaults returns cfg with every field set.
func (cfg Config) withDefaults() Config {
	if cfg.Namespace == "" {
		cfg.Namespace = registry.DefaultNamespace
	}
	if cfg.Stale == nil {
		yes := true
		cfg.Stale = &yes
	}
	if cfg.MaxStale == 0 {
		cfg.MaxStale = defaultMaxStale
	}
	if cfg.WaitTime == 0 {
		cfg.WaitTime = defaultWaitTime
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = defaultMaxConnections
	}
	if len(cfg.Datacenters) == 0 {
		cfg.Datacenters = []string{""}
	}
	return cfg
}

var labelPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Check reports each mistake in cfg by the path of its field, what was got and what is wanted. It reads no file.
func (cfg Config) Check(report func(path, got, want string)) {
	target, err := parseAddress(cfg.Address)
	if err != nil {
		report("address", withoutUser(cfg.Address), err.Error())
	}
	for _, f := range []struct{ path, value string }{
		{"tokenFile", cfg.TokenFile}, {"caFile", cfg.CAFile}, {"certFile", cfg.CertFile}, {"keyFile", cfg.KeyFile},
	} {
		if f.value != "" && !filepath.IsAbs(f.value) {
			report(f.path, quote(f.value), "an absolute path")
		}
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		report("certFile", quote(cfg.CertFile), "certFile and keyFile together")
	}
	if cfg.CAFile+cfg.CertFile+cfg.ServerName != "" && err == nil && target.scheme != "https" {
		report("address", withoutUser(cfg.Address), "https://… as caFile, certFile or serverName is set")
	}
	checkUnique(report, "datacenters", cfg.Datacenters)
	checkUnique(report, "services", cfg.Services)
	for i, name := range cfg.Services {
		if name != "" && !askable(name) {
			report(fmt.Sprintf("services[%d]", i), quote(name), "a name that can stand in a path")
		}
	}
	if cfg.Namespace != "" && !labelPattern.MatchString(cfg.Namespace) {
		report("namespace", quote(cfg.Namespace), "an RFC 1123 label")
	}
	if cfg.Namespace == "host" {
		report("namespace", quote(cfg.Namespace), "another namespace, that one is reserved for hosts")
	}
	if cfg.MaxStale < 0 {
		report("maxStale", cfg.MaxStale.String(), "a duration above 0")
	}
	if cfg.WaitTime != 0 && (cfg.WaitTime < time.Second || cfg.WaitTime > 10*time.Minute) {
		report("waitTime", cfg.WaitTime.String(), "1s to 10m")
	}
	if cfg.MaxConnections != 0 && cfg.MaxConnections < minConnections {
		report("maxConnections", fmt.Sprint(cfg.MaxConnections), fmt.Sprintf("at least %d", minConnections))
	}
}

// withoutUser quotes an address without what stands before an @: it may be a password, and the text goes to a log.
func withoutUser(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return quote("…" + address[at:])
	}
	return quote(address)
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

func checkUnique(report func(path, got, want string), field string, values []string) {
	seen := make(map[string]bool, len(values))
	for i, v := range values {
		if v == "" || seen[v] {
			report(fmt.Sprintf("%s[%d]", field, i), quote(v), "a name that is not there twice")
		}
		seen[v] = true
	}
}

// target is where Consul is.
type target struct {
	scheme string // http or https
	host   string // host:port
	socket string // a unix socket's path, else ""
}

func parseAddress(address string) (target, error) {
	want := fmt.Errorf("host:port, http://host:port, https://host:port or unix:///path")
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return target{}, want
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return target{}, want
		}
		return target{scheme: "http", host: "localhost:80", socket: u.Path}, nil
	case "http", "https":
		host, port, err := net.SplitHostPort(u.Host)
		if err != nil || host == "" || strings.Trim(u.Path, "/") != "" {
			return target{}, want
		}
		if _, err := netip.ParseAddrPort("127.0.0.1:" + port); err != nil {
			return target{}, want
		}
		return target{scheme: u.Scheme, host: u.Host}, nil
	}
	return target{}, want
}

// askable tells whether a service of that name can be asked for: Consul's HTTP server cleans the path.
func askable(name string) bool {
	p := "/" + name
	return path.Clean(p) == p && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// adapter is the Registry. From one Watch to the next it keeps nothing but its configuration.
type adapter struct {
	cfg    Config
	target target
	log    *slog.Logger
	warn   sync.Once // that the token can be read on its way
}

// New returns a Registry that reads the Consul of cfg. It opens no file and no connection; a nil log is silent. The
// error names the first mistake that Config.Check finds.
func New(cfg Config, log *slog.Logger) (registry.Registry, error) {
	var err error
	cfg.Check(func(path, got, want string) {
		if err == nil {
			err = fmt.Errorf("configure consul: %s: got %s, want %s", path, got, want)
		}
	})
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	target, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("configure consul: %w", err)
	}
	return &adapter{cfg: cfg.withDefaults(), target: target, log: log}, nil
}

// Watch implements registry.Registry.
func (a *adapter) Watch(ctx context.Context, publish func(registry.View)) error {
	a.warn.Do(a.warnOfPlaintext)
	client, err := newClient(a.cfg, a.target)
	if err == nil {
		defer client.transport.close()
		err = a.watch(ctx, client, publish)
	}
	if err != nil {
		return fmt.Errorf("watch consul %s: %w", a.cfg.Address, err)
	}
	return nil
}

// warnOfPlaintext tells that the token goes over a network as it is, if it does.
func (a *adapter) warnOfPlaintext() {
	if t := a.target; a.cfg.TokenFile != "" && t.scheme == "http" && t.socket == "" && !onLoopback(t.host) {
		a.log.Warn("consul gets the token over a connection that is not encrypted: whoever is on the way can read it; "+
			"have Consul speak HTTPS, and write https:// in address, or read the agent of this host", "address", t.host)
	}
}

// onLoopback tells whether host:port is on this host. It looks up no name.
func onLoopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	addr, notIP := netip.ParseAddr(host)
	return err == nil && (notIP == nil && addr.Unmap().IsLoopback() || strings.EqualFold(host, "localhost"))
}

func (a *adapter) watch(ctx context.Context, c *client, publish func(registry.View)) error {
	group, ctx := errgroup.WithContext(ctx)
	board := newBoard(a.cfg.Namespace, a.cfg.Datacenters)
	for _, name := range a.cfg.Datacenters {
		d := newDatacenter(name, a.cfg, c, board, group, a.log)
		group.Go(func() error { return d.run(ctx) })
	}
	group.Go(func() error { return board.run(ctx, publish) })
	return group.Wait()
}
