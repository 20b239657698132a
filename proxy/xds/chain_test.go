package xds

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// chainsYAML is a listener with chains that do the same and differ in what is put before their filters.
func chainsYAML(chains ...string) string {
	head, body, _ := strings.Cut(hcmYAML, "- filters:")
	for _, c := range chains {
		head += "- " + c + "\n  filters:" + body
	}
	return head
}

func TestFilterChains(t *testing.T) {
	text := chainsYAML(`name: one
  transport_socket_connect_timeout: 3s
  filter_chain_match: {destination_port: 443, prefix_ranges: [{address_prefix: 10.1.2.3, prefix_len: 8}, {address_prefix: "::ffff:192.0.2.0", prefix_len: 120}],
    server_names: [A.example, "*.B.example"], transport_protocol: tls, application_protocols: [h2, istio], direct_source_prefix_ranges: [{address_prefix: "::1", prefix_len: 128}],
    source_type: EXTERNAL, source_prefix_ranges: [{address_prefix: 0.0.0.0}], source_ports: [1, 65535]}`, "filter_chain_match: {transport_protocol: raw_buffer}")
	_, body, _ := strings.Cut(chainsYAML("name: rest"), "filter_chains:\n- ")
	text += "default_filter_chain:\n  " + body
	got, err := decoded(t, listeners, text)
	if err != nil {
		t.Fatal(err)
	}
	l := got.(*listener)
	http := l.Chains[0].HTTP
	want := []*config.FilterChain{
		{Name: "one", ConnectTimeout: 3 * time.Second, HTTP: http, Match: config.ChainMatch{
			Port: 443, Destinations: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")},
			ServerNames: []string{"a.example", ".b.example"}, Transport: config.TransportTLS, Protocols: []string{"h2", "istio"},
			Directs: []netip.Prefix{netip.MustParsePrefix("::1/128")}, From: config.SourceExternal, Sources: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
			SourcePorts: []uint16{1, 65535},
		}},
		{HTTP: http, Match: config.ChainMatch{Transport: config.TransportPlain}},
	}
	comparePrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, l.Chains, comparePrefix); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&config.FilterChain{Name: "rest", HTTP: http}, l.Otherwise, comparePrefix); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"r", "r", "r"}, l.routes); diff != "" || l.HTTP != nil {
		t.Error(diff, l.HTTP)
	}
}

