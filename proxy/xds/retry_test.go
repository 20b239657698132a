package xds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestRetryPolicy(t *testing.T) {
	const without = config.RetryReset | config.RetryConnectFailure | config.RetryRefusedStream
	for _, c := range []struct {
		name, text string
		want       config.Retry
	}{
		{"default", "{retry_on: connect-failure}", config.Retry{On: config.RetryConnectFailure, Max: 1}},
		{"none", "{retry_on: 5xx, num_retries: 0}", config.Retry{On: config.Retry5xx | without}},
		{"names", `{retry_on: "gateway-error, reset-before-request,envoy-ratelimited"}`, config.Retry{On: config.RetryGatewayError | without | config.RetryResetBeforeRequest | config.RetryRateLimited, Max: 1}},
		{"gRPC", `{retry_on: "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable"}`, config.Retry{On: config.RetryGRPC, Max: 1}},
		{"codes", `{retry_on: "retriable-4xx,retriable-status-codes", retriable_status_codes: [418, 503], num_retries: 7}`, config.Retry{On: config.Retry4xx | config.RetryStatusCodes, Max: 7, Statuses: []int{418, 503}}},
		{"headers", `{retry_on: retriable-headers, retriable_headers: [{name: X-Again}], retriable_request_headers: [{name: ":method", string_match: {exact: GET}}]}`, config.Retry{
			On: config.RetryHeaders, Max: 1, Headers: []config.HeaderMatch{{Name: "x-again", Present: true}}, RequestHeaders: []config.HeaderMatch{{Name: ":method", Exact: "GET"}},
		}},
		{"times", `{retry_on: reset, per_try_timeout: 1s, per_try_idle_timeout: 2s, host_selection_retry_max_attempts: 5}`, config.Retry{On: without, Max: 1, PerTryTimeout: time.Second, PerTryIdle: 2 * time.Second}},
		{"back-off", `{retry_on: reset, retry_back_off: {base_interval: 0.1s}}`, config.Retry{On: without, Max: 1, BackOff: 100 * time.Millisecond, MaxBackOff: time.Second}},
		{"longest back-off", `{retry_on: reset, retry_back_off: {base_interval: 0.0001s, max_interval: 3s}}`, config.Retry{On: without, Max: 1, BackOff: time.Millisecond, MaxBackOff: 3 * time.Second}},
		{"rate limited", `{retry_on: reset, rate_limited_retry_back_off: {reset_headers: [{name: Retry-After}, {name: X-Reset, format: UNIX_TIMESTAMP}]}}`, config.Retry{
			On: without, Max: 1, RateLimited: &config.RateLimitedBackOff{Headers: []config.ResetHeader{{Name: "retry-after"}, {Name: "x-reset", Unix: true}}, Max: 300 * time.Second},
		}},
	} {
		got, err := decoded(t, routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [a], routes: [{match: {prefix: /}, route: {cluster: c, retry_policy: "+c.text+"}}]}]")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, got.(*config.RouteTable).VirtualHosts[0].Routes[0].Retry); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestRetryPolicyRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"{retry_on: unknown}", "retry_on: got unknown"},
		{"{retry_on: http3-post-connect-failure}", "retry_on: got http3-post-connect-failure"},
		{"{retry_on: 5xx, retriable_status_codes: [99]}", "retriable_status_codes[0]: got 99, want 200 to 599"},
		{"{retry_on: 5xx, retriable_headers: [{name: \":status\", string_match: {exact: \"500\"}}]}", "retriable_headers[0].name: got :status"},
		{"{retry_on: 5xx, retriable_headers: [{name: a, range_match: {start: 1, end: 2}}]}", "retriable_headers[0].range_match"},
		{"{retry_on: 5xx, retry_back_off: {base_interval: 2s, max_interval: 1s}}", "retry_back_off"},
		{"{retry_on: 5xx, retry_priority: {name: a}}", "retry_priority: got a value"},
		{"{retry_on: 5xx, retry_options_predicates: [{name: a}]}", "retry_options_predicates: got a value"},
		{"{retry_on: 5xx, refresh_cluster_on_retry: true}", "refresh_cluster_on_retry: got true"},
		{"{retry_on: 5xx, retry_host_predicate: [{name: envoy.retry_host_predicates.omit_canary_hosts}]}", "retry_host_predicate[0]"},
	} {
		_, err := decoded(t, routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [a], routes: [{match: {prefix: /}, route: {cluster: c, retry_policy: "+c.text+"}}]}]")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}

