package xds

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const bootstrapYAML = `node:
  id: host-1
  cluster: c
  locality: {region: eu}
  metadata: {upstreams: ["*"]}
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: 15000}}
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds}}]
static_resources:
  listeners:
  - name: static
    address: {socket_address: {address: 127.0.0.1, port_value: 8000}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: static
          route_config:
            name: local
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: back}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/hostmesh/xds.sock}}}}]}]}
  - name: back
    load_assignment: {cluster_name: back, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}]}]}
`

func readText(t testing.TB, text string) (*Bootstrap, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := ReadBootstrap(file)
	if err != nil {
		return nil, &fileError{strings.ReplaceAll(err.Error(), file, "b")}
	}
	return b, nil
}

// fileError has the file's name shortened.
type fileError struct{ text string }

func (e *fileError) Error() string { return e.text }

func TestReadBootstrap(t *testing.T) {
	b, err := readText(t, bootstrapYAML)
	if err != nil {
		t.Fatal(err)
	}
	wantNode := Node{ID: "host-1", Cluster: "c", Locality: config.Locality{Region: "eu"}, Metadata: map[string]any{"upstreams": []any{"*"}}}
	if diff := cmp.Diff(wantNode, b.Node); diff != "" {
		t.Error(diff)
	}
	if b.Control != "unix:/run/hostmesh/xds.sock" || b.Admin != netip.MustParseAddrPort("127.0.0.1:15000") {
		t.Errorf("got control %q and admin %v", b.Control, b.Admin)
	}
	c, err := New(Options{Bootstrap: b})
	if err != nil {
		t.Fatal(err)
	}
	got := c.Config().Load() // at once, whatever the server does
	if len(got.Listeners) != 1 || got.Listeners[0].HTTP.Routes.Name != "local" || len(got.Clusters) != 1 || len(got.Clusters["back"].Endpoints) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestReadBootstrapJSON(t *testing.T) {
	b, err := readText(t, "{\n\t\"node\": {\"id\": \"a\"},\n\t\"dynamicResources\": {\"ldsConfig\": {\"ads\": {}}, \"adsConfig\": {\"apiType\": \"DELTA_GRPC\",\n\t\"grpcServices\": [{\"googleGrpc\": {\"targetUri\": \"dns:///localhost:15010\", \"statPrefix\": \"x\"}}]}}}\n")
	if err != nil {
		t.Fatal(err)
	}
	if b.Control != "dns:///localhost:15010" || b.noLDS || !b.noCDS {
		t.Errorf("got %+v", b)
	}
}

func TestReadBootstrapTellsAllMistakes(t *testing.T) {
	replace := func(old, with string) string {
		if !strings.Contains(bootstrapYAML, old) {
			t.Fatalf("no %q in the bootstrap", old)
		}
		return strings.Replace(bootstrapYAML, old, with, 1)
	}
	for _, c := range []struct {
		name, text string
		want       []string // one a line of the error
	}{
		{"empty", "", []string{"b:1: got an empty file"}},
		{"no YAML", "a: [", []string{"b:1: got did not find expected node content, want YAML"}},
		{"unknown fields", "nodee: {}\nnode: {idd: 1, id: a}\n", []string{
			"b:1: nodee: got an unknown field, want a field of envoy.config.bootstrap.v3.Bootstrap",
			"b:2: node.idd: got an unknown field, want a field of envoy.config.core.v3.Node",
		}},
		{"wrong kind of value", "node:\n  id: a\n  cluster: [b]\n", []string{"b:3: node.cluster: got "}},
		{"unknown type", replace("envoy.extensions.filters.http.router.v3.Router", "envoy.extensions.filters.http.lua.v3.Lua"), []string{
			`b:31: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: got type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, want a type that is supported`,
		}},
		{"not supported", replace("admin:\n", "layered_runtime: {layers: [{name: a, admin_layer: {}}]}\nflags_path: /x\nadmin:\n"), []string{
			"b:6: layered_runtime.layers[0].admin_layer: got a value, want it unset: not supported", "b:7: flags_path: got /x, want it unset",
		}},
		{"state of the world", replace("api_type: DELTA_GRPC", "api_type: GRPC"), []string{"b:12: dynamic_resources.ads_config.api_type: got GRPC, want DELTA_GRPC"}},
		{"server elsewhere", replace("{pipe: {path: /run/hostmesh/xds.sock}}", "{socket_address: {address: 10.0.0.1, port_value: 15010}}"), []string{
			`b:39: static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address: got "10.0.0.1:15010", want unix:/path or a loopback address`,
		}},
		{"no such cluster", replace("cluster_name: xds}}]", "cluster_name: nope}}]"), []string{
			"b:14: dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: got nope, want the name of a static cluster",
		}},
		{"listener and cluster", strings.Replace(replace("stat_prefix: static", "stat_prefix: static\n          tracing: {}"), "- name: back", "- name: back\n    lb_policy: CLUSTER_PROVIDED", 1), []string{
			"b:25: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.tracing: got a value", "b:42: static_resources.clusters[1].lb_policy: got CLUSTER_PROVIDED, want another policy, or type ORIGINAL_DST",
		}},
		{"eds without a server", "static_resources: {clusters: [{name: a, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}]}", []string{
			"b:1: static_resources.clusters[0].type: got EDS, want STATIC: there is no dynamic_resources.ads_config",
		}},
		{"an alias of itself", "node: {metadata: {a: &a [*a, *a]}}", []string{"b:1: node.metadata: got too much or too deep a nesting"}},
		{"an alias that grows", "a: &a [x,x,x,x,x,x,x,x,x,x]\nnode: {metadata: {b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c], e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d], f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e], g: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]}}", []string{
			"b:1: a: got an unknown field", "b:1: node.metadata: got too much",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := readText(t, c.text)
			if err == nil {
				t.Fatal("it was accepted")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("got %d mistakes, want %d:\n%v", len(lines), len(c.want), err)
			}
			for i, want := range c.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("got %q, want %q", lines[i], want)
				}
			}
		})
	}
}

