package dnsserver

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

// Forwarder answers for names that are in none of the server's zones.
type Forwarder interface {
	// Known returns the answer, if nobody has to be asked for it. It does not block.
	Known(Question) (Forwarded, bool)
	// Ask asks somebody, if it has to. It returns soon after ctx ends, and in any case within seconds.
	Ask(ctx context.Context, q Question) Forwarded
}

// Question is what a client of a Forwarder wants to know.
type Question struct {
	Name   Name
	Type   uint16
	DNSSEC bool // DO: with signatures
	// Unchecked is CD: signatures need not be valid.
	Unchecked bool

	// By what a question of our own is known that came back: the message's number, and its name, case kept.
	ID      uint16
	Written string
	Asker   netip.Addr
}

// Forwarded is what a Forwarder answers.
type Forwarded struct {
	Rcode int
	// Records are those of the answer section, then those of the authority section, as they stand in a message after the question:
	// names may point to it. They belong to the caller.
	Records            []byte
	Answers, Authority int
	Authentic          bool     // AD: it was validated by somebody who can be believed
	Failure            *Failure // explains it; nil: nothing is to be explained
}

// root is what forwarded queries are counted as.
const root = Name("\x00")

// forwards says whether a query that is in no zone is the Forwarder's.
func (r *responder) forwards() bool {
	q := &r.query
	switch {
	case r.server.opts.Forward == nil || q.class != dns.ClassINET || !r.recursionDesired():
		return false // without RD it is not our business: nobody learns what others ask
	case q.qtype == 0 || q.qtype == dns.TypeOPT || q.qtype == dns.TypeNXNAME || q.qtype >= dns.TypeTKEY && q.qtype < dns.TypeANY:
		return false
	}
	return true
}

func (r *responder) recursionDesired() bool { return r.query.message[2]&0x01 != 0 }

// mayForward says whether the client is one of those that the Forwarder is for.
func (r *responder) mayForward() bool {
	return r.server.opts.Forward != nil && within(r.server.opts.ForwardFor, r.query.client)
}

// within says whether an address is in one of some networks, on whatever link.
func within(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr.WithZone("")) })
}

// forward answers from what the Forwarder says. It returns the root's origin, as which that is counted.
func (r *responder) forward() Name {
	if !r.mayForward() {
		r.rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeProhibited, "")
		return ""
	}
	q := &r.query
	said, ok := r.ask(Name(q.asked()))
	if !ok {
		return root
	}
	r.passedOn = true
	r.rcode = said.Rcode
	if f := said.Failure; f != nil {
		r.explain(f.Code, f.Text)
	}
	switch {
	case len(said.Records) <= r.limit-len(r.b):
		r.b = append(r.b, said.Records...)
		r.answers, r.authority = said.Answers, said.Authority
		// RFC 6840 §5.8: to who understands it.
		r.authentic = said.Authentic && (r.wantsDNSSEC() || q.message[3]&0x20 != 0)
	case q.by == udp:
		r.tc = true // never a part
	default:
		r.rcode = dns.RcodeServerFailure
		r.explain(dns.ExtendedErrorCodeOther, "the answer is too large")
	}
	return root
}

// ask asks the Forwarder for a name of the query's type. It is false where the query is deferred.
func (r *responder) ask(name Name) (said Forwarded, ok bool) {
	q := &r.query
	question := Question{
		Name: name, Type: q.qtype, DNSSEC: r.wantsDNSSEC(), Unchecked: q.message[3]&0x10 != 0,
		ID: binary.BigEndian.Uint16(q.message), Written: string(q.message[headerBytes : headerBytes+q.length]), Asker: q.client,
	}
	if said, ok = r.server.opts.Forward.Known(question); ok {
		return said, true
	}
	if r.deferred = !r.patient; r.deferred {
		return said, false
	}
	return r.server.opts.Forward.Ask(r.server.life, question), true
}

func (r *responder) wantsDNSSEC() bool {
	return r.query.edns.present && r.query.edns.flags&dnssecOK != 0
}

// forwardFrom goes on where an alias of ours leads elsewhere, for clients that do not themselves (RFC 1034 §5.3.1). All of the chain is
// answered, or nothing of it.
func (r *responder) forwardFrom(name Name) {
	said, ok := r.ask(name)
	if !ok {
		return
	}
	if f := said.Failure; f != nil {
		r.explain(f.Code, f.Text)
	}
	r.rcode = said.Rcode
	// Names in the records may point into a message that begins with that question.
	whole := append(make([]byte, headerBytes), name...)
	whole = append(binary.BigEndian.AppendUint16(whole, r.query.qtype), 0, dns.ClassINET)
	for at, count := range map[int]int{4: 1, 6: said.Answers, 8: said.Authority} {
		binary.BigEndian.PutUint16(whole[at:], uint16(count))
	}
	var m dns.Msg
	if err := m.Unpack(append(whole, said.Records...)); err != nil {
		r.rcode = dns.RcodeServerFailure
	}
	if r.rcode == dns.RcodeServerFailure {
		r.aa = false
		r.empty()
		return
	}
	for _, rr := range append(m.Answer, m.Ns...) {
		record := make([]byte, dns.Len(rr)+1)
		n, err := dns.PackRR(rr, record, 0, nil, false)
		if err != nil || len(r.b)+n > r.limit {
			r.empty()
			if r.tc = r.query.by == udp; !r.tc {
				r.rcode, r.aa = dns.RcodeServerFailure, false
			}
			return
		}
		r.b = append(r.b, record[:n]...)
	}
	r.answers += len(m.Answer)
	r.authority += len(m.Ns)
}

// recursion tells the client whether it may ask for other names (RA), and whether the answer was validated (AD).
func (r *responder) recursion() {
	if r.mayForward() {
		r.b[3] |= 0x80
	}
	if r.authentic {
		r.b[3] |= 0x20
	}
}
