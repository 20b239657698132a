package registrytest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	largeEndpoints = 10              // of each service
	largePatience  = 3 * time.Minute // for a first view
	largeChanges   = 20
)

// large fills the server, and wants all of it in the first view.
func (s *suite) large() {
	if lenient && s.driver.PutAll == nil {
		s.Logf("not run without PutAll")
		return
	}
	n := s.h.Services
	services := make([]*registry.Service, n)
	for i := range services {
		services[i] = s.largeService(i, 18080)
	}
	start := time.Now()
	s.putAll(services)
	s.Logf("%d services of %d endpoints each put within %v", n, largeEndpoints, time.Since(start).Round(time.Millisecond))
	for range 2 {
		s.largeWatch(n)
	}
}

// largeWatch runs Watch once from its first view to its end.
func (s *suite) largeWatch(n int) {
	before := heap()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	start := time.Now()
	w := s.watchOnce(ctx)
	v := w.awaitFor(largePatience, "the first view", func(registry.View) error { return nil })
	w.mu.Lock()
	v, took := w.opening, w.opened.Sub(start)
	w.mu.Unlock()
	if err := s.ledger.equals(v); err != nil {
		s.Errorf("first view is not complete: %v", err)
	}
	s.record.note(string(Large), took)
	s.Logf("first view after %v, the heap grew by %d MB", took.Round(time.Millisecond), (heap()-before)>>20)
	times := make([]time.Duration, largeChanges)
	for i := range times {
		index := i * n / largeChanges
		number := find(v, s.largeService(index, 0).Name)
		changed := s.largeService(index, 18080)
		if number != nil && len(number.Endpoints) > 0 && number.Endpoints[0].Port(number.Endpoints[0].Ports[0].Name) == 18080 {
			changed = s.largeService(index, 18090)
		}
		begun := time.Now()
		s.put(changed)
		times[i] = w.settle("one change among many", begun)
	}
	slices.Sort(times)
	s.Logf("a change is published %v after it was begun, at most %v", times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
	cancel()
	w.ended()
}

// largeService is the i-th service. Its endpoints are at addresses of their own, while there are enough.
func (s *suite) largeService(i int, number uint16) *registry.Service {
	name := fmt.Sprintf("large-%05d", i)
	made := s.service(name, number, 0)
	for k := range largeEndpoints {
		at := i*largeEndpoints + k
		e := s.endpoint(name, number, at/254%256, at%254+1)
		e.ID = fmt.Sprintf("%s-%d", name, k+1)
		made.Endpoints = append(made.Endpoints, e)
	}
	return made
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}
