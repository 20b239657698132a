package dnsserver

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerBytes = 12
	// maxRecords is more than any honest query carries besides its question (OPT, TSIG, SIG(0), an IXFR's SOA).
	maxRecords = 8
)

// verdict is what is to be done with a message.
type verdict uint8

const (
	silence        verdict = iota // it is no query: nothing is sent, or two servers would talk for ever
	formatError                   // FORMERR
	notImplemented                // another opcode than QUERY
	understood                    // a query: it is answered
	cookieWanted                  // a query for a server's cookie alone
)

// query is a message that asks. It refers to the message's bytes and is used again for the next one.
type query struct {
	message []byte
	name    [maxNameBytes]byte // in lower case
	length  int                // of the name, 0 when there is no question to repeat
	qtype   uint16
	class   uint16
	edns    edns
	hasTSIG bool

	serial    uint32 // the client's, of IXFR
	hasSerial bool

	// Who asks, and how.
	by     transport
	client netip.Addr
}

// asked is the name in wire form, in lower case.
func (q *query) asked() []byte { return q.name[:q.length] }

// questionEnd is where the question ends in the message, as in the answer.
func (q *query) questionEnd() int { return questionName + q.length + 4 }

// parse reads a message of which nothing is known. What it takes is what the message library takes, but for questions that
// are compressed: they could only point into the header.
func (q *query) parse(message []byte) verdict {
	q.message, q.length, q.qtype, q.edns, q.hasTSIG, q.hasSerial = message, 0, 0, edns{}, false, false
	if len(message) < headerBytes || message[2]&0x80 != 0 {
		return silence
	}
	if message[2]>>3&0xf != dns.OpcodeQuery {
		return notImplemented
	}
	count := func(at int) int { return int(binary.BigEndian.Uint16(message[at:])) }
	records := count(6) + count(8) + count(10)
	alone := records == 1 && count(10) == 1
	if count(4) == 0 && alone && q.optAt(headerBytes) && q.edns.parse(message[headerBytes:]) && q.edns.hasCookie {
		return cookieWanted // RFC 7873 §5.4
	}
	if count(4) != 1 || records > maxRecords || !q.parseQuestion() {
		return formatError
	}
	end := q.questionEnd()
	switch {
	case records == 0:
		return understood
	case alone && q.optAt(end):
		if !q.edns.parse(message[end:]) {
			return formatError
		}
		return understood
	}
	return q.parseRecords()
}

// optAt says whether an OPT record begins there, as far as it has no options.
func (q *query) optAt(at int) bool {
	m := q.message[at:]
	return len(m) >= optBytes && m[0] == 0 && binary.BigEndian.Uint16(m[1:]) == dns.TypeOPT
}

// parseQuestion reads the name, folding its case, and what follows it.
func (q *query) parseQuestion() bool {
	m := q.message[headerBytes:]
	for at := 0; ; {
		if at >= len(m) || at >= maxNameBytes {
			return false
		}
		n := int(m[at])
		if n > maxLabelBytes || at+1+n >= len(m) || at+1+n >= maxNameBytes && n > 0 {
			return false
		}
		if n == 0 {
			at++
			if len(m) < at+4 {
				return false
			}
			for i, c := range m[:at] { // lengths of labels are less than any letter
				q.name[i] = lower(c)
			}
			q.length, q.qtype, q.class = at, binary.BigEndian.Uint16(m[at:]), binary.BigEndian.Uint16(m[at+2:])
			return true
		}
		at += 1 + n
	}
}

// parseRecords reads a message that has other records than one OPT at its end, with the message library.
func (q *query) parseRecords() verdict {
	var m dns.Msg
	if m.Unpack(q.message) != nil || len(m.Question) != 1 {
		q.length = 0
		return formatError
	}
	if len(m.Ns) == 1 {
		if soa, ok := m.Ns[0].(*dns.SOA); ok && strings.EqualFold(soa.Hdr.Name, m.Question[0].Name) {
			q.serial, q.hasSerial = soa.Serial, true
		}
	}
	found := false
	for _, rr := range m.Extra {
		q.hasTSIG = q.hasTSIG || rr.Header().Rrtype == dns.TypeTSIG
		if rr.Header().Rrtype != dns.TypeOPT {
			continue
		}
		opt, ok := rr.(*dns.OPT)
		if !ok || found || opt.Hdr.Name != "." {
			return formatError
		}
		found = true
		packed := make([]byte, dns.Len(opt)+1)
		n, err := dns.PackRR(opt, packed, 0, nil, false)
		if err != nil || !q.edns.parse(packed[:n]) {
			return formatError
		}
	}
	return understood
}
