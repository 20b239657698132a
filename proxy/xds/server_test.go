package xds

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const patience = 10 * time.Second

// adsServer is the server's end of delta ADS, driven by a test message by message, right or wrong.
type adsServer struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	streams chan *adsStream
}

type adsStream struct {
	requests chan *discoveryv3.DeltaDiscoveryRequest
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	end      chan struct{}
}

func (s *adsServer) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := &adsStream{requests: make(chan *discoveryv3.DeltaDiscoveryRequest, 100), stream: stream, end: make(chan struct{})}
	s.streams <- st
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			st.requests <- m
		}
	}()
	select {
	case <-st.end:
	case <-stream.Context().Done():
	}
	return nil
}

// serve listens at a Unix socket until the returned function is called.
func serve(t *testing.T, socket string) (*adsServer, func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &adsServer{streams: make(chan *adsStream, 10)}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			g.Stop()
			if err := <-done; err != nil {
				t.Errorf("server: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func (s *adsServer) accept(t *testing.T) *adsStream {
	t.Helper()
	select {
	case st := <-s.streams:
		return st
	case <-time.After(patience):
		t.Fatal("the client opened no stream")
		return nil
	}
}

// want returns the next request, which must be of that kind.
func (s *adsStream) want(t *testing.T, k kind) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	select {
	case m := <-s.requests:
		if m.GetTypeUrl() != k.typeURL() {
			t.Fatalf("got a request %v, want one of type %s", m, k)
		}
		return m
	case <-time.After(patience):
		t.Fatalf("the client sent no request of type %s", k)
		return nil
	}
}

// wantACK takes the next request, which must accept the nonce.
func (s *adsStream) wantACK(t *testing.T, k kind, nonce string) {
	t.Helper()
	m := s.want(t, k)
	if m.GetResponseNonce() != nonce || m.GetErrorDetail() != nil {
		t.Fatalf("got %v, want an ACK of %q", m, nonce)
	}
}

func (s *adsStream) send(t *testing.T, k kind, nonce, version string, resources []*discoveryv3.Resource, removed ...string) {
	t.Helper()
	err := s.stream.Send(&discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: k.typeURL(), Nonce: nonce, SystemVersionInfo: version, Resources: resources, RemovedResources: removed,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// fromYAML makes a message as an operator would write it.
func fromYAML[M proto.Message](t testing.TB, m M, text string) M {
	t.Helper()
	if _, err := unmarshalFile("test.yaml", []byte(text), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func resourceOf(t testing.TB, name, version string, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	body, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Version: version, Resource: body}
}

func listenerNamed(t testing.TB, name string, port int, routes string) *discoveryv3.Resource {
	return resourceOf(t, name, "1", fromYAML(t, new(listenerv3.Listener), fmt.Sprintf(`
name: %s
address: {socket_address: {address: 127.0.0.1, port_value: %d}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": %s
      stat_prefix: s
      rds: {config_source: {ads: {}, resource_api_version: V3}, route_config_name: %s}
      http_filters: [{name: router, typed_config: {"@type": %s}}]
`, name, port, hcmType, routes, routerType)))
}

func routesNamed(t testing.TB, name, version, cluster string) *discoveryv3.Resource {
	return resourceOf(t, name, version, fromYAML(t, new(routev3.RouteConfiguration), fmt.Sprintf(`
name: %s
virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: %s}}]}]
`, name, cluster)))
}

func clusterNamed(t testing.TB, name, version string) *discoveryv3.Resource {
	return resourceOf(t, name, version, fromYAML(t, new(clusterv3.Cluster), fmt.Sprintf(`
name: %s
type: EDS
eds_cluster_config: {eds_config: {ads: {}}}
`, name)))
}

func endpointsNamed(t testing.TB, name, version string, ports ...int) *discoveryv3.Resource {
	text := fmt.Sprintf("cluster_name: %s\nendpoints: [{locality: {zone: a}, lb_endpoints: [", name)
	for _, port := range ports {
		text += fmt.Sprintf("{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}},", port)
	}
	return resourceOf(t, name, version, fromYAML(t, new(endpointv3.ClusterLoadAssignment), text+"]}]"))
}

func list(r ...*discoveryv3.Resource) []*discoveryv3.Resource { return r }

// client is a Client that runs until the test ends or stop is called.
type client struct {
	*Client
	stop func()
}

func newClient(t *testing.T, socket, state string) *client {
	t.Helper()
	c, err := New(Options{
		Bootstrap: &Bootstrap{Control: "unix:" + socket, Node: Node{ID: "host-1", Cluster: "c", Metadata: map[string]any{"outbound": "127.0.0.1:15001"}}},
		StateDir:  state, Version: "1.2.3", Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not return")
		}
	}
	t.Cleanup(stop)
	return &client{c, stop}
}

// socketPath returns a short path: Unix sockets take 107 bytes.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "xds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "x.sock")
}

// waitFor follows the configuration until it is as wanted.
func waitFor(t *testing.T, v *watch.Value[*config.Config], what string, ok func(*config.Config) bool) *config.Config {
	t.Helper()
	deadline := time.After(patience)
	for {
		c, changed := v.Get()
		if ok(c) {
			return c
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no configuration came with %s; the last has version %q, %d listeners, %d clusters", what, c.Version, len(c.Listeners), len(c.Clusters))
		}
	}
}

// first serves a new stream one listener, its routes and the clusters "a" and "b" of one endpoint each.
func (s *adsStream) first(t *testing.T) {
	t.Helper()
	s.want(t, clusters)
	s.want(t, listeners)
	s.send(t, clusters, "c1", "7", list(clusterNamed(t, "a", "1"), clusterNamed(t, "b", "1")))
	s.wantACK(t, clusters, "c1")
	s.want(t, endpoints)
	s.send(t, endpoints, "e1", "7", list(endpointsNamed(t, "a", "1", 1001), endpointsNamed(t, "b", "1", 1002)))
	s.wantACK(t, endpoints, "e1")
	s.send(t, listeners, "l1", "7", list(listenerNamed(t, "out", 15001, "routes")))
	s.wantACK(t, listeners, "l1")
	s.want(t, routeTables)
	s.send(t, routeTables, "r1", "7", list(routesNamed(t, "routes", "1", "a")))
	s.wantACK(t, routeTables, "r1")
}

func served(c *config.Config) bool {
	return len(c.Listeners) == 1 && len(c.Clusters) == 2 && c.Clusters["a"].Assigned && c.Clusters["b"].Assigned
}
