package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/takeover"
)

// Keeper keeps listening sockets beyond the life of the process: systemd's FDSTORE.
type Keeper interface {
	Store(name string, fds []int) error
	Forget(name string) error
}

// sockets are the listening sockets that this process did not open itself, as long as no listener has their address, and
// whoever keeps its own. It belongs to the binder.
type sockets struct {
	free    []freeSocket
	units   map[config.Address][]int // copies, so that a listener that comes back finds them
	steered int                      // the socket to which connections to loopback addresses are steered, or noSocket
	started bool                     // connections are accepted
	lent    bool                     // a successor has copies of all, and opens what is new
	settled bool                     // what nobody wanted was closed
	closed  []config.Address         // then; they may be kept still
	remain  bool                     // the files of unix sockets stay: the next process goes on with what is kept
	keeper  Keeper                   // nil: none
	asked   chan func(context.Context)
	log     *slog.Logger
}

// freeSocket is a socket that no listener has.
type freeSocket struct {
	takeover.Socket
	loop.Listening
}

func (s *sockets) init(given []takeover.Socket, log *slog.Logger) {
	s.units, s.asked, s.log = map[config.Address][]int{}, make(chan func(context.Context)), log
	for _, g := range given {
		what, err := loop.Inspect(g.FD)
		if err != nil {
			log.Warn("socket is not used", "err", err)
			_ = syscall.Close(g.FD)
			continue
		}
		s.free = append(s.free, freeSocket{g, what})
	}
	s.steered = noSocket
}

// take returns the free sockets of an address.
func (s *sockets) take(is func(loop.Listening) bool) []freeSocket {
	var found []freeSocket
	s.free = slices.DeleteFunc(s.free, func(f freeSocket) bool {
		if is(f.Listening) {
			found = append(found, f)
			return true
		}
		return false
	})
	return found
}

// takeAdmin returns a free socket as the admin interface wants it, nil if there is none.
func (s *sockets) takeAdmin(is func(loop.Listening) bool) (net.Listener, error) {
	found := s.take(is)
	if len(found) == 0 {
		return nil, nil
	}
	defer func() {
		for _, f := range found {
			_ = syscall.Close(f.FD)
		}
	}()
	fd, err := loop.Duplicate(found[0].FD)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "admin")
	defer file.Close()
	l, err := net.FileListener(file)
	if u, ok := l.(*net.UnixListener); ok && !found[0].Unit {
		u.SetUnlinkOnClose(true)
	}
	return l, err
}

// putBack frees the sockets of a listener that left before it accepted anything.
func (s *sockets) putBack(at *binding) {
	for _, fd := range at.held {
		s.free = append(s.free, freeSocket{takeover.Socket{FD: fd, Unit: at.unit}, loop.Listening{Addr: at.addr.IP, Path: at.addr.Path, Shared: !at.addr.IsUnix()}})
	}
	at.held = nil
}

// close closes what is left.
func (s *sockets) close() {
	for _, f := range s.free {
		_ = syscall.Close(f.FD)
	}
	for _, fds := range s.units {
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
	}
	if s.steered != noSocket {
		_ = syscall.Close(s.steered)
	}
	s.free, s.units, s.steered = nil, nil, noSocket
}

// open returns a socket of the address for each loop: those that others have opened, and new ones.
func (b *binder) open(ctx context.Context, at *binding) ([]int, error) {
	n := len(b.p.workers)
	if b.sockets.isSteered(at.addr) {
		b.mu.Lock()
		at.unit = true // nothing of it is kept or closed
		b.mu.Unlock()
		return []int{}, nil
	}
	found := b.sockets.take(func(l loop.Listening) bool { return addressOfSocket(l) == at.addr })
	if len(found) == 0 {
		if unit := b.sockets.units[at.addr]; len(unit) > 0 {
			b.mu.Lock()
			at.unit = true
			b.mu.Unlock()
			return spread(unit, n)
		}
		return b.listen(at, n)
	}
	var fds []int
	shared, unit := true, false
	for _, f := range found {
		fds = append(fds, f.FD)
		shared = shared && f.Shared
		unit = unit || f.Unit
	}
	b.mu.Lock()
	at.unit = unit
	b.mu.Unlock()
	switch {
	case unit:
		b.sockets.units[at.addr] = fds
		return spread(fds, n)
	case len(fds) > n:
		// There are fewer loops now. What waits in a socket can be had from that socket alone: each is emptied and closed.
		b.empty(ctx, at, fds[n:])
		return fds[:n], nil
	case len(fds) < n && shared:
		more, err := loop.Join(at.addr.IP, n-len(fds))
		if err != nil {
			for _, fd := range fds {
				_ = syscall.Close(fd)
			}
			return nil, err
		}
		return append(fds, more...), nil
	case len(fds) < n:
		copies, err := spread(fds, n)
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
		return copies, err
	}
	return fds, nil
}

// listen opens new sockets.
func (b *binder) listen(at *binding, n int) ([]int, error) {
	if !at.addr.IsUnix() {
		return loop.Listen(at.addr.IP, n)
	}
	// There is one socket at a path: all loops accept from it.
	fd, err := loop.ListenUnix(at.addr.Path, pipeMode(at.served.cfg, at.addr.Path))
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	return spread([]int{fd}, n)
}

// addressOfSocket is where a socket listens.
func addressOfSocket(l loop.Listening) config.Address {
	if l.Path != "" {
		return config.Address{Path: l.Path}
	}
	return config.Address{IP: l.Addr}
}

// unlink removes the files of unix sockets that are closed for good, so that nobody new comes.
func (s *sockets) unlink(addrs []config.Address) {
	for _, addr := range addrs {
		if isFile(addr) && !s.remain {
			_ = os.Remove(addr.Path)
		}
	}
}

