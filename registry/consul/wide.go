package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	spareConnections = 8           // kept free beside the blocking queries, for second questions
	wideReads        = 16          // services read at a time
	sweepEvery       = time.Minute // all services are read again at least so often
	sweepAtMost      = time.Second // and after a change of the catalog at most so often,
	sweepShare       = 3           // with at most one part in so many of the time spent on it
	checksPath       = "/v1/health/state/any"
	notPassing       = "Status != passing"
)

// wide follows more services than there are connections. Two blocking queries tell that something happened: the list
// of services, whose index moves with every registration anywhere, and the list of all checks that are not passing.
// The second names the services whose checks changed, so these are read again at once. The first names only services
// that are new; for the rest all services are read again, in the background and within bounds.
type wide struct {
	d       *datacenter
	started bool          // of run alone
	urgent  chan struct{} // holds one element when there are names to read at once
	sweep   chan struct{} // holds one element when something unnamed has changed

	mu    sync.Mutex
	names map[string]bool // guarded by mu: to read at once

	seed  maphash.Seed
	locks [64]sync.Mutex // by name: a service is read by one at a time, so that an older answer never comes last
}

// tooMany tells whether that many services need more connections than we may open.
func (d *datacenter) tooMany(services int) bool {
	if d.client.transport.http2.Load() {
		return false
	}
	return services+1 > d.cfg.MaxConnections/len(d.cfg.Datacenters)-spareConnections
}

// widen changes over to wide, for as long as this Watch lasts.
func (d *datacenter) widen(ctx context.Context) error {
	d.log.Info("consul speaks HTTP/1.1 and has more services than connections are allowed; services are read again after a change",
		"datacenter", d.name, "services", len(d.names), "connections", d.cfg.MaxConnections)
	w := &wide{
		d: d, urgent: make(chan struct{}, 1), sweep: make(chan struct{}, 1),
		names: make(map[string]bool), seed: maphash.MakeSeed(),
	}
	for name, f := range d.follows {
		f.cancel()
		delete(d.follows, name)
	}
	// What is not passing is known before the first service is read: a change after that is seen as one.
	var state checkStates
	index, err := w.readChecks(ctx, 0, &state)
	if err != nil {
		return err
	}
	d.wide = w
	d.group.Go(func() error { return w.watchChecks(ctx, index, state) })
	d.group.Go(func() error { return w.readUrgent(ctx) })
	d.group.Go(func() error { return w.sweepAll(ctx) })
	return nil
}

// listed is told of each change of the catalog, with the names that are new.
func (w *wide) listed(added []string) {
	if w.started {
		raise(w.sweep)
	}
	w.started = true // the first time all names are new
	w.read(added...)
}

// read has these services read at once.
func (w *wide) read(names ...string) {
	if len(names) == 0 {
		return
	}
	w.mu.Lock()
	for _, name := range names {
		w.names[name] = true
	}
	w.mu.Unlock()
	raise(w.urgent)
}

func raise(signal chan<- struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// readUrgent reads the services that changed, as they come.
func (w *wide) readUrgent(ctx context.Context) error {
	readers, ctx := errgroup.WithContext(ctx)
	readers.SetLimit(wideReads)
	readers.Go(func() error { return w.dispatch(ctx, readers) })
	return readers.Wait()
}

func (w *wide) dispatch(ctx context.Context, readers *errgroup.Group) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.urgent:
		}
		w.mu.Lock()
		names := slices.Sorted(maps.Keys(w.names))
		clear(w.names)
		w.mu.Unlock()
		for _, name := range names {
			readers.Go(func() error { return w.readService(ctx, name) })
		}
	}
}

// sweepAll reads all services after an unnamed change, and now and then without one.
func (w *wide) sweepAll(ctx context.Context) error {
	var pace sweepPace
	for {
		timer := time.NewTimer(sweepEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-w.sweep:
		case <-timer.C:
		}
		timer.Stop()
		began := time.Now()
		readers, readCtx := errgroup.WithContext(ctx)
		readers.SetLimit(wideReads)
		names := w.d.board.listed(w.d.name)
		for _, name := range names {
			readers.Go(func() error { return w.readService(readCtx, name) })
		}
		if err := readers.Wait(); err != nil {
			return err
		}
		pace.took(time.Since(began))
		if err := pace.rest(ctx, began, names, w.readService); err != nil {
			return err
		}
	}
}

