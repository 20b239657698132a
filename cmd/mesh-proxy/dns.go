package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/internal/hostfile"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/hostdns"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/loopback"
	"github.com/hostmesh/hostmesh/proxy/takeover"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

// dnsSettings say how this host answers the mesh's names.
type dnsSettings struct {
	domain   string
	listen   netip.AddrPort
	named    map[string]bool // services that the operator names; "*" for all
	services string          // directory of what this host runs
}

func dnsOf(f *proxy.File) *dnsSettings {
	if f.DNS == nil {
		return nil
	}
	d := &dnsSettings{domain: f.DNS.Domain, listen: f.DNS.Listen, named: map[string]bool{}, services: f.Services}
	for _, name := range f.Upstreams {
		namespace, service, ok := strings.Cut(name, "/")
		if !ok {
			namespace, service = hostfile.DefaultNamespace, name
		}
		d.named[service+"."+namespace+"."+d.domain] = true
	}
	return d
}

// places are the host's addresses of services, and who answers their names.
type places struct {
	addresses *loopback.Addresses
	resolver  *hostdns.Resolver
	given     []int // the resolver's sockets, of the process before
	steered   bool
}

// place stands between the control plane's configuration and the engine, if this host answers the mesh's names.
func (v *service) place(ctx context.Context, given []takeover.Socket) *watch.Value[*config.Config] {
	told, d := v.client.Config(), v.settings.dns
	if d == nil {
		return told
	}
	v.places.steered = holdsSteered(given) && loopback.Steers(ctx)
	v.places.addresses = loopback.New(loopback.Options{
		Config: told, StateDir: v.settings.state, Steered: v.places.steered, Log: v.log,
		Named: func(service string) bool { return d.named["*"] || d.named[service] },
		Taken: func() map[uint16]string { return portsHere(d.services) },
	})
	v.client.Want(v.places.addresses.Names()...)
	return v.places.addresses.Config()
}

// holdsSteered reports whether the socket is there to which connections are steered.
func holdsSteered(given []takeover.Socket) bool {
	for _, s := range given {
		if loop.LocalAddr(s.FD).Addr() == loopback.Steered() {
			return true
		}
	}
	return false
}

// answerNames makes who answers names from what the engine serves.
func (v *service) answerNames() (err error) {
	d := v.settings.dns
	if d == nil {
		return nil
	}
	v.places.resolver, err = hostdns.New(hostdns.Options{
		Domain: d.domain, Addr: d.listen, Given: v.places.given, Config: v.places.addresses.Config(), Bound: v.engine.Bound(),
		Control: v.client, Places: v.places.addresses, Log: v.log,
	})
	return err
}

// ofNames keeps the sockets on which names are answered, and returns the others.
func (v *service) ofNames(given []takeover.Socket) (others []takeover.Socket) {
	for _, s := range given {
		if v.settings.dns != nil && loop.LocalAddr(s.FD) == v.settings.dns.listen {
			v.places.given = append(v.places.given, s.FD)
			continue
		}
		others = append(others, s)
	}
	return others
}

// resolve answers names. After an upgrade the process before does so until this one serves.
func (v *service) resolve(ctx context.Context) error {
	if v.heir != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-v.engine.Accepting():
		}
	}
	return v.places.resolver.Run(ctx)
}

// dnsRuns are the parts for names: who answers them ends first, so that they fail at once; the addresses end after the engine.
func (v *service) dnsRuns(runs []func(context.Context) error) []func(context.Context) error {
	if v.settings.dns == nil {
		return runs
	}
	first := v.upgrader.unlessHandedOver(v.resolve)
	last := func(ctx context.Context) error { return v.places.addresses.Run(ctx, v.engine.Bound()) }
	return append(append([]func(context.Context) error{first}, runs...), last)
}

func (v *service) dnsStats() []xds.Stat {
	if v.settings.dns == nil {
		return nil
	}
	stats := []xds.Stat{{Name: "hostdns.services", Value: uint64(len(v.places.resolver.Services()))}}
	queries := v.places.resolver.Stats()
	for _, rcode := range slices.Sorted(maps.Keys(queries)) {
		stats = append(stats, xds.Stat{Name: "hostdns.queries." + strings.ToLower(rcode), Value: queries[rcode], Counter: true})
	}
	return stats
}

// portsHere are the ports on which services of this host listen, by what its files say. A file that cannot be read says nothing
// here; who announces the services tells of it.
func portsHere(dir string) map[uint16]string {
	ports := map[uint16]string{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.y*ml"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		services, err := hostfile.Decode(file, data)
		if err != nil {
			continue
		}
		for _, s := range services {
			for _, p := range s.Ports {
				ports[p.TargetPort] = fmt.Sprintf("this host's own service %s/%s listens on it", s.Namespace, s.Service)
			}
		}
	}
	return ports
}
