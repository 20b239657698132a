package loop_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

// TestWheel: timers of any duration run out once, never early, in the order of their ticks, unless they were stopped; also when
// those that run out stop and start others.
func TestWheel(t *testing.T) {
	l := run(t)
	random := rand.New(rand.NewPCG(1, 2))
	const n = 400
	type state struct {
		timer loop.Timer
		at    int64
		fired int
	}
	timers := make([]state, n)
	done := make(chan struct{})
	left := 0
	do(t, l, func() {
		var again expirer
		start := func(s *state, d time.Duration) {
			s.at = l.Now() + int64(d)
			l.StartAt(&s.timer, d, again)
		}
		victims := 0
		again = func(tm *loop.Timer) {
			for i := range timers {
				s := &timers[i]
				if &s.timer != tm {
					continue
				}
				s.fired++
				if l.Now() < s.at {
					t.Errorf("timer %d ran out %v early", i, time.Duration(s.at-l.Now()))
				}
				if s.timer.Running() {
					t.Errorf("timer %d runs although it ran out", i)
				}
				// One of its neighbours goes, one begins again.
				if v := &timers[(i+1)%n]; victims < n/8 && v.timer.Running() {
					victims++
					v.timer.Stop()
					left--
				}
				if v := &timers[(i+7)%n]; v.timer.Running() {
					start(v, time.Duration(random.IntN(60_000))*time.Microsecond+1)
				}
			}
			if left--; left == 0 {
				close(done)
			}
		}
		for i := range timers {
			start(&timers[i], time.Duration(random.IntN(150_000))*time.Microsecond+1)
			left++
		}
		// Some are stopped, some become timers of a configured class, and one is further away than the clock goes.
		for i := 0; i < n; i += 10 {
			timers[i].timer.Stop()
			left--
		}
		for i := 1; i < n; i += 10 {
			timers[i].at = l.Now() + int64(30*time.Millisecond)
			l.Start(&timers[i].timer, 30*time.Millisecond, again)
		}
	})
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("timers are left")
	}
	do(t, l, func() {
		for i := range timers {
			if timers[i].fired > 1 || timers[i].timer.Running() || i%10 == 0 && timers[i].fired > 0 {
				t.Errorf("timer %d ran out %d times, running %v", i, timers[i].fired, timers[i].timer.Running())
			}
		}
	})
}

// TestWheelFarAway: a deadline that no clock reaches is no deadline in the past, nor one of 0.
func TestWheelFarAway(t *testing.T) {
	l := run(t)
	var far, none loop.Timer
	fired := make(chan struct{})
	var near loop.Timer
	do(t, l, func() {
		bad := expirer(func(*loop.Timer) { t.Error("it ran out") })
		l.StartAt(&far, 1<<63-1, bad)
		l.StartAt(&none, time.Millisecond, bad)
		l.StartAt(&none, 0, bad)
		if none.Running() || !far.Running() {
			t.Error("Running is wrong")
		}
		l.StartAt(&near, 30*time.Millisecond, expirer(func(*loop.Timer) { close(fired) }))
	})
	<-fired
	do(t, l, func() {
		if !far.Running() {
			t.Error("the far timer is gone")
		}
		far.Stop()
	})
}

// TestWheelNeedsNoMemory: a new duration with each start leaves nothing behind.
func TestWheelNeedsNoMemory(t *testing.T) {
	l := run(t)
	do(t, l, func() {
		var timer loop.Timer
		owner := expirer(func(*loop.Timer) {})
		l.StartAt(&timer, time.Hour, owner)
		d := time.Hour
		if n := testing.AllocsPerRun(10_000, func() {
			d += 1234567
			l.StartAt(&timer, d, owner)
		}); n > 0 {
			t.Errorf("%v allocations for each start", n)
		}
		timer.Stop()
	})
}
