package dnsserver

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// A signature takes 70 µs, and who is first to ask for something with DO has one made. Names that do not exist are without number:
// of them so many are denied with a signature in a second for a source, and for all whose addresses may be forged, or may not be.
// What exists is bounded itself; UDP loops sign so much of it in a second, and have others turn to TCP, where nobody else waits.
const (
	denialsOfSource = 100
	denialsOfAll    = 1000
	signaturesOfUDP = 2000
	atOnce          = 32 // so many keep a UDP loop for 2 ms
)

// signingBounds bound what signing costs.
type signingBounds struct {
	sources        *limiter
	forged, proven bucket // for names that do not exist
	loops          bucket // for those that do
}

func newSigningBounds() *signingBounds {
	b := &signingBounds{sources: newLimiter(denialsOfSource)}
	b.forged.every, b.proven.every, b.loops.every = int64(time.Second/denialsOfAll), int64(time.Second/denialsOfAll), int64(time.Second/signaturesOfUDP)
	return b
}

// bucket lets something happen once in a while, and some times at once after a pause.
type bucket struct {
	every int64 // nanoseconds
	next  atomic.Int64
}

// take asks at a time, in nanoseconds. A clock that jumped back does not close the bucket for longer than what it holds.
func (b *bucket) take(now int64) bool {
	for {
		was := b.next.Load()
		ahead := was - now
		if ahead < 0 || ahead > atOnce*b.every {
			ahead = 0
		}
		if ahead > (atOnce-1)*b.every {
			return false
		}
		if b.next.CompareAndSwap(was, now+ahead+b.every) {
			return true
		}
	}
}

// toDeny and toAnswer implement dnssec.Leave for a query: for a name that does not exist, and for one that does.
type (
	toDeny   struct{ *responder }
	toAnswer struct{ *responder }
)

// Sign implements dnssec.Leave.
func (r toDeny) Sign() bool {
	bounds := r.server.signing
	if bounds.sources.take(r.query.client, r.now) != whole {
		return false
	}
	if r.query.by == udp && !r.hasCookie() {
		return bounds.forged.take(time.Now().UnixNano())
	}
	return bounds.proven.take(time.Now().UnixNano())
}

// Sign implements dnssec.Leave.
func (r toAnswer) Sign() bool {
	return r.query.by != udp || r.server.signing.loops.take(time.Now().UnixNano())
}

// signs says whether the answer is to be signed.
func (r *responder) signs(zone *Zone) bool {
	return zone.signer != nil && r.query.edns.flags&dnssecOK != 0
}

// sign returns the signatures of a window of a set at the question's name, nil for an answer that is not signed. When they cannot
// be made the answer has failed, or is held back.
func (r *responder) sign(zone *Zone, s *Set, w *window) [][]byte {
	if !r.signed {
		return nil
	}
	return r.due(r.signAs(zone, r.query.asked(), s, w))
}

// due holds an answer back that has no signature where it has to have one.
func (r *responder) due(rrsigs [][]byte) [][]byte {
	r.held = r.held || rrsigs == nil && !r.failed
	return rrsigs
}

func (r *responder) signAs(zone *Zone, owner []byte, s *Set, w *window) [][]byte {
	return r.signatures(zone, &w.slot, dnssec.Set{Owner: owner, Type: s.Type, TTL: s.TTL, Data: s.canonicalOf(w)})
}

func (r *responder) signatures(zone *Zone, slot *dnssec.Slot, set dnssec.Set) [][]byte {
	rrsigs, err := zone.signer.Sign(slot, set, time.Unix(int64(r.now), 0), toAnswer{r})
	if err != nil {
		r.failed = true
	}
	return rrsigs
}

// signatureBytes is how much room signatures take.
func signatureBytes(rrsigs [][]byte) (n int) {
	for _, data := range rrsigs {
		n += recordBytes + len(data)
	}
	return n
}

// appendSignatures appends signatures whose owner stands somewhere in the message, and returns how many. ttl is that of the
// records that they are of.
func (r *responder) appendSignatures(rrsigs [][]byte, owner int, ttl uint32) int {
	for _, data := range rrsigs {
		at := len(r.b)
		r.b = appendRecord(r.b, dns.TypeRRSIG, ttl, data)
		binary.BigEndian.PutUint16(r.b[at:], pointer|uint16(owner))
	}
	return len(rrsigs)
}

// keyed returns a set that comes of the zone's keys, nil when the question, asked of that name, is for none.
func (r *responder) keyed(zone *Zone, name []byte) *dnssec.ApexSet {
	q := &r.query
	if zone.signer == nil || q.qtype != dns.TypeDNSKEY && q.qtype != dns.TypeCDS && q.qtype != dns.TypeCDNSKEY || string(name) != string(zone.origin) {
		return nil
	}
	sets := zone.signer.Ring().Apex()
	for i := range sets {
		if sets[i].Type == q.qtype {
			return &sets[i]
		}
	}
	return nil
}

