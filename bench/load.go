package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// load is both ends of the proxies: a generator and the backend. Both share one epoll loop on one processor, so that as little
// as possible of it is lost to switching. A busy client asks again as soon as it is answered; the paced ones together ask at
// a rate, each time the one that has been idle for longest.
type load struct {
	protocol
	busy, paced int         // clients that connect makes
	rate        int         // requests per second of the paced ones
	tls         *tls.Config // of the clients; nil: plaintext
	latency     *histogram  // of paced requests since they were due, or nil: then what is late is not made up for

	epoll    int
	listener int
	addr     netip.AddrPort // of the backend
	ends     []*end         // by descriptor
	clients  []*end
	idle     []*end // paced clients without a request outstanding
	scratch  []byte
	epoch    time.Time
	done     int // requests that were answered completely
}

// protocol is what the ends of a load speak.
type protocol interface {
	client() speaker
	backend() speaker
}

// speaker is one end's state of its protocol.
type speaker interface {
	// take takes what was read; b is valid until it returns.
	take(l *load, e *end, b []byte) error
}

// asker is the speaker of a client.
type asker interface {
	speaker
	// ask sends a request, or as many as may be outstanding.
	ask(l *load, e *end) error
}

// greeter is an asker that must hear from the proxy before it asks.
type greeter interface {
	greet(l *load, e *end) error
}

// end is one connection of the load.
type end struct {
	speaker
	fd     int
	client bool
	paced  bool
	due    time.Duration // since the load's epoch: when the request that is outstanding was to be sent
	tls    *tls.Conn     // nil: plaintext
	wire   *wire         // below tls
	out    []byte        // that a speaker collects, to be sent by flush
	unsent []byte
}

func newLoad(p protocol) (*load, error) {
	l := &load{protocol: p, scratch: make([]byte, 128<<10), epoch: time.Now(), epoll: -1, listener: -1}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if l.listener, l.addr, err = listen(); err != nil {
		return nil, errors.Join(err, unix.Close(l.epoll))
	}
	return l, l.watch(l.listener, unix.EPOLLIN, unix.EPOLL_CTL_ADD)
}

// listen returns a non-blocking socket that listens on a port of loopback.
func listen() (int, netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, netip.AddrPort{}, fmt.Errorf("create socket: %w", err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1024)); err != nil {
		return -1, netip.AddrPort{}, errors.Join(fmt.Errorf("listen: %w", err), unix.Close(fd))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return -1, netip.AddrPort{}, errors.Join(fmt.Errorf("read address: %w", err), unix.Close(fd))
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port)), nil
}

// dial returns a blocking socket that is connected.
func dial(to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("create socket: %w", err)
	}
	// A proxy that never answers a handshake is a failure, not a wait without end.
	patience := unix.Timeval{Sec: 10}
	if err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}),
	); err != nil {
		return -1, errors.Join(fmt.Errorf("connect to %v: %w", to, err), unix.Close(fd))
	}
	return fd, nil
}

func (l *load) backendAddr() netip.AddrPort { return l.addr }

func (l *load) watch(fd int, events uint32, op int) error {
	return unix.EpollCtl(l.epoll, op, fd, &unix.EpollEvent{Fd: int32(fd), Events: events})
}

func (l *load) close() {
	for _, e := range l.ends {
		if e != nil {
			unix.Close(e.fd)
		}
	}
	unix.Close(l.listener)
	unix.Close(l.epoll)
}

