package zookeeper

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hostmesh/hostmesh/registry"
)

// Config says which ZooKeeper to read, and how. The zero value of each field but Servers is a good one, but for Root
// with the layouts nerve and serverset.
type Config struct {
	// Servers are host:port of an ensemble's servers, or some of them.
	Servers []string `yaml:"servers,required"`
	// Layout is how services are written: curator (if empty), nerve, serverset or dubbo.
	Layout string `yaml:"layout"`
	// Root is the node below which the services are; "/services" for curator and "/dubbo" for dubbo if empty.
	Root string `yaml:"root"`
	// Exclude are globs, as of path.Match, of nodes that are not read, by their path below Root.
	Exclude []string `yaml:"exclude"`
	// Username and the password in PasswordFile are the digest credentials, read at each Watch; none if empty.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
	// TLS is spoken if it is set, or any of the fields below.
	TLS bool `yaml:"tls"`
	// CAFile has the PEM certificates that sign the servers'; the system's if empty. It is read at each Watch.
	CAFile string `yaml:"caFile"`
	// CertFile and KeyFile are the client's certificate, read at each handshake.
	CertFile string `yaml:"certFile"`
	KeyFile  string `yaml:"keyFile"`
	// ServerName is what the servers' certificates must be for, if it is not the host of each.
	ServerName string `yaml:"serverName"`
	// SessionTimeout is asked of the server; a server that is silent for two thirds of it is given up. 6 s if 0.
	SessionTimeout time.Duration `yaml:"sessionTimeout"`
	// Namespace is the namespace of the mesh that the services get; registry.DefaultNamespace if empty.
	Namespace string `yaml:"namespace"`
}

// The layouts.
const (
	layoutCurator   = "curator"
	layoutNerve     = "nerve"
	layoutServerset = "serverset"
	layoutDubbo     = "dubbo"
)

func defaultRoot(layout string) string {
	return map[string]string{layoutCurator: "/services", layoutDubbo: "/dubbo"}[cmp.Or(layout, layoutCurator)]
}

const (
	defaultSessionTimeout = 6 * time.Second
	minSessionTimeout     = time.Second
	maxSessionTimeout     = time.Minute
	maxServers            = 64
)

// withDefaults returns cfg with every field set that has a default.
func (cfg Config) withDefaults() Config {
	cfg.Layout = cmp.Or(cfg.Layout, layoutCurator)
	cfg.Root = cmp.Or(cfg.Root, defaultRoot(cfg.Layout))
	cfg.SessionTimeout = cmp.Or(cfg.SessionTimeout, defaultSessionTimeout)
	cfg.Namespace = cmp.Or(cfg.Namespace, registry.DefaultNamespace)
	return cfg
}

var labelPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Check reports each mistake in cfg by the path of its field, what was got and what is wanted. It reads no file.
func (cfg Config) Check(report func(path, got, want string)) {
	cfg.checkServers(report)
	switch root := cmp.Or(cfg.Root, defaultRoot(cfg.Layout)); {
	case cfg.Layout != "" && layoutNamed(cfg.Layout) == nil:
		report("layout", quote(cfg.Layout), "curator, nerve, serverset or dubbo")
	case root == "":
		report("root", quote(cfg.Root), "the node below which the services are: layout "+cfg.Layout+" has no usual one")
	case !isNodePath(root):
		report("root", quote(cfg.Root), "the path of a node, such as /services")
	}
	for i, glob := range cfg.Exclude {
		if _, err := path.Match(glob, ""); err != nil || glob == "" || glob[0] == '/' {
			report(fmt.Sprintf("exclude[%d]", i), quote(glob), "a glob of a path below root, without a slash in front")
		}
	}
	switch {
	case cfg.Username == "" && cfg.PasswordFile != "":
		report("username", "none", "the user whose password is in passwordFile, or neither")
	case cfg.Username != "" && cfg.PasswordFile == "":
		report("passwordFile", "none", "the file with the password of username, or neither")
	}
	if strings.Contains(cfg.Username, ":") {
		report("username", quote(cfg.Username), "a name without a colon")
	}
	for _, f := range []struct{ path, value string }{
		{"passwordFile", cfg.PasswordFile}, {"caFile", cfg.CAFile}, {"certFile", cfg.CertFile}, {"keyFile", cfg.KeyFile},
	} {
		if f.value != "" && !filepath.IsAbs(f.value) {
			report(f.path, quote(f.value), "an absolute path")
		}
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		report("certFile", quote(cfg.CertFile), "certFile and keyFile together")
	}
	if t := cfg.SessionTimeout; t != 0 && (t < minSessionTimeout || t > maxSessionTimeout) {
		report("sessionTimeout", t.String(), fmt.Sprintf("%s to %s", minSessionTimeout, maxSessionTimeout))
	}
	if cfg.Namespace != "" && !labelPattern.MatchString(cfg.Namespace) {
		report("namespace", quote(cfg.Namespace), "an RFC 1123 label")
	}
	if cfg.Namespace == "host" {
		report("namespace", quote(cfg.Namespace), "another namespace, that one is reserved for hosts")
	}
}

func (cfg Config) checkServers(report func(path, got, want string)) {
	if len(cfg.Servers) == 0 || len(cfg.Servers) > maxServers {
		report("servers", fmt.Sprintf("%d servers", len(cfg.Servers)), fmt.Sprintf("1 to %d", maxServers))
	}
	seen := make(map[string]bool, len(cfg.Servers))
	for i, server := range cfg.Servers {
		field := fmt.Sprintf("servers[%d]", i)
		host, port, err := net.SplitHostPort(server)
		number, notNumber := strconv.ParseUint(port, 10, 16)
		switch {
		case strings.Contains(server, "/"):
			report(field, quote(server), "host:port alone; a path below which all is belongs into root")
		case err != nil || host == "" || notNumber != nil || number == 0:
			report(field, quote(server), "host:port, such as zk1.example.com:2181")
		case seen[server]:
			report(field, quote(server), "a server that is not there twice")
		}
		seen[server] = true
	}
}

func quote(s string) string { return fmt.Sprintf("%.200q", s) }

// isNodePath tells whether a node may have that path: ZooKeeper's rules, of which the client checks only some.
func isNodePath(p string) bool {
	return len(p) > 1 && p[0] == '/' && path.Clean(p) == p && utf8.ValidString(p) &&
		!strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r >= 0x7f && r <= 0x9f })
}

// secure tells whether TLS is spoken.
func (cfg *Config) secure() bool {
	return cfg.TLS || cfg.CAFile+cfg.CertFile+cfg.ServerName != ""
}

const maxPassword = 4 << 10

// credentials returns user:password, nil without any. No error tells what is in the file.
func (cfg *Config) credentials() ([]byte, error) {
	if cfg.PasswordFile == "" {
		return nil, nil
	}
	data, err := os.ReadFile(cfg.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	switch {
	case password == "":
		return nil, errors.New("read password: " + cfg.PasswordFile + " is empty")
	case len(password) > maxPassword || strings.ContainsAny(password, "\r\n\x00"):
		return nil, errors.New("read password: " + cfg.PasswordFile + " holds something else, want one line")
	}
	return []byte(cfg.Username + ":" + password), nil
}
