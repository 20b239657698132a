package dnsserver

import (
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// maxAliases is how many names a chain of aliases is followed for.
const maxAliases = 8

// follow appends what an alias, which was appended last, leads to in the server's zones, as far as there is room (RFC 1034
// §4.3.2). Where that ends the client asks on; it returns the name if that is in none of them.
func (r *responder) follow(alias *Set) (outside Name) {
	owner := questionName + r.query.length + 4 + recordBytes
	for range maxAliases {
		target := alias.Data[0]
		zone := r.zoneOf(target)
		if r.tc || r.failed || r.held {
			return ""
		}
		if zone == nil {
			return Name(target)
		}
		var s, next *Set
		n := zone.index.find(target)
		if n != nil {
			s, next = n.set(r.query.qtype), n.set(dns.TypeCNAME)
		}
		if s == nil {
			s = next
		}
		if s == nil {
			r.denyTarget(zone, n, target, owner)
			return ""
		}
		w := s.choose()
		records := s.image[s.start(w.from):s.start(w.to)]
		var rrsigs [][]byte
		if r.signs(zone) {
			if rrsigs = r.signAs(zone, target, s, w); rrsigs == nil {
				return ""
			}
		}
		at := len(r.b)
		if at+len(records)+signatureBytes(rrsigs) > r.limit {
			return ""
		}
		r.answers += r.appendOwned(records, owner)
		r.answers += r.appendSignatures(rrsigs, owner, s.TTL)
		if s != next {
			return ""
		}
		alias, owner = next, at+recordBytes
	}
	return ""
}

// denyTarget says that there is none, or no such name when n is nil, at the name to which an alias has led, and which stands in the
// message at owner: the rcode is of that name (RFC 6604 §3). Without room, or leave to sign it, the client asks on. So it does where
// more may be known once that name is asked for, and for keys.
func (r *responder) denyTarget(zone *Zone, n *node, target []byte, owner int) {
	if r.server.opts.Await != nil || r.keyed(zone, target) != nil {
		return
	}
	signed := r.signs(zone)
	var denial *dnssec.Denial
	var proof, soa [][]byte
	if signed {
		if denial, proof = r.proveTarget(zone, n, target); proof == nil {
			return
		}
		if soa = r.signAs(zone, zone.wire, zone.soaSet, &zone.soaSet.windows[0]); soa == nil {
			return
		}
	}
	at, origin, records := len(r.b), owner+len(target)-len(zone.origin), 1
	r.b = zone.negative.appendTo(r.b, origin)
	if signed {
		records += r.appendSignatures(soa, origin, zone.negative.ttl)
		records += r.appendOwned(appendRecord(nil, dns.TypeNSEC, denial.TTL, denial.Data[0]), owner)
		records += r.appendSignatures(proof, owner, denial.TTL)
	}
	if len(r.b) > r.limit {
		r.b = r.b[:at]
		return
	}
	r.authority += records
	if n == nil && (!signed || r.query.edns.flags&compactOK != 0) { // RFC 9824 §5.1, as for the question's name
		r.rcode = dns.RcodeNameError
	}
}

// proveTarget returns the NSEC record at a name that an alias has led to, and its signatures: none without leave to make them, or when
// the answer has failed.
func (r *responder) proveTarget(zone *Zone, n *node, target []byte) (denial *dnssec.Denial, proof [][]byte) {
	if n != nil {
		denial = n.denial(zone)
		return denial, r.signatures(zone, &denial.Slot, denial.Set)
	}
	denial, proof, err := zone.denier.Deny(target, zone.negative.ttl, time.Unix(int64(r.now), 0), toDeny{r})
	r.failed = r.failed || err != nil
	return denial, proof
}
