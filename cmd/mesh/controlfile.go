package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/internal/yamlpos"
)

const (
	defaultDomain  = "mesh.internal"
	defaultControl = "/etc/hostmesh/control.yaml"
	registryPlaces = "consul=HOST:PORT or consul=https://HOST:PORT, etcd=HOST:PORT, zookeeper=HOST:PORT, kubernetes=KUBECONFIG, file=DIR"
)

// controlFile is control.yaml. Its zero value is not valid: newControlFile has the defaults.
type controlFile struct {
	Domain     string            `yaml:"domain"`
	State      string            `yaml:"state"`
	Listen     listenSection     `yaml:"listen"`
	DNS        dnsSection        `yaml:"dns"`
	Registries []registrySection `yaml:"registries"`
	Merge      mergeSection      `yaml:"merge"`
	Guard      guardSection      `yaml:"guard"`

	added []registrySection // by flags, while the file is read: its rules may name them
}

type listenSection struct {
	XDS  []string `yaml:"xds"`
	HTTP string   `yaml:"http"`
}

func newControlFile() controlFile {
	return controlFile{
		Domain: defaultDomain,
		State:  "/var/lib/hostmesh",
		Listen: listenSection{
			XDS:  []string{"unix:/run/hostmesh/xds.sock", "127.0.0.1:15010"},
			HTTP: "127.0.0.1:15014",
		},
		DNS: newDNSSection(),
	}
}

// decodeControlFile reads control.yaml; all its mistakes are returned at once.
func decodeControlFile(name string, data []byte) (controlFile, error) {
	f := newControlFile()
	err := yamlpos.Decode(name, data, &f)
	return f, err
}

// readControlFile reads a file to which these registries will be added.
func readControlFile(path string, added []registrySection) (controlFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return controlFile{}, fmt.Errorf("read configuration: %w", err)
	}
	f := newControlFile()
	f.added = added
	err = yamlpos.Decode(path, data, &f)
	return f, err
}

// Check implements the hook of internal/yamlpos.
func (f *controlFile) Check(report func(path, got, want string)) {
	if f.Domain == "" || strings.HasPrefix(f.Domain, ".") || strings.HasSuffix(f.Domain, ".") || strings.ToLower(f.Domain) != f.Domain {
		report("domain", fmt.Sprintf("%q", f.Domain), "a domain name in lower case without a dot at its ends, such as "+defaultDomain)
	} else if _, err := dnsserver.ParseName("hostmaster." + f.Domain); err != nil { // the longest name that every zone has
		report("domain", fmt.Sprintf("%q", f.Domain), "a domain name of labels of 1 to 63 bytes, 240 in all at most, such as "+defaultDomain)
	}
	if !filepath.IsAbs(f.State) {
		report("state", fmt.Sprintf("%q", f.State), "an absolute path")
	}
	seen := map[string]int{}
	for i, r := range f.Registries {
		path := fmt.Sprintf("registries[%d]", i)
		if first, dup := seen[r.Name]; dup {
			report(path+".name", fmt.Sprintf("%q", r.Name), fmt.Sprintf("a name of its own; registries[%d] has that one", first))
		}
		seen[r.Name] = i
		if n := len(r.kinds()); n != 1 {
			report(path, fmt.Sprintf("%d kinds of registry", n), "exactly one of "+registryKinds)
		}
		r.Mapping.check(func(at, got, want string) { report(path+".mapping."+at, got, want) })
	}
	f.DNS.check(f.Domain, func(at, got, want string) { report("dns."+at, got, want) })
	f.Merge.check(f.sourceNames(), func(at, got, want string) { report("merge."+at, got, want) })
}

func (f *controlFile) sourceNames() []string {
	var names []string
	for _, r := range f.sections() {
		names = append(names, r.Name)
	}
	return names
}

// registryLine turns KIND=PLACE of a --registry flag into a name and its line of control.yaml.
func registryLine(flag string) (name, line string, err error) {
	kind, place, ok := strings.Cut(flag, "=")
	if !ok || place == "" {
		return "", "", fmt.Errorf("read --registry %q: want KIND=PLACE, that is %s", flag, registryPlaces)
	}
	switch kind {
	case "consul":
		return kind, fmt.Sprintf("consul: {address: %q}", place), nil
	case "etcd":
		return kind, fmt.Sprintf("etcd: {endpoints: [%q]}", place), nil
	case "zookeeper":
		return kind, fmt.Sprintf("zookeeper: {servers: [%q]}", place), nil
	case "kubernetes", "file":
		path, err := filepath.Abs(place)
		if err != nil {
			return "", "", fmt.Errorf("read --registry %q: %w", flag, err)
		}
		key := map[string]string{"kubernetes": "kubeconfig", "file": "path"}[kind]
		return kind, fmt.Sprintf("%s: {%s: %q}", kind, key, path), nil
	default:
		return "", "", fmt.Errorf("read --registry %q: unknown kind %q, want %s", flag, kind, registryPlaces)
	}
}
