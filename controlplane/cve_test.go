package controlplane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/miekg/dns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/registry"
)

const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

type deltaStream = grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]

// subscribe opens a stream as the node of that id and subscribes all clusters.
func subscribe(t *testing.T, ctx context.Context, addr, id string) deltaStream {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	request := &discovery.DeltaDiscoveryRequest{Node: &corev3.Node{Id: id}, TypeUrl: clusterType, ResourceNamesSubscribe: []string{"*"}}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	return stream
}

func lookUp(t testing.TB, server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	r, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(new(dns.Msg).SetQuestion(name, qtype), server)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// After a start nobody is told that something does not exist before the registries have said so: there is no moment at which
// routes, or the rules to come, are missing (CVE-2023-27595, CVE-2024-42488).
func TestCVEClass09_NothingIsSaidBeforeTheRegistriesSpoke(t *testing.T) {
	names, ads := freeAddr(t), freeAddr(t)
	r := start(t, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}}, XDS: []string{ads}})
	stream := subscribe(t, t.Context(), ads, "h1")
	answered := make(chan *discovery.DeltaDiscoveryResponse, 1)
	go func() {
		if resp, err := stream.Recv(); err == nil {
			answered <- resp
		}
	}()
	for _, name := range []string{"web.mesh.internal.", "nobody.mesh.internal."} {
		if got := lookUp(t, names, name, dns.TypeA); got.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s before the first view: %s, want SERVFAIL", name, dns.RcodeToString[got.Rcode])
		}
	}
	select {
	case resp := <-answered:
		t.Errorf("xDS answered before the first view: %v", resp)
	case <-time.After(200 * time.Millisecond):
	}
	r.registry.views <- web(registry.Healthy)
	select {
	case resp := <-answered:
		if len(resp.Resources) != 1 {
			t.Errorf("%d clusters, want web's", len(resp.Resources))
		}
	case <-time.After(20 * time.Second):
		t.Fatal("xDS did not answer after the first view")
	}
	if got := lookUp(t, names, "nobody.mesh.internal.", dns.TypeA); got.Rcode != dns.RcodeNameError {
		t.Errorf("after it: %s, want NXDOMAIN", dns.RcodeToString[got.Rcode])
	}
}

// What a registry may say, however odd, comes out at every side, and nothing ends (ISTIO-SECURITY-2026-006, CVE-2023-0845).
func TestCVEClass24_OddEntriesEndNothing(t *testing.T) {
	names, ads := freeAddr(t), freeAddr(t)
	r := start(t, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}}, XDS: []string{ads}})
	const odd = "\xff\xfe\x00\n\"\\\u202e<script>\x1b[2J"
	endpoint := func(id, addr string, health registry.Health, ports ...registry.EndpointPort) *registry.Endpoint {
		return &registry.Endpoint{
			ID: id, Addr: netip.MustParseAddr(addr), Ports: ports, Host: odd, Locality: registry.Locality{Region: odd, Zone: odd, SubZone: odd},
			Labels: map[string]string{odd: odd, "": ""}, Weight: math.MaxUint32, Health: health,
		}
	}
	services := []*registry.Service{
		{Name: registry.Name{Namespace: "default", Name: "bare"}},
		{
			Name: registry.Name{Namespace: "default", Name: "odd"}, Original: odd, Labels: map[string]string{odd: odd}, Conflicts: []registry.Conflict{{What: odd, Object: odd, Text: odd}},
			Ports: []registry.Port{{Name: odd, Number: 80, Protocol: registry.HTTP}, {Name: strings.Repeat("\u00ff", 300), Number: 81, Protocol: registry.GRPC}, {Name: "\xff.b*", Number: 0}},
			Endpoints: []*registry.Endpoint{
				endpoint(odd, "192.0.2.1", registry.Draining, registry.EndpointPort{Name: odd, Number: 1}),
				endpoint("\xff"+strings.Repeat("x", 1<<16), "2001:db8::1", registry.Unhealthy),
				endpoint("\xff\xff", "192.0.2.1", registry.Unhealthy, registry.EndpointPort{Name: odd, Number: 1}),
			},
		},
		{Name: registry.Name{Namespace: "ns", Name: "ns"}, Ports: []registry.Port{{Protocol: registry.UDP}}},
		{Name: registry.Name{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("s", 63)}, Ports: []registry.Port{{Number: 65535, Protocol: registry.TLS}}},
	}
	for _, s := range services {
		slices.SortFunc(s.Ports, func(a, b registry.Port) int { return strings.Compare(a.Name, b.Name) })
		slices.SortFunc(s.Endpoints, func(a, b *registry.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	}
	slices.SortFunc(services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	view := registry.View{Services: services, Problems: []registry.Problem{{Object: odd, Reason: odd}}}
	if err := view.Validate(); err != nil {
		t.Fatalf("the view would not even come in: %v", err)
	}
	stream := subscribe(t, t.Context(), ads, odd[3:])
	r.registry.views <- view
	if resp, err := stream.Recv(); err != nil || len(resp.Resources) == 0 {
		t.Errorf("xDS: %v, %v", resp, err)
	}
	const assignments, odds = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "outbound|80||odd.default.mesh.internal"
	if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: assignments, ResourceNamesSubscribe: []string{odds}}); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || len(resp.Resources) != 1 || resp.TypeUrl != assignments {
		t.Errorf("xDS: %v, %v, want the endpoints", resp, err)
	} else if err := resp.Resources[0].Resource.UnmarshalTo(new(endpointv3.ClusterLoadAssignment)); err != nil {
		t.Errorf("xDS: %v", err)
	}
	for _, path := range []string{"/api/v1/services", "/api/v1/endpoints", "/api/v1/proxies", "/api/v1/registries", "/api/v1/endpoints?service=odd", "/metrics", "/readyz"} {
		status, body := get(t, r.api, path, nil)
		if status != http.StatusOK || strings.ContainsAny(body, "\x00\x1b") || strings.HasPrefix(path, "/api") && !json.Valid([]byte(body)) {
			t.Errorf("%s: %d %.300q", path, status, body)
		}
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeANY} {
		for _, name := range []string{"odd.mesh.internal.", "bare.mesh.internal.", "ns.ns.mesh.internal."} {
			if got := lookUp(t, names, name, qtype); got.Rcode != dns.RcodeSuccess {
				t.Errorf("%s %s: %s", name, dns.TypeToString[qtype], dns.RcodeToString[got.Rcode])
			}
		}
	}
}

