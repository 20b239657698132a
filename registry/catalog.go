package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
)

// Source is a Registry under the name that provenance shows.
type Source struct {
	Name     string // unique in its Catalog
	Kind     string // "consul", "file", …: for display, and a sealed view of another kind is not taken
	Registry Registry
	Mapping  Mapping // how its services are taken over
	Guard    Guard   // when its word that endpoints are gone is doubted
}

// Options of a Catalog. The zero Options are usable: nothing is sealed.
type Options struct {
	// StateDir is where views are sealed and the number of the last Snapshot is kept; "" keeps nothing. A directory
	// that cannot be written is told in SourceStatus and the log; serving goes on.
	StateDir string
	// Interval is the least time between two Snapshots; the first change after quiet goes out at once. Default 50 ms.
	Interval time.Duration
	// SealEvery is the least time between two sealings; it is more where one takes long, so that sealing is a twentieth of
	// the time at most. Default 5 s.
	SealEvery time.Duration
	// Grace is how long after the start of Run readiness waits for a source that has not spoken. Default 10 s.
	Grace time.Duration
	// RetryMin and RetryMax bound the time until a failed Watch is called again; it doubles from the one to the other,
	// with jitter of a half. Defaults 200 ms and 1 s.
	RetryMin, RetryMax time.Duration
	// Rules say how the sources' views make one service; a rule that names no source of the Catalog is refused.
	Rules Rules
	// Connect says whether a TCP connection can be made, within ctx: the check of what others report at the address of a
	// host that died, see Unreachable. Default: it is made, by net.Dialer, and closed.
	Connect func(ctx context.Context, at netip.AddrPort) error
	// Log gets what happens to sources. Default: nothing is logged.
	Log *slog.Logger
}

// Catalog runs registries and merges what they said last. All methods are safe for concurrent use.
type Catalog struct {
	options  Options
	log      *slog.Logger
	sources  []*source // in configured order
	snapshot *watch.Value[*Snapshot]
	settled  chan struct{}         // closed by settle
	wake     chan struct{}         // one slot: a source has a new view
	sealNow  chan struct{}         // one slot: a view is to be sealed
	doubts   watch.Value[struct{}] // set when what is doubted changes

	checker *checker
	merger  *merger  // belongs to Run (and NewCatalog before it)
	numbers *numbers // belongs to Run

	renumber atomic.Bool // somebody wants a new number

	mu        sync.Mutex
	started   time.Time // guarded by mu; when Run began, zero before
	nextRules *Rules    // guarded by mu; what the merge has not taken yet
}

// NewCatalog returns a Catalog of these sources, whose order is their precedence. It reads what StateDir holds, so
// Current serves the sealed views at once; what cannot be taken is refused with the reason, see SourceStatus. It fails
// only on sources and options that make no sense.
func NewCatalog(sources []Source, options Options) (*Catalog, error) {
	if err := check(sources, options); err != nil {
		return nil, fmt.Errorf("make catalog: %w", err)
	}
	options.Interval = cmp.Or(options.Interval, 50*time.Millisecond)
	options.SealEvery = cmp.Or(options.SealEvery, 5*time.Second)
	options.Grace = cmp.Or(options.Grace, 10*time.Second)
	options.RetryMin = cmp.Or(options.RetryMin, 200*time.Millisecond)
	options.RetryMax = max(cmp.Or(options.RetryMax, time.Second), options.RetryMin)
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	c := &Catalog{
		options: options,
		log:     options.Log,
		settled: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		sealNow: make(chan struct{}, 1),
	}
	if options.StateDir != "" {
		if err := os.MkdirAll(options.StateDir, 0o700); err != nil {
			c.log.Error("no state can be kept", "error", err)
		}
		removeHalfWritten(options.StateDir)
	}
	c.numbers = loadNumbers(options.StateDir, c.log)
	var names []string
	for _, s := range sources {
		source, err := newSource(s, c)
		if err != nil {
			return nil, fmt.Errorf("make catalog: %w", err)
		}
		names = append(names, s.Name)
		c.sources = append(c.sources, source)
	}
	c.merger = newMerger(names, options.Rules)
	c.checker = newChecker(c)
	for i, s := range c.sources {
		s.load()
		c.merger.setHosts(i, s.view.Hosts)
		c.merger.set(i, s.view.Services)
	}
	c.checker.takeHosts(c.merger.at)
	services, _ := c.merger.merge()
	c.snapshot = watch.New(&Snapshot{Number: c.numbers.next(), Services: services, Hosts: c.merger.known})
	c.settle(false)
	return c, nil
}

func check(sources []Source, o Options) error {
	var errs []error
	seen := make(map[string]bool)
	var names []string
	for i, s := range sources {
		names = append(names, s.Name)
		switch {
		case s.Name == "":
			errs = append(errs, fmt.Errorf("source %d has no name", i+1))
		case seen[s.Name]:
			errs = append(errs, fmt.Errorf("source %q: there are two of that name", s.Name))
		case s.Registry == nil:
			errs = append(errs, fmt.Errorf("source %q has no registry", s.Name))
		}
		if err := s.Guard.check(); err != nil {
			errs = append(errs, fmt.Errorf("source %q: %w", s.Name, err))
		}
		if err := s.Mapping.check(); err != nil {
			errs = append(errs, fmt.Errorf("source %q: %w", s.Name, err))
		}
		seen[s.Name] = true
	}
	for _, d := range []time.Duration{o.Interval, o.SealEvery, o.Grace, o.RetryMin, o.RetryMax} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("negative duration %v", d))
		}
	}
	if err := o.Rules.check(names); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Current returns the latest Snapshot, never nil, and a channel that is closed when there is a later one.
