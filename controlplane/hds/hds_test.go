package hds_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	health "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/hostmesh/hostmesh/controlplane/hds"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/registry"
)

const patience = 20 * time.Second

// ledger is what a test doubts, and what is proved.
type ledger struct {
	watch.Value[[]registry.Doubted]
	proofs chan proof
}

type proof struct {
	proxy     string
	at        string
	connected bool
}

func (l *ledger) Doubts() ([]registry.Doubted, <-chan struct{}) { return l.Get() }

func (l *ledger) Prove(proxy string, at netip.AddrPort, connected bool) {
	l.proofs <- proof{proxy, at.String(), connected}
}

func doubt(proofs int, addrs ...string) (all []registry.Doubted) {
	for _, addr := range addrs {
		all = append(all, registry.Doubted{Source: "dc1", Connect: []netip.AddrPort{netip.MustParseAddrPort(addr)}, Proofs: proofs})
	}
	return all
}

// start serves a ledger as mesh control does.
func start(t *testing.T) (*ledger, health.HealthDiscoveryServiceClient) {
	t.Helper()
	l := &ledger{proofs: make(chan proof, 100)}
	server := hds.New(l, slog.New(slog.DiscardHandler))
	g := grpc.NewServer(xds.GRPCOptions()...)
	server.Register(g)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	running.Go(func() { _ = g.Serve(listener) })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		g.Stop()
		running.Wait()
	})
	return l, health.NewHealthDiscoveryServiceClient(conn)
}

// proxy is a client that says what a test wants.
type proxy struct {
	health.HealthDiscoveryService_StreamHealthCheckClient
	told chan []string // addresses
}

type message = health.HealthCheckRequestOrEndpointHealthResponse

func request(node string, capable ...health.Capability_Protocol) *message {
	return &message{RequestType: &health.HealthCheckRequestOrEndpointHealthResponse_HealthCheckRequest{
		HealthCheckRequest: &health.HealthCheckRequest{Node: &core.Node{Id: node}, Capability: &health.Capability{HealthCheckProtocols: capable}},
	}}
}

func open(t *testing.T, client health.HealthDiscoveryServiceClient, first *message) health.HealthDiscoveryService_StreamHealthCheckClient {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := client.StreamHealthCheck(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(first); err != nil {
		t.Fatal(err)
	}
	return stream
}

func join(t *testing.T, client health.HealthDiscoveryServiceClient, node string) *proxy {
	t.Helper()
	p := &proxy{open(t, client, request(node, health.Capability_HTTP, health.Capability_TCP)), make(chan []string, 100)}
	go func() {
		defer close(p.told)
		for {
			m, err := p.Recv()
			if err != nil {
				return
			}
			addrs := []string{}
			for _, cluster := range m.GetClusterHealthChecks() {
				for _, locality := range cluster.GetLocalityEndpoints() {
					for _, e := range locality.GetEndpoints() {
						socket := e.GetAddress().GetSocketAddress()
						addrs = append(addrs, net.JoinHostPort(socket.GetAddress(), fmt.Sprint(socket.GetPortValue())))
					}
				}
			}
			if err := m.ValidateAll(); err != nil {
				addrs = append(addrs, err.Error())
			}
			p.told <- addrs
		}
	}()
	p.want(t)
	return p
}

// want takes what the proxy is told until it is that.
func (p *proxy) want(t *testing.T, addrs ...string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case told := <-p.told:
			if fmt.Sprint(told) == fmt.Sprint(addrs) {
				return
			}
		case <-deadline:
			t.Fatalf("the proxy was not told %v", addrs)
		}
	}
}

func (p *proxy) report(t *testing.T, result core.HealthStatus, addrs ...string) {
	t.Helper()
	var found []*health.EndpointHealth
	for _, addr := range addrs {
		at := netip.MustParseAddrPort(addr)
		found = append(found, &health.EndpointHealth{HealthStatus: result, Endpoint: &endpoint.Endpoint{Address: &core.Address{
			Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
				Address: at.Addr().String(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(at.Port())},
			}},
		}}})
	}
	p.send(t, &health.EndpointHealthResponse{ClusterEndpointsHealth: []*health.ClusterEndpointsHealth{{
		ClusterName: "doubted", LocalityEndpointsHealth: []*health.LocalityEndpointsHealth{{EndpointsHealth: found}},
	}}})
}

func (p *proxy) send(t *testing.T, m *health.EndpointHealthResponse) {
	t.Helper()
	if err := p.Send(&message{RequestType: &health.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{EndpointHealthResponse: m}}); err != nil {
		t.Fatal(err)
	}
}

