package e2e

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestStockEnvoyDividesRequestsAlike: with one configuration the shares that hosts get are those of a stock Envoy, by weights,
// priorities, localities, health and panic, whichever form a policy has.
func TestStockEnvoyDividesRequestsAlike(t *testing.T) {
	const hosts = 6
	var ports []string
	for i := range hosts {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }))
		t.Cleanup(s.Close)
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	// host is one with a health, or with other fields.
	host := func(i int, fields string) string {
		if fields != "" && !strings.Contains(fields, ":") {
			fields = "health_status: " + fields
		}
		return fmt.Sprintf("{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}, %s}", ports[i], fields)
	}
	group := func(fields string, from int, health ...string) string {
		var list []string
		for i, h := range health {
			list = append(list, host(from+i, h))
		}
		return "{" + fields + ", lb_endpoints: [" + strings.Join(list, ", ") + "]}"
	}
	const weighted = "common_lb_config: {locality_weighted_lb_config: {}}"
	typed := func(name, fields string) string {
		return `load_balancing_policy: {policies: [{typed_extension_config: {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.` + name + fields + `}}}]}`
	}
	const h, u, d = "HEALTHY", "UNHEALTHY", "DEGRADED"
	clusters := map[string]struct{ policy, groups string }{
		"weights":             {"lb_policy: ROUND_ROBIN", group("priority: 0", 0, "load_balancing_weight: 1", "load_balancing_weight: 2", "load_balancing_weight: 5")},
		"least weights":       {"lb_policy: LEAST_REQUEST", group("priority: 0", 0, "load_balancing_weight: 1", "load_balancing_weight: 3")},
		"random":              {"lb_policy: RANDOM", group("priority: 0", 0, h, h, h)},
		"spill":               {"lb_policy: ROUND_ROBIN", group("priority: 0", 0, h, u, h) + ", " + group("priority: 1", 3, h, h)},
		"spill more":          {"lb_policy: ROUND_ROBIN", group("priority: 0", 0, h, u, u) + ", " + group("priority: 1", 3, h, h, u)},
		"too few":             {"lb_policy: ROUND_ROBIN, common_lb_config: {healthy_panic_threshold: {value: 0}}", group("priority: 0", 0, h, u, u) + ", " + group("priority: 1", 3, u, u, h)},
		"panic":               {"lb_policy: ROUND_ROBIN", group("priority: 0", 0, h, u, u)},
		"panic everywhere":    {"lb_policy: RANDOM", group("priority: 0", 0, h, u, u, u) + ", " + group("priority: 1", 4, u, u)},
		"degraded":            {"lb_policy: ROUND_ROBIN", group("priority: 0", 0, h, d, u, h)},
		"degraded alone":      {"lb_policy: ROUND_ROBIN", group("priority: 0", 0, d, d, u)},
		"degraded behind":     {"lb_policy: ROUND_ROBIN", group("priority: 0", 0, h, d, u, u) + ", " + group("priority: 1", 4, h)},
		"localities":          {weighted, group("locality: {zone: a}, load_balancing_weight: 3", 0, h) + ", " + group("locality: {zone: b}, load_balancing_weight: 1", 1, h, h)},
		"localities sick":     {weighted, group("locality: {zone: a}, load_balancing_weight: 1", 0, h, u, u) + ", " + group("locality: {zone: b}, load_balancing_weight: 1", 3, h, h, h)},
		"localities of typed": {typed("random.v3.Random", ", locality_lb_config: {locality_weighted_lb_config: {}}"), group("locality: {zone: a}, load_balancing_weight: 4", 0, h) + ", " + group("locality: {zone: b}, load_balancing_weight: 1", 1, h, h)},
		"scan":                {typed("least_request.v3.LeastRequest", ", selection_method: FULL_SCAN"), group("priority: 0", 0, h, h, u)},
	}
	var configured, routes []string
	names := slices.Sorted(maps.Keys(clusters))
	for i, name := range names {
		c := clusters[name]
		configured = append(configured, fmt.Sprintf("{name: %q, %s, load_assignment: {cluster_name: %[1]q, endpoints: [%[3]s]}}", name, c.policy, c.groups))
		routes = append(routes, fmt.Sprintf("{match: {path: /%d}, route: {cluster: %q}}", i, name))
	}
	proxies := startPair(t, strings.Join(routes, ", "), strings.Join(configured, ", "))
	const requests = 1500 // four standard deviations of the difference are 7 % at most
	for i, name := range names {
		shares := map[string]map[string]float64{}
		for proxy, port := range proxies {
			shares[proxy] = map[string]float64{}
			for range requests {
				resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/%d", port, i))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 {
					body = fmt.Append(nil, resp.StatusCode)
				}
				shares[proxy][string(body)] += 1. / requests
			}
		}
		for _, who := range slices.Sorted(maps.Keys(shares["envoy"])) {
			if math.Abs(shares["envoy"][who]-shares["mesh-proxy"][who]) > .07 {
				t.Errorf("%s: host %s gets %.3f, %.3f of Envoy", name, who, shares["mesh-proxy"][who], shares["envoy"][who])
			}
		}
		if len(shares["envoy"]) != len(shares["mesh-proxy"]) {
			t.Errorf("%s: %v of mesh-proxy, %v of Envoy", name, shares["mesh-proxy"], shares["envoy"])
		}
	}
}
