package resolve

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestRead(t *testing.T) {
	const soa = "example. 30 SOA ns.example. h.example. 1 2 3 4 20"
	var loop []string
	for i := range 20 {
		loop = append(loop, fmt.Sprintf("a%d.example. 9 CNAME a%d.example.", i, i+1))
	}
	for _, c := range []struct {
		name       string
		answer, ns []string
		change     func(*dns.Msg)
		want       string
	}{
		{"addresses", []string{"w.example. 9 A 192.0.2.2", "W.Example. 5 A 192.0.2.1"}, nil, nil, "192.0.2.2 192.0.2.1 ttl 5"},
		{"alias", []string{"v.example. 9 A 192.0.2.1", "w.example. 3 CNAME v.example."}, nil, nil, "192.0.2.1 ttl 3"},
		{"alias alone", []string{"w.example. 3 CNAME v.other."}, nil, nil, "ttl 3 next v.other."},
		{"alias that leads nowhere", []string{"w.example. 3 CNAME v.example."}, []string{soa}, nil, "ttl 3"},
		{"loop", []string{"w.example. 3 CNAME w.example."}, nil, nil, "aliases, or a loop"},
		{"long way", append(loop, "w.example. 9 CNAME a0.example."), nil, nil, "aliases, or a loop"},
		{"another name", []string{"v.example. 9 A 192.0.2.1"}, []string{soa}, nil, fmt.Sprint("ttl ", maxTTLSeconds)},
		{"another type", []string{"w.example. 9 TXT x"}, []string{soa}, nil, fmt.Sprint("ttl ", maxTTLSeconds)},
		{"another class", []string{"w.example. 9 CH A 192.0.2.1"}, []string{soa}, nil, fmt.Sprint("ttl ", maxTTLSeconds)},
		{"no name", nil, nil, func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }, fmt.Sprint("ttl ", maxTTLSeconds)},
		{"nothing of a resolver", nil, nil, func(m *dns.Msg) { m.RecursionAvailable = true }, fmt.Sprint("ttl ", maxTTLSeconds)},
		{"referral", nil, []string{"example. 9 NS ns.example."}, nil, "refers to others"},
		{"TTL with the highest bit", []string{"w.example. 9 A 192.0.2.1"}, nil, func(m *dns.Msg) { m.Answer[0].Header().Ttl = 1 << 31 }, "192.0.2.1 ttl 0"},
		{"useless among others", []string{"w.example. 9 A 0.0.0.0", "w.example. 9 A 224.0.0.1", "w.example. 9 A 255.255.255.255", "w.example. 9 A 127.0.0.1"}, nil, nil, "127.0.0.1 ttl 9"},
		{"useless only", []string{"w.example. 9 A 0.0.0.0"}, nil, nil, "no address that leads to one host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := new(dns.Msg).SetQuestion("w.example.", dns.TypeA)
			m.Response, m.Answer, m.Ns = true, rrs(t, c.answer...), rrs(t, c.ns...)
			if c.change != nil {
				c.change(m)
			}
			p, err := read(m, "w.example.", dns.TypeA)
			if got := tell(p, err); got != c.want && (err == nil || !strings.Contains(got, c.want)) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestReadIPv6(t *testing.T) {
	m := new(dns.Msg).SetQuestion("w.example.", dns.TypeAAAA)
	m.Answer = rrs(t, "w.example. 9 AAAA 2001:db8::1", "w.example. 9 AAAA fe80::1", "w.example. 9 AAAA ::ffff:10.0.0.1", "w.example. 9 AAAA ::", "w.example. 9 AAAA ff02::1", "w.example. 9 AAAA ::1", "w.example. 9 A 192.0.2.1")
	if got, want := tell(read(m, "w.example.", dns.TypeAAAA)), "2001:db8::1 ::1 ttl 9"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func tell(p part, err error) string {
	if err != nil {
		return err.Error()
	}
	var words []string
	for _, a := range p.addrs {
		words = append(words, a.String())
	}
	words = append(words, fmt.Sprint("ttl ", p.ttl))
	if p.next != "" {
		words = append(words, "next "+p.next)
	}
	return strings.Join(words, " ")
}

// FuzzRead: whatever a server sends, what is taken of it are addresses that lead to one host, of the family asked for.
func FuzzRead(f *testing.F) {
	for _, lines := range [][]string{
		{"w.example. 9 A 192.0.2.1", "w.example. 9 AAAA 2001:db8::1"},
		{"w.example. 9 CNAME v.example.", "v.example. 9 A 0.0.0.0"},
		{"w.example. 9 CNAME v.example.", "v.example. 9 CNAME w.example."},
	} {
		m := new(dns.Msg).SetQuestion("w.example.", dns.TypeA)
		m.Response, m.Answer = true, rrs(f, lines...)
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, false)
		f.Add(raw, true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, six bool) {
		m, qtype := new(dns.Msg), dns.TypeA
		if six {
			qtype = dns.TypeAAAA
		}
		if m.Unpack(raw) != nil {
			return
		}
		p, err := read(m, "w.example.", qtype)
		if err != nil && (p.next != "" || len(p.addrs) > 0) || p.ttl > maxTTLSeconds {
			t.Errorf("got %+v with %v", p, err)
		}
		for _, a := range p.addrs {
			if a.Is6() != six || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() {
				t.Errorf("took %s", a)
			}
		}
	})
}

// FuzzHosts: whatever a hosts file holds, what is taken of it can be dialled.
func FuzzHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\n::1 a b # c\n0.0.0.0 x\nfe80::1%eth0 y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for host, addrs := range parseHosts(data) {
			for _, a := range addrs {
				if !a.IsValid() || a.IsUnspecified() || a.Is4In6() || a.Zone() != "" {
					t.Errorf("took %s for %q", a, host)
				}
			}
		}
	})
}