// connect opens the clients' connections to a proxy; the busy ones ask at once.
func (l *load) connect(to netip.AddrPort) error {
	for range l.paced {
		e, err := l.open(to)
		if err != nil {
			return err
		}
		e.paced = true
		if err := l.begin(e); err != nil {
			return err
		}
	}
	for range l.busy {
		e, err := l.open(to)
		if err != nil {
			return err
		}
		if err := l.begin(e); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) open(to netip.AddrPort) (*end, error) {
	fd, err := dial(to)
	if err != nil {
		return nil, err
	}
	e := &end{fd: fd, client: true, speaker: l.client()}
	if l.tls != nil {
		if err := l.shakeHands(e); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
	}
	l.clients = append(l.clients, e)
	return e, l.adopt(e)
}

// begin has a client that was opened ask, after its greeting if its protocol has one.
func (l *load) begin(e *end) error {
	if g, ok := e.speaker.(greeter); ok {
		return g.greet(l, e)
	}
	return l.next(e)
}

// next is for a client that may ask: it does, or waits for its turn.
func (l *load) next(e *end) error {
	if e.paced {
		l.idle = append(l.idle, e)
		return nil
	}
	return e.speaker.(asker).ask(l, e)
}

// answered counts an answer to a client.
func (l *load) answered(e *end) {
	l.done++
	if e.paced && l.latency != nil {
		l.latency.add(time.Since(l.epoch) - e.due)
	}
}

// disconnect closes the generator's connections; the proxies keep theirs to the backend.
func (l *load) disconnect() error {
	for _, e := range l.clients {
		l.drop(e)
	}
	l.clients, l.idle = nil, nil
	return nil
}

func (l *load) adopt(e *end) error {
	for len(l.ends) <= e.fd {
		l.ends = append(l.ends, nil)
	}
	l.ends[e.fd] = e
	return errors.Join(
		unix.SetNonblock(e.fd, true), unix.SetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		l.watch(e.fd, unix.EPOLLIN, unix.EPOLL_CTL_ADD),
	)
}

func (l *load) drop(e *end) {
	if l.ends[e.fd] == e {
		l.ends[e.fd] = nil
		unix.Close(e.fd)
	}
}

// run serves for a while and returns how many requests were answered.
func (l *load) run(d time.Duration) (int, error) {
	l.done = 0
	wait := 20
	switch {
	case l.paced > 0 && l.busy > 0:
		wait = 1
	case l.paced > 0:
		wait = 0 // the clock is watched: a timer would send in bursts
	}
	events := make([]unix.EpollEvent, 256)
	start := time.Since(l.epoch)
	sent := 0
	for now := start; now-start < d; now = time.Since(l.epoch) {
		if l.paced > 0 {
			var err error
			if sent, err = l.pace(start, now, sent); err != nil {
				return l.done, err
			}
		}
		if err := l.turn(events, wait); err != nil {
			return l.done, err
		}
	}
	if l.latency != nil { // what is late at the end has waited until now at least
		end := time.Since(l.epoch)
		for ; l.dueAt(start, sent) < start+d; sent++ {
			l.latency.add(end - l.dueAt(start, sent))
		}
	}
	return l.done, nil
}

// turn waits for events, at most some milliseconds, and serves them.
func (l *load) turn(events []unix.EpollEvent, wait int) error {
	n, err := waitFor(l.epoll, events, wait)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	for i := range n {
		if err := l.event(events[i]); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) event(ev unix.EpollEvent) error {
	if int(ev.Fd) == l.listener {
		fd, _, err := unix.Accept4(l.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		return l.adopt(&end{fd: fd, speaker: l.backend()})
	}
	e := l.ends[ev.Fd] // every watched descriptor has had an end
	if e == nil {
		return nil
	}
	if ev.Events&unix.EPOLLOUT != 0 {
		unsent := e.unsent
		e.unsent = nil
		if err := l.write(e, unsent); err != nil {
			return err
		}
		if len(e.unsent) == 0 {
			if err := l.watch(e.fd, unix.EPOLLIN, unix.EPOLL_CTL_MOD); err != nil {
				return err
			}
		}
	}
	if ev.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return nil
	}
	if e.tls != nil {
		return l.readTLS(e)
	}
	n, err := rawRead(e.fd, l.scratch)
	switch {
	case err == unix.EAGAIN:
		return nil
	case n <= 0 && e.client:
		return fmt.Errorf("proxy closed a client's connection (%v)", err)
	case n <= 0:
		l.drop(e)
		return nil
	}
	return e.take(l, e, l.scratch[:n])
}

// send sends b, through TLS if the connection has it.
func (l *load) send(e *end, b []byte) error {
	if e.tls != nil {
		_, err := e.tls.Write(b) // to l.write
		return err
	}
	return l.write(e, b)
}

// flush sends what a speaker has collected.
func (l *load) flush(e *end) error {
	if len(e.out) == 0 {
		return nil
	}
	err := l.send(e, e.out)
	e.out = e.out[:0]
	return err
}

// write writes to the socket and keeps a copy of what it does not take.
func (l *load) write(e *end, b []byte) error {
	if len(e.unsent) > 0 {
		e.unsent = append(e.unsent, b...)
		return nil
	}
	n, err := rawWrite(e.fd, b)
	if err != nil && err != unix.EAGAIN {
		if e.client {
			return fmt.Errorf("send request: %w", err)
		}
		l.drop(e) // the proxy closed it; the client will tell
		return nil
	}
	if n == len(b) {
		return nil
	}
	e.unsent = append([]byte(nil), b[n:]...)
	return l.watch(e.fd, unix.EPOLLIN|unix.EPOLLOUT, unix.EPOLL_CTL_MOD)
}
