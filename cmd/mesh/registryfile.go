package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
	"github.com/hostmesh/hostmesh/registry/dns"
	"github.com/hostmesh/hostmesh/registry/etcd"
	"github.com/hostmesh/hostmesh/registry/file"
	"github.com/hostmesh/hostmesh/registry/gossip"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
	"github.com/hostmesh/hostmesh/registry/zookeeper"
)

// registryKinds are the keys of registrySection of which one must be there.
const registryKinds = "consul, etcd, zookeeper, kubernetes, dns, file, gossip"

// registrySection names a registry, holds the settings of exactly one kind, and says how its word is taken.
type registrySection struct {
	Name       string             `yaml:"name,required"`
	Consul     *consul.Config     `yaml:"consul"`
	Etcd       *etcd.Config       `yaml:"etcd"`
	ZooKeeper  *zookeeper.Config  `yaml:"zookeeper"`
	Kubernetes *kubernetes.Config `yaml:"kubernetes"`
	DNS        *dns.Config        `yaml:"dns"`
	File       *file.Config       `yaml:"file"`
	Gossip     *gossip.Config     `yaml:"gossip"`
	Mapping    mappingSection     `yaml:"mapping"`
	Guard      *guardSection      `yaml:"guard"`
}

// registryKind is a section's kind and what makes its adapter.
type registryKind struct {
	name string
	make func(log *slog.Logger) (registry.Registry, error)
}

// kinds returns the kinds that the section has settings of: one, when it is right.
func (r registrySection) kinds() []registryKind {
	var kinds []registryKind
	add := func(there bool, name string, make func(*slog.Logger) (registry.Registry, error)) {
		if there {
			kinds = append(kinds, registryKind{name, make})
		}
	}
	add(r.Consul != nil, "consul", func(log *slog.Logger) (registry.Registry, error) { return consul.New(*r.Consul, log) })
	add(r.Etcd != nil, "etcd", func(log *slog.Logger) (registry.Registry, error) { return etcd.New(*r.Etcd, log) })
	add(r.ZooKeeper != nil, "zookeeper", func(log *slog.Logger) (registry.Registry, error) { return zookeeper.New(*r.ZooKeeper, log) })
	add(r.Kubernetes != nil, "kubernetes", func(log *slog.Logger) (registry.Registry, error) { return kubernetes.New(*r.Kubernetes, log) })
	add(r.DNS != nil, "dns", func(log *slog.Logger) (registry.Registry, error) { return dns.New(*r.DNS, log) })
	add(r.File != nil, "file", func(log *slog.Logger) (registry.Registry, error) { return file.New(*r.File, log), nil })
	add(r.Gossip != nil, "gossip", func(log *slog.Logger) (registry.Registry, error) { return gossip.New(*r.Gossip, log), nil })
	return kinds
}

// mappingSection is registry.Mapping as it is written.
type mappingSection struct {
	Filter struct {
		Include []string `yaml:"include"`
		Exclude []string `yaml:"exclude"`
	} `yaml:"filter"`
	Rename     map[string]string      `yaml:"rename"`
	Namespace  string                 `yaml:"namespace"` // for all that Namespaces does not name
	Namespaces map[string]string      `yaml:"namespaces"`
	Ports      map[string]portSection `yaml:"ports"`
	Labels     map[string]string      `yaml:"labels"`
}

type portSection struct {
	Port     string            `yaml:"port"`
	Number   uint16            `yaml:"number"`
	Protocol registry.Protocol `yaml:"protocol"`
}

func (m mappingSection) mapping() registry.Mapping {
	mapping := registry.Mapping{
		Include: m.Filter.Include, Exclude: m.Filter.Exclude, Rename: m.Rename, Labels: m.Labels,
		Namespaces: make(map[string]string), Ports: make(map[string]registry.PortMapping),
	}
	if m.Namespace != "" {
		mapping.Namespaces["*"] = m.Namespace
	}
	for from, to := range m.Namespaces {
		mapping.Namespaces[from] = to
	}
	for glob, p := range m.Ports {
		mapping.Ports[glob] = registry.PortMapping{Port: p.Port, Number: p.Number, Protocol: p.Protocol}
	}
	return mapping
}

