package xds

import (
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	proxyProtocolType = typePrefix + "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
	tlsInspectorType  = typePrefix + "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
	httpInspectorType = typePrefix + "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
	// defaultFilterTimeout is Envoy's.
	defaultFilterTimeout = 15 * time.Second
	// listenerFilterFields are what the reader below knows of a Listener.
	listenerFilterFields = " listener_filters listener_filters_timeout continue_on_listener_filters_timeout"
)

func (schema) addListenerFilters(add func(protoreflect.FullName, string)) {
	const filters = "envoy.extensions.filters.listener."
	add("envoy.config.listener.v3.ListenerFilter", "name typed_config")
	add(filters+"original_dst.v3.OriginalDst", "")
	add(filters+"proxy_protocol.v3.ProxyProtocol", "allow_requests_without_proxy_protocol")
	add(filters+"tls_inspector.v3.TlsInspector", "initial_read_buffer_size max_client_hello_size")
	add(filters+"http_inspector.v3.HttpInspector", "")
}

// listenerFilters reads what happens to a connection before its first byte is the protocol's.
func (r *reader) listenerFilters(at *path, m *listenerv3.Listener, l *listener) {
	l.Filters = config.Filters{
		Timeout:           r.duration(at.field("listener_filters_timeout"), m.GetListenerFiltersTimeout(), defaultFilterTimeout),
		ContinueOnTimeout: m.GetContinueOnListenerFiltersTimeout(),
	}
	seen := map[string]bool{}
	for i, f := range m.GetListenerFilters() {
		p, typed := at.at("listener_filters", i), f.GetTypedConfig()
		url, inner := typed.GetTypeUrl(), p.field("typed_config")
		if seen[url] {
			r.wrong(p, named(f.GetName(), url), "the filter once")
			continue
		}
		if url == proxyProtocolType && (seen[tlsInspectorType] || seen[httpInspectorType]) {
			r.wrong(p, named(f.GetName(), url), "it before the inspectors, as its header comes first")
		}
		seen[url] = true
		switch url {
		case originalDstType: // a PROXY header, which comes later, says it better
			l.OriginalDst = r.unpack(inner, typed, new(originaldstv3.OriginalDst))
		case proxyProtocolType:
			c := new(proxyprotocolv3.ProxyProtocol)
			if r.unpack(inner, typed, c) {
				l.ProxyProtocol = &config.ProxyProtocol{Optional: c.GetAllowRequestsWithoutProxyProtocol()}
			}
		case tlsInspectorType: // what it finds out is found out wherever a chain needs it
			c := new(tlsinspectorv3.TlsInspector)
			if r.unpack(inner, typed, c) {
				l.Filters.MaxClientHello = int(c.GetMaxClientHelloSize().GetValue()) // 256 to 16384 by the rules of the API
			}
		case httpInspectorType:
			if r.unpack(inner, typed, new(httpinspectorv3.HttpInspector)) {
				l.Filters.InspectHTTP = true
			}
		default:
			r.wrong(p, named(f.GetName(), url), "envoy.filters.listener.original_dst, proxy_protocol, tls_inspector or http_inspector")
		}
	}
}
