package consul_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
)

// follower runs Watch again after each failure, as the Catalog does, and remembers all that came of it.
type follower struct {
	mu   sync.Mutex
	wake chan struct{} // guarded by mu; closed at every view and every error
	view *registry.View
	errs []error
	keep func(registry.View) bool // guarded by mu; a view for which it is false is a broken promise
	bad  int                      // guarded by mu: views that keep refused
}

func follow(t *testing.T, cfg consul.Config) *follower {
	t.Helper()
	r, err := consul.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{wake: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := r.Watch(ctx, f.publish)
			f.change(func() {
				if ctx.Err() == nil {
					f.errs = append(f.errs, err)
				}
			})
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if f.bad > 0 {
			t.Errorf("%d views lost what was there", f.bad)
		}
	})
	return f
}

func (f *follower) change(what func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what()
	close(f.wake)
	f.wake = make(chan struct{})
}

func (f *follower) publish(v registry.View) {
	f.change(func() {
		f.view = &v
		if f.keep != nil && !f.keep(v) {
			f.bad++
		}
	})
}

// promise has every view from now on judged.
func (f *follower) promise(keep func(registry.View) bool) { f.change(func() { f.keep = keep }) }

// until waits for a state that ok accepts.
func (f *follower) until(t *testing.T, what string, ok func(view *registry.View, errs []error) bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		view, errs, wake := f.view, f.errs, f.wake
		f.mu.Unlock()
		if ok(view, errs) {
			return
		}
		select {
		case <-wake:
		case <-timeout:
			t.Fatalf("%s: not seen; errors %v", what, errs)
		}
	}
}

// sees waits for a view that ok accepts.
func (f *follower) sees(t *testing.T, what string, ok func(registry.View) bool) {
	t.Helper()
	f.until(t, what, func(v *registry.View, _ []error) bool { return v != nil && ok(*v) })
}

// fails waits for one more error of Watch and returns it.
func (f *follower) fails(t *testing.T, what string) (err error) {
	t.Helper()
	f.mu.Lock()
	seen := len(f.errs)
	f.mu.Unlock()
	f.until(t, what, func(_ *registry.View, errs []error) bool {
		if len(errs) <= seen {
			return false
		}
		err = errs[len(errs)-1]
		return true
	})
	return err
}

func (f *follower) errors() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.errs
}

func (f *follower) published() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view != nil
}

func endpoints(v registry.View, name string) []*registry.Endpoint {
	s := (&registry.Snapshot{Services: v.Services}).Service(registry.Name{Namespace: registry.DefaultNamespace, Name: name})
	if s == nil {
		return nil
	}
	return s.Endpoints
}

func hasEndpoints(name string, n int) func(registry.View) bool {
	return func(v registry.View) bool { return len(endpoints(v, name)) == n }
}
