package dnsserver

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func FuzzRespond(f *testing.F) {
	addr := netip.MustParseAddr("192.0.2.1")
	zone := NewZone(Apex{Origin: "mesh.internal", Serial: 1, TTL: 60, NegativeTTL: 1, NameServers: []NameServer{{Name: "ns.mesh.internal", Addrs: []netip.Addr{addr}}}},
		map[string]*Branch{"web": NewBranch(mustParse("mesh.internal"), 0, map[string][]Set{
			"web.default": append(Addresses(5, []netip.Addr{addr}, nil),
				Set{Type: dns.TypeSRV, TTL: 5, Data: [][]byte{ServiceData(0, 1, 80, mustParse("a.web.default.mesh.internal"))}}),
			"a.web.default":          Addresses(5, []netip.Addr{addr}, nil),
			"_http._tcp.web.default": Addresses(5, []netip.Addr{addr}, nil),
		})})
	s := New(Options{Zone: func() *Zone { return zone }, Log: slog.New(slog.DiscardHandler)})
	for _, name := range []string{"web.default.mesh.internal.", "_tcp.web.default.mesh.internal.", "mesh.internal.", "example.org.", `a\.b.mesh.internal.`} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeANY, dns.TypeNS, dns.TypeSOA, dns.TypeOPT} {
			packed, err := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(512, true).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packed)
		}
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		for by := range transports {
			answer := s.respond(query, by, make([]byte, maxUDPPayload))
			if n := s.stats.panics.Load(); n != 0 {
				t.Fatal("the message library panics")
			}
			if answer == nil {
				if len(query) >= headerBytes && query[2]&0x80 == 0 {
					t.Error("a query without an answer")
				}
				continue
			}
			if by == udp && len(answer) > maxUDPPayload {
				t.Errorf("%d bytes over UDP", len(answer))
			}
			var r dns.Msg
			if err := r.Unpack(answer); err != nil {
				t.Fatalf("the answer cannot be read: %v", err)
			}
			if !r.Response || answer[0] != query[0] || answer[1] != query[1] || r.RecursionAvailable {
				t.Errorf("a wrong header: %v", r.MsgHdr)
			}
		}
	})
}
