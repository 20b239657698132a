package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// hashBootstrap has a listener whose first path segment names one of the clusters.
const hashBootstrap = `node: {id: hash, cluster: test}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  listeners:
    - name: in
      address: {socket_address: {address: 127.0.0.1, port_value: %d}}
      filter_chains:
        - filters:
            - name: hcm
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: in
                use_remote_address: true
                route_config:
                  name: r
                  virtual_hosts: [{name: v, domains: ["*"], routes: [%s]}]
                http_filters:
                  - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters: [%s]
`

// TestStockEnvoyHashesToTheSameHosts: with one configuration a stock Envoy and mesh-proxy send each key to the same host, by every
// table and every kind of key. A mesh can then change proxies host by host without emptying a cache.
func TestStockEnvoyHashesToTheSameHosts(t *testing.T) {
	dir := shortDir(t)
	var hosts, piped []string
	for i := range 6 {
		answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) })
		s := httptest.NewServer(answer)
		t.Cleanup(s.Close)
		path := filepath.Join(dir, fmt.Sprint("h", i))
		if i%2 > 0 {
			path = "@" + path
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		u := &http.Server{Handler: answer}
		go func() { _ = u.Serve(l) }()
		t.Cleanup(func() { u.Close() })
		piped = append(piped, fmt.Sprintf("{endpoint: {address: {pipe: {path: %q}}}, load_balancing_weight: %d}", path, 1+i%3))
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		// In two localities, of other weights, and one of them with a key of its own.
		more := ""
		if i == 4 {
			more = ", metadata: {filter_metadata: {envoy.lb: {hash_key: four}}}"
		}
		hosts = append(hosts, fmt.Sprintf("{endpoint: {hostname: h%d, address: {socket_address: {address: 127.0.0.1, port_value: %s}}}, load_balancing_weight: %d%s}", i, port, 1+i%3, more))
	}
	assigned := fmt.Sprintf("endpoints: [{locality: {zone: a}, load_balancing_weight: 3, lb_endpoints: [%s]}, {locality: {zone: b}, load_balancing_weight: 1, lb_endpoints: [%s]}]",
		strings.Join(hosts[:4], ", "), strings.Join(hosts[4:], ", "))
	onPipes := fmt.Sprintf("endpoints: [{lb_endpoints: [%s, %s]}]", strings.Join(piped, ", "), hosts[0])
	var clusters, routes []string
	for name, policy := range map[string]string{
		"ring":     "lb_policy: RING_HASH",
		"murmur":   "lb_policy: RING_HASH, ring_hash_lb_config: {hash_function: MURMUR_HASH_2, minimum_ring_size: 333}",
		"capped":   "lb_policy: RING_HASH, ring_hash_lb_config: {maximum_ring_size: 100, minimum_ring_size: 90}",
		"names":    "type: STRICT_DNS, lb_policy: RING_HASH, common_lb_config: {consistent_hashing_lb_config: {use_hostname_for_hashing: true}}",
		"weighted": "lb_policy: RING_HASH, common_lb_config: {locality_weighted_lb_config: {}}",
		"maglev":   "lb_policy: MAGLEV",
		"pipes":    "lb_policy: RING_HASH",
		"piped":    "lb_policy: MAGLEV",
		"prime":    "lb_policy: MAGLEV, maglev_lb_config: {table_size: 251}, common_lb_config: {locality_weighted_lb_config: {}}",
	} {
		of := assigned
		if strings.HasPrefix(name, "pipe") {
			of = onPipes
		}
		clusters = append(clusters, fmt.Sprintf("{name: %s, %s, load_assignment: {cluster_name: %[1]s, %[3]s}}", name, policy, of))
		routes = append(routes, fmt.Sprintf("{match: {prefix: /%s}, route: {cluster: %[1]s, hash_policy: [{header: {header_name: x-user}}, {cookie: {name: sid}}, "+
			"{header: {header_name: \":path\"}}, {connection_properties: {source_ip: true}}]}}", name))
	}
	ports, admins := map[string]int{}, map[string]int{}
	for name, argv := range map[string][]string{
		"envoy":      {envoyBinary(t), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"},
		"mesh-proxy": {bin(t, "mesh-proxy")},
	} {
		file := filepath.Join(dir, name+".yaml")
		ports[name], admins[name] = testbed.FreePort(t), testbed.FreePort(t)
		writeFile(t, file, fmt.Sprintf(hashBootstrap, admins[name], ports[name], strings.Join(routes, ", "), strings.Join(clusters, ", ")))
		start(t, name, append(argv, "-c", file)...)
	}
	ask := func(proxy, path string, fields http.Header) (string, error) {
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", ports[proxy], path), nil)
		if err != nil {
			return "", err
		}
		req.Header = fields.Clone()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", string(body)), err
	}
	for proxy := range ports {
		eventually(t, 30*time.Second, proxy+" answers", func() error { _, err := ask(proxy, "/ring", nil); return err })
	}
	for _, name := range []string{"ring", "murmur", "capped", "names", "weighted", "maglev", "prime", "pipes", "piped"} {
		met := map[string]bool{}
		for i := range 120 {
			path, fields := fmt.Sprintf("/%s/%d?q=%d", name, i, i%7), http.Header{}
			switch i % 4 {
			case 1:
				fields.Set("X-User", fmt.Sprint("user", i))
			case 2:
				fields["X-User"] = []string{fmt.Sprint(i), "b", "a"}
				fields.Set("Cookie", fmt.Sprintf("a=b; sid=\"s%d\"", i))
			case 3:
				fields.Set("Cookie", fmt.Sprintf("sid=a-value-of-more-than-thirty-two-bytes-%d", i))
			}
			want, err := ask("envoy", path, fields)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ask("mesh-proxy", path, fields)
			if err != nil || got != want || !strings.HasPrefix(want, "200 ") {
				t.Errorf("%s, request %d: %q of mesh-proxy, %q of Envoy, %v", name, i, got, want, err)
				for proxy, admin := range admins {
					text, _ := fetch(fmt.Sprintf("127.0.0.1:%d", admin), "", "/stats")
					for line := range strings.Lines(text) {
						if strings.HasPrefix(line, "cluster."+name+".") && !strings.HasSuffix(line, ": 0\n") {
							t.Log(proxy, line)
						}
					}
				}
			}
			met[got] = true
		}
		if len(met) < 4 {
			t.Errorf("%s: all requests met %v", name, met)
		}
	}
}
