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
	XEnvoyExpectedRqTimeoutMs
	XEnvoyUpstreamServiceTime
	XForwardedFor
	XForwardedHost
	XForwardedPort
	XForwardedProto
	XRealIP
	XRequestID
	NumNames
)

var nameTexts = [NumNames]string{
	Accept:                    "accept",
	AcceptCharset:             "accept-charset",
	AcceptEncoding:            "accept-encoding",
	AcceptLanguage:            "accept-language",
	AcceptRanges:              "accept-ranges",
	AccessControlAllowOrigin:  "access-control-allow-origin",
	Age:                       "age",
	Allow:                     "allow",
	Authorization:             "authorization",
	CacheControl:              "cache-control",
	Connection:                "connection",
	ContentDisposition:        "content-disposition",
	ContentEncoding:           "content-encoding",
	ContentLanguage:           "content-language",
	ContentLength:             "content-length",
	ContentLocation:           "content-location",
	ContentRange:              "content-range",
	ContentType:               "content-type",
	Cookie:                    "cookie",
	Date:                      "date",
	ETag:                      "etag",
	Expect:                    "expect",
	Expires:                   "expires",
	Forwarded:                 "forwarded",
	From:                      "from",
	GRPCStatus:                "grpc-status",
	GRPCTimeout:               "grpc-timeout",
	Host:                      "host",
	HTTP2Settings:             "http2-settings",
	IfMatch:                   "if-match",
	IfModifiedSince:           "if-modified-since",
	IfNoneMatch:               "if-none-match",
	IfRange:                   "if-range",
	IfUnmodifiedSince:         "if-unmodified-since",
	KeepAlive:                 "keep-alive",
	LastModified:              "last-modified",
	Link:                      "link",
	Location:                  "location",
	MaxForwards:               "max-forwards",
	ProxyAuthenticate:         "proxy-authenticate",
	ProxyAuthorization:        "proxy-authorization",
	ProxyConnection:           "proxy-connection",
	Range:                     "range",
	Referer:                   "referer",
	Refresh:                   "refresh",
	RetryAfter:                "retry-after",
	Server:                    "server",
	SetCookie:                 "set-cookie",
	StrictTransportSecurity:   "strict-transport-security",
	TE:                        "te",
	Trailer:                   "trailer",
	TransferEncoding:          "transfer-encoding",
	Upgrade:                   "upgrade",
	UserAgent:                 "user-agent",
	Vary:                      "vary",
	Via:                       "via",
	WWWAuthenticate:           "www-authenticate",
	XEnvoyAttemptCount:        "x-envoy-attempt-count",
	XEnvoyExpectedRqTimeoutMs: "x-envoy-expected-rq-timeout-ms",
	XEnvoyUpstreamServiceTime: "x-envoy-upstream-service-time",
	XForwardedFor:             "x-forwarded-for",
	XForwardedHost:            "x-forwarded-host",
	XForwardedPort:            "x-forwarded-port",
	XForwardedProto:           "x-forwarded-proto",
	XRealIP:                   "x-real-ip",
	XRequestID:                "x-request-id",
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
	longestName = 30
	nameSlots   = 256
)

// slots finds known names by a hash of length, first, last and a middle byte; a slot that is taken moves a name to the next one.
var slots = makeSlots()

func makeSlots() (t [nameSlots]Name) {
	for n := Accept; n < NumNames; n++ {
		i := slot([]byte(nameTexts[n]))
		for t[i] != Other {
			i++
		}
		t[i] = n
	}
	return t
}

// slot is of type uint8 so that it wraps around; the factors leave hardly two of the known names in one slot.
func slot(b []byte) uint8 {
	n := len(b)
	return uint8(n) + (b[0]|0x20)*47 + (b[n/2]|0x20)*69 + (b[n-1] | 0x20)
}

var spellings = makeSpellings()

func makeSpellings() (t [NumNames][]byte) {
	for n, text := range nameTexts {
		t[n] = []byte(text)
	}
	return t
}

// Lookup finds a known name without regard to case.
func Lookup(b []byte) Name {
	if len(b) == 0 || len(b) > longestName {
		return Other
	}
	for i := slot(b); ; i++ {
		n := slots[i]
		if n == Other || spells(b, spellings[n]) {
			return n
		}
	}
}

// spells reports whether b is a known name, whose spelling in lower case is given. Known names have letters, digits and '-',
// which all have the bit that makes a letter lower case; what lacks both that bit and the next one is a control character.
func spells(b, name []byte) bool {
	n := len(name)
	if len(b) != n {
		return false
	}
	if n < 8 {
		for i, c := range b {
			if c|0x20 != name[i] || c < ' ' {
				return false
			}
		}
		return true
	}
	for i := 0; ; i += 8 {
		i = min(i, n-8) // the last eight bytes may overlap the ones before
		const low = 0x0101010101010101
		w := binary.LittleEndian.Uint64(b[i:])
		if w|0x20*low != binary.LittleEndian.Uint64(name[i:]) || (w>>5|w>>6)&low != low {
			return false
		}
		if i == n-8 {
			return true
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
