package dnsserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds on what copies of zones take.
const (
	copyBytes       = 16 << 10 // of a message: compression reaches no further
	maxCopies       = 64       // at once
	maxSourceCopies = 16       // of one source, which may want several zones
	copyWait        = 5 * time.Second
	copyRate        = 16 << 10 // bytes that a client has to take in a second, on the average and after tcpWriteTime
)

// Copies has the zones as secondaries get them.
type Copies interface {
	// Copy returns a copy of a zone that is being served, or of what has changed since a serial, if that is known still. It
	// waits for one that is being made, as long as ctx lets it.
	Copy(ctx context.Context, zone *Zone, since *uint32) (Copy, error)
	// Copied is told that a client has got a copy whole. key is the name of the TSIG key that it showed, "" for none.
	Copied(zone Name, serial uint32, client netip.Addr, key string)
}

// Copy is a zone as it is transferred (RFC 5936, 1995): its SOA comes first and last.
type Copy struct {
	Serial  uint32
	Records iter.Seq[Record]
}

// Record is a record of a copy.
type Record struct {
	Owner Name
	Type  uint16
	TTL   uint32 // in seconds
	Data  []byte // in wire form, names not compressed
}

// wanted is what a client that may have a copy has asked for.
type wanted struct {
	zone  *Zone
	since *uint32 // the client's serial, of IXFR
}

// transfer answers AXFR and IXFR. What cannot be said in one message is left to the connection.
func (r *responder) transfer(zone *Zone) {
	q := &r.query
	switch {
	case zone == nil || string(q.asked()) != string(zone.origin):
		r.rcode, r.aa = dns.RcodeNotAuth, false // RFC 5936 §2.2.1
		r.explain(dns.ExtendedErrorCodeNotAuthoritative, "")
	case r.server.opts.Copies == nil || r.session == nil && !q.client.IsLoopback():
		r.rcode, r.aa = dns.RcodeRefused, false
		r.explain(dns.ExtendedErrorCodeProhibited, "zones are copied to who signs with a TSIG key, or is on the server's host")
	case q.qtype == dns.TypeIXFR && !q.hasSerial:
		r.rcode, r.aa = dns.RcodeFormatError, false // RFC 1995 §3
	case q.by == udp && q.qtype == dns.TypeIXFR: // RFC 1995 §2: the client turns to TCP when it wants more
		r.records(zone, zone.soaSet)
	case q.by != tcp && q.by != overTLS: // RFC 5936 §4.2
		r.rcode, r.aa = dns.RcodeRefused, false
		r.explain(dns.ExtendedErrorCodeNotSupported, "zones are copied over TCP and TLS")
	case q.by == overTLS && r.tlsVersion < tls.VersionTLS13: // RFC 9103 §7.1
		r.rcode, r.aa = dns.RcodeRefused, false
		r.explain(dns.ExtendedErrorCodeNotSupported, "zones are copied over TLS 1.3")
	default:
		r.wanted = &wanted{zone: zone}
		if q.qtype == dns.TypeIXFR {
			r.wanted.since = &q.serial
		}
	}
}

// copiesUnderWay counts them by their sources.
type copiesUnderWay struct {
	mu      sync.Mutex
	all     int                // guarded by mu
	sources map[netip.Addr]int // guarded by mu
}

func (c *copiesUnderWay) begin(client netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxCopies || c.sources[source(client)] >= maxSourceCopies {
		return false
	}
	c.all++
	c.sources[source(client)]++
	return true
}

func (c *copiesUnderWay) end(client netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.sources[source(client)]--; c.sources[source(client)] <= 0 {
		delete(c.sources, source(client))
	}
}

// serveCopy sends what the responder found wanted. An error is of the connection, or of a copy that ends within, as it does with ctx: a
// client that takes little at a time holds nobody up for long.
func (s *Server) serveCopy(ctx context.Context, conn net.Conn, out *bufio.Writer, r *responder) error {
	p := &packer{ctx: ctx, r: r, conn: conn, out: out}
	client, want := r.query.client, r.wanted
	if !s.underWay.begin(client) {
		return p.refuse(dns.RcodeRefused, dns.ExtendedErrorCodeOther, "too many copies at once")
	}
	defer s.underWay.end(client)
	waiting, cancel := context.WithTimeout(ctx, copyWait)
	copied, err := s.opts.Copies.Copy(waiting, want.zone, want.since)
	cancel()
	if err != nil {
		s.opts.Log.Warn("zone not copied", "zone", want.zone.origin.String(), "client", client, "error", err)
		return p.refuse(dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "no copy yet")
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })()
	p.begun = time.Now()
	for record := range copied.Records {
		if err = p.add(record); err != nil {
			break
		}
	}
	if err == nil {
		err = p.send()
	}
	if err != nil {
		s.opts.Log.Warn("copy of a zone broken off", "zone", want.zone.origin.String(), "serial", copied.Serial, "client", client, "error", err)
		return err
	}
	r.counts.count(want.zone.origin, r.query.qtype, dns.RcodeSuccess)
	key := ""
	if r.session != nil {
		key = r.session.Key().Name()
	}
	s.opts.Copies.Copied(want.zone.origin, copied.Serial, client, key)
	return nil
}

