package dnsserver

import (
	"math/rand/v2"

	"github.com/miekg/dns"
)

// How many records of one type an answer holds at most over UDP. Over TCP it is all that a message can hold.
const maxUDPAnswers = 32

// answer answers reply's question from the current zone.
func (s *Server) answer(reply *dns.Msg, by transport) {
	q := reply.Question[0]
	zone := s.opts.Zone()
	if zone == nil {
		reply.Rcode = dns.RcodeServerFailure
		explain(reply, dns.ExtendedErrorCodeNotReady, "no zone yet")
		return
	}
	name, err := ParseName(q.Name)
	switch {
	case q.Qclass != dns.ClassINET || err != nil:
		reply.Rcode = dns.RcodeRefused
		return
	case !name.within(zone.origin):
		reply.Rcode = dns.RcodeRefused
		explain(reply, dns.ExtendedErrorCodeNotAuthoritative, "")
		return
	}
	switch q.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		reply.Rcode = dns.RcodeRefused
		return
	case dns.TypeMAILB, dns.TypeMAILA, dns.TypeTKEY, dns.TypeTSIG:
		reply.Rcode = dns.RcodeNotImplemented
		return
	case dns.TypeOPT, dns.TypeNone:
		reply.Rcode = dns.RcodeFormatError
		return
	}
	reply.Rcode = dns.RcodeSuccess
	reply.Authoritative = true
	n := zone.index.find([]byte(name))
	switch {
	case n == nil:
		reply.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeANY && len(n.sets) > 0:
		reply.Answer = []dns.RR{&dns.HINFO{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeHINFO, Class: 1, Ttl: n.sets[0].TTL}, Cpu: "RFC8482"}}
	default:
		if set := n.set(q.Qtype); set != nil {
			from, count := 0, len(set.Data)
			if by == udp {
				from, count = rand.IntN(count), min(count, maxUDPAnswers)
			}
			for i := range count {
				data := set.Data[(from+i)%len(set.Data)]
				reply.Answer = append(reply.Answer, record(q.Name, set, data))
				if at, ok := targetAt(set.Type); ok {
					sets, _ := zone.Lookup(Name(data[at:]))
					for _, s := range sets {
						if s.Type == dns.TypeA || s.Type == dns.TypeAAAA {
							for _, data := range s.Data {
								reply.Extra = append(reply.Extra, record(Name(set.Data[(from+i)%len(set.Data)][at:]).String(), s, data))
							}
						}
					}
				}
			}
		}
	}
	if len(reply.Answer) == 0 {
		// RFC 2308 §3 and §5: the SOA's own TTL says how long the negative answer lives.
		soa := record(zone.origin.String(), zone.Set(zone.origin, dns.TypeSOA), zone.soa)
		soa.Header().Ttl = min(soa.Header().Ttl, soa.(*dns.SOA).Minttl)
		reply.Ns = append(reply.Ns, soa)
	}
}

func record(owner string, set *Set, data []byte) dns.RR {
	rr, _, err := dns.UnpackRRWithHeader(dns.RR_Header{Name: owner, Rrtype: set.Type, Class: 1, Ttl: set.TTL, Rdlength: uint16(len(data))}, data, 0)
	if err != nil {
		panic(err)
	}
	return rr
}
