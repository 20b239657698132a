package xds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const healthEDS = "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n"

func TestHealthCheckDefaults(t *testing.T) {
	got, err := decoded(t, clusters, healthEDS+`health_checks: [{timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 3, http_health_check: {path: /ready}}]
outlier_detection: {}`)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.HealthCheck{
		Timeout: time.Second, Interval: 5 * time.Second, UnhealthyThreshold: 2, HealthyThreshold: 3, UnhealthyInterval: 5 * time.Second,
		UnhealthyEdgeInterval: 5 * time.Second, HealthyEdgeInterval: 5 * time.Second, NoTrafficInterval: time.Minute, NoTrafficHealthyInterval: time.Minute,
		ReuseConnection: true, HTTP: &config.HTTPCheck{Method: "GET", Path: "/ready", Expected: []config.StatusRange{{From: 200, To: 201}}},
	}
	c := got.(*cluster)
	if diff := cmp.Diff(want, c.HealthCheck); diff != "" {
		t.Error(diff)
	}
	outlier := &config.Outlier{
		Interval: 10 * time.Second, BaseEjectionTime: 30 * time.Second, MaxEjectionTime: 5 * time.Minute, MaxEjectionPercent: 10,
		Consecutive5xx: 5, ConsecutiveGateway: 5, ConsecutiveLocal: 5, Enforce5xx: 100, EnforceLocal: 100,
		SuccessRate:       config.RateRule{MinimumHosts: 5, RequestVolume: 100, Threshold: 1900, Enforce: 100, EnforceOfLocal: 100},
		FailurePercentage: config.RateRule{MinimumHosts: 5, RequestVolume: 50, Threshold: 85},
	}
	if diff := cmp.Diff(outlier, c.Outlier); diff != "" {
		t.Error(diff)
	}
}

func TestHealthTellsEverything(t *testing.T) {
	got, err := decoded(t, clusters, healthEDS+`
ignore_health_on_host_removal: true
common_lb_config: {ignore_new_hosts_until_first_hc: true}
health_checks:
- timeout: 1s
  interval: 2s
  initial_jitter: 3s
  interval_jitter: 4s
  interval_jitter_percent: 5
  unhealthy_threshold: 6
  healthy_threshold: 7
  reuse_connection: false
  no_traffic_interval: 8s
  no_traffic_healthy_interval: 9s
  unhealthy_interval: 10s
  unhealthy_edge_interval: 11s
  healthy_edge_interval: 12s
  tcp_health_check: {send: {text: "50494E47"}, receive: [{text: "2b"}, {binary: T0s=}]}
outlier_detection:
  consecutive_5xx: 1
  interval: 2s
  base_ejection_time: 3s
  max_ejection_percent: 4
  enforcing_consecutive_5xx: 5
  enforcing_success_rate: 6
  success_rate_minimum_hosts: 7
  success_rate_request_volume: 8
  success_rate_stdev_factor: 9
  consecutive_gateway_failure: 10
  enforcing_consecutive_gateway_failure: 11
  split_external_local_origin_errors: true
  consecutive_local_origin_failure: 12
  enforcing_consecutive_local_origin_failure: 13
  enforcing_local_origin_success_rate: 14
  failure_percentage_threshold: 15
  enforcing_failure_percentage: 16
  enforcing_failure_percentage_local_origin: 17
  failure_percentage_minimum_hosts: 18
  failure_percentage_request_volume: 19
  max_ejection_time: 20s
  max_ejection_time_jitter: 21s
  successful_active_health_check_uneject_host: false
  always_eject_one_host: true
`)
	if err != nil {
		t.Fatal(err)
	}
	c := got.(*cluster)
	if !c.DropRemoved || !c.SkipUnchecked {
		t.Errorf("DropRemoved %v, SkipUnchecked %v", c.DropRemoved, c.SkipUnchecked)
	}
	const s = time.Second
	check := &config.HealthCheck{
		Timeout: s, Interval: 2 * s, InitialJitter: 3 * s, IntervalJitter: 4 * s, IntervalJitterPercent: 5, UnhealthyThreshold: 6, HealthyThreshold: 7,
		NoTrafficInterval: 8 * s, NoTrafficHealthyInterval: 9 * s, UnhealthyInterval: 10 * s, UnhealthyEdgeInterval: 11 * s, HealthyEdgeInterval: 12 * s,
		TCP: &config.TCPCheck{Send: []byte("PING"), Receive: [][]byte{[]byte("+"), []byte("OK")}},
	}
	if diff := cmp.Diff(check, c.HealthCheck); diff != "" {
		t.Error(diff)
	}
	outlier := &config.Outlier{
		Interval: 2 * s, BaseEjectionTime: 3 * s, MaxEjectionTime: 20 * s, EjectionJitter: 21 * s, MaxEjectionPercent: 4, AlwaysEjectOne: true,
		SplitLocal: true, KeepOnCheck: true, Consecutive5xx: 1, ConsecutiveGateway: 10, ConsecutiveLocal: 12, Enforce5xx: 5, EnforceGateway: 11, EnforceLocal: 13,
		SuccessRate:       config.RateRule{MinimumHosts: 7, RequestVolume: 8, Threshold: 9, Enforce: 6, EnforceOfLocal: 14},
		FailurePercentage: config.RateRule{MinimumHosts: 18, RequestVolume: 19, Threshold: 15, Enforce: 16, EnforceOfLocal: 17},
	}
	if diff := cmp.Diff(outlier, c.Outlier); diff != "" {
		t.Error(diff)
	}
}

