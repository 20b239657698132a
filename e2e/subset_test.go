package e2e

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestStockEnvoyUsesTheSameSubsets: with one configuration a stock Envoy and mesh-proxy give requests to the same hosts, whatever
// the labels that a route wants, the fallbacks, and the form in which subsets are configured.
func TestStockEnvoyUsesTheSameSubsets(t *testing.T) {
	labels := []string{
		`stage: prod, version: "1.0", id: a`, `stage: prod, version: "1.0", id: b`, `stage: prod, version: "1.1", id: c`,
		`stage: dev, version: "1.2", id: c`, `stage: [dev, canary], version: 2, id: d`, ``,
	}
	var hosts []string
	for i, l := range labels {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }))
		t.Cleanup(s.Close)
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		health := ""
		if i == 1 {
			health = ", health_status: UNHEALTHY"
		}
		hosts = append(hosts, fmt.Sprintf("{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}, metadata: {filter_metadata: {envoy.lb: {%s}}}%s}", port, l, health))
	}
	assigned := func(name string) string {
		return fmt.Sprintf("load_assignment: {cluster_name: %s, endpoints: [{locality: {zone: a}, load_balancing_weight: 3, lb_endpoints: [%s]}, {locality: {zone: b}, load_balancing_weight: 1, lb_endpoints: [%s]}]}",
			name, strings.Join(hosts[:4], ", "), strings.Join(hosts[4:], ", "))
	}
	const selectors = "subset_selectors: [{keys: [stage, version]}, {keys: [stage]}, {keys: [version], fallback_policy: ANY_ENDPOINT}, {keys: [id], fallback_policy: NO_FALLBACK}, " +
		"{keys: [id, stage], fallback_policy: DEFAULT_SUBSET}, {keys: [id, stage, version], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [stage, version]}]"
	const panic0 = "common_lb_config: {healthy_panic_threshold: {value: 0}}"
	clusters := map[string]string{
		"none":    "lb_subset_config: {" + selectors + "}",
		"any":     "lb_subset_config: {fallback_policy: ANY_ENDPOINT, " + selectors + "}, " + panic0,
		"default": "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {stage: dev}, " + selectors + "}, lb_policy: RANDOM",
		"listed":  "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {stage: canary}, list_as_any: true, " + selectors + "}, lb_policy: LEAST_REQUEST",
		"missing": "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {stage: nowhere}, " + selectors + "}",
		"panic":   "lb_subset_config: {fallback_policy: DEFAULT_SUBSET, default_subset: {stage: nowhere}, panic_mode_any: true, " + selectors + "}, " + panic0,
		"single":  "lb_subset_config: {subset_selectors: [{keys: [id], single_host_per_subset: true}]}",
		"tried":   "lb_subset_config: {metadata_fallback_policy: FALLBACK_LIST, subset_selectors: [{keys: [stage, version]}, {keys: [stage]}]}, " + panic0,
		"weights": "lb_subset_config: {locality_weight_aware: true, scale_locality_weight: true, subset_selectors: [{keys: [stage]}], list_as_any: true}, common_lb_config: {locality_weighted_lb_config: {}}",
		"typed": `load_balancing_policy: {policies: [{typed_extension_config: {name: s, typed_config: {"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset, ` +
			`allow_redundant_keys: true, subset_selectors: [{keys: [stage]}, {keys: [stage, version]}, {keys: [id]}], subset_lb_policy: {policies: [{typed_extension_config: {name: r, typed_config: ` +
			`{"@type": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin}}}]}}}}]}`,
	}
	wants := []string{
		"", "stage: prod", "stage: dev", "stage: canary", "stage: [dev, canary]", `version: "1.0"`, `version: "9"`, "version: 2", `version: "2"`,
		`stage: prod, version: "1.0"`, `version: "1.1", stage: prod`, "stage: dev, version: 2", "stage: prod, version: 2", "id: a", "id: c", "id: b", "id: z", "other: x", "stage: nowhere",
		"id: z, stage: prod", "id: a, stage: prod", `id: z, stage: prod, version: "1.0"`, `id: a, stage: prod, version: "1.0"`, `id: z, stage: z, version: "1.0"`, "stage: prod, other: x",
		`fallback_list: [{version: "9"}, {version: "1.1"}], stage: prod`, "fallback_list: [{stage: z}, {stage: dev}]", "fallback_list: [], stage: dev", `fallback_list: [{stage: z}], stage: dev`, "fallback_list: x, stage: dev",
		"stage: null", "stage: true", "stage: {a: b}",
	}
	var configured, routes []string
	for _, name := range slices.Sorted(maps.Keys(clusters)) {
		configured = append(configured, fmt.Sprintf("{name: %s, %s, %s}", name, clusters[name], assigned(name)))
		for i, want := range wants {
			metadata := ""
			if want != "" {
				metadata = fmt.Sprintf(", metadata_match: {filter_metadata: {envoy.lb: {%s}}}", want)
			}
			routes = append(routes, fmt.Sprintf("{match: {path: /%s/%d}, route: {cluster: %[1]s%[3]s}}", name, i, metadata))
		}
	}
	// What a weighted cluster wants is added to what its route wants.
	routes = append(routes, `{match: {path: /merged}, route: {metadata_match: {filter_metadata: {envoy.lb: {stage: prod, version: "1.0"}}}, weighted_clusters: {clusters: [
		{name: none, weight: 1, metadata_match: {filter_metadata: {envoy.lb: {version: "1.1"}}}}]}}}`)
	ports := startPair(t, strings.Join(routes, ", "), strings.Join(configured, ", "))
	for _, name := range slices.Sorted(maps.Keys(clusters)) {
		for i, want := range wants {
			comparePair(t, ports, fmt.Sprintf("/%s/%d", name, i), fmt.Sprintf("%s {%s}", name, want))
		}
	}
	comparePair(t, ports, "/merged", "merged")
}

// startPair runs a stock Envoy and mesh-proxy with one configuration, and returns their ports.
func startPair(t *testing.T, routes, clusters string) map[string]int {
	t.Helper()
	dir := shortDir(t)
	ports := map[string]int{}
	for name, argv := range map[string][]string{
		"envoy":      {envoyBinary(t), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"},
		"mesh-proxy": {bin(t, "mesh-proxy")},
	} {
		file := filepath.Join(dir, name+".yaml")
		ports[name] = testbed.FreePort(t)
		writeFile(t, file, fmt.Sprintf(hashBootstrap, testbed.FreePort(t), ports[name], routes, clusters))
		start(t, name, append(argv, "-c", file)...)
	}
	for name, port := range ports {
		eventually(t, 30*time.Second, name+" answers", func() error {
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
	}
	return ports
}

// comparePair asks both until each has answered in the same ways.
func comparePair(t *testing.T, ports map[string]int, path, what string) {
	t.Helper()
	const requests = 60 // of six equal hosts none is missed by chance in more than one of ten thousand runs
	got := map[string]map[string]bool{}
	for name, port := range ports {
		got[name] = map[string]bool{}
		for range requests {
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != 200 {
				body = nil
			}
			got[name][fmt.Sprint(resp.StatusCode, " ", string(body))] = true
		}
	}
	if !maps.Equal(got["envoy"], got["mesh-proxy"]) {
		t.Errorf("%s: %v of mesh-proxy, %v of Envoy", what, slices.Sorted(maps.Keys(got["mesh-proxy"])), slices.Sorted(maps.Keys(got["envoy"])))
	}
}
