package proxy

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/preamble"
	"github.com/hostmesh/hostmesh/proxy/takeover"
)

const passEvery = 50 * time.Millisecond // between looks for connections that became idle

// legacy is what a proxy has to do with the process before it, and with the one after it.
type legacy struct {
	accepting chan struct{} // closed when connections are accepted after Options.Start
	unbound   chan struct{} // closed when the binder has ended
	hurry     chan struct{} // closed when the drain has to end soon
	once      sync.Once     // of hurry

	// heir is where to connections go, nil if there is none. Set by the binder's goroutine, and then Run's.
	heir   Successor
	handed bool
	passed time.Time

	moved, adopted, refused atomic.Uint64 // connections
	next                    atomic.Uint32 // worker that gets a connection
}

func (g *legacy) init() {
	g.accepting, g.unbound, g.hurry = make(chan struct{}), make(chan struct{}), make(chan struct{})
}

// Successor is the process that a proxy has handed over to.
type Successor interface {
	// Move sends it connections, whose descriptors are closed here.
	Move([]takeover.Connection) error
	// Draining tells it how many are left.
	Draining(remaining int) error
}

// Sockets returns copies of all listening sockets for a successor; they are the caller's. Addresses that come into the configuration from
// now on are the successor's to open: who opened them here would stand in its way. HandOver, or Reclaim if there is no successor, is to
// follow.
func (p *Proxy) Sockets(ctx context.Context) ([]takeover.Socket, error) {
	var all []takeover.Socket
	err := p.binder.ask(ctx, func(ctx context.Context) {
		p.binder.sockets.lent = true
		put := func(fd int, unit bool) {
			if own, err := loop.Duplicate(fd); err == nil {
				all = append(all, takeover.Socket{FD: own, Unit: unit})
			} else {
				p.log.Error("socket is not handed over", "err", err)
			}
		}
		for _, w := range p.workers {
			_ = w.loop.Do(ctx, func() {
				for addr, a := range w.acceptors {
					if _, unit := p.binder.sockets.units[addr]; !unit && a.socket.IsOpen() {
						put(a.socket.FD(), false)
					}
				}
			})
		}
		for _, fds := range p.binder.sockets.units {
			for _, fd := range fds {
				put(fd, true)
			}
		}
		if fd := p.binder.sockets.steered; fd != noSocket {
			put(fd, true)
		}
		for _, f := range p.binder.sockets.free {
			put(f.FD, f.Unit)
		}
		p.admin.sockets(func(fd int) { put(fd, false) })
	})
	return all, err
}

// Reclaim goes on after Sockets when no successor has taken over: addresses are opened here again.
func (p *Proxy) Reclaim(ctx context.Context) error {
	return p.binder.ask(ctx, func(ctx context.Context) {
		p.binder.sockets.lent = false
		p.binder.bindMissing(ctx)
	})
}

// Addresses are those that are listened on, as text.
func (p *Proxy) Addresses() []string {
	var all []string
	for _, at := range p.binder.listeners() {
		if at.bound {
			all = append(all, at.addr.String())
		}
	}
	return all
}

// State is how ready the proxy is, in the words of the admin interface's /ready.
func (p *Proxy) State() (state, reason string) { return p.state() }

// Accepting is closed when connections are accepted, in a proxy with Options.Start.
func (p *Proxy) Accepting() <-chan struct{} { return p.legacy.accepting }

// HandOver lets go of what a successor serves: the listening sockets at the given addresses and the admin interface. Other
// listeners are closed as if they had been removed. Connections that are idle, now or later, go to the successor. Then
// Run's context is to be ended; the drain may last for HandedOverTime.
func (p *Proxy) HandOver(ctx context.Context, addresses []string, to Successor) error {
	return p.binder.ask(ctx, func(ctx context.Context) {
		b := &p.binder
		b.sockets.keeper = nil // the successor's
		b.drained = true
		p.life.Set(stageDraining)
		p.admin.cede()
		b.unsteer(ctx)
		b.cede(ctx, addresses)
		p.startDrain(ctx)
		p.legacy.heir, p.legacy.handed = to, true
		p.legacy.pass(ctx, p)
		b.closeAll(ctx)
	})
}

