package xds

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/hostmesh/hostmesh/proxy/config"
)

var compareAddr = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// decoded reads a resource from YAML as if a server had sent it.
func decoded(t testing.TB, k kind, text string) (any, error) {
	t.Helper()
	m := map[kind]proto.Message{
		listeners: new(listenerv3.Listener), routeTables: new(routev3.RouteConfiguration),
		clusters: new(clusterv3.Cluster), endpoints: new(endpointv3.ClusterLoadAssignment),
	}[k]
	raw, err := proto.Marshal(fromYAML(t, m, text))
	if err != nil {
		t.Fatal(err)
	}
	return decodedRaw(k, "x", raw)
}

func decodedRaw(k kind, name string, raw []byte) (out any, err error) {
	r := &reader{rules: rules{schema: newSchema()}}
	switch k {
	case listeners:
		out = r.namedListener(name, raw)
	case routeTables:
		out = r.namedRoutes(name, raw)
	case clusters:
		out = r.namedCluster(name, raw)
	case endpoints:
		out = r.namedAssignment(name, raw)
	}
	return out, r.err()
}

const hcmYAML = `
name: x
address: {socket_address: {address: 127.0.0.1, port_value: 80}}
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: s
      rds: {config_source: {ads: {}}, route_config_name: r}
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`

func TestListenerDefaults(t *testing.T) {
	got, err := decoded(t, listeners, hcmYAML)
	if err != nil {
		t.Fatal(err)
	}
	want := &listener{
		Listener: config.Listener{
			Name: "x", Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")}, Filters: config.Filters{Timeout: 15 * time.Second},
			HTTP: &config.HTTP{
				StatPrefix: "s", RequestHeadersTimeout: 5 * time.Minute, StreamIdleTimeout: 5 * time.Minute, IdleTimeout: time.Hour, DrainTimeout: 5 * time.Second,
				DelayedCloseTimeout: time.Second,
				MaxRequestHeadBytes: 60 << 10, MaxRequestHeaders: 100, GenerateRequestID: true, ServerName: "envoy", Protocol: config.ProtocolAuto,
			},
		},
		routes: []string{"r"}, fetch: map[string]time.Duration{"r": 15 * time.Second},
	}
	if diff := cmp.Diff(want, got, compareAddr, cmp.AllowUnexported(listener{})); diff != "" {
		t.Error(diff)
	}
}

