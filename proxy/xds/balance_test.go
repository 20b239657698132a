package xds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const balanceEDS = "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n"

func TestClusterBalancing(t *testing.T) {
	type balancing = config.Balancing
	for _, c := range []struct {
		text   string
		policy config.Policy
		want   balancing
	}{
		{"", config.RoundRobin, balancing{}},
		{"lb_policy: RANDOM\ncommon_lb_config: {locality_weighted_lb_config: {}}", config.Random, balancing{LocalityWeighted: true}},
		{"lb_policy: LEAST_REQUEST\nleast_request_lb_config: {choice_count: 2}", config.LeastRequest, balancing{}},
		{
			"lb_policy: LEAST_REQUEST\nleast_request_lb_config: {choice_count: 5, active_request_bias: {default_value: 0, runtime_key: k}, slow_start_config: {slow_start_window: 30s, aggression: {default_value: 2, runtime_key: k}, min_weight_percent: {value: 25}}}",
			config.LeastRequest,
			balancing{Choice: &config.Choice{Hosts: 5}, SlowStart: &config.SlowStart{Window: 30 * time.Second, Aggression: 2, MinWeight: .25}},
		},
		{"round_robin_lb_config: {slow_start_config: {slow_start_window: 1s}}", config.RoundRobin, balancing{SlowStart: &config.SlowStart{Window: time.Second, Aggression: 1, MinWeight: .1}}},
		{"round_robin_lb_config: {slow_start_config: {}}", config.RoundRobin, balancing{}},
		{"lb_policy: RING_HASH", config.RingHash, balancing{Ring: &config.Ring{Min: 1024, Max: 8 << 20}}},
		{
			"lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: 7, maximum_ring_size: 9, hash_function: MURMUR_HASH_2}",
			config.RingHash,
			balancing{Ring: &config.Ring{Min: 7, Max: 9, Murmur: true}},
		},
		{"type: STRICT_DNS\nlb_policy: MAGLEV\ncommon_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}", config.Maglev, balancing{MaglevSize: 65537, HashHostname: true}},
		{"lb_policy: MAGLEV", config.Maglev, balancing{MaglevSize: 65537}},
		{"lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 251}", config.Maglev, balancing{MaglevSize: 251}},
	} {
		head := balanceEDS
		if strings.HasPrefix(c.text, "type: ") {
			head = "name: x\nload_assignment: {cluster_name: x}\n"
		}
		got, err := decoded(t, clusters, head+c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		cl := got.(*cluster)
		if diff := cmp.Diff(c.want, cl.Balancing); diff != "" || cl.Policy != c.policy {
			t.Errorf("%s: policy %d\n%s", c.text, cl.Policy, diff)
		}
	}
}

func TestRouteHashPolicies(t *testing.T) {
	got, err := decoded(t, routeTables, `
name: x
virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: c, hash_policy: [
  {header: {header_name: X-User}, terminal: true}, {cookie: {name: sid}}, {header: {header_name: ":path"}}, {connection_properties: {source_ip: true}}]}}]}]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []config.HashPolicy{{Header: "x-user", Terminal: true}, {Cookie: "sid"}, {Header: ":path"}, {SourceIP: true}}
	if diff := cmp.Diff(want, got.(*config.RouteTable).VirtualHosts[0].Routes[0].Hash); diff != "" {
		t.Error(diff)
	}
}

func TestBalancingRefused(t *testing.T) {
	hash := func(policy string) string {
		return "name: x\nvirtual_hosts: [{name: v, domains: [a], routes: [{match: {prefix: /}, route: {cluster: c, hash_policy: [" + policy + "]}}]}]"
	}
	const first = "virtual_hosts[0].routes[0].route.hash_policy[0]"
	least := func(text string) string {
		return balanceEDS + "lb_policy: LEAST_REQUEST\nleast_request_lb_config: {" + text + "}"
	}
	ring := func(text string) string {
		return balanceEDS + "lb_policy: RING_HASH\nring_hash_lb_config: {" + text + "}"
	}
	for _, c := range []struct {
		k          kind
		text, want string
	}{
		{clusters, balanceEDS + "ring_hash_lb_config: {}", "ring_hash_lb_config: got a value, want it unset with lb_policy ROUND_ROBIN"},
		{clusters, balanceEDS + "lb_policy: RANDOM\nleast_request_lb_config: {}", "least_request_lb_config: got a value, want it unset with lb_policy RANDOM"},
		{clusters, balanceEDS + "common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}", "use_hostname_for_hashing: got true, want false, or type STRICT_DNS"},
		{clusters, balanceEDS + "common_lb_config: {zone_aware_lb_config: {}}", "common_lb_config.zone_aware_lb_config: got a value"},
		{clusters, balanceEDS + "common_lb_config: {consistent_hashing_lb_config: {hash_balance_factor: 150}}", "consistent_hashing_lb_config.hash_balance_factor: got 150"},
		{clusters, least("choice_count: 257"), "least_request_lb_config.choice_count: got 257, want 2 to 256"},
		{clusters, least("choice_count: 1"), "ChoiceCount"},
		{clusters, least("active_request_bias: {default_value: -1, runtime_key: k}"), "active_request_bias.default_value: got -1"},
		{clusters, least("active_request_bias: {default_value: NaN, runtime_key: k}"), "active_request_bias.default_value: got NaN"},
		{clusters, least("slow_start_config: {slow_start_window: 1s, aggression: {default_value: 0, runtime_key: k}}"), "slow_start_config.aggression: got 0, want more than 0"},
		{clusters, least("slow_start_config: {slow_start_window: 0.0001s}"), "slow_start_window: got 100µs"},
		{clusters, ring("minimum_ring_size: 9, maximum_ring_size: 8"), "ring_hash_lb_config.minimum_ring_size: got 9"},
		{clusters, ring("minimum_ring_size: 0"), "ring_hash_lb_config.minimum_ring_size: got 0"},
		{clusters, balanceEDS + "lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 65536}", "maglev_lb_config.table_size: got 65536, want a prime"},
		{clusters, balanceEDS + "lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 1}", "maglev_lb_config.table_size: got 1, want a prime"},
		{endpoints, "cluster_name: x\npolicy: {weighted_priority_health: true}", "policy.weighted_priority_health: got true"},
		{routeTables, hash("{query_parameter: {name: a}}"), first + ".query_parameter: got a value"},
		{routeTables, hash("{filter_state: {key: a}}"), first + ".filter_state: got a value"},
		{routeTables, hash("{cookie: {name: a, ttl: 0s}}"), first + ".cookie.ttl: got a value"},
		{routeTables, hash("{header: {header_name: a, regex_rewrite: {pattern: {regex: a}}}}"), first + ".header.regex_rewrite: got a value"},
		{routeTables, hash("{header: {header_name: ':scheme'}}"), first + ".header.header_name: got :scheme"},
		{routeTables, hash("{header: {header_name: x-forwarded-proto}}"), first + ".header.header_name: got x-forwarded-proto"},
		{routeTables, hash("{connection_properties: {}}"), first + ".connection_properties.source_ip: got false"},
	} {
		if _, err := decoded(t, c.k, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot %v\nwant %s", c.text, err, c.want)
		}
	}
}
