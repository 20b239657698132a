package dns

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// message makes an answer of records in zone file form; those after a line "authority" or "additional" go there.
func message(t testing.TB, rcode int, text string) *dns.Msg {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Rcode: rcode}}
	section := &m.Answer
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); line {
		case "":
		case "aa":
			m.Authoritative = true
		case "ra":
			m.RecursionAvailable = true
		case "authority":
			section = &m.Ns
		case "additional":
			section = &m.Extra
		default:
			rr, err := dns.NewRR(line)
			if err != nil {
				t.Fatal(err)
			}
			*section = append(*section, rr)
		}
	}
	return m
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		rcode      int
		want       []string // rdata
		ttl        uint32
		next, err  string
	}{
		{name: "addresses, the least TTL", text: "w.example. 30 A 192.0.2.1\nw.example. 20 A 192.0.2.2", want: []string{"192.0.2.1", "192.0.2.2"}, ttl: 20},
		{name: "other case", text: "W.Example. 30 A 192.0.2.1", want: []string{"192.0.2.1"}, ttl: 30},
		{name: "another name, class or type is not ours", text: "x.example. 30 A 192.0.2.1\nw.example. 30 CH A 192.0.2.1\nw.example. 30 TXT a\naa"},
		{name: "chain", text: "w.example. 9 CNAME v.example.\nv.example. 30 CNAME u.example.\nu.example. 30 A 192.0.2.1", want: []string{"192.0.2.1"}, ttl: 9},
		{name: "chain in any order", text: "u.example. 30 A 192.0.2.1\nv.example. 30 CNAME u.example.\nw.example. 9 CNAME v.example.", want: []string{"192.0.2.1"}, ttl: 9},
		{name: "chain that ends elsewhere", text: "w.example. 9 CNAME v.test.\naa", next: "v.test.", ttl: 9},
		{name: "chain to a name without such records", text: "w.example. 9 CNAME v.test.\nauthority\ntest. 60 SOA a. b. 1 1 1 1 7", ttl: 7},
		{name: "chain to a name that does not exist", rcode: dns.RcodeNameError, text: "w.example. 9 CNAME v.test.\nauthority\ntest. 5 SOA a. b. 1 1 1 1 70", ttl: 5},
		{name: "chain to nowhere, without proof", rcode: dns.RcodeNameError, text: "w.example. 9 CNAME v.test."},
		{name: "loop", text: "w.example. 9 CNAME v.example.\nv.example. 9 CNAME w.example.", err: "a loop of them"},
		{name: "alias to itself", text: "w.example. 9 CNAME w.example.", err: "a loop of them"},
		{name: "no such name", rcode: dns.RcodeNameError, text: "authority\nexample. 60 SOA a. b. 1 1 1 1 7", ttl: 7},
		{name: "no such records", text: "authority\nexample. 4 SOA a. b. 1 1 1 1 7", ttl: 4},
		{name: "no such records, nobody says for how long", text: "ra"},
		{name: "an SOA of elsewhere says nothing", text: "ra\nauthority\ntest. 60 SOA a. b. 1 1 1 1 7"},
		{name: "referral", text: "authority\nexample. 60 NS ns.test.", err: "refers to others"},
		{name: "TTL beyond the largest", text: "w.example. 4294967295 A 192.0.2.1", want: []string{"192.0.2.1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := read(message(t, c.rcode, c.text), "w.example.", dns.TypeA)
			if c.err != "" || err != nil {
				if c.err == "" || err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got error %v, want %q", err, c.err)
				}
				return
			}
			var data []string
			for _, rr := range got.found {
				data = append(data, rr.(*dns.A).A.String())
			}
			if diff := cmp.Diff(c.want, data); diff != "" || got.ttl != c.ttl || got.next != c.next {
				t.Errorf("ttl %d, next %q, want %d, %q; records:\n%s", got.ttl, got.next, c.ttl, c.next, diff)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	m := message(t, 0, `
w.example. 1 A 192.0.2.2
w.example. 1 A 192.0.2.1
w.example. 1 A 192.0.2.2
w.example. 1 A 127.0.0.1
w.example. 1 A 0.0.0.0
w.example. 1 A 224.0.0.1
w.example. 1 A 255.255.255.255
w.example. 1 AAAA 2001:db8::1
w.example. 1 AAAA ::
w.example. 1 AAAA ::1
w.example. 1 AAAA ff02::1
w.example. 1 AAAA fe80::1
w.example. 1 AAAA ::ffff:192.0.2.9
w.example. 1 TXT a`)
	good, bad := addresses(m.Answer)
	var got []string
	for _, a := range good {
		got = append(got, a.String())
	}
	if diff := cmp.Diff([]string{"127.0.0.1", "192.0.2.1", "192.0.2.2", "::1", "2001:db8::1"}, got); diff != "" {
		t.Error(diff)
	}
	for _, a := range []string{"0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1", "::ffff:192.0.2.9"} {
		if !strings.Contains(bad[a], "want") {
			t.Errorf("%s is not told: %q", a, bad[a])
		}
		delete(bad, a)
	}
	if len(bad) > 0 {
		t.Errorf("told: %v", bad)
	}
}
