package proxy

import (
	"crypto/tls"
	"errors"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/certificate"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// handshakeTime is how long a TLS handshake may take where the configuration has no shorter time.
const handshakeTime = 15 * time.Second

// shake is a connection whose TLS handshake goes on.
type shake struct {
	loop.Conn
	b       *branch
	arrival arrival

	next, prev *shake // all of the branch
	timer      loop.Timer
}

// secure begins the handshake of a connection, which is served when it is done.
func (b *branch) secure(in *arrival) {
	h := &shake{b: b, arrival: *in}
	head := &b.shakes
	h.prev, h.next = head.prev, head
	head.prev.next = h
	head.prev = h
	if err := h.Open(b.w.loop, in.fd, h); err != nil {
		h.tell("", err.Error())
		h.unlink()
		b.released()
		return
	}
	limit := handshakeTime
	if d := b.served.cfg.ConnectTimeout; d > 0 {
		limit = min(limit, d)
	}
	b.w.loop.Start(&h.timer, limit, h)
	h.Secure(b.served.tls, true, h)
}

// Ready implements loop.Handler: during a handshake nothing is told.
func (h *shake) Ready(loop.Event) {}

// Secured is told how the handshake ended.
func (h *shake) Secured(err error) {
	if err == nil && !h.asInspected() {
		err = errInspected
	}
	stats := h.b.stats
	if err != nil {
		h.b.countFailure(err)
		h.tell("TLS error: "+err.Error(), "")
		h.drop()
		return
	}
	state := h.TLS()
	stats.count[listenerHandshake]++
	if state.Resumed {
		stats.count[listenerResumed]++
	}
	if len(state.Peer) == 0 {
		stats.count[listenerNoCertificate]++
	}
	h.unlink()
	in := h.arrival
	in.conn = &h.Conn
	switch state.ALPN {
	case "h2":
		in.protocol = config.ProtocolHTTP2
	case "http/1.1", "http/1.0":
		in.protocol = config.ProtocolHTTP1
	}
	h.b.serveConn(&in)
}

var errInspected = errors.New("crypto/tls read another server name than the one by which the chain was chosen")

// asInspected reports whether the client asked for the server by whose name its chain was chosen.
func (h *shake) asInspected() bool {
	seen := &h.arrival.inspect
	return !seen.tls || strings.EqualFold(seen.hello.ServerName, h.TLS().SNI)
}

// Expired ends a handshake that takes too long.
func (h *shake) Expired(*loop.Timer) {
	h.b.stats.count[listenerHandshakeTimeout]++
	h.tell("", "transport socket timeout was reached")
	h.drop()
}

// tell writes the listener's lines about a connection that never was one, with why its handshake failed or why it was ended.
func (h *shake) tell(failure, termination string) {
	in := &h.arrival
	in.visit.over(in.peer, in.via, func(r *accesslog.Record) {
		r.Connection, r.Chain, r.TLS = h.b.w.connectionID(), h.b.served.cfg.Name, in.told()
		r.DownstreamFailure, r.Termination = failure, termination
	})
}

// drop closes a connection that is not served.
func (h *shake) drop() {
	h.unlink()
	h.Close()
	h.b.released()
}

func (h *shake) unlink() {
	h.timer.Stop()
	h.prev.next, h.next.prev = h.next, h.prev
}

// countFailure counts a handshake that failed by its cause.
func (b *branch) countFailure(err error) {
	c := listenerHandshakeError
	switch handshakeCounter(err) {
	case upstream.TLSVerifySAN:
		c = listenerVerifySAN
	case upstream.TLSVerifyHash:
		c = listenerVerifyHash
	case upstream.TLSVerifyError:
		c = listenerVerifyError
	case upstream.TLSVerifyNone:
		c = listenerVerifyNone
	}
	b.stats.count[c]++
}

// handshakeCounter is what a handshake counts as that failed: in a cluster, and by the same names in a listener.
func handshakeCounter(err error) upstream.Counter {
	var chain *tls.CertificateVerificationError
	switch {
	case errors.Is(err, certificate.ErrNames):
		return upstream.TLSVerifySAN
	case errors.Is(err, certificate.ErrPins):
		return upstream.TLSVerifyHash
	case errors.As(err, &chain), errors.Is(err, certificate.ErrChain), errors.Is(err, certificate.ErrDepth):
		return upstream.TLSVerifyError
	case strings.Contains(err.Error(), "didn't provide a certificate"): // crypto/tls has no value for it
		return upstream.TLSVerifyNone
	}
	return upstream.TLSError
}
