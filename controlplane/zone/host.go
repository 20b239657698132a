package zone

import (
	"hash/crc32"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

// hostNamespace is kept for hosts: no service has it.
const hostNamespace = "host"

// Keys of branches that are no service's.
func hostKey(h *registry.Host) string { return hostNamespace + "/" + h.ID }

const controlKey = "/control"

// host adds the name of a host: the label of its ID. Where others have that label too, the one whose ID it is goes first.
func (b *Builder) host(to map[string]*dnsserver.Branch, h *registry.Host) {
	label := registry.Label(h.ID)
	if label == "" {
		return
	}
	rank := 0
	if label != h.ID {
		rank = 1 + int(crc32.ChecksumIEEE([]byte(h.ID))>>8)
	}
	sets := dnsserver.Addresses(b.opts.TTL, reachable(h.Addrs), nil)
	to[hostKey(h)] = dnsserver.NewBranch(b.origin, rank, map[string][]dnsserver.Set{label + "." + hostNamespace: sets})
}

// reachable are the addresses that lead to a host from others, or all when none does.
func reachable(addrs []netip.Addr) []netip.Addr {
	out := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.IsLoopback() })
	if len(out) == 0 {
		return addrs
	}
	return out
}

// extras are the names that no snapshot changes.
func (b *Builder) extras() *dnsserver.Branch {
	names := map[string][]dnsserver.Set{}
	srv := dnsserver.Set{Type: dns.TypeSRV, TTL: b.opts.ApexTTL}
	for _, c := range b.opts.Control {
		name, err := dnsserver.ParseName(c.Name)
		if err != nil {
			continue
		}
		srv.Data = append(srv.Data, dnsserver.ServiceData(0, 0, c.Port, name))
		if relative, ok := b.relative(name); ok {
			names[relative] = dnsserver.Addresses(b.opts.ApexTTL, c.Addrs, nil)
		}
	}
	if len(srv.Data) > 0 {
		names["_mesh-control._tcp"] = []dnsserver.Set{srv}
	}
	if len(b.opts.Kubernetes) > 0 {
		names["dns-version"] = []dnsserver.Set{{Type: dns.TypeTXT, TTL: b.opts.ApexTTL, Data: [][]byte{dnsserver.TextData(kubernetesVersion)}}}
	}
	const first = -1 // they are the operator's
	return dnsserver.NewBranch(b.origin, first, names)
}

// relative returns a name below the zone's origin as it is written relative to that.
func (b *Builder) relative(name dnsserver.Name) (string, bool) {
	full, origin := name.String(), "."+b.origin.String()
	if len(full) <= len(origin) || full[len(full)-len(origin):] != origin {
		return "", false
	}
	return full[:len(full)-len(origin)], true
}
