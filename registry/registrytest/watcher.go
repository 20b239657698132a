package registrytest

import (
	"context"
	"fmt"
	"reflect"
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
	views   int
	opening registry.View                           // the first
	view    registry.View                           // the latest
	lost    func(registry.View) error               // what no view may lose, nil for nothing
	run     int                                     // counts the calls of Watch
	errs    []error                                 // of Watch, in order
	broken  []string                                // broken promises
	copies  map[*registry.Service]*registry.Service // what was published, to see that it stays
	current map[registry.Name]*registry.Service     // of this run of Watch
}

// watch runs Watch, again after each failure, until the case ends.
func (s *suite) watch() *watcher {
	ctx, cancel := context.WithCancel(s.Context())
	w := s.newWatcher()
	go func() {
		defer close(w.done)
		for ctx.Err() == nil {
			w.watchOnce(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	s.Cleanup(func() { cancel(); w.ended() })
	return w
}

// watchOnce calls Watch once.
func (s *suite) watchOnce(ctx context.Context) *watcher {
	w := s.newWatcher()
	go func() {
		defer close(w.done)
		w.watchOnce(ctx)
	}()
	return w
}

func (s *suite) newWatcher() *watcher {
	return &watcher{
		suite:  s,
		done:   make(chan struct{}),
		wake:   make(chan struct{}),
		copies: make(map[*registry.Service]*registry.Service),
	}
}

func (w *watcher) watchOnce(ctx context.Context) {
	w.mu.Lock()
	w.run++
	run := w.run
	w.current = nil
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
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		w.broken = append(w.broken, "Watch returned nil although its context had not ended")
	}
	w.errs = append(w.errs, err)
	w.signal()
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
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.signal()
	broken := func(format string, args ...any) { w.broken = append(w.broken, fmt.Sprintf(format, args...)) }
	if run != w.run {
		broken("publish is called after Watch returned")
		return
	}
	if err := v.Validate(); err != nil {
		broken("view %d is not valid: %v", w.views+1, err)
		return
	}
	next := make(map[registry.Name]*registry.Service, len(v.Services))
	for _, s := range v.Services {
		before := w.current[s.Name]
		if before != nil && before != s && reflect.DeepEqual(before, s) {
			broken("service %s did not change, but its pointer did", s.Name)
		}
		if kept, ok := w.copies[s]; !ok {
			w.copies[s] = clone(s)
		} else if !reflect.DeepEqual(kept, s) {
			broken("service %s changed after it was published", s.Name)
		}
		next[s.Name] = s
	}
	if w.lost != nil {
		if err := w.lost(v); err != nil {
			broken("a view lost what was there: %v", err)
		}
	}
	if w.views == 0 {
		w.opening = v
	}
	w.current = next
	w.view = v
	w.views++
}

// clone copies a service deeply enough to see any change of it.
func clone(s *registry.Service) *registry.Service {
	c := *s
	c.Ports = append([]registry.Port(nil), s.Ports...)
	if s.Ports != nil && c.Ports == nil {
		c.Ports = []registry.Port{}
	}
	c.Labels = cloneMap(s.Labels)
	if s.Endpoints != nil {
		c.Endpoints = make([]*registry.Endpoint, len(s.Endpoints))
	}
	for i, e := range s.Endpoints {
		e := *e
		if e.Ports != nil {
			e.Ports = append([]registry.EndpointPort{}, e.Ports...)
		}
		e.Labels = cloneMap(e.Labels)
		c.Endpoints[i] = &e
	}
	return &c
}

func cloneMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	c := make(map[string]string, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// keep declares what no later view may lose.
func (w *watcher) keep(lost func(registry.View) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = lost
}

// forget drops the failures of Watch so far.
func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = nil
}

// first returns the first view, whatever came after it.
func (w *watcher) first() registry.View {
	w.Helper()
	w.await("the first view", func(registry.View) error { return nil })
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opening
}

// await waits for a view that ok accepts and returns it.
func (w *watcher) await(what string, ok func(registry.View) error) registry.View {
	w.Helper()
	timeout := time.After(w.h.Settle)
	for {
		w.mu.Lock()
		v, views, wake, errs := w.view, w.views, w.wake, w.errs
		w.mu.Unlock()
		why := fmt.Errorf("no view at all")
		if views > 0 {
			if why = ok(v); why == nil {
				return v
			}
		}
		select {
		case <-wake:
		case <-timeout:
			w.Fatalf("%s: not seen within %v: after %d views: %v; Watch failed with %v", what, w.h.Settle, views, why, errs)
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
	w.mu.Lock()
	defer w.mu.Unlock()
	for s, kept := range w.copies {
		if !reflect.DeepEqual(s, kept) {
			w.Errorf("service %s changed after it was published", kept.Name)
		}
	}
	for _, b := range w.broken {
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

// leftover waits for the goroutines to end that are there now but not in before, and returns those that do not.
func (s *suite) leftover(before map[string]string) string {
	suspects := goroutines()
	for id := range before {
		delete(suspects, id)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		now := goroutines()
		var left []string
		for id := range suspects {
			if stack, ok := now[id]; ok {
				left = append(left, stack)
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