// Hurry has a drain after HandOver end within DrainTime.
func (p *Proxy) Hurry() { p.legacy.once.Do(func() { close(p.legacy.hurry) }) }

// drainLimit is how long the connections may go on.
func (p *Proxy) drainLimit() time.Duration {
	if p.legacy.handed {
		return p.opts.HandedOverTime
	}
	return p.opts.DrainTime
}

// cede closes the sockets at addresses and leaves what waits in them to those who have them as well.
func (b *binder) cede(ctx context.Context, addresses []string) {
	var ceded []config.Address
	b.mu.Lock()
	for addr := range b.addrs {
		if slices.Contains(addresses, addr.String()) {
			ceded = append(ceded, addr)
			delete(b.addrs, addr)
		}
	}
	b.mu.Unlock()
	for _, w := range b.p.workers {
		_ = w.loop.Do(ctx, func() {
			w.draining = true
			for _, addr := range ceded {
				if a := w.acceptors[addr]; a != nil {
					a.cede()
				}
			}
		})
	}
}

// cede closes the socket and keeps the connections until they end, or are idle and can go.
func (a *acceptor) cede() {
	a.timer.Stop()
	a.socket.CloseListener()
	a.removed, a.ceded = true, true
	for _, b := range a.branches {
		b.gone = true
		for d := b.clients.next; d != &b.clients; {
			next := d.next
			if c, ok := d.owner.(*client); !ok || !c.Plain() {
				d.owner.drain() // it cannot go
			}
			d = next
		}
	}
	delete(a.w.acceptors, a.addr)
	a.w.leaving = append(a.w.leaving, a)
	if a.active == 0 {
		a.w.dropAcceptor(a)
	}
}

// pass sends the successor what can go. It is called often.
func (g *legacy) pass(ctx context.Context, p *Proxy) {
	if g.heir == nil || time.Since(g.passed) < passEvery {
		return
	}
	g.passed = time.Now()
	var idle []takeover.Connection
	remaining := 0
	for _, w := range p.workers {
		_ = w.loop.Do(ctx, func() { remaining += w.connections() })
	}
	err := g.heir.Draining(remaining) // who does not hear that gets no connection either
	if err == nil {
		for _, w := range p.workers {
			_ = w.loop.Do(ctx, func() { idle = w.takeIdle(idle) })
		}
		if err = g.heir.Move(idle); err == nil {
			g.moved.Add(uint64(len(idle)))
		}
	}
	if err != nil {
		p.log.Warn("successor takes no connections", "err", err, "closed", len(idle))
		g.heir = nil
		for _, w := range p.workers {
			_ = w.loop.Do(ctx, w.drainCeded)
		}
	}
}

// takeIdle takes the connections that wait for a request off the loop and appends them to out.
func (w *worker) takeIdle(out []takeover.Connection) []takeover.Connection {
	for _, a := range slices.Clone(w.leaving) {
		if !a.ceded {
			continue
		}
		for _, b := range a.branches {
			for d := b.clients.next; d != &b.clients; {
				next := d.next
				if c, ok := d.owner.(*client); ok && c.movable() {
					out = append(out, c.take())
				}
				d = next
			}
		}
	}
	return out
}

// drainCeded lets idle connections end that cannot go.
func (w *worker) drainCeded() {
	for _, a := range w.leaving {
		if a.ceded {
			a.drainClients()
		}
	}
}

// movable reports whether nothing is known of the connection here but what a Connection says. One in TLS has its keys.
func (c *client) movable() bool {
	return c.phase == phaseIdle && c.IsOpen() && c.Plain() && !c.closing && !c.hup && !c.over && !c.dirty && !c.dead && c.x == nil && len(c.in) == 0 && len(c.out) == 0
}

