package proxy

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/chain"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/router"
)

// reception is what a listener does with connections, prepared once for all loops. It is immutable.
type reception struct {
	cfg    *config.Listener
	limit  *limit
	chains *chain.Table
	served []*served // by the numbers of the chains
	single bool      // there is one chain, for everything
	lines  *lines    // the listener's own access logs, nil without
}

// looks reports whether connections are looked at before a chain is chosen.
func (r *reception) looks() bool { return r.cfg.ProxyProtocol != nil || r.inspects() }

// inspects reports whether a chain depends on the first bytes of the protocol.
func (r *reception) inspects() bool { return r.chains.Inspects() }

// choose returns the number of the chain that takes a connection, or chain.None.
func (r *reception) choose(a *acceptor, in *arrival) int {
	if r.single {
		return 0
	}
	c := chain.Connection{
		Local: a.addr.IP, Remote: in.peer, Direct: in.peer.Addr(),
		ServerName: in.inspect.hello.ServerName, TLS: in.inspect.tls, Protocols: in.inspect.hello.Protocols,
	}
	if in.via != nil {
		c.Direct = in.via.direct.Addr()
	}
	switch {
	case in.via != nil && in.via.local.IsValid():
		c.Local = in.via.local
	case a.addr.IP.Addr().IsUnspecified():
		c.Local = localAddr(in.fd)
	}
	return r.chains.Match(&c)
}

