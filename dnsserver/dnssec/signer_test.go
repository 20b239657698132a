package dnssec

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func testKeys(t testing.TB, dir string) *Keys {
	t.Helper()
	k, err := OpenKeys(dir, "Mesh.internal", Policy{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// setOf makes a set in canonical form of records as miekg/dns has them.
func setOf(t testing.TB, rrs ...dns.RR) Set {
	t.Helper()
	owner, err := WireName(rrs[0].Header().Name)
	if err != nil {
		t.Fatal(err)
	}
	set := Set{Owner: owner, Type: rrs[0].Header().Rrtype, TTL: rrs[0].Header().Ttl}
	for _, rr := range rrs {
		buf := make([]byte, 4096)
		n, err := dns.PackRR(rr, buf, 0, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		set.Data = append(set.Data, buf[len(owner)+10:n])
	}
	set.Data = canonical(set.Data)
	return set
}

func parse(t testing.TB, lines ...string) (rrs []dns.RR) {
	t.Helper()
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// rrsOf is setOf's way back.
func rrsOf(t testing.TB, set Set) (rrs []dns.RR) {
	t.Helper()
	for _, data := range set.Data {
		b := slices.Concat(set.Owner, binary.BigEndian.AppendUint16(nil, set.Type), []byte{0, 1}, binary.BigEndian.AppendUint32(nil, set.TTL),
			binary.BigEndian.AppendUint16(nil, uint16(len(data))), data)
		rr, _, err := dns.UnpackRR(b, 0)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// check has another implementation verify every signature of a set, at a time.
func check(t testing.TB, ring *Ring, set Set, rrsigs [][]byte, now time.Time) {
	t.Helper()
	if len(rrsigs) == 0 {
		t.Fatalf("%s %d has no signature", textName(set.Owner), set.Type)
	}
	var keys []*dns.DNSKEY
	for _, rr := range rrsOf(t, ring.Apex()[0].Set) {
		keys = append(keys, rr.(*dns.DNSKEY))
	}
	for _, rr := range rrsOf(t, Set{Owner: set.Owner, Type: dns.TypeRRSIG, TTL: set.TTL, Data: rrsigs}) {
		sig := rr.(*dns.RRSIG)
		i := slices.IndexFunc(keys, func(k *dns.DNSKEY) bool { return k.KeyTag() == sig.KeyTag })
		if i < 0 {
			t.Fatalf("%v: no such key is published", sig)
		}
		if err := sig.Verify(keys[i], rrsOf(t, set)); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
		if !sig.ValidityPeriod(now) {
			t.Errorf("%v does not hold at %v", sig, now)
		}
	}
}

func TestSignaturesVerify(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	s := NewSigner(keys.Ring, 0)
	now := time.Unix(1_800_000_000, 0)
	for name, set := range map[string]Set{
		"A":        setOf(t, parse(t, "web.default.mesh.internal. 5 IN A 192.0.2.1", "web.default.mesh.internal. 5 IN A 192.0.2.200")...),
		"AAAA":     setOf(t, parse(t, "web.mesh.internal. 5 IN AAAA 2001:db8::1")...),
		"SRV":      setOf(t, parse(t, "_http._tcp.web.mesh.internal. 5 IN SRV 0 5 80 a.web.mesh.internal.", "_http._tcp.web.mesh.internal. 5 IN SRV 0 50 80 b.web.mesh.internal.")...),
		"TXT":      setOf(t, parse(t, `web.mesh.internal. 0 IN TXT "a" "b"`)...),
		"SOA":      setOf(t, parse(t, "mesh.internal. 60 IN SOA ns.mesh.internal. h.mesh.internal. 4294967295 1 2 3 4")...),
		"NS":       setOf(t, parse(t, "mesh.internal. 60 IN NS ns.mesh.internal.")...),
		"wildcard": setOf(t, parse(t, "*.web.mesh.internal. 60 IN A 192.0.2.1")...),
		"DNSKEY":   keys.Ring().Apex()[0].Set,
		"CDS":      keys.Ring().Apex()[1].Set,
		"CDNSKEY":  keys.Ring().Apex()[2].Set,
	} {
		t.Run(name, func(t *testing.T) {
			rrsigs, err := s.Sign(new(Slot), set, now, nil)
			if err != nil {
				t.Fatal(err)
			}
			check(t, keys.Ring(), set, rrsigs, now)
			if rrsigs[0][3] != labels(set.Owner) || int(rrsigs[0][3]) != len(dns.SplitDomainName(textName(set.Owner)))-map[bool]int{true: 1}[name == "wildcard"] {
				t.Errorf("labels are %d", rrsigs[0][3])
			}
		})
	}
}

// A signature is made once, kept, renewed before it ends, and never given when it does not hold: the clock may do what it likes.
func TestSignaturesHoldWhateverTheClockDoes(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	s := NewSigner(keys.Ring, 0)
	set := setOf(t, parse(t, "web.mesh.internal. 5 IN A 192.0.2.1")...)
	start := time.Unix(1_800_000_000, 0)
	var slot Slot
	for _, c := range []struct {
		name string
		at   time.Duration
		made bool
	}{
		{"first", 0, true},
		{"again", time.Minute, false},
		{"an hour back", -time.Hour, false},
		{"three days", 84 * time.Hour, false},
		{"before its end", 127 * time.Hour, true},
		{"a year ahead", 365 * 24 * time.Hour, true},
		{"back again", 0, true},
		{"before the epoch of everything", -40 * 365 * 24 * time.Hour, true},
		{"2105", 78 * 365 * 24 * time.Hour, true},
	} {
		now, before := start.Add(c.at), s.Made()
		rrsigs, err := s.Sign(&slot, set, now, nil)
		if err != nil {
			t.Fatal(err)
		}
		if made := s.Made() != before; made != c.made {
			t.Errorf("%s: made is %v, want %v", c.name, made, c.made)
		}
		check(t, keys.Ring(), set, rrsigs, now)
		if end := time.Unix(int64(binary.BigEndian.Uint32(rrsigs[0][8:])), 0); end.Sub(now) < spare {
			t.Errorf("%s: it ends at %v, and it is %v", c.name, end, now)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for now := start; now.Before(start.AddDate(1, 0, 0)); now = now.Add(time.Duration(r.Int64N(int64(9 * 24 * time.Hour)))) {
		rrsigs, err := s.Sign(&slot, set, now, nil)
		if err != nil {
			t.Fatal(err)
		}
		check(t, keys.Ring(), set, rrsigs, now)
	}
}

func TestOneSignatureForAll(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	s := NewSigner(keys.Ring, 0)
	set := setOf(t, parse(t, "web.mesh.internal. 5 IN A 192.0.2.1")...)
	now := time.Unix(1_800_000_000, 0)
	var slot Slot
	for round, at := range []time.Time{now, now.Add(150 * time.Hour), now.Add(1000 * time.Hour)} {
		var ready, done sync.WaitGroup
		ready.Add(1)
		for range 64 {
			done.Go(func() {
				ready.Wait()
				rrsigs, err := s.Sign(&slot, set, at, nil)
				if err != nil || len(rrsigs) != 1 {
					t.Errorf("%v, %v", rrsigs, err)
				}
			})
		}
		ready.Done()
		done.Wait()
		if made := s.Made(); made != uint64(round+1) {
			t.Errorf("%d signatures after round %d", made, round)
		}
	}
}

func TestASlotServesSeveralNames(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	s := NewSigner(keys.Ring, 0)
	now := time.Unix(1_800_000_000, 0)
	var slot Slot
	names := []string{"a.mesh.internal.", "b.mesh.internal.", "c.mesh.internal.", "d.mesh.internal."}
	for round := range 3 {
		for _, name := range names {
			set := setOf(t, parse(t, name+" 5 IN A 192.0.2.1")...)
			rrsigs, err := s.Sign(&slot, set, now, nil)
			if err != nil {
				t.Fatal(err)
			}
			check(t, keys.Ring(), set, rrsigs, now)
		}
		if s.Made() != uint64(len(names)) {
			t.Errorf("%d signatures after round %d, want %d", s.Made(), round, len(names))
		}
	}
	for i := range 100 { // more than a slot holds: all right, and bounded
		set := setOf(t, parse(t, string(rune('a'+i%26))+"x.mesh.internal. 5 IN A 192.0.2.1")...)
		rrsigs, err := s.Sign(&slot, set, now, nil)
		if err != nil {
			t.Fatal(err)
		}
		check(t, keys.Ring(), set, rrsigs, now)
	}
	n := 0
	for sig := slot.first.Load(); sig != nil; sig = sig.next {
		n++
	}
	if n > maxOwners {
		t.Errorf("a slot holds %d signatures, want at most %d", n, maxOwners)
	}
}

// A key that is published no more signs nothing that is served.
func TestSignaturesByKeysThatAreGoneAreNotServed(t *testing.T) {
	one, other := testKeys(t, t.TempDir()), testKeys(t, t.TempDir())
	ring := one.Ring()
	s := NewSigner(func() *Ring { return ring }, 0)
	set := setOf(t, parse(t, "web.mesh.internal. 5 IN A 192.0.2.1")...)
	now := time.Unix(1_800_000_000, 0)
	var slot Slot
	if _, err := s.Sign(&slot, set, now, nil); err != nil {
		t.Fatal(err)
	}
	ring = other.Ring()
	rrsigs, err := s.Sign(&slot, set, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	check(t, ring, set, rrsigs, now)
}

func TestKeptSignaturesAllocateNothing(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	s := NewSigner(keys.Ring, 0)
	d := NewDenier(s)
	set := setOf(t, parse(t, "web.mesh.internal. 5 IN A 192.0.2.1")...)
	now := time.Unix(1_800_000_000, 0)
	var slot Slot
	name := bytes.Clone(set.Owner)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.Sign(&slot, set, now, nil); err != nil {
			t.Error(err)
		}
		if _, _, err := d.Deny(name, 1, now, leave(true)); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSign(b *testing.B) {
	keys := testKeys(b, b.TempDir())
	s := NewSigner(keys.Ring, 0)
	set := setOf(b, parse(b, "web.mesh.internal. 5 IN A 192.0.2.1")...)
	now := time.Unix(1_800_000_000, 0)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			_, _ = s.Sign(new(Slot), set, now, nil)
		}
	})
	b.Run("kept", func(b *testing.B) {
		var slot Slot
		for b.Loop() {
			_, _ = s.Sign(&slot, set, now, nil)
		}
	})
}
