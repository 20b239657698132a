package dnsserver

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

// responder answers one query after the other, without memory of its own for each. It belongs to one goroutine.
type responder struct {
	server *Server
	counts *shard
	zones  []*Zone // what is answered; the goroutine sets it from time to time
	now    uint32  // Unix seconds, likewise
	query  query
	// patient: it may wait for Options.Await. If not, a query that has to wait is deferred: the answer is nil.
	patient, deferred bool

	// The answer in the making.
	b          []byte
	limit      int // bytes it may have
	rcode      int
	aa, tc     bool
	ede        extendedError
	scope      uint8 // for how many bits of a client's subnet the answer is; 0: for all
	signed     bool  // the answer is to be signed
	failed     bool  // a signature could not be made
	held       bool  // there was no leave to make one
	answers    int
	authority  int
	additional int
	spans      []span // of the answer's set, kept for their memory, as is given
	given      []bool
	order      []candidate

	tlsVersion uint16 // of the connection

	passedOn  bool // the answer is the Forwarder's
	authentic bool // and was validated

	// For who taps.
	peer, local netip.AddrPort
	origin      Name // of the zone that was asked
	silent      bool // the message was no query

	session *tsig.Session // of a query that was signed
	wanted  *wanted       // a copy of a zone; the answer so far is what its first message begins with
}

// extendedError explains an rcode (RFC 8914).
type extendedError struct {
	given bool
	code  uint16
	text  string
}

