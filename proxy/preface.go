package proxy

import (
	"errors"
	"net/netip"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/preamble"
)

// proxied is what stays of a connection's own addresses when a PROXY header told others.
type proxied struct {
	direct netip.AddrPort // of the proxy in front
	local  netip.AddrPort // what the client connected to
}

// preface is a connection whose PROXY header has not arrived yet. The header is looked at where it waits, in the kernel,
// so that slow clients hold no buffer and what follows is read by the protocol behind.
type preface struct {
	loop.Socket
	a    *acceptor
	cfg  *config.ProxyProtocol // as the connection found it
	peer netip.AddrPort

	next, prev *preface // all of the acceptor
	timer      loop.Timer
}

func (a *acceptor) acceptPreface(fd int, peer netip.AddrPort) {
	p := &preface{a: a, cfg: a.served.cfg.ProxyProtocol, peer: peer}
	head := &a.prefaces
	p.prev, p.next = head.prev, head
	head.prev.next = p
	head.prev = p
	a.active++
	a.stats.count[listenerPreCxActive]++
	if err := p.Open(a.w.loop, fd, p); err != nil {
		p.unlink()
		a.left()
		return
	}
	a.w.loop.Start(&p.timer, p.cfg.Timeout, p)
}

// Ready takes the socket's events.
func (p *preface) Ready(e loop.Event) {
	buf := p.a.w.loop.Shared()[:preamble.MaxBytes]
	n, err := p.Peek(buf)
	switch {
	case errors.Is(err, syscall.EAGAIN) && e&(loop.Err|loop.Hup) == 0:
		return
	case err != nil:
		p.end(listenerFilterRemoteClose)
		return
	}
	h, length, err := preamble.Read(buf[:n])
	counts := &p.a.w.prefaces
	switch {
	case errors.Is(err, preamble.ErrNone) && p.cfg.Optional:
		counts[prefaceNoneAllowed]++
		p.pass(h)
	case errors.Is(err, preamble.ErrNone):
		counts[prefaceNoneRefused]++
		p.end(listenerFilterError)
	case err != nil:
		counts[prefaceError1+prefaceCounter(h.Version-1)]++
		p.end(listenerFilterError)
	case length > 0:
		if m, err := p.Read(buf[:length]); err != nil || m != length {
			p.end(listenerFilterRemoteClose)
			return
		}
		counts[prefaceFound1+prefaceCounter(h.Version-1)]++
		p.a.stats.count[listenerRxBytes] += uint64(length)
		p.pass(h)
	case n == 0 || e&(loop.Err|loop.Hup) != 0:
		p.end(listenerFilterRemoteClose)
	}
}

// pass gives the connection to the protocol behind, as it is configured now.
func (p *preface) pass(h preamble.Header) {
	a, peer := p.a, p.peer
	var via *proxied
	if h.Source.IsValid() {
		peer, via = h.Source, &proxied{direct: p.peer, local: h.Destination}
	}
	p.unlink()
	a.active-- // it counts anew; the acceptor is not to be dropped in between
	a.begin(p.Detach(), peer, via)
}

// Expired ends a connection whose header did not come in time.
func (p *preface) Expired(*loop.Timer) { p.end(listenerPreCxTimeout) }

// end closes the connection for a reason that is counted.
func (p *preface) end(reason listenerCounter) {
	p.a.stats.count[reason]++
	p.drop()
}

func (p *preface) drop() {
	p.unlink()
	p.Close()
	p.a.left()
}

func (p *preface) unlink() {
	p.timer.Stop()
	p.prev.next, p.next.prev = p.next, p.prev
	p.a.stats.count[listenerPreCxActive]--
}

// prefaceCounter is one of the counters of PROXY headers.
type prefaceCounter uint8

const (
	prefaceFound1 prefaceCounter = iota // those of versions 1 and 2 follow each other
	prefaceFound2
	prefaceError1
	prefaceError2
	prefaceNoneAllowed
	prefaceNoneRefused
	numPrefaceCounters
)

var prefaceCounterNames = [numPrefaceCounters]string{
	prefaceFound1:      "versions.v1.found",
	prefaceFound2:      "versions.v2.found",
	prefaceError1:      "versions.v1.error",
	prefaceError2:      "versions.v2.error",
	prefaceNoneAllowed: "not_found_allowed",
	prefaceNoneRefused: "not_found_disallowed",
}

// prefaceStats are one loop's counts.
type prefaceStats [numPrefaceCounters]uint64

func (s *prefaceStats) add(other *prefaceStats) {
	for i, n := range other {
		s[i] += n
	}
}

func (s *prefaceStats) samples() []sample {
	out := make([]sample, 0, len(s))
	for i, n := range s {
		out = append(out, sample{scope: "proxy_proto", name: prefaceCounterNames[i], value: n})
	}
	return out
}
