package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3" // named in resources
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

const (
	churnListeners = 24
	churnClusters  = 1000
	churnRate      = 50 // changes a second
)

// churn is a control plane, made of another's library, whose resources change all the time. Listener i leads over the route table of
// its name to one of the clusters, the first one by TCP; clusters that nothing names come and go, and so does one more listener. Every
// second cluster speaks HTTP/2.
type churn struct {
	t      testing.TB
	caches map[string]*cache.LinearCache // by type
	ports  []int
	backs  []string // addresses; each answers with who it is
	target []int    // of each listener's table: a cluster
	there  map[int]bool
	spare  bool // the listener that comes and goes, the last of ports, is there
	turn   int
}

// startChurn serves xDS at a unix socket.
func startChurn(t testing.TB, socket string) *churn {
	t.Helper()
	c := &churn{t: t, caches: map[string]*cache.LinearCache{}, there: map[int]bool{}}
	mux := &cache.MuxCache{Caches: map[string]cache.Cache{}}
	mux.ClassifyDelta = func(r *cache.DeltaRequest) string { return r.GetTypeUrl() }
	mux.Classify = func(r *cache.Request) string { return r.GetTypeUrl() }
	for _, kind := range []string{resource.ListenerType, resource.RouteType, resource.ClusterType, resource.EndpointType} {
		c.caches[kind] = cache.NewLinearCache(kind)
		mux.Caches[kind] = c.caches[kind]
	}
	for i := range 2 {
		back := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "back", i) }))
		back.Config.Protocols = new(http.Protocols)
		back.Config.Protocols.SetHTTP1(true)
		back.Config.Protocols.SetUnencryptedHTTP2(true)
		back.Start()
		t.Cleanup(back.Close)
		c.backs = append(c.backs, back.Listener.Addr().String())
	}
	for i := range churnClusters {
		c.cluster(i)
	}
	for i := range churnListeners + 1 {
		c.ports = append(c.ports, testbed.FreePort(t))
		c.target = append(c.target, i)
		c.routes(i)
		if i < churnListeners {
			c.listener(i)
		}
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, server.NewServer(t.Context(), mux, nil))
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return c
}

// set makes a resource of YAML what it is from now on.
func (c *churn) set(kind, name string, m proto.Message, text string) {
	c.t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = protojson.Unmarshal(data, m)
	}
	if err == nil {
		err = c.caches[kind].UpdateResource(name, types.Resource(m))
	}
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", name, err, text)
	}
}

func clusterName(i int) string { return fmt.Sprintf("cluster-%04d", i) }

// cluster makes a cluster, or changes it and its endpoints.
func (c *churn) cluster(i int) {
	c.there[i] = true
	protocol := "http_protocol_options"
	if i%2 == 1 {
		protocol = "http2_protocol_options"
	}
	c.set(resource.ClusterType, clusterName(i), new(clusterv3.Cluster), fmt.Sprintf(`
name: %s
type: EDS
eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}
connect_timeout: %ds
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {%s: {}}
`, clusterName(i), 2+c.turn%9, protocol))
	c.endpoints(i)
}

func (c *churn) endpoints(i int) {
	addr, weight := c.backs[(i+c.turn)%len(c.backs)], 1+c.turn%7
	host, port, _ := net.SplitHostPort(addr)
	c.set(resource.EndpointType, clusterName(i), new(endpointv3.ClusterLoadAssignment), fmt.Sprintf(
		"{cluster_name: %s, endpoints: [{locality: {zone: a}, load_balancing_weight: 1, lb_endpoints: [{load_balancing_weight: %d, endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}",
		clusterName(i), weight, host, port))
}

func (c *churn) routes(i int) {
	c.set(resource.RouteType, fmt.Sprint("routes-", i), new(routev3.RouteConfiguration), fmt.Sprintf(
		"{name: routes-%d, virtual_hosts: [{name: v%d, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: %s}}]}]}", i, c.turn%5, clusterName(c.target[i])))
}

