package xds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const proxyProtocolFilter = `{name: envoy.filters.listener.proxy_protocol, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`

func TestListenerFilters(t *testing.T) {
	for _, c := range []struct {
		name, lines string
		want        *config.ProxyProtocol
		refused     string
	}{
		{"none", "", nil, ""},
		{"defaults", "listener_filters: [" + proxyProtocolFilter + "}}]", &config.ProxyProtocol{Timeout: 15 * time.Second}, ""},
		{"all", "listener_filters_timeout: 2s\nlistener_filters: [" + proxyProtocolFilter + ", allow_requests_without_proxy_protocol: true}}]", &config.ProxyProtocol{Optional: true, Timeout: 2 * time.Second}, ""},
		{"no timeout", "listener_filters_timeout: 0s\nlistener_filters: [" + proxyProtocolFilter + "}}]", &config.ProxyProtocol{}, ""},
		{"twice", "listener_filters: [" + proxyProtocolFilter + "}}, " + proxyProtocolFilter + "}}]", nil, "listener_filters[1]: got envoy.filters.listener.proxy_protocol"},
		{"a rule", "listener_filters: [" + proxyProtocolFilter + ", rules: [{tlv_type: 1}]}}]", nil, "listener_filters[0].typed_config.rules"},
		{"versions", "listener_filters: [" + proxyProtocolFilter + ", disallowed_versions: [V1]}}]", nil, "listener_filters[0].typed_config.disallowed_versions"},
		{"disabled", "listener_filters: [" + proxyProtocolFilter + "}, filter_disabled: {any_match: true}}]", nil, "listener_filters[0].filter_disabled"},
		{"go on without", "continue_on_listener_filters_timeout: true", nil, "continue_on_listener_filters_timeout: got true"},
		{"a time before", "listener_filters_timeout: -1s", nil, "listener_filters_timeout: got -1s"},
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
		})
	}
}
