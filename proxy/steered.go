package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/loopback"
)

// steering is a worker's part of the socket to which the kernel steers connections to loopback addresses. A connection belongs to
// the listener at the address that it was made to; the acceptors of those have no sockets.
type steering struct {
	w      *worker
	socket loop.Socket
	timer  loop.Timer
	log    *slog.Logger
	told   int64  // second of the clock in which an undeclared port was logged
	others uint64 // connections to undeclared ports
}

// Ready accepts what waits.
func (s *steering) Ready(loop.Event) { s.resume() }

// Expired goes on after accepting failed.
func (s *steering) Expired(*loop.Timer) { s.resume() }

func (s *steering) resume() {
	for n := 0; !s.w.shed.accepting; n++ {
		if n == acceptsATurn {
			s.socket.Again()
			return
		}
		fd, peer, err := s.socket.Accept()
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		if err != nil {
			s.w.loop.Start(&s.timer, acceptPause, s)
			return
		}
		at := loop.LocalAddr(fd)
		if a := s.w.acceptors[config.Address{IP: at}]; a != nil {
			a.probe(fd)
			a.arrived(fd, peer)
			continue
		}
		if at.Addr() == loopback.Steered() { // somebody looks whether connections are steered
			_ = syscall.Close(fd)
			continue
		}
		_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}) // it is refused, as by a closed port
		_ = syscall.Close(fd)
		s.undeclared(at, peer)
	}
}

// undeclared tells what there would have been, at most once a second.
func (s *steering) undeclared(at, peer netip.AddrPort) {
	s.others++
	second := s.w.loop.Wall(s.w.loop.Now()).Unix()
	if second == s.told {
		return
	}
	s.told = second
	service, ports := "", []uint16(nil)
	for addr, a := range s.w.acceptors {
		if addr.IP.Addr() == at.Addr() {
			service, ports = a.reception.cfg.Name, append(ports, addr.IP.Port())
		}
	}
	slices.Sort(ports)
	s.log.Warn("connection to a port that its service does not declare was refused", "address", at, "client", peer, "service", service, "declared", ports, "refused", s.others)
}

func (s *steering) close() {
	s.timer.Stop()
	s.socket.CloseListener()
}

// isSteered reports whether connections to an address come by the steering socket.
func (s *sockets) isSteered(addr config.Address) bool {
	return s.steered != noSocket && loopback.Range().Contains(addr.IP.Addr())
}

// takeSteered takes the steering socket out of those that are free.
func (s *sockets) takeSteered() {
	s.steered = noSocket
	for _, f := range s.take(func(l loop.Listening) bool { return l.Addr.Addr() == loopback.Steered() }) {
		if s.steered != noSocket {
			_ = syscall.Close(f.FD)
			continue
		}
		s.steered = f.FD
	}
}

// steer has the loops accept what is steered, once connections are accepted and the first configuration is served: until then
// nobody knows whose a connection is, and it waits.
func (b *binder) steer(ctx context.Context) {
	if b.sockets.steered == noSocket || b.drained || !b.sockets.started || b.p.life.Load() != stageLive {
		return
	}
	fds, err := spread([]int{b.sockets.steered}, len(b.p.workers))
	for i, w := range b.p.workers {
		if err != nil {
			break
		}
		_ = w.loop.Do(ctx, func() {
			w.steering = &steering{w: w, log: b.p.log}
			err = w.steering.socket.Open(w.loop, fds[i], w.steering)
		})
	}
	if err != nil {
		b.p.log.Error("steered connections are not accepted", "err", err)
	}
}

// unsteer ends that. What waits in the socket is the next process's.
func (b *binder) unsteer(ctx context.Context) {
	for _, w := range b.p.workers {
		_ = w.loop.Do(ctx, func() {
			if w.steering != nil {
				w.steering.close()
			}
		})
	}
}

// tellBound publishes which addresses are bound.
func (b *binder) tellBound() {
	outcome := map[netip.AddrPort]error{}
	b.mu.Lock()
	for addr, at := range b.addrs {
		if !addr.IsUnix() && (at.bound || at.err != nil) {
			outcome[addr.IP] = at.err
		}
	}
	b.mu.Unlock()
	old := b.bound.Load()
	same := len(old) == len(outcome)
	for addr, err := range outcome {
		before, ok := old[addr]
		same = same && ok && (err == nil) == (before == nil) && (err == nil || err.Error() == before.Error())
	}
	if !same {
		b.bound.Set(outcome)
	}
}
