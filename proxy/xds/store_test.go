package xds

import (
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// told is a store that has a stream and is told things in order.
type told struct {
	*store
	t   *testing.T
	now time.Time
}

func newTold(t *testing.T) *told {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := newStore(rules{schema: newSchema()}, &Bootstrap{Control: "unix:/x", Node: Node{ID: "n"}}, now)
	s.opened = now
	return &told{s, t, now}
}

func (s *told) tell(k kind, resources []*discoveryv3.Resource, removed ...string) *config.Config {
	s.t.Helper()
	err := s.apply(k, &discoveryv3.DeltaDiscoveryResponse{TypeUrl: k.typeURL(), SystemVersionInfo: "1", Resources: resources, RemovedResources: removed}, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.after(0)
}

func (s *told) after(d time.Duration) *config.Config {
	s.now = s.now.Add(d)
	c, _ := s.build(s.now)
	return c
}

func names(c *config.Config) (out []string) {
	for _, l := range c.Listeners {
		out = append(out, l.Name)
	}
	return out
}

func leads(c *config.Config) string {
	return c.Listeners[0].HTTP.Routes.VirtualHosts[0].Routes[0].Clusters[0].Name
}

func TestListenerWarmsUntilItsRoutesAreThere(t *testing.T) {
	s := newTold(t)
	s.tell(clusters, nil)
	if c := s.tell(listeners, list(listenerNamed(t, "b", 1, "r"), listenerNamed(t, "a", 2, "r"))); len(c.Listeners) != 0 {
		t.Errorf("got listeners %q without routes", names(c))
	}
	if c := s.tell(routeTables, list(routesNamed(t, "r", "1", "x"))); !slices.Equal(names(c), []string{"a", "b"}) || c.Listeners[0].HTTP.Routes != c.Listeners[1].HTTP.Routes {
		t.Errorf("got %q, want a and b with one table", names(c))
	}
	// An update that refers to routes which are not there yet leaves the old listener in place.
	old := s.current.Listeners[0]
	changed := listenerNamed(t, "a", 3, "other")
	if c := s.tell(listeners, list(changed)); c.Listeners[0] != old {
		t.Errorf("got %+v, want the listener as it was", c.Listeners[0])
	}
	if c := s.tell(routeTables, list(routesNamed(t, "other", "1", "x"))); c.Listeners[0].Addresses[0].Port() != 3 || c.Listeners[1].Name != "b" {
		t.Errorf("got %+v, want the new listener", c.Listeners[0])
	}
}

func TestRoutesWaitForTheEndpointsOfNewClusters(t *testing.T) {
	s := newTold(t)
	s.tell(clusters, list(clusterNamed(t, "old", "1")))
	s.tell(endpoints, list(endpointsNamed(t, "old", "1", 80)))
	s.tell(listeners, list(listenerNamed(t, "l", 1, "r")))
	if c := s.tell(routeTables, list(routesNamed(t, "r", "1", "old"))); leads(c) != "old" {
		t.Fatalf("got a route to %s", leads(c))
	}
	// The switch from old to new: at no moment leads a route nowhere.
	s.tell(clusters, list(clusterNamed(t, "new", "1")), "old")
	c := s.tell(routeTables, list(routesNamed(t, "r", "2", "new")))
	if leads(c) != "old" || c.Clusters["old"] == nil || len(c.Clusters["old"].Endpoints) != 1 {
		t.Errorf("got a route to %s and clusters %v before the new endpoints are known", leads(c), c.Clusters)
	}
	c = s.tell(endpoints, list(endpointsNamed(t, "new", "1", 81)))
	if leads(c) != "new" || c.Clusters["old"] != nil || len(c.Clusters["new"].Endpoints) != 1 {
		t.Errorf("got a route to %s and clusters %v", leads(c), c.Clusters)
	}
}

func TestRemovedClusterStaysWhileARouteLeadsToIt(t *testing.T) {
	s := newTold(t)
	s.tell(clusters, list(clusterNamed(t, "a", "1")))
	s.tell(endpoints, list(endpointsNamed(t, "a", "1", 80)))
	s.tell(listeners, list(listenerNamed(t, "l", 1, "r")))
	s.tell(routeTables, list(routesNamed(t, "r", "1", "a")))
	if c := s.tell(clusters, nil, "a"); c.Clusters["a"] == nil || !s.pending() {
		t.Error("the cluster went while a route leads to it")
	}
	if c := s.after(fetchTimeout - 1); c.Clusters["a"] == nil {
		t.Error("the cluster went too early")
	}
	if c := s.after(1); c.Clusters["a"] != nil || s.pending() {
		t.Error("the cluster stays for ever")
	}
}

func TestClusterWithoutAnswerIsEmptyAfterAWhile(t *testing.T) {
	s := newTold(t)
	s.tell(listeners, list(listenerNamed(t, "l", 1, "r")))
	s.tell(clusters, list(clusterNamed(t, "silent", "1"), clusterNamed(t, "absent", "1")))
	s.tell(routeTables, list(routesNamed(t, "r", "1", "silent")))
	c := s.tell(endpoints, nil, "absent")
	if !c.Clusters["absent"].Assigned || c.Clusters["silent"].Assigned || s.whole(s.now) {
		t.Errorf("got %+v, %+v: want absent known to be empty, silent awaited", c.Clusters["absent"], c.Clusters["silent"])
	}
	if c := s.after(fetchTimeout - 1); c.Clusters["silent"].Assigned || len(c.Listeners) != 0 {
		t.Error("the wait ended early")
	}
	if c := s.after(1); !c.Clusters["silent"].Assigned || len(c.Listeners) != 1 || !s.whole(s.now) || s.pending() {
		t.Error("the wait does not end")
	}
	// Without a stream nobody can answer, so nothing is overdue.
	s.opened = time.Time{}
	s.tell(clusters, list(clusterNamed(t, "later", "1")))
	if c := s.after(time.Hour); c.Clusters["later"].Assigned {
		t.Error("a cluster was given up without a server to ask")
	}
}

func TestSharedAssignmentReachesEveryUser(t *testing.T) {
	s := newTold(t)
	a, b := clusterNamed(t, "a", "1"), clusterNamed(t, "b", "1")
	weighted := `{name: %, type: EDS, eds_cluster_config: {service_name: shared, eds_config: {ads: {}}}, common_lb_config: {locality_weighted_lb_config: {}}}`
	plain := `{name: %, type: EDS, eds_cluster_config: {service_name: shared, eds_config: {ads: {}}}}`
	a.Resource.Value = mustWire(t, clusters, replaceName(weighted, "a"))
	b.Resource.Value = mustWire(t, clusters, replaceName(plain, "b"))
	s.tell(clusters, list(a, b))
	c := s.tell(endpoints, list(endpointsNamed(t, "shared", "1", 80)))
	if len(c.Clusters["a"].Endpoints) != 1 || len(c.Clusters["b"].Endpoints) != 1 || !c.Clusters["a"].LocalityWeighted || c.Clusters["b"].LocalityWeighted {
		t.Errorf("got %d and %d endpoints, want 1 in each, and the localities' weights to count in a alone", len(c.Clusters["a"].Endpoints), len(c.Clusters["b"].Endpoints))
	}
	// A changed cluster does not lose the endpoints that are known.
	b.Resource.Value = mustWire(t, clusters, replaceName(plain[:len(plain)-1]+", connect_timeout: 9s}", "b"))
	if c := s.tell(clusters, list(b)); len(c.Clusters["b"].Endpoints) != 1 || c.Clusters["b"].ConnectTimeout != 9*time.Second {
		t.Errorf("got %+v", c.Clusters["b"])
	}
}

func replaceName(text, name string) string {
	for i := range text {
		if text[i] == '%' {
			return text[:i] + name + text[i+1:]
		}
	}
	return text
}

func TestStaticNamesAreNotOverwritten(t *testing.T) {
	b, err := parseBootstrap("b", []byte(bootstrapYAML))
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(rules{schema: newSchema()}, b, time.Now())
	before := s.current
	err = s.apply(clusters, &discoveryv3.DeltaDiscoveryResponse{Resources: list(clusterNamed(t, "back", "1")), RemovedResources: []string{"back"}}, time.Now())
	if err == nil {
		t.Error("a static cluster was overwritten")
	}
	if c, _ := s.build(time.Now()); c.Clusters["back"] != before.Clusters["back"] {
		t.Error("the static cluster changed")
	}
}

// TestChainsKeepTheirPointers: of a listener's chains only those whose routes changed are new ones, and TLS settings that are sent again
// stay the same.
func TestChainsKeepTheirPointers(t *testing.T) {
	s := newTold(t)
	s.tell(clusters, nil)
	two := func(port string) *discoveryv3.Resource {
		head, body, _ := strings.Cut(tlsListener("", "", ""), "filter_chains:\n")
		first := strings.Replace(body, "- transport_socket", "- name: a\n  filter_chain_match: {server_names: [a]}\n  transport_socket", 1)
		second := strings.Replace(strings.Replace(body, "- transport_socket", "- name: b\n  transport_socket", 1), "route_config_name: r", "route_config_name: q", 1)
		r := listenerNamed(t, "x", 1, "r")
		r.Resource.Value = mustWire(t, listeners, strings.Replace(head, "port_value: 80", "port_value: "+port, 1)+"filter_chains:\n"+first+second)
		return r
	}
	s.tell(listeners, list(two("80")))
	if c := s.tell(routeTables, list(routesNamed(t, "r", "1", "x"))); len(c.Listeners) != 0 {
		t.Fatal("a listener is there before all of its routes")
	}
	before := s.tell(routeTables, list(routesNamed(t, "q", "1", "x"))).Listeners[0]
	after := s.tell(routeTables, list(routesNamed(t, "q", "2", "y"))).Listeners[0]
	if after.Chains[0] != before.Chains[0] || after.Chains[1] == before.Chains[1] || after.Chains[1].TLS != before.Chains[1].TLS {
		t.Error("other routes of the second chain: want that alone to be new, with its TLS settings")
	}
	again := s.tell(listeners, list(two("81"))).Listeners[0]
	if again.Chains[0] != after.Chains[0] || again.Chains[1] != after.Chains[1] {
		t.Error("another port: want the chains as they were")
	}
}