func TestRequestPolicy(t *testing.T) {
	const lines = `via: mesh
      skip_xff_append: true
      normalize_path: true
      merge_slashes: true
      path_with_escaped_slashes_action: `
	for action, slashes := range map[string]config.Slashes{
		"IMPLEMENTATION_SPECIFIC_DEFAULT": config.SlashesKeep, "KEEP_UNCHANGED": config.SlashesKeep, "REJECT_REQUEST": config.SlashesReject,
		"UNESCAPE_AND_REDIRECT": config.SlashesRedirect, "UNESCAPE_AND_FORWARD": config.SlashesForward,
	} {
		for name, underscores := range map[string]config.Underscores{"ALLOW": config.UnderscoresAllow, "REJECT_REQUEST": config.UnderscoresReject, "DROP_HEADER": config.UnderscoresDrop} {
			got, err := decoded(t, listeners, strings.Replace(hcmYAML, "stat_prefix: s", "stat_prefix: s\n      "+lines+action+
				"\n      common_http_protocol_options: {max_stream_duration: 3s, max_connection_duration: 60s, max_requests_per_connection: 9, headers_with_underscores_action: "+name+"}", 1))
			if err != nil {
				t.Fatal(err)
			}
			want := config.RequestPolicy{
				Via: "mesh", SkipXFFAppend: true, Slashes: slashes, MergeSlashes: true, Underscores: underscores,
				MaxStreamDuration: 3 * time.Second, MaxConnectionDuration: time.Minute, MaxConnectionRequests: 9,
			}
			if diff := cmp.Diff(want, got.(*listener).HTTP.RequestPolicy); diff != "" {
				t.Errorf("%s, %s:\n%s", action, name, diff)
			}
		}
	}
}

func TestMaxStreamDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "max_stream_duration: {}": 0, "max_stream_duration: {max_stream_duration: 4s}": 4 * time.Second, "max_stream_duration: {max_stream_duration: 0s}": -1} {
		got, err := decoded(t, routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [a], routes: [{match: {prefix: /}, route: {cluster: c, "+text+"}}]}]")
		if err != nil {
			t.Fatal(err)
		}
		if d := got.(*config.RouteTable).VirtualHosts[0].Routes[0].MaxDuration; d != want {
			t.Errorf("%q: %v, want %v", text, d, want)
		}
	}
}

// TestDeadlines: a route with a max_stream_duration of any kind has no timeout, as in Envoy.
func TestDeadlines(t *testing.T) {
	for text, want := range map[string]config.Route{
		"timeout: 4s":                          {Timeout: 4 * time.Second},
		"timeout: 4s, max_stream_duration: {}": {TellDeadline: true},
		"timeout: 4s, max_stream_duration: {grpc_timeout_header_max: 0s}": {TellDeadline: true, GRPCTimeout: &config.GRPCTimeout{}},
		"max_stream_duration: {max_stream_duration: 1s, grpc_timeout_header_max: 3s, grpc_timeout_header_offset: 0.5s}": {
			TellDeadline: true, MaxDuration: time.Second, GRPCTimeout: &config.GRPCTimeout{Max: 3 * time.Second, Offset: 500 * time.Millisecond},
		},
		"max_stream_duration: {grpc_timeout_header_offset: 0.5s}": {TellDeadline: true},
	} {
		got, err := decoded(t, routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [a], include_request_attempt_count: true, routes: [{match: {prefix: /}, route: {cluster: c, "+text+"}}]}]")
		if err != nil {
			t.Fatal(err)
		}
		r := got.(*config.RouteTable).VirtualHosts[0].Routes[0]
		if diff := cmp.Diff(want, config.Route{Timeout: r.Timeout, TellDeadline: r.TellDeadline, MaxDuration: r.MaxDuration, GRPCTimeout: r.GRPCTimeout}); diff != "" || !r.TellHostAttempts || r.TellClientAttempts {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestClusterLimits(t *testing.T) {
	const eds = "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n"
	got, err := decoded(t, clusters, eds+"common_http_protocol_options: {max_requests_per_connection: 5, max_connection_duration: 60s}\ncircuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 30}}}]}")
	if err != nil {
		t.Fatal(err)
	}
	c := got.(*cluster)
	if c.MaxConnRequests != 5 || c.MaxConnDuration != time.Minute || c.RetryBudget == nil || *c.RetryBudget != (config.RetryBudget{Percent: 30, MinConcurrency: 3}) {
		t.Errorf("%d requests, %v, budget %+v", c.MaxConnRequests, c.MaxConnDuration, c.RetryBudget)
	}
	if got, err = decoded(t, clusters, eds+"max_requests_per_connection: 1\ncircuit_breakers: {thresholds: [{retry_budget: {min_retry_concurrency: 0}}]}"); err != nil {
		t.Fatal(err)
	}
	if c = got.(*cluster); c.MaxConnRequests != 1 || *c.RetryBudget != (config.RetryBudget{Percent: 20}) {
		t.Errorf("%d requests, budget %+v", c.MaxConnRequests, c.RetryBudget)
	}
	for text, want := range map[string]string{
		"circuit_breakers: {thresholds: [{retry_budget: {budget_interval: 1s}}]}": "retry_budget.budget_interval",
		"common_http_protocol_options: {max_stream_duration: 1s}":                 "max_stream_duration: got 1s",
	} {
		if _, err := decoded(t, clusters, eds+text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
