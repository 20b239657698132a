package dnsserver

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// signedServer serves the small zone, signed, with a service of 100 endpoints in three places.
func signedServer(t testing.TB) (*Server, *dnssec.Signer) {
	t.Helper()
	keys, err := dnssec.OpenKeys(t.TempDir(), "mesh.internal", dnssec.Policy{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	signer := dnssec.NewSigner(keys.Ring, 0)
	var addrs []netip.Addr
	for i := range 100 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(250 - i)}))
	}
	many, placed := Addresses(5, addrs, nil), Addresses(5, addrs, nil)
	placed[0].Order = &Order{}
	for i := range addrs {
		placed[0].Order.Localities = append(placed[0].Order.Localities, Locality{Region: string(rune('a' + i%3))})
	}
	origin := mustParse("mesh.internal")
	apex := smallApex()
	apex.Signer = signer
	branches := smallBranches(origin)
	branches["many"] = NewBranch(origin, 0, map[string][]Set{"many": many, "placed": placed})
	zone := NewZone(apex, branches)
	return New(Options{
		Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler),
		Locality: func(netip.Addr) (Locality, int, bool) { return Locality{Region: "b"}, 24, true },
	}), signer
}

// proven has another implementation check an answer to a query with DO: every set of answer and authority is signed by a key
// that is published, and what there is not is denied.
func proven(zone *Zone, answer *dns.Msg, now time.Time) error {
	keys := map[uint16]*dns.DNSKEY{}
	for _, data := range zone.signer.Ring().Apex()[0].Data {
		key := unpacked(zone.origin.String(), &Set{Type: dns.TypeDNSKEY}, data).(*dns.DNSKEY)
		keys[key.KeyTag()] = key
	}
	q := answer.Question[0]
	var denial *dns.NSEC
	for _, section := range [][]dns.RR{answer.Answer, answer.Ns} {
		sets := map[string][]dns.RR{}
		sigs := map[string][]*dns.RRSIG{}
		for _, rr := range section {
			if sig, ok := rr.(*dns.RRSIG); ok {
				id := fmt.Sprint(dns.CanonicalName(sig.Hdr.Name), sig.TypeCovered)
				sigs[id] = append(sigs[id], sig)
				continue
			}
			if nsec, ok := rr.(*dns.NSEC); ok {
				denial = nsec
			}
			id := fmt.Sprint(dns.CanonicalName(rr.Header().Name), rr.Header().Rrtype)
			sets[id] = append(sets[id], rr)
		}
		for id, set := range sets {
			if len(sigs[id]) == 0 {
				return fmt.Errorf("%v is not signed", set)
			}
			for _, sig := range sigs[id] {
				key := keys[sig.KeyTag]
				if key == nil {
					return fmt.Errorf("%v: no such key", sig)
				}
				if err := sig.Verify(key, set); err != nil {
					return fmt.Errorf("%v of %v: %w", sig, set, err)
				}
				if !sig.ValidityPeriod(now) || sig.Hdr.Ttl != set[0].Header().Ttl {
					return fmt.Errorf("%v of %v does not hold", sig, set)
				}
			}
		}
	}
	if len(answer.Answer) > 0 || answer.Truncated || answer.Rcode == dns.RcodeRefused || answer.Rcode == dns.RcodeFormatError || answer.Rcode == dns.RcodeNotImplemented {
		return nil
	}
	if denial == nil || dns.CanonicalName(denial.Hdr.Name) != dns.CanonicalName(q.Name) || slices.Contains(denial.TypeBitMap, q.Qtype) {
		return fmt.Errorf("%v denies nothing of %v", denial, q)
	}
	if name, _ := ParseName(q.Name); slices.Contains(denial.TypeBitMap, dns.TypeNXNAME) == (zone.index.find([]byte(name)) != nil) {
		return fmt.Errorf("%v says the wrong thing of %s", denial, q.Name)
	}
	return nil
}

func TestSignedAnswersVerify(t *testing.T) {
	s, signer := signedServer(t)
	zone := s.opts.Zones()[0]
	now := time.Unix(1_800_000_000, 0)
	for round := range 2 {
		made := signer.Made()
		for _, name := range []string{
			"mesh.internal.", "Web.default.mesh.internal.", "a.web.default.mesh.internal.", "_tcp.web.default.mesh.internal.", "_http._tcp.web.default.mesh.internal.",
			"far.default.mesh.internal.", `a\.b.mesh.internal.`, "many.mesh.internal.", "placed.mesh.internal.", "ns.mesh.internal.", "nobody.Mesh.internal.", "b.a.web.default.mesh.internal.",
		} {
			for _, qtype := range []uint16{
				dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeSOA, dns.TypeNS, dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY, dns.TypeDS, dns.TypeNSEC,
				dns.TypeRRSIG, dns.TypeANY, dns.TypeNXNAME, dns.TypeCAA,
			} {
				for by := range transports {
					m := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, true)
					answer := exchange(t, newResponder(s, by), m)
					if err := proven(zone, answer, now); err != nil {
						t.Errorf("%s %s over %s: %v", name, dns.TypeToString[qtype], by, err)
					}
					if by != udp && answer.Truncated {
						t.Errorf("%s %s over %s is cut", name, dns.TypeToString[qtype], by)
					}
				}
			}
		}
		if again := signer.Made() - made; round > 0 && again > 8 { // of large sets some windows may be new
			t.Errorf("%d signatures are made that there were", again)
		}
	}
}