// TestCVEClass19_UnverifiedServerIsRefused: without identities no configuration is taken from another host.
func TestCVEClass19_UnverifiedServerIsRefused(t *testing.T) {
	for target, want := range map[string]string{
		"unix:/run/x.sock": "unix /run/x.sock", "unix:///run/x.sock": "unix /run/x.sock", "unix:@abstract": "unix @abstract",
		"127.0.0.1:15010": "tcp 127.0.0.1:15010", "[::1]:15010": "tcp [::1]:15010", "localhost:1": "tcp localhost:1", "127.9.9.9:1": "tcp 127.9.9.9:1",
		"10.0.0.1:15010": "", "0.0.0.0:15010": "", "control.example:15010": "", "127.0.0.1": "", "127.0.0.1:0": "", "127.0.0.1:http": "",
		"unix:x.sock": "", "unix:": "", "": "", "localhost.evil.example:1": "", "[fe80::1]:1": "", "unix:/" + strings.Repeat("x", 107): "",
	} {
		network, address, err := ParseControl(target)
		if want == "" {
			if err == nil {
				t.Errorf("%q: got %s %s, want it refused", target, network, address)
			}
			if _, err := New(Options{Bootstrap: &Bootstrap{Control: target}}); target != "" && err == nil {
				t.Errorf("%q: a client was made", target)
			}
		} else if err != nil || network+" "+address != want {
			t.Errorf("%q: got %s %s, %v, want %s", target, network, address, err, want)
		}
	}
}

// FuzzBootstrap: any text makes a bootstrap or an error.
func FuzzBootstrap(f *testing.F) {
	f.Add([]byte(bootstrapYAML))
	f.Add([]byte(`{"node": {"id": "x"}, "admin": {}}`))
	f.Add([]byte("node: {metadata: {a: &a [1], b: *a}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBootstrap("b", data)
		if err != nil {
			return
		}
		if _, err := New(Options{Bootstrap: b}); err != nil {
			t.Errorf("read and then not taken: %v", err)
		}
	})
}
