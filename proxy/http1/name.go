package http1

// Name is a field name that the proxy knows; to compare it is to compare a byte.
type Name uint8

// The known names. Other is any name that is not known.
const (
	Other Name = iota
	Host
	ContentLength
	TransferEncoding
	Connection
	KeepAlive
	ProxyConnection
	TE
	Trailer
	Upgrade
	Expect
	XForwardedFor
	XForwardedProto
	XForwardedHost
	XForwardedPort
	XRequestID
	Forwarded
	XRealIP
	UserAgent
	Authorization
	Cookie
	Server
	Date
	Via
	XEnvoyUpstreamServiceTime
	XEnvoyAttemptCount
	XEnvoyExpectedRqTimeoutMs
	numNames
)

var nameTexts = [numNames]string{
	Host:                      "host",
	ContentLength:             "content-length",
	TransferEncoding:          "transfer-encoding",
	Connection:                "connection",
	KeepAlive:                 "keep-alive",
	ProxyConnection:           "proxy-connection",
	TE:                        "te",
	Trailer:                   "trailer",
	Upgrade:                   "upgrade",
	Expect:                    "expect",
	XForwardedFor:             "x-forwarded-for",
	XForwardedProto:           "x-forwarded-proto",
	XForwardedHost:            "x-forwarded-host",
	XForwardedPort:            "x-forwarded-port",
	XRequestID:                "x-request-id",
	Forwarded:                 "forwarded",
	XRealIP:                   "x-real-ip",
	UserAgent:                 "user-agent",
	Authorization:             "authorization",
	Cookie:                    "cookie",
	Server:                    "server",
	Date:                      "date",
	Via:                       "via",
	XEnvoyUpstreamServiceTime: "x-envoy-upstream-service-time",
	XEnvoyAttemptCount:        "x-envoy-attempt-count",
	XEnvoyExpectedRqTimeoutMs: "x-envoy-expected-rq-timeout-ms",
}

// String returns the name in lower case, "" for Other.
func (n Name) String() string {
	if n >= numNames {
		return ""
	}
	return nameTexts[n]
}

// NameSet is a set of known names.
type NameSet uint64

// Names makes a set.
func Names(names ...Name) NameSet {
	var s NameSet
	for _, n := range names {
		s |= 1 << n
	}
	return s
}

// Has reports whether n is in the set.
func (s NameSet) Has(n Name) bool { return s>>n&1 != 0 }

const (
	longestName = 30
	sameLength  = 3 // at most so many known names have the same length
)

// byLength holds the known names of each length.
var byLength = makeByLength()

func makeByLength() (t [longestName + 1][sameLength]Name) {
	for n := Host; n < numNames; n++ {
		same := &t[len(nameTexts[n])]
		i := 0
		for same[i] != Other {
			i++
		}
		same[i] = n
	}
	return t
}

// lookup finds a known name; b is a token.
func lookup(b []byte) Name {
	if len(b) > longestName {
		return Other
	}
	for _, n := range byLength[len(b)] {
		if n == Other || sameToken(b, nameTexts[n]) {
			return n
		}
	}
	return Other
}

// sameToken compares tokens of the same length without regard to case. Of the characters of tokens only letters have the
// bit to lose, and '-' has it.
func sameToken(b []byte, lower string) bool {
	lower = lower[:len(b)]
	for i, c := range b {
		if c|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// Fields of one hop: never passed on as they came.
const hopByHop NameSet = 1<<Connection | 1<<KeepAlive | 1<<ProxyConnection | 1<<TE | 1<<Upgrade | 1<<TransferEncoding

// endToEnd reports whether a field must reach the next hop even if Connection names it: a client could otherwise make the
// proxy remove what tells the upstream who is calling (CVE-2024-45410).
func endToEnd(name []byte, n Name) bool {
	if n != Other {
		return !hopByHop.Has(n)
	}
	return hasPrefixFold(name, "x-forwarded-") || hasPrefixFold(name, "x-envoy-") || hasPrefixFold(name, "content-") ||
		hasPrefixFold(name, "x-b3-") || equalFold(name, "traceparent") || equalFold(name, "tracestate") ||
		equalFold(name, "b3") || equalFold(name, "cache-control") || equalFold(name, "set-cookie")
}

// disguised reports whether a name with an underscore is another way to write one that the proxy sets or depends on: a
// CGI-style upstream takes X_Forwarded_For for X-Forwarded-For (CVE-2026-33433).
func disguised(name []byte) bool {
	var folded [32]byte
	if len(name) > len(folded) {
		return hasPrefixUnderscored(name, "x-forwarded-") || hasPrefixUnderscored(name, "x-envoy-")
	}
	for i, c := range name {
		if c == '_' {
			c = '-'
		}
		folded[i] = c
	}
	f := folded[:len(name)]
	return lookup(f) != Other || hasPrefixFold(f, "x-forwarded-") || hasPrefixFold(f, "x-envoy-")
}

func hasPrefixUnderscored(name []byte, prefix string) bool {
	for i := range len(prefix) {
		c := lower(name[i])
		if c == '_' {
			c = '-'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}
