package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// product is a proxy that can be measured. Its configuration is a template over settings.
type product struct {
	name     string
	programs []string // where it may be, a path or a name
	config   string
	args     func(config string, s settings) []string
	// sink says that it sends its access log to LogSink.
	sink bool
	// tcp is a file that it needs for TCP.
	tcp string
}

// hop is what a proxy is to do.
type hop struct {
	TCP   bool
	HTTP2 bool // without TLS, on both sides
	TLS   bool // of the clients
	Two   bool // a second proxy behind the first, with mTLS between them
}

// settings are what a configuration depends on.
type settings struct {
	Dir                     string
	Listen, Backend, Admin  netip.AddrPort
	LogSink                 netip.AddrPort // appends what it is sent to AccessLog
	AccessLog, ErrorLogFile string
	TCP, HTTP2              bool
	TLS, UpstreamTLS        *tlsFiles // nil: plaintext
	Threads                 int
	MaxConns, MaxFiles      int
	IdleSeconds             int   // that a client's connection may be idle
	Clusters                []int // further ones, which get no requests
}

// tlsFiles is one side's certificate and, if it asks for the other's, whose it trusts.
type tlsFiles struct {
	certificate
	CA string
}

var (
	//go:embed envoy.yaml.tmpl
	envoyConfig string
	//go:embed haproxy.cfg.tmpl
	haproxyConfig string
	//go:embed nginx.conf.tmpl
	nginxConfig string
)

func products(bin string) []product {
	return []product{
		{
			ours,
			[]string{filepath.Join(bin, "mesh-proxy")},
			envoyConfig,
			func(c string, _ settings) []string { return []string{"-bootstrap", c} }, false, "", // a loop for each processor it may run on
		},
		{
			"haproxy",
			[]string{"haproxy", "/usr/sbin/haproxy"},
			haproxyConfig,
			func(c string, _ settings) []string { return []string{"-db", "-f", c} }, true, "",
		},
		{
			"nginx",
			[]string{"nginx", "/usr/sbin/nginx"},
			nginxConfig,
			func(c string, _ settings) []string { return []string{"-p", filepath.Dir(c), "-c", c} }, false, nginxStream,
		},
		{
			"envoy",
			[]string{filepath.Join(cacheDir(), "envoy-"+envoyVersion, "envoy", "_bin", "envoy")},
			envoyConfig,
			func(c string, s settings) []string {
				return []string{"-c", c, "--concurrency", strconv.Itoa(s.Threads), "--disable-hot-restart", "--log-level", "error"}
			}, false, "",
		},
	}
}

// nginxStream is a package of its own in Debian.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

// envoyVersion is that of e2e/install.sh.
const envoyVersion = "1.40.0"

func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "hostmesh")
}

func findProduct(bin, name string) (*product, error) {
	known := products(bin)
	i := slices.IndexFunc(known, func(p product) bool { return p.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no peer %q", name)
	}
	return &known[i], nil
}

// program is where the product is installed, with all that it needs.
func (pr *product) program(tcp bool) (string, error) {
	if tcp && pr.tcp != "" {
		if _, err := os.Stat(pr.tcp); err != nil {
			return "", fmt.Errorf("not installed (bench/setup.sh): %w", err)
		}
	}
	for _, name := range pr.programs {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: not installed (make build; bench/setup.sh)", strings.Join(pr.programs, " or "))
}

func (pr *product) writeConfig(s settings) (string, error) {
	t, err := template.New(pr.name).Option("missingkey=error").Parse(pr.config)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, s); err != nil {
		return "", err
	}
	file := filepath.Join(s.Dir, "config.yaml") // the name says to Envoy what it is
	return file, os.WriteFile(file, b.Bytes(), 0o600)
}
