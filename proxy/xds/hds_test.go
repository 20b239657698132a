package xds

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// hdsServer is the server's end of the Health Discovery Service, driven by a test message by message.
type hdsServer struct {
	healthv3.UnimplementedHealthDiscoveryServiceServer
	streams chan healthv3.HealthDiscoveryService_StreamHealthCheckServer
}

func (s *hdsServer) StreamHealthCheck(stream healthv3.HealthDiscoveryService_StreamHealthCheckServer) error {
	s.streams <- stream
	<-stream.Context().Done()
	return nil
}

func serveHDS(t *testing.T) (socket string, s *hdsServer) {
	t.Helper()
	socket = socketPath(t)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s = &hdsServer{streams: make(chan healthv3.HealthDiscoveryService_StreamHealthCheckServer, 10)}
	g := grpc.NewServer()
	healthv3.RegisterHealthDiscoveryServiceServer(g, s)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, &adsServer{streams: make(chan *adsStream, 10)})
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return socket, s
}

func (s *hdsServer) accept(t *testing.T) healthv3.HealthDiscoveryService_StreamHealthCheckServer {
	t.Helper()
	select {
	case stream := <-s.streams:
		return stream
	case <-time.After(patience):
		t.Fatal("the client opened no stream")
		return nil
	}
}

// listening counts the connections that are made to it.
func listening(t *testing.T) (addr string, connects chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connects = make(chan struct{}, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connects <- struct{}{}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), connects
}

// refusing is an address where nothing listens.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func specifierOf(t testing.TB, check string, addrs ...string) *healthv3.HealthCheckSpecifier {
	t.Helper()
	text := "interval: 1s\ncluster_health_checks:\n- cluster_name: doubted\n  health_checks: [" + check + "]\n  locality_endpoints:\n  - locality: {region: r1}\n    endpoints:\n"
	for _, addr := range addrs {
		host, port, _ := net.SplitHostPort(addr)
		text += fmt.Sprintf("    - address: {socket_address: {address: %q, port_value: %s}}\n", host, port)
	}
	return fromYAML(t, new(healthv3.HealthCheckSpecifier), text)
}

const connectOnly = "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}"

// results are the health of what is in a report, by address.
func results(m *healthv3.EndpointHealthResponse) map[string]corev3.HealthStatus {
	all := make(map[string]corev3.HealthStatus)
	for _, cluster := range m.GetClusterEndpointsHealth() {
		for _, locality := range cluster.GetLocalityEndpointsHealth() {
			for _, e := range locality.GetEndpointsHealth() {
				socket := e.GetEndpoint().GetAddress().GetSocketAddress()
				addr := net.JoinHostPort(socket.GetAddress(), fmt.Sprint(socket.GetPortValue()))
				all[cluster.GetClusterName()+" "+locality.GetLocality().GetRegion()+" "+addr] = e.GetHealthStatus()
			}
		}
	}
	return all
}

func TestClientConnectsWhereItIsAsked(t *testing.T) {
	up, connects := listening(t)
	down := refusing(t)
	socket, server := serveHDS(t)
	newClient(t, socket, "")
	stream := server.accept(t)
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if r := first.GetHealthCheckRequest(); r.GetNode().GetId() == "" || !slices.Equal(r.GetCapability().GetHealthCheckProtocols(), []healthv3.Capability_Protocol{healthv3.Capability_TCP}) {
		t.Fatalf("got %v, want a request with the node, capable of TCP", first)
	}
	for _, step := range []struct {
		name  string
		asked *healthv3.HealthCheckSpecifier
		want  map[string]corev3.HealthStatus
	}{
		{"two", specifierOf(t, connectOnly, up, down), map[string]corev3.HealthStatus{
			"doubted r1 " + up: corev3.HealthStatus_HEALTHY, "doubted r1 " + down: corev3.HealthStatus_UNHEALTHY,
		}},
		{"other checks than TCP are left out", specifierOf(t, "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /}}", up), nil},
		{"TCP with a payload, too", specifierOf(t, "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {send: {text: '00'}}}", up), nil},
		{"one", specifierOf(t, connectOnly, down), map[string]corev3.HealthStatus{"doubted r1 " + down: corev3.HealthStatus_UNHEALTHY}},
	} {
		if err := stream.Send(step.asked); err != nil {
			t.Fatal(err)
		}
		for range 3 { // a report of the step before may be on its way
			if step.want == nil {
				break
			}
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got := results(m.GetEndpointHealthResponse()); maps.Equal(got, step.want) {
				step.want = nil
			} else {
				t.Logf("%s: got %v, want %v", step.name, got, step.want)
			}
		}
		if step.want != nil {
			t.Errorf("%s: the report did not come", step.name)
		}
	}
	if n := len(connects); n == 0 {
		t.Error("nobody connected")
	}
	// Nothing asked, nothing done.
	if err := stream.Send(&healthv3.HealthCheckSpecifier{}); err != nil {
		t.Fatal(err)
	}
}

