package proxy

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/router"
)

const (
	acceptsATurn = 64
	acceptPause  = 100 * time.Millisecond // when the process is out of descriptors
	flushTime    = 30 * time.Second       // for a client to take the last response
)

// served is what a listener does, prepared once for all loops. It is immutable.
type served struct {
	cfg   *config.Listener
	table *router.Table // of an HTTP listener
	sinks []*sink       // of Envoy's default line, for everything
	lines *lines        // the other access logs, nil without

	server []byte // what the server header says
	via    []byte // what is added to via; nil: nothing
}

func newServed(cfg *config.Listener, table *router.Table) *served {
	s := &served{cfg: cfg, table: table}
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

func (s *served) http() *config.HTTP { return s.cfg.HTTP }

// allowsUpgrade reports whether a client may change to the protocols it names: all of them must be allowed.
func (s *served) allowsUpgrade(protocols []byte) bool {
	for protocol := range strings.SplitSeq(string(protocols), ",") {
		protocol = strings.ToLower(strings.TrimSpace(protocol))
		allowed := false
		for _, u := range s.cfg.HTTP.Upgrades {
			allowed = allowed || u == protocol
		}
		if !allowed {
			return false
		}
	}
	return true
}

// statPrefix is the name that the listener's requests or connections are counted under.
func (s *served) statPrefix() string {
	switch {
	case s.cfg.HTTP != nil && s.cfg.HTTP.StatPrefix != "":
		return s.cfg.HTTP.StatPrefix
	case s.cfg.TCP != nil && s.cfg.TCP.StatPrefix != "":
		return s.cfg.TCP.StatPrefix
	}
	return s.cfg.Name
}

// acceptor is a worker's listening socket of one address, and the connections that came in there.
type acceptor struct {
	socket loop.Socket
	w      *worker
	addr   netip.AddrPort
	served *served
	stats  *listenerStats
	http   *httpStats
	tcp    *tcpStats
	timer  loop.Timer
	gone   bool // the listener left the configuration
	active int

	clients downstream // head of the ring of HTTP connections
	streams stream     // and of TCP connections

	prefaces preface // and of those that are not served yet
}

// listen starts to accept on fd.
func (w *worker) listen(addr netip.AddrPort, fd int, s *served) error {
	a := &acceptor{w: w, addr: addr, stats: &listenerStats{}}
	a.clients.next, a.clients.prev = &a.clients, &a.clients
	a.streams.next, a.streams.prev = &a.streams, &a.streams
	a.prefaces.next, a.prefaces.prev = &a.prefaces, &a.prefaces
	a.serve(s)
	if err := a.socket.Open(w.loop, fd, a); err != nil {
		return err
	}
	w.acceptors[addr] = a
	return nil
}

// serve has requests that come from now on served by s.
func (a *acceptor) serve(s *served) {
	a.served = s
	prefix := s.statPrefix()
	if s.cfg.HTTP != nil {
		if a.w.http[prefix] == nil {
			a.w.http[prefix] = &httpStats{}
		}
		a.http = a.w.http[prefix]
		return
	}
	if a.w.tcp[prefix] == nil {
		a.w.tcp[prefix] = &tcpStats{}
	}
	a.tcp = a.w.tcp[prefix]
	a.drainClients()
}

// Ready accepts what waits.
func (a *acceptor) Ready(loop.Event) { a.accept(acceptsATurn) }

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
		if a.served.cfg.ProxyProtocol != nil {
			a.acceptPreface(fd, peer)
		} else {
			a.begin(fd, peer, nil)
		}
	}
	a.socket.Again()
	return true
}

// begin serves a connection. With via, peer is what the proxy in front said.
func (a *acceptor) begin(fd int, peer netip.AddrPort, via *proxied) {
	if via == nil && a.served.cfg.OriginalDst {
		via = original(fd, peer)
	}
	a.stats.count[listenerCxTotal]++
	a.stats.count[listenerCxActive]++
	a.active++
	if a.served.cfg.HTTP != nil {
		a.acceptHTTP(fd, peer, via)
	} else {
		a.acceptTCP(fd, peer, via)
	}
}

// Expired goes on after accepting failed, or ends what is left of a listener that was removed.
func (a *acceptor) Expired(*loop.Timer) {
	if a.gone {
		a.shutdown()
		return
	}
	a.accept(acceptsATurn)
}

func (a *acceptor) acceptHTTP(fd int, peer netip.AddrPort, via *proxied) {
	var d *downstream
	if a.served.http().Protocol == config.ProtocolHTTP2 {
		s := &session{}
		d = &s.downstream
		*d = downstream{owner: s}
	} else {
		c := &client{}
		d = &c.downstream
		*d = downstream{owner: c}
	}
	d.w, d.a, d.served, d.peer, d.via, d.id = a.w, a, a.served, peer, via, a.w.connectionID()
	head := &a.clients
	d.prev, d.next = head.prev, head
	head.prev.next = d
	head.prev = d
	a.http.count[httpCxTotal]++
	a.http.conns++
	if err := d.open(fd); err != nil {
		a.forget(d)
	}
}

// forget takes a closed connection out.
func (a *acceptor) forget(d *downstream) {
	d.prev.next, d.next.prev = d.next, d.prev
	a.http.conns--
	a.released()
}

func (a *acceptor) released() {
	a.stats.count[listenerCxActive]--
	a.stats.count[listenerCxDestroy]++
	a.left()
}

// left has a removed acceptor forgotten with its last connection.
func (a *acceptor) left() {
	a.active--
	if a.gone && a.active == 0 {
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
	a.socket.Close()
}

// remove closes the socket of a listener that left. Its connections end with their present request, and all that are
// left, tunnels as well, when the listener's drain timeout has passed; if the whole process ends, its own counts.
func (a *acceptor) remove() {
	a.finishQueue()
	a.gone = true
	delete(a.w.acceptors, a.addr)
	a.w.leaving = append(a.w.leaving, a)
	a.drainClients()
	if a.active == 0 {
		a.w.dropAcceptor(a)
		return
	}
	if a.w.draining {
		return
	}
	timeout := a.w.drainTime
	if http := a.served.http(); http != nil && http.DrainTimeout > 0 {
		timeout = http.DrainTimeout
	}
	a.w.loop.Start(&a.timer, timeout, a)
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

// drainClients gives idle connections a last, shorter chance to send a request. To close them at once would lose a request
// that is under way.
func (a *acceptor) drainClients() {
	for d := a.clients.next; d != &a.clients; {
		next := d.next
		d.owner.drain()
		d = next
	}
}

// shutdown closes the socket and all connections.
func (a *acceptor) shutdown() {
	a.timer.Stop()
	a.socket.Close()
	for d := a.clients.next; d != &a.clients; d = a.clients.next {
		d.owner.shutdown()
	}
	for s := a.streams.next; s != &a.streams; s = a.streams.next {
		s.shutdown()
	}
	for p := a.prefaces.next; p != &a.prefaces; p = a.prefaces.next {
		p.drop()
	}
}
