package registrytest

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// churn changes the truth as fast as the driver does, up to a thousand times a second. No change may be lost.
func (s *suite) churn() {
	length := max(3*time.Second, soak())
	s.put(s.service("web", 18080, 3), s.service("api", 18081, 2))
	w := s.watch()
	w.settle("what was there before", time.Now())
	w.mu.Lock()
	before := w.views
	w.mu.Unlock()
	workers := min(max(1, s.h.Parallel), len(changing))
	made := make([]int, workers)
	start := time.Now()
	work := func(i int) {
		var own []string
		for j := i; j < len(changing); j += workers {
			own = append(own, changing[j])
		}
		c := s.newChanges(s.random(uint64(i)), own...)
		for ; time.Since(start) < length; time.Sleep(time.Duration(workers) * time.Millisecond) {
			c.step()
			made[i] = c.made
		}
	}
	var working sync.WaitGroup
	for i := 1; i < workers; i++ {
		working.Go(func() { work(i) })
	}
	work(0)
	working.Wait()
	if s.Failed() {
		s.FailNow()
	}
	last := time.Now()
	total := 0
	for _, n := range made {
		total += n
	}
	took := w.settle("the truth after the last change", last)
	s.record.note(string(Churn), took)
	w.mu.Lock()
	views := w.views - before
	w.mu.Unlock()
	seconds := last.Sub(start).Seconds()
	s.Logf("settled after %v: %.0f changes/s, %.0f views/s", took.Round(time.Millisecond), float64(total)/seconds, float64(views)/seconds)
}

// chaos lets the faults that this registry can suffer follow each other in random order, without time to recover. Each
// has been there once before one comes again.
func (s *suite) chaos() {
	faults := s.allFaults()
	s.need(len(faults) > 0, "Faults")
	s.put(s.service("web", 18080, 3), s.service("api", 18081, 2), s.service("auth", 18082, 1))
	changes := s.newChanges(s.random(0), changing...)
	changes.found(changes.services[0])
	w := s.watch()
	w.settle("what was there before", time.Now())
	names := slices.Sorted(maps.Keys(faults))
	var deck []Fault
	draw := func() Fault {
		if len(deck) == 0 {
			deck = slices.Clone(names)
			changes.rand.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		name := deck[0]
		deck = deck[1:]
		return name
	}
	for start := time.Now(); ; {
		s.tries(string(Chaos), func() (took, limit time.Duration) { return w.storm(draw, faults, changes) })
		if s.Failed() || time.Since(start) >= soak() {
			return
		}
	}
}

// allFaults are the driver's, and the outage and the loss of permission where it has them.
func (s *suite) allFaults() map[Fault]Injection {
	faults := maps.Clone(s.driver.Faults)
	if faults == nil {
		faults = make(map[Fault]Injection)
	}
	if s.driver.Down != nil && s.driver.Up != nil {
		faults[DownAndUp] = Injection{Begin: s.driver.Down, End: s.driver.Up}
	}
	if s.driver.Deny != nil && s.driver.Allow != nil {
		faults[PermissionLost] = Injection{Begin: s.driver.Deny, End: s.driver.Allow}
	}
	for c := range s.h.Cannot {
		delete(faults, c)
	}
	return faults
}

// storm begins and ends the next five faults, and wants the truth after the last.
func (w *watcher) storm(draw func() Fault, faults map[Fault]Injection, c *changes) (took, limit time.Duration) {
	limit = w.limit(c)
	var story []string
	for range 5 {
		name := draw()
		story = append(story, string(name))
		w.gust(faults[name], c)
		for range c.rand.IntN(5) {
			c.step()
		}
	}
	took = w.settle("the truth after "+strings.Join(story, ", "), time.Now())
	w.Logf("after %s", strings.Join(story, ", "))
	return took, limit
}

// gust begins and ends one fault, after a random time.
func (w *watcher) gust(injection Injection, c *changes) {
	defer injection.End(w.T)
	injection.Begin(w.T)
	end := time.Now().Add(time.Duration(c.rand.IntN(1500)) * time.Millisecond)
	if c.rand.IntN(4) == 0 {
		w.again() // it must return now, too
	}
	for time.Now().Before(end) {
		time.Sleep(50 * time.Millisecond)
		if injection.Writable {
			c.step()
		}
	}
}