// keys appends a set that comes of the zone's keys.
func (r *responder) keys(zone *Zone, set *dnssec.ApexSet) {
	for _, data := range set.Data {
		r.b = appendRecord(r.b, set.Type, set.TTL, data)
		r.answers++
	}
	if r.signed {
		r.answers += r.appendSignatures(r.due(r.signatures(zone, set.Slot, set.Set)), questionName, set.TTL)
	}
	r.fit()
}

// signedDenial says that there is none, with proof: n is what stands at the name, nil when it does not exist.
func (r *responder) signedDenial(zone *Zone, n *node) {
	denial, proof, ok := r.prove(zone, n)
	if !ok {
		return
	}
	q := &r.query
	if q.qtype == dns.TypeNSEC || q.qtype == dns.TypeRRSIG { // these there are
		if q.qtype == dns.TypeNSEC {
			r.b = appendRecord(r.b, dns.TypeNSEC, denial.TTL, denial.Data[0])
			r.answers++
		}
		r.answers += r.appendSignatures(proof, questionName, denial.TTL)
		r.fit()
		return
	}
	origin := questionName + q.length - len(zone.origin)
	soa := r.due(r.signAs(zone, zone.wire, zone.soaSet, &zone.soaSet.windows[0]))
	r.b = zone.negative.appendTo(r.b, origin)
	r.authority += 1 + r.appendSignatures(soa, origin, zone.negative.ttl)
	r.b = appendRecord(r.b, dns.TypeNSEC, denial.TTL, denial.Data[0])
	r.authority += 1 + r.appendSignatures(proof, questionName, denial.TTL)
	r.fit()
}

// prove returns the NSEC record at the question's name and its signatures. Without them the answer is made.
func (r *responder) prove(zone *Zone, n *node) (denial *dnssec.Denial, proof [][]byte, ok bool) {
	q := &r.query
	if n != nil {
		denial = n.denial(zone)
		proof = r.due(r.signatures(zone, &denial.Slot, denial.Set))
		return denial, proof, proof != nil
	}
	denial, proof, err := zone.denier.Deny(q.asked(), zone.negative.ttl, time.Unix(int64(r.now), 0), toDeny{r})
	switch {
	case err != nil:
		r.failed = true
		return nil, nil, false
	case denial != nil:
		if q.edns.flags&compactOK != 0 { // RFC 9824 §5.1; else nobody would believe the record at a name that does not exist
			r.rcode = dns.RcodeNameError
		}
		return denial, proof, true
	}
	if q.by == udp {
		r.held = true
		return nil, nil, false
	}
	r.counts.unsigned.Add(1)
	r.rcode, r.aa = dns.RcodeRefused, false
	r.explain(dns.ExtendedErrorCodeOther, "too many names that do not exist")
	return nil, nil, false
}

// denial is the NSEC record at a name that exists.
func (n *node) denial(zone *Zone) *dnssec.Denial {
	kept := n.nsec.Load()
	if kept == nil || kept.TTL != zone.negative.ttl {
		types := make([]uint16, 0, len(n.sets)+3)
		for _, s := range n.sets {
			types = append(types, s.Type)
		}
		if n.name == zone.origin {
			types = append(types, dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY)
		}
		made := dnssec.NewDenial([]byte(n.name), types, zone.negative.ttl)
		if !n.nsec.CompareAndSwap(kept, made) { // another was quicker: it has the slot
			return n.denial(zone)
		}
		kept = made
	}
	return kept
}

// withdraw takes an answer back that has no signature: over UDP who really asks turns to TCP.
func (r *responder) withdraw() {
	r.empty()
	if r.held && !r.failed {
		r.counts.unsigned.Add(1)
		r.rcode, r.tc = dns.RcodeSuccess, true
		return
	}
	r.rcode, r.aa, r.tc = dns.RcodeServerFailure, false, false
	r.explain(dns.ExtendedErrorCodeOther, "no signature")
}

// fit empties an answer that has become too large.
func (r *responder) fit() {
	if len(r.b) > r.limit {
		r.empty()
		r.tc = true
	}
}

// empty takes back what was appended.
func (r *responder) empty() {
	r.b = r.b[:r.query.questionEnd()]
	r.answers, r.authority, r.additional = 0, 0, 0
}

// signedExtra appends a target's addresses with their signatures, as far as there is room for both (RFC 4035 §3.1.1).
func (r *responder) signedExtra(zone *Zone, target []byte, owner int) {
	n := zone.index.find(target)
	if n == nil {
		return
	}
	for _, s := range n.sets {
		if s.Type != dns.TypeA && s.Type != dns.TypeAAAA {
			continue
		}
		w := &s.windows[0]
		records := s.image[:s.start(w.to)]
		if len(r.b)+len(records) > r.limit {
			return
		}
		rrsigs := r.signAs(zone, target, s, w)
		if rrsigs == nil {
			return
		}
		if len(r.b)+len(records)+signatureBytes(rrsigs) > r.limit {
			return
		}
		r.extra(records, owner)
		r.additional += r.appendSignatures(rrsigs, owner, s.TTL)
	}
}
