package proxy

import (
	"net/netip"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// toldInside are fields by which proxies of a mesh instruct each other. As in Envoy, to which no client is one of them unless it
// is told so (which is not supported), no request has them from outside; nor has it the one that says it came from inside.
var toldInside = message.Names(message.XEnvoyInternal, message.XEnvoyRetriableStatusCodes, message.XEnvoyRetriableHeaderNames,
	message.XEnvoyRetryOn, message.XEnvoyRetryGRPCOn, message.XEnvoyMaxRetries, message.XEnvoyUpstreamAltStatName,
	message.XEnvoyUpstreamRqTimeoutMs, message.XEnvoyUpstreamRqPerTryTimeoutMs, message.XEnvoyUpstreamRqTimeoutAltResponse,
	message.XEnvoyUpstreamStreamDurationMs, message.XEnvoyExpectedRqTimeoutMs, message.XEnvoyForceTrace, message.XEnvoyIPTags,
	message.XEnvoyOriginalURL, message.XEnvoyHedgeOnPerTryTimeout)

// toldByEdge are those that the proxy which faces the client says, and so nobody before it.
var toldByEdge = toldInside.Or(message.Names(message.XEnvoyExternalAddress, message.XEnvoyDecoratorOperation,
	message.XEnvoyDownstreamServiceCluster, message.XEnvoyDownstreamServiceNode, message.XEnvoyOriginalPath, message.XEnvoyOriginalHost))

var clientCert = message.Names(message.XForwardedClientCert)

// sanitize hides the fields that the client may not tell: neither routes nor hosts see them.
func (x *exchange) sanitize(http *config.HTTP) {
	hide := toldInside
	if http.UseRemoteAddress {
		hide = toldByEdge
	}
	if !x.believesClientCert(http) {
		hide = hide.Or(clientCert)
	}
	x.req.HideKnown(hide)
}

// believesClientCert reports whether x-forwarded-client-cert, by which hosts know a client, is passed on as it came.
func (x *exchange) believesClientCert(http *config.HTTP) bool {
	switch http.ClientCert {
	case config.ClientCertForward:
		s := x.d.TLS()
		return s != nil && len(s.Peer) > 0
	case config.ClientCertAlways:
		return true
	}
	return false
}

// ownID reports whether the request gets an identity of the proxy's own, though it may have come with one: by it samples are
// drawn, so whoever chooses it chooses whether he is in them.
func (x *exchange) ownID(http *config.HTTP) bool {
	return http.GenerateRequestID && (http.UseRemoteAddress && !http.KeepRequestID || len(x.req.Known(message.XRequestID)) == 0)
}

// appendExternal writes the client's address, which the proxy that faces it tells; nothing if this is not that proxy, or the client
// has none.
func (x *exchange) appendExternal(b []byte, http *config.HTTP) []byte {
	if addr := x.clientAddr(); http.UseRemoteAddress && addr.IsValid() {
		return addr.AppendTo(b)
	}
	return b
}

// authority is whom a request is for that does not say it, which only HTTP/1.0 allows: the address where the client came in, for
// hosts have to be told one (RFC 9112 section 3.2, RFC 9113 section 8.3.1). A unix socket has none that could stand in a field.
func (c *client) authority(h *message.Head) message.Span {
	local := c.LocalAddr()
	if c.via != nil {
		local = c.via.local
	}
	if !local.IsValid() {
		return h.Put("localhost")
	}
	start := uint32(len(h.Text))
	h.Text = netip.AddrPortFrom(local.Addr().WithZone(""), local.Port()).AppendTo(h.Text)
	return message.Span{Start: start, End: uint32(len(h.Text))}
}