// TestResponseCodesOfDenials is RFC 9824 §5.1: who does not know it would not believe NXDOMAIN with a record at the name.
func TestResponseCodesOfDenials(t *testing.T) {
	s, _ := signedServer(t)
	for _, c := range []struct {
		name       string
		do, co     bool
		rcode      int
		flags      uint16
		authority  int
		additional int
	}{
		{"unsigned", false, false, dns.RcodeNameError, 0, 1, 1},
		{"unsigned with CO", false, true, dns.RcodeNameError, 0, 1, 1},
		{"signed", true, false, dns.RcodeSuccess, dnssecOK, 4, 1},
		{"signed with CO", true, true, dns.RcodeNameError, dnssecOK | compactOK, 4, 1},
	} {
		m := new(dns.Msg).SetQuestion("nobody.mesh.internal.", dns.TypeA).SetEdns0(1232, c.do)
		m.IsEdns0().SetCo(c.co)
		answer := exchange(t, newResponder(s, udp), m)
		if flags := uint16(answer.IsEdns0().Hdr.Ttl); answer.Rcode != c.rcode || flags != c.flags || len(answer.Ns) != c.authority || len(answer.Extra) != c.additional || !answer.Authoritative {
			t.Errorf("%s: flags %x: %v", c.name, flags, answer)
		}
	}
}

// TestRandomNamesAreBounded shows that who asks for names that do not exist gets so many signatures and no more, that
// others whose address is not forged have a share of their own, and that nothing of it touches what exists or is kept.
func TestRandomNamesAreBounded(t *testing.T) {
	s, signer := signedServer(t)
	random := 0
	ask := func(by transport, client, name string) *dns.Msg {
		r := newResponder(s, by)
		r.query.client = netip.MustParseAddr(client)
		return exchange(t, r, new(dns.Msg).SetQuestion(name, dns.TypeAAAA).SetEdns0(1232, true))
	}
	flood := func(n int, by transport, client func(i int) string) (signed int) {
		for i := range n {
			random++
			answer := ask(by, client(i), fmt.Sprintf("n%d.mesh.internal.", random))
			switch {
			case len(answer.Ns) > 0:
				signed++
			case by == udp && !answer.Truncated, by == tcp && answer.Rcode != dns.RcodeRefused:
				t.Fatalf("over %s: %v", by, answer)
			}
		}
		return signed
	}
	one := func(int) string { return "198.51.100.1" }
	all := func(i int) string { return fmt.Sprintf("10.%d.%d.1", i/200, i%200) }
	synctest.Test(t, func(t *testing.T) {
		ask(udp, "192.0.2.200", "known.mesh.internal.")
		time.Sleep(time.Second)
		if n := flood(500, udp, all); n != atOnce {
			t.Errorf("%d denials over UDP at once, want %d", n, atOnce)
		}
		if n := flood(500, tcp, all); n != atOnce {
			t.Errorf("%d denials over TCP at once, want %d", n, atOnce)
		}
		made := signer.Made()
		for _, name := range []string{"web.default.mesh.internal.", "known.mesh.internal.", "mesh.internal."} {
			if answer := ask(udp, "192.0.2.1", name); len(answer.Ns) != 4 {
				t.Errorf("%s is not denied: %v", name, answer)
			}
		}
		if n := signer.Made() - made; n != 2 {
			t.Errorf("%d signatures for two names of the zone and one that is kept", n)
		}
		signed := 0
		for range 20 {
			time.Sleep(time.Second / 20)
			signed += flood(20, tcp, one)
		}
		if signed != denialsOfSource {
			t.Errorf("%d denials in a second for one source, want %d", signed, denialsOfSource)
		}
		if n := s.Stats().Unsigned; n != 2*(500-atOnce)+20*20-uint64(signed) {
			t.Errorf("%d counted", n)
		}
	})
}

