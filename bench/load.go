package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const requestText = "GET /bench/path?x=1 HTTP/1.1\r\nHost: web.default.mesh.internal\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"

// load is both ends of the proxies: a generator and the backend. Both share one epoll loop on one processor, so that as little
// as possible of it is lost to switching. Without a rate the generator keeps one request outstanding on each of its
// connections; with one it sends at that pace, on the connection that has been idle for longest.
type load struct {
	rate     int // requests per second; 0: as many as are answered
	epoll    int
	listener int
	addr     netip.AddrPort // of the backend
	response []byte
	size     int
	conns    map[int32]*end
	clients  []*end
	idle     []*end // clients without a request outstanding, with a rate
	scratch  []byte
	done     int // responses that were read completely
}

// end is one connection of the load. A client's remaining counts the bytes of the body still to come, -1 while it waits for
// a head.
type end struct {
	fd        int
	client    bool
	checked   bool   // backend: the first request was looked at
	partial   []byte // of a head
	remaining int
	unsent    []byte
}

func newLoad(size, rate int) (*load, error) {
	l := &load{
		size: size, rate: rate, conns: map[int32]*end{}, scratch: make([]byte, 128<<10),
		response: append([]byte("HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"+
			"Content-Type: application/octet-stream\r\nContent-Length: "+strconv.Itoa(size)+"\r\n\r\n"), bytes.Repeat([]byte("x"), size)...),
	}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if l.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("create socket: %w", err)
	}
	if err := errors.Join(
		unix.Bind(l.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(l.listener, 1024),
	); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(l.listener)
	if err != nil {
		return nil, fmt.Errorf("read address: %w", err)
	}
	l.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
	return l, l.watch(l.listener, unix.EPOLLIN, unix.EPOLL_CTL_ADD)
}

func (l *load) watch(fd int, events uint32, op int) error {
	return unix.EpollCtl(l.epoll, op, fd, &unix.EpollEvent{Fd: int32(fd), Events: events})
}

func (l *load) close() {
	l.disconnect()
	for _, e := range l.conns {
		unix.Close(e.fd)
	}
	unix.Close(l.listener)
	unix.Close(l.epoll)
}

// connect opens n connections to a proxy and sends the first request on each.
func (l *load) connect(to netip.AddrPort, n int) error {
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("create socket: %w", err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
			return errors.Join(fmt.Errorf("connect to %v: %w", to, err), unix.Close(fd))
		}
		e := &end{fd: fd, client: true, remaining: -1}
		l.clients = append(l.clients, e)
		if err := l.adopt(e); err != nil {
			return err
		}
		if err := l.ask(e); err != nil {
			return err
		}
	}
	return nil
}

// ask sends the next request on a connection, or has it wait for its time.
func (l *load) ask(e *end) error {
	if l.rate > 0 {
		l.idle = append(l.idle, e)
		return nil
	}
	return l.send(e, []byte(requestText))
}

// pace sends the requests that are due when this many have been sent, and returns how many then have. While all
// connections wait for an answer nothing is due: what is late is not made up for in a burst.
func (l *load) pace(elapsed time.Duration, sent int) (int, error) {
	due := int(elapsed.Seconds() * float64(l.rate))
	for ; sent < due && len(l.idle) > 0; sent++ {
		e := l.idle[0]
		l.idle = append(l.idle[:0], l.idle[1:]...)
		if err := l.send(e, []byte(requestText)); err != nil {
			return sent, err
		}
	}
	return max(sent, due), nil
}

// disconnect closes the generator's connections; the proxies keep theirs to the backend.
func (l *load) disconnect() {
	for _, e := range l.clients {
		l.drop(e)
	}
	l.clients, l.idle = nil, nil
}

func (l *load) adopt(e *end) error {
	l.conns[int32(e.fd)] = e
	return errors.Join(
		unix.SetNonblock(e.fd, true), unix.SetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		l.watch(e.fd, unix.EPOLLIN, unix.EPOLL_CTL_ADD),
	)
}

func (l *load) drop(e *end) {
	delete(l.conns, int32(e.fd))
	unix.Close(e.fd)
}

