package xds

import (
	"strings"
	"testing"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/pick_first/v3" // not known to the reader
	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestSubsets(t *testing.T) {
	full := &config.Subsets{
		Selectors: []config.Selector{
			{Keys: []string{"a", "b"}, Fallback: config.FallbackKeys, FallbackKeys: []string{"b"}},
			{Keys: []string{"b"}, Single: true, Fallback: config.FallbackDefault},
			{Keys: []string{"c"}, Fallback: config.FallbackNone},
			{Keys: []string{"d"}, Fallback: config.FallbackAny},
			{Keys: []string{"e"}},
		},
		Fallback: config.FallbackDefault, Default: `{"x":1,"y":[true,null,{"a":"<b>","z":""}]}`,
		LocalityWeights: true, ScaleLocality: true, PanicAny: true, ListAsAny: true, FallbackList: true,
	}
	for i, e := range full.Selectors {
		if e.FallbackKeys == nil {
			full.Selectors[i].FallbackKeys = nil
		}
	}
	// The text of labels is that of package json: < is escaped in it.
	full.Default = config.Labels(strings.NewReplacer("<", `\u003c`, ">", `\u003e`).Replace(string(full.Default)))
	const fields = `fallback_policy: DEFAULT_SUBSET, default_subset: {y: [true, null, {z: "", a: <b>}], x: 1}, locality_weight_aware: true, scale_locality_weight: true,
  panic_mode_any: true, list_as_any: true, metadata_fallback_policy: FALLBACK_LIST, subset_selectors: [
  {keys: [b, a, b], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [b]}, {keys: [b], single_host_per_subset: true, fallback_policy: DEFAULT_SUBSET},
  {keys: [c], fallback_policy: NO_FALLBACK}, {keys: [d], fallback_policy: ANY_ENDPOINT}, {keys: [e]}]`
	redundant := *full
	redundant.RedundantKeys = true
	for _, c := range []struct {
		name, text string
		want       *config.Subsets
	}{
		{"none", "", nil},
		{"empty", "lb_subset_config: {}", &config.Subsets{Fallback: config.FallbackNone}},
		{"every field", "lb_subset_config: {" + fields + "}", full},
		{
			"as an extension",
			typedPolicy("subset.v3.Subset", "allow_redundant_keys: true, subset_lb_policy: {policies: [{typed_extension_config: {name: a, typed_config: {\"@type\": "+
				"type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin}}}]}, "+fields),
			&redundant,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decoded(t, clusters, balanceEDS+c.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.(*cluster).Subsets); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// typedPolicy is a policy as an extension, behind one that nobody knows.
func typedPolicy(name, fields string) string {
	if fields != "" {
		fields = ", " + fields
	}
	return `load_balancing_policy: {policies: [
  {typed_extension_config: {name: other, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst}}},
  {typed_extension_config: {name: ours, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.` + name + fields + `}}}]}`
}

func TestTypedPolicies(t *testing.T) {
	type balancing = config.Balancing
	const (
		weighted = "locality_lb_config: {locality_weighted_lb_config: {}}"
		inner    = `{policies: [{typed_extension_config: {name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest, choice_count: 3}}}]}`
	)
	for _, c := range []struct {
		name, fields string
		policy       config.Policy
		want         balancing
	}{
		{"round_robin.v3.RoundRobin", "slow_start_config: {slow_start_window: 2s, aggression: {default_value: 3, runtime_key: k}}, " + weighted, config.RoundRobin, balancing{
			LocalityWeighted: true, SlowStart: &config.SlowStart{Window: 2 * time.Second, Aggression: 3, MinWeight: .1},
		}},
		{"least_request.v3.LeastRequest", "", config.LeastRequest, balancing{}},
		{"least_request.v3.LeastRequest", "choice_count: 4, active_request_bias: {default_value: 2, runtime_key: k}, " + weighted, config.LeastRequest, balancing{
			LocalityWeighted: true, Choice: &config.Choice{Hosts: 4, Bias: 2},
		}},
		{"least_request.v3.LeastRequest", "selection_method: FULL_SCAN", config.LeastRequest, balancing{Choice: &config.Choice{Hosts: 2, Bias: 1, All: true}}},
		{"least_request.v3.LeastRequest", "enable_full_scan: true", config.LeastRequest, balancing{Choice: &config.Choice{Hosts: 2, Bias: 1, All: true}}},
		{"random.v3.Random", weighted, config.Random, balancing{LocalityWeighted: true}},
		{"ring_hash.v3.RingHash", "", config.RingHash, balancing{Ring: &config.Ring{Min: 1024, Max: 8 << 20}}},
		{
			"ring_hash.v3.RingHash", "hash_function: MURMUR_HASH_2, minimum_ring_size: 5, maximum_ring_size: 6, locality_weighted_lb_config: {}", config.RingHash,
			balancing{LocalityWeighted: true, Ring: &config.Ring{Min: 5, Max: 6, Murmur: true}},
		},
		{"maglev.v3.Maglev", "table_size: 251, consistent_hashing_lb_config: {}", config.Maglev, balancing{MaglevSize: 251}},
		{"wrr_locality.v3.WrrLocality", "endpoint_picking_policy: " + inner, config.LeastRequest, balancing{LocalityWeighted: true, Choice: &config.Choice{Hosts: 3, Bias: 1}}},
		{"subset.v3.Subset", "subset_lb_policy: " + inner, config.LeastRequest, balancing{Choice: &config.Choice{Hosts: 3, Bias: 1}}},
	} {
		// What lb_policy says does not count.
		got, err := decoded(t, clusters, balanceEDS+"lb_policy: RANDOM\n"+typedPolicy(c.name, c.fields))
		if err != nil {
			t.Errorf("%s {%s}: %v", c.name, c.fields, err)
			continue
		}
		cl := got.(*cluster)
		if diff := cmp.Diff(c.want, cl.Balancing); diff != "" || cl.Policy != c.policy {
			t.Errorf("%s {%s}: policy %d\n%s", c.name, c.fields, cl.Policy, diff)
		}
	}
}

func TestLabelsOfRoutesAreMerged(t *testing.T) {
	const metadata = "{filter_metadata: {envoy.lb: {%}, other: {a: b}}}"
	with := func(fields string) string { return strings.Replace(metadata, "%", fields, 1) }
	got, err := decoded(t, routeTables, `
name: x
virtual_hosts: [{name: v, domains: ["*"], routes: [
  {match: {prefix: /one}, route: {cluster: c, metadata_match: `+with("v: '1', n: 2.5")+`}},
  {match: {prefix: /}, route: {metadata_match: `+with("v: '1', stage: prod")+`, weighted_clusters: {clusters: [
    {name: a, weight: 1, metadata_match: `+with("v: '2'")+`}, {name: b, weight: 1}, {name: c, weight: 1, metadata_match: {filter_metadata: {other: {v: x}}}}]}}}]}]
`)
	if err != nil {
		t.Fatal(err)
	}
	routes := got.(*config.RouteTable).VirtualHosts[0].Routes
	want := [][]config.WeightedCluster{
		{{Name: "c", Weight: 1, Labels: `{"n":2.5,"v":"1"}`}},
		{
			{Name: "a", Weight: 1, Labels: `{"stage":"prod","v":"2"}`},
			{Name: "b", Weight: 1, Labels: `{"stage":"prod","v":"1"}`},
			{Name: "c", Weight: 1, Labels: `{"stage":"prod","v":"1"}`},
		},
	}
	if diff := cmp.Diff(want, [][]config.WeightedCluster{routes[0].Clusters, routes[1].Clusters}); diff != "" {
		t.Error(diff)
	}
	tcp := func(fields string) []config.WeightedCluster {
		got, err := decoded(t, listeners, `
name: x
address: {socket_address: {address: 127.0.0.1, port_value: 80}}
filter_chains: [{filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, `+fields+`}}]}]
`)
		if err != nil {
			t.Fatal(err)
		}
		return got.(*listener).TCP.Clusters
	}
	if diff := cmp.Diff([]config.WeightedCluster{{Name: "c", Weight: 1, Labels: `{"v":"1"}`}}, tcp("cluster: c, metadata_match: "+with("v: '1'"))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]config.WeightedCluster{{Name: "a", Weight: 1, Labels: `{"u":true,"v":"2"}`}},
		tcp("weighted_clusters: {clusters: [{name: a, weight: 1, metadata_match: "+with("v: '2'")+"}]}, metadata_match: "+with("v: '1', u: true"))); diff != "" {
		t.Error(diff)
	}
}

func TestOriginalDst(t *testing.T) {
	const head = "name: x\ntype: ORIGINAL_DST\n"
	for _, c := range []struct {
		text string
		want config.OriginalDst
	}{
		{"lb_policy: CLUSTER_PROVIDED", config.OriginalDst{Cleanup: 5 * time.Second}},
		{typedPolicy("cluster_provided.v3.ClusterProvided", ""), config.OriginalDst{Cleanup: 5 * time.Second}},
		{"lb_policy: CLUSTER_PROVIDED\noriginal_dst_lb_config: {use_http_header: true, upstream_port_override: 81}\ncleanup_interval: 9s", config.OriginalDst{Header: "x-envoy-original-dst-host", Port: 81, Cleanup: 9 * time.Second}},
		{"lb_policy: CLUSTER_PROVIDED\noriginal_dst_lb_config: {use_http_header: true, http_header_name: X-To}", config.OriginalDst{Header: "x-to", Cleanup: 5 * time.Second}},
	} {
		got, err := decoded(t, clusters, head+c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		cl := got.(*cluster)
		if diff := cmp.Diff(&c.want, cl.OriginalDst); diff != "" || !cl.Assigned {
			t.Errorf("%s: assigned %t\n%s", c.text, cl.Assigned, diff)
		}
	}
	got, err := decoded(t, listeners, hcmYAML+`listener_filters: [{name: o, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}}]`)
	if err != nil || !got.(*listener).OriginalDst {
		t.Errorf("got %+v, %v", got, err)
	}
}

// proxyHeaderYAML is a transport socket with that configuration around one of another kind.
func proxyHeaderYAML(fields, inner string) string {
	return `transport_socket: {name: envoy.transport_sockets.upstream_proxy_protocol, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, ` +
		`config: {` + fields + `}, transport_socket: ` + inner + `}}`
}

const rawBuffer = `{name: envoy.transport_sockets.raw_buffer, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}`

func TestProxyHeader(t *testing.T) {
	for _, c := range []struct {
		text string
		want *config.ProxyHeader
	}{
		{"transport_socket: " + rawBuffer, nil},
		{proxyHeaderYAML("", rawBuffer), &config.ProxyHeader{Version: 1}},
		{proxyHeaderYAML("version: V2, added_tlvs: [{type: 234, value: YWJj}]", rawBuffer), &config.ProxyHeader{Version: 2, TLVs: []config.ProxyTLV{{Type: 234, Value: "abc"}}}},
	} {
		got, err := decoded(t, clusters, balanceEDS+c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if diff := cmp.Diff(c.want, got.(*cluster).ProxyHeader); diff != "" {
			t.Errorf("%s:\n%s", c.text, diff)
		}
	}
}

// TestProxyHeaderAroundTLS: what is inside is read, and judged, as where it stands alone.
func TestProxyHeaderAroundTLS(t *testing.T) {
	inside := func(common string) string {
		return proxyHeaderYAML("version: V2", strings.TrimPrefix(upstreamSocket(common, "sni: web.mesh, "), "transport_socket: "))
	}
	const auto = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, auto_config: {}}}`
	const ca = "validation_context: {trusted_ca: {filename: /ca.pem}}"
	got, err := decoded(t, clusters, balanceEDS+auto+"\n"+inside(ca))
	if err != nil {
		t.Fatal(err)
	}
	if c := got.(*cluster); c.ProxyHeader == nil || c.ProxyHeader.Version != 2 || c.TLS == nil || c.TLS.ServerName != "web.mesh" || c.Protocol != config.ProtocolAuto {
		t.Errorf("got %+v, %+v, protocol %d", c.ProxyHeader, c.TLS, c.Protocol)
	}
	const typed = "transport_socket.typed_config.transport_socket.typed_config."
	for _, c := range []struct{ text, want string }{
		{inside(""), typed + "common_tls_context.validation_context: got none, want one: servers are not left unverified"},
		{strings.Replace(inside(ca), "sni: web.mesh", "allow_renegotiation: true", 1), typed + "allow_renegotiation: got true"},
		{strings.Replace(strings.Replace(inside(ca), "sni: web.mesh, ", "", 1), "UpstreamTlsContext", "DownstreamTlsContext", 1), "transport_socket.typed_config.transport_socket: got envoy.transport_sockets.tls (envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext)"},
		{proxyHeaderYAML("", proxyHeaderYAML("", rawBuffer)[len("transport_socket: "):]), "transport_socket.typed_config.transport_socket: got envoy.transport_sockets.upstream_proxy_protocol"},
		{inside(ca) + "\ntransport_socket_matches: [{name: a, match: {b: c}, transport_socket: " + rawBuffer + "}]", "transport_socket_matches: got a value, want it unset with envoy.transport_sockets.upstream_proxy_protocol"},
		{"transport_socket_matches: [{name: a, match: {b: c}, " + inside(ca) + "}]", "transport_socket_matches[0].transport_socket: got envoy.transport_sockets.upstream_proxy_protocol"},
	} {
		if _, err := decoded(t, clusters, balanceEDS+c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot %v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestClustersRefused(t *testing.T) {
	subset := func(text string) string { return balanceEDS + "lb_subset_config: {" + text + "}" }
	selector := func(text string) string { return subset("subset_selectors: [{" + text + "}]") }
	const original = "name: x\ntype: ORIGINAL_DST\nlb_policy: CLUSTER_PROVIDED\n"
	for _, c := range []struct{ text, want string }{
		{selector("keys: []"), "subset_selectors[0].keys: got 0, want 1 to 16 keys"},
		{selector("keys: [a, b], single_host_per_subset: true"), "subset_selectors[0].single_host_per_subset: got true, want it with exactly one key"},
		{selector("keys: [a, b], fallback_policy: KEYS_SUBSET"), "fallback_keys_subset: got [], want some of the keys, not all"},
		{selector("keys: [a, b], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [b, a]"), "fallback_keys_subset: got [a b], want some of the keys, not all"},
		{selector("keys: [a, b], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [c]"), "fallback_keys_subset: got [c], want some of the keys, not all"},
		{selector("keys: [a, b], fallback_keys_subset: [b]"), "fallback_keys_subset: got a value, want it with fallback_policy KEYS_SUBSET only"},
		{subset("scale_locality_weight: true"), "scale_locality_weight: got true, want it with locality_weight_aware"},
		{subset("subset_selectors: [" + strings.Repeat("{keys: [a]},", 65) + "]"), "subset_selectors: got 65, want at most 64"},
		{subset("fallback_policy: 7"), "FallbackPolicy"},
		{balanceEDS + "load_balancing_policy: {}", "load_balancing_policy.policies: got none, want one of round_robin"},
		{
			balanceEDS + `load_balancing_policy: {policies: [{typed_extension_config: {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst}}}]}`,
			"load_balancing_policy.policies: got p (envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst), want one of",
		},
		{balanceEDS + typedPolicy("random.v3.Random", "locality_lb_config: {zone_aware_lb_config: {}}"), "typed_config.locality_lb_config.zone_aware_lb_config: got a value"},
		{balanceEDS + typedPolicy("maglev.v3.Maglev", "consistent_hashing_lb_config: {hash_balance_factor: 120}"), "typed_config.consistent_hashing_lb_config.hash_balance_factor: got 120"},
		{balanceEDS + typedPolicy("maglev.v3.Maglev", "consistent_hashing_lb_config: {use_hostname_for_hashing: true}"), "use_hostname_for_hashing: got true, want false, or type STRICT_DNS"},
		{balanceEDS + typedPolicy("maglev.v3.Maglev", "table_size: 10"), "policies[1].typed_extension_config.typed_config.table_size: got 10, want a prime"},
		{balanceEDS + typedPolicy("subset.v3.Subset", ""), "SubsetLbPolicy: value is required"},
		{balanceEDS + typedPolicy("cluster_provided.v3.ClusterProvided", ""), "typed_config: got CLUSTER_PROVIDED, want another policy"},
		{balanceEDS + typedPolicy("random.v3.Random", "") + "\nlb_subset_config: {}\ncommon_lb_config: {locality_weighted_lb_config: {}}", "locality_weighted_lb_config: got a value, want it unset with load_balancing_policy; lb_subset_config: got a value"},
		{original + "lb_subset_config: {}", "lb_subset_config: got a value, want it unset with lb_policy CLUSTER_PROVIDED"},
		{original + "load_assignment: {cluster_name: x}", "load_assignment: got a value, want it unset with type ORIGINAL_DST"},
		{original + "outlier_detection: {}", "outlier_detection: got a value, want it unset with type ORIGINAL_DST"},
		{original + "original_dst_lb_config: {http_header_name: a}", "http_header_name: got a, want it with use_http_header"},
		{original + "original_dst_lb_config: {use_http_header: true, http_header_name: ':path'}", "http_header_name: got :path"},
		{original + "original_dst_lb_config: {upstream_port_override: 0}", "upstream_port_override"},
		{original + "original_dst_lb_config: {metadata_key: {key: a, path: [{key: b}]}}", "original_dst_lb_config.metadata_key: got a value"},
		{"name: x\ntype: ORIGINAL_DST\n" + typedPolicy("random.v3.Random", ""), "got Random, want ClusterProvided with type ORIGINAL_DST"},
		{balanceEDS + "cleanup_interval: 1s", "cleanup_interval: got 1s, want it with type ORIGINAL_DST only"},
		{balanceEDS + "original_dst_lb_config: {}", "original_dst_lb_config: got a value, want it unset with lb_policy ROUND_ROBIN"},
		{balanceEDS + proxyHeaderYAML("added_tlvs: [{type: 1, value: YQ==}]", rawBuffer), "config.added_tlvs: got a value, want it with version V2 only"},
		{balanceEDS + proxyHeaderYAML("version: V2, added_tlvs: [{type: 1, value: "+strings.Repeat("YWFh", 1024)+"}]", rawBuffer), "config.added_tlvs: got 3075, want at most 2048 bytes"},
		{balanceEDS + proxyHeaderYAML("version: V2, added_tlvs: [{type: 1}]", rawBuffer), "config.added_tlvs[0].value: got none, want a value"},
		{balanceEDS + proxyHeaderYAML("version: V2, added_tlvs: [{type: 1, format_string: {text_format_source: {inline_string: a}}}]", rawBuffer), "added_tlvs[0].format_string: got a value"},
		{balanceEDS + proxyHeaderYAML("version: V2, pass_through_tlvs: {}", rawBuffer), "config.pass_through_tlvs: got a value"},
		{balanceEDS + proxyHeaderYAML("", "{name: envoy.transport_sockets.alts}"), "transport_socket.typed_config.transport_socket: got envoy.transport_sockets.alts without a typed_config"},
	} {
		if _, err := decoded(t, clusters, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot %v\nwant %s", c.text, err, c.want)
		}
	}
}
