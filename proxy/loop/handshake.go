package loop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Secured is told, on the loop, how a handshake ended. After an error the connection is still open, for its owner to
// close, and its handler hears nothing more.
type Secured interface {
	Secured(error)
}

// Handshakes bounds how many handshakes compute at the same time, in all loops that are given it. One that waits for its
// peer does not count: no number of stalled peers holds up the others.
type Handshakes struct {
	slots chan struct{}
}

// NewHandshakes makes room for n handshakes.
func NewHandshakes(n int) *Handshakes { return &Handshakes{make(chan struct{}, max(n, 1))} }

// LimitHandshakes has h bound the handshakes of the loop's connections from now on. Without it there is no bound.
func (l *Loop) LimitHandshakes(h *Handshakes) { l.handshakes = h }

// handshake is a session's while its handshake goes on. A server's begins with the client's first byte; until then
// there is no goroutine. The goroutine reads and writes the descriptor itself, and so that nobody is given its
// number meanwhile, it also closes it when the connection was closed under it.
type handshake struct {
	fd     int
	limit  *Handshakes // nil: no bound
	done   Secured
	seen   Event         // told to the handler afterwards
	begun  bool          // there is a goroutine
	holds  bool          // a slot; the goroutine's
	wake   chan struct{} // something happened on the socket; holds one
	closed chan struct{}

	mu        sync.Mutex
	abandoned bool // guarded by mu: the Conn was closed
	ended     bool // guarded by mu: the goroutine uses the descriptor no more
}

// Secure begins a handshake of TLS 1.2 or 1.3 on an open, connected Conn, as the server or the client. done is told
// once when it is over; until then the handler hears nothing. It takes as long as the peer likes: Close ends it.
//
// The configuration's callbacks run on a goroutine of their own, but for the client's session cache, which may be called on
// the loop. It should have DynamicRecordSizingDisabled, so that many bytes are few records, and must not allow renegotiation.
func (c *Conn) Secure(cfg *tls.Config, server bool, done Secured) {
	h := &handshake{
		fd: c.fd, limit: c.loop.handshakes, done: done,
		wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	quiet := server && c.Socket.Quiet()
	s := &session{conn: c, handler: c.handler, fd: c.fd, shake: h}
	c.tls, c.secured = s, true
	c.handler = s
	switch {
	case cfg.Renegotiation != tls.RenegotiateNever:
		h.ended = true
		c.loop.Post(func() { s.shaken(errors.New("the configuration allows renegotiation")) })
		return
	case server:
		s.tls = tls.Server((*wire)(s), cfg)
	default:
		s.tls = tls.Client((*wire)(s), cfg)
	}
	if !quiet {
		h.begin(s, c.loop)
	}
}

// event is told of what happened on the socket.
func (h *handshake) event(s *session, e Event) {
	h.seen |= e & (Hup | Err)
	switch {
	case e&Retry != 0: // nothing happened there
	case h.begun:
		select {
		case h.wake <- struct{}{}:
		default:
		}
	case e&(In|Hup|Err) != 0 && !h.ended:
		h.begin(s, s.conn.loop)
	}
}

func (h *handshake) begin(s *session, l *Loop) {
	h.begun = true
	go func() {
		err := h.acquire()
		if err == nil {
			err = s.tls.Handshake()
			h.release()
		}
		h.mu.Lock()
		h.ended = true
		abandoned := h.abandoned
		if abandoned {
			closeFD(h.fd)
		}
		h.mu.Unlock()
		if !abandoned {
			l.Post(func() { s.shaken(err) })
		}
	}()
}

// abandon ends the handshake of a connection that was closed.
func (h *handshake) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandoned = true
	close(h.closed)
	if !h.begun || h.ended {
		closeFD(h.fd)
	}
}

// shaken ends the handshake on the loop.
func (s *session) shaken(err error) {
	if s.conn == nil {
		return // closed meanwhile
	}
	h := s.shake
	s.shake = nil
	if err != nil {
		s.readErr = fmt.Errorf("handshake: %w", err)
		s.sendErr = s.readErr
		// What the peer sent after it went wrong would have Close reset the connection, and the alert may be lost.
		_, _ = s.conn.Socket.Read(s.conn.loop.Shared())
		h.done.Secured(s.readErr)
		return
	}
	s.state = stateOf(s.tls)
	s.trim()
	s.readable, s.inside = true, true // what happened since is known only to the goroutine
	s.told = Out | h.seen
	h.done.Secured(nil)
	if s.conn != nil {
		s.conn.Again()
	}
}

func stateOf(conn *tls.Conn) *State {
	cs := conn.ConnectionState()
	return &State{
		ALPN: cs.NegotiatedProtocol, SNI: cs.ServerName,
		Version: cs.Version, Cipher: cs.CipherSuite, Resumed: cs.DidResume,
		Peer: cs.PeerCertificates, Chains: cs.VerifiedChains,
	}
}

// acquire takes a slot for the goroutine; it fails when the connection is closed.
func (h *handshake) acquire() error {
	if h.limit == nil {
		return nil
	}
	select {
	case h.limit.slots <- struct{}{}:
		h.holds = true
		return nil
	case <-h.closed:
		return net.ErrClosed
	}
}

func (h *handshake) release() {
	if h.holds {
		h.holds = false
		<-h.limit.slots
	}
}

// wait blocks until something happened on the socket, without a slot.
func (h *handshake) wait() error {
	h.release()
	select {
	case <-h.wake:
		return h.acquire()
	case <-h.closed:
		return net.ErrClosed
	}
}

func (h *handshake) isClosed() bool {
	select {
	case <-h.closed:
		return true
	default:
		return false
	}
}

func (h *handshake) read(p []byte) (int, error) {
	socket := Socket{fd: h.fd}
	for !h.isClosed() {
		n, err := socket.Read(p)
		if !errors.Is(err, syscall.EAGAIN) {
			return n, err
		}
		if err := h.wait(); err != nil {
			return 0, err
		}
	}
	return 0, net.ErrClosed
}

func (h *handshake) write(p []byte) (int, error) {
	socket := Socket{fd: h.fd}
	sent := 0
	for !h.isClosed() {
		n, err := socket.Write(p[sent:])
		sent += n
		if !errors.Is(err, syscall.EAGAIN) {
			return sent, err
		}
		if err := h.wait(); err != nil {
			return sent, err
		}
	}
	return sent, net.ErrClosed
}