func TestHealthChecksAreBounded(t *testing.T) {
	var addrs []string
	for i := range mostHealthChecks + 7 {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", i+1))
	}
	m := specifierOf(t, "{timeout: 3600s, interval: 0.001s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}", append(addrs, "example.org:80", "10.0.0.1:70000", "10.0.0.1:0")...)
	m.Interval = nil
	h, left := newHealthChecks(m)
	if n := len(h.clusters[0].endpoints); n != mostHealthChecks || h.every != time.Second || h.clusters[0].every != time.Second || h.clusters[0].check.Timeout != mostCheckTimeout {
		t.Errorf("%d endpoints, every %v, reported every %v, within %v", n, h.clusters[0].every, h.every, h.clusters[0].check.Timeout)
	}
	if text := strings.Join(left, "; "); text != "7 endpoints more than 1000; 3 endpoints without an IP address and a port" {
		t.Errorf("left out: %s", text)
	}
	if h, left := newHealthChecks(nil); len(h.clusters)+len(left) != 0 {
		t.Errorf("nil asks for %v, %v", h.clusters, left)
	}
}

// What the network of this host prevents says nothing of the endpoint.
func TestConnectTellsItsOwnFaults(t *testing.T) {
	up, _ := listening(t)
	for addr, want := range map[string]corev3.HealthStatus{
		up: corev3.HealthStatus_HEALTHY, refusing(t): corev3.HealthStatus_UNHEALTHY, "255.255.255.255:80": corev3.HealthStatus_UNKNOWN,
	} {
		if got := found(t, connectOnly, addr); got != want {
			t.Errorf("connect %s: %v, want %v", addr, got, want)
		}
	}
}

// found is the health of an endpoint after one round of a check.
func found(t *testing.T, check, addr string) corev3.HealthStatus {
	t.Helper()
	h, left := newHealthChecks(specifierOf(t, check, addr))
	if len(left) > 0 {
		t.Fatalf("left out: %v", left)
	}
	h.round(t.Context(), 0, make(chan struct{}, 1))
	return h.results[checked{0, 0}]
}

// TestHealthDiscoveryAsksOverEveryProtocol: what a server asks for is asked of the endpoint as a cluster's own checks would.
func TestHealthDiscoveryAsksOverEveryProtocol(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/degraded":
			w.Header().Set("x-envoy-degraded", "true")
		case r.URL.Path != "/ready" || r.Host != "doubted":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(web.Close)
	service := grpchealth.NewServer()
	service.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, service)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	const head = "{timeout: 5s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, "
	for _, c := range []struct {
		check, addr string
		want        corev3.HealthStatus
	}{
		{"http_health_check: {path: /ready}}", web.Listener.Addr().String(), corev3.HealthStatus_HEALTHY},
		{"http_health_check: {path: /degraded}}", web.Listener.Addr().String(), corev3.HealthStatus_DEGRADED},
		{"http_health_check: {path: /other}}", web.Listener.Addr().String(), corev3.HealthStatus_UNHEALTHY},
		{"grpc_health_check: {}}", l.Addr().String(), corev3.HealthStatus_HEALTHY},
		{"grpc_health_check: {service_name: down}}", l.Addr().String(), corev3.HealthStatus_UNHEALTHY},
		{"tcp_health_check: {send: {text: 780d0a0d0a}, receive: [{text: '01'}]}}", web.Listener.Addr().String(), corev3.HealthStatus_UNHEALTHY},
	} {
		if got := found(t, head+c.check, c.addr); got != c.want {
			t.Errorf("%s: %v, want %v", c.check, got, c.want)
		}
	}
	_, left := newHealthChecks(specifierOf(t, head+"http_health_check: {path: /, service_name_matcher: {exact: a}}}", "127.0.0.1:80"))
	if len(left) != 1 || !strings.Contains(left[0], "health_checks[0].http_health_check.service_name_matcher: got a value") {
		t.Errorf("left out: %q", left)
	}
}

// A stock server without the service is left alone; what it is there for goes on.
func TestServerWithoutHealthDiscovery(t *testing.T) {
	socket := socketPath(t)
	server, stop := serve(t, socket)
	c := newClient(t, socket, "")
	server.accept(t).first(t)
	waitFor(t, c.Config(), "everything", served)
	stop()
	server, _ = serve(t, socket)
	server.accept(t)
}

func FuzzHealthCheckSpecifier(f *testing.F) {
	whole, err := proto.Marshal(specifierOf(f, connectOnly, "127.0.0.1:80", "[::1]:81"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		m := new(healthv3.HealthCheckSpecifier)
		if proto.Unmarshal(data, m) != nil {
			return
		}
		h, left := newHealthChecks(m)
		n := 0
		for i, cluster := range h.clusters {
			n += len(cluster.endpoints)
			for j, e := range cluster.endpoints {
				h.results[checked{i, j}] = corev3.HealthStatus_HEALTHY
				if !e.at.IP.Addr().IsValid() || e.at.IP.Port() == 0 {
					t.Errorf("%v is checked", e.at)
				}
			}
			if cluster.every < leastCheckInterval || cluster.check.Timeout > mostCheckTimeout {
				t.Errorf("every %v, within %v", cluster.every, cluster.check.Timeout)
			}
		}
		if n > mostHealthChecks || len(left) > 11 || h.every < leastCheckInterval {
			t.Errorf("%d endpoints, %d left out, every %v", n, len(left), h.every)
		}
		reported := 0
		for _, cluster := range h.response().GetClusterEndpointsHealth() {
			for _, locality := range cluster.GetLocalityEndpointsHealth() {
				reported += len(locality.GetEndpointsHealth())
			}
		}
		if reported != n || h.response() != nil {
			t.Errorf("%d of %d are reported, want each once", reported, n)
		}
	})
}
