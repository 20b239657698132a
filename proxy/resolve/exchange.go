package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/internal/dnsask"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// refusal is an answer that is none: the code with which a server says that it cannot or will not tell.
type refusal int

// Error returns the code's name.
func (r refusal) Error() string {
	if text, ok := dns.RcodeToString[int(r)]; ok {
		return text
	}
	return fmt.Sprintf("RCODE %d", int(r))
}

// exchange asks one server: by UDP, and by TCP when the answer does not fit.
func exchange(ctx context.Context, l *config.DNSLookup, server netip.AddrPort, domain string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg).SetQuestion(domain, qtype)
	q.SetEdns0(l.UDPBytes, false)
	network := "udp"
	if l.TCP {
		network = "tcp"
	}
	m, err := send(ctx, l, network, server, q)
	if err == nil && m.Rcode == dns.RcodeFormatError {
		q.Extra = nil // it is older than EDNS (RFC 6891 §7)
		m, err = send(ctx, l, network, server, q)
	}
	if err == nil && m.Truncated && network == "udp" {
		m, err = send(ctx, l, "tcp", server, q)
	}
	switch {
	case err != nil:
		return nil, err
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return nil, refusal(m.Rcode)
	case m.Truncated:
		return nil, errors.New("the answer is truncated by TCP too")
	}
	return m, nil
}

// send asks once, from a socket and so a port of its own, and returns the answer to that very question.
func send(ctx context.Context, l *config.DNSLookup, network string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.Timeout, fmt.Errorf("no answer within %s", l.Timeout))
	defer cancel()
	return dnsask.Send(ctx, network, server.String(), q, l.UDPBytes)
}

// maxTTLSeconds is the largest TTL that there is (RFC 2181 §8).
const maxTTLSeconds = 1<<31 - 1

// part is what one message says.
type part struct {
	addrs []netip.Addr
	ttl   uint32 // seconds; 0 when it is not to be kept
	next  string // when the answer is an alias and no more: the name to ask for
}

// read takes the addresses of that type out of a message with the code NOERROR or NXDOMAIN.
func read(m *dns.Msg, domain string, qtype uint16) (part, error) {
	out := part{ttl: maxTTLSeconds}
	owner, useless := domain, 0
	for range maxHops + 1 {
		alias := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, owner) || h.Rrtype != qtype && h.Rrtype != dns.TypeCNAME {
				continue
			}
			out.ttl = min(out.ttl, ttlOf(h))
			if c, ok := rr.(*dns.CNAME); ok {
				alias = c.Target
			} else if a, ok := address(rr); ok {
				out.addrs = append(out.addrs, a)
			} else {
				useless++
			}
		}
		switch {
		case len(out.addrs) > 0:
			return out, nil
		case useless > 0:
			return part{}, errors.New("it has no address that leads to one host")
		case alias == "":
			return out.absent(m, domain, owner)
		}
		owner = alias
	}
	return part{}, fmt.Errorf("more than %d aliases, or a loop of them", maxHops)
}

// absent judges a message that has no addresses at owner, where the name led.
func (p part) absent(m *dns.Msg, domain, owner string) (part, error) {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, owner) {
			return p, nil
		}
	}
	switch {
	case m.Rcode == dns.RcodeSuccess && !strings.EqualFold(owner, domain):
		p.next = owner // an authoritative server ends where its zones do
		return p, nil
	case m.Rcode == dns.RcodeNameError || m.Authoritative || m.RecursionAvailable:
		return p, nil
	}
	// That is a referral: the server does not know, and does not ask for us.
	return part{}, errors.New("the server refers to others; want a resolver, or the zone's own server")
}

// ttlOf returns a record's TTL; one with the highest bit set is 0 (RFC 2181 §8).
func ttlOf(h *dns.RR_Header) uint32 {
	if h.Ttl > maxTTLSeconds {
		return 0
	}
	return h.Ttl
}

// address returns the address of an A or AAAA record, unless it leads to nobody or to whoever asks. Loopback is allowed:
// who configures a name says whom he trusts with its addresses.
func address(rr dns.RR) (netip.Addr, bool) {
	var raw []byte
	switch rr := rr.(type) {
	case *dns.A:
		raw = rr.A.To4()
	case *dns.AAAA:
		raw = rr.AAAA
	}
	a, ok := netip.AddrFromSlice(raw)
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return a, ok && !a.IsUnspecified() && !a.IsMulticast() && a != broadcast && !a.Is4In6() && (a.Is4() || !a.IsLinkLocalUnicast())
}
