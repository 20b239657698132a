package proxy

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/router"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

const (
	bindRetry = time.Second           // between attempts to bind addresses that failed
	queueTime = 20 * time.Millisecond // for connections under way to reach a listening socket's queue
)

// binder turns configurations into what the loops use: it prepares route tables, opens log files, binds addresses, and
// gives each loop only what changed. It runs on one goroutine; mu guards what the admin interface reads.
type binder struct {
	p      *Proxy
	given  *config.Config // what was taken up last
	config *config.Config // what the fleet has made of it
	tables map[*config.RouteTable]*router.Table
	plans  plans

	drainAsked chan struct{} // by the admin interface
	drained    bool          // addresses were closed for good

	mu sync.Mutex
	// sinks are the access logs by path: guarded by mu, changed by the binder alone. They stay open as long as the proxy
	// runs: requests of a removed listener may still finish.
	sinks map[string]*sink
	addrs map[netip.AddrPort]*binding // guarded by mu; changed by the binder alone
}

// binding is the state of one listening address.
type binding struct {
	addr   netip.AddrPort
	served *served
	bound  bool
	err    error // why it is not bound
}

func (b *binder) init(p *Proxy) {
	*b = binder{p: p, config: &config.Config{}, tables: map[*config.RouteTable]*router.Table{}, sinks: map[string]*sink{}, addrs: map[netip.AddrPort]*binding{}, drainAsked: make(chan struct{}, 1)}
}

// run takes up configurations until ctx ends. loops is the life of the loops, which is longer: what was begun is finished.
func (b *binder) run(ctx, loops context.Context) {
	retry := time.NewTicker(bindRetry)
	defer retry.Stop()
	for {
		cfg, changed := b.p.opts.Config.Get()
		if cfg != nil && cfg != b.given {
			b.take(loops, cfg)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-b.p.fleet.changed:
			if b.given != nil {
				b.take(loops, b.given)
			}
		case <-b.drainAsked:
			b.drained = true
			b.p.life.Set(stageDraining)
			b.p.startDrain(loops)
			b.closeAll(loops)
		case <-retry.C:
			b.bindMissing(loops)
		}
	}
}

// take takes up a configuration, with what is known of the hosts at this time.
func (b *binder) take(ctx context.Context, cfg *config.Config) {
	next, shared, held := b.p.fleet.overlay(cfg, b.config)
	b.given = cfg
	if next != b.config {
		b.update(ctx, next, shared)
	}
	if !held && b.p.life.Load() == stageInitial {
		b.p.life.Set(stageLive)
	}
}

// update gives one configuration to the loops.
func (b *binder) update(ctx context.Context, cfg *config.Config, shared map[string]*upstream.Shared) {
	changed := changedClusters(b.config, cfg)
	wanted := b.wanted(cfg)
	b.config = cfg
	b.plans = b.plans.next(cfg, changed, time.Now())
	plans := b.plans
	b.drop(ctx, wanted)
	replaced := b.replace(wanted)
	for _, w := range b.p.workers {
		// In one step: no request may see the routes of one configuration and the clusters of another.
		_ = w.loop.Do(ctx, func() {
			w.shared, w.plans = shared, plans
			w.update(cfg, changed, replaced)
		})
	}
	b.bindMissing(ctx)
}

// changedClusters names the clusters that are not the same in both.
func changedClusters(old, cfg *config.Config) []string {
	var names []string
	for name, c := range cfg.Clusters {
		if old.Clusters[name] != c {
			names = append(names, name)
		}
	}
	for name := range old.Clusters {
		if cfg.Clusters[name] == nil {
			names = append(names, name)
		}
	}
	return names
}

// wanted prepares what each address is to serve; what did not change keeps its pointer.
func (b *binder) wanted(cfg *config.Config) map[netip.AddrPort]*served {
	wanted := map[netip.AddrPort]*served{}
	known := map[*config.Listener]*served{}
	b.mu.Lock()
	for _, at := range b.addrs {
		known[at.served.cfg] = at.served
	}
	b.mu.Unlock()
	tables := make(map[*config.RouteTable]*router.Table, len(b.tables))
	for _, l := range cfg.Listeners {
		var t *router.Table
		if l.HTTP != nil {
			if t = tables[l.HTTP.Routes]; t == nil {
				if t = b.tables[l.HTTP.Routes]; t == nil {
					t = router.New(l.HTTP.Routes)
				}
				tables[l.HTTP.Routes] = t
			}
		}
		s := known[l]
		if s == nil {
			s = newServed(l, t)
			s.sinks, s.lines = b.logsOf(l)
		}
		for _, addr := range l.Addresses {
			if other := wanted[addr]; other != nil && other.cfg != l {
				b.p.log.Error("address is in two listeners", "address", addr, "listener", l.Name, "served", other.cfg.Name)
				continue
			}
			wanted[addr] = s
		}
	}
	b.tables = tables
	return wanted
}