func TestHTTPCheckTellsEverything(t *testing.T) {
	got, err := decoded(t, clusters, healthEDS+`health_checks: [{timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 3, http_health_check: {
  host: h.example, path: "/ready?x=1", method: HEAD, expected_statuses: [{start: 200, end: 300}, {start: 404, end: 405}], retriable_statuses: [{start: 500, end: 600}],
  request_headers_to_add: [{header: {key: X-Check, value: a b}}]}}]`)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.HTTPCheck{
		Method: "HEAD", Host: "h.example", Path: "/ready?x=1", Headers: []config.CheckHeader{{Name: "x-check", Value: "a b"}},
		Expected: []config.StatusRange{{From: 200, To: 300}, {From: 404, To: 405}}, Retriable: []config.StatusRange{{From: 500, To: 600}},
	}
	if diff := cmp.Diff(want, got.(*cluster).HealthCheck.HTTP); diff != "" {
		t.Error(diff)
	}
}

func TestGRPCCheckTellsEverything(t *testing.T) {
	check := func(text string) *config.HealthCheck {
		got, err := decoded(t, clusters, healthEDS+"health_checks: [{timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 3, "+text+"}]")
		if err != nil {
			t.Fatal(err)
		}
		return got.(*cluster).HealthCheck
	}
	want := &config.GRPCCheck{Service: "api", Authority: "a.example", Metadata: []config.CheckHeader{{Name: "x-check", Value: "a b"}}}
	if diff := cmp.Diff(want, check("grpc_health_check: {service_name: api, authority: a.example, initial_metadata: [{header: {key: X-Check, value: a b}}]}").GRPC); diff != "" {
		t.Error(diff)
	}
	if c := check("http_health_check: {path: /, codec_client_type: HTTP2}"); !c.HTTP.HTTP2 {
		t.Error("not over HTTP/2")
	}
}

