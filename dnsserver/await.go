package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	awaitTime   = 900 * time.Millisecond // for Await, so that the answer is there within a second
	mostAwaited = 1000                   // queries over UDP that are awaited at a time, and so many over connections
)

// Failure is an error of Await that has a code of RFC 8914 to be told by.
type Failure struct {
	Code uint16
	Text string // at most a few hundred bytes
}

func (f *Failure) Error() string { return fmt.Sprintf("answer query: %s (code %d)", f.Text, f.Code) }

// awaits reports whether a query has to wait for Await: there is nothing at its name yet.
func (r *responder) awaits(zone *Zone) bool {
	if r.server.opts.Await == nil {
		return false
	}
	n := zone.index.find(r.query.asked())
	return n == nil || len(n.sets) == 0
}

// await waits for what there is at the query's name and returns the zone that has it, nil after an error, which is in the answer.
func (r *responder) await() *Zone {
	ctx, cancel := context.WithTimeout(r.server.life, awaitTime)
	defer cancel()
	err := r.server.opts.Await(ctx, Name(r.query.asked()).String())
	if err != nil {
		r.fail(err)
		return nil
	}
	r.zones = r.server.opts.Zones()
	zone := r.zoneOf(r.query.asked())
	if zone == nil {
		r.fail(&Failure{dns.ExtendedErrorCodeNotReady, "the zone has gone"})
	}
	return zone
}

// fail answers SERVFAIL.
func (r *responder) fail(err error) {
	failure := &Failure{dns.ExtendedErrorCodeOther, err.Error()}
	errors.As(err, &failure)
	r.rcode = dns.RcodeServerFailure
	r.explain(failure.Code, failure.Text)
}

// patiently is a responder that may wait, for a query of the same client.
func (r *responder) patiently() *responder {
	p := &responder{server: r.server, counts: r.counts, zones: r.zones, now: r.now, tlsVersion: r.tlsVersion, peer: r.peer, local: r.local, patient: true}
	p.query.by, p.query.client = r.query.by, r.query.client
	return p
}

// later answers a query over UDP on a goroutine of its own.
func (l *udpLoop) later(i int) {
	s := l.server
	if s.awaited.Add(1) > mostAwaited {
		s.awaited.Add(-1)
		l.counts.ignored.Add(1) // who asks so much has to ask again
		return
	}
	message := append([]byte(nil), l.queries[i][:l.in[i].n]...)
	var control []byte
	if l.socket.wildcard && l.socket.reply(l.control[i][:l.in[i].hdr.Controllen]) {
		control = append(control, l.control[i][:l.in[i].hdr.Controllen]...)
	}
	to, r, conn := l.clientPort(i), l.patiently(), l.socket.conn
	s.later.Go(func() {
		defer s.awaited.Add(-1)
		if answer := r.respond(message, make([]byte, 0, maxUDPPayload)); answer != nil {
			if _, _, err := conn.WriteMsgUDPAddrPort(answer, control, to); err != nil {
				s.socketErrors.Add(1)
			}
		}
	})
}

// clientPort is where a message came from.
func (l *udpLoop) clientPort(i int) netip.AddrPort {
	name := &l.names[i]
	port := *(*[2]byte)(unsafe.Pointer(&name.Port)) // at the same place for both families
	zone := ""
	if name.Family == unix.AF_INET6 && name.Scope_id != 0 {
		zone = fmt.Sprint(name.Scope_id)
	}
	return netip.AddrPortFrom(l.client(i).WithZone(zone), uint16(port[0])<<8|uint16(port[1]))
}
