package dnsserver

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/miekg/dns"
)

// How many records of one type an answer holds at most over UDP. Over TCP it is all that a message can hold.
const maxUDPAnswers = 32

// answer answers the query from the zone that its name is in, and returns that zone's origin, "" for none.
func (r *responder) answer() Name {
	q := &r.query
	zone := r.zoneOf(q.asked())
	switch {
	case zone == nil && r.forwards():
		return r.forward()
	case len(r.zones) == 0:
		r.rcode = dns.RcodeServerFailure
		r.explain(dns.ExtendedErrorCodeNotReady, "no zone yet")
		return ""
	case q.class != dns.ClassINET:
		r.rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeNotAuthoritative, "")
		return ""
	case q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR:
		r.aa = true
		r.transfer(zone)
		if zone == nil {
			return ""
		}
		return zone.origin
	case zone == nil:
		r.rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeNotAuthoritative, "")
		return ""
	}
	if q.qtype == 0 || q.qtype == dns.TypeOPT || q.qtype == dns.TypeNXNAME || q.qtype >= dns.TypeTKEY && q.qtype < dns.TypeANY {
		r.metaType()
		return zone.origin
	}
	if r.awaits(zone) {
		if r.deferred = !r.patient; r.deferred {
			return ""
		}
		origin := zone.origin
		if zone = r.await(); zone == nil {
			return origin
		}
	}
	r.aa, r.signed = true, r.signs(zone)
	if set := r.keyed(zone, q.asked()); set != nil {
		r.keys(zone, set)
		return zone.origin
	}
	n := zone.index.find(q.asked())
	switch {
	case n == nil:
		r.denial(zone, n)
	case q.qtype == dns.TypeANY && len(n.sets) > 0:
		r.any(zone, n)
	default:
		if s := n.set(q.qtype); s != nil {
			r.records(zone, s)
		} else if alias := n.set(dns.TypeCNAME); alias != nil && q.qtype != dns.TypeNSEC && q.qtype != dns.TypeRRSIG {
			r.records(zone, alias)
			if outside := r.follow(alias); outside != "" && r.forwards() && r.mayForward() {
				r.forwardFrom(outside)
			}
		} else {
			r.denial(zone, n)
		}
	}
	return zone.origin
}

// zoneOf returns the innermost zone that a name is in.
func (r *responder) zoneOf(name []byte) (best *Zone) {
	for _, z := range r.zones {
		if inZone(name, z.origin) && (best == nil || len(z.origin) > len(best.origin)) {
			best = z
		}
	}
	return best
}

// inZone compares labels, not letters: a name that ends in the origin's bytes may have one label across its beginning.
func inZone(name []byte, origin Name) bool {
	rest := len(name) - len(origin)
	if rest < 0 || string(name[rest:]) != string(origin) {
		return false
	}
	at := 0
	for at < rest {
		at += 1 + int(name[at])
	}
	return at == rest
}

// metaType answers for types that are no data.
func (r *responder) metaType() {
	switch r.query.qtype {
	case 0, dns.TypeOPT:
		r.rcode = dns.RcodeFormatError
	case dns.TypeNXNAME: // RFC 9824 §3.5
		r.rcode = dns.RcodeFormatError
		r.explain(dns.ExtendedErrorCodeInvalidQueryType, "")
	default:
		r.rcode = dns.RcodeNotImplemented
	}
}

// any answers ANY with as little as RFC 8482 §4.2 allows, so that nobody can use us to amplify; who wants signatures gets
// one of the sets there are (§4.1), for the other would have to be signed too.
func (r *responder) any(zone *Zone, n *node) {
	if r.signed {
		r.records(zone, n.sets[0])
		return
	}
	r.b = appendRecord(r.b, dns.TypeHINFO, n.sets[0].TTL, []byte("\x07RFC8482\x00"))
	r.answers++
}

// denial says that there is none at a name, or that there is no such name when n is nil, and by the SOA how long that may be
// remembered.
func (r *responder) denial(zone *Zone, n *node) {
	if r.signed {
		r.signedDenial(zone, n)
		return
	}
	if n == nil {
		r.rcode = dns.RcodeNameError
	}
	if len(r.b)+len(zone.negative.image) > r.limit {
		r.tc = true
		return
	}
	r.b = zone.negative.appendTo(r.b, questionName+r.query.length-len(zone.origin))
	r.authority++
}