// spread makes n descriptors of sockets, one for each loop. Of more sockets than that the last ones are nobody's.
func spread(fds []int, n int) ([]int, error) {
	var copies []int
	for i := range n {
		fd, err := loop.Duplicate(fds[i%len(fds)])
		if err != nil {
			for _, fd := range copies {
				_ = syscall.Close(fd)
			}
			return nil, err
		}
		copies = append(copies, fd)
	}
	return copies, nil
}

// empty has the connections in the queues of surplus sockets served, and the sockets closed, once connections are
// accepted.
func (b *binder) empty(ctx context.Context, at *binding, fds []int) {
	go func() {
		if start := b.p.opts.Start; start != nil {
			select {
			case <-start:
			case <-ctx.Done():
				return
			}
		}
		for _, fd := range fds {
			_ = loop.StopSYN(fd)
		}
		time.Sleep(queueTime)
		for i, fd := range fds {
			w := b.p.workers[i%len(b.p.workers)]
			_ = w.loop.Do(ctx, func() { w.emptySocket(at.addr, fd, at.served, at.crowd) })
		}
	}()
}

// startAccepting has the loops accept on what was prepared, and closes what nobody wants.
func (b *binder) startAccepting(ctx context.Context) {
	b.sockets.started = true
	b.steer(ctx)
	b.mu.Lock()
	all := slices.Collect(maps.Values(b.addrs))
	b.mu.Unlock()
	for _, at := range all {
		if at.held == nil {
			continue
		}
		b.mu.Lock()
		fds := at.held
		at.held = nil
		b.mu.Unlock()
		if err := b.give(ctx, at, fds); err != nil {
			b.p.log.Error("cannot listen, trying again", "listener", at.served.cfg.Name, "address", at.addr, "err", err)
			b.mu.Lock()
			at.bound, at.err = false, err
			b.mu.Unlock()
		}
	}
	b.settle(ctx)
	close(b.p.legacy.accepting)
}

// settle closes the sockets of others that no listener wants, when the configuration is known.
func (b *binder) settle(context.Context) {
	if b.sockets.settled || !b.sockets.started {
		return
	}
	if state, _ := b.p.state(); state != "LIVE" {
		return
	}
	b.sockets.settled = true
	for _, f := range b.sockets.take(func(loop.Listening) bool { return true }) {
		b.p.log.Info("socket is wanted by no listener", "address", f.Addr, "path", f.Path)
		if f.Unit {
			at := addressOfSocket(f.Listening)
			b.sockets.units[at] = append(b.sockets.units[at], f.FD) // its unit's, for a listener to come
			continue
		}
		_ = syscall.Close(f.FD)
		b.sockets.closed = append(b.sockets.closed, addressOfSocket(f.Listening))
	}
	b.forgetClosed()
}

// forgetClosed has the sockets kept no longer that nobody wanted.
func (b *binder) forgetClosed() {
	if b.sockets.keeper == nil {
		return
	}
	slices.SortFunc(b.sockets.closed, config.Address.Compare)
	b.forget(slices.Compact(b.sockets.closed))
	b.sockets.closed = nil
}

// leaveUnits stops accepting on sockets that others keep open. Who connects then waits for the next listener.
func (b *binder) leaveUnits(ctx context.Context, units []*binding) {
	for _, at := range units {
		for _, w := range b.p.workers {
			_ = w.loop.Do(ctx, func() {
				if a := w.acceptors[at.addr]; a != nil {
					a.timer.Stop()
					a.socket.CloseListener()
					a.leave()
				}
			})
		}
	}
}

// KeptPrefix begins the names under which a Keeper keeps listening sockets.
const KeptPrefix = "mesh-proxy-listener-"

// keptName is what a socket is kept under.
func keptName(addr config.Address) string {
	name := []byte(KeptPrefix + addr.String())
	for i, c := range name {
		if c == ':' || c <= ' ' || c >= 0x7f {
			name[i] = '_'
		}
	}
	return string(name)
}

// keep has the sockets of an address kept, if anybody does.
func (b *binder) keep(addr config.Address, unit bool, fds []int) {
	if b.sockets.keeper == nil || unit {
		return
	}
	if err := b.sockets.keeper.Store(keptName(addr), fds); err != nil {
		b.p.log.Warn("sockets are not kept", "address", addr, "err", err)
	}
}

// forget has the sockets of addresses kept no longer.
func (b *binder) forget(addrs []config.Address) {
	if b.sockets.keeper == nil {
		return
	}
	for _, addr := range addrs {
		if err := b.sockets.keeper.Forget(keptName(addr)); err != nil {
			b.p.log.Warn("sockets are kept on", "address", addr, "err", err)
		}
	}
}

// Keep has k keep the listening sockets from now on, those that are there and those to come. nil ends that.
func (p *Proxy) Keep(ctx context.Context, k Keeper) error {
	return p.binder.ask(ctx, func(ctx context.Context) {
		b := &p.binder
		b.sockets.keeper = k
		if k == nil {
			return
		}
		b.forgetClosed()
		for _, at := range b.listeners() {
			for _, w := range p.workers {
				_ = w.loop.Do(ctx, func() {
					if a := w.acceptors[at.addr]; a != nil && a.socket.IsOpen() {
						b.keep(at.addr, at.unit, []int{a.socket.FD()})
					}
				})
			}
		}
	})
}

var errNotRunning = errors.New("the proxy is ending")

// ask has f called on the binder's goroutine.
func (b *binder) ask(ctx context.Context, f func(context.Context)) error {
	done := make(chan struct{})
	select {
	case b.sockets.asked <- func(ctx context.Context) { defer close(done); f(ctx) }:
		<-done
		return nil
	case <-b.p.legacy.unbound:
		return errNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}
