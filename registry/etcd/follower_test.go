package etcd_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/etcd"
)

// watcher runs Watch as the Catalog does: again, a moment after it returned.
type watcher struct {
	mu    sync.Mutex
	views []registry.View // guarded by mu, as all below
	errs  []error
	keep  func(registry.View) bool // what every view must be
	lost  int                      // how many were not
	wake  chan struct{}
}

// patience is generous for a loaded machine; nothing that passes waits for it.
const patience = 30 * time.Second

func watch(t *testing.T, cfg etcd.Config) *watcher {
	t.Helper()
	return watchRegistry(t, newRegistry(t, cfg))
}

func watchRegistry(t *testing.T, r registry.Registry) *watcher {
	t.Helper()
	w := &watcher{wake: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := r.Watch(ctx, w.publish)
			if ctx.Err() == nil {
				w.failed(err)
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.lost > 0 {
			t.Errorf("%d views have lost what was there", w.lost)
		}
	})
	return w
}

func (w *watcher) publish(v registry.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v.Validate() != nil || w.keep != nil && !w.keep(v) {
		w.lost++
	}
	w.views = append(w.views, v)
	close(w.wake)
	w.wake = make(chan struct{})
}

func (w *watcher) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
	close(w.wake)
	w.wake = make(chan struct{})
}

func (w *watcher) promise(keep func(registry.View) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keep = keep
}

// sees waits for a latest view that is as wanted.
func (w *watcher) sees(t *testing.T, what string, ok func(registry.View) bool) registry.View {
	t.Helper()
	timeout := time.After(patience)
	for {
		w.mu.Lock()
		var v registry.View
		n := len(w.views)
		if n > 0 {
			v = w.views[n-1]
		}
		wake, errs := w.wake, w.errs
		w.mu.Unlock()
		if n > 0 && ok(v) {
			return v
		}
		select {
		case <-wake:
		case <-timeout:
			t.Fatalf("%s: not seen after %d views; the last: %v, problems %v; errors %v", what, n, names(v), v.Problems, errs)
		}
	}
}

// fails waits for the next error that has all those words, and returns it.
func (w *watcher) fails(t *testing.T, what string, words ...string) error {
	t.Helper()
	timeout := time.After(patience)
	for {
		w.mu.Lock()
		wake, errs := w.wake, w.errs
		w.mu.Unlock()
		for _, err := range errs {
			if err != nil && !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(err.Error(), word) }) {
				return err
			}
		}
		select {
		case <-wake:
		case <-timeout:
			t.Fatalf("%s: no error with %q, got %d, the last: %v", what, words, len(errs), errs[max(len(errs)-1, 0):])
		}
	}
}

// forget drops the errors so far.
func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = nil
}

func (w *watcher) errors() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

func (w *watcher) published() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.views)
}

// names returns "namespace/service id" of every endpoint.
func names(v registry.View) []string {
	all := []string{}
	for _, s := range v.Services {
		for _, e := range s.Endpoints {
			all = append(all, s.Name.String()+" "+e.ID)
		}
	}
	return all
}

func holds(want ...string) func(registry.View) bool {
	return func(v registry.View) bool {
		have := names(v)
		return !slices.ContainsFunc(want, func(n string) bool { return !slices.Contains(have, n) })
	}
}

func exactly(want ...string) func(registry.View) bool {
	return func(v registry.View) bool { return slices.Equal(names(v), want) }
}

func permissionError(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, registry.ErrPermission) {
		t.Errorf("got %v, want one that wraps ErrPermission", err)
	}
}