// check reports what makes no sense, by its path in the file.
func (m mappingSection) check(report func(path, got, want string)) {
	m.mapping().Check(func(at, got, want string) {
		switch field, rest, _ := strings.Cut(at, "["); {
		case field == "include" || field == "exclude":
			at = "filter." + at
		case at == "namespaces[*]" && m.Namespaces["*"] == "":
			at = "namespace"
		default: // what follows the key, ".protocol", has no bracket
			end := strings.LastIndex(rest, "]")
			at = yamlpos.Key(field, rest[:end]) + rest[end+1:]
		}
		report(at, got, want)
	})
	if m.Namespace != "" && m.Namespaces["*"] != "" {
		report("namespace", fmt.Sprintf("%q", m.Namespace), `it or namespaces["*"], not both`)
	}
}

// guardSection is registry.Guard as it is written; what is not set is the file's own guard, then the default.
type guardSection struct {
	Off    *bool          `yaml:"off"`
	Share  *float64       `yaml:"share"`
	Window *time.Duration `yaml:"window"`
	Hold   *time.Duration `yaml:"hold"`
	Time   *time.Duration `yaml:"time"`
	Proofs *int           `yaml:"proofs"`
}

// Check implements the hook of internal/yamlpos. A zero would be taken for the default, which nobody means who writes it.
func (g guardSection) Check(report func(path, got, want string)) {
	if g.Share != nil && !(*g.Share > 0 && *g.Share <= 1) {
		report("share", fmt.Sprint(*g.Share), "a share above 0, up to 1, such as 0.3")
	}
	for path, d := range map[string]*time.Duration{"window": g.Window, "hold": g.Hold, "time": g.Time} {
		if d != nil && *d <= 0 {
			report(path, d.String(), "more than 0; off: true takes every word at once")
		}
	}
	if g.Proofs != nil && *g.Proofs < 1 && *g.Proofs != -1 {
		report("proofs", fmt.Sprint(*g.Proofs), "the number of proxies whose word counts, or -1 for none")
	}
}

func (g *guardSection) guard(file guardSection) registry.Guard {
	own := guardSection{}
	if g != nil {
		own = *g
	}
	return registry.Guard{
		Off: either(own.Off, file.Off), Share: either(own.Share, file.Share), Window: either(own.Window, file.Window),
		Hold: either(own.Hold, file.Hold), Time: either(own.Time, file.Time), Proofs: either(own.Proofs, file.Proofs),
	}
}

// either returns the first that is set, or zero.
func either[T any](own, file *T) (v T) {
	if set := cmp.Or(own, file); set != nil {
		v = *set
	}
	return v
}

// sections are the registries. Without any, the hosts' own gossip is the registry.
func (f controlFile) sections() []registrySection {
	all := slices.Concat(f.Registries, f.added)
	if len(all) == 0 {
		return []registrySection{{Name: "hosts", Gossip: &gossip.Config{}}}
	}
	return all
}

// namesOfKind are the names of the registries of a kind.
func (f controlFile) namesOfKind(kind string) (names []string) {
	for _, section := range f.sections() {
		if section.kinds()[0].name == kind {
			names = append(names, section.Name)
		}
	}
	return names
}

// sources makes what the catalog runs.
func (f controlFile) sources(log *slog.Logger) []registry.Source {
	var sources []registry.Source
	for i, section := range f.sections() {
		kind := section.kinds()[0]
		sources = append(sources, registry.Source{
			Name: section.Name, Kind: kind.name, Mapping: section.Mapping.mapping(), Guard: section.Guard.guard(f.Guard),
			Registry: &placed{
				place: fmt.Sprintf("registries[%d].%s", i, kind.name),
				make:  func() (registry.Registry, error) { return kind.make(log.With("registry", section.Name)) },
			},
		})
	}
	return sources
}

// placed is a registry whose errors tell its place in control.yaml. It is made by the first Watch that can, so that one
// that cannot be made (a certificate that is not there) is a failed source like any other: the others are served.
type placed struct {
	place string
	make  func() (registry.Registry, error)

	mu   sync.Mutex
	made registry.Registry // guarded by mu
}

// Watch implements registry.Registry.
func (p *placed) Watch(ctx context.Context, publish func(registry.View)) error {
	r, err := p.get()
	if err == nil {
		err = r.Watch(ctx, publish)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.place, err)
	}
	return nil
}

func (p *placed) get() (registry.Registry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made != nil {
		return p.made, nil
	}
	r, err := p.make()
	if err == nil {
		p.made = r
	}
	return r, err
}
