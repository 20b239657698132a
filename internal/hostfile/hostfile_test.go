package hostfile_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/hostfile"
	"github.com/hostmesh/hostmesh/internal/yamlpos"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestDecode(t *testing.T) {
	got, err := hostfile.Decode("web.yaml", []byte(`
service: web
port: 8080
protocol: http
labels: {version: v1}
check: {http: /healthz, interval: 1s}
---
service: shop/orders
address: ::ffff:192.0.2.7
weight: 5
ports:
  - {name: metrics, port: 9000}
  - {name: http, port: 80, targetPort: 8081, protocol: http}
check: {tcp: true, timeout: 500ms, rise: 1}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []hostfile.Service{
		{
			Service: "web", Namespace: "default", Port: 8080, Protocol: "http", Weight: 1, Line: 2,
			Ports:  []hostfile.Port{{Port: 8080, TargetPort: 8080, Protocol: "http"}},
			Labels: map[string]string{"version": "v1"},
			Check:  &hostfile.Check{HTTP: "/healthz", Port: 8080, Interval: time.Second, Timeout: time.Second, Rise: 2, Fall: 3},
		},
		{
			Service: "orders", Namespace: "shop", Address: netip.MustParseAddr("192.0.2.7"), Weight: 5, Line: 8,
			Ports: []hostfile.Port{
				{Name: "http", Port: 80, TargetPort: 8081, Protocol: "http"},
				{Name: "metrics", Port: 9000, TargetPort: 9000},
			},
			Check: &hostfile.Check{TCP: true, Port: 9000, Interval: 2 * time.Second, Timeout: 500 * time.Millisecond, Rise: 1, Fall: 3},
		},
	}
	if diff := cmp.Diff(want, got, sameAddr); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeStatic(t *testing.T) {
	got, err := hostfile.DecodeStatic("db.yaml", []byte(`
service: db
namespace: data
weight: 10
labels: {tier: a, kind: pg}
ports: [{name: pg, port: 5432}]
endpoints:
  - address: 192.0.2.1
  - {address: "2001:db8::1", port: 5433, weight: 20, labels: {tier: b}, health: draining, locality: {region: eu, zone: eu-1}}
  - {address: 192.0.2.1, ports: {pg: 5434}}
---
service: empty
port: 80
endpoints: []
---
service: loose
protocol: http
endpoints: [{address: 192.0.2.9, port: 81}]
`))
	if err != nil {
		t.Fatal(err)
	}
	pg := []hostfile.Port{{Name: "pg", Port: 5432, TargetPort: 5432}}
	both := map[string]string{"tier": "a", "kind": "pg"}
	want := []hostfile.Service{
		{
			Service: "db", Namespace: "data", Weight: 10, Line: 2, Ports: pg, Labels: both,
			Endpoints: []hostfile.Endpoint{
				{Address: netip.MustParseAddr("192.0.2.1"), Ports: map[string]uint16{"pg": 5432}, Weight: 10, Labels: both, Health: "unknown", Line: 8},
				{
					Address: netip.MustParseAddr("2001:db8::1"), Port: 5433, Ports: map[string]uint16{"pg": 5433}, Weight: 20, Line: 9,
					Labels: map[string]string{"tier": "b", "kind": "pg"}, Health: "draining", Locality: hostfile.Locality{Region: "eu", Zone: "eu-1"},
				},
				{Address: netip.MustParseAddr("192.0.2.1"), Ports: map[string]uint16{"pg": 5434}, Weight: 10, Labels: both, Health: "unknown", Line: 10},
			},
		},
		{Service: "empty", Namespace: "default", Port: 80, Weight: 1, Line: 12, Ports: []hostfile.Port{{Port: 80, TargetPort: 80}}, Endpoints: []hostfile.Endpoint{}},
		{
			Service: "loose", Namespace: "default", Protocol: "http", Weight: 1, Line: 16,
			Ports:     []hostfile.Port{{Protocol: "http"}},
			Endpoints: []hostfile.Endpoint{{Address: netip.MustParseAddr("192.0.2.9"), Port: 81, Ports: map[string]uint16{"": 81}, Weight: 1, Health: "unknown", Line: 18}},
		},
	}
	if diff := cmp.Diff(want, got, sameAddr); diff != "" {
		t.Error(diff)
	}
}

func TestProblems(t *testing.T) {
	static := func(file string, data []byte) error { _, err := hostfile.DecodeStatic(file, data); return err }
	host := func(file string, data []byte) error { _, err := hostfile.Decode(file, data); return err }
	for _, c := range []struct {
		name   string
		decode func(string, []byte) error
		yaml   string
		want   string
	}{
		{"nothing", host, "labels: {}\n", "f:1: service: got nothing, want a string"},
		{"no port", host, "service: web\n", "f:1: port: got nothing, want the port on which the service listens"},
		{"several at once", host, "service: Web\nport: 80\nprotocol: https\nweight: 0\ncheck: {http: healthz, interval: 10ms, rise: 0}\n", `
f:1: service: got "Web", want a name or namespace/name of lower-case letters, digits and '-', at most 63 (RFC 1123)
f:3: protocol: got "https", want one of tcp, udp, http, http2, grpc, tls
f:4: weight: got 0, want 1 to 10000
f:5: check.http: got "healthz", want a path such as /healthz
f:5: check.interval: got 10ms, want at least 100ms
f:5: check.rise: got 0, want at least 1`},
		{"namespaces that differ", host, "service: a/b\nnamespace: c\nport: 1\n", `f:2: namespace: got "c", want "a" as in service, or none`},
		{"reserved namespace", host, "service: host/b\nport: 1\n", `f:1: service: got "host", want another namespace, that one is reserved for hosts`},
		{"two forms of ports", host, "service: a\nport: 1\nports: [{port: 2}]\n", "f:3: ports: got ports beside port or protocol, want one of the two forms"},
		{"unnamed and equal ports", host, "service: a\nports:\n- {port: 2}\n- {name: b, port: 0}\n- {name: b, port: 3}\n", `
f:3: ports[0].name: got nothing, want a name: there are several ports
f:4: ports[1].port: got 0, want a port from 1 to 65535
f:5: ports[2].name: got "b" a second time, want a name of its own`},
		{"no kind of check", host, "service: a\nport: 1\ncheck: {interval: 1s, timeout: 3s}\n", `
f:3: check: got neither http nor tcp, want http: /path or tcp: true
f:3: check.timeout: got 3s, want at most the interval, 1s`},
		{"check of a UDP service", host, "service: a\nport: 1\nprotocol: udp\ncheck: {tcp: true}\n", "f:4: check.port: got nothing, want a TCP port to check: the service's own is UDP"},
		{"endpoints of a host", host, "service: a\nport: 1\nendpoints: []\n", "f:3: endpoints: got endpoints, want none: services.d says what this host itself runs, other hosts' endpoints belong in static.d"},
		{"service twice", host, "service: a\nport: 1\n---\nservice: default/a\nport: 2\n", "f:4: service: got default/a a second time, want it once (first at line 1)"},
		{"no endpoints", static, "service: a\nport: 1\n", "f:1: endpoints: got nothing, want a list of {address, port} ([] for a service without any)"},
		{"static address and check", static, "service: a\nport: 1\nendpoints: []\naddress: 192.0.2.1\ncheck: {tcp: true}\n", `
f:4: address: got 192.0.2.1, want none: in static.d the addresses stand in endpoints
f:5: check: got a check, want none: nobody runs checks for static.d, an endpoint's health says what to take for true`},
		{"endpoints", static, `service: a
ports: [{name: x, port: 1}, {name: y, port: 2}]
endpoints:
  - {port: 5}
  - {address: 0.0.0.0, ports: {z: 1}, health: up}
  - {address: 192.0.2.1, weight: 0}
  - {address: 192.0.2.1}
`, `f:4: endpoints[0].address: got nothing, want an IP address`},
		{"endpoints in detail", static, `service: a
ports: [{name: x, port: 1}, {name: y, port: 2}]
endpoints:
  - {address: 192.0.2.2, port: 5}
  - {address: 0.0.0.0, ports: {z: 1}, health: up}
  - {address: 192.0.2.1, weight: 0}
  - {address: 192.0.2.1}
`, `
f:4: endpoints[0].port: got 5, want ports: {name: number}, the service has several
f:5: endpoints[1].address: got 0.0.0.0, want an address that can be dialled from anywhere
f:5: endpoints[1].health: got "up", want one of unknown, healthy, unhealthy, draining
f:5: endpoints[1].ports.z: got a port that the service does not have, want a name from the service's ports
f:6: endpoints[2].weight: got 0, want 1 to 10000
f:7: endpoints[3]: got the same address and port as endpoints[2], want it once`},
		{"endpoint without port", static, "service: a\nendpoints: [{address: 192.0.2.1}]\n", "f:2: endpoints[0].port: got nothing, want the port on which it listens (or a port of the service)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.decode("f", []byte(c.yaml))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(strings.TrimSpace(c.want), err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("service: shop/orders\nports: [{name: http, port: 80, targetPort: 8081, protocol: http}]\ncheck: {http: /}\n"))
	f.Add([]byte("service: a\nport: 1\nendpoints: [{address: ::ffff:1.2.3.4, port: 3, ports: {}}]\n---\nservice: a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		host, err := hostfile.Decode("f", data)
		verify(t, host, err)
		static, err := hostfile.DecodeStatic("f", data)
		verify(t, static, err)
	})
}

func verify(t *testing.T, services []hostfile.Service, err error) {
	var problems yamlpos.Problems
	if err != nil && !errors.As(err, &problems) {
		t.Fatalf("an error that is no Problems: %v", err)
	}
	for _, s := range services {
		if err != nil {
			break
		}
		if !hostfile.IsLabel(s.Service) || !hostfile.IsLabel(s.Namespace) || s.Weight == 0 {
			t.Errorf("a service that cannot be used: %+v", s)
		}
		for _, e := range s.Endpoints {
			if !e.Address.IsValid() || e.Address.Is4In6() || len(e.Ports) == 0 || e.Weight == 0 || e.Weight > hostfile.MaxWeight {
				t.Errorf("an endpoint that cannot be used: %+v", e)
			}
			for _, number := range e.Ports {
				if number == 0 {
					t.Errorf("an endpoint without a number: %+v", e)
				}
			}
		}
	}
}
