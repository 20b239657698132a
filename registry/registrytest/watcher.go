package registrytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// watcher runs Watch as the Catalog does, again after every failure, and judges each view.
type watcher struct {
	*suite
	done chan struct{} // closed when Watch runs no more

	mu      sync.Mutex
	wake    chan struct{} // closed and replaced at every view and every failure
	cancel  func()        // ends this call of Watch
	views   int
	opening registry.View // the first
	opened  time.Time     // when it was published
	view    registry.View // the latest
	arrived time.Time     // when view was published
	reader  *reader
	run     int                                 // counts the calls of Watch and their ends
	parent  string                              // the goroutine that calls Watch
	errs    []error                             // of Watch, in order
	broken  []string                            // broken promises
	prints  map[*registry.Service]uint64        // of what was published, to see that it stays
	current map[registry.Name]*registry.Service // of this call of Watch
}

// watch runs Watch, again after each failure, until the case ends. The pauses are the Catalog's.
func (s *suite) watch() *watcher {
	ctx, cancel := context.WithCancel(s.Context())
	w := s.newWatcher()
	go func() {
		defer close(w.done)
		pause := time.Duration(0)
		for ctx.Err() == nil {
			if start := time.Now(); w.watchOnce(ctx) == nil || time.Since(start) > 10*time.Second {
				pause = 0
			}
			pause = min(max(2*pause, 200*time.Millisecond), time.Second)
			select {
			case <-ctx.Done():
			case <-time.After(pause/2 + rand.N(pause/2)):
			}
		}
	}()
	s.Cleanup(func() { cancel(); w.ended() })
	return w
}

// once calls Watch once, until it is told to end.
func (w *watcher) once(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(w.done)
		_ = w.watchOnce(ctx) // it is in w.errs
	}()
	return cancel
}

func (s *suite) newWatcher() *watcher {
	return &watcher{
		suite:  s,
		done:   make(chan struct{}),
		wake:   make(chan struct{}),
		reader: s.ledger.newReader(),
		prints: make(map[*registry.Service]uint64),
	}
}

// watchOnce calls Watch and returns why it failed; nil when it was told to end.
func (w *watcher) watchOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.run++
	run := w.run
	w.current = nil
	w.cancel, w.parent = cancel, own()
	w.mu.Unlock()
	var running sync.Mutex
	err := w.registry.Watch(ctx, func(v registry.View) {
		if !running.TryLock() {
			w.breach("publish is called from two goroutines at a time")
			return
		}
		defer running.Unlock()
		w.publish(run, v)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.run++ // a later publish of this run is late
	w.signal()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		w.broken = append(w.broken, "Watch returned nil although its context had not ended")
		err = errors.New("no error")
	}
	w.errs = append(w.errs, err)
	return err
}

func (w *watcher) breach(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

// signal wakes who waits. w.mu is held.
func (w *watcher) signal() {
	close(w.wake)
	w.wake = make(chan struct{})
}

func (w *watcher) publish(run int, v registry.View) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.signal()
	broken := func(format string, args ...any) {
		w.broken = append(w.broken, fmt.Sprintf("view %d: ", w.views+1)+fmt.Sprintf(format, args...))
	}
	if run != w.run {
		broken("publish is called after Watch returned")
		return
	}
	if err := v.Validate(); err != nil {
		broken("it is not valid: %v", err)
		return
	}
	next := make(map[registry.Name]*registry.Service, len(v.Services))
	for _, s := range v.Services {
		if _, ok := w.prints[s]; !ok {
			w.prints[s] = fingerprint(s)
		}
		if before := w.current[s.Name]; before != nil && before != s && w.prints[before] == w.prints[s] {
			broken("service %s did not change, but its pointer did", s.Name)
		}
		next[s.Name] = s
	}
	w.reader.judge(v, broken)
	if w.views == 0 {
		w.opening, w.opened = v, now
	}
	w.current, w.view, w.arrived = next, v, now
	w.views++
}

// fingerprint stands for the whole content of a service.
func fingerprint(s *registry.Service) uint64 {
	text, err := json.Marshal(s)
	if err != nil {
		text = []byte(err.Error())
	}
	h := fnv.New64a()
	_, _ = h.Write(text) // a hash takes everything
	return h.Sum64()
}

// again ends this call of Watch, which must return, and lets the next one begin.
func (w *watcher) again() {
	w.Helper()
	w.mu.Lock()
	run, cancel := w.run, w.cancel
	w.mu.Unlock()
	cancel()
	for timeout := time.After(w.h.Settle); ; {
		w.mu.Lock()
		now, wake := w.run, w.wake
		w.mu.Unlock()
		if now != run {
			return
		}
		select {
		case <-wake:
		case <-timeout:
			w.Fatalf("Watch has not returned %v after its context ended", w.h.Settle)
		}
	}
}