func TestListenerTellsEverything(t *testing.T) {
	got, err := decoded(t, listeners, `
name: x
address: {socket_address: {address: 127.64.0.1, port_value: 80}}
additional_addresses: [{address: {socket_address: {address: "::1", port_value: 8080}}}]
traffic_direction: OUTBOUND
enable_reuse_port: true
metadata: {filter_metadata: {hostmesh.ports: {"80": _http._tcp, "8080": _admin._tcp}, others: {a: b}}}
access_log: [{name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog}}]
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: s
      codec_type: HTTP1
      server_name: mesh
      use_remote_address: true
      xff_num_trusted_hops: 2
      generate_request_id: false
      preserve_external_request_id: true
      forward_client_cert_details: FORWARD_ONLY
      stream_idle_timeout: 0s
      request_timeout: 7s
      request_headers_timeout: 3s
      drain_timeout: 9s
      delayed_close_timeout: 4s
      max_request_headers_kb: 16
      common_http_protocol_options: {idle_timeout: 60s, max_headers_count: 50}
      upgrade_configs: [{upgrade_type: WebSocket}, {upgrade_type: foo, enabled: false}, {upgrade_type: CONNECT}]
      access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /tmp/log}}]
      route_config: {name: inline, virtual_hosts: []}
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}}]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &listener{Listener: config.Listener{
		Name:       "x",
		Addresses:  []netip.AddrPort{netip.MustParseAddrPort("127.64.0.1:80"), netip.MustParseAddrPort("[::1]:8080")},
		PortLabels: map[uint16]string{80: "_http._tcp", 8080: "_admin._tcp"},
		AccessLogs: []config.AccessLog{{Path: "/dev/stderr"}},
		Filters:    config.Filters{Timeout: 15 * time.Second},
		HTTP: &config.HTTP{
			StatPrefix: "s", Routes: &config.RouteTable{Name: "inline"}, RequestTimeout: 7 * time.Second, RequestHeadersTimeout: 3 * time.Second,
			DrainTimeout: 9 * time.Second, DelayedCloseTimeout: 4 * time.Second, IdleTimeout: time.Minute, MaxRequestHeadBytes: 16 << 10, MaxRequestHeaders: 50,
			UseRemoteAddress: true, XFFTrustedHops: 2, ServerName: "mesh", Upgrades: []string{"websocket", "connect"},
			AccessLogs: []config.AccessLog{{Path: "/tmp/log"}}, SuppressEnvoyHeaders: true,
			RequestPolicy: config.RequestPolicy{KeepRequestID: true, ClientCert: config.ClientCertForward},
		},
	}, routes: []string{""}}
	if diff := cmp.Diff(want, got, compareAddr, cmp.AllowUnexported(listener{})); diff != "" {
		t.Error(diff)
	}
}

func TestTCPListener(t *testing.T) {
	got, err := decoded(t, listeners, `
name: x
address: {socket_address: {address: 127.0.0.1, port_value: 80}}
filter_chains: [{filters: [{name: t, typed_config: {
  "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, max_connect_attempts: 2,
  weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 3}]}}}]}]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.TCP{StatPrefix: "s", IdleTimeout: time.Hour, Attempts: 2, Clusters: []config.WeightedCluster{{Name: "a", Weight: 1}, {Name: "b", Weight: 3}}}
	if diff := cmp.Diff(want, got.(*listener).TCP); diff != "" {
		t.Error(diff)
	}
}

