package consul

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// watching runs the adapter inside this package, so that a test sees its connections.
type watching struct {
	client *client
	views  chan registry.View
	ended  chan error
}

func startWatching(t *testing.T, cfg Config, prepare func(*client)) *watching {
	t.Helper()
	r, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := r.(*adapter)
	c, err := newClient(a.cfg, a.target)
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{client: c, views: make(chan registry.View, 1<<16), ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- a.watch(ctx, c, func(v registry.View) { w.views <- v })
	}()
	t.Cleanup(func() { cancel(); <-done; c.transport.close() })
	return w
}

// await returns the first view that ok accepts.
func (w *watching) await(t *testing.T, what string, ok func(registry.View) bool) registry.View {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case v := <-w.views:
			if ok(v) {
				return v
			}
		case err := <-w.ended:
			t.Fatalf("await %s: watch ended: %v", what, err)
		case <-timeout:
			t.Fatalf("await %s: not seen", what)
		}
	}
}

func (t *transport) connections() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

func serviceNamed(v registry.View, name string) *registry.Service {
	return (&registry.Snapshot{Services: v.Services}).Service(registry.Name{Namespace: registry.DefaultNamespace, Name: name})
}

func labelled(service, value string) func(registry.View) bool {
	return func(v registry.View) bool {
		s := serviceNamed(v, service)
		return s != nil && len(s.Endpoints) > 0 && s.Endpoints[0].Labels["version"] == value
	}
}

// relabel changes the meta of the first endpoint that LoadConsul registered for a service, and no check.
func relabel(t *testing.T, c *api.Client, service, endpoints int, value string) {
	t.Helper()
	ops := testbed.LoadedEndpoint(service, 0, endpoints)[:1]
	ops[0].Service.Service.Meta["version"] = value
	if ok, response, _, err := c.Txn().Txn(ops, nil); err != nil || !ok {
		t.Fatal(err, response)
	}
}

func TestThousandServicesOverHTTP2(t *testing.T) {
	const services, endpoints = 1000, 2
	server := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulTLS})[0]
	if err := testbed.LoadConsul(t.Context(), server.Client(), services, endpoints); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var protocols []string
	w := startWatching(t, Config{Address: server.Address, CAFile: server.Certs.CAFile}, func(c *client) {
		c.transport.dialer.TLSClientConfig.VerifyConnection = func(state tls.ConnectionState) error {
			mu.Lock()
			defer mu.Unlock()
			protocols = append(protocols, state.NegotiatedProtocol)
			return nil
		}
	})
	w.await(t, "all services", func(v registry.View) bool { return len(v.Services) == services })
	inFlight := func() (n int) {
		w.client.transport.mu.Lock()
		defer w.client.transport.mu.Unlock()
		for _, c := range w.client.transport.conns {
			n += c.InFlight()
		}
		return n
	}
	for deadline := time.Now().Add(20 * time.Second); inFlight() < services+1; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d queries are outstanding, want one for each service and one for the list", inFlight())
		}
	}
	for i, version := range []string{"v2", "v3", "v4"} {
		relabel(t, server.Client(), 400*i, endpoints, version)
		w.await(t, version, labelled(testbed.LoadedServiceName(400*i), version))
	}
	mu.Lock()
	defer mu.Unlock()
	for i, p := range protocols {
		if p != "h2" {
			t.Errorf("connection %d negotiated %q, want h2", i+1, p)
		}
	}
	if len(protocols) > 12 {
		t.Errorf("%d connections were opened for %d services, want at most 12", len(protocols), services)
	}
	if got := inFlight(); got > services+2 {
		t.Errorf("%d queries are outstanding for %d services", got, services)
	}
}

// TestManyServicesOverPlainHTTP follows more services than there may be connections, and sees a change of each kind.
func TestManyServicesOverPlainHTTP(t *testing.T) {
	const services, endpoints = 300, 2
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	client := server.Client()
	if err := testbed.LoadConsul(t.Context(), client, services, endpoints); err != nil {
		t.Fatal(err)
	}
	w := startWatching(t, Config{Address: server.Address}, nil)
	w.await(t, "all services", func(v registry.View) bool { return len(v.Services) == services })
	name := testbed.LoadedServiceName(7)
	health := func(want registry.Health) func(registry.View) bool {
		return func(v registry.View) bool { return serviceNamed(v, name).Endpoints[0].Health == want }
	}
	check := testbed.LoadedEndpoint(7, 0, endpoints)[1:]
	for _, step := range []struct {
		status string
		want   registry.Health
	}{{api.HealthCritical, registry.Unhealthy}, {api.HealthPassing, registry.Healthy}} {
		check[0].Check.Check.Status = step.status
		if ok, _, _, err := client.Txn().Txn(check, nil); err != nil || !ok {
			t.Fatal(err)
		}
		w.await(t, step.status, health(step.want))
	}
	relabel(t, client, 8, endpoints, "v2")
	w.await(t, "a change without a check", labelled(testbed.LoadedServiceName(8), "v2"))
	if err := testbed.LoadConsul(t.Context(), client, services+1, endpoints); err != nil {
		t.Fatal(err)
	}
	w.await(t, "a new service", func(v registry.View) bool { return len(v.Services) == services+1 })
	nodeName := "node-014" // of svc-0007's first endpoint, as LoadConsul spreads them
	nodeDown := func(status string) {
		if _, err := client.Catalog().Register(&api.CatalogRegistration{
			Node: nodeName, SkipNodeUpdate: true,
			Check: &api.AgentCheck{Node: nodeName, CheckID: "serfHealth", Name: "node", Status: status},
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	nodeDown(api.HealthCritical)
	w.await(t, "a node's failure", health(registry.Unhealthy))
	nodeDown(api.HealthPassing)
	w.await(t, "a node's recovery", health(registry.Healthy))
	if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: nodeName, ServiceID: name + "-0"}, nil); err != nil {
		t.Fatal(err)
	}
	w.await(t, "an endpoint less", func(v registry.View) bool { return len(serviceNamed(v, name).Endpoints) == endpoints-1 })
	if got := w.client.transport.connections(); got > 32 {
		t.Errorf("%d connections are open, want at most 32", got)
	}
}

// TestFewServicesOverPlainHTTP follows each by a query of its own, then changes over when there are too many.
func TestFewServicesOverPlainHTTP(t *testing.T) {
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	if err := testbed.LoadConsul(t.Context(), server.Client(), 20, 1); err != nil {
		t.Fatal(err)
	}
	w := startWatching(t, Config{Address: server.Address, MaxConnections: 32}, nil)
	w.await(t, "all services", func(v registry.View) bool { return len(v.Services) == 20 })
	relabel(t, server.Client(), 3, 1, "v2")
	before := w.await(t, "a change", labelled(testbed.LoadedServiceName(3), "v2"))
	for deadline := time.Now().Add(10 * time.Second); w.client.transport.connections() < 21; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want one for each query", w.client.transport.connections())
		}
	}
	if err := testbed.LoadConsul(t.Context(), server.Client(), 40, 1); err != nil {
		t.Fatal(err)
	}
	after := w.await(t, "the added services", func(v registry.View) bool { return len(v.Services) == 40 })
	if name := testbed.LoadedServiceName(5); serviceNamed(before, name) != serviceNamed(after, name) {
		t.Error("changing over gave a service that did not change a new pointer")
	}
	relabel(t, server.Client(), 30, 1, "v3")
	w.await(t, "a change after changing over", labelled(testbed.LoadedServiceName(30), "v3"))
	if got := w.client.transport.connections(); got > 32 {
		t.Errorf("%d connections, want at most 32", got)
	}
}

