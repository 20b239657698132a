package dnsserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// aliasServer has aliases of every kind, and bindings of services, in a signed zone.
func aliasServer(t *testing.T) *Server {
	t.Helper()
	keys, err := dnssec.OpenKeys(t.TempDir(), "mesh.internal", dnssec.Policy{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	origin := mustParse("mesh.internal")
	apex := smallApex()
	apex.Signer = dnssec.NewSigner(keys.Ring, 0)
	alias := func(target string) []Set {
		return []Set{{Type: dns.TypeCNAME, TTL: 5, Data: [][]byte{[]byte(mustParse(target))}}}
	}
	addr := netip.MustParseAddr("192.0.2.1")
	zone := NewZone(apex, map[string]*Branch{"all": NewBranch(origin, 0, map[string][]Set{
		"web": Addresses(5, []netip.Addr{addr}, nil), "one": alias("web.mesh.internal"), "two": alias("one.mesh.internal"),
		"out": alias("db.example"), "nowhere": alias("nobody.mesh.internal"), "round": alias("around.mesh.internal"), "around": alias("round.mesh.internal"),
		"_http._tcp.web": {{Type: dns.TypeSVCB, TTL: 5, Data: [][]byte{BindingData(1, mustParse("web.mesh.internal"), []string{"h2", "http/1.1"}, 8080)}}},
		"tls": append(Addresses(5, []netip.Addr{addr}, nil), Set{Type: dns.TypeHTTPS, TTL: 5, Data: [][]byte{
			BindingData(1, "\x00", nil, 8443), BindingData(2, mustParse("web.mesh.internal"), []string{"h2"}, 443), BindingData(2, mustParse("web.mesh.internal"), nil, 444),
		}}),
		"text": {{Type: dns.TypeTXT, TTL: 5, Data: [][]byte{TextData("a=b", strings.Repeat("x", 300))}}},
	})})
	return New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler)})
}

