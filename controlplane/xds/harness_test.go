package xds_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/registry"
)

const patience = 10 * time.Second

// mesh is a control plane that serves what a test says.
type mesh struct {
	t        *testing.T
	server   *xds.Server
	source   *watch.Value[*compile.Common]
	services map[string]*registry.Service
	number   uint64
	target   string
}

// newMesh serves on a unix socket until the test ends, and fails it when a goroutine of the server is left then.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{t: t, source: new(watch.Value[*compile.Common]), services: map[string]*registry.Service{}, number: 1000}
	m.server = xds.New(xds.Options{Source: m.source, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	socket := filepath.Join(t.TempDir(), "xds.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	m.target = "unix:" + socket
	g := grpc.NewServer(xds.GRPCOptions()...)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, m.server)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- m.server.Run(ctx) }()
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		noGoroutine(t, "controlplane/xds.(*")
	})
	return m
}

// noGoroutine fails the test when a goroutine with that word in its stack stays.
func noGoroutine(t *testing.T, word string) {
	t.Helper()
	var stacks string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 4<<20)
		stacks = string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, word) {
			return
		}
	}
	t.Errorf("goroutines left:\n%s", stacks)
}

// set makes the endpoints of a service; publish makes it known.
func (m *mesh) set(name string, endpoints ...string) {
	svc := &registry.Service{
		Name:  registry.Name{Namespace: registry.DefaultNamespace, Name: name},
		Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
	}
	for _, e := range endpoints {
		at := netip.MustParseAddrPort(e)
		svc.Endpoints = append(svc.Endpoints, &registry.Endpoint{
			ID: e, Addr: at.Addr(), Ports: []registry.EndpointPort{{Number: at.Port()}}, Weight: 1, Health: registry.Healthy,
		})
	}
	m.services[name] = svc
}

func (m *mesh) drop(name string) { delete(m.services, name) }

// publish serves what was set and returns its number as xDS tells it.
func (m *mesh) publish() string {
	m.number++
	s := &registry.Snapshot{Number: m.number}
	for _, svc := range m.services {
		s.Services = append(s.Services, svc)
	}
	slices.SortFunc(s.Services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	m.source.Set(compile.Update(m.source.Load(), s, compile.Options{}))
	return fmt.Sprint(m.number)
}

func cluster(name string) string { return "outbound|80||" + name + ".default.mesh.internal" }
func routes(name string) string  { return name + ".default.mesh.internal:80" }
func listener(n string) string   { return n + ".default.mesh.internal" }

func proxy(upstreams ...any) *corev3.Node {
	metadata, err := structpb.NewStruct(map[string]any{"upstreams": upstreams})
	if err != nil {
		panic(err)
	}
	return &corev3.Node{Id: "host-1", UserAgentName: "mesh-proxy", Metadata: metadata}
}

var ( // short names for what tests write often
	cds = compile.Cluster.URL()
	eds = compile.Endpoint.URL()
	lds = compile.Listener.URL()
	rds = compile.Route.URL()
)

func (m *mesh) dial() discovery.AggregatedDiscoveryServiceClient {
	m.t.Helper()
	conn, err := grpc.NewClient(m.target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	return discovery.NewAggregatedDiscoveryServiceClient(conn)
}

// deltaClient is a client of the incremental variant. It acknowledges when told to.
type deltaClient struct {
	t       *testing.T
	stream  grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]
	cancel  context.CancelFunc
	node    *corev3.Node
	barrier int
}

func (m *mesh) delta(node *corev3.Node) *deltaClient {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := m.dial().DeltaAggregatedResources(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(cancel)
	return &deltaClient{t: m.t, stream: stream, cancel: cancel, node: node}
}

func (c *deltaClient) send(req *discovery.DeltaDiscoveryRequest) {
	c.t.Helper()
	req.Node, c.node = c.node, nil
	if err := c.stream.Send(req); err != nil {
		c.t.Fatal(err)
	}
}

func (c *deltaClient) subscribe(url string, names ...string) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names})
}

func (c *deltaClient) unsubscribe(url string, names ...string) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesUnsubscribe: names})
}

func (c *deltaClient) ack(r *discovery.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
}

// receive returns the next response.
func (c *deltaClient) receive() *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	return within(c.t, c.stream.Recv)
}

func within[R any](t *testing.T, receive func() (R, error)) R {
	t.Helper()
	type result struct {
		r   R
		err error
	}
	got := make(chan result, 1)
	go func() {
		r, err := receive()
		got <- result{r, err}
	}()
	select {
	case g := <-got:
		if g.err != nil {
			t.Fatal(g.err)
		}
		return g.r
	case <-time.After(patience):
		t.Fatal("no response")
	}
	panic("unreachable")
}

// want receives one response and compares: the type, names that have a resource, names that are removed (with "-").
func (c *deltaClient) want(url string, names ...string) *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	r := c.receive()
	var got []string
	for _, res := range r.Resources {
		if res.Resource.TypeUrl != r.TypeUrl || res.Version == "" {
			c.t.Errorf("resource %s has type %q and version %q in a response of type %s", res.Name, res.Resource.TypeUrl, res.Version, r.TypeUrl)
		}
		got = append(got, res.Name)
	}
	for _, name := range r.RemovedResources {
		got = append(got, "-"+name)
	}
	slices.Sort(got)
	slices.Sort(names)
	if r.TypeUrl != url || !slices.Equal(got, names) {
		c.t.Fatalf("response %s %q, want %s %q", r.TypeUrl, got, url, names)
	}
	return r
}

// quiet fails the test if anything but the answer to a question that is asked now comes: the removal of an endpoint
// assignment is the last thing that a server says.
func (c *deltaClient) quiet() {
	c.t.Helper()
	c.barrier++
	name := fmt.Sprintf("barrier-%d", c.barrier)
	c.subscribe(eds, name)
	c.want(eds, "-"+name)
	c.unsubscribe(eds, name)
}
