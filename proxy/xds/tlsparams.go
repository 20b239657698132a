package xds

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// tlsParameters reads versions, cipher suites and curves. TLS before 1.2 and what crypto/tls calls insecure is refused.
func (r *reader) tlsParameters(at *path, m *tlsv3.TlsParameters, t *config.TLS) {
	versions := map[tlsv3.TlsParameters_TlsProtocol]uint16{tlsv3.TlsParameters_TLSv1_2: config.TLS12, tlsv3.TlsParameters_TLSv1_3: config.TLS13}
	version := func(name string, v tlsv3.TlsParameters_TlsProtocol, otherwise uint16) uint16 {
		if v == tlsv3.TlsParameters_TLS_AUTO {
			return otherwise
		}
		n, known := versions[v]
		if !known {
			r.wrong(at.field(name), v, "TLSv1_2, TLSv1_3 or TLS_AUTO")
		}
		return n
	}
	t.MinVersion = version("tls_minimum_protocol_version", m.GetTlsMinimumProtocolVersion(), config.TLS12)
	t.MaxVersion = version("tls_maximum_protocol_version", m.GetTlsMaximumProtocolVersion(), config.TLS13)
	if t.MaxVersion < t.MinVersion {
		r.wrong(at.field("tls_maximum_protocol_version"), m.GetTlsMaximumProtocolVersion(), "no less than the minimum")
	}
	for i, name := range m.GetCipherSuites() {
		p := at.at("cipher_suites", i)
		// In brackets are BoringSSL's groups of equal preference; crypto/tls has an order of its own.
		for one := range strings.SplitSeq(strings.Trim(name, "[]"), "|") {
			id := cipherSuite(one)
			if id == 0 {
				r.wrong(p, clip(one), "an ECDHE suite with AES-GCM or CHACHA20-POLY1305")
				continue
			}
			t.CipherSuites = append(t.CipherSuites, id)
		}
	}
	for i, name := range m.GetEcdhCurves() {
		id, known := map[string]tls.CurveID{
			"X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521, "X25519MLKEM768": tls.X25519MLKEM768,
		}[name]
		if !known {
			r.wrong(at.at("ecdh_curves", i), clip(name), "X25519MLKEM768, X25519, P-256, P-384 or P-521")
			continue
		}
		t.Curves = append(t.Curves, uint16(id))
	}
}

// cipherSuite is the number of a suite by its name in BoringSSL; 0: it is none, or none that is used.
func cipherSuite(name string) uint16 {
	return map[string]uint16{
		"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}[name]
}

func pinBase64(text string) ([]byte, error) { return base64.StdEncoding.DecodeString(text) }

// pinHex reads hexadecimal digits with or without colons.
func pinHex(text string) ([]byte, error) { return hex.DecodeString(strings.ReplaceAll(text, ":", "")) }

// pins reads SHA-256 sums.
func (r *reader) pins(at *path, field string, texts []string, read func(string) ([]byte, error)) [][32]byte {
	var out [][32]byte
	for i, text := range texts {
		sum, err := read(text)
		if err != nil || len(sum) != sha256.Size {
			r.wrong(at.at(field, i), clip(text), "a SHA-256 sum")
			continue
		}
		out = append(out, [32]byte(sum))
	}
	return out
}

// textMatch reads a matcher of names.
func (r *reader) textMatch(at *path, m *matcherv3.StringMatcher) config.TextMatch {
	r.strictAs(at, m.ProtoReflect(), tlsText)
	out := config.TextMatch{IgnoreCase: m.GetIgnoreCase()}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		out.How, out.Text = config.TextExact, p.Exact
	case *matcherv3.StringMatcher_Prefix:
		out.How, out.Text = config.TextPrefix, p.Prefix
	case *matcherv3.StringMatcher_Suffix:
		out.How, out.Text = config.TextSuffix, p.Suffix
	case *matcherv3.StringMatcher_Contains:
		out.How, out.Text = config.TextContains, p.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		out.How, out.Text = config.TextRegexp, p.SafeRegex.GetRegex()
		if !checkedRegexp(out.Text) {
			r.wrong(at.field("safe_regex").field("regex"), clip(out.Text), "an expression of RE2 of at most 1024 bytes")
		}
		if out.IgnoreCase {
			r.wrong(at.field("ignore_case"), true, "false with safe_regex")
		}
		return out
	default:
		r.missing(at, "no pattern", "exact, prefix, suffix, contains or safe_regex")
	}
	if out.IgnoreCase {
		out.Text = strings.ToLower(out.Text)
	}
	return out
}
