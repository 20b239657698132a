package xds

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyheaderv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	proxyHeaderAPI  = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"
	rawBufferAPI    = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
	mostProxyTLVs   = 2 << 10 // bytes of all extensions, so that every header fits in what is read of one
	proxyTLVHeading = 3       // bytes of an extension before its value
)

// addProxyHeader goes after addCluster: it adds to what a Cluster may have.
func (s schema) addProxyHeader(add func(protoreflect.FullName, string)) {
	s[clusterAPI]["transport_socket"] = true
	add("envoy.config.core.v3.TransportSocket", "name typed_config")
	add(proxyHeaderAPI, "config transport_socket")
	add(rawBufferAPI, "")
	add("envoy.config.core.v3.ProxyProtocolConfig", "version added_tlvs")
	add("envoy.config.core.v3.TlvEntry", "type value")
}

// transport reads what connections to a cluster's endpoints begin with.
func (r *reader) transport(at *path, m *clusterv3.Cluster, c *cluster) {
	socket := m.GetTransportSocket()
	if socket == nil {
		return
	}
	at = at.field("transport_socket")
	if socket.GetTypedConfig().GetTypeUrl() == typePrefix+proxyHeaderAPI {
		own := new(proxyheaderv3.ProxyProtocolUpstreamTransport)
		at = at.field("typed_config")
		if !r.unpack(at, socket.GetTypedConfig(), own) {
			return
		}
		c.ProxyHeader = r.proxyHeader(at.field("config"), own.GetConfig())
		socket, at = own.GetTransportSocket(), at.field("transport_socket")
	}
	if got := socket.GetTypedConfig().GetTypeUrl(); got != typePrefix+rawBufferAPI {
		r.wrong(at, named(socket.GetName(), got), "envoy.transport_sockets.raw_buffer or envoy.transport_sockets.upstream_proxy_protocol")
		return
	}
	r.unpack(at.field("typed_config"), socket.GetTypedConfig(), new(rawbufferv3.RawBuffer))
}

func (r *reader) proxyHeader(at *path, m *corev3.ProxyProtocolConfig) *config.ProxyHeader {
	h := &config.ProxyHeader{Version: 1}
	switch v := m.GetVersion(); v {
	case corev3.ProxyProtocolConfig_V1:
		if len(m.GetAddedTlvs()) > 0 {
			r.wrong(at.field("added_tlvs"), "a value", "it with version V2 only")
		}
	case corev3.ProxyProtocolConfig_V2:
		h.Version = 2
	default:
		r.wrong(at.field("version"), v, "V1 or V2")
	}
	size := 0
	for i, tlv := range m.GetAddedTlvs() {
		if tlv.GetType() > 0xff {
			r.wrong(at.at("added_tlvs", i).field("type"), tlv.GetType(), "0 to 255")
		}
		if len(tlv.GetValue()) == 0 {
			r.wrong(at.at("added_tlvs", i).field("value"), "none", "a value")
		}
		size += proxyTLVHeading + len(tlv.GetValue())
		h.TLVs = append(h.TLVs, config.ProxyTLV{Type: byte(tlv.GetType()), Value: string(tlv.GetValue())})
	}
	if size > mostProxyTLVs {
		r.wrong(at.field("added_tlvs"), size, "at most 2048 bytes of extensions")
	}
	return h
}