func TestFilterChainsRefused(t *testing.T) {
	match := func(inner string) string { return chainsYAML("filter_chain_match: {" + inner + "}") }
	const at = "filter_chains[0].filter_chain_match."
	for _, c := range []struct{ name, text, want string }{
		{"the same match twice", chainsYAML("name: a\n  filter_chain_match: {server_names: [a, b]}", "name: b\n  filter_chain_match: {server_names: [B]}"), "filter_chains: got filter chains a and b with the same match"},
		{"no match twice", chainsYAML("name: a", "name: b"), "filter_chains: got filter chains a and b with the same match"},
		{"all names", match(`server_names: ["*"]`), at + "server_names[0]: got *, want a name"},
		{"a star within", match(`server_names: ["a.*.b"]`), at + "server_names[0]: got a.*.b"},
		{"a part of a label", match(`server_names: ["*a.b"]`), at + "server_names[0]: got *a.b"},
		{"no name", match(`server_names: [""]`), at + "server_names[0]"},
		{"a dot in front", match(`server_names: [".a"]`), at + "server_names[0]: got .a"},
		{"a dot behind", match(`server_names: ["a."]`), at + "server_names[0]: got a."},
		{"a transport", match("transport_protocol: quic"), at + "transport_protocol: got quic"},
		{"a prefix", match("prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 33}]"), at + "prefix_ranges[0].prefix_len: got 33"},
		{"an address", match("source_prefix_ranges: [{address_prefix: host, prefix_len: 3}]"), at + "source_prefix_ranges[0].address_prefix: got host"},
		{"a suffix", match("suffix_len: 3"), at + "suffix_len: got 3"},
		{"PROXY the old way", chainsYAML("use_proxy_proto: true"), "filter_chains[0].use_proxy_proto: got true"},
		{"a default that matches", hcmYAML + "default_filter_chain:\n  filter_chain_match: {}\n  filters:" + strings.Split(hcmYAML, "- filters:")[1], "default_filter_chain.filter_chain_match: got a value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decoded(t, listeners, c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestProtocols: which HTTP either side speaks, in the new places and in the old one.
func TestProtocols(t *testing.T) {
	options := func(inner string) string {
		return edsYAML + `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, ` + inner + "}}\n"
	}
	tls := upstreamSocket("validation_context: {trusted_ca: {filename: /ca}}", "")
	const limits = "{max_concurrent_streams: 7, initial_stream_window_size: 65535, initial_connection_window_size: 1048576, allow_connect: true, connection_keepalive: {interval: 30s, timeout: 10s}}"
	full := config.HTTP2{MaxStreams: 7, StreamWindow: 65535, ConnWindow: 1 << 20, ExtendedConnect: true, Keepalive: &config.Keepalive{Interval: 30 * time.Second, Timeout: 10 * time.Second, Jitter: 0.15}}
	for _, c := range []struct {
		name, text string
		protocol   config.Protocol
		http2      config.HTTP2
	}{
		{"nothing", edsYAML, config.ProtocolHTTP1, config.HTTP2{}},
		{"the old place", edsYAML + "http2_protocol_options: {}", config.ProtocolHTTP2, config.HTTP2{}},
		{"HTTP/1", options("explicit_http_config: {http_protocol_options: {}}"), config.ProtocolHTTP1, config.HTTP2{}},
		{"HTTP/2", options("explicit_http_config: {http2_protocol_options: " + limits + "}"), config.ProtocolHTTP2, full},
		{"the client's", options("use_downstream_protocol_config: {http2_protocol_options: " + limits + "}"), config.ProtocolDownstream, full},
		{"negotiated", options("auto_config: {http2_protocol_options: "+limits+"}") + tls, config.ProtocolAuto, full},
	} {
		got, err := decoded(t, clusters, c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if c2 := got.(*cluster); c2.Protocol != c.protocol || !cmp.Equal(c2.HTTP2, c.http2) {
			t.Errorf("%s: got %v, %+v", c.name, c2.Protocol, c2.HTTP2)
		}
	}
	got, err := decoded(t, clusters, edsYAML+"upstream_connection_options: {tcp_keepalive: {keepalive_time: 60, keepalive_interval: 10, keepalive_probes: 3}}")
	if err != nil {
		t.Fatal(err)
	}
	if k := got.(*cluster).Keepalive; k == nil || *k != (config.TCPKeepalive{Time: time.Minute, Interval: 10 * time.Second, Probes: 3}) {
		t.Errorf("probes of the kernel's: got %+v", k)
	}
	for line, want := range map[string]string{
		"upstream_connection_options: {tcp_keepalive: {keepalive_probes: 128}}":                        "tcp_keepalive.keepalive_probes: got 128, want a number from 1 to 127",
		"http2_protocol_options: {connection_keepalive: {interval: 1s}}":                               "KeepaliveSettings.Timeout: value is required",
		"http2_protocol_options: {connection_keepalive: {interval: 0.0001s, timeout: 1s}}":             "KeepaliveSettings.Interval: value must be greater than or equal to 1ms",
		"http2_protocol_options: {connection_keepalive: {timeout: 1s, interval_jitter: {value: 101}}}": "KeepaliveSettings.IntervalJitter",
	} {
		if _, err := decoded(t, clusters, edsYAML+line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
	if _, err := decoded(t, clusters, options("auto_config: {}")); err == nil || !strings.Contains(err.Error(), "auto_config: got no TLS") {
		t.Errorf("negotiated without TLS: %v", err)
	}
	for line, want := range map[string]config.Protocol{"": config.ProtocolAuto, "codec_type: HTTP1": config.ProtocolHTTP1, "codec_type: HTTP2": config.ProtocolHTTP2} {
		got, err := decoded(t, listeners, strings.Replace(hcmYAML, "stat_prefix: s", "stat_prefix: s\n      http2_protocol_options: "+limits+"\n      "+line, 1))
		if err != nil {
			t.Errorf("%s: %v", line, err)
		} else if h := got.(*listener).HTTP; h.Protocol != want || !cmp.Equal(h.HTTP2, full) {
			t.Errorf("%s: got %v, %+v", line, h.Protocol, h.HTTP2)
		}
	}
}
