package compile_test

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/registry"
)

// No name becomes a pattern: nothing that is compiled is a regular expression or a wildcard (CVE-2026-39350).
func TestCVEClass04_NothingCompiledIsAPattern(t *testing.T) {
	s := house()
	r := compile.ForClass(nil, compile.Update(nil, s, compile.Options{}), nodeClass(t, "envoy", nil))
	checked := 0
	for typ, names := range resourceNames(s) {
		for _, n := range names {
			res := r.Get(typ, n)
			if res == nil {
				continue
			}
			m, err := res.Message()
			if err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(protojson.Format(m), `:*"`, `"`) // any port of that name
			if checked++; strings.Contains(strings.ToLower(text), "regex") || strings.Contains(text, "*") {
				t.Errorf("%s %s has a pattern:\n%s", typ, n, text)
			}
		}
	}
	if checked < 10 {
		t.Errorf("%d resources were checked", checked)
	}
}

// Names that look like another's full name, or part of it, take no host of that other, wherever they stand
// (ISTIO-SECURITY-2026-002, CVE-2026-71325).
func TestCVEClass23_NoServiceTakesAnothersHost(t *testing.T) {
	s := &registry.Snapshot{}
	for _, n := range []registry.Name{
		{Namespace: "default", Name: "default"},
		{Namespace: "default", Name: "internal"},
		{Namespace: "default", Name: "mesh"},
		{Namespace: "default", Name: "web"},
		{Namespace: "internal", Name: "mesh"},
		{Namespace: "mesh", Name: "default"},
		{Namespace: "mesh", Name: "web"},
		{Namespace: "web", Name: "default"},
		{Namespace: "web", Name: "web"},
	} {
		s.Services = append(s.Services, &registry.Service{
			Name: n, Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{endpoint("a", "10.0.0.1", registry.Healthy, "a", registry.EndpointPort{Number: 8080})},
		})
	}
	r := compile.ForClass(nil, compile.Update(nil, s, compile.Options{}), nodeClass(t, "envoy", nil))
	owners, mine := map[string]string{}, map[string]bool{}
	for _, host := range message[*routev3.RouteConfiguration](t, r.Get(compile.Route, "outbound")).VirtualHosts {
		for _, domain := range host.Domains {
			cluster := host.Routes[0].GetRoute().GetCluster()
			if other, taken := owners[domain]; taken {
				t.Errorf("%s is that of %s and of %s", domain, other, cluster)
			}
			owners[domain] = cluster
			fqdn := cluster[strings.LastIndexByte(cluster, '|')+1:]
			short := strings.Replace(fqdn, ".default.mesh.internal", ".mesh.internal", 1)
			switch strings.TrimSuffix(strings.TrimSuffix(domain, ":80"), ":*") {
			case fqdn, short:
				mine[cluster] = true
			default:
				t.Errorf("%s leads to %s", domain, cluster)
			}
		}
	}
	if len(mine) != len(s.Services) {
		t.Errorf("%d services have a host, want %d", len(mine), len(s.Services))
	}
}

// An endpoint that is about to end is told as such to every kind of client, and never as one to use while another serves
// (CVE-2025-32793).
func TestCVEClass25_DrainingEndpointsAreToldSo(t *testing.T) {
	port := registry.EndpointPort{Number: 8080}
	for _, agent := range []string{"envoy", "gRPC Go"} {
		cla := assignment(t, agent, endpoint("a", "10.0.0.1", registry.Draining, "a", port), endpoint("b", "10.0.0.2", registry.Healthy, "a", port))
		got := map[string]corev3.HealthStatus{}
		for _, group := range cla.Endpoints {
			for _, e := range group.LbEndpoints {
				got[e.HostIdentifier.(*endpointv3.LbEndpoint_Endpoint).Endpoint.GetAddress().GetSocketAddress().GetAddress()] = e.HealthStatus
			}
		}
		if len(got) != 2 || got["10.0.0.1"] != corev3.HealthStatus_DRAINING || got["10.0.0.2"] != corev3.HealthStatus_HEALTHY {
			t.Errorf("%s: %v", agent, got)
		}
	}
}

// What a client calls itself is kept and shown: it cannot be megabytes (CVE-2025-43915).
func TestCVEClass30_NodesAreShort(t *testing.T) {
	long := strings.Repeat("x", 4<<20)
	for what, n := range map[string]*corev3.Node{
		"id": {Id: long}, "cluster": {Id: "n", Cluster: long}, "region": {Id: "n", Locality: &corev3.Locality{Region: long}},
		"zone": {Id: "n", Locality: &corev3.Locality{Zone: long}}, "sub-zone": {Id: "n", Locality: &corev3.Locality{SubZone: long}},
	} {
		if _, err := compile.ParseNode(n); err == nil || len(err.Error()) > 500 {
			t.Errorf("%s: %.200v, want a short error", what, err)
		}
	}
	if _, err := compile.ParseNode(&corev3.Node{Id: long[:1024]}); err != nil {
		t.Error(err)
	}
}
