package xds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const proxyProtocolFilter = `{name: envoy.filters.listener.proxy_protocol, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`

const originalDstFilter = `{name: envoy.filters.listener.original_dst, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst`

const (
	tlsInspector  = `{name: envoy.filters.listener.tls_inspector, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector`
	httpInspector = `{name: envoy.filters.listener.http_inspector, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector`
)

func TestListenerFilters(t *testing.T) {
	defaults := config.Filters{Timeout: 15 * time.Second}
	for _, c := range []struct {
		name, lines string
		want        *config.ProxyProtocol
		filters     config.Filters
		refused     string
	}{
		{"none", "", nil, defaults, ""},
		{"defaults", "listener_filters: [" + proxyProtocolFilter + "}}]", &config.ProxyProtocol{}, defaults, ""},
		{"all", "listener_filters_timeout: 2s\nlistener_filters: [" + proxyProtocolFilter + ", allow_requests_without_proxy_protocol: true}}]", &config.ProxyProtocol{Optional: true}, config.Filters{Timeout: 2 * time.Second}, ""},
		{"no timeout", "listener_filters_timeout: 0s\nlistener_filters: [" + proxyProtocolFilter + "}}]", &config.ProxyProtocol{}, config.Filters{}, ""},
		{"twice", "listener_filters: [" + proxyProtocolFilter + "}}, " + proxyProtocolFilter + "}}]", nil, config.Filters{}, "listener_filters[1]: got envoy.filters.listener.proxy_protocol"},
		{"a rule", "listener_filters: [" + proxyProtocolFilter + ", rules: [{tlv_type: 1}]}}]", nil, config.Filters{}, "listener_filters[0].typed_config.rules"},
		{"versions", "listener_filters: [" + proxyProtocolFilter + ", disallowed_versions: [V1]}}]", nil, config.Filters{}, "listener_filters[0].typed_config.disallowed_versions"},
		{"disabled", "listener_filters: [" + proxyProtocolFilter + "}, filter_disabled: {any_match: true}}]", nil, config.Filters{}, "listener_filters[0].filter_disabled"},
		{"go on without", "continue_on_listener_filters_timeout: true", nil, config.Filters{Timeout: 15 * time.Second, ContinueOnTimeout: true}, ""},
		{"inspectors", "listener_filters: [" + tlsInspector + ", max_client_hello_size: 4096}}, " + httpInspector + "}}]", nil, config.Filters{Timeout: 15 * time.Second, InspectHTTP: true, MaxClientHello: 4096}, ""},
		{"inspector first", "listener_filters: [" + tlsInspector + "}}, " + proxyProtocolFilter + "}}]", nil, config.Filters{}, "listener_filters[1]: got envoy.filters.listener.proxy_protocol"},
		{"original destination first", "listener_filters: [" + originalDstFilter + "}}, " + proxyProtocolFilter + "}}, " + tlsInspector + "}}]", &config.ProxyProtocol{}, defaults, ""},
		{"original destination last", "listener_filters: [" + proxyProtocolFilter + "}}, " + tlsInspector + "}}, " + originalDstFilter + "}}]", &config.ProxyProtocol{}, defaults, ""},
		{"original destination twice", "listener_filters: [" + originalDstFilter + "}}, " + originalDstFilter + "}}]", nil, config.Filters{}, "listener_filters[1]: got envoy.filters.listener.original_dst"},
		{"inspector's size", "listener_filters: [" + tlsInspector + ", max_client_hello_size: 16385}}]", nil, config.Filters{}, "listener_filters[0].typed_config: invalid TlsInspector.MaxClientHelloSize"},
		{"fingerprint", "listener_filters: [" + tlsInspector + ", enable_ja3_fingerprinting: true}}]", nil, config.Filters{}, "listener_filters[0].typed_config.enable_ja3_fingerprinting: got true"},
		{"a time before", "listener_filters_timeout: -1s", nil, config.Filters{}, "listener_filters_timeout: got -1s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decoded(t, listeners, hcmYAML+c.lines+"\n")
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %v, want %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.(*listener).ProxyProtocol); diff != "" {
				t.Error(diff)
			}
			if got.(*listener).OriginalDst != strings.Contains(c.lines, originalDstFilter) {
				t.Errorf("original destination: %t", got.(*listener).OriginalDst)
			}
			if diff := cmp.Diff(c.filters, got.(*listener).Filters); diff != "" {
				t.Error(diff)
			}
		})
	}
}
