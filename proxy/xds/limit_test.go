package xds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestConnectionLimitFilter(t *testing.T) {
	const filter = `{name: envoy.filters.network.connection_limit, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, stat_prefix: few`
	with := func(filters string) string {
		return strings.Replace(hcmYAML, "  - name:", filters+"  - name:", 1)
	}
	if with("x") == hcmYAML {
		t.Fatalf("no filter in\n%s", hcmYAML)
	}
	for _, c := range []struct {
		name, text string
		want       *config.ConnectionLimit
		refused    string
	}{
		{"none", hcmYAML, nil, ""},
		{"limit", with("  - " + filter + ", max_connections: 5}}\n"), &config.ConnectionLimit{StatPrefix: "few", Max: 5}, ""},
		{"delay", with("  - " + filter + ", max_connections: 5, delay: 2s}}\n"), &config.ConnectionLimit{StatPrefix: "few", Max: 5, Delay: 2 * time.Second}, ""},
		{"zero", with("  - " + filter + ", max_connections: 0}}\n"), nil, "filter_chains[0].filters[0].typed_config: invalid ConnectionLimit.MaxConnections"},
		{"runtime", with("  - " + filter + ", max_connections: 5, runtime_enabled: {default_value: false}}}\n"), nil, "filter_chains[0].filters[0].typed_config.runtime_enabled"},
		{"twice", with(strings.Repeat("  - "+filter+", max_connections: 5}}\n", 2)), nil, "filter_chains[0].filters[1]: got envoy.filters.network.connection_limit"},
		{"another", with(`  - {name: envoy.filters.network.echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit}}` + "\n"), nil, "filter_chains[0].filters[0].typed_config: invalid ConnectionLimit.StatPrefix"},
		{"last", `{name: x, address: {socket_address: {address: 127.0.0.1, port_value: 80}}, filter_chains: [{filters: [` + filter + `, max_connections: 5}}]}]}`, nil, "filter_chains[0].filters[0]: got envoy.filters.network.connection_limit"},
		{"no filter", `{name: x, address: {socket_address: {address: 127.0.0.1, port_value: 80}}, filter_chains: [{}]}`, nil, "filter_chains[0].filters: got 0, want a filter that serves"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decoded(t, listeners, c.text)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %v, want %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			l := got.(*listener)
			var limit *config.ConnectionLimit
			for chain := range l.Each() {
				limit = chain.Limit
			}
			if diff := cmp.Diff(c.want, limit); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestConnectionBalance(t *testing.T) {
	for _, c := range []struct {
		lines   string
		want    config.Balance
		refused string
	}{
		{"", config.BalanceDefault, ""},
		{"connection_balance_config: {exact_balance: {}}\n", config.BalanceExact, ""},
		{"connection_balance_config: {extend_balance: {name: a, typed_config: {\"@type\": type.googleapis.com/envoy.config.core.v3.Pipe, path: a}}}\n", 0, "connection_balance_config.extend_balance"},
		{"connection_balance_config: {}\n", 0, "invalid Listener_ConnectionBalanceConfig.BalanceType"},
	} {
		got, err := decoded(t, listeners, hcmYAML+c.lines)
		switch {
		case c.refused != "":
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: got %v, want %q", c.lines, err, c.refused)
			}
		case err != nil:
			t.Errorf("%s: %v", c.lines, err)
		case got.(*listener).Balance != c.want:
			t.Errorf("%s: got %v", c.lines, got.(*listener).Balance)
		}
	}
}

// TestOverloadManager: Envoy's own words for it, and what is refused of them.
func TestOverloadManager(t *testing.T) {
	const types = `"@type": type.googleapis.com/envoy.extensions.resource_monitors.`
	all := `
overload_manager:
  refresh_interval: 0.25s
  resource_monitors:
  - {name: envoy.resource_monitors.fixed_heap, typed_config: {` + types + `fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1073741824}}
  - {name: envoy.resource_monitors.cgroup_memory, typed_config: {` + types + `cgroup_memory.v3.CgroupMemoryConfig, max_memory_bytes: 2000}}
  - {name: envoy.resource_monitors.injected_resource, typed_config: {` + types + `injected_resource.v3.InjectedResourceConfig, filename: /run/pressure}}
  - {name: envoy.resource_monitors.global_downstream_max_connections, typed_config: {` + types + `downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 1000}}
  actions:
  - {name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.95}}]}
  - {name: envoy.overload_actions.disable_http_keepalive, triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.92}}, {name: envoy.resource_monitors.injected_resource, threshold: {value: 0.5}}]}
  - {name: envoy.overload_actions.reset_high_memory_stream, triggers: [{name: envoy.resource_monitors.cgroup_memory, scaled: {scaling_threshold: 0.9, saturation_threshold: 0.98}}]}
`
	at := func(r config.OverloadResource, from, to float64) config.OverloadTrigger {
		return config.OverloadTrigger{Resource: r, From: from, To: to}
	}
	want := &config.Overload{
		Interval: 250 * time.Millisecond, MaxHeap: 1 << 30, Cgroup: true, MaxCgroup: 2000, Injected: "/run/pressure", MaxConnections: 1000,
		Actions: []config.OverloadAction{
			{Kind: config.ShedRequests, Triggers: []config.OverloadTrigger{at(config.ResourceHeap, 0.95, 0.95)}},
			{Kind: config.ShedKeepAlive, Triggers: []config.OverloadTrigger{at(config.ResourceHeap, 0.92, 0.92), at(config.ResourceInjected, 0.5, 0.5)}},
			{Kind: config.ShedStreams, Triggers: []config.OverloadTrigger{at(config.ResourceCgroup, 0.9, 0.98)}},
		},
	}
	b, err := readText(t, all)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.Overload); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	replace := func(old, with string) string {
		if !strings.Contains(all, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(all, old, with, 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"monitor", replace(types+"fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1073741824", types+"cpu_utilization.v3.CpuUtilizationConfig"), "b:5: overload_manager.resource_monitors[0]"},
		{"its name", replace("{name: envoy.resource_monitors.cgroup_memory, typed", "{name: memory, typed"), "b:6: overload_manager.resource_monitors[1].name: got memory, want envoy.resource_monitors.cgroup_memory"},
		{"action", replace("envoy.overload_actions.disable_http_keepalive", "envoy.overload_actions.reduce_timeouts"), "b:11: overload_manager.actions[1].name: got envoy.overload_actions.reduce_timeouts"},
		{"action twice", replace("envoy.overload_actions.disable_http_keepalive", "envoy.overload_actions.stop_accepting_requests"), "b:11: overload_manager.actions[1].name: got envoy.overload_actions.stop_accepting_requests, want each action once"},
		{"trigger of nothing", replace("triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.95}}]", "triggers: [{name: envoy.resource_monitors.heap, threshold: {value: 0.95}}]"), "b:10: overload_manager.actions[0].triggers[0].name"},
		{"trigger twice", replace("{name: envoy.resource_monitors.injected_resource, threshold: {value: 0.5}}", "{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.5}}"), "b:11: overload_manager.actions[1].triggers[1].name"},
		{"scaled backwards", replace("saturation_threshold: 0.98", "saturation_threshold: 0.5"), "b:12: overload_manager.actions[2].triggers[0].scaled: got 0.9 to 0.5"},
		{"interval", replace("0.25s", "0s"), "b:3: overload_manager.refresh_interval: got 0s, want at least 1ms"},
		{"path", replace("/run/pressure", "pressure"), "b:7: overload_manager.resource_monitors[2].typed_config.filename: got pressure, want an absolute path"},
		{"shed points", replace("  actions:", "  loadshed_points: [{name: a, triggers: [{name: b, threshold: {value: 1}}]}]\n  actions:"), "b:9: overload_manager.loadshed_points: got a value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := readText(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestRuntimeLimits: of the runtime there are the keys that bound connections, nothing else.
func TestRuntimeLimits(t *testing.T) {
	b, err := readText(t, `
layered_runtime:
  layers:
  - {name: a, static_layer: {envoy.resource_limits.listener.web.connection_limit: 10, overload: {global_downstream_max_connections: "500"}}}
  - {name: b, static_layer: {envoy: {resource_limits: {listener: {web.a: {connection_limit: 7}}}}, overload.global_downstream_max_connections: 400}}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Overload{Interval: time.Second, MaxConnections: 400, MaxListenerConnections: map[string]uint64{"web": 10, "web.a": 7}}
	if diff := cmp.Diff(want, b.Overload); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		"{name: a, static_layer: {re2.max_program_size.error_level: 1}}":                       "layered_runtime.layers[0].static_layer.re2.max_program_size.error_level: got re2.max_program_size.error_level, want envoy.resource_limits.listener.NAME.connection_limit",
		"{name: a, static_layer: {overload.global_downstream_max_connections: many}}":          "got many, want a number of at least 1",
		"{name: a, static_layer: {overload.global_downstream_max_connections: 1.5}}":           "got 1.5, want a number of at least 1",
		"{name: a, static_layer: {envoy.resource_limits.listener.web.connection_limit: true}}": "got true, want a number",
		"{name: a, static_layer: {envoy.resource_limits.listener..connection_limit: 1}}":       "got envoy.resource_limits.listener..connection_limit",
		"{name: a, disk_layer: {symlink_root: /x}}":                                            "layered_runtime.layers[0].disk_layer: got a value, want it unset",
		"{name: a, admin_layer: {}}":                                                           "layered_runtime.layers[0].admin_layer: got a value, want it unset",
	} {
		if _, err := readText(t, "layered_runtime: {layers: ["+text+"]}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
