package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"strings"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// facts is what an access log of the chain tells of a connection's handshake, nil if none does.
func (b *branch) facts(in *arrival) *accesslog.TLS {
	if l := b.served.lines; (l == nil || l.needs&accesslog.NeedsTLS == 0) && !in.visit.wants(accesslog.NeedsTLS) {
		return nil
	}
	if in.conn != nil {
		return factsOf(in.conn.TLS())
	}
	if in.inspect.tls { // it is passed on as it is
		return &accesslog.TLS{ServerName: in.inspect.hello.ServerName}
	}
	return nil
}

// upstreamFacts is what access logs tell of the handshake with a host, nil of plaintext. It is found out once for a connection.
func upstreamFacts(c *upstream.Conn) *accesslog.TLS {
	state := c.TLS()
	if state == nil {
		return nil
	}
	if t, ok := state.Note.(*accesslog.TLS); ok {
		return t
	}
	t := factsOf(state)
	state.Note = t
	return t
}

func factsOf(s *loop.State) *accesslog.TLS {
	t := &accesslog.TLS{Version: tlsVersion(s.Version), Cipher: cipherName(s.Cipher), ServerName: strings.ToLower(s.SNI)}
	if len(s.Peer) > 0 {
		t.Subject, t.Issuer = s.Peer[0].Subject.String(), s.Peer[0].Issuer.String()
		t.Serial = s.Peer[0].SerialNumber.Text(16)
		sum := sha256.Sum256(s.Peer[0].Raw)
		t.Fingerprint = hex.EncodeToString(sum[:])
		t.URIs, t.DNSNames = uris(s.Peer[0]), strings.Join(s.Peer[0].DNSNames, ",")
	}
	return t
}

func uris(c *x509.Certificate) string {
	all := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		all[i] = u.String()
	}
	return strings.Join(all, ",")
}

func tlsVersion(v uint16) string {
	if v == tls.VersionTLS12 {
		return "TLSv1.2"
	}
	return "TLSv1.3"
}

// cipherName is a suite's name as Envoy tells it: up to TLS 1.2 that is OpenSSL's.
func cipherName(id uint16) string {
	name := tls.CipherSuiteName(id)
	rest, old := strings.CutPrefix(name, "TLS_ECDHE_")
	if !old {
		return name
	}
	rest = strings.NewReplacer("_WITH_AES_128_", "-AES128-", "_WITH_AES_256_", "-AES256-", "_WITH_CHACHA20_POLY1305_SHA256", "-CHACHA20-POLY1305", "_", "-").Replace(rest)
	return "ECDHE-" + rest
}
