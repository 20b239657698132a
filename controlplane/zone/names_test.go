package zone_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

// records are those of a zone as zone files have them, sorted.
func records(t *testing.T, z *dnsserver.Zone) (lines []string) {
	t.Helper()
	for name, set := range z.All() {
		for _, data := range set.Data {
			wire := binary.BigEndian.AppendUint16([]byte(name), set.Type)
			wire = binary.BigEndian.AppendUint16(wire, dns.ClassINET)
			wire = binary.BigEndian.AppendUint32(wire, set.TTL)
			wire = append(binary.BigEndian.AppendUint16(wire, uint16(len(data))), data...)
			rr, _, err := dns.UnpackRR(wire, 0)
			if err != nil {
				t.Fatalf("%s %d: %v", name, set.Type, err)
			}
			lines = append(lines, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	slices.Sort(lines)
	return lines
}

func below(lines []string, name string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		owner, _, _ := strings.Cut(l, " ")
		return owner != name && !strings.HasSuffix(owner, "."+name)
	}), "\n")
}

func hosts(ids ...string) (all []registry.Host) {
	for i, id := range ids {
		all = append(all, registry.Host{ID: id, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i+1))}})
	}
	return all
}

func TestNames(t *testing.T) {
	pod := func(id, addr string, number uint16) *registry.Endpoint {
		return &registry.Endpoint{ID: id, Addr: netip.MustParseAddr(addr), Ports: []registry.EndpointPort{at("http", number)}, Weight: 1, Health: registry.Healthy, Sources: []string{"k8s", "dc1"}, Host: "n1"}
	}
	snap := &registry.Snapshot{Number: 7, Hosts: append(hosts("H1", "h1", "no_de"), registry.Host{ID: "only", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.9")}}), Services: []*registry.Service{
		{
			Name: registry.Name{Namespace: "default", Name: "secure"}, Ports: []registry.Port{{Name: "https", Number: 443, Protocol: registry.TLS}, {Name: "https-admin", Number: 8443, Protocol: registry.TLS}, {Name: "ldap", Number: 636, Protocol: registry.TLS}},
			Endpoints: []*registry.Endpoint{endpoint("192.0.2.7", 1, registry.Healthy, at("https", 9443), at("https-admin", 9444), at("ldap", 636)), endpoint("192.0.2.8", 1, registry.Healthy, at("https", 9443), at("https-admin", 9445))},
		},
		{Name: registry.Name{Namespace: "shop", Name: "db"}, ExternalName: "db.example"},
		{
			Name: registry.Name{Namespace: "shop", Name: "orders"}, Ports: []registry.Port{{Name: "http", Number: 80, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{pod("orders-0", "10.1.0.1", 8080), pod("orders-1", "10.1.0.2", 8081), pod("orders-1/10.1.0.3", "10.1.0.3", 8080)},
		},
		{
			Name: registry.Name{Namespace: "shop", Name: "plain"}, Ports: []registry.Port{{Name: "rpc", Number: 80, Protocol: registry.GRPC}},
			Endpoints: []*registry.Endpoint{{ID: "a", Addr: netip.MustParseAddr("192.0.2.9"), Ports: []registry.EndpointPort{at("rpc", 80)}, Weight: 1, Sources: []string{"dc1"}, Doubt: &registry.Doubt{Reason: "most left"}}},
		},
	}}
	lines := records(t, zone.New(zone.Options{
		Control:    []zone.Control{{Name: "cp1.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Port: 15012}, {Name: "cp2.example.org", Port: 15012}},
		Provenance: true, Kubernetes: []string{"k8s"},
	}).Build(snap))
	for name, want := range map[string]string{
		"host.mesh.internal.": `h1.host.mesh.internal. 5 IN A 10.0.0.2
no-de.host.mesh.internal. 5 IN A 10.0.0.3
only.host.mesh.internal. 5 IN A 127.0.0.9`,
		"_mesh-control._tcp.mesh.internal.": `_mesh-control._tcp.mesh.internal. 60 IN SRV 0 0 15012 cp1.mesh.internal.
_mesh-control._tcp.mesh.internal. 60 IN SRV 0 0 15012 cp2.example.org.`,
		"cp1.mesh.internal.":         `cp1.mesh.internal. 60 IN A 192.0.2.10`,
		"dns-version.mesh.internal.": `dns-version.mesh.internal. 60 IN TXT "1.1.0"`,
		"db.shop.mesh.internal.":     `db.shop.mesh.internal. 5 IN CNAME db.example.`,
		"db.shop.svc.mesh.internal.": `db.shop.svc.mesh.internal. 5 IN CNAME db.example.`,
		"secure.mesh.internal.": `_8443._https.secure.mesh.internal. 5 IN HTTPS 1 192-0-2-7.secure.default.mesh.internal. alpn="h2,http/1.1" port="9444"
_8443._https.secure.mesh.internal. 5 IN HTTPS 1 192-0-2-8.secure.default.mesh.internal. alpn="h2,http/1.1" port="9445"
_https-admin._tcp.secure.mesh.internal. 5 IN SRV 0 1 9444 192-0-2-7.secure.default.mesh.internal.
_https-admin._tcp.secure.mesh.internal. 5 IN SRV 0 1 9445 192-0-2-8.secure.default.mesh.internal.
_https._tcp.secure.mesh.internal. 5 IN SRV 0 1 9443 192-0-2-7.secure.default.mesh.internal.
_https._tcp.secure.mesh.internal. 5 IN SRV 0 1 9443 192-0-2-8.secure.default.mesh.internal.
_ldap._tcp.secure.mesh.internal. 5 IN SRV 0 1 636 192-0-2-7.secure.default.mesh.internal.
secure.mesh.internal. 5 IN A 192.0.2.7
secure.mesh.internal. 5 IN A 192.0.2.8
secure.mesh.internal. 5 IN HTTPS 1 secure.mesh.internal. alpn="h2,http/1.1" port="9443"
secure.mesh.internal. 5 IN SRV 0 1 636 192-0-2-7.secure.default.mesh.internal.
secure.mesh.internal. 5 IN SRV 0 1 9443 192-0-2-7.secure.default.mesh.internal.
secure.mesh.internal. 5 IN SRV 0 1 9443 192-0-2-8.secure.default.mesh.internal.
secure.mesh.internal. 5 IN SRV 0 1 9444 192-0-2-7.secure.default.mesh.internal.
secure.mesh.internal. 5 IN SRV 0 1 9445 192-0-2-8.secure.default.mesh.internal.`,
		"orders.shop.svc.mesh.internal.": `10-1-0-3.orders.shop.svc.mesh.internal. 5 IN A 10.1.0.3
_http._tcp.orders.shop.svc.mesh.internal. 5 IN SRV 0 1 8080 10-1-0-3.orders.shop.svc.mesh.internal.
_http._tcp.orders.shop.svc.mesh.internal. 5 IN SRV 0 1 8080 orders-0.orders.shop.svc.mesh.internal.
_http._tcp.orders.shop.svc.mesh.internal. 5 IN SRV 0 1 8081 orders-1.orders.shop.svc.mesh.internal.
_http._tcp.orders.shop.svc.mesh.internal. 5 IN SVCB 1 10-1-0-3.orders.shop.svc.mesh.internal. alpn="http/1.1" port="8080"
_http._tcp.orders.shop.svc.mesh.internal. 5 IN SVCB 1 orders-0.orders.shop.svc.mesh.internal. alpn="http/1.1" port="8080"
_http._tcp.orders.shop.svc.mesh.internal. 5 IN SVCB 1 orders-1.orders.shop.svc.mesh.internal. alpn="http/1.1" port="8081"
orders-0.orders.shop.svc.mesh.internal. 5 IN A 10.1.0.1
orders-1.orders.shop.svc.mesh.internal. 5 IN A 10.1.0.2
orders.shop.svc.mesh.internal. 5 IN A 10.1.0.1
orders.shop.svc.mesh.internal. 5 IN A 10.1.0.2
orders.shop.svc.mesh.internal. 5 IN A 10.1.0.3
orders.shop.svc.mesh.internal. 5 IN SRV 0 1 8080 10-1-0-3.orders.shop.svc.mesh.internal.
orders.shop.svc.mesh.internal. 5 IN SRV 0 1 8080 orders-0.orders.shop.svc.mesh.internal.
orders.shop.svc.mesh.internal. 5 IN SRV 0 1 8081 orders-1.orders.shop.svc.mesh.internal.`,
		"plain.shop.mesh.internal.": `192-0-2-9.plain.shop.mesh.internal. 5 IN A 192.0.2.9
192-0-2-9.plain.shop.mesh.internal. 5 IN TXT "sources=dc1" "health=unknown" "weight=1" "doubted=most left"
_rpc._tcp.plain.shop.mesh.internal. 5 IN SRV 0 1 80 192-0-2-9.plain.shop.mesh.internal.
_rpc._tcp.plain.shop.mesh.internal. 5 IN SVCB 1 plain.shop.mesh.internal. alpn="h2" port="80"
plain.shop.mesh.internal. 5 IN A 192.0.2.9
plain.shop.mesh.internal. 5 IN SRV 0 1 80 192-0-2-9.plain.shop.mesh.internal.
plain.shop.mesh.internal. 5 IN TXT "source=dc1" "endpoints=1" "serving=1"`,
		"plain.shop.svc.mesh.internal.": "", // it is not Kubernetes'
	} {
		if diff := cmp.Diff(want, below(lines, name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := below(lines, "orders.shop.mesh.internal."); !strings.Contains(got, `orders.shop.mesh.internal. 5 IN TXT "source=k8s" "endpoints=3" "serving=3"`) {
		t.Errorf("no provenance in\n%s", got)
	}
	for _, line := range records(t, zone.New(zone.Options{}).Build(snap)) {
		if strings.Contains(line, " TXT ") || strings.Contains(line, ".svc.") || strings.Contains(line, "_mesh-control") {
			t.Errorf("nobody asked for %s", line)
		}
	}
}

func TestReverse(t *testing.T) {
	snap := &registry.Snapshot{Number: 7, Hosts: hosts("h1"), Services: []*registry.Service{
		{Name: registry.Name{Namespace: "default", Name: "api"}, Endpoints: []*registry.Endpoint{endpoint("10.0.0.1", 1, registry.Healthy), endpoint("10.2.0.9", 1, registry.Healthy), endpoint("192.0.2.1", 1, registry.Healthy), endpoint("2001:db8::1", 1, registry.Healthy)}},
		{Name: registry.Name{Namespace: "default", Name: "web"}, Endpoints: []*registry.Endpoint{endpoint("10.2.0.9", 1, registry.Healthy)}},
	}}
	options := zone.Options{NameServers: []dnsserver.NameServer{{Name: "ns.mesh.internal"}}}
	for prefix, want := range map[string]string{
		"10.0.0.0/8": `1.0.0.10.in-addr.arpa. 5 IN PTR h1.host.mesh.internal.
10.in-addr.arpa. 60 IN NS ns.mesh.internal.
10.in-addr.arpa. 60 IN SOA ns.mesh.internal. hostmaster.mesh.internal. 7 30 10 604800 1
9.0.2.10.in-addr.arpa. 5 IN PTR 10-2-0-9.api.default.mesh.internal.
9.0.2.10.in-addr.arpa. 5 IN PTR 10-2-0-9.web.default.mesh.internal.`,
		"192.0.2.0/24": `1.2.0.192.in-addr.arpa. 5 IN PTR 192-0-2-1.api.default.mesh.internal.
2.0.192.in-addr.arpa. 60 IN NS ns.mesh.internal.
2.0.192.in-addr.arpa. 60 IN SOA ns.mesh.internal. hostmaster.mesh.internal. 7 30 10 604800 1`,
		"2001:db8::/32": `1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 5 IN PTR 2001-0db8-0000-0000-0000-0000-0000-0001.api.default.mesh.internal.
8.b.d.0.1.0.0.2.ip6.arpa. 60 IN NS ns.mesh.internal.
8.b.d.0.1.0.0.2.ip6.arpa. 60 IN SOA ns.mesh.internal. hostmaster.mesh.internal. 7 30 10 604800 1`,
	} {
		got := strings.Join(records(t, zone.NewReverse(options, netip.MustParsePrefix(prefix)).Build(snap)), "\n")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", prefix, diff)
		}
	}
	for prefix, want := range map[string]string{"10.1.2.3/32": "3.2.1.10.in-addr.arpa", "10.0.0.0/9": "", "0.0.0.0/0": "", "fd00::/7": "", "fd00::/8": "d.f.ip6.arpa"} {
		if got, _ := zone.ReverseDomain(netip.MustParsePrefix(prefix)); got != want {
			t.Errorf("%s has the domain %q, want %q", prefix, got, want)
		}
	}
}

// TestZonesFollowSnapshots compares zones that went through random changes with such that are made of the last snapshot alone.
func TestZonesFollowSnapshots(t *testing.T) {
	options := zone.Options{Provenance: true, Kubernetes: []string{"k8s"}}
	prefix := netip.MustParsePrefix("10.0.0.0/8")
	random := rand.New(rand.NewPCG(1, 2))
	service := func(name string) *registry.Service {
		s := &registry.Service{Name: registry.Name{Namespace: "default", Name: name}, Ports: []registry.Port{{Name: "http", Number: 80, Protocol: registry.HTTP}}}
		if random.IntN(5) == 0 {
			s.ExternalName = "db.example"
		}
		for i := range random.IntN(4) {
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{
				ID: fmt.Sprintf("e%d", i), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(6))}), Weight: 1,
				Ports: []registry.EndpointPort{at("http", 80)}, Sources: []string{[]string{"k8s", "dc1"}[random.IntN(2)]},
			})
		}
		return s
	}
	builder, reverse := zone.New(options), zone.NewReverse(options, prefix)
	snap := &registry.Snapshot{Number: 1}
	for range 300 {
		next := &registry.Snapshot{Number: snap.Number + 1, Hosts: snap.Hosts}
		for i := range 5 {
			name := fmt.Sprintf("s%d", i)
			old := snap.Service(registry.Name{Namespace: "default", Name: name})
			switch choice := random.IntN(6); {
			case choice == 0:
			case choice == 1 || old == nil:
				next.Services = append(next.Services, service(name))
			default:
				next.Services = append(next.Services, old)
			}
		}
		if random.IntN(3) == 0 {
			next.Hosts = nil
			for i, h := range hosts("H1", "a", "b", "h1") {
				if random.IntN(2) == 0 {
					h.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + random.IntN(2))})}
					next.Hosts = append(next.Hosts, h)
				}
			}
		}
		snap = next
		for what, pair := range map[string][2]*dnsserver.Zone{
			"zone":    {builder.Build(snap), zone.New(options).Build(snap)},
			"reverse": {reverse.Build(snap), zone.NewReverse(options, prefix).Build(snap)},
		} {
			if diff := cmp.Diff(records(t, pair[1]), records(t, pair[0])); diff != "" {
				t.Fatalf("%s %d: %s", what, snap.Number, diff)
			}
		}
	}
}
