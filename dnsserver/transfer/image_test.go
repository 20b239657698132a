package transfer

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

func testName(s string) dnsserver.Name {
	name, err := dnsserver.ParseName(s)
	if err != nil {
		panic(err)
	}
	return name
}

// testZone is a signed zone of services with some endpoints each.
func testZone(t testing.TB, services, endpoints int) (*dnsserver.Zone, *dnssec.Keys) {
	t.Helper()
	keys, err := dnssec.OpenKeys(t.TempDir(), "mesh.internal", dnssec.Policy{TTL: time.Hour, Propagation: -time.Hour, ParentTTL: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	branches := map[string]*dnsserver.Branch{}
	for i := range services {
		branches[fmt.Sprint(i)] = testBranch(i, endpoints)
	}
	return dnsserver.NewZone(dnsserver.Apex{
		Origin: "mesh.internal", Serial: 1, TTL: 60, NegativeTTL: 1, NameServers: []dnsserver.NameServer{{Name: "ns.mesh.internal"}}, Signer: dnssec.NewSigner(keys.Ring, 0),
	}, branches), keys
}

// testBranch has what a service of the mesh has: its names, long and short, its port's, and its endpoints'.
func testBranch(i, endpoints int) *dnsserver.Branch {
	names := map[string][]dnsserver.Set{}
	service := fmt.Sprintf("service-%d", i)
	var addrs []netip.Addr
	srv := dnsserver.Set{Type: dns.TypeSRV, TTL: 5}
	for j := range endpoints {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)})
		addrs = append(addrs, addr)
		label := fmt.Sprintf("10-%d-%d-%d.%s.default", i>>8, i&255, j, service)
		names[label] = dnsserver.Addresses(5, []netip.Addr{addr}, nil)
		srv.Data = append(srv.Data, dnsserver.ServiceData(0, 1, 80, testName(label+".mesh.internal")))
	}
	for _, name := range []string{service, service + ".default"} {
		names[name] = append(dnsserver.Addresses(5, addrs, nil), dnsserver.Set{Type: srv.Type, TTL: srv.TTL, Data: slices.Clone(srv.Data)})
		names["_http._tcp."+name] = []dnsserver.Set{{Type: srv.Type, TTL: srv.TTL, Data: slices.Clone(srv.Data)}}
	}
	return dnsserver.NewBranch(testName("mesh.internal"), 0, names)
}

func mustImage(t testing.TB, old *image, zone *dnsserver.Zone, signer *dnssec.Signer, renew []string, now time.Time) (*image, *delta) {
	t.Helper()
	next, d, err := newImage(context.Background(), old, zone, signer, renew, now)
	if err != nil {
		t.Fatal(err)
	}
	return next, d
}

// signatures counts those of an image by their key, and finds the first that ends.
func (i *image) signatures() (by map[uint16]int, ends time.Time) {
	by, ends = map[uint16]int{}, time.Unix(1<<40, 0)
	for o := range i.owners.all() {
		for _, s := range o.sets {
			for _, rrsig := range s.rrsigs {
				by[uint16(rrsig[16])<<8|uint16(rrsig[17])]++
				if end := time.Unix(int64(rrsig[8])<<24|int64(rrsig[9])<<16|int64(rrsig[10])<<8|int64(rrsig[11]), 0); end.Before(ends) {
					ends = end
				}
			}
		}
	}
	return by, ends
}

// TestSignaturesAreRenewed shows that signatures that are looked at once an hour never have less than a week left, and that others
// are made only when it is time.
func TestSignaturesAreRenewed(t *testing.T) {
	zone, _ := testZone(t, 10, 3)
	signer := zone.Signer().Lasting()
	now := time.Now()
	current, _ := mustImage(t, nil, zone, signer, nil, now)
	made := signer.Made()
	next, d := mustImage(t, current, zone.Next(2, nil), signer, current.due(now, renewMost), now)
	if n := signer.Made() - made; n != 1 || len(d.added) != 1 || len(d.removed) != 1 {
		t.Errorf("%d signatures for another serial, %d records come and %d go, want the SOA's alone", n, len(d.added), len(d.removed))
	}
	current = next
	first := signer.Made()
	for range 60 * 24 {
		now = now.Add(time.Hour)
		due := current.due(now, renewMost)
		if len(due) == 0 {
			continue
		}
		next, _ := mustImage(t, current, zone.Next(current.zone.Serial()+1, nil), signer, due, now)
		current = next
		if _, ends := current.signatures(); ends.Sub(now) < 7*24*time.Hour {
			t.Fatalf("a signature ends in %s", ends.Sub(now))
		}
		if left := current.due(now, renewMost); len(left) != 0 {
			t.Fatalf("%d names are still due", len(left))
		}
	}
	if n := signer.Made() - first; n > 8*first || n < 2*first {
		t.Errorf("%d signatures in 60 days, %d at first, want each to be made about 4 times, with the SOA's", n, first)
	}
}