// packer makes the messages of a copy, of which it holds one.
type packer struct {
	ctx   context.Context
	r     *responder
	conn  net.Conn
	out   *bufio.Writer
	begun time.Time
	sent  int // bytes of messages

	last Name                     // whose labels are in the message
	at   [maxNameBytes + 1]uint16 // where its ends begin, by their length; 0 for those that are not there
}

// refuse answers with an error alone.
func (p *packer) refuse(rcode int, code uint16, why string) error {
	p.r.rcode, p.r.aa = rcode, false
	p.r.explain(code, why)
	p.r.counts.count(p.r.wanted.zone.origin, p.r.query.qtype, rcode)
	return p.send()
}

// add appends a record, to a message of its own when it is so large.
func (p *packer) add(record Record) error {
	r := p.r
	if size := len(record.Owner) + 10 + len(record.Data); r.answers > 0 && len(r.b)+size > min(copyBytes, r.limit) {
		if err := p.send(); err != nil {
			return err
		}
	}
	p.owner(record.Owner)
	r.b = binary.BigEndian.AppendUint16(r.b, record.Type)
	r.b = binary.BigEndian.AppendUint16(r.b, dns.ClassINET)
	r.b = binary.BigEndian.AppendUint32(r.b, record.TTL)
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(len(record.Data)))
	r.b = append(r.b, record.Data...)
	r.answers++
	if len(record.Data) > dns.MaxMsgSize || len(r.b) > r.limit {
		return fmt.Errorf("write %s %s: %d bytes fit no message", record.Owner, dns.TypeToString[record.Type], len(record.Data))
	}
	return nil
}

// owner appends a name, of which the end that it shares with the one before is a pointer.
func (p *packer) owner(name Name) {
	r := p.r
	shared := 0
	for rest := name; len(rest) > 1; rest = rest.parent() {
		if p.at[len(rest)] != 0 && len(rest) <= len(p.last) && p.last[len(p.last)-len(rest):] == rest {
			shared = len(rest)
			break
		}
	}
	for rest := p.last; len(rest) > shared; rest = rest.parent() {
		p.at[len(rest)] = 0
		if len(rest) == 1 {
			break
		}
	}
	p.last = name
	for rest := name; len(rest) > max(shared, 1); rest = rest.parent() {
		if at := len(r.b); at <= maxPointer {
			p.at[len(rest)] = uint16(at)
		}
		r.b = append(r.b, rest[:1+int(rest[0])]...)
	}
	if shared > 0 {
		r.b = binary.BigEndian.AppendUint16(r.b, pointer|p.at[shared])
		return
	}
	r.b = append(r.b, 0)
}

// send sends the message and begins the next, which has no question (RFC 5936 §2.2.1) and no OPT record.
func (p *packer) send() error {
	r := p.r
	message := r.finish()
	if len(message) > dns.MaxMsgSize {
		return fmt.Errorf("write message: got %d bytes, want %d at most", len(message), dns.MaxMsgSize)
	}
	_ = p.conn.SetWriteDeadline(p.deadline(time.Now()))
	if p.ctx.Err() != nil { // after the deadline is set, so that the one of serveCopy, past, is not lost
		return fmt.Errorf("write message: %w", context.Cause(p.ctx))
	}
	_, _ = p.out.Write([]byte{byte(len(message) >> 8), byte(len(message))}) // errors stay with the writer
	_, _ = p.out.Write(message)
	if err := p.out.Flush(); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	if p.sent == 0 {
		r.query.length, r.query.edns = 0, edns{}
	}
	p.sent += len(message)
	session := r.session
	r.start(r.b)
	r.session, r.aa = session, true
	if session != nil {
		r.limit -= session.Size()
	}
	p.at, p.last = [maxNameBytes + 1]uint16{}, ""
	return nil
}

// deadline is until when the next message has to be taken: soon, and no later than a client that takes copyRate would.
func (p *packer) deadline(now time.Time) time.Time {
	soon := now.Add(tcpWriteTime)
	if p.begun.IsZero() { // an error alone
		return soon
	}
	last := p.begun.Add(tcpWriteTime + time.Duration(p.sent)*time.Second/copyRate)
	if last.Before(soon) {
		return last
	}
	return soon
}