// drop closes the addresses that are no longer wanted; their connections finish.
func (b *binder) drop(ctx context.Context, wanted map[netip.AddrPort]*served) {
	b.closeAddrs(ctx, func(at *binding) bool { return wanted[at.addr] == nil })
}

// closeAll closes every address.
func (b *binder) closeAll(ctx context.Context) {
	b.closeAddrs(ctx, func(*binding) bool { return true })
}

func (b *binder) closeAddrs(ctx context.Context, which func(*binding) bool) {
	var addrs []netip.AddrPort
	b.mu.Lock()
	for addr, at := range b.addrs {
		if which(at) {
			if at.bound {
				addrs = append(addrs, addr)
			}
			delete(b.addrs, addr)
		}
	}
	b.mu.Unlock()
	if len(addrs) == 0 {
		return
	}
	each := func(f func(a *acceptor)) {
		for _, w := range b.p.workers {
			_ = w.loop.Do(ctx, func() {
				for _, addr := range addrs {
					if a := w.acceptors[addr]; a != nil {
						f(a)
					}
				}
			})
		}
	}
	each(func(a *acceptor) { _ = loop.StopSYN(a.socket.FD()) })
	time.Sleep(queueTime)
	each(func(a *acceptor) { a.remove() })
	b.p.log.Info("listeners closed", "addresses", addrs)
}

// replace returns what bound addresses that stay are to serve from now on, without touching their sockets.
func (b *binder) replace(wanted map[netip.AddrPort]*served) map[netip.AddrPort]*served {
	replaced := map[netip.AddrPort]*served{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for addr, s := range wanted {
		at := b.addrs[addr]
		switch {
		case at == nil:
			b.addrs[addr] = &binding{addr: addr, served: s}
		case at.served != s:
			at.served = s
			if at.bound {
				replaced[addr] = s
			}
		}
	}
	return replaced
}

// bindMissing binds the addresses that are wanted and not bound. One that fails is tried again later; the others serve.
func (b *binder) bindMissing(ctx context.Context) {
	if b.drained {
		return
	}
	b.mu.Lock()
	var missing []*binding
	for _, at := range b.addrs {
		if !at.bound {
			missing = append(missing, at)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(missing, func(x, y *binding) int { return x.addr.Compare(y.addr) })
	for _, at := range missing {
		err := b.bind(ctx, at)
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		first := at.err == nil
		at.bound, at.err = err == nil, err
		b.mu.Unlock()
		switch {
		case err == nil:
			b.p.log.Info("listening", "listener", at.served.cfg.Name, "address", at.addr)
		case first:
			b.p.log.Error("cannot listen, trying again", "listener", at.served.cfg.Name, "address", at.addr, "err", err)
		}
	}
}

// bind binds one address and gives each loop its socket.
func (b *binder) bind(ctx context.Context, at *binding) error {
	fds, err := loop.Listen(at.addr, len(b.p.workers))
	if err != nil {
		return err
	}
	for i, w := range b.p.workers {
		var failed error
		if err := w.loop.Do(ctx, func() { failed = w.listen(at.addr, fds[i], at.served) }); err != nil {
			return err
		}
		if failed == nil {
			continue
		}
		for _, fd := range fds[i+1:] {
			_ = syscall.Close(fd)
		}
		for _, w := range b.p.workers[:i] {
			_ = w.loop.Do(ctx, func() { w.acceptors[at.addr].remove() })
		}
		return failed
	}
	return nil
}

// stopSinks ends all access logs; the loops have flushed.
func (b *binder) stopSinks() {
	for _, s := range b.sinks {
		s.stop()
	}
}

// listeners returns the present state of all addresses, sorted.
func (b *binder) listeners() []binding {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []binding
	for _, addr := range slices.SortedFunc(maps.Keys(b.addrs), netip.AddrPort.Compare) {
		all = append(all, *b.addrs[addr])
	}
	return all
}

// droppedLines counts access-log lines that could not be written.
func (b *binder) droppedLines() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	total := uint64(0)
	for _, s := range b.sinks {
		total += s.dropped.Load()
	}
	return total
}
