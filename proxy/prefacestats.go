package proxy

import "strings"

// prefaceCounter is one of the counters of what connections begin with.
type prefaceCounter uint8

const (
	prefaceFound1 prefaceCounter = iota // those of versions 1 and 2 follow each other
	prefaceFound2
	prefaceError1
	prefaceError2
	prefaceNoneAllowed
	prefaceNoneRefused
	prefaceTLSFound
	prefaceTLSNotFound
	prefaceTLSError
	prefaceSNIFound // and what is not found follows
	prefaceSNINotFound
	prefaceALPNFound
	prefaceALPNNotFound
	prefaceHTTP10
	prefaceHTTP11
	prefaceHTTP2
	prefaceNoHTTP
	numPrefaceCounters
)

// prefaceCounterNames have their scope in front.
var prefaceCounterNames = [numPrefaceCounters]string{
	prefaceFound1:       "proxy_proto.versions.v1.found",
	prefaceFound2:       "proxy_proto.versions.v2.found",
	prefaceError1:       "proxy_proto.versions.v1.error",
	prefaceError2:       "proxy_proto.versions.v2.error",
	prefaceNoneAllowed:  "proxy_proto.not_found_allowed",
	prefaceNoneRefused:  "proxy_proto.not_found_disallowed",
	prefaceTLSFound:     "tls_inspector.tls_found",
	prefaceTLSNotFound:  "tls_inspector.tls_not_found",
	prefaceTLSError:     "tls_inspector.client_hello_refused", // Envoy counts those that are too large alone
	prefaceSNIFound:     "tls_inspector.sni_found",
	prefaceSNINotFound:  "tls_inspector.sni_not_found",
	prefaceALPNFound:    "tls_inspector.alpn_found",
	prefaceALPNNotFound: "tls_inspector.alpn_not_found",
	prefaceHTTP10:       "http_inspector.http10_found",
	prefaceHTTP11:       "http_inspector.http11_found",
	prefaceHTTP2:        "http_inspector.http2_found",
	prefaceNoHTTP:       "http_inspector.http_not_found",
}

// prefaceStats are one loop's counts.
type prefaceStats [numPrefaceCounters]uint64

// either counts something as found, or by the counter that follows as not found.
func (s *prefaceStats) either(found bool, c prefaceCounter) {
	if !found {
		c++
	}
	s[c]++
}

func (s *prefaceStats) add(other *prefaceStats) {
	for i, n := range other {
		s[i] += n
	}
}

func (s *prefaceStats) samples() []sample {
	out := make([]sample, 0, len(s))
	for i, n := range s {
		scope, name, _ := strings.Cut(prefaceCounterNames[i], ".")
		out = append(out, sample{scope: scope, name: name, value: n})
	}
	return out
}
