package registry

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	checkTimeout = time.Second
	checksAtOnce = 16
)

// checker does the checks that the vitals want. Its methods are safe for concurrent use.
type checker struct {
	connect func(context.Context, netip.AddrPort) error
	log     *slog.Logger
	current func() *Snapshot
	tell    func()        // called when there is a new verdict to merge
	wake    chan struct{} // one slot: hosts have changed

	mu     sync.Mutex // guards what follows
	vitals vitals
	looked *Snapshot // what the vitals took last
	look   time.Time // when they take the next; zero: now
	capped bool      // it was told that not everything is checked
}

// newChecker makes the checker of a Catalog.
func newChecker(c *Catalog) *checker {
	k := &checker{
		connect: c.options.Connect, log: c.log, wake: make(chan struct{}, 1), vitals: newVitals(),
		current: func() *Snapshot { s, _ := c.Current(); return s },
		tell:    func() { notify(c.wake) },
	}
	if k.connect == nil {
		k.connect = dial
	}
	return k
}

// dial is the connect check.
func dial(ctx context.Context, at netip.AddrPort) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	return conn.Close()
}

// takeHosts takes in which host has which address; wake is to be filled when that is in the current Snapshot.
func (k *checker) takeHosts(at map[netip.Addr]atHost) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.vitals.takeHosts(at)
	k.looked, k.look = nil, time.Time{}
}

// verdicts are those of the vitals.
func (k *checker) verdicts() (map[netip.AddrPort]*Unreachable, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.vitals.verdicts()
}

// run checks until ctx ends, and waits for the checks under way.
func (k *checker) run(ctx context.Context) {
	var checks sync.WaitGroup
	defer checks.Wait()
	slots := make(chan struct{}, checksAtOnce)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		place, c, wait := k.next(time.Now())
		if c != nil {
			checks.Go(func() {
				k.check(ctx, place, c)
				<-slots
			})
			continue
		}
		<-slots
		timer := (<-chan time.Time)(nil)
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-timer:
		}
	}
}

// next returns a place whose check begins now, or how long there is none; 0: until hosts change.
func (k *checker) next(now time.Time) (place netip.AddrPort, c *checked, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.vitals.suspects) == 0 {
		return place, nil, 0
	}
	if !now.Before(k.look) {
		k.look = now.Add(checkEvery)
		if s := k.current(); s != k.looked {
			k.looked = s
			k.vitals.takeServices(s.Services)
			k.tellCapped()
		}
	}
	place, c = k.vitals.due()
	switch {
	case c == nil:
		return place, nil, max(k.look.Sub(now), 1)
	case now.Before(c.next):
		return place, nil, max(earlier(c.next, k.look).Sub(now), 1)
	}
	c.begin(now.Add(checkEvery*3/4 + rand.N(checkEvery/2)))
	return place, c, 0
}

// tellCapped logs that there is more to check than is checked, once. k.mu is held.
func (k *checker) tellCapped() {
	if beyond := k.vitals.beyond; (beyond > 0) != k.capped {
		if k.capped = beyond > 0; k.capped {
			k.log.Warn("not every endpoint at a dead host is checked: the others stay as their registries say", "checked", mostChecked, "others", beyond)
		}
	}
}

// check checks a place once.
func (k *checker) check(ctx context.Context, place netip.AddrPort, c *checked) {
	attempt, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := k.connect(attempt, place)
	k.mu.Lock()
	defer k.mu.Unlock()
	if ctx.Err() != nil || err != nil && !proves(err) {
		c.underWay = false
		k.log.Debug("connect check says nothing", "address", place, "error", err)
		return
	}
	if !k.vitals.take(time.Now(), place, c, err) {
		return
	}
	if host := k.vitals.suspects[place.Addr()].host; err != nil {
		k.log.Warn("host died and takes no connection: its endpoints there are unhealthy", "host", host, "address", place, "error", err)
	} else {
		k.log.Info("dead host takes connections again: its endpoints there are as their registries say", "host", host, "address", place)
	}
	k.tell()
}

// proves reports whether a failed check is about the place: an error of this machine, which has no file descriptor or no
// route at all, is not.
func proves(err error) bool {
	var timeout net.Error
	for _, of := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, context.DeadlineExceeded} {
		if errors.Is(err, of) {
			return true
		}
	}
	return errors.As(err, &timeout) && timeout.Timeout()
}
