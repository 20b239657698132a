package dnsserver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// wideZone has 10,000 services of 10 endpoints.
func wideZone() *Zone {
	origin := mustParse("mesh.internal")
	branches := map[string]*Branch{}
	for i := range 10_000 {
		own := fmt.Sprintf("service-%05d.default", i)
		names := map[string][]Set{}
		var addrs []netip.Addr
		srv := Set{Type: dns.TypeSRV, TTL: 5}
		for e := range 10 {
			n := i*10 + e
			addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
			endpoint := fmt.Sprintf("10-%d-%d-%d.%s", n>>16, n>>8&0xff, n&0xff, own)
			names[endpoint] = Addresses(5, []netip.Addr{addr}, nil)
			addrs = append(addrs, addr)
			srv.Data = append(srv.Data, ServiceData(0, 1, 8080, mustParse(endpoint+".mesh.internal")))
		}
		names[own], names["_http._tcp."+own] = Addresses(5, addrs, nil), []Set{srv}
		branches[own] = NewBranch(origin, 0, names)
	}
	return NewZone(smallApex(), branches)
}

// BenchmarkWide is the work beside system calls, for names in no order.
func BenchmarkWide(b *testing.B) {
	zone := wideZone()
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, RateLimit: 10_000})
	for _, c := range []struct {
		name, format string
		qtype        uint16
		edns         bool
	}{{"a", "service-%05d.default.mesh.internal.", dns.TypeA, false}, {"srv", "_http._tcp.service-%05d.default.mesh.internal.", dns.TypeSRV, true}, {"nx", "nobody-service-%05d.default.mesh.internal.", dns.TypeA, false}} {
		b.Run(c.name, func(b *testing.B) {
			var messages [][]byte
			for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(10_000) {
				m := new(dns.Msg).SetQuestion(fmt.Sprintf(c.format, i), c.qtype)
				if c.edns {
					m.SetEdns0(1232, false)
				}
				packed, err := m.Pack()
				if err != nil {
					b.Fatal(err)
				}
				messages = append(messages, packed)
			}
			r, buf := newResponder(s, udp), make([]byte, 0, maxUDPPayload)
			r.query.client = netip.MustParseAddr("127.0.0.1")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.respond(messages[i%len(messages)], buf)
			}
		})
	}
}
