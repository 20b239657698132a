package forward

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

const (
	headerBytes = 12
	maxAliases  = 16      // names that a chain of aliases may have
	entryBytes  = 400     // what an entry takes besides its records and its name, more or less
	greatestTTL = 1 << 31 // RFC 2181 §8: what is larger is 0
)

// entry is an answer that is remembered. But for until it is not changed.
type entry struct {
	rcode              int
	records            []byte   // of the answer and authority sections, as in a message with the question in lower case
	ttls               []uint16 // where they stand in records
	answers, authority int
	authentic          bool
	failure            *dnsserver.Failure
	failed             bool // it is none: no upstream had one

	stored time.Time
	ttl    time.Duration
	until  atomic.Int64 // Unix nanoseconds: asked again from then on, as it could not be had
	since  atomic.Int64 // when that was
}

func (e *entry) fresh(now time.Time) bool { return now.Before(e.stored.Add(e.ttl)) }

// hold has it answered as it is for a while, until an upstream answers something.
func (e *entry) hold(now time.Time) {
	e.since.Store(now.UnixNano())
	e.until.Store(now.Add(holdTime).UnixNano())
}

// held says whether it is to be answered without asking anew; lastGood is when an upstream last answered.
func (e *entry) held(now time.Time, lastGood int64) bool {
	return now.UnixNano() < e.until.Load() && lastGood < e.since.Load()
}

// at is the answer as it is at some time: TTLs have become less.
func (e *entry) at(now time.Time) dnsserver.Forwarded {
	age := uint32(max(now.Sub(e.stored), 0) / time.Second)
	return e.with(func(ttl uint32) uint32 { return ttl - min(age, ttl) }, e.failure)
}

// old is the answer after its time (RFC 8767 §4).
func (e *entry) old() dnsserver.Forwarded {
	code := dns.ExtendedErrorCodeStaleAnswer
	if e.rcode == dns.RcodeNameError {
		code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	return e.with(func(uint32) uint32 { return staleTTL }, &dnsserver.Failure{Code: code})
}

func (e *entry) with(ttl func(uint32) uint32, why *dnsserver.Failure) dnsserver.Forwarded {
	said := dnsserver.Forwarded{
		Rcode: e.rcode, Records: append([]byte(nil), e.records...), Answers: e.answers, Authority: e.authority, Authentic: e.authentic, Failure: why,
	}
	for _, at := range e.ttls {
		field := said.Records[at : at+4]
		binary.BigEndian.PutUint32(field, ttl(binary.BigEndian.Uint32(field)))
	}
	return said
}

// bytes is how much memory it takes.
func (e *entry) bytes(k key) int { return entryBytes + len(k.name) + cap(e.records) + 2*cap(e.ttls) }

// entry makes one of what an upstream has answered. Validated is what it says only if it is to be trusted.
func (f *Forwarder) entry(k key, m *dns.Msg, trusted bool) (*entry, error) {
	f.scrub(k, m)
	e := &entry{rcode: m.Rcode, authentic: m.AuthenticatedData && trusted, stored: time.Now(), failure: explanation(m)}
	negative := m.Rcode == dns.RcodeNameError || !answers(m, k.qtype)
	most := f.opts.MaxTTL
	if negative {
		most = min(most, f.opts.NegativeTTL)
	}
	e.ttl = most
	found := false
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			h := rr.Header()
			if h.Ttl >= greatestTTL {
				h.Ttl = 0
			}
			if soa, ok := rr.(*dns.SOA); ok && negative {
				h.Ttl, found = min(h.Ttl, soa.Minttl), true // RFC 2308 §3
			}
			h.Ttl = uint32(min(max(time.Duration(h.Ttl)*time.Second, f.opts.MinTTL), most) / time.Second)
			e.ttl = min(e.ttl, time.Duration(h.Ttl)*time.Second)
		}
	}
	if negative && !found {
		e.ttl = 0 // RFC 2308 §5: it is for this time only
	}
	if err := e.pack(k, m); err != nil {
		return nil, err
	}
	return e, nil
}

// answers says whether a message has what was asked for.
func answers(m *dns.Msg, qtype uint16) bool {
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; t == qtype || qtype == dns.TypeANY {
			return true
		}
	}
	return false
}

// scrub leaves of an answer what belongs to the question: the records at its name and where aliases lead from there, none of them
// at a name of ours; SOA and proofs of what does not exist. Additional records nobody needs.
func (f *Forwarder) scrub(k key, m *dns.Msg) {
	names := map[string]bool{written(k.name): true}
	for range maxAliases {
		before := len(names)
		for _, rr := range m.Answer {
			if alias, ok := rr.(*dns.CNAME); ok && names[strings.ToLower(alias.Hdr.Name)] {
				names[strings.ToLower(alias.Target)] = true
			}
		}
		if len(names) == before {
			break
		}
	}
	below := func(owner string) bool { // of a DNAME
		for name := range names {
			if dns.IsSubDomain(owner, name) {
				return true
			}
		}
		return false
	}
	keep := func(rrs []dns.RR, wanted func(h *dns.RR_Header, rr dns.RR) bool) (kept []dns.RR) {
		for _, rr := range rrs {
			h := rr.Header()
			if h.Class == dns.ClassINET && h.Rrtype != dns.TypeOPT && !f.local.own(h.Name) && wanted(h, rr) {
				kept = append(kept, rr)
			}
		}
		return kept
	}
	m.Answer = keep(m.Answer, func(h *dns.RR_Header, rr dns.RR) bool {
		sig, signs := rr.(*dns.RRSIG)
		return names[strings.ToLower(h.Name)] || (h.Rrtype == dns.TypeDNAME || signs && sig.TypeCovered == dns.TypeDNAME) && below(h.Name)
	})
	m.Ns = keep(m.Ns, func(h *dns.RR_Header, rr dns.RR) bool {
		switch h.Rrtype {
		case dns.TypeSOA:
			return below(h.Name)
		case dns.TypeNSEC, dns.TypeNSEC3, dns.TypeRRSIG:
			return k.dnssec
		}
		return false
	})
}

// pack makes the records' bytes.
func (e *entry) pack(k key, m *dns.Msg) error {
	out := &dns.Msg{Question: []dns.Question{{Name: written(k.name), Qtype: k.qtype, Qclass: dns.ClassINET}}, Answer: m.Answer, Ns: m.Ns, Compress: true}
	wire, err := out.Pack()
	if err != nil {
		return fmt.Errorf("write the answer anew: %w", err)
	}
	// The message library reads records without data, and writes them so that nobody can read them.
	if err := new(dns.Msg).Unpack(wire); err != nil {
		return fmt.Errorf("read the answer that was written anew: %w", err)
	}
	start := headerBytes + len(k.name) + 4
	e.records, e.answers, e.authority = append([]byte(nil), wire[start:]...), len(m.Answer), len(m.Ns)
	for at := 0; at < len(e.records); {
		for e.records[at] != 0 && e.records[at] < 0xc0 {
			at += 1 + int(e.records[at])
		}
		if e.records[at] != 0 {
			at++
		}
		at++
		e.ttls = append(e.ttls, uint16(at+4))
		at += 10 + int(binary.BigEndian.Uint16(e.records[at+8:]))
	}
	return nil
}
