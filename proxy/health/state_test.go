package health

import (
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestState goes through the documented rules, a row each: the outcomes of checks, and what is known after each.
func TestState(t *testing.T) {
	const ok, timed = Flags(0), Failed | TimedOut
	hc := &config.HealthCheck{UnhealthyThreshold: 3, HealthyThreshold: 2}
	for _, c := range []struct {
		name string
		in   []Outcome
		want []Flags
		t    []transition
	}{
		{"one success is enough at first", []Outcome{Passed, Passed}, []Flags{ok, ok}, []transition{changed, unchanged}},
		{"a failure at first", []Outcome{Refused, Refused}, []Flags{Failed, Failed}, []transition{changed, unchanged}},
		{"then the threshold holds", []Outcome{Refused, Passed, Passed}, []Flags{Failed, Failed, ok}, []transition{changed, pending, changed}},
		{"a failure between starts anew", []Outcome{Refused, Passed, Refused, Passed, Passed}, []Flags{Failed, Failed, Failed, Failed, ok}, []transition{changed, pending, unchanged, pending, changed}},
		{"the threshold of failures", []Outcome{Passed, Refused, Retriable, Refused}, []Flags{ok, ok, ok, Failed}, []transition{changed, pending, pending, changed}},
		{"a success between starts anew", []Outcome{Passed, Refused, Refused, Passed, Refused}, []Flags{ok, ok, ok, ok, ok}, []transition{changed, pending, pending, unchanged, pending}},
		{"a wrong answer is a failure at once", []Outcome{Passed, Rejected}, []Flags{ok, Failed}, []transition{changed, changed}},
		{"late", []Outcome{Passed, Late, Late, Late, Refused}, []Flags{ok, TimedOut, TimedOut, timed, Failed}, []transition{changed, changed, pending, changed, changed}},
		{"degraded", []Outcome{PassedDegraded, Passed}, []Flags{Degraded, ok}, []transition{changed, changed}},
		{"nothing is known", []Outcome{Unknown, Passed, Unknown}, []Flags{Failed, ok, ok}, []transition{changed, changed, unchanged}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newState()
			if s.flags != Failed|Pending {
				t.Errorf("starts as %b", s.flags)
			}
			for i, o := range c.in {
				if got := s.take(hc, o); got != c.t[i] || s.flags != c.want[i] {
					t.Errorf("after %d: flags %b, transition %d; want %b, %d", i+1, s.flags, got, c.want[i], c.t[i])
				}
			}
		})
	}
}

func TestInterval(t *testing.T) {
	hc := &config.HealthCheck{
		Interval: 1 * time.Second, UnhealthyInterval: 2 * time.Second, UnhealthyEdgeInterval: 3 * time.Second, HealthyEdgeInterval: 4 * time.Second,
		NoTrafficInterval: 5 * time.Second, NoTrafficHealthyInterval: 6 * time.Second,
	}
	for _, c := range []struct {
		name   string
		passed bool
		t      transition
		used   bool
		want   time.Duration
	}{
		{"healthy", true, unchanged, true, time.Second},
		{"became healthy", true, changed, true, time.Second},
		{"unhealthy", false, unchanged, true, 2 * time.Second},
		{"is becoming unhealthy", false, pending, true, 3 * time.Second},
		{"is becoming healthy", true, pending, true, 4 * time.Second},
		{"no traffic, unhealthy", false, unchanged, false, 5 * time.Second},
		{"no traffic, an edge", true, pending, false, 5 * time.Second},
		{"no traffic, healthy", true, unchanged, false, 6 * time.Second},
	} {
		if got := interval(hc, c.passed, c.t, c.used); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	hc.IntervalJitter, hc.IntervalJitterPercent = time.Second, 50
	seen := map[time.Duration]bool{}
	for range 1000 {
		got := interval(hc, true, unchanged, true)
		if seen[got] = true; got < time.Second || got >= 2500*time.Millisecond {
			t.Fatalf("with jitter: %v", got)
		}
	}
	if len(seen) < 900 {
		t.Errorf("%d different intervals of 1000", len(seen))
	}
	if got := interval(&config.HealthCheck{}, true, unchanged, true); got != time.Millisecond {
		t.Errorf("without any interval: %v", got)
	}
}
