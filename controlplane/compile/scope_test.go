package compile_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/registry"
)

func message[M any](t *testing.T, r *compile.Resource) M {
	t.Helper()
	if r == nil {
		t.Fatal("no such resource")
	}
	m, err := r.Message()
	if err != nil {
		t.Fatal(err)
	}
	return m.(M)
}

func TestScope(t *testing.T) {
	common := compile.Update(nil, house(), compile.Options{})
	all := []string{"outbound|9187||db.data.mesh.internal", "outbound|5432||db.data.mesh.internal", "outbound|5433||db.data.mesh.internal", "outbound|50051||rpc.default.mesh.internal", "outbound|80||web.default.mesh.internal", "outbound|9090||web.default.mesh.internal"}
	for _, c := range []struct {
		name, agent         string
		upstreams           []any
		clusters, listeners []string
		hosts               int
	}{
		{"none named", "envoy", nil, all, []string{"outbound"}, 4},
		{"all and one by name", "envoy", []any{"*", "web"}, all, []string{"outbound", "web.default.mesh.internal"}, 4},
		{"some", "envoy", []any{"data/db", "missing"}, all[:3], []string{"outbound", "db.data.mesh.internal"}, 1},
		{"gRPC", "gRPC Go", nil, all, nil, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := compile.ForClass(nil, common, nodeClass(t, c.agent, map[string]any{"upstreams": c.upstreams}))
			for typ, want := range map[compile.Type][]string{compile.Cluster: c.clusters, compile.Listener: c.listeners} {
				var got []string
				for res := range r.Wildcard(typ) {
					got = append(got, res.Name)
					if !r.InWildcard(typ, res.Name) {
						t.Errorf("%s %s is in the wildcard and is denied", typ, res.Name)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", typ, diff)
				}
			}
			routes := r.Get(compile.Route, "outbound")
			if c.hosts < 0 {
				if routes != nil {
					t.Error("a gRPC client has outbound routes")
				}
				return
			}
			if got := len(message[*routev3.RouteConfiguration](t, routes).VirtualHosts); got != c.hosts {
				t.Errorf("outbound routes have %d virtual hosts, want %d", got, c.hosts)
			}
			if r.Get(compile.Cluster, "outbound|80||web.default.mesh.internal") == nil {
				t.Error("a name out of scope that exists cannot be had by name")
			}
		})
	}
}

// Envoy refuses a RouteConfiguration in which a domain stands twice.
func TestDomainsAreUnique(t *testing.T) {
	s := house()
	common := compile.Update(nil, s, compile.Options{})
	r := compile.ForClass(nil, common, nodeClass(t, "envoy", nil))
	for _, n := range resourceNames(s)[compile.Route] {
		res := r.Get(compile.Route, n)
		if res == nil {
			if strings.HasSuffix(n, ":514") {
				continue // UDP has no routes
			}
			t.Fatalf("no routes %s", n)
		}
		seen := map[string]bool{}
		for _, host := range message[*routev3.RouteConfiguration](t, res).VirtualHosts {
			for _, domain := range host.Domains {
				if seen[domain] {
					t.Errorf("%s: domain %s stands twice", n, domain)
				}
				seen[domain] = true
			}
		}
	}
}

func assignment(t *testing.T, agent string, endpoints ...*registry.Endpoint) *endpointv3.ClusterLoadAssignment {
	t.Helper()
	svc := &registry.Service{Name: name("web"), Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}, Endpoints: endpoints}
	common := compile.Update(nil, &registry.Snapshot{Services: []*registry.Service{svc}}, compile.Options{})
	r := compile.ForClass(nil, common, nodeClass(t, agent, nil))
	return message[*endpointv3.ClusterLoadAssignment](t, r.Get(compile.Endpoint, "outbound|80||web.default.mesh.internal"))
}

func weighted(addr string, weight uint32, health registry.Health, zone string) *registry.Endpoint {
	return &registry.Endpoint{
		ID: addr + zone + fmt.Sprint(weight), Addr: netip.MustParseAddr(addr), Weight: weight, Health: health,
		Ports: []registry.EndpointPort{{Number: 8080}}, Locality: registry.Locality{Zone: zone},
	}
}

