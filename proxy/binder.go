package proxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/chain"
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
	sockets    sockets       // those of others, and who keeps ours
	limits     limits        // of listeners and chains
	bound      watch.Value[map[netip.AddrPort]error]

	mu sync.Mutex
	// sinks are the access logs by path: guarded by mu, changed by the binder alone. They stay open as long as the proxy
	// runs: requests of a removed listener may still finish.
	sinks   map[string]*sink
	addrs   map[config.Address]*binding // guarded by mu; changed by the binder alone
	changes listenerChanges             // guarded by mu
}

// binding is the state of one listening address.
type binding struct {
	addr   config.Address
	served *reception
	bound  bool
	held   []int // sockets on which nothing is accepted yet
	crowd  *crowd
	unit   bool  // the sockets are of a unit of the service manager
	err    error // why it is not bound
}

func (b *binder) init(p *Proxy) {
	*b = binder{p: p, config: &config.Config{}, tables: map[*config.RouteTable]*router.Table{}, sinks: map[string]*sink{}, addrs: map[config.Address]*binding{}, limits: limits{}, drainAsked: make(chan struct{}, 1)}
}

// run takes up configurations until ctx ends. loops is the life of the loops, which is longer: what was begun is finished.
func (b *binder) run(ctx, loops context.Context) {
	retry := time.NewTicker(bindRetry)
	defer retry.Stop()
	start := b.p.opts.Start
	if start == nil {
		b.sockets.started = true
	}
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
		case <-start:
			start = nil
			b.startAccepting(loops)
		case f := <-b.sockets.asked:
			f(loops)
		case <-retry.C:
			b.bindMissing(loops)
			b.settle(loops)
		}
	}
}

// take takes up a configuration, with what is known of the hosts at this time.
func (b *binder) take(ctx context.Context, cfg *config.Config) {
	if cfg != b.given { // what overlay makes of it refers to nothing else; clusters are checked before the loops have them
		b.p.certs.Take(cfg, b.config)
	}
	next, shared, held := b.p.fleet.overlay(cfg, b.config)
	b.given = cfg
	if next != b.config {
		b.update(ctx, next, shared)
	}
	if !held && b.p.life.Load() == stageInitial {
		b.p.life.Set(stageLive)
		b.steer(ctx)
	}
}

