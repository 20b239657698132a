package xds

import (
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	proxyProtocolType = typePrefix + "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
	// defaultFilterTimeout is Envoy's.
	defaultFilterTimeout = 15 * time.Second
	// listenerFilterFields are what the reader below knows of a Listener.
	listenerFilterFields = " listener_filters listener_filters_timeout"
)

func (schema) addListenerFilters(add func(protoreflect.FullName, string)) {
	add("envoy.config.listener.v3.ListenerFilter", "name typed_config")
	add("envoy.extensions.filters.listener.original_dst.v3.OriginalDst", "")
	add("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", "allow_requests_without_proxy_protocol")
}

// listenerFilters reads what happens to a connection before its first byte is the protocol's.
func (r *reader) listenerFilters(at *path, m *listenerv3.Listener, l *listener) {
	timeout := r.duration(at.field("listener_filters_timeout"), m.GetListenerFiltersTimeout(), defaultFilterTimeout)
	for i, f := range m.GetListenerFilters() {
		p, typed := at.at("listener_filters", i), f.GetTypedConfig()
		if typed.GetTypeUrl() == originalDstType {
			l.OriginalDst = true
			r.unpack(p.field("typed_config"), typed, new(originaldstv3.OriginalDst))
			continue
		}
		if typed.GetTypeUrl() != proxyProtocolType {
			r.wrong(p, named(f.GetName(), typed.GetTypeUrl()), "envoy.filters.listener.original_dst or envoy.filters.listener.proxy_protocol")
			continue
		}
		if l.ProxyProtocol != nil {
			r.wrong(p, named(f.GetName(), typed.GetTypeUrl()), "the filter once")
			continue
		}
		c := new(proxyprotocolv3.ProxyProtocol)
		if r.unpack(p.field("typed_config"), typed, c) {
			l.ProxyProtocol = &config.ProxyProtocol{Optional: c.GetAllowRequestsWithoutProxyProtocol(), Timeout: timeout}
		}
	}
}
