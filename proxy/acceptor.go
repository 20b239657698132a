package proxy

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/chain"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

const (
	noSocket     = -1
	acceptsATurn = 64
	acceptPause  = 100 * time.Millisecond // when the process is out of descriptors
)

// acceptor is a worker's listening socket of one address, and the connections that came in there.
type acceptor struct {
	socket    loop.Socket
	w         *worker
	addr      config.Address
	reception *reception
	stats     *listenerStats
	timer     loop.Timer
	removed   bool // the listener left the configuration
	ceded     bool // because another process serves it
	crowd     *crowd
	taken     int // connections counted by the listener's limit
	active    int

	branches []*branch // by the numbers of the reception's chains
	parting  []*branch // of chains that left, with connections that are ending

	prefaces preface // head of the ring of connections that no chain has yet
}

// arrival is a connection that no chain has yet.
type arrival struct {
	fd       int
	conn     *loop.Conn // in the place of fd once TLS has been agreed on
	peer     netip.AddrPort
	via      *proxied // nil: peer is who is connected
	inspect  inspected
	visit    *visit          // what the listener's access logs know; nil without any
	protocol config.Protocol // that the client speaks if a chain speaks HTTP; Auto: it is not known yet
}

// newArrival is a connection of which nothing is known but what the kernel tells.
func (a *acceptor) newArrival(fd int, peer netip.AddrPort) *arrival {
	in := &arrival{fd: fd, peer: peer, protocol: config.ProtocolAuto}
	in.visit = a.newVisit(fd)
	if a.reception.cfg.OriginalDst {
		in.via = original(fd, peer)
	}
	return in
}

// open makes c the arrived connection.
func (in *arrival) open(c *loop.Conn, l *loop.Loop, h loop.Handler) error {
	if in.conn != nil {
		c.Take(in.conn, h)
		return nil
	}
	return c.Open(l, in.fd, h)
}

// listen starts to accept on fd; without one, what others accept.
func (w *worker) listen(addr config.Address, fd int, r *reception, c *crowd) error {
	a := w.newAcceptor(addr, r, c)
	if fd != noSocket {
		if err := a.socket.Open(w.loop, fd, a); err != nil {
			return err
		}
	}
	a.keepAlive()
	w.acceptors[addr] = a
	return nil
}

// keepAlive has the connections probed that come from now on, as the listener says.
func (a *acceptor) keepAlive() {
	if a.socket.IsOpen() {
		a.probe(a.socket.FD())
	}
}

// probe has one connection probed, or those that are accepted on a listening socket.
func (a *acceptor) probe(fd int) {
	if k := a.reception.cfg.Keepalive; k != nil && !a.addr.IsUnix() {
		_ = loop.KeepAlive(fd, k.Time, k.Interval, k.Probes) // whose bounds are checked
	}
}

func (w *worker) newAcceptor(addr config.Address, r *reception, c *crowd) *acceptor {
	a := &acceptor{w: w, addr: addr, crowd: c, stats: &listenerStats{}}
	a.prefaces.next, a.prefaces.prev = &a.prefaces, &a.prefaces
	a.serve(r)
	return a
}

// serve has connections and requests that come from now on served by r. The connections of a chain that is not in it end
// with their present request.
func (a *acceptor) serve(r *reception) {
	if old := a.reception; old != nil && old.limit != r.limit {
		old.limit.force(-a.taken)
		r.limit.force(a.taken)
	}
	if old := a.reception; old != nil && old.cfg.Keepalive != nil && r.cfg.Keepalive == nil && a.socket.IsOpen() {
		_ = loop.NoKeepAlive(a.socket.FD())
	}
	a.reception = r
	a.keepAlive()
	before := make(map[identity]*branch, len(a.branches))
	for _, b := range a.branches {
		before[b.served.identity] = b
	}
	a.branches = make([]*branch, len(r.served))
	for i, s := range r.served {
		b := before[s.identity]
		if b == nil {
			b = newBranch(a)
		}
		delete(before, s.identity)
		b.serve(s)
		a.branches[i] = b
	}
	for _, b := range before {
		b.part()
	}
}

