package xds

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestClientSubscribesAndPublishes(t *testing.T) {
	socket := socketPath(t)
	server, _ := serve(t, socket)
	c := newClient(t, socket, "")
	s := server.accept(t)

	m := s.want(t, clusters)
	if len(m.GetResourceNamesSubscribe()) != 0 || len(m.GetInitialResourceVersions()) != 0 {
		t.Errorf("got first CDS request %v, want a wildcard one without versions", m)
	}
	n := m.GetNode()
	if n.GetId() != "host-1" || n.GetUserAgentName() != "mesh-proxy" || n.GetUserAgentVersion() != "1.2.3" ||
		n.GetMetadata().GetFields()["outbound"].GetStringValue() != "127.0.0.1:15001" {
		t.Errorf("got node %v", n)
	}
	if m := s.want(t, listeners); m.GetNode() != nil || len(m.GetResourceNamesSubscribe()) != 0 {
		t.Errorf("got first LDS request %v, want a wildcard one without a node", m)
	}
	s.send(t, clusters, "c1", "7", list(clusterNamed(t, "a", "1"), clusterNamed(t, "b", "1")))
	s.wantACK(t, clusters, "c1")
	if got := s.want(t, endpoints).GetResourceNamesSubscribe(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got EDS subscription %q, want a and b", got)
	}
	s.send(t, listeners, "l1", "7", list(listenerNamed(t, "out", 15001, "routes")))
	s.wantACK(t, listeners, "l1")
	if got := s.want(t, routeTables).GetResourceNamesSubscribe(); !slices.Equal(got, []string{"routes"}) {
		t.Errorf("got RDS subscription %q, want routes", got)
	}
	s.send(t, routeTables, "r1", "7", list(routesNamed(t, "routes", "1", "a")))
	s.wantACK(t, routeTables, "r1")
	waitFor(t, c.Config(), "both clusters", func(c *config.Config) bool { return len(c.Clusters) == 2 })
	if ok, why := c.Ready(); ok || why != "routes and endpoints from unix:"+socket {
		t.Errorf("got ready %t, waiting for %q", ok, why)
	}
	if l := c.Config().Load().Listeners; len(l) != 0 {
		t.Errorf("got listener %v before the endpoints are known, want none", l)
	}
	s.send(t, endpoints, "e1", "7", list(endpointsNamed(t, "a", "1", 1001), endpointsNamed(t, "b", "1", 1002)))
	s.wantACK(t, endpoints, "e1")
	first := waitFor(t, c.Config(), "everything", served)
	if ok, why := c.Ready(); !ok {
		t.Errorf("not ready, waiting for %q", why)
	}
	if first.Version != "7" || first.Listeners[0].HTTP.Routes.VirtualHosts[0].Routes[0].Clusters[0].Name != "a" {
		t.Errorf("got %+v", first)
	}

	// One endpoint's change makes one new cluster and nothing else.
	s.send(t, endpoints, "e2", "8", list(endpointsNamed(t, "a", "2", 1001, 1003)))
	s.wantACK(t, endpoints, "e2")
	second := waitFor(t, c.Config(), "version 8", func(c *config.Config) bool { return c.Version == "8" })
	if first.Clusters["a"] == second.Clusters["a"] || len(second.Clusters["a"].Endpoints) != 2 || len(first.Clusters["a"].Endpoints) != 1 {
		t.Errorf("cluster a did not become another one: %+v, %+v", first.Clusters["a"], second.Clusters["a"])
	}
	if first.Clusters["a"].Endpoints[0] != second.Clusters["a"].Endpoints[0] {
		t.Error("the endpoint that stays has another pointer")
	}
	if first.Clusters["b"] != second.Clusters["b"] || first.Listeners[0] != second.Listeners[0] {
		t.Error("what did not change has another pointer")
	}

	// A cluster that goes takes its subscription along.
	s.send(t, clusters, "c2", "9", nil, "b")
	s.wantACK(t, clusters, "c2")
	if got := s.want(t, endpoints).GetResourceNamesUnsubscribe(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("got %q unsubscribed, want b", got)
	}
	waitFor(t, c.Config(), "cluster a alone", func(c *config.Config) bool { return len(c.Clusters) == 1 })
	st := c.Status()
	if !st.Connected || st.Version != "9" || st.Source != "control plane" || st.Types["cds"].Accepted != 2 || st.Types["eds"].Resources != 1 {
		t.Errorf("got status %+v", st)
	}
}

