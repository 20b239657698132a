package dnsserver

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

// A query that is signed wrongly is refused whatever brings it, and asked for whatever it asks; without a key no zone leaves the host by
// any transport (CVE-2026-33190, CVE-2026-35579).
func TestCVEClass29_KeysCountOnEveryTransport(t *testing.T) {
	zone := smallZone()
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), Keys: []*tsig.Key{copyKey(t)}, Copies: plainCopies{}})
	queries := map[string]func() *dns.Msg{
		"A":    func() *dns.Msg { return new(dns.Msg).SetQuestion("web.default.mesh.internal.", dns.TypeA) },
		"AXFR": func() *dns.Msg { return new(dns.Msg).SetAxfr("mesh.internal.") },
		"IXFR": func() *dns.Msg {
			return new(dns.Msg).SetIxfr("mesh.internal.", 0, "ns.mesh.internal.", "hostmaster.mesh.internal.")
		},
	}
	for by := range transports {
		for name, query := range queries {
			for _, secret := range []string{"", copySecret, copySecret + "x"} {
				r := newResponder(s, by)
				r.tlsVersion = 0x0304
				answer := r.respond(copyQuery(t, query(), secret, int64(r.now)), nil)
				copied := secret == copySecret && name != "A" && (by == tcp || by == overTLS)
				if (r.wanted != nil) != copied {
					t.Errorf("%s over %s with the secret %q: copied %v", name, by, secret, r.wanted != nil)
				}
				if copied {
					continue
				}
				var m dns.Msg
				if err := m.Unpack(answer); err != nil {
					t.Fatal(err)
				}
				switch records := len(m.Answer); {
				case strings.HasSuffix(secret, "x"):
					if m.Rcode != dns.RcodeNotAuth || records != 0 {
						t.Errorf("%s over %s with a wrong key: %v", name, by, &m)
					}
				case name == "A":
					if m.Rcode != dns.RcodeSuccess || records != 2 {
						t.Errorf("%s over %s: %v", name, by, &m)
					}
				case records > 1 || records == 1 && m.Answer[0].Header().Rrtype != dns.TypeSOA || secret == "" && m.Rcode != dns.RcodeRefused:
					t.Errorf("%s over %s with the secret %q: %v", name, by, secret, &m)
				}
			}
		}
	}
}

// Aliases that lead round end, also where they are signed, and an answer is no larger than it may be (CVE-2026-26018).
func TestCVEClass29_AliasesEnd(t *testing.T) {
	s := aliasServer(t)
	for by := range transports {
		for _, name := range []string{"round.mesh.internal.", "around.mesh.internal."} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeHTTPS, dns.TypeTXT} {
				for _, secure := range []bool{false, true} {
					packed, err := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(512, secure).Pack()
					if err != nil {
						t.Fatal(err)
					}
					r := newResponder(s, by)
					answer := r.respond(packed, nil)
					var m dns.Msg
					if err := m.Unpack(answer); err != nil || m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
						t.Errorf("%s %s over %s: %v, %v", name, dns.TypeToString[qtype], by, err, &m)
					}
					if records := len(m.Answer); records > 2*(1+maxAliases) || by == udp && len(answer) > 512 {
						t.Errorf("%s %s over %s: %d records, %d bytes", name, dns.TypeToString[qtype], by, records, len(answer))
					}
				}
			}
		}
	}
}
