package message

import (
	"bytes"
	"encoding/binary"
)

// Name is a field name that the proxy knows; to compare it is to compare a byte.
type Name uint8

// The known names: those that the proxy itself reads or writes, and those of HPACK's static table. Other is any other name.
const (
	Other Name = iota
	Accept
	AcceptCharset
	AcceptEncoding
	AcceptLanguage
	AcceptRanges
	AccessControlAllowOrigin
	Age
	Allow
	Authorization
	CacheControl
	Connection
	ContentDisposition
	ContentEncoding
	ContentLanguage
	ContentLength
	ContentLocation
	ContentRange
	ContentType
	Cookie
	Date
	ETag
	Expect
	Expires
	Forwarded
	From
	GRPCMessage
	GRPCStatus
	GRPCTimeout
	Host
	HTTP2Settings
	IfMatch
	IfModifiedSince
	IfNoneMatch
	IfRange
	IfUnmodifiedSince
	KeepAlive
	LastModified
	Link
	Location
	MaxForwards
	ProxyAuthenticate
	ProxyAuthorization
	ProxyConnection
	Range
	Referer
	Refresh
	RetryAfter
	Server
	SetCookie
	StrictTransportSecurity
	TE
	Trailer
	TransferEncoding
	Upgrade
	UserAgent
	Vary
	Via
	WWWAuthenticate
	XEnvoyAttemptCount
	XEnvoyDecoratorOperation
	XEnvoyDownstreamServiceCluster
	XEnvoyDownstreamServiceNode
	XEnvoyExpectedRqTimeoutMs
	XEnvoyExternalAddress
	XEnvoyForceTrace
	XEnvoyHedgeOnPerTryTimeout
	XEnvoyInternal
	XEnvoyIPTags
	XEnvoyMaxRetries
	XEnvoyOriginalHost
	XEnvoyOriginalPath
	XEnvoyOriginalURL
	XEnvoyRetriableHeaderNames
	XEnvoyRetriableStatusCodes
	XEnvoyRetryGRPCOn
	XEnvoyRetryOn
	XEnvoyUpstreamAltStatName
	XEnvoyUpstreamRqPerTryTimeoutMs
	XEnvoyUpstreamRqTimeoutAltResponse
	XEnvoyUpstreamRqTimeoutMs
	XEnvoyUpstreamServiceTime
	XEnvoyUpstreamStreamDurationMs
	XForwardedClientCert
	XForwardedFor
	XForwardedHost
	XForwardedPort
	XForwardedProto
	XRealIP
	XRequestID
	NumNames
)

var nameTexts = [NumNames]string{
	Accept:                             "accept",
	AcceptCharset:                      "accept-charset",
	AcceptEncoding:                     "accept-encoding",
	AcceptLanguage:                     "accept-language",
	AcceptRanges:                       "accept-ranges",
	AccessControlAllowOrigin:           "access-control-allow-origin",
	Age:                                "age",
	Allow:                              "allow",
	Authorization:                      "authorization",
	CacheControl:                       "cache-control",
	Connection:                         "connection",
	ContentDisposition:                 "content-disposition",
	ContentEncoding:                    "content-encoding",
	ContentLanguage:                    "content-language",
	ContentLength:                      "content-length",
	ContentLocation:                    "content-location",
	ContentRange:                       "content-range",
	ContentType:                        "content-type",
	Cookie:                             "cookie",
	Date:                               "date",
	ETag:                               "etag",
	Expect:                             "expect",
	Expires:                            "expires",
	Forwarded:                          "forwarded",
	From:                               "from",
	GRPCMessage:                        "grpc-message",
	GRPCStatus:                         "grpc-status",
	GRPCTimeout:                        "grpc-timeout",
	Host:                               "host",
	HTTP2Settings:                      "http2-settings",
	IfMatch:                            "if-match",
	IfModifiedSince:                    "if-modified-since",
	IfNoneMatch:                        "if-none-match",
	IfRange:                            "if-range",
	IfUnmodifiedSince:                  "if-unmodified-since",
	KeepAlive:                          "keep-alive",
	LastModified:                       "last-modified",
	Link:                               "link",
	Location:                           "location",
	MaxForwards:                        "max-forwards",
	ProxyAuthenticate:                  "proxy-authenticate",
	ProxyAuthorization:                 "proxy-authorization",
	ProxyConnection:                    "proxy-connection",
	Range:                              "range",
	Referer:                            "referer",
	Refresh:                            "refresh",
	RetryAfter:                         "retry-after",
	Server:                             "server",
	SetCookie:                          "set-cookie",
	StrictTransportSecurity:            "strict-transport-security",
	TE:                                 "te",
	Trailer:                            "trailer",
	TransferEncoding:                   "transfer-encoding",
	Upgrade:                            "upgrade",
	UserAgent:                          "user-agent",
	Vary:                               "vary",
	Via:                                "via",
	WWWAuthenticate:                    "www-authenticate",
	XEnvoyAttemptCount:                 "x-envoy-attempt-count",
	XEnvoyDecoratorOperation:           "x-envoy-decorator-operation",
	XEnvoyDownstreamServiceCluster:     "x-envoy-downstream-service-cluster",
	XEnvoyDownstreamServiceNode:        "x-envoy-downstream-service-node",
	XEnvoyExpectedRqTimeoutMs:          "x-envoy-expected-rq-timeout-ms",
	XEnvoyExternalAddress:              "x-envoy-external-address",
	XEnvoyForceTrace:                   "x-envoy-force-trace",
	XEnvoyHedgeOnPerTryTimeout:         "x-envoy-hedge-on-per-try-timeout",
	XEnvoyInternal:                     "x-envoy-internal",
	XEnvoyIPTags:                       "x-envoy-ip-tags",
	XEnvoyMaxRetries:                   "x-envoy-max-retries",
	XEnvoyOriginalHost:                 "x-envoy-original-host",
	XEnvoyOriginalPath:                 "x-envoy-original-path",
	XEnvoyOriginalURL:                  "x-envoy-original-url",
	XEnvoyRetriableHeaderNames:         "x-envoy-retriable-header-names",
	XEnvoyRetriableStatusCodes:         "x-envoy-retriable-status-codes",
	XEnvoyRetryGRPCOn:                  "x-envoy-retry-grpc-on",
	XEnvoyRetryOn:                      "x-envoy-retry-on",
	XEnvoyUpstreamAltStatName:          "x-envoy-upstream-alt-stat-name",
	XEnvoyUpstreamRqPerTryTimeoutMs:    "x-envoy-upstream-rq-per-try-timeout-ms",
	XEnvoyUpstreamRqTimeoutAltResponse: "x-envoy-upstream-rq-timeout-alt-response",
	XEnvoyUpstreamRqTimeoutMs:          "x-envoy-upstream-rq-timeout-ms",
	XEnvoyUpstreamServiceTime:          "x-envoy-upstream-service-time",
	XEnvoyUpstreamStreamDurationMs:     "x-envoy-upstream-stream-duration-ms",
	XForwardedClientCert:               "x-forwarded-client-cert",
	XForwardedFor:                      "x-forwarded-for",
	XForwardedHost:                     "x-forwarded-host",
	XForwardedPort:                     "x-forwarded-port",
	XForwardedProto:                    "x-forwarded-proto",
	XRealIP:                            "x-real-ip",
	XRequestID:                         "x-request-id",
}

