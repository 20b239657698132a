package loop_test

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

type flusher func()

func (f flusher) Flush() { f() }

type handler func(loop.Event)

func (f handler) Ready(e loop.Event) { f(e) }

// TestAtEnd: flushers run once, after everything else of the batch, also those that were added meanwhile.
func TestAtEnd(t *testing.T) {
	l := run(t)
	var got []string
	note := func(what string) { got = append(got, what) }
	var s loop.Socket
	var timer loop.Timer
	done := make(chan struct{})
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	do(t, l, func() {
		if err := s.Open(l, fd, handler(func(e loop.Event) {
			if e&loop.Retry != 0 {
				note("turn")
			}
		})); err != nil {
			t.Error(err)
		}
		l.AtEnd(flusher(func() {
			note("first")
			l.AtEnd(flusher(func() { note("added"); close(done) }))
		}))
		l.AtEnd(flusher(func() { note("second") }))
		s.Again()
		l.Start(&timer, 1, expirer(func(*loop.Timer) { note("timer") }))
		l.Post(func() { note("task") })
	})
	<-done
	do(t, l, func() {
		s.Close()
		timer.Stop() // it would note something while that is read
	})
	want := []string{"turn", "first", "second", "added"}
	if got := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s == "task" || s == "timer" }); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// again adds itself as long as it is to.
type again struct {
	l     *loop.Loop
	calls int
	many  chan struct{} // closed after many calls
	stop  bool
}

const many = 20_000

func (a *again) Flush() {
	if a.calls++; !a.stop {
		a.l.AtEnd(a)
	}
	if a.calls == many && a.many != nil {
		close(a.many)
	}
}

// TestAtEndIsBounded: a flusher that adds itself for ever holds nobody up, and a loop with flushers does not sleep.
func TestAtEndIsBounded(t *testing.T) {
	l := run(t)
	a := &again{l: l, many: make(chan struct{})}
	do(t, l, func() { l.AtEnd(a) })
	select {
	case <-a.many:
	case <-time.After(deadline):
		t.Fatal("the loop went to sleep")
	}
	do(t, l, func() { a.stop = true })
	last := 0
	do(t, l, func() { last = a.calls })
	do(t, l, func() {
		if a.calls > last+1 {
			t.Errorf("%d calls after it stopped adding itself", a.calls-last)
		}
	})
}

func TestAtEndAllocatesNothing(t *testing.T) {
	l := run(t)
	a := &again{l: l, stop: true}
	done := make(chan struct{}, 1)
	task := func() {
		l.AtEnd(a)
		l.AtEnd(a)
		done <- struct{}{}
	}
	if n := testing.AllocsPerRun(1000, func() { l.Post(task); <-done }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
