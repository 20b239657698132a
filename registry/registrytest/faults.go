package registrytest

import (
	"fmt"
	"os"
	"time"
)

// promise is how soon after the end of a fault, and after the last change, the view is the truth.
const promise = 2 * time.Second

// soak is how long the long tests run: the duration in HOSTMESH_SOAK, a minute for another value; 0 without it.
func soak() time.Duration {
	text := os.Getenv("HOSTMESH_SOAK")
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return d
	}
	if text != "" {
		return time.Minute
	}
	return 0
}

// length is how long a fault lasts at least: where only time shows it, long enough for keepalives to notice.
func length(f Fault) time.Duration {
	if d := soak(); d > 0 {
		return min(d, time.Minute)
	}
	switch f {
	case ServerPaused, Partition, SlowAnswers:
		return 3 * time.Second
	}
	return time.Second
}

// fault makes the case of a fault.
func fault(f Fault) func(*suite) {
	return func(s *suite) {
		injection, ok := s.driver.Faults[f]
		s.need(ok && injection.Begin != nil && injection.End != nil, fmt.Sprintf("Faults[%s]", f))
		s.put(s.service("web", 18080, 3))
		changes := s.newChanges(s.random(0), changing...)
		changes.found(changes.services[0])
		changes.found(changes.services[1])
		w := s.watch()
		w.settle("what was there before", time.Now())
		s.tries(string(f), func() (took, limit time.Duration) { return w.round(f, injection, changes) })
		w.leave(injection)
	}
}

// tries holds what round measures against its limit. The promise is one of time, and the machine may be busy with other
// tests: so a round may take, besides the promise, ten times what an ordinary change took just before the fault, on the
// same way from the server to the view; and one round that is late is forgiven if the next two are in time. An adapter
// that recovers by luck, or late on principle, does not get through that; Settle bounds every round.
func (s *suite) tries(what string, round func() (took, limit time.Duration)) {
	s.Helper()
	late := 0
	for good := 0; good < 1+late; {
		took, limit := round()
		s.record.note(what, took)
		s.Logf("settled after %v, the limit is %v", took.Round(time.Millisecond), limit.Round(time.Millisecond))
		if took <= limit {
			good++
		} else if late++; late == 2 {
			s.Errorf("the view was the truth only %v after the fault or the last change, want at most %v; it was late before", took, limit)
			return
		}
	}
}

// limit is what a round may take on this machine at this time.
func (w *watcher) limit(c *changes) time.Duration {
	start := time.Now()
	c.step()
	return promise + 10*w.settle("an ordinary change", start)
}

// leave ends a call of Watch in the midst of the fault: who stops, or is configured anew, does not wait for a server.
func (w *watcher) leave(injection Injection) {
	w.Helper()
	injection.Begin(w.T)
	func() {
		defer injection.End(w.T)
		w.again()
	}()
	w.settle("the truth in the next call of Watch", time.Now())
}

// round begins and ends the fault once, with changes before, during and after it.
func (w *watcher) round(f Fault, injection Injection, c *changes) (took, limit time.Duration) {
	w.put(w.service("web", 18080, 3), w.service("api", 18081, 2), w.service("auth", 18082, 2))
	w.settle("what was there before", time.Now())
	limit = w.limit(c)
	c.step() // may be on its way when the fault begins
	w.forget()
	ended := false
	defer func() {
		if !ended { // the test fails; the server is wanted again
			injection.End(w.T)
		}
	}()
	injection.Begin(w.T)
	if injection.Writable {
		w.put(w.service("auth", 18082, 1))
		w.delete(w.service("api", 0, 0).Name)
		c.each()
	}
	begun := time.Now()
	for time.Since(begun) < length(f) || !injection.Blameless && !w.failed() {
		if time.Since(begun) > length(f)+w.h.Settle {
			w.Fatalf("Watch has not returned an error within %v of %s", w.h.Settle, f)
		}
		time.Sleep(100 * time.Millisecond)
		if injection.Writable {
			c.step()
		}
	}
	ended = true
	injection.End(w.T)
	took = w.settle("what was true when the fault ended", time.Now())
	c.each()
	return max(took, w.settle("what changed after the fault", time.Now())), limit
}