// TestKeysRollInCopies shows that after a change of the ZSK all signatures are by the new one, a number of names at a time.
func TestKeysRollInCopies(t *testing.T) {
	zone, keys := testZone(t, 10, 3)
	signer := zone.Signer().Lasting()
	now := time.Now()
	current, _ := mustImage(t, nil, zone, signer, nil, now)
	before, _ := current.signatures()
	if err := keys.Roll(dnssec.ZSK); err != nil {
		t.Fatal(err)
	}
	rounds := 0
	for due := current.due(now, 20); len(due) > 0; due = current.due(now, 20) {
		if len(due) > 20 || rounds > 20 {
			t.Fatalf("round %d: %d names are due", rounds, len(due))
		}
		current, _ = mustImage(t, current, zone.Next(current.zone.Serial()+1, nil), signer, due, now)
		rounds++
	}
	after, _ := current.signatures()
	total := 0
	for tag, n := range after {
		if before[tag] == n || n == 0 {
			continue // the KSK's
		}
		total += n
	}
	if len(after) != 2 || total == 0 || rounds < 3 {
		t.Errorf("signatures by %v, %v before, in %d rounds", after, before, rounds)
	}
}

// TestSerials are those of RFC 1982.
func TestSerials(t *testing.T) {
	for _, c := range []struct {
		a, b uint32
		want bool
	}{{1, 0, true}, {0, 1, false}, {5, 5, false}, {0, 1<<32 - 1, true}, {1<<32 - 1, 0, false}, {1<<31 - 1, 0, true}, {1<<31 + 1, 0, false}} {
		if got := newer(c.a, c.b); got != c.want {
			t.Errorf("newer(%d, %d) is %v", c.a, c.b, got)
		}
	}
}

// TestHistoryIsBounded shows that changes are forgotten that take more than their bound, and that who has an older serial gets the
// whole zone.
func TestHistoryIsBounded(t *testing.T) {
	zone, _ := testZone(t, 200, 20)
	c := New(Options{Log: slog.New(slog.DiscardHandler)}).zone(zone.Origin())
	first := zone.Serial()
	for i := range 400 {
		if err := c.update(t.Context(), zone, time.Now()); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint(i % 200)
		branch := testBranch(i%200, 19+i/200%2)
		zone = zone.Next(zone.Serial()+1, map[string]*dnsserver.Branch{key: branch})
	}
	s := c.state.Load()
	if most := max(historyLeast, s.image.bytes/2); s.bytes > most || s.bytes < most/2 {
		t.Errorf("%d bytes of changes, want about %d", s.bytes, most)
	}
	sum := 0
	for _, d := range s.deltas {
		sum += d.bytes
	}
	whole := 0
	for r := range s.image.whole() {
		whole += size(r)
	}
	if sum != s.bytes || whole != s.image.bytes+2*size(s.image.soa) {
		t.Errorf("changes of %d bytes, counted %d; a zone of %d, counted %d", sum, s.bytes, whole, s.image.bytes)
	}
	count := func(since uint32) (n int) {
		for range s.copy(&since).Records {
			n++
		}
		return n
	}
	last := serial(s.image.soa)
	if n := count(last); n != 1 {
		t.Errorf("%d records for who has them all, want the SOA", n)
	}
	if n := count(last + 1); n != 1 {
		t.Errorf("%d records for who has more, want the SOA", n)
	}
	all := count(first)
	if recent := count(last - 1); all < 1000 || recent < 4 || recent > all/10 {
		t.Errorf("%d records since the last serial, %d since the first", recent, all)
	}
}

func BenchmarkImage(b *testing.B) {
	zone, _ := testZone(b, 10_000, 10)
	signer := zone.Signer().Lasting()
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			mustImage(b, nil, zone, signer, nil, time.Now())
		}
	})
	current, _ := mustImage(b, nil, zone, signer, nil, time.Now())
	b.Run("one service", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			next := current.zone.Next(current.zone.Serial()+1, map[string]*dnsserver.Branch{"7": testBranch(7, 9+i%2)})
			current, _ = mustImage(b, current, next, signer, nil, time.Now())
		}
	})
	b.Run("due", func(b *testing.B) {
		for b.Loop() {
			current.due(time.Now(), renewMost)
		}
	})
}