// A path that is configured for the socket and holds something else is left alone.
func TestCVEClass20_OnlySocketsAreReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	catalog, err := registry.NewCatalog(nil, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = controlplane.New(controlplane.Options{Domain: "mesh.internal", Catalog: catalog, Log: slog.New(slog.DiscardHandler), XDS: []string{"unix:" + path}})
	if data, readErr := os.ReadFile(path); err == nil || readErr != nil || string(data) != "data" {
		t.Errorf("New: %v; the file holds %q, %v", err, data, readErr)
	}
}

// Clients, and what they ask for, make no new metric (CVE-2025-43915).
func TestCVEClass30_ClientsMakeNoMetrics(t *testing.T) {
	ads := freeAddr(t)
	r := start(t, controlplane.Options{XDS: []string{ads}})
	r.registry.views <- web(registry.Healthy)
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			ctx, cancel := context.WithCancel(t.Context())
			if _, err := subscribe(t, ctx, ads, fmt.Sprintf("node-%d", i)).Recv(); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				cancel() // some stay
			}
			defer cancel()
			get(t, r.api, fmt.Sprintf("/path-%d", i), nil)
		}
	}
	series := func() (n int) {
		_, body := get(t, r.api, "/metrics", nil)
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "hostmesh_") {
				n++
			}
		}
		return n
	}
	flood(0, 4)
	before := series()
	flood(4, 24)
	if after := series(); after != before || before == 0 {
		t.Errorf("%d series, %d before 20 more clients", after, before)
	}
}

// No web page, rebound name or link makes the operator's decision: what accepts a registry's word is a POST, from our own
// origin or none (CVE-2026-45021).
func TestCVEClass20_NobodyElseAccepts(t *testing.T) {
	r := start(t, controlplane.Options{})
	r.registry.views <- web(registry.Healthy)
	_, port, _ := net.SplitHostPort(r.api)
	ask := func(method, name string, header map[string]string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.api+"/api/v1/registries/"+name+"/accept", nil)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range header {
			request.Header.Set(key, value)
		}
		if host := header["Host"]; host != "" {
			request.Host = host
		}
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Error("the answer lets other origins in")
		}
		return resp.StatusCode
	}
	own := ""
	{
		_, body := get(t, r.api, "/api/v1/registries", nil)
		var all controlplane.Registries
		if err := json.Unmarshal([]byte(body), &all); err != nil {
			t.Fatal(err)
		}
		own = all.Registries[0].Name
	}
	for name, c := range map[string]struct {
		method string
		header map[string]string
		want   int
	}{
		"the command line":       {http.MethodPost, nil, http.StatusOK},
		"a foreign origin":       {http.MethodPost, map[string]string{"Origin": "http://evil.example"}, http.StatusForbidden},
		"a sandboxed page":       {http.MethodPost, map[string]string{"Origin": "null"}, http.StatusForbidden},
		"a rebound name":         {http.MethodPost, map[string]string{"Host": "evil.example:" + port}, http.StatusForbidden},
		"a rebound name, itself": {http.MethodPost, map[string]string{"Host": "evil.example:" + port, "Origin": "http://evil.example:" + port}, http.StatusForbidden},
		"a link":                 {http.MethodGet, nil, http.StatusNotFound},
		"a preflight":            {http.MethodOptions, map[string]string{"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}, http.StatusForbidden},
	} {
		if got := ask(c.method, own, c.header); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	if got := ask(http.MethodPost, "nobody", nil); got != http.StatusNotFound {
		t.Errorf("an unknown registry: %d", got)
	}
}
