package main

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// settle serves for a while without asking anew.
func (l *load) settle(d time.Duration) error {
	events := make([]unix.EpollEvent, 256)
	for start := time.Now(); time.Since(start) < d; {
		if err := l.turn(events, 1); err != nil {
			return err
		}
	}
	return nil
}

// askOnce opens n connections that ask once and then are idle, some at a time.
func (l *load) askOnce(to netip.AddrPort, n int) error {
	const batch = 64
	l.done = 0
	for opened := 0; opened < n; {
		for range min(batch, n-opened) {
			e, err := l.open(to)
			if err != nil {
				return fmt.Errorf("connection %d: %w", opened+1, err)
			}
			e.paced = true
			opened++
			if err := e.speaker.(asker).ask(l, e); err != nil {
				return err
			}
		}
		for start := time.Now(); l.done < opened; {
			if time.Since(start) > 10*time.Second {
				return fmt.Errorf("%d of %d connections were answered", l.done, opened)
			}
			if err := l.settle(time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// dueAt is when the nth request of a run that began at start is to be sent, both since the epoch.
func (l *load) dueAt(start time.Duration, n int) time.Duration {
	return start + time.Duration(float64(n)/float64(l.rate)*float64(time.Second))
}

// pace sends the requests that are due when this many of the run have been sent, and returns how many then have. While all paced
// clients wait for an answer, what becomes due is not made up for in a burst, unless latencies are wanted: these count from when
// a request was due, so that a proxy gains nothing by keeping the generator waiting.
func (l *load) pace(start, now time.Duration, sent int) (int, error) {
	for ; l.dueAt(start, sent) <= now; sent++ {
		if len(l.idle) == 0 {
			if l.latency != nil {
				return sent, nil
			}
			continue
		}
		e := l.idle[0]
		l.idle = append(l.idle[:0], l.idle[1:]...)
		e.due = l.dueAt(start, sent)
		if err := e.speaker.(asker).ask(l, e); err != nil {
			return sent, err
		}
	}
	return sent, nil
}
