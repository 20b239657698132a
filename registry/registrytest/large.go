package registrytest

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	largeEndpoints = 10              // of each service
	largePatience  = 3 * time.Minute // for a first view
	largeChanges   = 20              // one at a time,
	largeTime      = 5 * time.Second // for so long at most where changes take long by nature, as in DNS,
	largeAtLeast   = 3               // but so many
)

// large fills the server, and wants all of it in the first view.
func (s *suite) large() {
	n := s.h.Services
	services := make([]*registry.Service, n)
	for i := range services {
		services[i] = s.largeService(i, 18080)
	}
	start := time.Now()
	s.putAll(services)
	s.Logf("%d services of %d endpoints each put within %v", n, largeEndpoints, time.Since(start).Round(time.Millisecond))
	s.largeWatch(services, 18090)
	s.largeWatch(services, 18080)
}

// largeWatch runs Watch once, from its first view over single changes to its end.
func (s *suite) largeWatch(services []*registry.Service, number uint16) {
	w := s.newWatcher()
	before, start := heap(), time.Now()
	end := w.once(s.Context())
	w.awaitFor(largePatience, "the first view", func(registry.View) error { return nil })
	first, took := w.opening, w.opened.Sub(start) // they stay as they are
	if err := s.ledger.equals(first); err != nil {
		s.Errorf("first view is not complete: %v", err)
	}
	s.record.note(string(Large), took)
	s.Logf("first view after %v, the heap grew by %d MB", took.Round(time.Millisecond), (heap()-before)>>20)
	var times []time.Duration
	for i, since := 0, time.Now(); i < largeChanges && (i < largeAtLeast || time.Since(since) < largeTime); i++ {
		begun := time.Now()
		s.put(s.largeService(i*len(services)/largeChanges, number))
		// Who has just read everything may have as much to do before it follows everything: on a busy machine that takes
		// longer than a change may.
		w.awaitFor(max(w.h.Settle, 2*took), "one change among many", w.ledger.equals)
		times = append(times, w.settle("one change among many", begun))
	}
	slices.Sort(times)
	s.Logf("a change is published %v after it was begun, at most %v", times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
	end()
	w.ended()
}

// largeService is the i-th service. Its endpoints are at addresses of their own, while there are enough.
func (s *suite) largeService(i int, number uint16) *registry.Service {
	name := fmt.Sprintf("large-%05d", i)
	made := s.service(name, number, 0)
	for k := range largeEndpoints {
		at := i*largeEndpoints + k
		e := s.endpoint(name, number, at/254%256, at%254+1)
		e.ID = fmt.Sprintf("%s-%02d", name, k)
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