// run serves for a while and returns how many requests were answered.
func (l *load) run(d time.Duration) (int, error) {
	l.done = 0
	sent, wait := 0, 20
	if l.rate > 0 {
		wait = 0 // the clock is watched: a timer would send in bursts
	}
	events := make([]unix.EpollEvent, 256)
	for start, elapsed := time.Now(), time.Duration(0); elapsed < d; elapsed = time.Since(start) {
		if l.rate > 0 {
			var err error
			if sent, err = l.pace(elapsed, sent); err != nil {
				return l.done, err
			}
		}
		n, err := unix.EpollWait(l.epoll, events, wait)
		if err != nil && err != unix.EINTR {
			return l.done, fmt.Errorf("wait: %w", err)
		}
		for i := range max(n, 0) {
			if err := l.event(events[i]); err != nil {
				return l.done, err
			}
		}
	}
	return l.done, nil
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
		return l.adopt(&end{fd: fd})
	}
	e := l.conns[ev.Fd]
	if e == nil {
		return nil
	}
	if ev.Events&unix.EPOLLOUT != 0 {
		unsent := e.unsent
		e.unsent = nil
		if err := l.send(e, unsent); err != nil {
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
	n, err := unix.Read(e.fd, l.scratch)
	switch {
	case err == unix.EAGAIN:
		return nil
	case n <= 0 && e.client:
		return fmt.Errorf("proxy closed a connection with a request outstanding (%v)", err)
	case n <= 0:
		l.drop(e)
		return nil
	case e.client:
		return l.answered(e, l.scratch[:n])
	}
	return l.asked(e, l.scratch[:n])
}

func (l *load) send(e *end, b []byte) error {
	n, err := unix.Write(e.fd, b)
	if err != nil && err != unix.EAGAIN {
		if e.client {
			return fmt.Errorf("send request: %w", err)
		}
		l.drop(e) // the proxy closed it; the client will tell
		return nil
	}
	if n = max(n, 0); n == len(b) {
		return nil
	}
	e.unsent = b[n:]
	return l.watch(e.fd, unix.EPOLLIN|unix.EPOLLOUT, unix.EPOLL_CTL_MOD)
}

var endOfHead = []byte("\r\n\r\n")

// asked takes bytes that a proxy sent to the backend.
func (l *load) asked(e *end, b []byte) error {
	if len(e.partial) > 0 {
		b = append(e.partial, b...)
	}
	for {
		at := bytes.Index(b, endOfHead)
		if at < 0 {
			break
		}
		if !e.checked {
			if err := checkRequest(b[:at+2]); err != nil {
				return err
			}
			e.checked = true
		}
		b = b[at+len(endOfHead):]
		if err := l.send(e, l.response); err != nil {
			return err
		}
	}
	e.partial = append(e.partial[:0], b...)
	return nil
}

// checkRequest makes sure that a proxy does the work it is compared for.
func checkRequest(head []byte) error {
	folded := bytes.ToLower(head)
	for _, want := range []string{
		" /bench/path?x=1 http/1.1\r\n", "\r\nhost: web.default.mesh.internal\r\n", "\r\nx-request-id: ", "\r\nx-forwarded-for: 127.0.0.1\r\n",
	} {
		if !bytes.Contains(folded, []byte(want)) {
			return fmt.Errorf("proxy sent no %q in %q", want, head)
		}
	}
	return nil
}

// answered takes bytes that a proxy sent to a client.
func (l *load) answered(e *end, b []byte) error {
	if e.remaining < 0 {
		if len(e.partial) > 0 {
			b = append(e.partial, b...)
		}
		at := bytes.Index(b, endOfHead)
		if at < 0 {
			e.partial = append(e.partial[:0], b...)
			return nil
		}
		if err := l.checkResponse(b[:at+2]); err != nil {
			return err
		}
		e.partial = e.partial[:0]
		b = b[at+len(endOfHead):]
		e.remaining = l.size
	}
	if len(b) > e.remaining {
		return fmt.Errorf("proxy sent %d bytes more than the response has", len(b)-e.remaining)
	}
	if e.remaining -= len(b); e.remaining > 0 {
		return nil
	}
	e.remaining = -1
	l.done++
	return l.ask(e)
}

func (l *load) checkResponse(head []byte) error {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("proxy answered %q", head)
	}
	const name = "ontent-length: "
	_, value, found := bytes.Cut(head, []byte(name))
	if !found {
		if _, value, found = bytes.Cut(head, []byte("ontent-Length: ")); !found {
			return fmt.Errorf("proxy answered without a length: %q", head)
		}
	}
	value, _, _ = bytes.Cut(value, []byte("\r"))
	if n, err := strconv.Atoi(string(value)); err != nil || n != l.size {
		return fmt.Errorf("proxy answered %q bytes, want %d", value, l.size)
	}
	return nil
}