func (c *Catalog) Current() (*Snapshot, <-chan struct{}) { return c.snapshot.Get() }

// Settled returns a channel that is closed when Current is the whole: every source has a view, of this process or a
// sealed one, or the grace of those that have none has ended. Before that what is missing in Current is not known to be
// gone, so nobody should be told so.
func (c *Catalog) Settled() <-chan struct{} { return c.settled }

// settle closes settled if it is time to. It is called by NewCatalog, then by Run's goroutine alone.
func (c *Catalog) settle(graceEnded bool) {
	select {
	case <-c.settled:
		return
	default:
	}
	for _, s := range c.sources {
		if !graceEnded && !s.taken() {
			return
		}
	}
	close(c.settled)
}

// Run watches all sources until ctx ends, and seals their last views before it returns. It is called once; its
// error is that of ctx.
func (c *Catalog) Run(ctx context.Context) error {
	c.mu.Lock()
	if !c.started.IsZero() {
		c.mu.Unlock()
		return errors.New("run catalog: it has been run before")
	}
	c.started = time.Now()
	c.mu.Unlock()

	var watching, sealing sync.WaitGroup
	for _, s := range c.sources {
		watching.Go(func() { s.run(ctx) })
	}
	watching.Go(func() { c.checker.run(ctx) })
	stopSealing := make(chan struct{})
	if c.options.StateDir != "" {
		sealing.Go(func() { c.sealViews(stopSealing) })
	}
	c.mergeViews(ctx)
	watching.Wait()
	close(stopSealing)
	sealing.Wait()
	c.numbers.close()
	return ctx.Err()
}

// mergeViews makes a Snapshot of what is new: at once after quiet, at most one per Interval else.
func (c *Catalog) mergeViews(ctx context.Context) {
	grace := time.NewTimer(c.options.Grace)
	defer grace.Stop()
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	wake := (<-chan struct{})(nil) // c.wake while it is quiet
	for {
		select {
		case <-ctx.Done():
			return
		case <-grace.C:
			c.settle(true)
		case <-quiet.C:
			wake = c.wake
		case <-wake:
			wake = nil
			if c.mergeOnce() {
				quiet.Reset(c.options.Interval)
			} else {
				quiet.Reset(0)
			}
			c.settle(false)
		}
	}
}

// Renumber has a Snapshot published soon that has a new number, if nothing else in it is new. It does not block.
func (c *Catalog) Renumber() {
	c.renumber.Store(true)
	notify(c.wake)
}

// mergeOnce publishes a Snapshot if the sources' views make one that differs.
func (c *Catalog) mergeOnce() bool {
	if rules := c.takeRules(); rules != nil {
		c.merger.setRules(*rules)
	}
	moved := false
	for i, s := range c.sources {
		if view, fresh := s.take(); fresh {
			moved = c.merger.setHosts(i, view.Hosts) || moved
			c.merger.set(i, view.Services)
		}
	}
	if moved {
		c.checker.takeHosts(c.merger.at)
		defer notify(c.checker.wake)
	}
	if verdicts, fresh := c.checker.verdicts(); fresh {
		c.merger.setVitals(verdicts)
	}
	services, changed := c.merger.merge()
	if again := c.renumber.Swap(false); !changed && !moved && !again {
		return false
	}
	c.snapshot.Set(&Snapshot{Number: c.numbers.next(), Services: services, Hosts: c.merger.known})
	return true
}

// sealViews seals what changed, at most every SealEvery, and once more on stop. What was never sealed is at once: a
// crash should find something.
func (c *Catalog) sealViews(stop <-chan struct{}) {
	took := time.Duration(0) // by the last sealing
	for stopped := false; !stopped; {
		select {
		case <-stop:
			stopped = true
		case <-c.sealNow:
			select {
			case <-stop:
				stopped = true
			case <-time.After(c.sealDelay(took)):
			}
		}
		began := time.Now()
		for _, s := range c.sources {
			if err := s.seal(); err != nil && !stopped {
				notify(c.sealNow) // again after SealEvery
			}
		}
		took = time.Since(began)
	}
}

// sealDelay says how long to wait with a sealing when the last one took so long.
func (c *Catalog) sealDelay(took time.Duration) time.Duration {
	for _, s := range c.sources {
		if s.neverSealed() {
			return 0
		}
	}
	return max(c.options.SealEvery, min(19*took, time.Minute)) // a disk that hung is no reason to wait long
}

// Ready reports whether every source has published a view since the start, or its grace has ended. The reason names
// the sources that have not; it may be there although the Catalog is ready.
func (c *Catalog) Ready() (ready bool, reason string) {
	c.mu.Lock()
	started := c.started
	c.mu.Unlock()
	graceEnded := !started.IsZero() && time.Since(started) >= c.options.Grace
	ready = true
	for _, s := range c.sources {
		if spoken, why := s.spoken(); !spoken {
			ready = ready && graceEnded
			if reason != "" {
				reason += "; "
			}
			reason += why
		}
	}
	if reason != "" && graceEnded {
		reason += fmt.Sprintf(" (grace of %v has ended)", c.options.Grace)
	}
	if started.IsZero() {
		return false, "the catalog is not running"
	}
	return ready, reason
}

// notify fills a channel of one slot; it never blocks.
func notify(slot chan<- struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}
