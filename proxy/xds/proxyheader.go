package xds

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyheaderv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	proxyHeaderAPI  = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"
	mostProxyTLVs   = 2 << 10 // bytes of all extensions, so that every header fits in what is read of one
	proxyTLVHeading = 3       // bytes of an extension before its value
)

func (schema) addProxyHeader(add func(protoreflect.FullName, string)) {
	add(proxyHeaderAPI, "config transport_socket")
	add("envoy.config.core.v3.ProxyProtocolConfig", "version added_tlvs")
	add("envoy.config.core.v3.TlvEntry", "type value")
}

// proxySocket reads what connections to a cluster's endpoints begin with, and returns the socket behind it.
func (r *reader) proxySocket(at *path, socket *corev3.TransportSocket, c *cluster) (*path, *corev3.TransportSocket) {
	if socket.GetTypedConfig().GetTypeUrl() != typePrefix+proxyHeaderAPI {
		return at, socket
	}
	own := new(proxyheaderv3.ProxyProtocolUpstreamTransport)
	at = at.field("typed_config")
	if !r.unpack(at, socket.GetTypedConfig(), own) {
		return at, nil
	}
	c.ProxyHeader = r.proxyHeader(at.field("config"), own.GetConfig())
	at = at.field("transport_socket")
	if own.GetTransportSocket() == nil {
		r.missing(at, "none", "envoy.transport_sockets.raw_buffer or envoy.transport_sockets.tls")
	}
	return at, own.GetTransportSocket()
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
