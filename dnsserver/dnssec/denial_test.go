package dnssec

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestDenials(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	d := NewDenier(NewSigner(keys.Ring, 0))
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name  string
		types []uint16 // nil: the name does not exist
		want  string
	}{
		{"nobody.mesh.internal.", nil, `nobody.mesh.internal.	1	IN	NSEC	\000.nobody.mesh.internal. RRSIG NSEC NXNAME`},
		{"shop.mesh.internal.", []uint16{}, `shop.mesh.internal.	1	IN	NSEC	\000.shop.mesh.internal. RRSIG NSEC`},
		{"web.mesh.internal.", []uint16{dns.TypeA, dns.TypeSRV}, `web.mesh.internal.	1	IN	NSEC	\000.web.mesh.internal. A SRV RRSIG NSEC`},
		{"web.mesh.internal.", []uint16{dns.TypeA, dns.TypeTXT, dns.TypeHTTPS, dns.TypeCAA}, `web.mesh.internal.	1	IN	NSEC	\000.web.mesh.internal. A TXT RRSIG NSEC HTTPS CAA`},
		{"mesh.internal.", []uint16{dns.TypeNS, dns.TypeSOA, dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY}, `mesh.internal.	1	IN	NSEC	\000.mesh.internal. NS SOA RRSIG NSEC DNSKEY CDS CDNSKEY`},
		{"web.mesh.internal.", nil, `web.mesh.internal.	1	IN	NSEC	\000.web.mesh.internal. RRSIG NSEC NXNAME`},
	} {
		owner, err := WireName(c.name)
		if err != nil {
			t.Fatal(err)
		}
		denial := NewDenial(owner, c.types, 1)
		for range 2 {
			var rrsigs [][]byte
			if c.types == nil {
				denial, rrsigs, err = d.Deny(owner, 1, now, leave(true))
			} else {
				rrsigs, err = d.signer.Sign(&denial.Slot, denial.Set, now, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, rrsOf(t, denial.Set)[0].String()); diff != "" {
				t.Error(diff)
			}
			check(t, keys.Ring(), denial.Set, rrsigs, now)
		}
	}
	if made := d.signer.Made(); made != 6 {
		t.Errorf("%d signatures for 6 denials, each asked for twice", made)
	}
}

type leave bool

func (l leave) Sign() bool { return bool(l) }

// TestDenialsWantLeave shows that leave is wanted for a signature and for nothing else.
func TestDenialsWantLeave(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	d := NewDenier(NewSigner(keys.Ring, 0))
	owner, now := []byte("\x06nobody\x04mesh\x08internal\x00"), time.Unix(1_800_000_000, 0)
	for i, c := range []struct {
		may  leave
		now  time.Time
		want bool
	}{{false, now, false}, {true, now, true}, {false, now, true}, {false, now.Add(DefaultValidity), false}, {false, now.Add(-3 * skew), false}} {
		denial, rrsigs, err := d.Deny(owner, 1, c.now, c.may)
		if err != nil || (denial != nil) != c.want || (rrsigs != nil) != c.want {
			t.Errorf("%d: %v, %d signatures, %v; want a denial: %v", i, denial, len(rrsigs), err, c.want)
		}
	}
}

// What comes after a name is after it, has nothing of a mesh between, and is a name.
func TestSuccessors(t *testing.T) {
	long := func(labels ...string) string { return strings.Join(labels, ".") + "." }
	x63 := strings.Repeat("x", 63)
	for _, c := range []struct{ name, want string }{
		{"mesh.internal.", `\000.mesh.internal.`},
		{long(x63, x63, x63, strings.Repeat("y", 59)), long(`\000`, x63, x63, x63, strings.Repeat("y", 59))},
		{long(strings.Repeat("a", 62), x63, x63, strings.Repeat("y", 62)), long(strings.Repeat("a", 61)+"b", x63, x63, strings.Repeat("y", 62))},
		{long(strings.Repeat("a", 60), x63, x63, strings.Repeat("y", 63)), long(strings.Repeat("a", 60)+`\000`, x63, x63, strings.Repeat("y", 63))},
		{long(strings.Repeat("a", 62)+"@", x63, x63, strings.Repeat("y", 61)), long(strings.Repeat("a", 62)+"[", x63, x63, strings.Repeat("y", 61))},
		{long(strings.Repeat("a", 61)+`\255`, x63, x63, strings.Repeat("y", 62)), long(strings.Repeat("a", 60)+"b", x63, x63, strings.Repeat("y", 62))},
	} {
		wire, err := WireName(c.name)
		if err != nil {
			t.Fatal(err)
		}
		got := successor(wire)
		if textName(got) != c.want {
			t.Errorf("after %s (%d bytes): %s (%d)\nwant %s", c.name, len(wire), textName(got), len(got), c.want)
		}
		if bytes.Compare(SortKey(nil, got), SortKey(nil, wire)) <= 0 {
			t.Errorf("%s is not after %s", textName(got), c.name)
		}
	}
}

// The order is the example of RFC 4034 §6.1.
func TestSortKey(t *testing.T) {
	want := []string{
		"example.", "a.example.", "yljkjljk.a.example.", "z.a.example.", "zabc.a.example.", "z.example.", `\001.z.example.`, "*.z.example.", `\200.z.example.`,
	}
	got := slices.Clone(want)
	rand.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
	key := func(name string) []byte {
		wire, err := WireName(name)
		if err != nil {
			t.Fatal(err)
		}
		return SortKey(nil, wire)
	}
	slices.SortFunc(got, func(a, b string) int { return bytes.Compare(key(a), key(b)) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if bytes.Compare(key(`a.example.`), key(`a\000.example.`)) >= 0 || bytes.Compare(key(`z.a.example.`), key(`a\000.example.`)) >= 0 {
		t.Error("a byte of 0 does not come after the end of a label")
	}
}

func TestDenialsAreBounded(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	s := NewSigner(keys.Ring, 0)
	d := NewDenier(s)
	for i := range 3 * maxDenials { // without signatures, which would take a while
		wire, err := WireName(fmt.Sprintf("n%d.mesh.internal", i))
		if err != nil {
			t.Fatal(err)
		}
		d.shards[i%denialShards].put(NewDenial(wire, []uint16{dns.TypeNXNAME}, 1))
	}
	if n := d.size(); n > maxDenials || n < maxDenials/4 {
		t.Errorf("%d denials are kept, want at most %d", n, maxDenials)
	}
}

func FuzzBitmap(f *testing.F) {
	f.Add([]byte{0, 1, 0, 28, 1, 1, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		var types []uint16
		for ; len(data) >= 2; data = data[2:] {
			if one := uint16(data[0])<<8 | uint16(data[1]); one != 0 {
				types = append(types, one)
			}
		}
		slices.Sort(types)
		types = slices.Compact(types)
		rrs := rrsOf(t, Set{Owner: []byte{0}, Type: dns.TypeNSEC, Data: [][]byte{AppendBitmap([]byte{0}, types)}})
		if got := rrs[0].(*dns.NSEC).TypeBitMap; !slices.Equal(got, types) {
			t.Errorf("another implementation reads %v, want %v", got, types)
		}
	})
}
