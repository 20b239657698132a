package consul_test

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
)

func registerAll(t *testing.T, client *api.Client, registrations ...*api.CatalogRegistration) {
	t.Helper()
	for _, r := range registrations {
		if _, err := client.Catalog().Register(r, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatConsulTells registers each thing that Consul can say of an instance and compares what becomes of it.
func TestWhatConsulTells(t *testing.T) {
	t.Parallel()
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	node := func(s *api.AgentService, checks ...*api.HealthCheck) *api.CatalogRegistration {
		return &api.CatalogRegistration{
			Node: "n1", Address: "10.1.1.1", NodeMeta: map[string]string{"zone": "z1", "subzone": "r7"}, Service: s, Checks: checks,
		}
	}
	check := func(id, status, service string) *api.HealthCheck {
		return &api.HealthCheck{Node: "n1", CheckID: id, Name: id, Status: status, ServiceID: service}
	}
	registerAll(t, server.Client(),
		node(&api.AgentService{ID: "w1", Service: "Web_Shop", Port: 80, Tags: []string{"primary", "team=a"}, Meta: map[string]string{"team": "b", "protocol": "http"}}),
		node(&api.AgentService{ID: "w2", Service: "Web_Shop", Port: 81, Address: "2001:db8::1", Weights: api.AgentWeights{Passing: 9, Warning: 3}},
			check("a", "passing", "w2"), check("b", "warning", "w2")),
		node(&api.AgentService{ID: "w3", Service: "Web_Shop", Port: 82, Address: "::ffff:10.9.9.9"}, check("c", "critical", "w3")),
		node(&api.AgentService{ID: "w4", Service: "Web_Shop", Port: 83}, check("_service_maintenance:w4", "critical", "w4")),
		node(&api.AgentService{ID: "w5", Service: "Web_Shop", Port: 84, Address: "web.example.com"}),
		node(&api.AgentService{ID: "w6", Service: "Web_Shop", Meta: map[string]string{"protocol": "morse"}}),
		node(&api.AgentService{ID: "t1", Service: "tagged", Port: 90, TaggedAddresses: map[string]api.ServiceAddress{"wan": {Address: "192.0.2.1", Port: 9090}}}),
		node(&api.AgentService{ID: "p1", Service: "proxy", Kind: api.ServiceKindConnectProxy, Port: 91, Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: "tagged"}}),
		node(&api.AgentService{ID: "c1", Service: "web-shop", Port: 92, Meta: map[string]string{"clash": "yes"}}),
		node(&api.AgentService{ID: "o1", Service: "___", Port: 93}),
	)
	f := follow(t, consul.Config{Address: server.Address, TaggedAddress: "wan", Namespace: "shop"})
	var view registry.View
	f.sees(t, "a view", func(v registry.View) bool { view = v; return true })

	at := registry.Locality{Region: "dc1", Zone: "z1", SubZone: "r7"}
	one := func(id, addr string, port uint16, labels map[string]string) *registry.Endpoint {
		return &registry.Endpoint{
			ID: "dc1/n1/" + id, Addr: netip.MustParseAddr(addr), Ports: []registry.EndpointPort{{Number: port}},
			Host: "n1", Locality: at, Labels: labels, Weight: 1,
		}
	}
	want := []*registry.Service{
		{
			Name: registry.Name{Namespace: "shop", Name: "tagged"}, Ports: []registry.Port{{}},
			Endpoints: []*registry.Endpoint{one("t1", "192.0.2.1", 9090, nil)},
		},
		{
			Name: registry.Name{Namespace: "shop", Name: "web-shop"}, Ports: []registry.Port{{}},
			Endpoints: []*registry.Endpoint{one("c1", "10.1.1.1", 92, map[string]string{"clash": "yes"})},
		},
	}
	addrs := cmp.Comparer(func(x, y netip.Addr) bool { return x == y })
	if diff := cmp.Diff(want, view.Services, addrs); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if err := view.Validate(); err != nil {
		t.Error(err)
	}
	wantProblems(t, view, "___", "no RFC 1123 label", "Web_Shop", "which is that of \"web-shop\"")

	// Without the one that has its name, the other spelling gets it.
	if _, err := server.Client().Catalog().Deregister(&api.CatalogDeregistration{Node: "n1", ServiceID: "c1"}, nil); err != nil {
		t.Fatal(err)
	}
	f.sees(t, "the other spelling", func(v registry.View) bool {
		view = v
		return len(v.Services) == 2 && v.Services[1].Original == "Web_Shop"
	})
	weighted := one("w2", "2001:db8::1", 81, nil)
	weighted.Weight, weighted.Health = 3, registry.Healthy
	critical, maintained := one("w3", "10.9.9.9", 82, nil), one("w4", "10.1.1.1", 83, nil)
	critical.Health, maintained.Health = registry.Unhealthy, registry.Draining
	portless := one("w6", "10.1.1.1", 0, map[string]string{"protocol": "morse"})
	portless.Ports = []registry.EndpointPort{}
	if diff := cmp.Diff(&registry.Service{
		Name: registry.Name{Namespace: "shop", Name: "web-shop"}, Original: "Web_Shop", Ports: []registry.Port{{Protocol: registry.HTTP}},
		Endpoints: []*registry.Endpoint{
			one("w1", "10.1.1.1", 80, map[string]string{"tag/primary": "true", "team": "b", "protocol": "http"}),
			weighted, critical, maintained, portless,
		},
	}, view.Services[1], addrs); diff != "" {
		t.Errorf("Web_Shop (-want +got):\n%s", diff)
	}
	wantProblems(t, view, "Web_Shop/n1/w5", `got address "web.example.com", want an IP address`, "Web_Shop/n1/w6", `got protocol "morse"`)
}

// wantProblems wants pairs of an object and a part of the reason.
func wantProblems(t *testing.T, v registry.View, pairs ...string) {
	t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		if !slices.ContainsFunc(v.Problems, func(p registry.Problem) bool {
			return p.Object == pair[0] && strings.Contains(p.Reason, pair[1])
		}) {
			t.Errorf("problems %v: want %q with %q", v.Problems, pair[0], pair[1])
		}
	}
}

func TestOnlyWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	for _, s := range []*api.AgentService{
		{ID: "a1", Service: "a", Tags: []string{"mesh"}, Meta: map[string]string{"env": "prod"}},
		{ID: "a2", Service: "a", Tags: []string{"mesh"}, Meta: map[string]string{"env": "test"}},
		{ID: "b1", Service: "b", Meta: map[string]string{"env": "prod"}},
	} {
		registerAll(t, server.Client(), &api.CatalogRegistration{Node: "n1", Address: "10.1.1.1", Service: s})
	}
	names := func(v registry.View) (names []string) {
		for _, s := range v.Services {
			for _, e := range s.Endpoints {
				names = append(names, s.Name.Name+" "+e.ID)
			}
		}
		return names
	}
	for what, test := range map[string]struct {
		cfg  consul.Config
		want []string
	}{
		"tags":          {consul.Config{Tags: []string{"mesh"}}, []string{"a dc1/n1/a1", "a dc1/n1/a2"}},
		"tags and meta": {consul.Config{Tags: []string{"mesh"}, Meta: map[string]string{"env": "prod"}}, []string{"a dc1/n1/a1"}},
		"services":      {consul.Config{Services: []string{"b", "none"}}, []string{"b dc1/n1/b1"}},
		"consul itself": {consul.Config{Services: []string{"consul"}}, []string{"consul dc1/consul-1/consul"}},
	} {
		t.Run(what, func(t *testing.T) {
			test.cfg.Address = server.Address
			f := follow(t, test.cfg)
			f.sees(t, "a view", func(v registry.View) bool {
				if diff := cmp.Diff(test.want, names(v)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				return true
			})
		})
	}
}

func TestTwoDatacenters(t *testing.T) {
	t.Parallel()
	first := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	second := testbed.StartConsul(t, testbed.ConsulOptions{Datacenter: "dc2", JoinWAN: first})[0]
	for i, server := range []*testbed.Consul{first, second} {
		registerAll(t, server.Client(), &api.CatalogRegistration{
			Node: "n1", Address: "10.1.1." + string(rune('1'+i)),
			Service: &api.AgentService{ID: "web", Service: "web", Port: 80},
		})
	}
	registerAll(t, second.Client(), &api.CatalogRegistration{Node: "n1", Address: "10.1.1.2", Service: &api.AgentService{ID: "db", Service: "db", Port: 81}})
	f := follow(t, consul.Config{Address: first.Address, Datacenters: []string{"dc1", "dc2"}})
	want := map[string]string{"web dc1/n1/web": "dc1", "web dc2/n1/web": "dc2", "db dc2/n1/db": "dc2"}
	f.sees(t, "both datacenters", func(v registry.View) bool {
		got := make(map[string]string)
		for _, s := range v.Services {
			for _, e := range s.Endpoints {
				got[s.Name.Name+" "+e.ID] = e.Locality.Region
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("got %v, want %v, from the first view on", got, want)
		}
		return true
	})
	registerAll(t, second.Client(), &api.CatalogRegistration{Node: "n2", Address: "10.1.1.3", Service: &api.AgentService{ID: "web", Service: "web", Port: 80}})
	f.sees(t, "a change in the other datacenter", hasEndpoints("web", 3))
}