func (c *churn) listener(i int) {
	if i == 0 {
		c.set(resource.ListenerType, fmt.Sprint("listener-", i), new(listenerv3.Listener), fmt.Sprintf(`
name: listener-%d
address: {socket_address: {address: 127.0.0.1, port_value: %d}}
filter_chains:
- filters:
  - name: tcp
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: tcp
      idle_timeout: %ds
      cluster: %s
`, i, c.ports[i], 100+c.turn%50, clusterName(c.target[i])))
		return
	}
	c.set(resource.ListenerType, fmt.Sprint("listener-", i), new(listenerv3.Listener), fmt.Sprintf(`
name: listener-%d
address: {socket_address: {address: 127.0.0.1, port_value: %d}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      stream_idle_timeout: %ds
      rds: {config_source: {ads: {}, resource_api_version: V3}, route_config_name: routes-%d}
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`, i, c.ports[i], 100+c.turn%50, i))
}

// change makes one change. What a table names, or named a while ago, is not taken away: that order is the control plane's duty.
func (c *churn) change() {
	c.turn++
	free := churnListeners + 100 + rand.IntN(churnClusters-churnListeners-100) // no table ever names these
	i := rand.IntN(churnListeners)
	if c.turn%churnRate == 0 {
		c.turnSpare()
		return
	}
	switch c.turn % 6 {
	case 0:
		c.listener(i)
	case 1:
		c.target[i] = rand.IntN(churnListeners + 100)
		c.routes(i)
	case 2:
		c.cluster(c.target[i])
	case 3, 4:
		c.endpoints(rand.IntN(churnListeners + 100))
	case 5:
		if c.there[free] && rand.IntN(2) == 0 {
			delete(c.there, free)
			_ = c.caches[resource.ClusterType].DeleteResource(clusterName(free))
			_ = c.caches[resource.EndpointType].DeleteResource(clusterName(free))
		} else {
			c.cluster(free)
		}
	}
}

// turnSpare adds the spare listener, or removes it.
func (c *churn) turnSpare() {
	if c.spare = !c.spare; c.spare {
		c.listener(churnListeners)
		return
	}
	if err := c.caches[resource.ListenerType].DeleteResource(fmt.Sprint("listener-", churnListeners)); err != nil {
		c.t.Fatal(err)
	}
}

// run changes configuration at churnRate until ctx ends.
func (c *churn) run(ctx context.Context) {
	tick := time.NewTicker(time.Second / churnRate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.change()
		}
	}
}

// judgeChurn runs load by HTTP/1, HTTP/2 and TCP over all listeners while their configuration changes 50 times a second. No request fails, and the memory of the
// second half of the time is that of the first.
func judgeChurn(t *testing.T, kind hopKind) {
	dir := shortDir(t)
	socket := filepath.Join(dir, "xds.sock")
	c := startChurn(t, socket)
	admin := testbed.FreePort(t)
	file := filepath.Join(dir, "proxy.yaml")
	writeFile(t, file, fmt.Sprintf(envoyBootstrap, "127.0.0.1:1", admin, "DELTA_GRPC", socket))
	argv := []string{bin(t, "mesh-proxy"), "-c", file}
	if kind == stockEnvoy {
		argv = []string{envoyBinary(t), "-c", file, "--use-dynamic-base-id", "-l", "error", "--concurrency", "2"}
	}
	h := hop{kind: kind, admin: fmt.Sprintf("127.0.0.1:%d", admin), process: start(t, string(kind), argv...)}
	eventually(t, 60*time.Second, "all listeners answer", func() error {
		for _, port := range c.ports[:churnListeners] {
			if body, err := fetch(fmt.Sprintf("127.0.0.1:%d", port), "", "/"); err != nil || !strings.HasPrefix(body, "back ") {
				return fmt.Errorf("port %d: %q %v", port, body, err)
			}
		}
		return nil
	})
	var loads []*load
	for i, port := range c.ports[:churnListeners] {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if i == 0 { // a connection each: what is kept is closed when its listener's time to drain is over
			loads = append(loads, startLoadBy(t, &http.Transport{DisableKeepAlives: true}, addr, "any", 10))
			continue
		}
		loads = append(loads, startLoad(t, addr, "any", 5), startLoadBy(t, h2cTransport(), addr, "any", 5))
	}
	ctx, cancel := context.WithTimeout(t.Context(), churnTime())
	defer cancel()
	memory := make(chan map[string][2]uint64, 1)
	go func() { memory <- floors(ctx, t, h, churnTime()) }()
	c.run(ctx)
	for _, l := range loads {
		l.finish()
	}
	for what, m := range <-memory {
		t.Logf("%s: %d KiB in the second quarter, %d KiB in the last", what, m[0]>>10, m[1]>>10)
		if m[1] > m[0]+m[0]/5+8<<20 {
			t.Errorf("%s grows: %d KiB, then %d KiB", what, m[0]>>10, m[1]>>10)
		}
	}
	c.wasTaken(h)
}

