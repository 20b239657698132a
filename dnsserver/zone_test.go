package dnsserver

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// contents writes all that a zone answers, one line for each record.
func contents(z *Zone) string {
	var lines []string
	for name, s := range z.All() {
		for _, data := range s.Data {
			lines = append(lines, fmt.Sprint(name, s.TTL, s.Type, data))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestZonesOfZones changes a zone at random and wants each to be as if it were made anew, and what differs to be told.
func TestZonesOfZones(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	origin := mustParse("mesh.internal")
	branch := func() *Branch {
		names := map[string][]Set{}
		for range random.IntN(4) {
			name := strings.Join([]string{"x", "y", "ns", "z"}[random.IntN(4):], fmt.Sprintf("-%d.", random.IntN(30)))
			addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(4))})
			names[name] = Addresses(uint32(random.IntN(2)), []netip.Addr{addr}, nil)[:random.IntN(2)]
		}
		return NewBranch(origin, random.IntN(1<<30), names)
	}
	apex := Apex{Origin: "mesh.internal", TTL: 60, NegativeTTL: 1, NameServers: []NameServer{{Name: "ns.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}}
	all := map[string]*Branch{}
	zone := NewZone(apex, maps.Clone(all))
	for i := range 2000 {
		changed := map[string]*Branch{}
		for range random.IntN(4) {
			changed[fmt.Sprint(random.IntN(1000))] = nil
		}
		for range random.IntN(12) {
			changed[fmt.Sprint(random.IntN(1000))] = branch()
		}
		for key, b := range changed {
			if all[key] = b; b == nil {
				delete(all, key)
			}
		}
		before := zone
		zone = zone.Next(uint32(i), changed)
		if i%50 != 0 {
			continue
		}
		apex.Serial = uint32(i)
		fresh := NewZone(apex, maps.Clone(all))
		if diff := cmp.Diff(contents(fresh), contents(zone)); diff != "" {
			t.Fatalf("after %d changes: %s", i, diff)
		}
		for name := range allNames(fresh, before) {
			_, want := fresh.Lookup(name)
			if _, got := zone.Lookup(name); got != want {
				t.Fatalf("after %d changes: %s exists: %v, want %v", i, name, got, want)
			}
		}
		// The differences lead from one to the other.
		state := map[string]*Set{}
		for name, s := range before.All() {
			state[fmt.Sprint(name, s.Type)] = s
		}
		for _, d := range Diff(before, zone) {
			key := fmt.Sprint(d.Name, max(typeOf(d.Old), typeOf(d.New)))
			if state[key] != d.Old {
				t.Fatalf("a difference at %s begins with what is not there", d.Name)
			}
			if state[key] = d.New; d.New == nil {
				delete(state, key)
			}
		}
		for name, s := range zone.All() {
			key := fmt.Sprint(name, s.Type)
			if s.Type != dns.TypeSOA && !s.Equal(state[key]) {
				t.Fatalf("the differences do not lead to %s", key)
			}
			delete(state, key)
		}
		if len(state) > 0 {
			t.Fatalf("the differences leave %v", state)
		}
	}
	if n := zone.index.names; n < mostNamesOfAPage {
		t.Errorf("%d names: the index never grew", n)
	}
}

func typeOf(s *Set) uint16 {
	if s == nil {
		return 0
	}
	return s.Type
}

func allNames(zones ...*Zone) map[Name]bool {
	out := map[Name]bool{}
	for _, z := range zones {
		for b := range z.all() {
			for name := range b.nodes {
				out[name] = true
			}
		}
	}
	return out
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"": ".", ".": ".", "A.b": "a.b.", "a.b.": "a.b.", `a\.b.c`: `a\.b.c.`, `\065.x`: "a.x.", `\000.x`: `\000.x.`, `a\\.x`: `a\\.x.`,
		"..": "", "a..b": "", ".a": "", `a\`: "", `a\1`: "", `a\256`: "", strings.Repeat("a", 64): "", strings.Repeat("a.", 128): "",
		strings.Repeat("a.", 127): strings.Repeat("a.", 127),
	} {
		name, err := ParseName(in)
		got := ""
		if err == nil {
			got = name.String()
		}
		if got != want {
			t.Errorf("ParseName(%q) is %q (%v), want %q", in, got, err, want)
		}
		if err == nil && strings.HasPrefix(in, `\065`) {
			continue // the library keeps its case
		}
		buf := make([]byte, 300)
		if n, packed := dns.PackDomainName(dns.CanonicalName(in), buf, 0, nil, false); err == nil && in != "" && (packed != nil || string(buf[:n]) != string(name)) {
			t.Errorf("ParseName(%q) is %q, want %q (%v)", in, name, buf[:n], packed)
		}
	}
}

// TestLargeSetsAreWindows shows the fixed division of a set, which is what can be signed.
func TestLargeSetsAreWindows(t *testing.T) {
	for n, want := range map[int][]int{1: {1}, 32: {32}, 33: {16, 17}, 100: {25, 25, 25, 25}, 1000: nil} {
		s := Set{Type: dns.TypeA}
		for i := range n {
			s.Data = append(s.Data, []byte{10, 0, byte(i / 250), byte(i % 250)})
		}
		s.prepare()
		var sizes []int
		at := 0
		for i := range s.windows {
			w := &s.windows[i]
			if w.from != at || w.to-w.from > maxUDPAnswers {
				t.Errorf("%d records: window %d to %d after %d", n, w.from, w.to, at)
			}
			at = w.to
			sizes = append(sizes, w.to-w.from)
		}
		if at != n || want != nil && !slices.Equal(sizes, want) {
			t.Errorf("%d records: windows of %v, want %v", n, sizes, want)
		}
	}
}