// reply writes the answer to a message into the memory of to, or larger memory, and returns it; nil when none is due. Who
// asks and how was set in the query before.
func (r *responder) reply(message, to []byte) (answer []byte) {
	// The message library, which reads what is uncommon, has had bugs that crash on some hostile packet. One packet must not
	// end the server.
	defer func() {
		if cause := recover(); cause != nil {
			r.server.panics.Add(1)
			r.server.opts.Log.Error("query made the DNS server panic", slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
			answer = nil
		}
	}()
	q := &r.query
	r.deferred, r.origin, r.wanted = false, "", nil
	verdict := q.parse(message)
	if r.silent = verdict == silence; r.silent {
		r.counts.ignored.Add(1)
		return nil
	}
	if verdict == formatError { // a bare OPT record says that we know EDNS (RFC 6891 §7), and answers nothing that is larger than the question
		q.edns = edns{present: q.edns.present}
	}
	r.start(to)
	switch {
	case q.by == udp && !r.patient && r.server.limiter != nil && !r.permitted(): // what was deferred was counted then
		if r.tc {
			return r.finish()
		}
		return nil
	case verdict == notImplemented:
		r.rcode = dns.RcodeNotImplemented
	case verdict == formatError:
		r.rcode = dns.RcodeFormatError
	case q.hasTSIG && !r.authenticate():
	case q.edns.present && q.edns.version != 0:
		r.rcode = dns.RcodeBadVers
	case verdict == cookieWanted: // who has none of ours yet gets one; of who shows one it is said whether it is
		if q.edns.cookies > clientCookie && !r.hasCookie() {
			r.rcode = dns.RcodeBadCookie
		}
	default:
		r.origin = r.answer()
		if r.deferred {
			return nil
		}
		if r.failed || r.held {
			r.withdraw()
		}
	}
	if r.wanted != nil {
		return r.b
	}
	r.counts.count(r.origin, q.qtype, r.rcode)
	return r.finish()
}

// authenticate verifies a query that is signed (RFC 8945 §5.2). What is not authentic is not answered.
func (r *responder) authenticate() bool {
	session, err := tsig.Verify(r.server.opts.Keys, r.query.message, time.Unix(int64(r.now), 0))
	if err != nil || session == nil {
		r.rcode = dns.RcodeFormatError
		return false
	}
	r.session = session
	r.limit -= session.Size()
	if session.Failed() != 0 {
		r.rcode = dns.RcodeNotAuth
		return false
	}
	return true
}

// start writes the header and repeats the question as it came, case and all (RFC 4343).
func (r *responder) start(to []byte) {
	q := &r.query
	end := headerBytes
	if q.length > 0 {
		end = q.questionEnd()
	}
	r.b = append(to[:0], q.message[:end]...)
	r.rcode, r.aa, r.tc, r.ede.given, r.scope = dns.RcodeSuccess, false, false, false, 0
	r.signed, r.failed, r.held = false, false, false
	r.session = nil
	r.passedOn, r.authentic = false, false
	r.answers, r.authority, r.additional = 0, 0, 0
	r.limit = dns.MaxMsgSize
	if q.by == udp {
		r.limit = dns.MinMsgSize
		if q.edns.present {
			r.limit = max(dns.MinMsgSize, min(int(q.edns.size), maxUDPPayload))
		}
	}
	r.limit -= r.optSize()
}

// finish completes the header and appends what EDNS has to say.
func (r *responder) finish() []byte {
	q := &r.query
	if q.edns.present {
		r.appendOPT()
	}
	h := r.b
	h[2] = h[2]&0x79 | 0x80 // opcode and RD are the query's; a response
	if r.aa {
		h[2] |= 0x04
	}
	if r.tc && q.by == udp { // with TCP there is nothing larger to turn to
		h[2] |= 0x02
		r.counts.truncated.Add(1)
	}
	h[3] = h[3]&0x10 | byte(r.rcode&0xf) // CD is the query's (RFC 4035 §3.1.6)
	if r.server.opts.Forward != nil {
		r.recursion()
	}
	binary.BigEndian.PutUint16(h[4:], uint16(min(q.length, 1)))
	binary.BigEndian.PutUint16(h[6:], uint16(r.answers))
	binary.BigEndian.PutUint16(h[8:], uint16(r.authority))
	binary.BigEndian.PutUint16(h[10:], uint16(r.additional))
	if r.session != nil {
		r.b = r.session.Append(r.b, time.Now())
	}
	return r.b
}

// permitted asks the limiter. A client whose cookie we made is who it says it is.
func (r *responder) permitted() bool {
	if r.hasCookie() {
		return true
	}
	allowed := r.server.limiter.take(r.query.client, r.now)
	if allowed == whole {
		return true
	}
	r.counts.limited.Add(1)
	r.tc = allowed == truncated
	return false
}

// hasCookie says whether the client has shown a cookie that we made for its address.
func (r *responder) hasCookie() bool {
	q := &r.query
	if !q.edns.hasCookie {
		return false
	}
	good, _ := r.server.cookies.check(q.edns.cookie[:q.edns.cookies], q.client, r.now)
	return good
}

func (r *responder) explain(code uint16, text string) {
	r.ede = extendedError{true, code, text}
}

// optSize is how many bytes appendOPT takes at most, without padding and explanations, which go where there is room.
func (r *responder) optSize() int {
	e := &r.query.edns
	if !e.present {
		return 0
	}
	n := optBytes
	if e.hasCookie {
		n += 4 + clientCookie + serverCookie
	}
	if e.nsid {
		n += 4 + len(r.server.opts.NSID)
	}
	if e.keepAlive {
		n += 6
	}
	if e.hasSubnet {
		n += 8 + 16
	}
	return n
}

// appendOPT appends the OPT record. What the client did not ask for is not there, but for an explanation.
func (r *responder) appendOPT() {
	q := &r.query
	start := len(r.b)
	r.b = append(r.b, 0, 0, byte(dns.TypeOPT), maxUDPPayload>>8, maxUDPPayload&0xff, byte(r.rcode>>4), 0, r.optFlags(), 0, 0, 0)
	r.additional++
	if q.edns.version == 0 {
		r.appendOptions()
	}
	if r.ede.given && len(r.b)+6+len(r.ede.text) <= r.limit+r.optSize() {
		r.b = appendOption(r.b, dns.EDNS0EDE, 2+len(r.ede.text))
		r.b = binary.BigEndian.AppendUint16(r.b, r.ede.code)
		r.b = append(r.b, r.ede.text...)
	}
	if q.edns.padded && q.by >= overTLS {
		r.pad()
	}
	binary.BigEndian.PutUint16(r.b[start+9:], uint16(len(r.b)-start-optBytes))
}

// optFlags are the first byte of the OPT record's flags: DO is the query's (RFC 3225), and CO where it means something.
func (r *responder) optFlags() byte {
	flags := r.query.edns.flags & dnssecOK
	if flags != 0 && r.signed {
		flags |= r.query.edns.flags & compactOK
	}
	return byte(flags >> 8)
}

func (r *responder) appendOptions() {
	q := &r.query
	if q.edns.hasCookie {
		at := len(r.b)
		r.b = appendOption(r.b, dns.EDNS0COOKIE, clientCookie+serverCookie)
		r.b = r.server.cookies.appendTo(r.b, q.edns.cookie[:q.edns.cookies], q.client, r.now)
		binary.BigEndian.PutUint16(r.b[at+2:], uint16(len(r.b)-at-4))
	}
	if id := r.server.opts.NSID; q.edns.nsid && id != "" {
		r.b = appendOption(r.b, dns.EDNS0NSID, len(id))
		r.b = append(r.b, id...)
	}
	if q.edns.keepAlive && (q.by == tcp || q.by == overTLS) { // RFC 7828: how long an idle connection lives
		r.b = appendOption(r.b, dns.EDNS0TCPKEEPALIVE, 2)
		r.b = binary.BigEndian.AppendUint16(r.b, uint16(tcpIdleTimeout.Milliseconds()/keepAliveUnits))
	}
	if s := &q.edns.subnet; q.edns.hasSubnet && r.trusted(q.client) { // RFC 7871 §7.2.1: also where the place does not matter
		addr := s.addr.AsSlice()[:(int(s.source)+7)/8]
		r.b = appendOption(r.b, dns.EDNS0SUBNET, 4+len(addr))
		r.b = binary.BigEndian.AppendUint16(r.b, s.family)
		r.b = append(r.b, s.source, r.scope)
		r.b = append(r.b, addr...)
	}
}

func appendOption(b []byte, code uint16, size int) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	return binary.BigEndian.AppendUint16(b, uint16(size))
}

// paddingBlock is what the sizes of encrypted answers are multiples of (RFC 8467 §4.1).
const paddingBlock = 468

func (r *responder) pad() {
	size := (len(r.b) + 4 + paddingBlock - 1) / paddingBlock * paddingBlock
	n := min(size, dns.MaxMsgSize) - len(r.b) - 4
	if n < 0 {
		return
	}
	r.b = appendOption(r.b, dns.EDNS0PADDING, n)
	for range n {
		r.b = append(r.b, 0)
	}
}
