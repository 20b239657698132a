package http1

import "github.com/hostmesh/hostmesh/proxy/message"

// Fields of one hop: never passed on as they came. (HTTP2-Settings belongs to an offer that is not taken.)
var hopByHop = message.Names(message.Connection, message.KeepAlive, message.ProxyConnection, message.TE, message.Upgrade,
	message.TransferEncoding, message.HTTP2Settings)

// essential are fields that must reach the next hop even if Connection names them.
var essential = message.Names(message.Host, message.Trailer, message.Expect, message.XForwardedFor, message.XForwardedProto,
	message.XForwardedHost, message.XForwardedPort, message.XRequestID, message.Forwarded, message.XRealIP, message.UserAgent,
	message.Authorization, message.Cookie, message.SetCookie, message.CacheControl, message.Server, message.Date, message.Via)

// endToEnd reports whether a field must reach the next hop even if Connection names it: a client could otherwise make the
// proxy remove what tells the upstream who is calling (CVE-2024-45410).
func endToEnd(name []byte) bool {
	return essential.Has(message.Lookup(name)) || hasPrefix(name, "x-forwarded-", "x-envoy-", "content-", "x-b3-") ||
		isOneOf(name, "traceparent", "tracestate", "b3")
}

// allowedTrailer reports whether a field may stand in a trailer section (RFC 9110 section 6.5.1): not one that frames, routes,
// authenticates or describes the content, and none that the proxy sets.
func allowedTrailer(name []byte, f *message.Field) bool {
	if f.Hop || hopByHop.Has(f.Known) || essential.Has(f.Known) {
		return false
	}
	return !hasPrefix(name, "x-forwarded-", "x-envoy-", "content-", "access-control-", "if-", "proxy-", "sec-") &&
		!isOneOf(name, "age", "expires", "location", "max-forwards", "pragma", "range", "retry-after", "traceparent", "tracestate",
			"vary", "warning", "www-authenticate")
}

func hasPrefix(name []byte, prefixes ...string) bool {
	for _, p := range prefixes {
		if message.HasPrefixFold(name, p) {
			return true
		}
	}
	return false
}

func isOneOf(name []byte, names ...string) bool {
	for _, n := range names {
		if message.EqualFold(name, n) {
			return true
		}
	}
	return false
}
