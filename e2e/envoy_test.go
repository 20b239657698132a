package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// envoyBinary is the stock Envoy that e2e/setup.sh installs into the cache.
func envoyBinary(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "hostmesh", "envoy-1.40.0", "envoy", "_bin", "envoy")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make setup first (make test does)", err)
	}
	return path
}

const envoyBootstrap = `node:
  id: stock-envoy
  cluster: test
  metadata: {outbound: "%[1]s", upstreams: [orders, "*"]}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}}
dynamic_resources:
  ads_config:
    api_type: %[3]s
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: mesh-control}}]
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
    - name: mesh-control
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: mesh-control
        endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[4]s}}}}]}]
`

func TestStockEnvoyStandsWhereMeshProxyStands(t *testing.T) {
	for _, apiType := range []string{"DELTA_GRPC", "GRPC"} {
		t.Run(apiType, func(t *testing.T) {
			p, static := newOrders(t)
			p.startControl(t)
			adminPort := testbed.FreePort(t)
			file := filepath.Join(p.dir, "envoy.yaml")
			writeFile(t, file, fmt.Sprintf(envoyBootstrap, p.outbound, adminPort, apiType, filepath.Join(p.dir, "xds.sock")))
			start(t, "envoy", envoyBinary(t), "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning")
			p.eventuallyAnswers(t, "orders.mesh.internal", "orders v1\n")
			addDemo(t, static, "second") // it follows a change
			p.eventuallyAnswers(t, "second.mesh.internal", "second v1\n")
			acceptedEverything(t, p)
		})
	}
}

// acceptedEverything waits until the one client has acknowledged all it was sent, and fails if it refused anything.
func acceptedEverything(t testing.TB, p parts) {
	t.Helper()
	eventually(t, 20*time.Second, "everything is acknowledged", func() error {
		var proxies controlplane.Proxies
		if err := fetchJSON(p.api, "/api/v1/proxies", &proxies); err != nil {
			return err
		}
		if len(proxies.Proxies) != 1 || len(proxies.Proxies[0].Types) != 4 {
			return fmt.Errorf("clients %+v, want one with four types", proxies.Proxies)
		}
		for _, kind := range proxies.Proxies[0].Types {
			if kind.Nack != nil {
				t.Fatalf("%s refused: %s", kind.Type, kind.Nack.Reason)
			}
			if kind.Acked < kind.Sent {
				return fmt.Errorf("%s: sent %d, acknowledged %d", kind.Type, kind.Sent, kind.Acked)
			}
		}
		return nil
	})
}
