package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/hostdns"
	"github.com/hostmesh/hostmesh/proxy/loopback"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

// File is proxy.yaml: what the mesh-proxy of a host is started with. Everything has a default, so an empty file is a
// proxy that calls every service and announces none.
type File struct {
	Node FileNode `yaml:"node"`
	// Control is the xDS server: unix:/path, or a loopback address with a port.
	Control string `yaml:"control"`
	// Admin is the read-only administration interface, on loopback.
	Admin netip.AddrPort `yaml:"admin"`
	// AdminSocket also takes what changes something. Default: admin.sock beside the socket of Control, if that is one.
	AdminSocket string `yaml:"adminSocket"`
	// Outbound is where HTTP is taken for every service in scope, by its Host header. On loopback.
	Outbound netip.AddrPort `yaml:"outbound"`
	// Upstreams are the services that this host calls: "web" (namespace default), "namespace/name" or "*".
	Upstreams []string `yaml:"upstreams"`
	// DNS is how the host answers the mesh's names; without it, it does not.
	DNS *FileDNS `yaml:"dns"`
	// Services is the directory of the files that say what this host runs.
	Services string `yaml:"services"`
	// Gossip is how the host announces them; without it nothing is announced.
	Gossip *gossip.Config `yaml:"gossip"`
	// State is the directory for the sealed configuration.
	State string `yaml:"state"`
	// AccessLog is where lines go that the control plane sends to /dev/stdout: a file, or "off".
	AccessLog string `yaml:"accessLog"`
	// DrainTime is how long requests in flight have to end when the proxy is stopped.
	DrainTime time.Duration `yaml:"drainTime"`
	// Loops is the number of event loops; 0 means one a CPU, at most four.
	Loops int `yaml:"loops"`
}

// FileNode is who the host is.
type FileNode struct {
	ID       string       `yaml:"id"` // default: the host's name
	Cluster  string       `yaml:"cluster"`
	Locality FileLocality `yaml:"locality"`
}

// FileDNS says which names the host answers, and where.
type FileDNS struct {
	// Domain is the mesh's.
	Domain string `yaml:"domain"`
	// Listen is a loopback address of its own, with port 53 unless a resolver on this host takes another one.
	Listen netip.AddrPort `yaml:"listen"`
}

// SetDefaults puts in what a file does not say.
func (d *FileDNS) SetDefaults() { d.Domain, d.Listen = "mesh.internal", hostdns.DefaultAddr() }

// FileLocality is where the host stands.
type FileLocality struct {
	Region  string `yaml:"region"`
	Zone    string `yaml:"zone"`
	SubZone string `yaml:"subZone"`
}

const maxLoops = 64

// ReadFile reads a proxy.yaml. All mistakes are told at once, a line each: "file:line: path: got X, want Y".
func ReadFile(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read proxy configuration: %w", err)
	}
	return ParseFile(path, data)
}

// ParseFile is ReadFile for a text that is there already; path is only named in mistakes.
func ParseFile(path string, data []byte) (*File, error) {
	f := &File{
		Control:   "unix:/run/hostmesh/xds.sock",
		Admin:     netip.MustParseAddrPort("127.0.0.1:15000"),
		Outbound:  netip.MustParseAddrPort("127.0.0.1:15001"),
		Services:  "/etc/hostmesh/services.d",
		State:     "/var/lib/hostmesh",
		DrainTime: 10 * time.Second,
	}
	if err := yamlpos.Decode(path, data, f); err != nil {
		return nil, err
	}
	if f.Node.ID == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name this node: %w", err)
		}
		f.Node.ID = strings.ToLower(name)
	}
	if socket, ok := strings.CutPrefix(f.Control, "unix:"); ok && f.AdminSocket == "" && !strings.HasPrefix(socket, "@") {
		f.AdminSocket = filepath.Join(filepath.Dir(socket), "admin.sock")
	}
	return f, nil
}

// Check reports what the values of a file get wrong together or alone.
func (f *File) Check(report func(path, got, want string)) {
	if _, _, err := xds.ParseControl(f.Control); err != nil {
		report("control", err.Got, err.Want)
	}
	for name, at := range map[string]netip.AddrPort{"admin": f.Admin, "outbound": f.Outbound} {
		if !at.IsValid() || !at.Addr().Unmap().IsLoopback() || at.Port() == 0 {
			report(name, at.String(), "a loopback address and port, such as 127.0.0.1:15000")
		}
	}
	if f.Admin == f.Outbound {
		report("outbound", f.Outbound.String(), "another address than admin's")
	}
	for i, name := range f.Upstreams {
		if !isUpstream(name) {
			report(fmt.Sprintf("upstreams[%d]", i), strconv.Quote(name), "name, namespace/name or *")
		}
	}
	for name, path := range map[string]string{"services": f.Services, "state": f.State, "adminSocket": f.AdminSocket} {
		if path != "" && !filepath.IsAbs(path) {
			report(name, strconv.Quote(path), "an absolute path")
		}
	}
	if f.AccessLog != "" && f.AccessLog != xds.NoAccessLog && !filepath.IsAbs(f.AccessLog) {
		report("accessLog", strconv.Quote(f.AccessLog), "an absolute path or "+xds.NoAccessLog)
	}
	if f.Node.ID != "" && !isHostName(f.Node.ID) {
		report("node.id", strconv.Quote(f.Node.ID), "a host name")
	}
	if d := f.DNS; d != nil {
		if !isHostName(d.Domain) {
			report("dns.domain", strconv.Quote(d.Domain), "a domain in lower case, without a dot at its end")
		}
		if !d.Listen.IsValid() || !d.Listen.Addr().IsLoopback() || d.Listen.Port() == 0 || loopback.Range().Contains(d.Listen.Addr()) {
			report("dns.listen", d.Listen.String(), "a loopback address and port, such as "+hostdns.DefaultAddr().String()+", not in "+loopback.Range().String()+", where services are")
		}
	}
	if f.Loops < 0 || f.Loops > maxLoops {
		report("loops", strconv.Itoa(f.Loops), "0 to "+strconv.Itoa(maxLoops))
	}
}

// Bootstrap is the file as the xDS client wants it.
func (f *File) Bootstrap() *xds.Bootstrap {
	metadata := map[string]any{"outbound": f.Outbound.String()}
	if len(f.Upstreams) > 0 {
		names := make([]any, len(f.Upstreams))
		for i, name := range f.Upstreams {
			names[i] = name
		}
		metadata["upstreams"] = names
	}
	return &xds.Bootstrap{
		Node: xds.Node{
			ID: f.Node.ID, Cluster: f.Node.Cluster, Metadata: metadata,
			Locality: config.Locality{Region: f.Node.Locality.Region, Zone: f.Node.Locality.Zone, SubZone: f.Node.Locality.SubZone},
		},
		Control: f.Control, Admin: f.Admin,
	}
}

func isUpstream(name string) bool {
	if name == "*" {
		return true
	}
	namespace, service, ok := strings.Cut(name, "/")
	if !ok {
		return isLabel(name)
	}
	return isLabel(namespace) && isLabel(service)
}

func isHostName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return len(name) <= 253
}

// isLabel reports whether name is a label of RFC 1123 in lower case.
func isLabel(name string) bool {
	if name == "" || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
}