// Ready accepts what waits.
func (a *acceptor) Ready(loop.Event) { a.resume() }

// accept takes up to max connections and reports whether there may be more.
func (a *acceptor) accept(max int) (more bool) {
	for range max {
		fd, peer, err := a.socket.Accept()
		if errors.Is(err, syscall.EAGAIN) {
			return false
		}
		if err != nil {
			a.stats.count[listenerAcceptError]++
			a.w.loop.Start(&a.timer, acceptPause, a)
			return false
		}
		a.arrived(fd, peer)
	}
	a.socket.Again()
	return true
}

// admit gives a connection to the chain that takes it.
func (a *acceptor) admit(in *arrival) {
	i := a.reception.choose(a, in)
	if i == chain.None {
		a.stats.count[listenerNoChain]++
		in.visit.over(in.peer, in.via, func(r *accesslog.Record) {
			r.Flags, r.Details, r.TLS = uint32(flagNoRoute), "filter_chain_not_found", in.told()
		})
		_ = syscall.Close(in.fd)
		a.release()
		return
	}
	a.branches[i].begin(in)
}

// Expired goes on after accepting failed, or ends what is left of a listener that was removed.
func (a *acceptor) Expired(*loop.Timer) {
	if a.removed {
		a.shutdown()
		return
	}
	a.resume()
}

// left counts a connection out.
func (a *acceptor) left() {
	a.release()
	a.passed()
}

// passed counts a connection out that was counted anew, and has a removed acceptor forgotten with its last one.
func (a *acceptor) passed() {
	a.active--
	if a.removed && a.active == 0 {
		a.w.dropAcceptor(a)
	}
}

// finishQueue accepts what the kernel has queued and closes the socket; loop.StopSYN was called before.
func (a *acceptor) finishQueue() {
	if !a.socket.IsOpen() {
		return
	}
	a.timer.Stop()
	for a.accept(acceptsATurn) {
	}
	a.timer.Stop()
	a.socket.CloseListener()
}

// remove closes the socket of a listener that left. Its connections end with their present request, and all that are
// left, tunnels as well, when the time for that has passed; if the whole process ends, its own counts.
func (a *acceptor) remove() {
	a.finishQueue()
	a.leave()
}

// leave has the connections of an acceptor end whose socket is closed.
func (a *acceptor) leave() {
	a.removed = true
	if a.w.acceptors[a.addr] == a {
		delete(a.w.acceptors, a.addr)
	}
	a.w.leaving = append(a.w.leaving, a)
	for _, b := range a.branches {
		b.gone = true
	}
	a.drainClients()
	if a.active == 0 {
		a.w.dropAcceptor(a)
		return
	}
	if !a.w.draining {
		a.w.loop.Start(&a.timer, a.w.drainTime, a)
	}
}

// dropAcceptor forgets a removed acceptor whose last connection has ended.
func (w *worker) dropAcceptor(a *acceptor) {
	a.timer.Stop()
	for i, other := range w.leaving {
		if other == a {
			w.leaving = append(w.leaving[:i], w.leaving[i+1:]...)
			return
		}
	}
}

// drainClients gives idle connections a last, shorter chance to send a request.
func (a *acceptor) drainClients() {
	for _, b := range a.branches {
		b.drainClients()
	}
}

// shutdown closes the socket and all connections.
func (a *acceptor) shutdown() {
	a.timer.Stop()
	a.socket.CloseListener()
	for _, b := range a.branches {
		b.shutdown()
	}
	for len(a.parting) > 0 {
		a.parting[0].shutdown()
	}
	for p := a.prefaces.next; p != &a.prefaces; p = a.prefaces.next {
		p.drop()
	}
}
