package registry

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
)

// siteView returns what one of several registries says: 10,000 services of 10 endpoints. The first half of the services
// are in every registry, and half of their endpoints too; every endpoint has three labels of its own map.
func siteView(source byte) []*Service {
	const services, endpoints = 10_000, 10
	view := make([]*Service, 0, services)
	for i := range services {
		name, shared := fmt.Sprintf("s%05d", i), i < services/2
		if !shared {
			name = fmt.Sprintf("t%05d-%d", i, source)
		}
		s := &Service{Name: Name{DefaultNamespace, name}, Ports: []Port{{Protocol: HTTP}}}
		for j := range endpoints {
			by := source
			if shared && j%2 == 0 {
				by = 0
			}
			s.Endpoints = append(s.Endpoints, &Endpoint{
				ID: fmt.Sprintf("%s-%d", name, j), Addr: netip.AddrFrom4([4]byte{10 + by, byte(i >> 8), byte(i), byte(j)}),
				Ports: []EndpointPort{{Number: 8080}}, Weight: 1, Health: Healthy,
				Labels: map[string]string{"version": "v1", "zone": fmt.Sprint("z", j%3), "instance": fmt.Sprint(name, j)},
			})
		}
		view = append(view, s)
	}
	return view
}

// withChange returns a copy of a view in which one endpoint of one service turned.
func withChange(view []*Service, at int, health Health) []*Service {
	next := append([]*Service(nil), view...)
	s := *view[at]
	s.Endpoints = append([]*Endpoint(nil), s.Endpoints...)
	e := *s.Endpoints[3]
	e.Health = health
	s.Endpoints[3] = &e
	next[at] = &s
	return next
}

// fourSources returns a merger of four such registries and their views.
func fourSources() (*merger, [4][]*Service) {
	m := newMerger([]string{"a", "b", "c", "d"}, Rules{})
	var views [4][]*Service
	for i := range views {
		views[i] = siteView(byte(i))
		m.set(i, views[i])
	}
	return m, views
}

// tell reports the median and the 99th percentile of what a benchmark took.
func tell(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99} {
		b.ReportMetric(float64(took[min(int(q*float64(len(took))), len(took)-1)].Microseconds())/1000, name)
	}
}

// BenchmarkMergeFourSources is what a snapshot costs when one service changed in each of four sources; a round is 100.
func BenchmarkMergeFourSources(b *testing.B) {
	m, views := fourSources()
	m.merge()
	var changed [2][4][]*Service
	for i, v := range views {
		changed[0][i] = withChange(v, 100*i, Unhealthy)     // of a name that all have
		changed[1][i] = withChange(v, 9000+100*i, Draining) // of one of its own, and the other is well again
	}
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		for turn := range 100 {
			began := time.Now()
			for i, v := range changed[turn%2] {
				m.set(i, v)
			}
			_, changed := m.merge()
			took = append(took, time.Since(began))
			if !changed {
				b.Fatal("no change")
			}
		}
	}
	tell(b, took)
}

// BenchmarkMergeFourSourcesAll merges everything that four sources have, as at a start; a round is 5.
func BenchmarkMergeFourSourcesAll(b *testing.B) {
	_, views := fourSources()
	b.ReportAllocs()
	var took []time.Duration
	for b.Loop() {
		for range 5 {
			began := time.Now()
			m := newMerger([]string{"a", "b", "c", "d"}, Rules{})
			for i, v := range views {
				m.set(i, v)
			}
			services, _ := m.merge()
			took = append(took, time.Since(began))
			if len(services) != 25_000 {
				b.Fatalf("%d services, want 25,000", len(services))
			}
		}
	}
	tell(b, took)
}

// heapInUse returns the bytes of the heap's spans after two collections.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// one is a registry that has one view, which it does not keep.
type one func() View

func (v one) Watch(ctx context.Context, publish func(View)) error {
	publish(v())
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkSnapshotMemory is what a Catalog holds for 100,000 endpoints of one source: its view, the guard's state and
// the Snapshot.
func BenchmarkSnapshotMemory(b *testing.B) {
	for b.Loop() {
		before := heapInUse()
		c, err := NewCatalog([]Source{{Name: "a", Registry: one(func() View { return View{Services: siteView(0)} })}}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = c.Run(ctx) }()
		for snapshot, changed := c.Current(); len(snapshot.Services) == 0; snapshot, changed = c.Current() {
			<-changed
		}
		b.ReportMetric(float64(heapInUse()-before)/1e6, "heap-MB")
		runtime.KeepAlive(c)
		cancel()
		<-ended
	}
}

// BenchmarkAssemblyMemory is what an adapter holds for 100,000 entries: the Assembly, and the Assembly with its view.
// The endpoints and their labels are the view's.
func BenchmarkAssemblyMemory(b *testing.B) {
	for b.Loop() {
		before := heapInUse()
		view := assembleSite().View()
		bare := heapInUse()
		runtime.KeepAlive(view)
		view = View{}
		none := heapInUse()
		a := assembleSite()
		view = a.View()
		all := heapInUse()
		runtime.KeepAlive(view)
		runtime.KeepAlive(a)
		b.ReportMetric(float64(bare-before)/100_000, "view-B/endpoint")
		b.ReportMetric((float64(all-none)-float64(bare-before))/100_000, "assembly-B/endpoint")
	}
}

// BenchmarkMapAll and BenchmarkMapOneChange are a mapping that touches every service.
func BenchmarkMapAll(b *testing.B) {
	view := View{Services: siteView(0)}
	mapping := Mapping{Namespaces: map[string]string{"*": "legacy"}, Labels: map[string]string{"dc": "x"}}
	b.ReportAllocs()
	for b.Loop() {
		m, err := newMapper(mapping, "a")
		if err != nil {
			b.Fatal(err)
		}
		m.apply(view)
	}
}

func BenchmarkMapOneChange(b *testing.B) {
	view := siteView(0)
	m, err := newMapper(Mapping{Rename: map[string]string{"s00001": "zz"}, Namespaces: map[string]string{"*": "legacy"}}, "a")
	if err != nil {
		b.Fatal(err)
	}
	views := [2]View{{Services: view}, {Services: withChange(view, 5000, Unhealthy)}}
	b.ReportAllocs()
	turn := 0
	for b.Loop() {
		m.apply(views[turn%2])
		turn++
	}
}

// BenchmarkAssembleOneChange is one entry's change among 100,000, until the view is there.
func BenchmarkAssembleOneChange(b *testing.B) {
	a := assembleSite()
	a.View()
	e := siteView(0)[5000].Endpoints[3]
	b.ReportAllocs()
	turn := 0
	for b.Loop() {
		turn++
		next := *e
		next.Health = Health(turn % 2)
		a.Set("/services/s05000/3", Entry{Service: "t05000-0", Ports: []Port{{Protocol: HTTP}}, Endpoint: &next})
		a.View()
	}
}

// assembleSite returns an Assembly of the entries of siteView.
func assembleSite() *Assembly {
	a := NewAssembly()
	for i, s := range siteView(0) {
		for j, e := range s.Endpoints {
			a.Set(fmt.Sprintf("/services/s%05d/%d", i, j), Entry{Service: s.Name.Name, Ports: []Port{{Protocol: HTTP}}, Endpoint: e})
		}
	}
	return a
}