// take gives the connection up.
func (c *client) take() takeover.Connection {
	moved := takeover.Connection{Listener: c.a.addr.String(), Peer: c.peer, Fresh: c.auto}
	if c.via != nil {
		moved.Direct, moved.Local = c.via.direct, c.via.local
	}
	c.timer.Stop()
	c.life.stop()
	c.w.loop.Release(c.in)
	c.w.loop.Release(c.out)
	c.in, c.out = nil, nil
	moved.FD = c.Detach()
	c.a.forget(&c.downstream)
	return moved
}

// Adopt serves connections of a predecessor. Those that no listener of this proxy has are closed.
func (p *Proxy) Adopt(ctx context.Context, all []takeover.Connection) {
	for _, c := range all {
		w := p.workers[int(p.legacy.next.Add(1))%len(p.workers)]
		served := false
		if err := w.loop.Do(ctx, func() { served = w.adopt(c) }); err != nil || !served {
			p.legacy.refused.Add(1)
			continue
		}
		p.legacy.adopted.Add(1)
	}
}

func (w *worker) adopt(c takeover.Connection) bool {
	addr, ok := parseAddress(c.Listener)
	a := w.acceptors[addr]
	if !ok || a == nil {
		_ = syscall.Close(c.FD)
		return false
	}
	in := arrival{fd: c.FD, peer: c.Peer, protocol: config.ProtocolHTTP1}
	if c.Fresh {
		in.protocol = config.ProtocolAuto
	}
	if c.Direct.IsValid() {
		in.via = &proxied{direct: c.Direct, local: c.Local}
	}
	if a.reception.cfg.Filters.InspectHTTP {
		in.inspect.hello.Protocols = []string{preamble.HTTP11}
	}
	w.global.force(1)
	a.reception.limit.force(1)
	a.crowd.enter(w.slot)
	a.taken++
	a.admit(&in)
	return true
}

// emptySocket serves what waits in a socket that is not used on, and closes it; loop.StopSYN was called before.
func (w *worker) emptySocket(addr config.Address, fd int, r *reception, c *crowd) {
	a := w.newAcceptor(addr, r, c)
	if a.socket.Open(w.loop, fd, a) == nil {
		a.keepAlive()
		a.remove()
	}
}

// sockets passes the admin interface's descriptors to put.
func (a *admin) sockets(put func(fd int)) {
	for _, l := range []net.Listener{a.tcp, a.local} {
		s, ok := l.(syscall.Conn)
		if !ok {
			continue
		}
		if raw, err := s.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { put(int(fd)) })
		}
	}
}

// cede leaves the addresses to a successor; what was asked is still answered.
func (a *admin) cede() {
	a.ceded.Store(true)
	if u, ok := a.local.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	a.close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.servers {
		s.SetKeepAlivesEnabled(false) // who asks again asks the successor
	}
}

func (a *admin) close() {
	for _, l := range []net.Listener{a.tcp, a.local} {
		if l != nil {
			_ = l.Close()
		}
	}
}

func (a *admin) upgrade(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "use POST, on the admin socket (curl --unix-socket)", http.StatusMethodNotAllowed)
		return
	}
	if a.p.opts.Upgrade == nil {
		http.Error(w, "this program cannot be upgraded while it runs", http.StatusNotImplemented)
		return
	}
	// Whoever asked may go away; the upgrade goes on.
	if err := a.p.opts.Upgrade(context.WithoutCancel(r.Context())); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("OK\n"))
}

// legacySamples are the figures of upgrades.
func (p *Proxy) legacySamples() []sample {
	return []sample{
		{scope: "upgrade", name: "moved_connections", value: p.legacy.moved.Load()},
		{scope: "upgrade", name: "adopted_connections", value: p.legacy.adopted.Load()},
		{scope: "upgrade", name: "refused_connections", value: p.legacy.refused.Load()},
	}
}
