package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hostmesh/hostmesh/registry"
)

// watchFunc is a registry in this process: the truth is what the test publishes.
type watchFunc func(ctx context.Context, publish func(registry.View)) error

func (f watchFunc) Watch(ctx context.Context, publish func(registry.View)) error {
	return f(ctx, publish)
}

// script is a registry whose Watch does what the test sends it, one step after the other.
type script chan func(publish func(registry.View)) error

func (s script) Watch(ctx context.Context, publish func(registry.View)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case step := <-s:
			if err := step(publish); err != nil {
				return err
			}
		}
	}
}

func (s script) publish(v registry.View) {
	s <- func(publish func(registry.View)) error { publish(v); return nil }
}

func (s script) fail(err error) { s <- func(func(registry.View)) error { return err } }

// source makes a Source without a guard: its word is taken at once.
func source(name string, r registry.Registry) registry.Source {
	return registry.Source{Name: name, Kind: "script", Registry: r, Guard: registry.Guard{Off: true}}
}

// view makes a view of services by name, each with n endpoints.
func view(n int, names ...string) registry.View {
	var v registry.View
	for _, name := range names {
		s := &registry.Service{
			Name:  registry.Name{Namespace: registry.DefaultNamespace, Name: name},
			Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
		}
		for i := range n {
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{
				ID: fmt.Sprintf("%s-%d", name, i), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
				Ports: []registry.EndpointPort{{Number: 8080}}, Weight: 1, Labels: map[string]string{"version": "v1"},
			})
		}
		v.Services = append(v.Services, s)
	}
	return v
}

func newCatalog(t *testing.T, o registry.Options, sources ...registry.Source) *registry.Catalog {
	t.Helper()
	c, err := registry.NewCatalog(sources, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs a catalog and returns what stops it and waits for its end.
func start(t *testing.T, c *registry.Catalog) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v, want that its context was cancelled", err)
		}
	}
}

func current(c *registry.Catalog) *registry.Snapshot {
	s, _ := c.Current()
	return s
}

func count(c *registry.Catalog) (services, endpoints int) {
	for _, s := range current(c).Services {
		services++
		endpoints += len(s.Endpoints)
	}
	return
}

func TestFirstChangeGoesOutAtOnceThenOneAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := make(script)
		c := newCatalog(t, registry.Options{Interval: time.Second}, source("a", a))
		defer start(t, c)()
		zero := current(c)
		if zero == nil || zero.Number < uint64(time.Now().Unix()) || len(zero.Services) != 0 {
			t.Fatalf("before the first view: %+v, want an empty snapshot with a number from the time", zero)
		}

		_, changed := c.Current()
		began := time.Now()
		a.publish(view(1, "web"))
		<-changed
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the first change waited %v", waited)
		}
		first := current(c)
		if first.Number <= zero.Number {
			t.Errorf("number %d after %d", first.Number, zero.Number)
		}

		_, changed = c.Current()
		for n := 2; n <= 5; n++ {
			a.publish(view(n, "web"))
			time.Sleep(100 * time.Millisecond)
		}
		<-changed
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("the next snapshot came %v after the first, want the interval of 1s", waited)
		}
		if _, n := count(c); n != 5 || current(c).Number != first.Number+1 {
			t.Errorf("%d endpoints under number %d: want one snapshot with the last of the views", n, current(c).Number-first.Number)
		}

		// Nothing changes: no snapshot.
		last := current(c)
		for range 3 {
			a.publish(view(5, "web"))
			time.Sleep(2 * time.Second)
		}
		if current(c) != last {
			t.Error("views that say the same made a new snapshot")
		}
		began = time.Now()
		_, changed = c.Current()
		a.publish(view(1, "web"))
		<-changed
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a change after quiet waited %v", waited)
		}
	})
}

