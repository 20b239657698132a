package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// stream is both ends of proxies of TCP: clients write one chunk after the other, the backend reads. At the end a client closes its
// half; the backend answers how many bytes came. The backend looks at the first bytes of a connection and has the kernel
// throw the others away (MSG_TRUNC), so that the proxy is what is busy.
type stream struct {
	chunk []byte // of one write
	conns int

	epoll, listener int
	addr            netip.AddrPort
	ends            map[int32]*streamEnd
	clients         []*streamEnd
	scratch         []byte
	taken           int // bytes by the backend
}

type streamEnd struct {
	fd      int
	client  bool
	moved   int64 // bytes that a client has written, or a backend has read
	offset  int   // of a client in its chunk
	answer  []byte
	written bool // a client has closed its half
	done    bool
}

// lookedAt is how many bytes of a connection the backend compares; it divides the chunk.
const lookedAt = 64 << 10

func newStream(conns, chunk int) (*stream, error) {
	s := &stream{conns: conns, chunk: bytes.Repeat([]byte("0123456789abcdef"), chunk/16), ends: map[int32]*streamEnd{}, scratch: make([]byte, lookedAt)}
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if s.listener, s.addr, err = listen(); err != nil {
		return nil, errors.Join(err, unix.Close(s.epoll))
	}
	return s, s.watch(s.listener, unix.EPOLLIN)
}

func (s *stream) backendAddr() netip.AddrPort { return s.addr }

func (s *stream) watch(fd int, events uint32) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Fd: int32(fd), Events: events})
}

func (s *stream) close() {
	for _, e := range s.ends {
		unix.Close(e.fd)
	}
	unix.Close(s.listener)
	unix.Close(s.epoll)
}

func (s *stream) connect(to netip.AddrPort) error {
	for range s.conns {
		fd, err := dial(to)
		if err != nil {
			return err
		}
		e := &streamEnd{fd: fd, client: true}
		s.clients = append(s.clients, e)
		s.ends[int32(fd)] = e
		if err := errors.Join(unix.SetNonblock(fd, true), s.watch(fd, unix.EPOLLIN|unix.EPOLLOUT)); err != nil {
			return err
		}
	}
	return nil
}

// run moves bytes for a while and returns how many came.
func (s *stream) run(d time.Duration) (int, error) {
	s.taken = 0
	for start := time.Now(); time.Since(start) < d; {
		if err := s.turn(); err != nil {
			return s.taken, err
		}
	}
	return s.taken, nil
}

func (s *stream) turn() error {
	var events [64]unix.EpollEvent
	n, err := waitFor(s.epoll, events[:], 20)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	for _, ev := range events[:n] {
		if err := s.event(ev); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) event(ev unix.EpollEvent) error {
	if int(ev.Fd) == s.listener {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		s.ends[int32(fd)] = &streamEnd{fd: fd}
		return s.watch(fd, unix.EPOLLIN)
	}
	e := s.ends[ev.Fd]
	switch {
	case e == nil:
		return nil
	case !e.client:
		return s.read(e)
	case ev.Events&unix.EPOLLOUT != 0 && !e.written:
		if err := s.write(e); err != nil {
			return err
		}
	}
	if ev.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		return s.hear(e)
	}
	return nil
}

// write writes a chunk or what is left of one.
func (s *stream) write(e *streamEnd) error {
	n, err := rawWrite(e.fd, s.chunk[e.offset:])
	if err == unix.EAGAIN {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write to proxy: %w", err)
	}
	e.moved += int64(n)
	e.offset = (e.offset + n) % len(s.chunk)
	return nil
}

// read takes bytes at the backend.
func (s *stream) read(e *streamEnd) error {
	var n int
	var err error
	if e.moved < lookedAt {
		n, err = rawRead(e.fd, s.scratch[:lookedAt-e.moved])
		if n > 0 && !bytes.Equal(s.scratch[:n], s.chunk[e.moved:int(e.moved)+n]) {
			return fmt.Errorf("proxy changed the bytes after the first %d", e.moved)
		}
	} else {
		n, err = discard(e.fd, s.scratch)
	}
	switch {
	case err == unix.EAGAIN:
		return nil
	case err != nil:
		s.drop(e)
		return nil // the client will tell
	case n == 0:
		_, err := unix.Write(e.fd, binary.BigEndian.AppendUint64(nil, uint64(e.moved)))
		s.drop(e)
		return err
	}
	e.moved += int64(n)
	s.taken += n
	return nil
}

// hear takes the backend's answer at a client.
func (s *stream) hear(e *streamEnd) error {
	n, err := rawRead(e.fd, s.scratch)
	switch {
	case err == unix.EAGAIN:
		return nil
	case err != nil || n == 0 && len(e.answer) < 8:
		return fmt.Errorf("proxy closed a client's connection after %d bytes (%v)", e.moved, err)
	case n == 0:
		if got := int64(binary.BigEndian.Uint64(e.answer)); got != e.moved {
			return fmt.Errorf("proxy passed on %d bytes of %d", got, e.moved)
		}
		e.done = true
		s.drop(e)
		return nil
	}
	e.answer = append(e.answer, s.scratch[:n]...)
	if !e.written || len(e.answer) > 8 {
		return fmt.Errorf("proxy sent %q", e.answer)
	}
	return nil
}

func (s *stream) drop(e *streamEnd) {
	delete(s.ends, int32(e.fd))
	unix.Close(e.fd)
}

// disconnect closes the clients' halves and waits until all bytes have come.
func (s *stream) disconnect() error {
	clients := s.clients
	s.clients = nil
	var err error
	for _, e := range clients {
		e.written = true
		err = errors.Join(err, unix.Shutdown(e.fd, unix.SHUT_WR),
			unix.EpollCtl(s.epoll, unix.EPOLL_CTL_MOD, e.fd, &unix.EpollEvent{Fd: int32(e.fd), Events: unix.EPOLLIN}))
	}
	for _, e := range clients {
		for start := time.Now(); err == nil && !e.done; {
			if time.Since(start) > 10*time.Second {
				err = errors.New("proxy keeps the end of a client's bytes to itself")
				break
			}
			err = s.turn()
		}
	}
	for _, e := range clients {
		if !e.done {
			s.drop(e)
		}
	}
	return err
}
