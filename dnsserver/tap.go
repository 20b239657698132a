package dnsserver

import (
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tap is shown what is asked and answered.
type Tap interface {
	// Show is shown an exchange after its answer was made. It is called concurrently, must not block, and keeps none of the bytes.
	Show(Exchange)
}

// Exchange is a query and its answer.
type Exchange struct {
	Asker, Answerer netip.AddrPort
	Transport       string // "udp", "tcp", "tls", "https"
	Kind            Kind
	Zone            Name // "" for what no zone was asked for
	Query, Answer   []byte
	Asked, Answered time.Time
}

// Kind is who answers whom.
type Kind uint8

// The kinds of exchange.
const (
	FromZone      Kind = iota // we, from a zone, or of a mistake
	FromForwarder             // we, from what others say
	FromUpstream              // others, us
)

// respond answers a message, see reply, and shows both to who taps.
func (r *responder) respond(message, to []byte) []byte {
	tap := r.server.opts.Tap
	if tap == nil {
		return r.reply(message, to)
	}
	asked := time.Now()
	answer := r.reply(message, to)
	if r.deferred || r.silent {
		return answer
	}
	e := Exchange{
		Asker: r.peer, Answerer: r.local, Transport: r.query.by.String(), Zone: r.origin, Query: message, Answer: answer,
		Asked: asked, Answered: time.Now(),
	}
	if r.passedOn {
		e.Kind = FromForwarder
	}
	if r.wanted != nil {
		e.Answer = nil // a copy is made of many messages, of which none is ready
	}
	tap.Show(e)
	return answer
}

// ends fills in for who taps between which addresses a message went.
func (l *udpLoop) ends(i int) {
	l.peer, l.local = l.clientPort(i), l.socket.conn.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
	if !l.socket.wildcard {
		return
	}
	header := unix.CmsgLen(0)
	control := l.control[i][:l.in[i].hdr.Controllen]
	switch {
	case l.socket.v6 && len(control) >= header+unix.SizeofInet6Pktinfo:
		l.local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(control[header:])), l.local.Port())
	case !l.socket.v6 && len(control) >= header+unix.SizeofInet4Pktinfo:
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&control[header]))
		l.local = netip.AddrPortFrom(netip.AddrFrom4(info.Addr), l.local.Port())
	}
}
