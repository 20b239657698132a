package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestStockEnvoyProvesThatEndpointsAreGone: four of seven endpoints leave a registry suddenly. Two stock Envoys, which
// have mesh control for their health discovery service, cannot connect to three of them: those leave. The fourth stays.
func TestStockEnvoyProvesThatEndpointsAreGone(t *testing.T) {
	live, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	ports := []int{live.Addr().(*net.TCPAddr).Port}
	for range 6 {
		ports = append(ports, testbed.FreePort(t))
	}
	report := func(ports []int) {
		text := "service: web\nport: 80\nendpoints:\n"
		for _, port := range ports {
			text += fmt.Sprintf("- {address: 127.0.0.1, port: %d}\n", port)
		}
		writeFile(t, filepath.Join(static, "web.yaml"), text)
	}
	report(ports)
	p.startControl(t)
	for i := range 2 {
		file := filepath.Join(p.dir, fmt.Sprintf("envoy-%d.yaml", i))
		bootstrap := fmt.Sprintf(envoyBootstrap, fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t)), testbed.FreePort(t), "DELTA_GRPC", filepath.Join(p.dir, "xds.sock"))
		bootstrap = strings.Replace(bootstrap, "stock-envoy", fmt.Sprintf("stock-envoy-%d", i), 1) +
			"hds_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: mesh-control}}]}\n"
		writeFile(t, file, bootstrap)
		start(t, fmt.Sprintf("envoy %d", i), envoyBinary(t), "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning")
	}
	var all controlplane.Registries
	await := func(what string, endpoints, doubted int, proved uint64) {
		t.Helper()
		eventually(t, time.Minute, what, func() error {
			if err := fetchJSON(p.api, "/api/v1/registries", &all); err != nil {
				return err
			}
			r := all.Registries[0]
			if r.Endpoints != endpoints || r.Doubted != doubted || r.Released["proved by proxies"] != proved {
				return fmt.Errorf("%d endpoints, %d doubted, released %v", r.Endpoints, r.Doubted, r.Released)
			}
			return nil
		})
	}
	await("all are known", 7, 0, 0)
	report(ports[4:])
	await("three are proved", 4, 1, 3)
	time.Sleep(5 * time.Second) // the proxies go on to connect to what is left
	await("what takes connections stays", 4, 1, 3)
}
