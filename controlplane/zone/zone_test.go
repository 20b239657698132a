package zone_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

func endpoint(addr string, weight uint32, health registry.Health, ports ...registry.EndpointPort) *registry.Endpoint {
	return &registry.Endpoint{ID: addr + fmt.Sprint(ports), Addr: netip.MustParseAddr(addr), Ports: ports, Weight: weight, Health: health}
}

func at(name string, number uint16) registry.EndpointPort {
	return registry.EndpointPort{Name: name, Number: number}
}

// snapshot has services of every kind.
func snapshot() *registry.Snapshot {
	snap := &registry.Snapshot{Number: 1<<32 + 4242, Services: []*registry.Service{
		{
			Name: registry.Name{Namespace: "default", Name: "down"}, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{
				endpoint("192.0.2.31", 1, registry.Unhealthy, at("", 80)), endpoint("192.0.2.32", 1, registry.Draining, at("", 80)),
			},
		},
		{Name: registry.Name{Namespace: "default", Name: "empty"}, Ports: []registry.Port{{Number: 80}}},
		{
			Name: registry.Name{Namespace: "default", Name: "web"}, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{
				endpoint("192.0.2.1", 1, registry.Healthy, at("", 8080)), endpoint("192.0.2.1", 100_000, registry.Unknown, at("", 8081)),
				endpoint("192.0.2.2", 1, registry.Unhealthy, at("", 8080)), endpoint("2001:db8::1", 7, registry.Healthy, at("", 8080)),
			},
		},
		{Name: registry.Name{Namespace: "shop", Name: "alias"}, ExternalName: "web.default.mesh.internal"},
		{
			Name:  registry.Name{Namespace: "shop", Name: "orders"},
			Ports: []registry.Port{{Name: "Admin_API", Number: 9000}, {Name: "dns", Number: 53, Protocol: registry.UDP}, {Name: "http", Number: 80, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{
				endpoint("192.0.2.9", 1, registry.Healthy, at("Admin_API", 9000), at("http", 8080)), endpoint("192.0.2.10", 2, registry.Healthy, at("dns", 53)),
			},
		},
	}}
	for i := range 60 { // more than fit without TCP
		if i == 0 {
			snap.Services = slices.Insert(snap.Services, 0, &registry.Service{Name: registry.Name{Namespace: "default", Name: "big"}, Ports: []registry.Port{{Number: 80}}})
		}
		snap.Services[0].Endpoints = append(snap.Services[0].Endpoints, endpoint(fmt.Sprintf("198.51.100.%d", i), 1, registry.Unknown, at("", 80)))
	}
	return snap
}

// serve runs a server with the zone of the snapshot.
func serve(t *testing.T, snap *registry.Snapshot) netip.AddrPort {
	t.Helper()
	z := zone.New(zone.Options{Domain: "Mesh.Internal.", NameServers: []dnsserver.NameServer{
		{Name: "ns.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}},
	}}).Build(snap)
	return serveZone(t, z)
}

func serveZone(t *testing.T, z *dnsserver.Zone) netip.AddrPort {
	t.Helper()
	s := dnsserver.New(dnsserver.Options{Addrs: []string{"127.0.0.1:0"}, Zones: func() []*dnsserver.Zone { return []*dnsserver.Zone{z} }, Log: slog.New(slog.DiscardHandler)})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s.Addrs()[0]
}

// dig runs dig(1) against the server.
func dig(t *testing.T, server netip.AddrPort, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	all := append([]string{"-r", "@" + server.Addr().String(), "-p", strconv.Itoa(int(server.Port())), "+tries=1", "+time=5"}, args...)
	out, err := exec.CommandContext(ctx, "dig", all...).CombinedOutput()
	if err != nil {
		t.Fatalf("dig %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestDig(t *testing.T) {
	server := serve(t, snapshot())
	soa := "ns.mesh.internal. hostmaster.mesh.internal. 4242 30 10 604800 1"
	v6 := "2001-0db8-0000-0000-0000-0000-0000-0001.web.default.mesh.internal."
	webSRV := "0 1 8080 192-0-2-1.web.default.mesh.internal.\n0 5 8080 " + v6 + "\n0 65535 8081 192-0-2-1.web.default.mesh.internal."
	for _, c := range []struct{ name, args, want string }{
		{"A", "web.default.mesh.internal A", "192.0.2.1"},
		{"A, short name", "web.mesh.internal A", "192.0.2.1"},
		{"A, upper case", "WEB.Mesh.Internal A", "192.0.2.1"},
		{"A over TCP", "+tcp web.mesh.internal A", "192.0.2.1"},
		{"A without EDNS", "+noedns web.mesh.internal A", "192.0.2.1"},
		{"AAAA", "web.mesh.internal AAAA", "2001:db8::1"},
		{"none is healthy", "down.mesh.internal A", "192.0.2.31\n192.0.2.32"},
		{"no endpoint", "empty.mesh.internal A", ""},
		{"SRV", "web.mesh.internal SRV", webSRV},
		{"SRV of the protocol", "_http._tcp.web.mesh.internal SRV", webSRV},
		{"SRV of the protocol, long", "_http._tcp.web.default.mesh.internal SRV", webSRV},
		{"SRV of a port", "_http._tcp.orders.shop.mesh.internal SRV", "0 1 8080 192-0-2-9.orders.shop.mesh.internal."},
		{"SRV of a UDP port", "_dns._udp.orders.shop.mesh.internal SRV", "0 2 53 192-0-2-10.orders.shop.mesh.internal."},
		{"SRV of a port that is no label", "_admin-api._tcp.orders.shop.mesh.internal SRV", "0 1 9000 192-0-2-9.orders.shop.mesh.internal."},
		{"SRV of all ports", "orders.shop.mesh.internal SRV", "0 1 8080 192-0-2-9.orders.shop.mesh.internal.\n0 1 9000 192-0-2-9.orders.shop.mesh.internal.\n0 2 53 192-0-2-10.orders.shop.mesh.internal."},
		{"an SRV's target", "192-0-2-9.orders.shop.mesh.internal A", "192.0.2.9"},
		{"an SRV's target, IPv6", v6 + " AAAA", "2001:db8::1"},
		{"an endpoint that does not serve", "192-0-2-2.web.default.mesh.internal A", "192.0.2.2"},
		{"SOA", "mesh.internal SOA", soa},
		{"NS", "mesh.internal NS", "ns.mesh.internal."},
		{"the name server", "ns.mesh.internal A", "127.0.0.1"},
		{"an external name", "alias.shop.mesh.internal AAAA", "2001:db8::1\nweb.default.mesh.internal."},
		{"SVCB", "_http._tcp.orders.shop.mesh.internal SVCB", `1 orders.shop.mesh.internal. alpn="http/1.1" port=8080`},
		{"ANY", "web.mesh.internal ANY", `"RFC8482" ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines := strings.Split(strings.TrimSpace(dig(t, server, append([]string{"+short"}, strings.Fields(c.args)...)...)), "\n")
			slices.Sort(lines)
			if diff := cmp.Diff(c.want, strings.Join(lines, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, c := range []struct {
		name, args string
		want       []string // patterns
	}{
		{"positive", "web.mesh.internal A", []string{"status: NOERROR", `flags: qr aa rd;`, `web\.mesh\.internal\.\s+5\s+IN\s+A\s+192\.0\.2\.1`, "AUTHORITY: 0", "EDNS: version: 0, flags:; udp: 1232"}},
		{"case is kept", "wEb.mesh.internal A", []string{`wEb\.mesh\.internal\.\s+5\s+IN\s+A`}},
		{"NXDOMAIN", "nobody.mesh.internal A", []string{"status: NXDOMAIN", "flags: qr aa rd;", `mesh\.internal\.\s+1\s+IN\s+SOA\s+` + regexp.QuoteMeta(soa)}},
		{"endpoint names have no short form", "192-0-2-1.web.mesh.internal A", []string{"status: NXDOMAIN"}},
		{"a namespace that is none", "web.prod.mesh.internal A", []string{"status: NXDOMAIN"}},
		{"NODATA", "web.mesh.internal MX", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1", `\s1\s+IN\s+SOA`}},
		{"NODATA for a service without endpoints", "empty.default.mesh.internal A", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1", `\s1\s+IN\s+SOA`}},
		{"a namespace is an empty non-terminal", "shop.mesh.internal A", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1"}},
		{"SRV brings addresses", "_http._tcp.orders.shop.mesh.internal SRV", []string{`192-0-2-9\.orders\.shop\.mesh\.internal\.\s+5\s+IN\s+A\s+192\.0\.2\.9`, "ADDITIONAL: 2"}},
		{"NS brings addresses", "mesh.internal NS", []string{`ns\.mesh\.internal\.\s+60\s+IN\s+A\s+127\.0\.0\.1`, `IN\s+AAAA\s+::1`}},
		{"no EDNS, no OPT", "+noedns web.mesh.internal A", []string{"ADDITIONAL: 0"}},
		{"EDNS version 1", "+edns=1 +noednsnegotiation web.mesh.internal A", []string{"status: BADVERS", "EDNS: version: 0", "ANSWER: 0"}},
		{"EDNS version 1, negotiated", "+edns=1 web.mesh.internal A", []string{"status: NOERROR", "192.0.2.1"}},
		{"an unknown EDNS option", "+ednsopt=100 +subnet=192.0.2.0/24 +cookie web.mesh.internal A", []string{"status: NOERROR", "192.0.2.1"}},
		{"truncated", "+noedns +ignore big.mesh.internal A", []string{"flags: qr aa tc rd;"}},
		{"a larger payload", "+bufsize=1232 +ignore big.mesh.internal A", []string{"flags: qr aa rd;", "ANSWER: 30,"}},
		{"a payload that is too small", "+bufsize=512 +ignore big.mesh.internal A", []string{"flags: qr aa tc rd;"}},
		{"truncated and asked again over TCP", "+bufsize=512 big.mesh.internal A", []string{"Truncated, retrying in TCP mode", "flags: qr aa rd;", "ANSWER: 60,"}},
		{"several queries over one connection", "+tcp +keepopen web.mesh.internal A web.mesh.internal AAAA", []string{"192.0.2.1", "2001:db8::1", `\(TCP\)`}},
		{"CHAOS", "version.bind CH TXT", []string{"status: REFUSED", "flags: qr rd;"}},
		{"outside", "example.org A", []string{"status: REFUSED", "flags: qr rd;", `EDE: 20 \(Not Authoritative\)`}},
		{"transfer", "+tcp +opcode=query mesh.internal IXFR=1", []string{"Transfer failed"}},
		{"opcode", "+opcode=status mesh.internal A", []string{"status: NOTIMP", "opcode: STATUS"}},
		{"flags", "+norec +cdflag +adflag web.mesh.internal A", []string{"flags: qr aa cd;"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := dig(t, server, strings.Fields(c.args)...)
			for _, want := range c.want {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

func TestUnchangedServicesAreReused(t *testing.T) {
	snap := snapshot()
	b := zone.New(zone.Options{})
	before := b.Build(snap)
	next := &registry.Snapshot{Number: snap.Number + 1, Services: slices.Clone(snap.Services)}
	changed := *next.Services[len(next.Services)-1]
	changed.Endpoints = changed.Endpoints[:1]
	next.Services[len(next.Services)-1] = &changed
	after := b.Build(next)
	for _, name := range []string{"web.default", "empty.default", "down.default", "big.default"} {
		if before.Branch(name) == nil || before.Branch(name) != after.Branch(name) {
			t.Errorf("%s did not change and is not the same", name)
		}
	}
	if before.Branch("orders.shop") == after.Branch("orders.shop") {
		t.Error("orders.shop changed and is the same")
	}
	if got := len(after.Set("\x06orders\x04shop\x04mesh\x08internal\x00", dns.TypeA).Data); got != 1 {
		t.Errorf("orders.shop has %d addresses, want 1", got)
	}
	if before.Serial() != 4242 || after.Serial() != 4243 {
		t.Errorf("serials %d and %d, want 4242 and 4243", before.Serial(), after.Serial())
	}
	if after := b.Build(&registry.Snapshot{Number: next.Number + 1}); after.Branch("web.default") != nil {
		t.Error("a service that left is still there")
	}
}

// TestNamesThatMeet has a service, a namespace and the name server go by the same name.
// Weights that need more than the 16 bits of SRV are told in proportion, so that shares stay.
func TestWeightsKeepTheirShares(t *testing.T) {
	server := serve(t, &registry.Snapshot{Number: 1, Services: []*registry.Service{{
		Name: registry.Name{Namespace: "default", Name: "web"}, Ports: []registry.Port{{Number: 80}},
		Endpoints: []*registry.Endpoint{
			endpoint("192.0.2.1", 9<<20, registry.Healthy, at("", 8080)), endpoint("192.0.2.2", 1<<20, registry.Healthy, at("", 8080)),
			endpoint("192.0.2.3", 1, registry.Healthy, at("", 8080)),
		},
	}}})
	got := strings.Split(strings.TrimSpace(dig(t, server, "web.mesh.internal", "SRV", "+short")), "\n")
	slices.Sort(got)
	want := []string{
		"0 1 8080 192-0-2-3.web.default.mesh.internal.",
		"0 65535 8080 192-0-2-1.web.default.mesh.internal.",
		"0 7282 8080 192-0-2-2.web.default.mesh.internal.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Two endpoints on one host that share a port are one record there, with the weight of both.
func TestASharedPortIsOneRecord(t *testing.T) {
	snap := &registry.Snapshot{Number: 7, Services: []*registry.Service{{
		Name:  registry.Name{Namespace: "default", Name: "web"},
		Ports: []registry.Port{{Name: "admin", Number: 81, Protocol: registry.HTTP}, {Name: "main", Number: 80, Protocol: registry.TCP}},
		Endpoints: []*registry.Endpoint{
			endpoint("192.0.2.1", 2, registry.Healthy, at("admin", 8081), at("main", 31000)),
			endpoint("192.0.2.1", 3, registry.Healthy, at("admin", 8081), at("main", 31001)),
		},
	}}}
	server := serve(t, snap)
	for name, want := range map[string]string{
		"_admin._tcp.web.mesh.internal": "0 5 8081",
		"_main._tcp.web.mesh.internal":  "0 2 31000 0 3 31001",
	} {
		var got []string
		for _, line := range strings.Split(strings.TrimSpace(dig(t, server, name, "SRV", "+short")), "\n") {
			record, _, _ := strings.Cut(line, " 192-")
			got = append(got, record)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", name, got, want)
		}
	}
}

func TestNamesThatMeet(t *testing.T) {
	service := func(namespace, name, addr string) *registry.Service {
		return &registry.Service{
			Name: registry.Name{Namespace: namespace, Name: name}, Ports: []registry.Port{{Number: 80}},
			Endpoints: []*registry.Endpoint{endpoint(addr, 1, registry.Healthy, at("", 80))},
		}
	}
	server := serve(t, &registry.Snapshot{Number: 1, Services: []*registry.Service{
		service("default", "default", "192.0.2.1"), service("default", "ns", "192.0.2.2"), service("default", "shop", "192.0.2.3"),
		service("ns", "web", "192.0.2.4"), service("shop", "web", "192.0.2.5"),
	}})
	for name, want := range map[string]string{
		"default.mesh.internal": "192.0.2.1", "default.default.mesh.internal": "192.0.2.1", "ns.mesh.internal": "127.0.0.1", "ns.default.mesh.internal": "192.0.2.2",
		"shop.mesh.internal": "192.0.2.3", "web.ns.mesh.internal": "192.0.2.4", "web.shop.mesh.internal": "192.0.2.5",
	} {
		if got := strings.TrimSpace(dig(t, server, "+short", name)); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
}

func TestLabel(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1": "192-0-2-1", "::1": "0000-0000-0000-0000-0000-0000-0000-0001", "fe80::1%eth0": "fe80-0000-0000-0000-0000-0000-0000-0001",
	} {
		if got := zone.Label(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Label(%s) = %s, want %s", addr, got, want)
		}
	}
}

// many are services of 10 endpoints.
func many(count int) *registry.Snapshot {
	snap := &registry.Snapshot{Number: 1}
	for i := range count {
		s := &registry.Service{Name: registry.Name{Namespace: "default", Name: fmt.Sprintf("service-%05d", i)}, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
		for j := range 10 {
			s.Endpoints = append(s.Endpoints, endpoint(fmt.Sprintf("10.%d.%d.%d", i/250, i%250, j), 1, registry.Healthy, at("", 80)))
		}
		snap.Services = append(snap.Services, s)
	}
	return snap
}

// moved is the next snapshot, in which an endpoint of one service has another address.
func moved(snap *registry.Snapshot, service, turn int) *registry.Snapshot {
	services := slices.Clone(snap.Services)
	next := *services[service]
	next.Endpoints = slices.Clone(next.Endpoints)
	next.Endpoints[9] = endpoint(fmt.Sprintf("192.0.2.%d", turn%256), 1, registry.Healthy, at("", 80))
	services[service] = &next
	return &registry.Snapshot{Number: snap.Number + 1, Services: services}
}

func BenchmarkBuild(b *testing.B) {
	snap := many(10_000)
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			zone.New(zone.Options{}).Build(snap)
		}
	})
	b.Run("one changed", func(b *testing.B) {
		b.ReportAllocs()
		builder := zone.New(zone.Options{})
		builder.Build(snap)
		for turn := 0; b.Loop(); turn++ {
			snap = moved(snap, 500, turn)
			builder.Build(snap)
		}
	})
}

// BenchmarkOneChange is how long a zone of 10,000 services takes when one of them has changed, one after the other, with
// a pause, as the Catalog has it; a round is 300.
func BenchmarkOneChange(b *testing.B) {
	snap, builder := many(10_000), zone.New(zone.Options{})
	builder.Build(snap)
	var took []time.Duration
	for b.Loop() {
		for turn := range 300 {
			snap = moved(snap, turn*7919%len(snap.Services), turn)
			began := time.Now()
			builder.Build(snap)
			took = append(took, time.Since(began))
			time.Sleep(20 * time.Millisecond)
		}
	}
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99} {
		b.ReportMetric(float64(took[int(q*float64(len(took)))].Nanoseconds())/1e6, name)
	}
}