func TestFailingSourceIsRetriedAndKeepsItsView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := make(script), make(script)
		c := newCatalog(t, registry.Options{RetryMin: time.Second, RetryMax: 8 * time.Second}, source("a", a), source("b", b))
		defer start(t, c)()
		a.publish(view(2, "web"))
		b.publish(view(1, "api"))
		time.Sleep(time.Second)
		if s := c.Sources()[0]; s.State != registry.Synced || s.Services != 1 || s.Endpoints != 2 || s.Error != "" || s.LastView.IsZero() || s.Name != "a" || s.Kind != "script" {
			t.Errorf("status %+v, want synced", s)
		}

		began := time.Now()
		for i, upTo := range []time.Duration{1, 2, 4, 8, 8, 8} {
			a.fail(errors.New("connection refused"))
			synctest.Wait()
			s := c.Sources()[0]
			wait := time.Until(s.NextRetry)
			if upTo *= time.Second; wait < upTo/2 || wait > upTo {
				t.Errorf("retry %d is in %v, want between %v and %v", i+1, wait, upTo/2, upTo)
			}
			if s.State != registry.Stale || s.Error != "connection refused" || !s.ErrorSince.Equal(began) || s.Failures != uint64(i+1) {
				t.Errorf("status %+v, want stale since %v after %d failures", s, began, i+1)
			}
			time.Sleep(wait)
		}
		if services, endpoints := count(c); services != 2 || endpoints != 3 {
			t.Errorf("%d services, %d endpoints while a is away, want its last view", services, endpoints)
		}
		if other := c.Sources()[1]; other.State != registry.Synced {
			t.Errorf("the other source is %s", other.State)
		}

		// It comes back, says the same under new pointers, and a healthy time makes its next failure the first again.
		last := current(c)
		a.publish(view(2, "web"))
		time.Sleep(20 * time.Second)
		if s := c.Sources()[0]; s.State != registry.Synced || s.Error != "" || !s.ErrorSince.IsZero() || !s.NextRetry.IsZero() {
			t.Errorf("status %+v, want synced", s)
		}
		if current(c) != last {
			t.Error("a source that came back with the same view made a new snapshot")
		}
		a.fail(errors.New("again"))
		synctest.Wait()
		if wait := time.Until(c.Sources()[0].NextRetry); wait > time.Second {
			t.Errorf("the first retry after a healthy time is in %v, want at most 1s", wait)
		}
	})
}

func TestPermissionLostIsDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := make(script)
		c := newCatalog(t, registry.Options{}, source("a", a))
		defer start(t, c)()
		a.publish(view(2, "web"))
		a.fail(fmt.Errorf("read services: %w", registry.ErrPermission))
		time.Sleep(10 * time.Second)
		if s := c.Sources()[0]; s.State != registry.Denied || !strings.Contains(s.Error, "permission lost") {
			t.Errorf("status %+v, want denied", s)
		}
		if services, endpoints := count(c); services != 1 || endpoints != 2 {
			t.Errorf("%d services, %d endpoints without permission, want the last view", services, endpoints)
		}
		a.publish(view(1, "web"))
		synctest.Wait()
		if s := c.Sources()[0]; s.State != registry.Synced {
			t.Errorf("status %+v, want synced", s)
		}
	})
}

func TestNonsenseIsRefusedAndTheLastViewStays(t *testing.T) {
	for _, c := range []struct {
		name string
		step func(publish func(registry.View)) error
		want string
	}{
		{"unsorted", func(publish func(registry.View)) error { publish(view(1, "web", "api")); return nil }, "view refused: service default/api: after default/web"},
		{"twice", func(publish func(registry.View)) error { publish(view(1, "web", "web")); return nil }, "reported twice"},
		{"nil service", func(publish func(registry.View)) error {
			publish(registry.View{Services: []*registry.Service{nil}})
			return nil
		}, "service 1 of 1 is nil"},
		{"no address", func(publish func(registry.View)) error {
			v := view(1, "web")
			v.Services[0].Endpoints[0].Addr = netip.Addr{}
			publish(v)
			return nil
		}, "no address"},
		{"too large", func(publish func(registry.View)) error {
			v := view(1, "web")
			v.Services[0].Endpoints = slices.Repeat(v.Services[0].Endpoints, 1_000_000)
			publish(v)
			return nil
		}, "view refused: 1000001 services and endpoints: want at most 1000000"},
		{"an answer of many lines", func(func(registry.View)) error {
			return errors.New("got <html>\n\x1b[2J\xff" + strings.Repeat("é", 4000))
		}, `got <html>\n\x1b[2J\xffé`},
		{"panic", func(func(registry.View)) error { panic("at the disco") }, "watch panicked: at the disco"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := make(script)
				catalog := newCatalog(t, registry.Options{}, source("a", a))
				defer start(t, catalog)()
				a.publish(view(3, "web"))
				time.Sleep(time.Second)
				last := current(catalog)
				a <- c.step
				time.Sleep(time.Second)
				if s := catalog.Sources()[0]; s.State != registry.Stale || !strings.Contains(s.Error, c.want) || s.Failures+s.RefusedViews != 1 {
					t.Errorf("status %+v, want stale with %q", s, c.want)
				}
				if s := catalog.Sources()[0].Error; len(s) > 1100 || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
					t.Errorf("the error has %d bytes, want one short line: %q", len(s), s)
				}
				if current(catalog) != last {
					t.Error("nonsense made a snapshot")
				}
				a.publish(view(2, "web"))
				time.Sleep(time.Second)
				if _, n := count(catalog); n != 2 || catalog.Sources()[0].State != registry.Synced {
					t.Errorf("%d endpoints, %+v: want the good view after the bad", n, catalog.Sources()[0])
				}
			})
		})
	}
}

func TestWatchThatEndsWithoutAnErrorIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late func(registry.View)
		r := watchFunc(func(_ context.Context, publish func(registry.View)) error {
			if late == nil {
				late = publish
			}
			publish(view(1, "web"))
			return nil
		})
		c := newCatalog(t, registry.Options{}, source("a", r))
		defer start(t, c)()
		synctest.Wait()
		if s := c.Sources()[0]; s.State != registry.Stale || s.Error != "watch ended without an error" {
			t.Errorf("status %+v", s)
		}
		late(view(5, "late"))
		if s := c.Sources()[0]; s.Endpoints != 1 || s.State != registry.Stale {
			t.Errorf("status %+v: what is published after Watch returned was taken", s)
		}
	})
}

func TestReadyWhenAllHaveSpokenOrGraceEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := make(script), make(script)
		c := newCatalog(t, registry.Options{Grace: 30 * time.Second, RetryMax: time.Second}, source("a", a), source("b", b))
		if ready, reason := c.Ready(); ready || reason != "the catalog is not running" {
			t.Errorf("before Run: %v, %q", ready, reason)
		}
		defer start(t, c)()
		a.publish(view(1, "web"))
		b.fail(errors.New("connection refused"))
		time.Sleep(2 * time.Second)
		if ready, reason := c.Ready(); ready || reason != "registry b has not spoken yet: connection refused" {
			t.Errorf("one has not spoken: %v, %q", ready, reason)
		}
		time.Sleep(28 * time.Second)
		if ready, reason := c.Ready(); !ready || !strings.Contains(reason, "grace of 30s has ended") {
			t.Errorf("after the grace: %v, %q", ready, reason)
		}
		b.publish(registry.View{Problems: []registry.Problem{{Object: "x", Reason: "y"}}})
		synctest.Wait()
		if ready, reason := c.Ready(); !ready || reason != "" {
			t.Errorf("all have spoken: %v, %q", ready, reason)
		}
		if s := c.Sources()[1]; len(s.Problems) != 1 || s.State != registry.Synced {
			t.Errorf("status %+v, want the problem in it", s)
		}
	})
}

func TestNewCatalogRefusesSenselessSources(t *testing.T) {
	r := make(script)
	_, err := registry.NewCatalog([]registry.Source{source("a", r), source("a", r), source("", r), source("b", nil)}, registry.Options{Grace: -1})
	for _, want := range []string{`source "a": there are two`, "source 3 has no name", `source "b" has no registry`, "negative duration"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestReadersRaceWithSources(t *testing.T) {
	var sources []registry.Source
	for _, name := range []string{"a", "b", "c"} {
		sources = append(sources, source(name, watchFunc(func(ctx context.Context, publish func(registry.View)) error {
			for n := 0; n < 200 && ctx.Err() == nil; n++ {
				publish(view(n%7+1, "api", "web"))
			}
			return errors.New("enough")
		})))
	}
	c := newCatalog(t, registry.Options{StateDir: t.TempDir(), Interval: time.Millisecond, SealEvery: time.Millisecond, RetryMin: time.Millisecond, RetryMax: time.Millisecond}, sources...)
	stop := start(t, c)
	var last uint64
	for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		s, _ := c.Current()
		if s.Number < last {
			t.Fatalf("number %d after %d", s.Number, last)
		}
		last = s.Number
		if err := (registry.View{Services: s.Services}).Validate(); err != nil {
			t.Fatal(err)
		}
		c.Sources()
		c.Ready()
	}
	stop()
	if s := current(c); len(s.Services) != 2 {
		t.Errorf("%d services at the end, want 2", len(s.Services))
	}
}