// update gives one configuration to the loops.
func (b *binder) update(ctx context.Context, cfg *config.Config, shared map[string]*upstream.Shared) {
	changed := changedClusters(b.config, cfg)
	wanted := b.wanted(cfg)
	b.mu.Lock()
	b.changes.count(b.config.Listeners, cfg.Listeners)
	b.mu.Unlock()
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
func (b *binder) wanted(cfg *config.Config) map[config.Address]*reception {
	wanted := map[config.Address]*reception{}
	known := map[*config.Listener]*reception{}
	chains := map[*config.FilterChain]*served{}
	b.mu.Lock()
	for _, at := range b.addrs {
		known[at.served.cfg] = at.served
		for _, s := range at.served.served {
			chains[s.cfg] = s
		}
	}
	b.mu.Unlock()
	tables := make(map[*config.RouteTable]*router.Table, len(b.tables))
	for _, l := range cfg.Listeners {
		r := known[l]
		if r == nil {
			var err error
			if r, err = b.prepare(l, chains); err != nil {
				b.p.log.Error("listener is not served", "listener", l.Name, "err", err)
				continue
			}
		}
		for _, s := range r.served {
			if s.table != nil {
				tables[s.cfg.HTTP.Routes] = s.table
			}
		}
		for _, addr := range addressesOf(l) {
			if other := wanted[addr]; other != nil && other.cfg != l {
				b.p.log.Error("address is in two listeners", "address", addr, "listener", l.Name, "served", other.cfg.Name)
				continue
			}
			wanted[addr] = r
		}
	}
	b.tables = tables
	b.pruneLimits(wanted)
	return wanted
}

// prepare makes what a listener is served by. Chains that are known are served as they are.
func (b *binder) prepare(l *config.Listener, known map[*config.FilterChain]*served) (*reception, error) {
	whole := l.Whole()
	table, err := chain.New(whole)
	if err != nil {
		return nil, err
	}
	r := &reception{cfg: l, chains: table, single: whole != l, limit: b.limits.get(l.Name, b.p.opts.Overload.MaxListenerConnections[l.Name])}
	_, r.lines = b.logs(l, l.AccessLogs, false)
	for c := range whole.Each() {
		s := known[c]
		if s == nil {
			s = newServed(l.Name, c, b.table(c.HTTP))
			if c.TLS != nil {
				s.tls = b.p.certs.Server(c.TLS)
			}
			s.sinks, s.lines = b.logsOf(l, c)
			s.identify(c == whole.Otherwise)
			s.limit = b.limits.get(l.Name+"\x00"+s.identity.match, chainLimit(c))
		}
		r.served = append(r.served, s)
	}
	return r, nil
}

// table prepares the routes of an HTTP chain; equal ones once.
func (b *binder) table(http *config.HTTP) *router.Table {
	if http == nil {
		return nil
	}
	t := b.tables[http.Routes]
	if t == nil {
		t = router.New(http.Routes)
		b.tables[http.Routes] = t
	}
	return t
}

// drop closes the addresses that are no longer wanted; their connections finish.
func (b *binder) drop(ctx context.Context, wanted map[config.Address]*reception) {
	b.closeAddrs(ctx, func(at *binding) bool { return wanted[at.addr] == nil })
}

// closeAll closes every address.
func (b *binder) closeAll(ctx context.Context) {
	b.unsteer(ctx)
	b.closeAddrs(ctx, func(*binding) bool { return true })
}

func (b *binder) closeAddrs(ctx context.Context, which func(*binding) bool) {
	var addrs []config.Address
	var units []*binding
	b.mu.Lock()
	for addr, at := range b.addrs {
		if !which(at) {
			continue
		}
		switch {
		case at.held != nil:
			b.sockets.putBack(at)
		case at.unit:
			units = append(units, at)
		case at.bound:
			addrs = append(addrs, addr)
		}
		delete(b.addrs, addr)
	}
	b.mu.Unlock()
	b.leaveUnits(ctx, units)
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
	b.sockets.unlink(addrs)
	each(func(a *acceptor) {
		if !a.addr.IsUnix() {
			_ = loop.StopSYN(a.socket.FD())
		}
	})
	time.Sleep(queueTime)
	each(func(a *acceptor) { a.remove() })
	b.p.log.Info("listeners closed", "addresses", addrs)
	b.forget(addrs)
}

// replace returns what bound addresses that stay are to serve from now on, without touching their sockets.
func (b *binder) replace(wanted map[config.Address]*reception) map[config.Address]*reception {
	replaced := map[config.Address]*reception{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for addr, s := range wanted {
		at := b.addrs[addr]
		switch {
		case at == nil:
			b.addrs[addr] = &binding{addr: addr, served: s, crowd: newCrowd(len(b.p.workers))}
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
	if b.drained || b.sockets.lent {
		return
	}
	defer b.tellBound()
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

// bind binds one address, or takes the sockets that there are of it, and gives each loop its own.
func (b *binder) bind(ctx context.Context, at *binding) error {
	fds, err := b.open(ctx, at)
	if err != nil {
		return err
	}
	if !b.sockets.started {
		b.mu.Lock()
		at.held = fds
		b.mu.Unlock()
		return nil
	}
	return b.give(ctx, at, fds)
}

// give has the loops accept on the sockets, one each.
func (b *binder) give(ctx context.Context, at *binding, fds []int) error {
	for _, fd := range fds {
		if err := loop.Begin(fd); err != nil {
			for _, fd := range fds {
				_ = syscall.Close(fd)
			}
			return fmt.Errorf("listen on %s: %w", at.addr, err)
		}
	}
	b.keep(at.addr, at.unit, fds)
	for i, w := range b.p.workers {
		var failed error
		fd := noSocket
		if i < len(fds) {
			fd = fds[i]
		}
		if err := w.loop.Do(ctx, func() { failed = w.listen(at.addr, fd, at.served, at.crowd) }); err != nil {
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

// listeners returns the present state of all addresses, sorted.
func (b *binder) listeners() []binding {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []binding
	for _, addr := range slices.SortedFunc(maps.Keys(b.addrs), config.Address.Compare) {
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
