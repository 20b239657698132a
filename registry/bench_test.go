package registry

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestMergeOfOneChangeCostsLittle holds the allocations of a change among 1,000 services: the list of pointers and
// the one service, not the others.
func TestMergeOfOneChangeCostsLittle(t *testing.T) {
	m, flip := oneChange()
	if n := testing.AllocsPerRun(20, func() { m.set(0, flip()); m.merge() }); n > 40 {
		t.Errorf("%v allocations for one changed service, want at most 40", n)
	}
}

// oneChange returns a merger of 1,000 services with 10 endpoints each, and what yields views that differ in one.
func oneChange() (*merger, func() []*Service) {
	m := newMerger([]string{"a", "b"}, Rules{})
	base := numbered(1000, 10)
	views := [2][]*Service{base, append([]*Service(nil), base...)}
	changed := numbered(501, 10)[500]
	changed.Endpoints[3].Health = Unhealthy
	views[1][500] = changed
	m.set(0, base)
	m.merge()
	turn := 0
	return m, func() []*Service { turn++; return views[turn%2] }
}

func BenchmarkMergeOneChange(b *testing.B) {
	m, flip := oneChange()
	b.ReportAllocs()
	for b.Loop() {
		m.set(0, flip())
		if _, changed := m.merge(); !changed {
			b.Fatal("no change")
		}
	}
}

func BenchmarkMergeAll(b *testing.B) {
	view := numbered(1000, 10)
	b.ReportAllocs()
	for b.Loop() {
		m := newMerger([]string{"a", "b"}, Rules{})
		m.set(0, view)
		m.merge()
	}
}

func BenchmarkEncodeView(b *testing.B) {
	v := sealedView{Source: "a", Kind: "file", Time: time.Now(), Services: numbered(1000, 10)}
	b.ReportAllocs()
	for b.Loop() {
		payload, err := json.Marshal(v)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(payload)))
	}
}

// BenchmarkGuardReplaced is one service all of whose 10,000 endpoints are replaced by others, after they were doubted.
func BenchmarkGuardReplaced(b *testing.B) {
	const n = 10_000
	service := func(net byte) []*Service {
		s := &Service{Name: Name{DefaultNamespace, "big"}, Ports: []Port{{Protocol: HTTP}}}
		for i := range n {
			s.Endpoints = append(s.Endpoints, &Endpoint{
				ID: fmt.Sprintf("%d-%05d", net, i), Addr: netip.AddrFrom4([4]byte{10, net, byte(i >> 8), byte(i)}),
				Ports: []EndpointPort{{Number: 8080}}, Weight: 1,
			})
		}
		return []*Service{s}
	}
	blue, green := service(1), service(2)
	now := time.Now()
	for b.Loop() {
		g := newGuard(Guard{})
		g.take(now, blue, nil)
		if kept := g.take(now.Add(time.Minute), nil, nil); len(kept[0].Endpoints) != n {
			b.Fatalf("%d are kept, want all", len(kept[0].Endpoints))
		}
		if served := g.take(now.Add(61*time.Second), green, nil); len(served[0].Endpoints) != n || len(g.kept) != 0 {
			b.Fatalf("%d are served, %d kept", len(served[0].Endpoints), len(g.kept))
		}
	}
}

// singles returns n services of one endpoint each, in order.
func singles(prefix string, n int) (all []*Service) {
	for i := range n {
		all = append(all, &Service{
			Name: Name{DefaultNamespace, fmt.Sprintf("%s-%05d", prefix, i)}, Ports: []Port{{Protocol: HTTP}},
			Endpoints: []*Endpoint{{
				ID: "a", Addr: netip.AddrFrom4([4]byte{10, prefix[0], byte(i >> 8), byte(i)}), Ports: []EndpointPort{{Number: 8080}}, Weight: 1,
			}},
		})
	}
	return all
}

// BenchmarkGuardWhileDoubted is a view in which one service of 1,000 changed, while 50,000 others are kept.
func BenchmarkGuardWhileDoubted(b *testing.B) {
	lost, stay := singles("lost", 50_000), singles("stay", 1000)
	now := time.Now()
	g := newGuard(Guard{Time: 24 * time.Hour})
	g.take(now, append(slices.Clip(lost), stay...), nil)
	g.take(now.Add(time.Minute), stay, nil)
	now = now.Add(time.Hour)
	for b.Loop() {
		stay = slices.Clone(stay)
		changed := *stay[500]
		stay[500] = &changed
		now = now.Add(time.Millisecond)
		if served := g.take(now, stay, nil); len(served) != len(lost)+len(stay) {
			b.Fatalf("%d services are served, want all", len(served))
		}
	}
}

// BenchmarkGuardLosesAll is the loss of 10,000 services in 1,000 views, all of which are doubted and then released.
func BenchmarkGuardLosesAll(b *testing.B) {
	all := singles("lost", 10_000)
	for b.Loop() {
		now := time.Now()
		g := newGuard(Guard{})
		g.take(now, all, nil)
		now = now.Add(time.Minute)
		for rest := all; len(rest) > 0; {
			rest = rest[10:]
			now = now.Add(10 * time.Millisecond)
			if served := g.take(now, rest, nil); len(served) != len(all) {
				b.Fatalf("%d services are served, want all", len(served))
			}
		}
		for at := g.next(); !at.IsZero(); at = g.next() {
			g.tick(at)
		}
		if len(g.overlay) != 0 || len(g.kept) != 0 {
			b.Fatalf("%d services are served in the end", len(g.overlay))
		}
	}
}

// TestSealingWaitsByItsCost holds sealing to a twentieth of the time: a view of 100,000 endpoints is 16 MB.
func TestSealingWaitsByItsCost(t *testing.T) {
	c, err := NewCatalog(nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for took, want := range map[time.Duration]time.Duration{0: 5 * time.Second, 200 * time.Millisecond: 5 * time.Second, time.Second: 19 * time.Second, time.Hour: time.Minute} {
		if got := c.sealDelay(took); got != want {
			t.Errorf("after a sealing of %v the next waits %v, want %v", took, got, want)
		}
	}
}
