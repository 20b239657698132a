package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// healthyAfter is how long a source must have been synced for its next failure to count as the first.
const healthyAfter = 10 * time.Second

// source runs one registry and keeps what it said last.
type source struct {
	Source
	catalog *Catalog

	mu          sync.Mutex // guards what follows
	raw         []*Service // as the registry published it last
	view        View       // the last good one, mapped, with what the guard keeps: what is served
	mapper      *mapper
	remapped    bool // view is sealed, and its services were chosen or named otherwise
	guard       watchful
	endpoints   int       // in view
	viewed      time.Time // when view was published; zero: there is none
	fromSeal    bool      // view was not published in this process
	fresh       bool      // view was not taken by the merge yet
	unsealed    bool      // view was not sealed yet
	sealed      bool      // there is a sealed view on disk, of this or an earlier process
	call        uint64    // counts the calls of Watch and their ends: a publish of an earlier one is late
	synced      time.Time // when this call of Watch published its first good view; zero before
	err         error     // why the source is not synced
	errText     string    // err as it is shown
	errSince    time.Time
	failures    uint64
	refused     uint64
	nextRetry   time.Time
	sealRefused string
	sealErr     error
}

func newSource(s Source, c *Catalog) (*source, error) {
	mapper, err := newMapper(s.Mapping, s.Name)
	if err != nil {
		return nil, err
	}
	g := watchful{guard: newGuard(s.Guard), released: make(map[string]uint64)}
	return &source{Source: s, catalog: c, mapper: mapper, guard: g}, nil
}

// run calls Watch until ctx ends, after each failure later.
func (s *source) run(ctx context.Context) {
	delay := time.Duration(0)
	for {
		err := s.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		if !s.synced.IsZero() && time.Since(s.synced) >= healthyAfter {
			delay = 0
		}
		delay = min(max(2*delay, s.catalog.options.RetryMin), s.catalog.options.RetryMax)
		wait := delay/2 + rand.N(delay/2+1)
		s.failures++
		s.nextRetry = time.Now().Add(wait)
		s.fail(err)
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// watch calls Watch once. It always returns an error.
func (s *source) watch(ctx context.Context) (err error) {
	s.mu.Lock()
	s.call++
	call := s.call
	s.synced, s.nextRetry = time.Time{}, time.Time{}
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s.catalog.log.Error("registry panicked", "registry", s.Name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("watch panicked: %v", p)
		}
		s.mu.Lock()
		s.call++
		s.guard.fail()
		s.arm()
		s.mu.Unlock()
	}()
	if err := s.Registry.Watch(ctx, func(v View) { s.publish(call, v) }); err != nil {
		return err
	}
	return errors.New("watch ended without an error")
}

// publish takes a view, or refuses it and keeps the last one.
func (s *source) publish(call uint64, v View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if call != s.call {
		return // of a Watch that has returned
	}
	if err := cmp.Or(validateSize(v), validateHosts(v.Hosts), validate(v.Services, s.raw)); err != nil {
		s.refused++
		s.guard.fail()
		s.arm()
		s.fail(fmt.Errorf("view refused: %w", err))
		return
	}
	now := time.Now()
	if s.synced.IsZero() {
		s.synced = now
	}
	if s.err != nil || s.viewed.IsZero() || s.fromSeal {
		s.catalog.log.Info("registry synced", "registry", s.Name, "services", len(v.Services))
	}
	s.err, s.errText, s.errSince = nil, "", time.Time{}
	if s.viewed.IsZero() {
		s.fresh, s.unsealed = true, true // even if it says that there is nothing
		notify(s.catalog.wake)
		notify(s.catalog.sealNow)
	}
	s.raw, s.viewed, s.fromSeal = v.Services, now, false
	problems := v.Problems // without those that the mapping adds: they hide nothing
	v = s.mapper.apply(v)
	if s.remapped { // names that are missing now were never the registry's word
		s.remapped, s.guard.guard = false, newGuard(s.Guard)
		s.catalog.log.Warn("the mapping gives other names than before: nothing of the sealed view is kept for what the registry lacks now", "registry", s.Name)
		s.catalog.doubts.Set(struct{}{})
	}
	if !slices.EqualFunc(s.view.Hosts, v.Hosts, Host.equal) {
		s.fresh, s.unsealed = true, true
		notify(s.catalog.wake)
		notify(s.catalog.sealNow)
	}
	if !sameProblems(s.view.Problems, v.Problems) { // after a restart the guard asks which are new
		s.unsealed = true
		notify(s.catalog.sealNow)
	}
	s.view.Hosts, s.view.Problems = v.Hosts, v.Problems
	s.serve(s.guard.take(now, v.Services, problems))
}

// fail records why the source is not synced. s.mu is held.
func (s *source) fail(err error) {
	text := line(err.Error())
	if s.err == nil {
		s.errSince = time.Now()
	}
	if s.err == nil || s.errText != text {
		s.catalog.log.Warn("registry is not synced, its last view stays", "registry", s.Name, "error", text)
	}
	s.err, s.errText = err, text
}

// take returns the view to merge, and whether it is another than at the last take.
func (s *source) take() (View, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := s.fresh
	s.fresh = false
	return s.view, fresh
}

// taken reports whether the source has a view and the merge has it.
func (s *source) taken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.viewed.IsZero() && !s.fresh
}

func samePointers(a, b []*Service) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func countEndpoints(services []*Service) int {
	n := 0
	for _, s := range services {
		n += len(s.Endpoints)
	}
	return n
}