func (l *ledger) want(t *testing.T, wants ...proof) {
	t.Helper()
	for _, want := range wants {
		select {
		case got := <-l.proofs:
			if got != want {
				t.Fatalf("got proof %+v, want %+v", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("the proof %+v did not come", want)
		}
	}
}

func TestProxiesAreAskedAboutWhatIsDoubted(t *testing.T) {
	t.Parallel()
	l, client := start(t)
	a := join(t, client, "a")
	l.Set(doubt(2, "10.0.0.2:80", "10.0.0.1:80", "[2001:db8::1]:80"))
	a.want(t, "10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80")

	a.report(t, core.HealthStatus_UNHEALTHY, "10.0.0.1:80", "10.9.9.9:80", "[2001:db8::1]:80")
	a.report(t, core.HealthStatus_DRAINING, "10.0.0.1:80")
	a.send(t, nil)
	a.send(t, &health.EndpointHealthResponse{ClusterEndpointsHealth: []*health.ClusterEndpointsHealth{nil, {
		LocalityEndpointsHealth: []*health.LocalityEndpointsHealth{nil, {EndpointsHealth: []*health.EndpointHealth{nil, {}}}},
	}}})
	a.report(t, core.HealthStatus_TIMEOUT, "10.0.0.2:80")
	a.report(t, core.HealthStatus_HEALTHY, "10.0.0.2:80")
	l.want(t, proof{"a", "10.0.0.1:80", false}, proof{"a", "[2001:db8::1]:80", false}, proof{"a", "10.0.0.2:80", false}, proof{"a", "10.0.0.2:80", true})

	l.Set(doubt(2, "10.0.0.2:80"))
	a.want(t, "10.0.0.2:80")
	l.Set(nil)
	a.want(t)
	l.Set(doubt(-1))
	if len(l.proofs) > 0 {
		t.Errorf("got proof %+v, want that nobody is asked", <-l.proofs)
	}
}

// One more than needed is asked, each by one stream, and another when one of them leaves.
func TestAsManyProxiesAreAskedAsNeeded(t *testing.T) {
	t.Parallel()
	l, client := start(t)
	proxies := make(map[*proxy]bool) // asked
	for i := range 6 {
		proxies[join(t, client, fmt.Sprintf("proxy-%d", i/2))] = false // two streams each
	}
	l.Set(doubt(1, "10.0.0.1:80"))
	count := func() (n int) {
		for p := range proxies {
			for len(p.told) > 0 {
				proxies[p] = len(<-p.told) > 0
			}
			if proxies[p] {
				n++
			}
		}
		return n
	}
	await := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(patience); count() != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d streams are asked, want %d", count(), want)
			}
		}
	}
	await(2)
	for p, asked := range proxies { // who is not asked is not heard
		if !asked {
			p.report(t, core.HealthStatus_UNHEALTHY, "10.0.0.1:80")
		}
	}
	for p, asked := range proxies {
		if asked {
			delete(proxies, p)
			if err := p.CloseSend(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	await(2)
	if len(l.proofs) > 0 {
		t.Errorf("got proof %+v of a proxy that is not asked", <-l.proofs)
	}
}

func TestNotMoreThan500AreAskedAtATime(t *testing.T) {
	t.Parallel()
	l, client := start(t)
	a, b := join(t, client, "a"), join(t, client, "b")
	var addrs []string
	for i := range 5000 {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80).String())
	}
	l.Set(doubt(1, addrs...))
	next := func(p *proxy) []string {
		for {
			select {
			case told := <-p.told:
				if len(told) > 0 {
					return told
				}
			case <-time.After(patience):
				t.Fatal("the proxy was asked nothing")
			}
		}
	}
	first := next(a)
	if len(first) != 500 || fmt.Sprint(first) != fmt.Sprint(next(b)) {
		t.Errorf("%d are asked for, want the same 500 of both", len(first))
	}
	if second := next(a); fmt.Sprint(first) == fmt.Sprint(second) { // others have their turn
		t.Error("the same are asked for again")
	}
}

func TestStreamsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	_, client := start(t)
	for name, c := range map[string]struct {
		first *message
		want  codes.Code
	}{
		"nothing":      {&message{}, codes.InvalidArgument},
		"no node":      {request("", health.Capability_TCP), codes.InvalidArgument},
		"a long node":  {request(string(make([]byte, 257)), health.Capability_TCP), codes.InvalidArgument},
		"not capable":  {request("a", health.Capability_HTTP), codes.FailedPrecondition},
		"a report":     {&message{RequestType: &health.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{}}, codes.InvalidArgument},
		"4 MiB and up": {request(string(make([]byte, 5<<20)), health.Capability_TCP), codes.ResourceExhausted},
	} {
		stream := open(t, client, c.first)
		if _, err := stream.Recv(); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := client.FetchHealthCheck(context.Background(), request("a", health.Capability_TCP)); status.Code(err) != codes.Unimplemented {
		t.Errorf("FetchHealthCheck: %v, want that it is not there", err)
	}
}