func TestAssignment(t *testing.T) {
	up, down, drain := registry.Healthy, registry.Unhealthy, registry.Draining
	for _, c := range []struct {
		name, agent string
		endpoints   []*registry.Endpoint
		want        []string // zone/weight: address weight health
	}{
		{
			"grouped by locality, all healths kept, a locality weighs what serves", "envoy",
			[]*registry.Endpoint{weighted("10.0.0.1", 3, up, "b"), weighted("10.0.0.2", 2, down, "a"), weighted("10.0.0.3", 5, up, "a"), weighted("10.0.0.4", 1, drain, "a")},
			[]string{"a/5: 10.0.0.2 2 UNHEALTHY", "a/5: 10.0.0.3 5 HEALTHY", "a/5: 10.0.0.4 1 DRAINING", "b/3: 10.0.0.1 3 HEALTHY"},
		},
		{
			"one address once", "envoy",
			[]*registry.Endpoint{weighted("10.0.0.1", 3, down, "a"), weighted("10.0.0.1", 4, up, "a")},
			[]string{"a/7: 10.0.0.1 7 HEALTHY"},
		},
		{
			"none healthy, a proxy has its panic threshold", "envoy",
			[]*registry.Endpoint{weighted("10.0.0.1", 3, down, "a")},
			[]string{"a/3: 10.0.0.1 3 UNHEALTHY"},
		},
		{
			"none healthy, gRPC has none", "gRPC Go",
			[]*registry.Endpoint{weighted("10.0.0.1", 3, down, "a")},
			[]string{"a/3: 10.0.0.1 3 UNKNOWN"},
		},
		{
			"one healthy, gRPC leaves the other", "gRPC Go",
			[]*registry.Endpoint{weighted("10.0.0.1", 3, down, "a"), weighted("10.0.0.2", 0, up, "a")},
			[]string{"a/1: 10.0.0.1 3 UNHEALTHY", "a/1: 10.0.0.2 1 HEALTHY"},
		},
		{
			"weights whose sum is too large", "gRPC Go",
			[]*registry.Endpoint{weighted("10.0.0.1", 1<<32-1, up, "a"), weighted("10.0.0.2", 1<<32-1, up, "a"), weighted("10.0.0.3", 1, up, "a")},
			[]string{"a/2863311531: 10.0.0.1 1431655765 HEALTHY", "a/2863311531: 10.0.0.2 1431655765 HEALTHY", "a/2863311531: 10.0.0.3 1 HEALTHY"},
		},
		{
			"localities that read alike are one, for clients refuse a second", "gRPC Go",
			[]*registry.Endpoint{weighted("10.0.0.1", 1, up, "a\xff"), weighted("10.0.0.2", 1, up, "b"), weighted("10.0.0.3", 1, up, "a\xfe")},
			[]string{"a\uFFFD/2: 10.0.0.1 1 HEALTHY", "a\uFFFD/2: 10.0.0.3 1 HEALTHY", "b/1: 10.0.0.2 1 HEALTHY"},
		},
		{"no endpoint", "gRPC Go", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, l := range assignment(t, c.agent, c.endpoints...).Endpoints {
				for _, e := range l.LbEndpoints {
					got = append(got, fmt.Sprintf("%s/%d: %s %d %s", l.Locality.Zone, l.LoadBalancingWeight.Value,
						e.GetEndpoint().Address.GetSocketAddress().Address, e.LoadBalancingWeight.Value, e.HealthStatus))
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

// These addresses are known to every host: they must never change.
func TestLoopbackAddrIsForEver(t *testing.T) {
	for n, want := range map[registry.Name]string{
		name("web"):                       "127.117.188.221",
		name("api"):                       "127.75.182.241",
		{Namespace: "data", Name: "db"}:   "127.67.227.65",
		{Namespace: "default", Name: "x"}: "127.107.89.63",
	} {
		if got := compile.LoopbackAddr(n).String(); got != want {
			t.Errorf("LoopbackAddr(%s) = %s, want %s", n, got, want)
		}
	}
	prefix := netip.MustParsePrefix("127.64.0.0/10")
	for i := range 10_000 {
		a := compile.LoopbackAddr(name(fmt.Sprintf("s%d", i)))
		if last := a.As4()[3]; !prefix.Contains(a) || last == 0 || last == 255 {
			t.Fatalf("s%d has %s", i, a)
		}
	}
}

// collide returns two names with one loopback address.
func collide(t *testing.T) (first, second registry.Name) {
	t.Helper()
	seen := map[netip.Addr]registry.Name{}
	for i := range 100_000 {
		n := name(fmt.Sprintf("s%d", i))
		a := compile.LoopbackAddr(n)
		if other, ok := seen[a]; ok {
			names := []registry.Name{n, other}
			slices.SortFunc(names, registry.Name.Compare)
			return names[0], names[1]
		}
		seen[a] = n
	}
	t.Fatal("no two names with one address among 100,000")
	return
}

// TestEndpointsThatNoProxyStandsFor are told under the service's own name, with the port if it is known.
func TestEndpointsThatNoProxyStandsFor(t *testing.T) {
	at := endpoint("a", "10.0.0.1", registry.Healthy, "a", registry.EndpointPort{Name: "dns", Number: 5353})
	for _, c := range []struct {
		name  string
		ports []registry.Port
		want  uint32 // 0: there is no such cluster
	}{
		{"UDP", []registry.Port{{Name: "dns", Number: 53, Protocol: registry.UDP}}, 5353},
		{"UDP that the endpoint does not say", []registry.Port{{Name: "other", Number: 53, Protocol: registry.UDP}}, 1},
		{"UDP and TCP", []registry.Port{{Name: "tcp", Number: 53}, {Name: "dns", Number: 53, Protocol: registry.UDP}}, 5353},
		{"no port", nil, 1},
		{"TCP", []registry.Port{{Name: "dns", Number: 53}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := &registry.Service{Name: name("ns"), Ports: c.ports, Endpoints: []*registry.Endpoint{at}}
			r := compile.ForClass(nil, compile.Update(nil, &registry.Snapshot{Services: []*registry.Service{service}}, compile.Options{}), nodeClass(t, "envoy", nil))
			const fqdn = "ns.default.mesh.internal"
			if c.want == 0 {
				if r.Get(compile.Cluster, fqdn) != nil || r.Get(compile.Endpoint, fqdn) != nil {
					t.Error("a cluster that nobody needs")
				}
				return
			}
			got := message[*endpointv3.ClusterLoadAssignment](t, r.Get(compile.Endpoint, fqdn)).Endpoints[0].LbEndpoints[0].GetEndpoint().Address.GetSocketAddress()
			if r.InWildcard(compile.Cluster, fqdn) || slices.Contains(wildcardNames(r, compile.Cluster), fqdn) {
				t.Error("who does not ask for the cluster is told of it")
			}
			if r.Get(compile.Cluster, fqdn) == nil || got.Address != "10.0.0.1" || got.GetPortValue() != c.want {
				t.Errorf("told %v, want port %d", got, c.want)
			}
		})
	}
}

// TestAliasesAreToldByName: a service that stands for a name outside of the mesh, until it has endpoints.
func TestAliasesAreToldByName(t *testing.T) {
	const fqdn = "db.default.mesh.internal"
	service := &registry.Service{Name: name("db"), ExternalName: "db.example.com", Ports: []registry.Port{{Number: 5432}}}
	get := func() *compile.Resource {
		return compile.ForClass(nil, compile.Update(nil, &registry.Snapshot{Services: []*registry.Service{service}}, compile.Options{}), nodeClass(t, "envoy", nil)).Get(compile.Cluster, fqdn)
	}
	c := message[*clusterv3.Cluster](t, get())
	if at := c.LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address.GetSocketAddress(); at.Address != "db.example.com" || c.GetType() != clusterv3.Cluster_LOGICAL_DNS {
		t.Errorf("got %v", c)
	}
	service = &registry.Service{Name: service.Name, ExternalName: service.ExternalName, Ports: service.Ports, Endpoints: []*registry.Endpoint{endpoint("a", "10.0.0.1", registry.Healthy, "a")}}
	if get() != nil {
		t.Error("with endpoints it is an alias still")
	}
}

func wildcardNames(r *compile.Resources, t compile.Type) (names []string) {
	for res := range r.Wildcard(t) {
		names = append(names, res.Name)
	}
	return names
}

func TestTheLaterOfTwoWithOneAddressHasNoListener(t *testing.T) {
	first, second := collide(t)
	service := func(n registry.Name) *registry.Service {
		return &registry.Service{Name: n, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
	}
	a, b := service(first), service(second)
	class := nodeClass(t, "envoy", map[string]any{"upstreams": []any{first.Name, second.Name}})
	listener := second.Name + ".default.mesh.internal"

	both := compile.Update(nil, &registry.Snapshot{Services: []*registry.Service{a, b}}, compile.Options{})
	r := compile.ForClass(nil, both, class)
	if all := wildcardNames(r, compile.Listener); !slices.Contains(all, first.Name+".default.mesh.internal") || slices.Contains(all, listener) || r.InWildcard(compile.Listener, listener) {
		t.Errorf("listeners %v, want the first to have its listener and the second none", all)
	}
	if r.Get(compile.Listener, listener) == nil {
		t.Error("who asks for the second's listener by name is told that it does not exist")
	}
	if got := both.Conflicts(); len(got) != 1 || got[0].Service != second || !strings.Contains(got[0].Reason, first.String()) {
		t.Errorf("Conflicts() = %v, want %s to be told that %s has its address", got, second, first)
	}
	if r.Get(compile.Cluster, "outbound|80||"+listener) == nil {
		t.Error("the second lost more than its listener")
	}

	one := compile.Update(both, &registry.Snapshot{Services: []*registry.Service{b}}, compile.Options{})
	after := compile.ForClass(r, one, class)
	names, _ := after.Changed(r, compile.Listener)
	if !slices.Contains(wildcardNames(after, compile.Listener), listener) || !slices.Contains(names, listener) || len(one.Conflicts()) != 0 {
		t.Error("when the first is gone the second does not come back")
	}
	if l := message[*listenerv3.Listener](t, after.Get(compile.Listener, listener)); l.Address.GetSocketAddress().Address != compile.LoopbackAddr(second).String() {
		t.Errorf("listener at %v", l.Address)
	}
}

func TestParseNodeRefuses(t *testing.T) {
	for metadata, want := range map[*structpb.Struct]string{
		must(map[string]any{"upstreams": []any{"We b"}}):       `metadata.upstreams: got "We b"`,
		must(map[string]any{"upstreams": []any{"a/b/c"}}):      `metadata.upstreams: got "a/b/c"`,
		must(map[string]any{"upstreams": []any{7}}):            `metadata.upstreams: got ""`,
		must(map[string]any{"outbound": "localhost:15001"}):    `metadata.outbound: got "localhost:15001"`,
		must(map[string]any{"outbound": "127.0.0.1:0"}):        `metadata.outbound: got "127.0.0.1:0"`,
		must(map[string]any{"upstreams": make([]any, 10_001)}): "at most 10000",
	} {
		_, err := compile.ParseNode(&corev3.Node{Id: "n", Metadata: metadata})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseNode: %v, want %q", err, want)
		}
	}
}

func must(m map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(m)
	if err != nil {
		panic(err)
	}
	return s
}

func FuzzNames(f *testing.F) {
	s := house()
	common := compile.Update(nil, s, compile.Options{})
	for typ, names := range resourceNames(s) {
		for _, n := range names {
			f.Add(uint8(typ), n)
		}
	}
	f.Fuzz(func(t *testing.T, typ uint8, n string) {
		for _, kind := range []compile.Kind{compile.Proxy, compile.GRPC} {
			r := compile.ForClass(nil, common, compile.Node{Kind: kind, All: true, Outbound: compile.DefaultOutbound()}.Class())
			want := compile.Type(typ % uint8(compile.Types))
			if res := r.Get(want, n); res != nil && (res.Name != n || res.TypeURL != want.URL()) {
				t.Errorf("Get(%s, %q) = %s %s", want, n, res.TypeURL, res.Name)
			}
			r.InWildcard(want, n)
		}
	})
}
