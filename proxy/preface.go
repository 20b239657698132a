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

// inspected is what a connection's first bytes say, as far as chains are chosen by it.
type inspected struct {
	tls   bool
	hello preamble.Hello // its protocols are also set for HTTP in plaintext
}

// preface is a connection whose first bytes are looked at: a PROXY header, which is taken away, and the beginning of the protocol.
// They are looked at where they wait, in the kernel, so that slow clients hold no buffer and what follows is read by
// the protocol behind.
type preface struct {
	loop.Socket
	a       *acceptor
	arrival arrival
	filters config.Filters        // as the connection found them
	header  *config.ProxyProtocol // that is waited for; nil: none, or it was there

	next, prev *preface // all of the acceptor
	timer      loop.Timer
	partial    bool // something is there that is not whole
}

func (a *acceptor) acceptPreface(fd int, peer netip.AddrPort) {
	cfg := a.reception.cfg
	p := &preface{a: a, filters: cfg.Filters, header: cfg.ProxyProtocol, arrival: *a.newArrival(fd, peer)}
	head := &a.prefaces
	p.prev, p.next = head.prev, head
	head.prev.next = p
	head.prev = p
	a.active++
	a.stats.count[listenerPreCxActive]++
	if err := p.Open(a.w.loop, fd, p); err != nil {
		p.arrival.visit.over(p.arrival.peer, p.arrival.via, nil)
		p.unlink()
		a.left()
		return
	}
	a.w.loop.Start(&p.timer, p.filters.Timeout, p)
}

// Ready takes the socket's events.
func (p *preface) Ready(e loop.Event) {
	if p.header != nil && !p.readHeader(e) {
		return
	}
	if !p.a.reception.inspects() {
		p.pass()
		return
	}
	p.inspect(e)
}

// peek looks at what is there. It reports false if that is nothing yet, or the connection was ended.
func (p *preface) peek(most int, e loop.Event) ([]byte, bool) {
	buf := p.a.w.loop.Shared()[:most]
	n, err := p.Peek(buf)
	switch {
	case errors.Is(err, syscall.EAGAIN) && e&(loop.Err|loop.Hup) == 0:
		return nil, false
	case err != nil:
		p.end(listenerFilterRemoteClose)
		return nil, false
	}
	p.partial = n > 0
	return buf[:n], true
}

// readHeader takes the PROXY header away. It reports whether that is done.
func (p *preface) readHeader(e loop.Event) bool {
	data, ok := p.peek(preamble.MaxBytes, e)
	if !ok {
		return false
	}
	h, length, err := preamble.Read(data)
	counts := &p.a.w.prefaces
	switch {
	case errors.Is(err, preamble.ErrNone) && p.header.Optional:
		counts[prefaceNoneAllowed]++
	case errors.Is(err, preamble.ErrNone):
		counts[prefaceNoneRefused]++
		p.end(listenerFilterError)
		return false
	case err != nil:
		counts[prefaceError1+prefaceCounter(h.Version-1)]++
		p.end(listenerFilterError)
		return false
	case length > 0:
		if m, err := p.Read(data[:length]); err != nil || m != length {
			p.end(listenerFilterRemoteClose)
			return false
		}
		counts[prefaceFound1+prefaceCounter(h.Version-1)]++
		p.a.stats.count[listenerRxBytes] += uint64(length)
	default:
		p.wait(len(data), e)
		return false
	}
	if h.Source.IsValid() {
		p.arrival.via = &proxied{direct: p.arrival.peer, local: h.Destination}
		p.arrival.peer = h.Source
	}
	p.header, p.partial = nil, false
	return true
}

// inspect looks at the beginning of the protocol.
func (p *preface) inspect(e loop.Event) {
	data, ok := p.peek(preamble.MaxHelloBytes, e)
	if !ok {
		return
	}
	counts := &p.a.w.prefaces
	h, done, err := preamble.ReadHello(data, p.filters.MaxClientHello)
	switch {
	case errors.Is(err, preamble.ErrNoTLS):
		if !p.inspectHTTP(data, e) {
			return
		}
		counts[prefaceTLSNotFound]++
	case err != nil:
		// To go on without what the client said would have it served as if it had named nobody.
		counts[prefaceTLSError]++
		p.end(listenerFilterError)
		return
	case !done:
		p.wait(len(data), e)
		return
	default:
		counts[prefaceTLSFound]++
		counts.either(h.ServerName != "", prefaceSNIFound)
		counts.either(len(h.Protocols) > 0, prefaceALPNFound)
		p.arrival.inspect = inspected{tls: true, hello: h}
	}
	p.pass()
}

// inspectHTTP finds out which HTTP a plaintext connection speaks, if chains are to know. It reports whether that is done.
func (p *preface) inspectHTTP(data []byte, e loop.Event) bool {
	if !p.filters.InspectHTTP {
		return true
	}
	protocol, done := preamble.ReadHTTP(data)
	if !done {
		p.wait(len(data), e)
		return false
	}
	counter := map[string]prefaceCounter{preamble.HTTP10: prefaceHTTP10, preamble.HTTP11: prefaceHTTP11, preamble.H2C: prefaceHTTP2, "": prefaceNoHTTP}[protocol]
	p.a.w.prefaces[counter]++
	if protocol == "" {
		return true
	}
	p.arrival.inspect.hello.Protocols = []string{protocol}
	p.arrival.protocol = config.ProtocolHTTP1
	if protocol == preamble.H2C {
		p.arrival.protocol = config.ProtocolHTTP2
	}
	return true
}

// wait goes on waiting for more than n bytes, unless the client will send no more.
func (p *preface) wait(n int, e loop.Event) {
	if n == 0 || e&(loop.Err|loop.Hup) != 0 {
		p.end(listenerFilterRemoteClose)
	}
}

// pass gives the connection to the chain that takes it, as the listener is configured now.
func (p *preface) pass() {
	a := p.a
	p.unlink()
	p.arrival.fd = p.Detach()
	a.admit(&p.arrival)
	a.passed() // it counts anew by now
}

// Expired ends a connection whose first bytes did not come in time. Where that is allowed one of which nothing came is served: a
// part of a header or of a ClientHello is not taken for none.
func (p *preface) Expired(*loop.Timer) {
	silent := !p.partial && (p.header == nil || p.header.Optional)
	if !silent || !p.filters.ContinueOnTimeout {
		p.end(listenerPreCxTimeout)
		return
	}
	p.a.stats.count[listenerPreCxTimeout]++
	p.pass()
}

// end closes the connection for a reason that is counted.
func (p *preface) end(reason listenerCounter) {
	p.a.stats.count[reason]++
	p.drop()
}

func (p *preface) drop() {
	p.arrival.visit.over(p.arrival.peer, p.arrival.via, nil)
	p.unlink()
	p.Close()
	p.a.left()
}

func (p *preface) unlink() {
	p.timer.Stop()
	p.prev.next, p.next.prev = p.next, p.prev
	p.a.stats.count[listenerPreCxActive]--
}