// localAddr is the address that a connection came in at.
func localAddr(fd int) netip.AddrPort {
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// served is what a filter chain does, prepared once for all loops. It is immutable.
type served struct {
	listener string
	cfg      *config.FilterChain
	identity identity
	table    *router.Table // of an HTTP chain
	tls      *tls.Config   // nil: plaintext
	sinks    []*sink       // of Envoy's default line, for everything
	lines    *lines        // the other access logs, nil without
	limit    *limit

	server []byte // what the server header says
	via    []byte // what is added to via; nil: nothing
}

func newServed(listener string, cfg *config.FilterChain, table *router.Table) *served {
	s := &served{listener: listener, cfg: cfg, table: table}
	if cfg.HTTP != nil {
		s.server = []byte("hostmesh")
		if name := cfg.HTTP.ServerName; name != "" {
			s.server = []byte(name)
		}
		if via := cfg.HTTP.Via; via != "" {
			s.via = []byte(via)
		}
	}
	return s
}

// identity is what makes chains of two configurations the same: connections of the one are served on by the other.
type identity struct {
	match string
	http  bool
	tls   *tls.Config
}

// identify sets the identity. One of the listener's chains may be that for the rest.
func (s *served) identify(rest bool) {
	s.identity = identity{match: fmt.Sprint(rest, s.cfg.Match), http: s.cfg.HTTP != nil, tls: s.tls}
}

func (s *served) http() *config.HTTP { return s.cfg.HTTP }

// statPrefix is the name that the listener's requests or connections are counted under.
func (s *served) statPrefix() string {
	switch {
	case s.cfg.HTTP != nil && s.cfg.HTTP.StatPrefix != "":
		return s.cfg.HTTP.StatPrefix
	case s.cfg.TCP != nil && s.cfg.TCP.StatPrefix != "":
		return s.cfg.TCP.StatPrefix
	}
	return s.listener
}

// branch is a worker's part of a filter chain of one address, and the connections that are on it.
type branch struct {
	*acceptor
	served *served
	http   *httpStats
	tcp    *tcpStats
	gone   bool // the chain, or its listener, left the configuration
	conns  int
	taken  int // connections counted by the chain's limit
	timer  loop.Timer

	clients downstream // head of the ring of HTTP connections
	streams stream     // and of TCP connections
	shakes  shake      // and of those whose TLS handshake goes on
}

func newBranch(a *acceptor) *branch {
	b := &branch{acceptor: a}
	b.clients.next, b.clients.prev = &b.clients, &b.clients
	b.streams.next, b.streams.prev = &b.streams, &b.streams
	b.shakes.next, b.shakes.prev = &b.shakes, &b.shakes
	return b
}

// serve has requests that come from now on served by s.
func (b *branch) serve(s *served) {
	if old := b.served; old != nil && old.limit != s.limit {
		old.limit.force(-b.taken)
		s.limit.force(b.taken)
	}
	b.served = s
	prefix := s.statPrefix()
	if s.cfg.HTTP != nil {
		if b.w.http[prefix] == nil {
			b.w.http[prefix] = &httpStats{}
		}
		b.http = b.w.http[prefix]
		return
	}
	if b.w.tcp[prefix] == nil {
		b.w.tcp[prefix] = &tcpStats{}
	}
	b.tcp = b.w.tcp[prefix]
}

// begin serves a connection.
func (b *branch) begin(in *arrival) {
	b.stats.count[listenerCxTotal]++
	if !b.served.limit.take() {
		in.visit.over(in.peer, in.via, func(r *accesslog.Record) { r.Connection, r.Chain = b.w.connectionID(), b.served.cfg.Name })
		b.refuse(in.fd)
		return
	}
	b.taken++
	b.stats.count[listenerCxActive]++
	b.active++
	b.conns++
	if b.served.tls != nil {
		b.secure(in)
		return
	}
	b.serveConn(in)
}

// serveConn serves the bytes of a connection, which are those behind TLS where the chain has it.
func (b *branch) serveConn(in *arrival) {
	if b.served.cfg.HTTP != nil {
		b.acceptHTTP(in)
	} else {
		b.acceptTCP(in)
	}
}

// speaks returns the version of HTTP that a connection speaks; Auto: its first bytes will tell.
func (b *branch) speaks(in *arrival) config.Protocol {
	if p := b.served.http().Protocol; p != config.ProtocolAuto {
		return p
	}
	return in.protocol
}

func (b *branch) acceptHTTP(in *arrival) {
	var d *downstream
	if b.speaks(in) == config.ProtocolHTTP2 {
		s := &session{}
		d = &s.downstream
		*d = downstream{owner: s}
	} else {
		c := &client{auto: b.speaks(in) == config.ProtocolAuto}
		d = &c.downstream
		*d = downstream{owner: c}
	}
	d.w, d.a, d.served, d.peer, d.via, d.id = b.w, b, b.served, in.peer, in.via, b.w.connectionID()
	d.facts, d.began, d.visit = b.facts(in), b.w.loop.Clock(), in.visit
	head := &b.clients
	d.prev, d.next = head.prev, head
	head.prev.next = d
	head.prev = d
	b.http.count[httpCxTotal]++
	d.stats = b.http
	d.stats.conns++
	if err := d.open(in); err != nil {
		b.forget(d)
	}
}

// forget takes a closed connection out.
func (b *branch) forget(d *downstream) {
	d.prev.next, d.next.prev = d.next, d.prev
	d.countEnd()
	d.visit.over(d.peer, d.via, d.tellConn)
	b.released()
}

// released counts a connection out that is closed.
func (b *branch) released() {
	b.served.limit.force(-1)
	b.taken--
	b.ended()
}

// ended does that for one that the chain's limit did not count.
func (b *branch) ended() {
	b.stats.count[listenerCxActive]--
	b.stats.count[listenerCxDestroy]++
	if b.conns--; b.gone && b.conns == 0 {
		b.parted()
	}
	b.left()
}

// part ends a chain that left the configuration of its listener: its connections end with their present request, and all that
// are left when the time for that has passed.
func (b *branch) part() {
	b.gone = true
	if b.conns == 0 {
		return
	}
	b.parting = append(b.parting, b)
	b.drainClients()
	if b.conns > 0 && !b.w.draining {
		b.w.loop.Start(&b.timer, b.w.drainTime, b)
	}
}

// parted forgets a chain that left with its last connection.
func (b *branch) parted() {
	b.timer.Stop()
	for i, other := range b.parting {
		if other == b {
			b.parting = append(b.parting[:i], b.parting[i+1:]...)
			return
		}
	}
}

// Expired closes what is left of a chain that was removed.
func (b *branch) Expired(*loop.Timer) { b.shutdown() }

// drainClients gives idle connections a last, shorter chance to send a request. To close them at once would lose a request
// that is under way.
func (b *branch) drainClients() {
	for d := b.clients.next; d != &b.clients; {
		next := d.next
		d.owner.drain()
		d = next
	}
}

// shutdown closes all connections.
func (b *branch) shutdown() {
	b.timer.Stop()
	for d := b.clients.next; d != &b.clients; d = b.clients.next {
		d.owner.shutdown()
	}
	for s := b.streams.next; s != &b.streams; s = b.streams.next {
		s.shutdown()
	}
	for h := b.shakes.next; h != &b.shakes; h = b.shakes.next {
		h.tell("", "")
		h.drop()
	}
}