// forget drops the failures of Watch so far.
func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = nil
}

// failed reports whether Watch returned an error since forget.
func (w *watcher) failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.errs) > 0
}

// settle waits until the view is the truth and returns how long after since that came.
func (w *watcher) settle(what string, since time.Time) time.Duration {
	w.Helper()
	w.await(what, w.ledger.equals)
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(0, w.arrived.Sub(since))
}

// first returns the first view, whatever came after it.
func (w *watcher) first() registry.View {
	w.Helper()
	w.await("the first view", func(registry.View) error { return nil })
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opening
}

// latest returns the latest view, which there is.
func (w *watcher) latest() registry.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// await waits for a view that ok accepts and returns it.
func (w *watcher) await(what string, ok func(registry.View) error) registry.View {
	w.Helper()
	return w.awaitFor(w.h.Settle, what, ok)
}

func (w *watcher) awaitFor(patience time.Duration, what string, ok func(registry.View) error) registry.View {
	w.Helper()
	timeout := time.After(patience)
	for {
		w.mu.Lock()
		v, views, wake, errs, broken := w.view, w.views, w.wake, w.errs, len(w.broken)
		w.mu.Unlock()
		why := fmt.Errorf("no view at all")
		if views > 0 {
			if why = ok(v); why == nil {
				return v
			}
		}
		if broken > 0 {
			w.Fatalf("%s: not seen, and a promise is broken: %v", what, why)
		}
		select {
		case <-wake:
		case <-timeout:
			w.Fatalf("%s: not seen within %v: after %d views: %v; Watch failed with %v", what, patience, views, why, errs)
		}
	}
}

// failure waits for Watch to return an error, and returns the latest.
func (w *watcher) failure(what string) error {
	w.Helper()
	timeout := time.After(w.h.Settle)
	for {
		w.mu.Lock()
		wake, errs := w.wake, w.errs
		w.mu.Unlock()
		if len(errs) > 0 {
			return errs[len(errs)-1]
		}
		select {
		case <-wake:
		case <-timeout:
			w.Fatalf("%s: Watch has not returned an error within %v", what, w.h.Settle)
		}
	}
}

// ended waits for the end of Watch, whose context has ended, and tells every promise that was broken.
func (w *watcher) ended() {
	w.Helper()
	select {
	case <-w.done:
	case <-time.After(w.h.Settle):
		w.Errorf("Watch has not returned %v after its context ended", w.h.Settle)
	}
	if left := w.leftover(func() map[string]string { return children(w.parent) }); left != "" {
		w.Errorf("Watch returned and left goroutines behind:\n%s", left)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for s, print := range w.prints {
		if fingerprint(s) != print {
			w.Errorf("service %s changed after it was published", s.Name)
		}
	}
	for i, b := range w.broken {
		if i == 20 {
			w.Errorf("and %d more", len(w.broken)-i)
			break
		}
		w.Error(b)
	}
	w.broken = nil
}

// goroutines returns the stacks of all goroutines but the caller's, by their ID.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for _, stack := range strings.Split(string(buf), "\n\n")[1:] {
		id, _, _ := strings.Cut(stack, " [")
		stacks[id] = stack
	}
	return stacks
}

// own returns the ID of the calling goroutine, as goroutines has it.
func own() string {
	buf := make([]byte, 64)
	id, _, _ := strings.Cut(string(buf[:runtime.Stack(buf, false)]), " [")
	return id
}

// children returns those goroutines that a goroutine made, and theirs.
func children(parent string) map[string]string {
	all := goroutines()
	family := map[string]bool{parent: true}
	found := make(map[string]string)
	for more := true; more; {
		more = false
		for id, stack := range all {
			i := strings.LastIndex(stack, " in goroutine ")
			if i < 0 || family[id] {
				continue
			}
			creator, _, _ := strings.Cut(stack[i+len(" in "):], "\n")
			if family[creator] {
				family[id], found[id], more = true, stack, true
			}
		}
	}
	return found
}

// leftover waits for the goroutines to end that suspects returns now, and returns the stacks of those that do not.
func (s *suite) leftover(suspects func() map[string]string) string {
	first := suspects()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var left []string
		if len(first) > 0 {
			for id, stack := range goroutines() {
				if _, ok := first[id]; ok {
					left = append(left, stack)
				}
			}
		}
		if len(left) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}