// wasTaken: the changes arrived, and none was refused.
func (c *churn) wasTaken(h hop) {
	c.t.Helper()
	if n := h.stats(c.t, `.*update_rejected`); n != 0 {
		c.t.Errorf("%d updates were refused", n)
	}
	var there []string
	for _, i := range slices.Sorted(maps.Keys(c.there)) {
		there = append(there, clusterName(i))
	}
	eventually(c.t, 30*time.Second, "the clusters are those of the end", func() error {
		text, err := fetch(h.admin, "", "/clusters")
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for line := range strings.Lines(text) {
			if name, _, _ := strings.Cut(line, "::"); strings.HasPrefix(name, "cluster-") {
				got[name] = true
			}
		}
		if all := slices.Sorted(maps.Keys(got)); !slices.Equal(all, there) {
			return fmt.Errorf("%d clusters, want %d", len(all), len(there))
		}
		return nil
	})
	for range 2 {
		c.turnSpare()
		eventually(c.t, 30*time.Second, fmt.Sprintf("the spare listener is there: %v", c.spare), func() error {
			http.DefaultClient.CloseIdleConnections() // those of a listener that has left may serve on
			body, err := fetch(fmt.Sprintf("127.0.0.1:%d", c.ports[churnListeners]), "", "/")
			if got := err == nil && strings.HasPrefix(body, "back "); got != c.spare {
				return fmt.Errorf("got %q %v", body, err)
			}
			return nil
		})
	}
}

// churnTime is how long configuration changes: HOSTMESH_SOAK, or a few seconds.
func churnTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("HOSTMESH_SOAK")); err == nil {
		return d
	}
	return 8 * time.Second
}

// floors returns the least memory, allocated and resident, of the second quarter and of the last quarter of a time. The least is what
// is left when garbage was just collected.
func floors(ctx context.Context, t testing.TB, h hop, during time.Duration) map[string][2]uint64 {
	began := time.Now()
	least := map[string][2]uint64{}
	for ctx.Err() == nil {
		time.Sleep(50 * time.Millisecond)
		half := 0
		switch quarter := int(4 * time.Since(began) / during); quarter {
		case 1:
		case 3:
			half = 1
		default:
			continue
		}
		text, err := fetch(h.admin, "", "/stats?filter=server.memory_allocated")
		var allocated uint64
		if err == nil {
			_, err = fmt.Sscanf(text, "server.memory_allocated: %d", &allocated)
		}
		if err != nil {
			t.Errorf("read memory: %v", err)
			return nil
		}
		for what, n := range map[string]uint64{"allocated": allocated, "resident": h.resident(t)} {
			m := least[what]
			if m[half] == 0 || n < m[half] {
				m[half] = n
			}
			least[what] = m
		}
	}
	return least
}
