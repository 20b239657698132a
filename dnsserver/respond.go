package dnsserver

import (
	"encoding/binary"
	"log/slog"
	"runtime/debug"

	"github.com/miekg/dns"
)

// transport is what a query came by.
type transport uint8

const (
	udp transport = iota
	tcp
	transports
)

func (t transport) String() string { return [...]string{"udp", "tcp"}[t] }

const (
	headerBytes = 12
	// maxRecords is more than any honest query carries besides its question (OPT, TSIG, SIG(0), an IXFR's SOA).
	maxRecords = 8
)

// respond returns the answer to a message, packed in buf if it fits, or nil when none is due.
func (s *Server) respond(query []byte, by transport, buf []byte) (answer []byte) {
	// The message library has had bugs that crash on some hostile packet. One packet must not end the server.
	defer func() {
		if r := recover(); r != nil {
			s.stats.panics.Add(1)
			s.opts.Log.Error("query made the DNS server panic",
				slog.Any("panic", r), slog.String("stack", string(debug.Stack())))
			answer = nil
		}
	}()
	if len(query) < headerBytes || query[2]&0x80 != 0 {
		s.stats.ignored.Add(1) // no message, or itself a response: answering could go on for ever
		return nil
	}
	reply, opt := s.reply(query, by)
	var qtype uint16
	if len(reply.Question) == 1 {
		qtype = reply.Question[0].Qtype
	}
	s.stats.count(by, qtype, reply.Rcode)
	fit(reply, limit(opt, by))
	if by == tcp {
		reply.Truncated = false // there is nothing larger to turn to
	}
	packed, err := reply.PackBuffer(buf)
	if err != nil {
		s.opts.Log.Error("pack DNS answer", "error", err)
		return bare(query, dns.RcodeServerFailure)
	}
	if reply.Truncated {
		s.stats.truncated.Add(1)
	}
	return packed
}

// bare is the header alone of an answer with an rcode.
func bare(query []byte, rcode byte) []byte {
	out := make([]byte, headerBytes)
	copy(out, query[:2])
	out[2] = query[2]&0x79 | 0x80 // opcode and RD are the query's; a response, not authoritative
	out[3] = rcode
	return out
}

// reply makes the answer, without a care for its size. opt is what the query said of EDNS, nil for nothing.
func (s *Server) reply(query []byte, by transport) (reply *dns.Msg, opt *dns.OPT) {
	reply = &dns.Msg{}
	reply.Id = binary.BigEndian.Uint16(query)
	reply.Response = true
	reply.Compress = true
	reply.Opcode = int(query[2]>>3) & 0xf
	reply.RecursionDesired = query[2]&1 != 0
	reply.CheckingDisabled = query[3]&0x10 != 0 // RFC 4035 §3.1.6; RA and AD stay 0

	count := func(at int) int { return int(binary.BigEndian.Uint16(query[at:])) }
	if reply.Opcode != dns.OpcodeQuery {
		reply.Rcode = dns.RcodeNotImplemented
		return reply, nil
	}
	reply.Rcode = dns.RcodeFormatError
	if count(4) != 1 || count(6)+count(8)+count(10) > maxRecords {
		return reply, nil
	}
	var asked dns.Msg
	if asked.Unpack(query) != nil || len(asked.Question) != 1 {
		return reply, nil
	}
	reply.Question = asked.Question
	var ok bool
	if opt, ok = ednsOf(&asked); !ok {
		return reply, nil
	}
	if opt != nil {
		out := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		out.SetUDPSize(maxUDPPayload)
		out.SetDo(opt.Do())
		reply.Extra = append(reply.Extra, out)
		if opt.Version() != 0 {
			reply.Rcode = dns.RcodeBadVers
			return reply, opt
		}
		if by == tcp {
			keepAlive(opt, out)
		}
	}
	s.answer(reply, by)
	return reply, opt
}

// ednsOf returns the OPT record of a query, and whether there is at most one, in its place.
func ednsOf(asked *dns.Msg) (opt *dns.OPT, ok bool) {
	for _, rr := range asked.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			continue
		}
		o, isOPT := rr.(*dns.OPT)
		if !isOPT || opt != nil || o.Hdr.Name != "." {
			return nil, false
		}
		opt = o
	}
	return opt, true
}

// keepAlive tells a client that asks (RFC 7828) how long an idle connection lives.
func keepAlive(asked, out *dns.OPT) {
	for _, option := range asked.Option {
		if option.Option() == dns.EDNS0TCPKEEPALIVE {
			out.Option = append(out.Option, &dns.EDNS0_TCP_KEEPALIVE{
				Code: dns.EDNS0TCPKEEPALIVE, Timeout: uint16(tcpIdleTimeout.Milliseconds() / 100),
			})
			return
		}
	}
}

// explain adds an extended error (RFC 8914) when the client speaks EDNS.
func explain(reply *dns.Msg, code uint16, text string) {
	if opt := reply.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

// limit returns how many bytes an answer may have.
func limit(opt *dns.OPT, by transport) int {
	switch {
	case by == tcp:
		return dns.MaxMsgSize
	case opt == nil:
		return dns.MinMsgSize
	}
	return max(dns.MinMsgSize, min(int(opt.UDPSize()), maxUDPPayload))
}

// fit makes the answer as small as it has to be. Additional records may be left out without a word (RFC 2181 §9), answers
// only with TC set.
func fit(reply *dns.Msg, size int) {
	if reply.Len() <= size {
		return
	}
	if edns := reply.IsEdns0(); edns != nil {
		reply.Extra = []dns.RR{edns}
	} else {
		reply.Extra = nil
	}
	reply.Truncate(size)
}
