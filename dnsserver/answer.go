package dnsserver

import (
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

// How many records of one type an answer holds at most. Over UDP they are chosen at random, so that over many queries
// all appear; TCP gives all that a message can hold.
const (
	maxUDPAnswers = 32
	maxTCPAnswers = 1000
)

// answer answers reply's question from the current zone.
func (s *Server) answer(reply *dns.Msg, by transport) {
	q := reply.Question[0]
	zone := s.opts.Zone()
	if zone == nil {
		reply.Rcode = dns.RcodeServerFailure
		explain(reply, dns.ExtendedErrorCodeNotReady, "no zone yet")
		return
	}
	name, ours := zone.relative(dns.CanonicalName(q.Name))
	switch {
	case q.Qclass != dns.ClassINET:
		reply.Rcode = dns.RcodeRefused
		return
	case !ours:
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
	a := answerer{reply: reply, zone: zone, owner: q.Name, most: maxUDPAnswers}
	if by == tcp {
		a.most = maxTCPAnswers
	}
	switch records := zone.find(name); {
	case name == "":
		a.apex(q.Qtype)
	case records == nil:
		reply.Rcode = dns.RcodeNameError
	default:
		a.records(q.Qtype, records)
	}
	if len(reply.Answer) == 0 {
		// RFC 2308 §3 and §5: the SOA's own TTL says how long the negative answer lives.
		reply.Ns = append(reply.Ns, zone.soa(zone.origin, min(zone.apex.TTL, zone.apex.NegativeTTL)))
	}
}

// answerer puts one answer together.
type answerer struct {
	reply *dns.Msg
	zone  *Zone
	owner string // the name as it was asked: its case is kept (RFC 4343)
	most  int    // records of a type
}

func (a *answerer) header(qtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: a.owner, Rrtype: qtype, Class: dns.ClassINET, Ttl: ttl}
}

func (a *answerer) apex(qtype uint16) {
	switch qtype {
	case dns.TypeSOA:
		a.reply.Answer = []dns.RR{a.zone.soa(a.owner, a.zone.apex.TTL)}
	case dns.TypeNS:
		for _, server := range a.zone.servers {
			a.reply.Answer = append(a.reply.Answer, &dns.NS{Hdr: a.header(qtype, a.zone.apex.TTL), Ns: server})
			if relative, ok := a.zone.relative(server); ok {
				if glue := a.zone.glue[relative]; glue != nil {
					a.reply.Extra = append(a.reply.Extra, addresses(server, glue.TTL, glue.V4)...)
					a.reply.Extra = append(a.reply.Extra, addresses(server, glue.TTL, glue.V6)...)
				}
			}
		}
	case dns.TypeANY:
		a.any(a.zone.apex.TTL)
	}
}

func (a *answerer) records(qtype uint16, r *Records) {
	switch qtype {
	case dns.TypeA:
		a.reply.Answer = addresses(a.owner, r.TTL, choose(r.V4, a.most))
	case dns.TypeAAAA:
		a.reply.Answer = addresses(a.owner, r.TTL, choose(r.V6, a.most))
	case dns.TypeSRV:
		a.srv(r)
	case dns.TypeANY:
		if len(r.V4)+len(r.V6)+len(r.SRV) > 0 {
			a.any(r.TTL)
		}
	}
}

// any answers ANY with as little as RFC 8482 §4.2 allows, so that nobody can use us to amplify.
func (a *answerer) any(ttl uint32) {
	a.reply.Answer = []dns.RR{&dns.HINFO{Hdr: a.header(dns.TypeHINFO, ttl), Cpu: "RFC8482"}}
}

func (a *answerer) srv(r *Records) {
	chosen := choose(r.SRV, a.most)
	given := make(map[string]bool, len(chosen))
	for i := range chosen {
		srv := &chosen[i]
		a.reply.Answer = append(a.reply.Answer, &dns.SRV{
			Hdr:      a.header(dns.TypeSRV, r.TTL),
			Priority: srv.Priority, Weight: srv.Weight, Port: srv.Port, Target: srv.Target,
		})
		if !given[srv.Target] {
			given[srv.Target] = true
			a.reply.Extra = append(a.reply.Extra, addresses(srv.Target, r.TTL, []netip.Addr{srv.Addr})...)
		}
	}
}

// addresses makes an A or AAAA record of each valid address.
func addresses(owner string, ttl uint32, addrs []netip.Addr) []dns.RR {
	rrs := make([]dns.RR, 0, len(addrs))
	for _, addr := range addrs {
		switch {
		case addr.Is4():
			rrs = append(rrs, &dns.A{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: addr.AsSlice()})
		case addr.Is6():
			rrs = append(rrs, &dns.AAAA{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: ttl}, AAAA: addr.AsSlice()})
		}
	}
	return rrs
}

// choose returns at most n of the records in random order, each as likely as any other.
func choose[T any](all []T, n int) []T {
	n = min(n, len(all))
	if n == 0 {
		return nil
	}
	// A window that begins anywhere costs n, however many there are.
	chosen := make([]T, 0, n)
	start := rand.IntN(len(all))
	for i := range n {
		chosen = append(chosen, all[(start+i)%len(all)])
	}
	rand.Shuffle(n, func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	return chosen
}