// TestUDPLoopsSignSlowly shows that who asks for everything at once keeps no UDP loop from others for long: what is kept is answered,
// and the rest signed over TCP.
func TestUDPLoopsSignSlowly(t *testing.T) {
	keys, err := dnssec.OpenKeys(t.TempDir(), "mesh.internal", dnssec.Policy{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	const names = 100
	apex, all := smallApex(), map[string][]Set{}
	apex.Signer = dnssec.NewSigner(keys.Ring, 0)
	for i := range names {
		all[fmt.Sprintf("n%d", i)] = Addresses(5, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil)
	}
	zone := NewZone(apex, map[string]*Branch{"all": NewBranch(mustParse("mesh.internal"), 0, all)})
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler)})
	ask := func(by transport) (signed int) {
		for i := range names {
			answer := exchange(t, newResponder(s, by), new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.mesh.internal.", i), dns.TypeA).SetEdns0(1232, true))
			switch {
			case len(answer.Answer) == 2 && !answer.Truncated:
				signed++
			case by != udp, !answer.Truncated, answer.Rcode != dns.RcodeSuccess, len(answer.Answer) != 0:
				t.Fatalf("n%d over %s: %v", i, by, answer)
			}
		}
		return signed
	}
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			by   transport
			rest time.Duration
			want int
		}{{udp, 0, atOnce}, {udp, 0, atOnce}, {udp, time.Second, 2 * atOnce}, {tcp, 0, names}, {udp, 0, names}} {
			time.Sleep(c.rest)
			if n := ask(c.by); n != c.want {
				t.Errorf("%d signed over %s after %s, want %d", n, c.by, c.rest, c.want)
			}
		}
	})
	if n := s.Stats().Unsigned; n != 3*names-4*atOnce {
		t.Errorf("%d held back, want %d", n, 3*names-4*atOnce)
	}
}

func TestSignedAnswersAllocateNothing(t *testing.T) {
	s, _ := signedServer(t)
	for _, name := range []string{"web.default.mesh.internal.", "nobody.mesh.internal.", "mesh.internal.", "many.mesh.internal."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeDNSKEY} {
			packed, err := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, true).Pack()
			if err != nil {
				t.Fatal(err)
			}
			r := newResponder(s, udp)
			buf := make([]byte, 0, maxUDPPayload)
			for range 20 { // every window
				r.respond(packed, buf)
			}
			if n := testing.AllocsPerRun(100, func() { r.respond(packed, buf) }); n != 0 {
				t.Errorf("%s %s: %v allocations", name, dns.TypeToString[qtype], n)
			}
		}
	}
}

// A change of the zone, and a jump of the clock, leave no signature that does not hold.
func TestSignaturesFollowZoneAndClock(t *testing.T) {
	s, signer := signedServer(t)
	zone := s.opts.Zones()[0]
	r := newResponder(s, udp)
	for i, at := range []time.Time{time.Unix(1_800_000_000, 0), time.Unix(1_800_000_000, 0).Add(30 * 24 * time.Hour), time.Unix(1_700_000_000, 0)} {
		zone = zone.Next(uint32(i+2), nil)
		r.zones, r.now = []*Zone{zone}, uint32(at.Unix())
		made := signer.Made()
		for _, name := range []string{"web.default.mesh.internal.", "nobody.mesh.internal.", "mesh.internal."} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeSOA} {
				if err := proven(zone, exchange(t, r, new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, true)), at); err != nil {
					t.Errorf("%s %s at %s: %v", name, dns.TypeToString[qtype], at, err)
				}
			}
		}
		if n := signer.Made() - made; n != 5 { // web A, its denial, nobody's, the SOA, the origin's denial
			t.Errorf("%d signatures at %s, want 5", n, at)
		}
	}
}

func FuzzSigned(f *testing.F) {
	s, _ := signedServer(f)
	zone := s.opts.Zones()[0]
	for _, name := range []string{"Web.default.mesh.internal.", "nobody.mesh.internal.", strings.Repeat("x.", 100) + "mesh.internal.", "mesh.internal."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeDNSKEY, dns.TypeNSEC, dns.TypeANY} {
			packed, err := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(512, true).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packed)
		}
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		for by := range transports {
			r := newResponder(s, by)
			r.query.client = netip.IPv6Loopback() // the bound in all is met anyway
			answer := r.respond(message, nil)
			if n := s.panics.Load(); n != 0 {
				t.Fatalf("%d panics at %x", n, message)
			}
			var m dns.Msg
			if answer == nil || r.query.edns.flags&dnssecOK == 0 || r.query.edns.version != 0 || r.query.length == 0 {
				continue
			}
			if err := m.Unpack(answer); err != nil {
				t.Fatalf("%x over %s: %v", message, by, err)
			}
			if err := proven(zone, &m, time.Unix(int64(r.now), 0)); err != nil {
				t.Fatalf("%x over %s: %v", message, by, err)
			}
		}
	})
}

func BenchmarkRespondSigned(b *testing.B) {
	s, _ := signedServer(b)
	for _, c := range []struct {
		name  string
		qtype uint16
	}{{"web.default.mesh.internal.", dns.TypeA}, {"web.default.mesh.internal.", dns.TypeSRV}, {"web.default.mesh.internal.", dns.TypeAAAA}, {"nobody.default.mesh.internal.", dns.TypeA}} {
		b.Run(c.name+dns.TypeToString[c.qtype], func(b *testing.B) {
			packed, _ := new(dns.Msg).SetQuestion(c.name, c.qtype).SetEdns0(1232, true).Pack()
			r := newResponder(s, udp)
			buf := make([]byte, 0, maxUDPPayload)
			b.ReportAllocs()
			for b.Loop() {
				r.respond(packed, buf)
			}
		})
	}
}