// records appends a set, or of a large one a window, with its signatures, and what goes along with it.
func (r *responder) records(zone *Zone, s *Set) {
	r.spans = r.spans[:0]
	if s.alike && !r.signed {
		if n := len(s.Data); n > 1 {
			r.rotated(s, 0, n, int(rand.Uint32N(uint32(n))))
		} else {
			r.run(s, 0, n)
		}
		if s.extra != nil && !r.tc {
			r.extras(zone, s)
		}
		return
	}
	where, placed := Locality{}, false
	if s.Order != nil && s.Order.Localities != nil && r.server.opts.Locality != nil {
		where, placed = r.locate()
	}
	w, rrsigs := r.part(zone, s, where, placed)
	room := signatureBytes(rrsigs)
	r.limit -= room
	switch {
	case w != s.all():
		r.rotated(s, w.from, w.to, w.first())
	case placed:
		r.ranked(s, where)
	default:
		r.rotated(s, w.from, w.to, s.choose().first())
	}
	r.limit += room
	if r.tc {
		return
	}
	r.answers += r.appendSignatures(rrsigs, questionName, s.TTL)
	if s.extra != nil {
		r.extras(zone, s)
	}
}

// part returns the window that is answered, which is all when that may be large and fits, and its signatures.
func (r *responder) part(zone *Zone, s *Set, where Locality, placed bool) (*window, [][]byte) {
	if s.full == nil || r.query.by != udp {
		all := s.all()
		rrsigs := r.sign(zone, s, all)
		if s.full == nil || rrsigs == nil || len(r.b)+len(s.image)+signatureBytes(rrsigs) <= r.limit {
			return all, rrsigs
		}
	}
	w := s.chooseFor(where, placed)
	return w, r.sign(zone, s, w)
}

// span is a run of a set's records in the answer.
type span struct{ from, to, at int }

// rotated appends records, of which one comes first and those before it last.
func (r *responder) rotated(s *Set, from, to, first int) {
	r.run(s, first, to)
	r.run(s, from, first)
}

// run appends records as far as they fit over TCP. Over UDP a set that does not fit is left out: who got a part of it would have
// to forget that (RFC 2181 §9).
func (r *responder) run(s *Set, from, to int) {
	if r.tc || from == to {
		return
	}
	room := r.limit - len(r.b)
	start := s.start(from)
	for s.start(to)-start > room {
		r.tc = true
		if r.query.by == udp || r.signed { // a signature is of all of it
			r.empty()
			return
		}
		if to--; to == from {
			return
		}
	}
	r.spans = append(r.spans, span{from, to, len(r.b)})
	r.b = append(r.b, s.image[start:s.start(to)]...)
	r.answers += to - from
}

// choose returns one of the windows, by their weights.
func (s *Set) choose() *window {
	last := len(s.windows) - 1
	if last == 0 {
		return &s.windows[0]
	}
	at := rand.Uint64N(s.windows[last].upTo)
	for i := range s.windows {
		if at < s.windows[i].upTo {
			return &s.windows[i]
		}
	}
	return &s.windows[last]
}

// first chooses the record that comes first, by their weights.
func (w *window) first() int {
	n := w.to - w.from
	switch {
	case n == 1:
		return w.from
	case w.chances == nil:
		return w.from + int(rand.Uint32N(uint32(n)))
	}
	at := rand.Uint64N(w.chances[n-1])
	for i, upTo := range w.chances {
		if at < upTo {
			return w.from + i
		}
	}
	return w.from
}

// extras appends the addresses of targets, once each, as long as there is room: who misses them asks (RFC 2181 §9).
func (r *responder) extras(zone *Zone, s *Set) {
	if s.repeats {
		r.given = append(r.given[:0], make([]bool, len(s.Data))...)
	}
	for _, run := range r.spans {
		for i := run.from; i < run.to; i++ {
			e := &s.extra[i]
			if e.target == 0 {
				continue
			}
			if s.repeats {
				if r.given[e.same] {
					continue
				}
				r.given[e.same] = true
			}
			target := run.at + s.start(i) - s.start(run.from) + e.target
			if target > maxPointer {
				return
			}
			switch {
			case r.signed:
				r.signedExtra(zone, nameAt(s.Data[i], e.target-recordBytes), target)
			case e.image != nil:
				r.extra(e.image, target)
			case s.far:
				if n := zone.index.find(nameAt(s.Data[i], e.target-recordBytes)); n != nil {
					for _, found := range n.sets {
						if found.Type == dns.TypeA || found.Type == dns.TypeAAAA {
							r.extra(found.firstWindow(), target)
						}
					}
				}
			}
		}
	}
}

// extra appends records whose owner stands somewhere in the message.
func (r *responder) extra(image []byte, owner int) {
	if len(r.b)+len(image) <= r.limit {
		r.additional += r.appendOwned(image, owner)
	}
}

// appendOwned appends records whose owner stands somewhere in the message, and returns how many.
func (r *responder) appendOwned(image []byte, owner int) (n int) {
	at := len(r.b)
	r.b = append(r.b, image...)
	for at < len(r.b) {
		binary.BigEndian.PutUint16(r.b[at:], pointer|uint16(owner))
		n++
		at += recordBytes + int(binary.BigEndian.Uint16(r.b[at+recordBytes-2:]))
	}
	return n
}