// String returns the name in lower case, "" for Other.
func (n Name) String() string {
	if n >= NumNames {
		return ""
	}
	return nameTexts[n]
}

// NameSet is a set of known names.
type NameSet [2]uint64

// Names makes a set.
func Names(names ...Name) (s NameSet) {
	for _, n := range names {
		s[n>>6&1] |= 1 << (n & 63)
	}
	return s
}

// Or returns the names that are in one of two sets.
func (s NameSet) Or(t NameSet) NameSet { return NameSet{s[0] | t[0], s[1] | t[1]} }

// Has reports whether n is in the set.
func (s NameSet) Has(n Name) bool { return s[n>>6&1]>>(n&63)&1 != 0 }

const (
	longestName = 40
	ones        = 0x0101010101010101
)

// slot is a place of the table that finds known names: by their first and last bytes in lower case, and their length. These tell
// all names up to 16 bytes.
type slot struct {
	first, last uint64
	length      uint8
	name        Name
}

var slots, spellings = makeSlots()

// makeSlots puts every name into the slot of its hash, or into the next one that is free.
func makeSlots() (t [256]slot, spellings [NumNames][]byte) {
	for n := Accept; n < NumNames; n++ {
		text := []byte(nameTexts[n])
		first, last := ends(text)
		i := hash(first, last, len(text))
		for t[i].name != Other {
			i++
		}
		t[i], spellings[n] = slot{first, last, uint8(len(text)), n}, text
	}
	return t, spellings
}

// ends are the first and the last bytes of a name.
func ends(b []byte) (first, last uint64) {
	n := len(b)
	switch {
	case n >= 8:
		return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[n-8:])
	case n >= 4:
		const blank = 0x20202020 << 32
		return blank | uint64(binary.LittleEndian.Uint32(b)), blank | uint64(binary.LittleEndian.Uint32(b[n-4:]))
	}
	const blank = 0x20 * ones &^ 0xffff
	return blank | uint64(b[0]) | 0x2000, blank | uint64(b[n/2]) | uint64(b[n-1])<<8
}

func hash(first, last uint64, n int) uint8 {
	return uint8((first*0x9e3779b97f4a7c15 + (last^uint64(n))*0xbf58476d1ce4e5b9) >> 56)
}

// Lookup finds a known name without regard to case. Known names have letters, digits and '-', which in lower case all have the
// bit 0x20; what has neither that bit nor the next one is a control character.
func Lookup(b []byte) Name {
	n := len(b)
	if n == 0 || n > longestName {
		return Other
	}
	first, last := ends(b)
	if (first>>5|first>>6)&(last>>5|last>>6)&ones != ones {
		return Other
	}
	first, last = first|0x20*ones, last|0x20*ones
	for i := hash(first, last, n); ; i++ {
		s := &slots[i]
		switch {
		case s.name == Other:
			return Other
		case s.first != first || s.last != last || int(s.length) != n:
		case n <= 16 || EqualFoldBytes(b, spellings[s.name]):
			return s.name
		}
	}
}

// imitated are the names whose imitations are dangerous: the proxy sets them or depends on them.
var imitated = Names(Host, ContentLength, TransferEncoding, Connection, KeepAlive, ProxyConnection, TE, Trailer, Upgrade, Expect, XForwardedFor,
	XForwardedProto, XForwardedHost, XForwardedPort, XRequestID, Forwarded, XRealIP, UserAgent, Authorization, Cookie, Server, Date, Via)

// Disguised reports whether a name with an underscore is another way to write one that the proxy sets or depends on: a
// CGI-style upstream takes x_forwarded_for for x-forwarded-for (CVE-2026-33433).
func Disguised(name []byte) bool {
	if bytes.IndexByte(name, '_') < 0 {
		return false
	}
	var folded [longestName]byte
	n := copy(folded[:], name)
	for i, c := range folded[:n] {
		if c == '_' {
			folded[i] = '-'
		}
	}
	f := folded[:n]
	return len(name) <= longestName && imitated.Has(Lookup(f)) || HasPrefixFold(f, "x-forwarded-") || HasPrefixFold(f, "x-envoy-")
}
