package proxy_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

// TestBootstrapWithNames: from an Envoy's file to the backend, with the listener waiting for the first answer.
func TestBootstrapWithNames(t *testing.T) {
	named := testbed.StartNamed(t)
	named.Update(t, "add web.test.example. 1 A 127.20.0.1")
	dnsAt := netip.MustParseAddrPort(named.Address)
	addr := freeAddr(t)
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	text := fmt.Sprintf(`
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {name: local, virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: web}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: web
    type: STRICT_DNS
    dns_lookup_family: V4_ONLY
    respect_dns_ttl: true
    typed_dns_resolver_config:
      name: envoy.network.dns_resolver.cares
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
        resolvers: [{socket_address: {address: %s, port_value: %d}}]
        dns_resolver_options: {no_default_search_domain: true}
    load_assignment: {cluster_name: web, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: web.test.example, port_value: %d}}}}]}]}
`, addr.Port(), dnsAt.Addr(), dnsAt.Port(), backendsAt(t, "127.20.0.1"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	bootstrap, err := xds.ReadBootstrap(file)
	if err != nil {
		t.Fatal(err)
	}
	client, err := xds.New(xds.Options{Bootstrap: bootstrap})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, client.Config().Load(), nil)
	if status, body, err := p.get(http.DefaultClient, "anything", "/"); err != nil || status != http.StatusOK || body != "127.20.0.1" {
		t.Errorf("the first request: got %d %q, %v", status, body, err)
	}
}