// TestHealthRefused: what is not done, and what is wrong, is named.
func TestHealthRefused(t *testing.T) {
	const one = "{timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 3, tcp_health_check: {}}"
	check := func(inner string) string {
		return "health_checks: [{timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 3, " + inner + "}]"
	}
	http := func(inner string) string { return check("http_health_check: {path: /, " + inner + "}") }
	const at, httpAt = "health_checks[0].", "health_checks[0].http_health_check."
	for _, c := range []struct{ name, text, want string }{
		{"gRPC authority", check("grpc_health_check: {authority: a b}"), at + "grpc_health_check.authority: got a b"},
		{"gRPC authority of others", check("grpc_health_check: {authority: é}"), at + "grpc_health_check.authority: got é"},
		{"gRPC metadata", check("grpc_health_check: {initial_metadata: [{header: {key: grpc-timeout, value: 1S}}]}"), at + "grpc_health_check.initial_metadata[0].header.key: got grpc-timeout"},
		{"gRPC framing", check("grpc_health_check: {initial_metadata: [{header: {key: te, value: a}}]}"), at + "grpc_health_check.initial_metadata[0].header.key: got te"},
		{"custom", check("custom_health_check: {name: redis}"), at + "custom_health_check"},
		{"no checker", check("reuse_connection: true"), "HealthChecker"},
		{"no timeout", "health_checks: [{interval: 5s, unhealthy_threshold: 2, healthy_threshold: 3, tcp_health_check: {}}]", "Timeout"},
		{"threshold", "health_checks: [{timeout: 1s, interval: 5s, unhealthy_threshold: 0, healthy_threshold: 0, tcp_health_check: {}}]", at + "unhealthy_threshold: got 0, want at least 1; " + at + "healthy_threshold: got 0"},
		{"two", "health_checks: [" + one + ", " + one + "]", "health_checks: got 2, want at most one"},
		{"alt_port", check("alt_port: 8080, tcp_health_check: {}"), at + "alt_port: got 8080"},
		{"event log", check("event_log_path: /tmp/log, tcp_health_check: {}"), at + "event_log_path: got /tmp/log"},
		{"TLS", check("tls_options: {alpn_protocols: [h2]}, tcp_health_check: {}"), at + "tls_options: got a value"},
		{"relative path", check("http_health_check: {path: ready}"), httpAt + "path: got ready"},
		{"split request", check(`http_health_check: {path: "/ HTTP/1.1\nx: y"}`), "Path"},
		{"space in path", check(`http_health_check: {path: "/a b"}`), httpAt + "path: got /a b"},
		{"host", http(`host: "a b"`), httpAt + "host: got a b"},
		{"method", http("method: POST"), httpAt + "method: got POST, want GET or HEAD"},
		{"h3", http("codec_client_type: HTTP3"), httpAt + "codec_client_type: got HTTP3, want HTTP1 or HTTP2"},
		{"escapes in h2", check("http_health_check: {path: /%zz, codec_client_type: HTTP2}"), httpAt + "path: got /%zz, want a path with right escapes"},
		{"statuses", http("expected_statuses: [{start: 200, end: 200}]"), httpAt + "expected_statuses[0]: got [200 200]"},
		{"statuses", http("retriable_statuses: [{start: 99, end: 601}]"), httpAt + "retriable_statuses[0]"},
		{"service name", http("service_name_matcher: {exact: x}"), httpAt + "service_name_matcher"},
		{"send", http("send: {text: aa}"), httpAt + "send"},
		{"receive", http("receive: [{text: aa}]"), httpAt + "receive"},
		{"framing", http("request_headers_to_add: [{header: {key: Content-Length, value: \"5\"}}]"), httpAt + "request_headers_to_add[0].header.key: got content-length"},
		{"variable", http(`request_headers_to_add: [{header: {key: a, value: "%HOSTNAME%"}}]`), httpAt + "request_headers_to_add[0].header.value"},
		{"pseudo header", http(`request_headers_to_add: [{header: {key: ":path", value: "/"}}]`), httpAt + "request_headers_to_add[0].header.key"},
		{"append action", http("request_headers_to_add: [{header: {key: a, value: b}, append_action: ADD_IF_ABSENT}]"), httpAt + "request_headers_to_add[0].append_action"},
		{"hexadecimal", check("tcp_health_check: {send: {text: xyz}}"), at + "tcp_health_check.send.text: got xyz"},
		{"long block", check("tcp_health_check: {receive: [{text: \"" + strings.Repeat("aa", 5000) + "\"}]}"), at + "tcp_health_check.receive[0]: got 5000"},
		{"PROXY protocol", check("tcp_health_check: {proxy_protocol_config: {}}"), at + "tcp_health_check.proxy_protocol_config"},
		{"max below base", "outlier_detection: {base_ejection_time: 20s, max_ejection_time: 10s}", "outlier_detection.max_ejection_time: got 10s, want at least base_ejection_time, 20s"},
		{"percentage", "outlier_detection: {max_ejection_percent: 101}", "MaxEjectionPercent"},
		{"monitors", "outlier_detection: {monitors: [{name: m, typed_config: {\"@type\": type.googleapis.com/google.protobuf.Empty}}]}", "outlier_detection.monitors"},
		{"degraded", "outlier_detection: {detect_degraded_hosts: true}", "outlier_detection.detect_degraded_hosts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decoded(t, clusters, healthEDS+c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to contain %q", err, c.want)
			}
		})
	}
}
