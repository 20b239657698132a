package xds

import (
	"strings"
	"testing"
	"time"
)

// What this proxy does not enforce is refused by its name, never skipped: a deny rule must not become an allow rule
// (CVE-2021-36213, CVE-2024-52529).
func TestCVEClass07_WhatIsNotEnforcedIsRefused(t *testing.T) {
	hcm := func(line string) string {
		return strings.Replace(hcmYAML, "stat_prefix: s", "stat_prefix: s\n      "+line, 1)
	}
	route := func(match, rest string) string {
		return "name: x\nvirtual_hosts: [{name: v, domains: [a], routes: [{match: {prefix: / " + match + "}, route: {cluster: c}" + rest + "}]}]"
	}
	rbac := `typed_config: {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a}`
	for _, c := range []struct {
		name string
		k    kind
		text string
		want string
	}{
		{"an HTTP filter", listeners, strings.Replace(hcmYAML, "http_filters: [", "http_filters: [{name: envoy.filters.http.rbac, "+rbac+"}, ", 1), "http_filters[0]"},
		{"a disabled filter", listeners, strings.Replace(hcmYAML, "http_filters: [", "http_filters: [{name: rbac, disabled: true, "+rbac+"}, ", 1), "http_filters[0]"},
		{"an optional filter", listeners, strings.Replace(hcmYAML, "http_filters: [", "http_filters: [{name: rbac, is_optional: true, "+rbac+"}, ", 1), "http_filters[0]"},
		{"TLS", listeners, strings.Replace(hcmYAML, "- filters:", "- transport_socket: {name: tls}\n  filters:", 1), "transport_socket"},
		{"a filter chain's match", listeners, strings.Replace(hcmYAML, "- filters:", "- filter_chain_match: {address_suffix: 10.0.0.1, suffix_len: 8}\n  filters:", 1), "filter_chain_match.suffix_len"},
		{"a tree of matches", listeners, hcmYAML + "filter_chain_matcher: {on_no_match: {action: {name: a}}}\n", "filter_chain_matcher"},
		{"a revocation list", listeners, tlsListener("", "trusted_ca: {filename: /ca}, crl: {filename: /crl}", ""), "validation_context.crl"},
		{"stapling", listeners, tlsListener("", "", "ocsp_staple_policy: MUST_STAPLE, "), "ocsp_staple_policy"},
		{"a certificate from elsewhere", clusters, "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n" + upstreamSocket("tls_certificate_sds_secret_configs: [{name: a, sds_config: {ads: {}}}]", ""), "tls_certificate_sds_secret_configs"},
		{"headers with underscores", clusters, "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\ncommon_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}", "headers_with_underscores_action"},
		{"a path that is not normalised", listeners, hcm("normalize_path: false"), "normalize_path"},
		{"a client certificate's header", listeners, hcm("forward_client_cert_details: SANITIZE_SET"), "forward_client_cert_details"},
		{"a client certificate's header with an addition", listeners, hcm("forward_client_cert_details: APPEND_FORWARD"), "forward_client_cert_details"},
		{"what the header is to tell", listeners, hcm("set_current_client_cert_details: {uri: true}"), "set_current_client_cert_details"},
		{"addresses that are believed", listeners, hcm("internal_address_config: {unix_sockets: true}"), "internal_address_config"},
		{"a match by header", routeTables, route(`, headers: [{name: a, range_match: {start: 1, end: 2}}]`, ""), "range_match"},
		{"a match by query", routeTables, route(`, query_parameters: [{name: a, present_match: true}]`, ""), "query_parameters"},
		{"a match by TLS", routeTables, route(`, tls_context: {presented: true}`, ""), "tls_context"},
		{"a filter of a route", routeTables, route("", `, typed_per_filter_config: {rbac: {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a}}`), "typed_per_filter_config"},
		{"headers of a route", routeTables, route("", `, request_headers_to_remove: [authorization]`), "request_headers_to_remove"},
		{"TLS to a cluster", clusters, "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\ntransport_socket: {name: tls}", "transport_socket"},
	} {
		if _, err := decoded(t, c.k, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it refused by its name, %s", c.name, err, c.want)
		}
	}
}

// A head takes a bounded time whatever the configuration leaves out (CVE-2026-22045).
func TestCVEClass16_HeadsHaveABoundByDefault(t *testing.T) {
	for lines, want := range map[string]time.Duration{
		"": 5 * time.Minute, "\n      stream_idle_timeout: 9s": 9 * time.Second, "\n      request_headers_timeout: 0s": 5 * time.Minute,
		"\n      request_headers_timeout: 3s\n      stream_idle_timeout: 0s": 3 * time.Second,
	} {
		got, err := decoded(t, listeners, strings.Replace(hcmYAML, "stat_prefix: s", "stat_prefix: s"+lines, 1))
		if err != nil {
			t.Fatal(err)
		}
		if h := got.(*listener).HTTP; h.RequestHeadersTimeout != want {
			t.Errorf("with %q a head may take %s, want %s", lines, h.RequestHeadersTimeout, want)
		}
	}
}
