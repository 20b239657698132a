package proxy

import (
	"errors"
	"net/netip"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/router"
	"github.com/hostmesh/hostmesh/proxy/upstream"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// stream is a downstream TCP connection that is passed on as it is.
type stream struct {
	loop.Conn
	w     *worker
	a     *branch
	cfg   *served
	stats *tcpStats
	peer  netip.AddrPort
	via   *proxied // nil: peer is who is connected
	id    uint64

	next, prev *stream // all of the branch
	cluster    *upstream.Cluster
	key        balance.Key // what chooses the host
	host       *upstream.Host
	up         *upstream.Conn
	waiter     upstream.Waiter
	tunnel     *tunnel
	tried      []*upstream.Host // that could not be reached
	attempts   int

	began     int64
	flags     flags
	failure   error // of the last attempt to connect
	readable  bool
	hup       bool
	bytesIn   uint64
	bytesOut  uint64
	connected bool
	local     netip.AddrPort // of the upstream connection, if an access log wants it
	facts     *accesslog.TLS // what access logs tell of the handshake
	upFacts   *accesslog.TLS // and of the upstream's
	visit     *visit         // what the listener's access logs know; nil without any
}

func (a *branch) acceptTCP(in *arrival) {
	s := &stream{w: a.w, a: a, cfg: a.served, peer: in.peer, via: in.via, id: a.w.connectionID(), began: a.w.loop.Clock(), facts: a.facts(in), stats: a.tcp, visit: in.visit}
	head := &a.streams
	s.prev, s.next = head.prev, head
	head.prev.next = s
	head.prev = s
	s.stats.count[tcpCxTotal]++
	s.stats.active++
	if err := in.open(&s.Conn, a.w.loop, s); err != nil {
		s.leave()
		return
	}
	to := router.Choose(s.cfg.cfg.TCP.Clusters, a.w.rand.Uint64())
	s.key.Labels, s.key.Destination = to.Labels, in.via.destination()
	s.cluster = a.w.cluster(to.Name)
	if s.cluster == nil {
		s.stats.count[tcpNoRoute]++
		s.fail(flagNoCluster)
		return
	}
	s.connect()
}

func (s *stream) connect() {
	h := s.cluster.PickBy(s.key, s.tried)
	if h == nil {
		s.fail(flagNoHealthy)
		return
	}
	s.host = h
	s.attempts++
	up, _, err := s.cluster.Acquire(h, s, &s.waiter, upstream.Fresh)
	switch {
	case errors.Is(err, upstream.ErrWait):
	case errors.Is(err, upstream.ErrOverflow):
		s.fail(flagOverflow)
	case err != nil:
		s.retry(err)
	default:
		s.up = up
	}
}

// retry makes another attempt if there may be one: nothing was sent, so another host is as good.
func (s *stream) retry(err error) {
	s.failure, s.tried = err, append(s.tried, s.host)
	if s.attempts < int(s.cfg.cfg.TCP.Attempts) {
		s.connect()
		return
	}
	s.cluster.Stats.Count[upstream.ConnAttemptsExceeded]++
	s.fail(flagConnectFailed | flagConnectLimit)
}

// Free is told that a connection may be had after all.
func (s *stream) Free() {
	s.attempts--
	s.connect()
}

// Connected is told that the connection is there, or why not.
func (s *stream) Connected(err error) {
	if err != nil {
		s.up = nil
		s.host.Reached(upstream.LocalFailed)
		s.retry(err)
		return
	}
	s.connected, s.failure = true, nil
	s.keepUpstream()
	s.host.Stats.RequestTotal++
	s.host.Reached(upstream.LocalDone)
	s.up.Requests++
	s.tunnel = &tunnel{}
	s.tunnel.open(s.w, &s.Conn, s.up, s.cfg.cfg.TCP.IdleTimeout, s)
	s.tunnel.toUp.readable, s.tunnel.toUp.hup = s.readable, s.hup
	s.tunnel.start()
}

// Ready takes the client's events. Until the upstream is there its bytes wait in the kernel.
func (s *stream) Ready(e loop.Event) {
	if s.tunnel != nil {
		s.tunnel.clientReady(e)
		return
	}
	if e&loop.Err != 0 {
		s.fail(flagClientGone)
		return
	}
	s.readable = s.readable || e&(loop.In|loop.Hup) != 0
	s.hup = s.hup || e&loop.Hup != 0
}

// UpstreamReady takes the upstream's events.
func (s *stream) UpstreamReady(e loop.Event) {
	if s.tunnel != nil {
		s.tunnel.UpstreamReady(e)
	}
}

// tunnelIdle counts a tunnel that was silent for too long.
func (s *stream) tunnelIdle() { s.stats.count[tcpIdleTimeout]++ }

// tunnelEnded closes the client's side.
func (s *stream) tunnelEnded(broken bool) {
	s.bytesIn, s.bytesOut = s.tunnel.toUp.bytes, s.tunnel.toDown.bytes
	s.up = nil
	if broken {
		s.ResetOnClose()
	}
	s.leave()
}

// fail ends a stream that never reached an upstream. The client sees a reset: there is no other way to say so.
func (s *stream) fail(f flags) {
	s.flags |= f
	if f&flagClientGone == 0 {
		s.stats.count[tcpConnectFail]++
		s.ResetOnClose()
	}
	if s.up != nil {
		s.up.Discard()
		s.up = nil
	}
	s.leave()
}

func (s *stream) shutdown() {
	if s.tunnel != nil {
		s.tunnel.end(true)
		return
	}
	s.fail(flagClientGone)
}

// leave closes the client's connection and forgets the stream.
func (s *stream) leave() {
	if s.cluster != nil {
		s.cluster.Dequeue(&s.waiter)
		s.cluster.Stats.Count[upstream.ConnTxBytes] += s.bytesIn
		s.cluster.Stats.Count[upstream.ConnRxBytes] += s.bytesOut
	}
	s.a.stats.count[listenerRxBytes] += s.bytesIn
	s.a.stats.count[listenerTxBytes] += s.bytesOut
	s.stats.count[tcpRxBytes] += s.bytesIn
	s.stats.count[tcpTxBytes] += s.bytesOut
	s.stats.active--
	s.log()
	s.Close()
	s.prev.next, s.next.prev = s.next, s.prev
	s.a.released()
}
