package forward

import (
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// localDomains mean something to this host or this site alone, or nothing to anybody: RFC 6761, 6303, 7686, 8375, 9462, 9665.
const localDomains = `localhost test invalid onion home.arpa resolver.arpa service.arpa
0.in-addr.arpa 10.in-addr.arpa 127.in-addr.arpa 254.169.in-addr.arpa 168.192.in-addr.arpa 2.0.192.in-addr.arpa 100.51.198.in-addr.arpa
113.0.203.in-addr.arpa 255.255.255.255.in-addr.arpa d.f.ip6.arpa 8.e.f.ip6.arpa 9.e.f.ip6.arpa a.e.f.ip6.arpa b.e.f.ip6.arpa 8.b.d.0.1.0.0.2.ip6.arpa`

// localTTL is of answers for them, in seconds.
const localTTL = 10800

// LocalDomains are those that are not asked for, unless Options.PassOn has them.
func LocalDomains() []dnsserver.Name {
	written := strings.Fields(localDomains)
	for i := 16; i < 32; i++ {
		written = append(written, fmt.Sprintf("%d.172.in-addr.arpa", i))
	}
	for i := 64; i < 128; i++ {
		written = append(written, fmt.Sprintf("%d.100.in-addr.arpa", i))
	}
	zero := strings.Repeat("0.", 31)
	written = append(written, "0."+zero+"ip6.arpa", "1."+zero+"ip6.arpa")
	names := make([]dnsserver.Name, len(written))
	for i, domain := range written {
		names[i], _ = dnsserver.ParseName(domain)
	}
	return names
}

// local answers for names that are not asked for.
type local struct {
	domains map[dnsserver.Name]bool // true: it is ours
}

func newLocal(own, passOn []dnsserver.Name) *local {
	l := &local{map[dnsserver.Name]bool{}}
	for _, name := range LocalDomains() {
		l.domains[name] = false
	}
	for _, name := range passOn {
		delete(l.domains, name)
	}
	for _, name := range own {
		l.domains[name] = true
	}
	return l
}

// domain finds the innermost domain of these that a name is in.
func (l *local) domain(name dnsserver.Name) (domain dnsserver.Name, own, found bool) {
	for rest := name; len(rest) > 1; rest = rest[1+int(rest[0]):] {
		if own, found := l.domains[rest]; found {
			return rest, own, true
		}
	}
	return "", false, false
}

// own says whether a name is ours.
func (l *local) own(name string) bool {
	parsed, err := dnsserver.ParseName(name)
	if err != nil {
		return false
	}
	_, own, _ := l.domain(parsed)
	return own
}

// find returns the answer for a name that is not asked for, nil for all others.
func (l *local) find(name dnsserver.Name, qtype uint16) *entry {
	domain, own, found := l.domain(name)
	switch {
	case !found:
		return nil
	case own:
		return &entry{rcode: dns.RcodeServerFailure, failure: &dnsserver.Failure{Code: dns.ExtendedErrorCodeNotReady, Text: "no zone yet"}}
	}
	m := &dns.Msg{}
	exists := name == domain
	text := name.String()
	switch {
	case strings.HasSuffix("."+text, ".localhost."):
		exists = true
		switch qtype {
		case dns.TypeA:
			m.Answer = append(m.Answer, record(text, "A 127.0.0.1"))
		case dns.TypeAAAA:
			m.Answer = append(m.Answer, record(text, "AAAA ::1"))
		}
	case text == "1.0.0.127.in-addr.arpa." || name == domain && strings.HasPrefix(text, "1.0.0.") && strings.HasSuffix(text, ".ip6.arpa."):
		exists = true
		if qtype == dns.TypePTR {
			m.Answer = append(m.Answer, record(text, "PTR localhost."))
		}
	}
	soa := record(domain.String(), "SOA localhost. nobody.invalid. 1 3600 1200 604800 10800")
	switch {
	case qtype == dns.TypeSOA && name == domain:
		m.Answer = append(m.Answer, soa)
	case len(m.Answer) == 0:
		m.Ns = append(m.Ns, soa)
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	e := &entry{rcode: m.Rcode, stored: time.Now()}
	if e.pack(key{name: name, qtype: qtype}, m) != nil {
		return &entry{rcode: dns.RcodeServerFailure}
	}
	return e
}

func record(owner, data string) dns.RR {
	rr, err := dns.NewRR(fmt.Sprintf("%s %d IN %s", owner, localTTL, data))
	if err != nil || rr == nil {
		rr = &dns.NULL{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeNULL, Class: dns.ClassINET}}
	}
	return rr
}