func TestRoutes(t *testing.T) {
	got, err := decoded(t, routeTables, `
name: x
virtual_hosts:
- name: v
  domains: [Web.mesh.internal, "*.b", "c.*"]
  retry_policy: {retry_on: connect-failure}
  routes:
  - match: {path_separated_prefix: /api, case_sensitive: false, headers: [
      {name: X-A, string_match: {exact: v}}, {name: b, present_match: false}, {name: c, invert_match: true, exact_match: d}, {name: e}]}
    route: {weighted_clusters: {clusters: [{name: one, weight: 90}, {name: none, weight: 0}, {name: two, weight: 10}]}, timeout: 0s, idle_timeout: 3s,
      retry_policy: {retry_on: "gateway-error,refused-stream", num_retries: 0, per_try_timeout: 2s}}
  - {match: {path: /x}, direct_response: {status: 418, body: {inline_string: hi}}}
  - match: {connect_matcher: {}, headers: [{name: a}]}
    route: {cluster: one, timeout: 0s, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}, {upgrade_type: WebSocket, enabled: false}]}
  - {name: last, match: {prefix: /}, route: {cluster: one}}
`)
	if err != nil {
		t.Fatal(err)
	}
	noResponse := config.RetryReset | config.RetryConnectFailure | config.RetryRefusedStream
	want := &config.RouteTable{Name: "x", VirtualHosts: []*config.VirtualHost{{
		Name: "v", Domains: []string{"web.mesh.internal", "*.b", "c.*"},
		Routes: []*config.Route{
			{
				Path: "/api", PathMatch: config.PathSeparatedPrefix, CaseInsensitive: true,
				Headers: []config.HeaderMatch{
					{Name: "x-a", Exact: "v"}, {Name: "b", Present: true, Invert: true}, {Name: "c", Exact: "d", Invert: true}, {Name: "e", Present: true},
				},
				Clusters:    []config.WeightedCluster{{Name: "one", Weight: 90}, {Name: "two", Weight: 10}},
				IdleTimeout: 3 * time.Second,
				Retry:       config.Retry{On: config.RetryGatewayError | noResponse, PerTryTimeout: 2 * time.Second},
			},
			{Path: "/x", PathMatch: config.PathExact, Direct: &config.DirectResponse{Status: 418, Body: "hi"}},
			{
				PathMatch: config.PathConnect, Headers: []config.HeaderMatch{{Name: "a", Present: true}},
				Clusters: []config.WeightedCluster{{Name: "one", Weight: 1}}, Retry: config.Retry{On: config.RetryConnectFailure, Max: 1},
				Upgrades: []config.Upgrade{{Name: "connect", Allowed: true}, {Name: "websocket"}}, Terminate: true,
			},
			{
				Name: "last", Path: "/", Clusters: []config.WeightedCluster{{Name: "one", Weight: 1}}, Timeout: 15 * time.Second,
				Retry: config.Retry{On: config.RetryConnectFailure, Max: 1},
			},
		},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCluster(t *testing.T) {
	defaults := config.Cluster{
		Name: "x", ConnectTimeout: 5 * time.Second, PanicThreshold: 50, IdleTimeout: time.Hour,
		MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 3,
	}
	static := defaults
	static.Assigned = true
	static.Endpoints = []*config.Endpoint{{Addr: config.Address{IP: netip.MustParseAddrPort("10.0.0.1:80")}, Weight: 1}}
	full := config.Cluster{
		Name: "x", Policy: config.LeastRequest, ConnectTimeout: time.Second, PanicThreshold: 1, IdleTimeout: time.Minute,
		MaxConnections: 1, MaxPending: 2, MaxRequests: 3, MaxRetries: 4,
		Balancing: config.Balancing{LocalityWeighted: true},
	}
	for _, c := range []struct {
		name, text string
		want       cluster
	}{
		{"eds", "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}", cluster{Cluster: defaults, eds: "x", fetch: 15 * time.Second}},
		{"static", `{name: x, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [
			{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}]}]}}`, cluster{Cluster: static}},
		{
			"full", `{name: x, type: EDS, eds_cluster_config: {eds_config: {ads: {}}, service_name: s}, lb_policy: LEAST_REQUEST,
			connect_timeout: 1s, common_lb_config: {healthy_panic_threshold: {value: 1}, locality_weighted_lb_config: {}},
			circuit_breakers: {thresholds: [{max_connections: 1, max_pending_requests: 2, max_requests: 3, max_retries: 4}]},
			typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {
			"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
			common_http_protocol_options: {idle_timeout: 60s}, explicit_http_config: {http_protocol_options: {}}}}}`,
			cluster{Cluster: full, eds: "s", fetch: 15 * time.Second},
		},
		{
			"old place", "{name: x, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}, common_http_protocol_options: {idle_timeout: 3600s}}",
			cluster{Cluster: defaults, eds: "x", fetch: 15 * time.Second},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decoded(t, clusters, c.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&c.want, got, compareAddr, cmp.AllowUnexported(cluster{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAssignment(t *testing.T) {
	got, err := decoded(t, endpoints, `
cluster_name: x
policy: {overprovisioning_factor: 110}
endpoints:
- locality: {region: r, zone: z, sub_zone: s}
  load_balancing_weight: 3
  lb_endpoints:
  - {endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}, hostname: h}, load_balancing_weight: 2}
  - {endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 80}}}, health_status: UNHEALTHY}
  - {endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}, health_status: DRAINING}
- load_balancing_weight: 1
  lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.3, port_value: 80}}}, health_status: DRAINING}]
- lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.4, port_value: 80}}}, health_status: DEGRADED, metadata: {filter_metadata: {envoy.lb: {hash_key: k}}}}]
- priority: 1
  load_balancing_weight: 9
  lb_endpoints:
  - {endpoint: {address: {socket_address: {address: 10.0.0.5, port_value: 80}}}, health_status: TIMEOUT, load_balancing_weight: 7}
`)
	if err != nil {
		t.Fatal(err)
	}
	at := func(n int) config.Address {
		return config.Address{IP: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:80", n))}
	}
	where := config.Locality{Region: "r", Zone: "z", SubZone: "s"}
	plain := []*config.Endpoint{
		{Addr: at(1), Hostname: "h", Weight: 2, Locality: where, LocalityWeight: 3},
		{Addr: at(2), Weight: 1, Locality: where, Health: config.Unhealthy, LocalityWeight: 3},
		{Addr: at(3), Weight: 1, Health: config.Draining, LocalityWeight: 1},
		{Addr: at(4), Weight: 1, Health: config.Degraded, HashKey: "k", Labels: `{"hash_key":"k"}`},
		{Addr: at(5), Weight: 7, Health: config.Unhealthy, Priority: 1, LocalityWeight: 9},
	}
	a := got.(assignment)
	c := config.Cluster{}
	a.give(&c, nil)
	if diff := cmp.Diff(config.Cluster{Assigned: true, Endpoints: plain, Balancing: config.Balancing{Overprovisioning: 110}}, c, compareAddr); diff != "" {
		t.Error(diff)
	}
}

// TestEndpointsOnUnixSockets: by EDS and in a STATIC cluster, beside those on IP addresses; a path once, as an address.
func TestEndpointsOnUnixSockets(t *testing.T) {
	long := "/" + strings.Repeat("x", 106)
	list := `
endpoints:
- lb_endpoints:
  - {endpoint: {address: {pipe: {path: /run/a.sock}}, hostname: h}, load_balancing_weight: 2}
  - {endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}
  - {endpoint: {address: {pipe: {path: "@b"}}}}
  - {endpoint: {address: {pipe: {path: /run/a.sock}}}, health_status: DRAINING}
  - {endpoint: {address: {pipe: {path: ` + long + `}}}, health_status: DRAINING}
`
	want := []*config.Endpoint{
		{Addr: config.Address{Path: "/run/a.sock"}, Hostname: "h", Weight: 2},
		{Addr: config.Address{IP: netip.MustParseAddrPort("10.0.0.1:80")}, Weight: 1},
		{Addr: config.Address{Path: "@b"}, Weight: 1},
		{Addr: config.Address{Path: long}, Weight: 1, Health: config.Draining},
	}
	got, err := decoded(t, endpoints, "cluster_name: x"+list)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.(assignment).endpoints, compareAddr); diff != "" {
		t.Errorf("EDS: %s", diff)
	}
	got, err = decoded(t, clusters, "name: x\ntype: STATIC\nload_assignment:\n  cluster_name: x"+strings.ReplaceAll(list, "\n", "\n  "))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got.(*cluster).Endpoints, compareAddr); diff != "" {
		t.Errorf("STATIC: %s", diff)
	}
}

func TestAccessLogOfTheProxyTakesStdout(t *testing.T) {
	m := fromYAML(t, new(listenerv3.Listener), strings.Replace(hcmYAML, "stat_prefix: s", `stat_prefix: s
      access_log:
      - {name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}
      - {name: b, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /b}}`, 1))
	for _, c := range []struct {
		option string
		want   []config.AccessLog
	}{
		{"", []config.AccessLog{{Path: "/dev/stdout"}, {Path: "/b"}}},
		{"/a", []config.AccessLog{{Path: "/a"}, {Path: "/b"}}},
		{NoAccessLog, []config.AccessLog{{Path: "/b"}}},
	} {
		r := &reader{rules: rules{newSchema(), c.option}}
		l := r.listener(nil, m)
		if diff := cmp.Diff(c.want, l.HTTP.AccessLogs); diff != "" || r.err() != nil {
			t.Errorf("%q: %v\n%s", c.option, r.err(), diff)
		}
	}
}

func mustWire(t testing.TB, k kind, text string) []byte {
	t.Helper()
	m := map[kind]proto.Message{listeners: new(listenerv3.Listener), clusters: new(clusterv3.Cluster), routeTables: new(routev3.RouteConfiguration), endpoints: new(endpointv3.ClusterLoadAssignment)}[k]
	raw, err := proto.Marshal(fromYAML(t, m, text))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