// sweepPace keeps sweeps to their share of the time.
type sweepPace struct {
	usual time.Duration // that a sweep takes; one that a hanging server held up says little about the next
}

func (s *sweepPace) took(d time.Duration) {
	if s.usual == 0 || d < 2*s.usual {
		s.usual = d
	} else {
		s.usual *= 2
	}
}

// rest waits until the next sweep may begin after one of those names. What made the last ones long may be over, a slow
// network for instance; then what changed must not wait for as long as that took. So in a long rest a service is read
// now and then: a sweep takes no longer than reads one after the other.
func (s *sweepPace) rest(ctx context.Context, began time.Time, names []string, read func(context.Context, string) error) error {
	for i := 0; ; i++ {
		left := max(sweepAtMost, sweepShare*s.usual) - time.Since(began)
		if left <= sweepAtMost || len(names) == 0 {
			return sleep(ctx, left)
		}
		if err := sleep(ctx, sweepAtMost); err != nil {
			return err
		}
		asked := time.Now()
		if err := read(ctx, names[i%len(names)]); err != nil {
			return err
		}
		s.usual = min(s.usual, time.Since(asked)*time.Duration(len(names)))
	}
}

func (w *wide) readService(ctx context.Context, name string) error {
	lock := &w.locks[maphash.String(w.seed, name)%uint64(len(w.locks))]
	lock.Lock()
	defer lock.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return w.d.readNow(ctx, name)
}

// checkStates holds the checks that are not passing, each with its status.
type checkStates map[check]string

// readChecks asks for the checks that are not passing and returns the index of the answer. With an answer that has
// nothing new, *state stays as it is.
func (w *wide) readChecks(ctx context.Context, last uint64, state *checkStates) (uint64, error) {
	a, err := w.d.client.get(ctx, query{path: checksPath, filter: notPassing, datacenter: w.d.name, index: last, wait: w.d.cfg.WaitTime})
	if err != nil {
		return 0, err
	}
	if a.filtered && len(w.d.cfg.Services) == 0 {
		return 0, fmt.Errorf("list checks: %w: ACLs hide some; the token needs service:read and node:read for all", registry.ErrPermission)
	}
	if last != 0 && a.index == last {
		return last, nil
	}
	var list []check
	if err := json.Unmarshal(a.body, &list); err != nil {
		return 0, fmt.Errorf("decode list of checks: %w", err)
	}
	*state = make(checkStates, len(list))
	for _, c := range list {
		status := c.Status
		c.Status = ""
		(*state)[c] = status
	}
	return a.index, nil
}

// watchChecks has every service read again of which a check begins to be, or is no more, something but passing.
func (w *wide) watchChecks(ctx context.Context, index uint64, before checkStates) error {
	pace := limiter{perSecond: checksRate}
	last := index
	for {
		now := before
		index, err := w.readChecks(ctx, last, &now)
		if err != nil {
			return err
		}
		w.read(w.affected(before, now)...)
		before, last = now, nextIndex(last, index)
		if err := pace.wait(ctx); err != nil {
			return err
		}
	}
}

// affected returns the services whose health differs between the two; a node's check is one of all its services.
func (w *wide) affected(before, now checkStates) []string {
	names := make(map[string]bool)
	differ := func(x, y checkStates) {
		for c, status := range x {
			if y[c] == status {
				continue
			}
			if c.ServiceName != "" {
				names[c.ServiceName] = true
				continue
			}
			for _, name := range w.d.board.onNode(w.d.name, c.Node) {
				names[name] = true
			}
		}
	}
	differ(before, now)
	differ(now, before)
	maps.DeleteFunc(names, func(name string, _ bool) bool { return !w.d.board.wants(w.d.name, name) })
	return slices.Sorted(maps.Keys(names))
}