// TestTransportStaysWithinItsConnections sends more requests than there may be connections, none of which is answered
// until the test says so.
func TestTransportStaysWithinItsConnections(t *testing.T) {
	const most, requests = 8, 50
	release := make(chan struct{})
	var open, peak atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		answerJSON(w, "[]")
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			peak.Store(max(peak.Load(), open.Add(1)))
		case http.StateClosed:
			open.Add(-1)
		}
	}
	server.Start()
	defer server.Close()
	c := clientFor(t, Config{Address: server.URL, MaxConnections: most})
	results := make(chan error, requests)
	for range requests {
		go func() { _, err := c.get(t.Context(), query{path: "/v1/health/service/x"}); results <- err }()
	}
	for deadline := time.Now().Add(10 * time.Second); open.Load() < most; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections, want %d", open.Load(), most)
		}
	}
	close(release)
	for range requests {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if got := peak.Load(); got != most {
		t.Errorf("%d connections at once, want %d", got, most)
	}
}

// deafAfter accepts every connection, but those after the first stay without an answer until it listens again.
type deafAfter struct {
	net.Listener
	accepted atomic.Int64
	deaf     atomic.Bool
}

func (l *deafAfter) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.accepted.Add(1) == 1 || !l.deaf.Load() {
			return c, err
		}
		defer c.Close()
	}
}

// TestBusyServer gives a server that has no time for further handshakes more requests than its connection takes: they
// wait for one that ends, and none fails.
func TestBusyServer(t *testing.T) {
	const streams, requests = 100, 120
	release := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		answerJSON(w, "[]")
	}))
	listener := &deafAfter{Listener: server.Listener}
	listener.deaf.Store(true)
	server.Listener = listener
	server.EnableHTTP2 = true
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := clientFor(t, Config{Address: server.URL, CAFile: ca})
	results := make(chan error, requests)
	for range requests {
		go func() { _, err := c.get(t.Context(), query{path: "/v1/health/service/x"}); results <- err }()
	}
	for deadline := time.Now().Add(10 * time.Second); listener.accepted.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections were tried, want another after one that failed", listener.accepted.Load())
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.get(short, query{path: "/v1/health/service/x"}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "handshake timeout") {
		t.Errorf("a request that waited in vain: %v, want why no further connection was opened", err)
	}
	close(release)
	for range requests {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	listener.deaf.Store(false)
}

func answerJSON(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Consul-Index", "7")
	w.Header().Set("X-Consul-LastContact", "0")
	w.Header().Set("X-Consul-KnownLeader", "true")
	_, _ = w.Write([]byte(body))
}

func clientFor(t *testing.T, cfg Config) *client {
	t.Helper()
	target, err := parseAddress(cfg.Address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(cfg.withDefaults(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.transport.close)
	return c
}

// TestRequestSurvivesALostConnection closes connections between answers, as a server that restarts its listener does.
func TestRequestSurvivesALostConnection(t *testing.T) {
	var conns sync.Map
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, "[]") }))
	server.Config.ConnState = func(c net.Conn, s http.ConnState) { conns.Store(c, s) }
	server.Start()
	defer server.Close()
	c := clientFor(t, Config{Address: server.URL})
	for range 200 {
		if _, err := c.get(t.Context(), query{path: "/v1/health/service/x"}); err != nil {
			t.Fatal(err)
		}
		conns.Range(func(key, _ any) bool { _ = key.(net.Conn).Close(); conns.Delete(key); return true })
	}
}

func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "consul.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, "[]") }))
	server.Listener = listener
	server.Start()
	defer server.Close()
	a, err := clientFor(t, Config{Address: "unix://" + socket}).get(t.Context(), query{path: "/v1/health/service/x"})
	if err != nil || a.index != 7 || string(a.body) != "[]" {
		t.Fatalf("got %+v, %v", a, err)
	}
}