func TestNACKNamesEachReasonAndKeepsTheOldValue(t *testing.T) {
	socket := socketPath(t)
	server, _ := serve(t, socket)
	c := newClient(t, socket, "")
	s := server.accept(t)
	s.first(t)
	before := waitFor(t, c.Config(), "everything", served)

	bad := fromYAML(t, new(routev3.RouteConfiguration), `
name: routes
virtual_hosts: [{name: all, domains: ["*"], cors: {}, routes: [{match: {prefix: /}, redirect: {https_redirect: true}}]}]
`)
	wrongName := endpointsNamed(t, "other", "2", 1)
	wrongName.Name = "b"
	s.send(t, routeTables, "r2", "8", list(resourceOf(t, "routes", "2", bad)))
	nack := s.want(t, routeTables)
	if nack.GetResponseNonce() != "r2" || nack.GetErrorDetail().GetCode() != 3 {
		t.Fatalf("got %v, want a NACK of r2", nack)
	}
	for _, want := range []string{`RDS "routes"`, "virtual_hosts[0].cors: got a value, want it unset", "virtual_hosts[0].routes[0].redirect"} {
		if !strings.Contains(nack.GetErrorDetail().GetMessage(), want) {
			t.Errorf("the reason %q does not contain %q", nack.GetErrorDetail().GetMessage(), want)
		}
	}
	s.send(t, endpoints, "e2", "9", list(endpointsNamed(t, "a", "2", 1001, 1003), wrongName))
	nack = s.want(t, endpoints)
	if msg := nack.GetErrorDetail().GetMessage(); nack.GetResponseNonce() != "e2" || !strings.Contains(msg, `EDS "b": cluster_name: got other, want`) || strings.Contains(msg, `"a"`) {
		t.Fatalf("got %v, want a NACK that names b alone", nack)
	}
	after := waitFor(t, c.Config(), "the good resource", func(c *config.Config) bool { return len(c.Clusters["a"].Endpoints) == 2 })
	if after.Clusters["b"] != before.Clusters["b"] || after.Listeners[0] != before.Listeners[0] {
		t.Error("what was refused did not keep its old value")
	}
	st := c.Status()
	if st.Types["rds"].Rejected != 1 || !strings.Contains(st.Types["rds"].LastNACK, "cors") || !slices.Equal(st.Types["eds"].RejectedByName, []string{"b"}) {
		t.Errorf("got status %+v", st.Types)
	}
	// A later good one heals it.
	s.send(t, endpoints, "e3", "10", list(endpointsNamed(t, "b", "3", 1004)))
	s.wantACK(t, endpoints, "e3")
	waitFor(t, c.Config(), "version 10", func(c *config.Config) bool { return c.Version == "10" })
	if st := c.Status(); len(st.Types["eds"].RejectedByName) != 0 {
		t.Errorf("still refused: %q", st.Types["eds"].RejectedByName)
	}
}

func TestReconnectClaimsWhatIsThereAndLosesNothing(t *testing.T) {
	socket := socketPath(t)
	server, stop := serve(t, socket)
	c := newClient(t, socket, "")
	server.accept(t).first(t)
	before := waitFor(t, c.Config(), "everything", served)
	stop()
	for c.Status().Connected {
		time.Sleep(time.Millisecond)
	}
	if c.Config().Load() != before {
		t.Error("losing the server changed the configuration")
	}
	server, _ = serve(t, socket)
	s := server.accept(t)
	for _, want := range []struct {
		k         kind
		names     []string
		versions  map[string]string
		firstNode bool
	}{
		{clusters, nil, map[string]string{"a": "1", "b": "1"}, true},
		{endpoints, []string{"a", "b"}, map[string]string{"a": "1", "b": "1"}, false},
		{listeners, nil, map[string]string{"out": "1"}, false},
		{routeTables, []string{"routes"}, map[string]string{"routes": "1"}, false},
	} {
		m := s.want(t, want.k)
		if diff := cmp.Diff(want.versions, m.GetInitialResourceVersions()); diff != "" || !slices.Equal(m.GetResourceNamesSubscribe(), want.names) || (m.GetNode() != nil) != want.firstNode {
			t.Errorf("%s: got %v, want names %q and versions %v", want.k, m, want.names, want.versions)
		}
	}
	// The server says that b is gone and that the routes, still referred to, are not there: only b goes.
	s.send(t, clusters, "c1", "8", nil, "b")
	s.wantACK(t, clusters, "c1")
	s.send(t, routeTables, "r1", "8", nil, "routes")
	after := waitFor(t, c.Config(), "cluster a alone", func(c *config.Config) bool { return len(c.Clusters) == 1 })
	if len(after.Listeners) != 1 || after.Listeners[0] != before.Listeners[0] {
		t.Error("the listener did not stay")
	}
}