func TestAliasesAndBindings(t *testing.T) {
	s := aliasServer(t)
	zone := s.opts.Zones()[0]
	const web = "web.mesh.internal.	5	IN	A	192.0.2.1"
	one := "one.mesh.internal.	5	IN	CNAME	web.mesh.internal."
	for _, c := range []struct {
		name           string
		qtype          uint16
		answer, extras []string
		rcode          int    // if it is not signed
		denied         string // the name at which there is none, if any
	}{
		{"One.mesh.internal.", dns.TypeA, []string{"One" + one[3:], web}, nil, 0, ""},
		{"one.mesh.internal.", dns.TypeAAAA, []string{one}, nil, 0, "web.mesh.internal."},
		{"one.mesh.internal.", dns.TypeCNAME, []string{one}, nil, 0, ""},
		{"two.mesh.internal.", dns.TypeA, []string{one, "two.mesh.internal.	5	IN	CNAME	one.mesh.internal.", web}, nil, 0, ""},
		{"out.mesh.internal.", dns.TypeA, []string{"out.mesh.internal.	5	IN	CNAME	db.example."}, nil, 0, ""},
		{"nowhere.mesh.internal.", dns.TypeA, []string{"nowhere.mesh.internal.	5	IN	CNAME	nobody.mesh.internal."}, nil, dns.RcodeNameError, "nobody.mesh.internal."},
		{"_http._tcp.web.mesh.internal.", dns.TypeSVCB, []string{`_http._tcp.web.mesh.internal.	5	IN	SVCB	1 web.mesh.internal. alpn="h2,http/1.1" port="8080"`}, []string{web}, 0, ""},
		{"tls.mesh.internal.", dns.TypeHTTPS, []string{
			`tls.mesh.internal.	5	IN	HTTPS	1 . port="8443"`, `tls.mesh.internal.	5	IN	HTTPS	2 web.mesh.internal. alpn="h2" port="443"`,
			`tls.mesh.internal.	5	IN	HTTPS	2 web.mesh.internal. port="444"`,
		}, []string{web}, 0, ""},
		{"text.mesh.internal.", dns.TypeTXT, []string{`text.mesh.internal.	5	IN	TXT	"a=b" "` + strings.Repeat("x", 255) + `"`}, nil, 0, ""},
	} {
		for by := range transports {
			answer := exchange(t, newResponder(s, by), new(dns.Msg).SetQuestion(c.name, c.qtype))
			want := strings.Split(strings.ToLower(strings.Join(c.answer, "\n")), "\n")
			slices.Sort(want)
			if diff := cmp.Diff(want, lines(answer.Answer)); diff != "" || answer.Rcode != c.rcode {
				t.Errorf("%s %s over %s: %s, %s", c.name, dns.TypeToString[c.qtype], by, dns.RcodeToString[answer.Rcode], diff)
			}
			if err := denies(zone, answer, c.denied); err != nil {
				t.Errorf("%s %s over %s: %v", c.name, dns.TypeToString[c.qtype], by, err)
			}
			if got := lines(answer.Extra); strings.Join(got, "\n") != strings.ToLower(strings.Join(c.extras, "\n")) {
				t.Errorf("%s %s over %s brings %q, want %q", c.name, dns.TypeToString[c.qtype], by, got, c.extras)
			}
			for _, compact := range []bool{false, true} {
				m := new(dns.Msg).SetQuestion(c.name, c.qtype).SetEdns0(1232, true)
				if compact {
					m.IsEdns0().Hdr.Ttl |= compactOK
				}
				signed := exchange(t, newResponder(s, by), m)
				err := errors.Join(proven(zone, signed, time.Unix(1_800_000_000, 0)), denies(zone, signed, c.denied))
				if err != nil || len(signed.Answer) != len(answer.Answer)+signatures(answer.Answer) {
					t.Errorf("%s %s over %s, signed: %v\n%v", c.name, dns.TypeToString[c.qtype], by, err, signed)
				}
				if compact && signed.Rcode != c.rcode || !compact && signed.Rcode != dns.RcodeSuccess {
					t.Errorf("%s %s over %s, signed, CO %v: %s", c.name, dns.TypeToString[c.qtype], by, compact, dns.RcodeToString[signed.Rcode])
				}
			}
		}
	}
	if answer := exchange(t, newResponder(s, tcp), new(dns.Msg).SetQuestion("round.mesh.internal.", dns.TypeA)); len(answer.Answer) != 1+maxAliases {
		t.Errorf("a ring of aliases is followed for %d records, want %d", len(answer.Answer), 1+maxAliases)
	}
}

// denies wants the SOA of an answer that is none at a name (RFC 2308 §2), and in one that is signed the NSEC record of it, else nothing.
func denies(zone *Zone, answer *dns.Msg, name string) error {
	var want, got []string
	if name != "" {
		want = []string{zone.origin.String() + " SOA"}
		if opt := answer.IsEdns0(); opt != nil && opt.Do() {
			want = append(want, name+" NSEC")
		}
	}
	for _, rr := range answer.Ns {
		if rr.Header().Rrtype != dns.TypeRRSIG { // proven looks at these
			got = append(got, rr.Header().Name+" "+dns.TypeToString[rr.Header().Rrtype])
		}
		if nsec, ok := rr.(*dns.NSEC); ok {
			exists := zone.index.find([]byte(mustParse(nsec.Hdr.Name))) != nil
			if slices.Contains(nsec.TypeBitMap, answer.Question[0].Qtype) || slices.Contains(nsec.TypeBitMap, dns.TypeNXNAME) == exists {
				return fmt.Errorf("%v denies the wrong thing", nsec)
			}
		}
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("the authority section has %q, want %q", got, want)
	}
	return nil
}

// signatures counts the sets of records.
func signatures(rrs []dns.RR) int {
	sets := map[string]bool{}
	for _, rr := range rrs {
		sets[rr.Header().Name+dns.TypeToString[rr.Header().Rrtype]] = true
	}
	return len(sets)
}
