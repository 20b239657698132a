package xds

import (
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// protocolFields are what the readers below know of a Cluster.
const protocolFields = " http2_protocol_options transport_socket transport_socket_matches"

// socketMark is where an endpoint says which transport socket it is for.
const socketMark = "envoy.transport_socket_match"

func (schema) addProtocols(add func(protoreflect.FullName, string)) {
	const http = "envoy.extensions.upstreams.http.v3."
	add("envoy.config.core.v3.Http1ProtocolOptions", "")
	add("envoy.config.core.v3.Http2ProtocolOptions", "max_concurrent_streams initial_stream_window_size initial_connection_window_size allow_connect connection_keepalive")
	add("envoy.config.core.v3.UpstreamHttpProtocolOptions", "")
	add(http+"HttpProtocolOptions", `common_http_protocol_options upstream_http_protocol_options explicit_http_config use_downstream_protocol_config
		auto_config`)
	add(http+"HttpProtocolOptions.ExplicitHttpConfig", "http_protocol_options http2_protocol_options")
	add(http+"HttpProtocolOptions.UseDownstreamHttpConfig", "http_protocol_options http2_protocol_options")
	add(http+"HttpProtocolOptions.AutoHttpConfig", "http_protocol_options http2_protocol_options")
	add("envoy.config.cluster.v3.Cluster.TransportSocketMatch", "name match transport_socket")
}

// codec reads which HTTP clients of a listener speak.
func (r *reader) codec(at *path, m *hcmv3.HttpConnectionManager, h *config.HTTP) {
	switch c := m.GetCodecType(); c {
	case hcmv3.HttpConnectionManager_AUTO:
		h.Protocol = config.ProtocolAuto
	case hcmv3.HttpConnectionManager_HTTP1:
		h.Protocol = config.ProtocolHTTP1
	case hcmv3.HttpConnectionManager_HTTP2:
		h.Protocol = config.ProtocolHTTP2
	default:
		r.wrong(at.field("codec_type"), c, "AUTO, HTTP1 or HTTP2")
	}
	at = at.field("http2_protocol_options")
	h.HTTP2 = r.http2(at, m.GetHttp2ProtocolOptions())
	if k := h.HTTP2.Keepalive; k != nil && k.Idle > 0 {
		r.wrong(at.field("connection_keepalive").field("connection_idle_interval"), k.Idle, "none: it is for connections to hosts")
	}
}

// http2 reads the limits of HTTP/2. What is not set is left to package http2.
func (r *reader) http2(at *path, m *corev3.Http2ProtocolOptions) config.HTTP2 {
	const most = 1<<31 - 1
	number := func(field string, v *wrapperspb.UInt32Value, least uint32) uint32 {
		if v != nil && (v.GetValue() < least || v.GetValue() > most) {
			r.wrong(at.field(field), v.GetValue(), "a number that Envoy takes")
		}
		return v.GetValue()
	}
	return config.HTTP2{
		MaxStreams:      number("max_concurrent_streams", m.GetMaxConcurrentStreams(), 1),
		StreamWindow:    number("initial_stream_window_size", m.GetInitialStreamWindowSize(), 65535),
		ConnWindow:      number("initial_connection_window_size", m.GetInitialConnectionWindowSize(), 65535),
		ExtendedConnect: m.GetAllowConnect(),
		Keepalive:       pings(m.GetConnectionKeepalive()),
	}
}

// upstreamProtocol reads which HTTP the endpoints speak.
func (r *reader) upstreamProtocol(at *path, m *httpv3.HttpProtocolOptions, c *cluster) {
	switch o := m.GetUpstreamProtocolOptions().(type) {
	case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_:
		p := at.field("explicit_http_config")
		c.Protocol = config.ProtocolHTTP1
		if v := o.ExplicitHttpConfig.GetHttp2ProtocolOptions(); v != nil {
			c.Protocol, c.HTTP2 = config.ProtocolHTTP2, r.http2(p.field("http2_protocol_options"), v)
		}
	case *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
		c.Protocol = config.ProtocolDownstream
		c.HTTP2 = r.http2(at.field("use_downstream_protocol_config").field("http2_protocol_options"), o.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions())
	case *httpv3.HttpProtocolOptions_AutoConfig:
		c.Protocol = config.ProtocolAuto
		c.HTTP2 = r.http2(at.field("auto_config").field("http2_protocol_options"), o.AutoConfig.GetHttp2ProtocolOptions())
		if c.TLS == nil && len(c.SocketMatches) == 0 {
			r.wrong(at.field("auto_config"), "no TLS", "a transport_socket with TLS, which negotiates the protocol")
		}
	}
}

// sockets reads how endpoints are connected to.
func (r *reader) sockets(at *path, m *clusterv3.Cluster, c *cluster) {
	//lint:ignore SA1019 it is still sent
	if v := m.GetHttp2ProtocolOptions(); v != nil {
		c.Protocol, c.HTTP2 = config.ProtocolHTTP2, r.http2(at.field("http2_protocol_options"), v)
	}
	c.TLS = r.upstreamTLS(r.proxySocket(at.field("transport_socket"), m.GetTransportSocket(), c))
	if c.ProxyHeader != nil && len(m.GetTransportSocketMatches()) > 0 {
		r.wrong(at.field("transport_socket_matches"), "a value", "it unset with envoy.transport_sockets.upstream_proxy_protocol")
	}
	for i, match := range m.GetTransportSocketMatches() {
		p := at.at("transport_socket_matches", i)
		c.SocketMatches = append(c.SocketMatches, config.SocketMatch{
			Name: match.GetName(), Mark: r.marks(p.field("match"), match.GetMatch()), TLS: r.upstreamTLS(p.field("transport_socket"), match.GetTransportSocket()),
		})
	}
}

// mark reads for which transport socket an endpoint is.
func (r *reader) mark(at *path, m *corev3.Metadata) config.Marks {
	s := m.GetFilterMetadata()[socketMark]
	if s == nil {
		return ""
	}
	return config.Marks(intern(string(r.marks(at.field("filter_metadata").field(socketMark), s))))
}

// marks reads names with plain values.
func (r *reader) marks(at *path, m *structpb.Struct) config.Marks {
	out := make(map[string]string, len(m.GetFields()))
	for name, v := range m.GetFields() {
		text := ""
		switch v := v.GetKind().(type) { // a text and a number that look the same differ
		case *structpb.Value_StringValue:
			text = "s" + v.StringValue
		case *structpb.Value_NumberValue:
			text = "n" + strconv.FormatFloat(v.NumberValue, 'g', -1, 64)
		case *structpb.Value_BoolValue:
			text = "b" + strconv.FormatBool(v.BoolValue)
		default:
			r.wrong(at.field(clip(name)), "a value of several", "a text, a number or a truth value")
		}
		if strings.IndexByte(name+text, 0) >= 0 {
			r.wrong(at.field(strconv.Quote(clip(name))), "a NUL", "texts without")
			continue
		}
		out[name] = text
	}
	return config.NewMarks(out)
}