func TestSealedConfigurationServesWithoutServer(t *testing.T) {
	socket, state := socketPath(t), t.TempDir()
	server, stop := serve(t, socket)
	c := newClient(t, socket, state)
	server.accept(t).first(t)
	before := waitFor(t, c.Config(), "everything", served)
	c.stop()
	stop()

	again := newClient(t, socket, state)
	after := again.Config().Load()
	if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("sealed and served differ (-before +after):\n%s", diff)
	}
	if st := again.Status(); st.Source != "sealed" || st.Connected || st.Sealed.IsZero() || st.Version != "7" {
		t.Errorf("got status %+v, want sealed version 7", st)
	}
	server, _ = serve(t, socket)
	s := server.accept(t)
	if m := s.want(t, clusters); len(m.GetInitialResourceVersions()) != 2 {
		t.Errorf("got %v, want the sealed versions claimed", m)
	}
	s.want(t, endpoints)
	s.want(t, listeners)
	s.want(t, routeTables)
	s.send(t, clusters, "c1", "8", nil, "b")
	s.wantACK(t, clusters, "c1")
	waitFor(t, again.Config(), "cluster a alone", func(c *config.Config) bool { return len(c.Clusters) == 1 })
}

func TestSealedConfigurationRefused(t *testing.T) {
	socket, state := socketPath(t), t.TempDir()
	server, _ := serve(t, socket)
	c := newClient(t, socket, state)
	server.accept(t).first(t)
	waitFor(t, c.Config(), "everything", served)
	c.stop()
	file := filepath.Join(state, sealedFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := New(Options{Bootstrap: &Bootstrap{Control: "unix:" + socket, Node: Node{ID: "host-2"}}, StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	if st := foreign.Status(); !strings.Contains(st.SealedError, `got that of node "host-1", want that of "host-2"`) || len(foreign.Config().Load().Clusters) != 0 {
		t.Errorf("got status %+v", st)
	}
	flipped := slices.Clone(good)
	flipped[len(flipped)-3] ^= 1
	for name, data := range map[string][]byte{"torn": good[:len(good)-7], "flipped": flipped, "other": []byte("hello\n"), "empty": nil} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := New(Options{Bootstrap: &Bootstrap{Control: "unix:" + socket, Node: Node{ID: "host-1"}}, StateDir: state})
		if err != nil {
			t.Fatal(err)
		}
		if st := c.Status(); st.SealedError == "" || st.Source != "static" || len(c.Config().Load().Clusters) != 0 {
			t.Errorf("%s: got status %+v with %d clusters, want it refused as a whole", name, st, len(c.Config().Load().Clusters))
		}
	}
}

// FuzzSealed: a payload that passed the checksum and is nonsense all the same is refused or harmless.
func FuzzSealed(f *testing.F) {
	made := func() *Client {
		c, err := New(Options{Bootstrap: &Bootstrap{Control: "unix:/x", Node: Node{ID: "n"}}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			f.Fatal(err)
		}
		return c
	}
	c := made()
	for k, resources := range [][]*discoveryv3.Resource{
		clusters: list(clusterNamed(f, "a", "1")), endpoints: list(endpointsNamed(f, "a", "1", 80)),
		listeners: list(listenerNamed(f, "l", 1, "r")), routeTables: list(routesNamed(f, "r", "1", "a")),
	} {
		if err := c.store.apply(kind(k), &discoveryv3.DeltaDiscoveryResponse{Resources: resources}, time.Now()); err != nil {
			f.Fatal(err)
		}
	}
	payload, whole, err := c.payload()
	if err != nil || !whole {
		f.Fatalf("got %t, %v, want a whole state", whole, err)
	}
	f.Add(payload)
	f.Add([]byte("\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		c := made()
		if err := c.unseal(payload, time.Now()); err != nil {
			return
		}
		for _, l := range c.store.current.Listeners {
			if l.HTTP != nil && l.HTTP.Routes == nil {
				t.Errorf("listener %q is served without routes", l.Name)
			}
		}
		for name, k := range c.store.current.Clusters {
			if !k.Assigned {
				t.Errorf("cluster %q waits for nobody", name)
			}
		}
		if _, err := c.ConfigDump(); err != nil {
			t.Error(err)
		}
	})
}

// TestRunLeavesNoGoroutine: with a server, after losing it, and without one.
func TestRunLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	socket, state := socketPath(t), t.TempDir()
	server, stop := serve(t, socket)
	c := newClient(t, socket, state)
	server.accept(t).first(t)
	waitFor(t, c.Config(), "everything", served)
	stop()
	for c.Status().Connected {
		time.Sleep(time.Millisecond)
	}
	c.stop()
	newClient(t, socketPath(t), "").stop()
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func TestStreamOfAnotherTypeIsEnded(t *testing.T) {
	socket := socketPath(t)
	server, _ := serve(t, socket)
	c := newClient(t, socket, "")
	s := server.accept(t)
	s.want(t, clusters)
	s.send(t, routeTables, "r1", "1", nil)
	server.accept(t)
	if st := c.Status(); !strings.Contains(st.LastError, "want one that was asked for") {
		t.Errorf("got %q", st.LastError)
	}
}
