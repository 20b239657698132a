package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// maxTTLSeconds is the largest TTL that there is (RFC 2181 §8).
const maxTTLSeconds = 1<<31 - 1

// records are what a message says about a question.
type records struct {
	found []dns.RR // of the type asked for; none is an answer too
	extra []dns.RR // about other names, which the message brings along
	next  string   // when the answer is an alias and no more: the name to ask for
	ttl   uint32   // seconds for which all of this is good
}

// read takes the records of that type at name out of a message with the code NOERROR or NXDOMAIN.
func read(m *dns.Msg, name string, qtype uint16) (records, error) {
	out := records{extra: m.Extra, ttl: maxTTLSeconds}
	owner := name
	for range maxHops + 1 {
		alias := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, owner) {
				continue
			}
			switch c, isAlias := rr.(*dns.CNAME); {
			case h.Rrtype == qtype:
				out.found = append(out.found, rr)
				out.ttl = min(out.ttl, ttlOf(h))
			case isAlias:
				alias = c.Target
				out.ttl = min(out.ttl, ttlOf(h))
			}
		}
		switch {
		case len(out.found) > 0:
			return out, nil
		case alias == "":
			return out.absent(m, name, owner)
		}
		owner = alias
	}
	return records{}, fmt.Errorf("more than %d aliases, or a loop of them", maxHops)
}

// absent judges a message that has no records at owner, where name led.
func (r records) absent(m *dns.Msg, name, owner string) (records, error) {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, owner) {
			r.ttl = min(r.ttl, ttlOf(rr.Header()), soa.Minttl) // RFC 2308 §5
			return r, nil
		}
	}
	switch {
	case m.Rcode == dns.RcodeSuccess && !strings.EqualFold(owner, name):
		r.next = owner // an authoritative server ends where its zones do
		return r, nil
	case m.Rcode == dns.RcodeNameError || m.Authoritative || m.RecursionAvailable:
		r.ttl = 0 // without an SOA it must not be kept
		return r, nil
	}
	// That is a referral: the server does not know, and does not ask for us.
	return records{}, errors.New("the server refers to others; want a resolver, or the zone's own server")
}

// ttlOf returns a record's TTL; one with the highest bit set is 0 (RFC 2181 §8).
func ttlOf(h *dns.RR_Header) uint32 {
	if h.Ttl > maxTTLSeconds {
		return 0
	}
	return h.Ttl
}

// addresses returns the addresses of A and AAAA records, sorted, each once, and by text those that lead nowhere.
func addresses(found []dns.RR) (good []netip.Addr, bad map[string]string) {
	for _, rr := range found {
		var raw []byte
		switch rr := rr.(type) {
		case *dns.A:
			raw = rr.A.To4()
		case *dns.AAAA:
			raw = rr.AAAA
		}
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			continue // a record without data, which only an UPDATE has
		}
		if reason := useless(addr); reason != "" {
			if bad == nil {
				bad = make(map[string]string)
			}
			bad[addr.String()] = reason
			continue
		}
		good = append(good, addr)
	}
	slices.SortFunc(good, netip.Addr.Compare)
	return slices.Compact(good), bad
}

// useless tells why nobody is reached at an address. Loopback is not among it: who configures a name says whom he
// trusts with its addresses, and the instances of a demo, or of the host itself, are there.
func useless(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "got an unspecified address, which is whoever calls, want one of a host"
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "got an address of many, want one of a host"
	case a.Is4In6():
		return "got an IPv4 address as an AAAA record, want it as an A record"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "got a link-local address, which means something else on each link, want one that leads there from everywhere"
	}
	return ""
}
