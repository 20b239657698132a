package loop

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

const (
	recordBytes = 16 << 10 // of plaintext in one record of TLS at most
	// pendingLimit is where no more is read before what waits is sent: reading makes crypto/tls answer some messages
	// (KeyUpdate), and a peer could send those and never read. It is above what one record can leave.
	pendingLimit = recordBytes + 4<<10
	// turnRecords are read at once, so that a peer whose records have a byte each does not hold up the loop.
	turnRecords = 128
)

// session is TLS over the socket of conn. It is the socket's handler and passes events on to the connection's own.
//
// crypto/tls is given the socket as a net.Conn (wire). After the handshake, which blocks and has a goroutine of its
// own, everything happens on the loop: the wire's Read says EAGAIN, a net.Error whose Temporary is true, which
// crypto/tls takes for a pause and not for the end; its Write takes everything, and what the kernel does not take waits in
// pending.
type session struct {
	conn    *Conn // nil when it was closed
	handler Handler
	fd      int
	tls     *tls.Conn
	shake   *handshake // nil when the handshake is over
	state   *State

	pending []byte // ciphertext that the kernel did not take, from sent
	sent    int
	readErr error // the end of reading, told once all before it was read
	sendErr error
	records frames // of what crypto/tls was given
	told    Event  // to be told with the next turn
	idle    Timer  // runs after large records
	busy    bool   // there was input since it was started

	readable bool // the socket may have more
	hup      bool // the peer will send no more: a short read is no sign that all was read
	inside   bool // crypto/tls may hold something to read
	peeked   bool // ahead is the next byte to read
	ahead    [1]byte
	starved  bool // reading waits for pending to be gone
	more     bool // another record follows at once
	closing  bool // close_notify was sent
	reset    bool // the end is not to be in good order
}

// Ready takes the socket's events.
func (s *session) Ready(e Event) {
	if e&(Hup|Err) != 0 {
		s.hup = true
	}
	if s.shake != nil {
		s.shake.event(s, e)
		return
	}
	if s.state == nil {
		return // the handshake failed; the connection is to be closed
	}
	if e&Retry == 0 && e&(In|Hup|Err) != 0 { // a turn that was asked for says nothing of the socket
		s.readable = true
	}
	e |= s.told
	s.told = 0
	if e&Out != 0 && len(s.pending) > 0 && !s.flush() {
		if e &^= Out; e == 0 {
			return
		}
	}
	s.handler.Ready(e)
}

// read fills p record by record.
func (s *session) read(p []byte) (n int, err error) {
	switch {
	case s.state == nil:
		return 0, s.unready(s.readErr)
	case len(s.pending)-s.sent > pendingLimit:
		s.starved = true
		return 0, syscall.EAGAIN
	case s.peeked:
		p[0] = s.ahead[0]
		s.peeked = false
		n = 1
	}
	for turn := 0; n < len(p) && s.readErr == nil && (s.inside || s.readable); turn++ {
		if turn == turnRecords {
			s.conn.Again() // the reader takes this for all there is
			return n, nil
		}
		m, err := s.tls.Read(p[n:])
		n += m
		s.took(err, n == len(p))
	}
	if !s.inside && s.readErr == nil {
		s.drained()
	}
	switch {
	case n > 0:
		if s.readErr != nil {
			s.conn.Again()
		}
		return n, nil
	case s.readErr != nil:
		return 0, s.readErr
	}
	return 0, syscall.EAGAIN
}

// took notes what a read of crypto/tls came to; full says that it may have had more to give.
func (s *session) took(err error, full bool) {
	switch {
	case err == nil:
		// The wire is read only when no whole record is left. So when one came by the last read of the wire, and
		// bytes of it were just given and all of them, there is no other.
		s.inside = full || s.records.whole > 1
	case errors.Is(err, syscall.EAGAIN):
		s.inside = false
	case errors.Is(err, io.EOF) && s.readErr == io.ErrUnexpectedEOF: // the wire has said so
	default:
		s.readErr = err
	}
}

// quiet looks for a byte to read, or the end; what it finds is kept for read, and the handler told again, since the
// socket will not.
func (s *session) quiet() bool {
	if s.state == nil {
		return s.shake != nil
	}
	if s.peeked || s.readErr != nil {
		return false
	}
	s.readable = true // the event may not have been told yet
	n, err := s.tls.Read(s.ahead[:])
	s.peeked = n > 0
	s.took(err, n > 0)
	if !s.peeked && s.readErr == nil {
		return true
	}
	s.conn.Again()
	return false
}

// write encrypts p record by record, as long as the kernel takes them.
func (s *session) write(p []byte) (n int, err error) {
	if s.state == nil {
		return 0, s.unready(s.sendErr)
	}
	for n < len(p) {
		if s.sendErr != nil {
			return n, s.sendErr
		}
		if len(s.pending) > 0 {
			return n, syscall.EAGAIN
		}
		record := p[n:min(n+recordBytes, len(p))]
		s.more = n+len(record) < len(p)
		m, err := s.tls.Write(record)
		s.more = false
		n += m
		if err != nil && s.sendErr == nil {
			return n, err
		}
	}
	return n, s.sendErr
}

// unready is what reading and writing come to while there is no TLS yet, or will not be.
func (s *session) unready(err error) error {
	if err == nil {
		return syscall.EAGAIN
	}
	return err
}

// flush sends what is pending and reports whether all of it is gone.
func (s *session) flush() bool {
	n, err := s.conn.Socket.Write(s.pending[s.sent:])
	s.sent += n
	if errors.Is(err, syscall.EAGAIN) {
		return false
	}
	s.sendErr = err
	s.drop()
	if s.closing {
		s.conn.Socket.CloseWrite()
	}
	if s.starved {
		s.starved = false
		s.conn.Again()
	}
	return true
}

func (s *session) drop() {
	s.conn.loop.Release(s.pending)
	s.pending, s.sent = nil, 0
}

// keep has ciphertext wait.
func (s *session) keep(p []byte) {
	l := s.conn.loop
	if s.sent > 0 {
		s.pending = s.pending[:copy(s.pending, s.pending[s.sent:])]
		s.sent = 0
	}
	if s.pending == nil {
		s.pending = l.Buffer(len(p))
	}
	s.pending = append(l.Grow(s.pending, len(p)), p...)
}

func (s *session) closeWrite() {
	if s.closing || s.state == nil {
		return
	}
	s.closing = true
	_ = s.tls.CloseWrite() // it fails only when nothing can be sent any more
	if len(s.pending) == 0 {
		s.conn.Socket.CloseWrite()
	}
}

func (s *session) close() {
	c := s.conn
	if h := s.shake; h != nil {
		c.gaveUp()
		h.abandon()
	} else {
		orderly := s.readErr == nil || s.readErr == io.EOF
		if s.state != nil && orderly && !s.reset && !s.closing && s.sendErr == nil && len(s.pending) == 0 {
			_ = s.tls.CloseWrite()
		}
		s.drop()
		s.idle.Stop()
		c.Socket.Close()
	}
	s.conn = nil
}

// wire is the socket as crypto/tls is given it.
type wire session

// Read reads ciphertext: on the handshake's goroutine until there is some, on the loop what there is.
func (w *wire) Read(p []byte) (n int, err error) {
	s := (*session)(w)
	if s.shake != nil {
		n, err = s.shake.read(p)
	} else if s.readable {
		n, err = s.conn.Socket.Read(p)
		s.readable = n == len(p) || s.hup
	} else {
		err = syscall.EAGAIN
	}
	s.records.given(p[:n])
	switch {
	case errors.Is(err, io.EOF) && s.shake == nil:
		// crypto/tls takes this for an end in good order if it is between records. It is none: after close_notify
		// nothing is read.
		s.readErr = io.ErrUnexpectedEOF
	case errors.Is(err, syscall.EAGAIN):
		s.readable = false
	}
	return n, err
}

// Write sends ciphertext: on the handshake's goroutine all of it, on the loop what the kernel takes; the rest waits.
func (w *wire) Write(p []byte) (int, error) {
	s := (*session)(w)
	switch {
	case s.shake != nil:
		return s.shake.write(p)
	case s.sendErr != nil:
		return 0, s.sendErr
	case len(s.pending) > 0:
		s.keep(p)
		return len(p), nil
	}
	n, err := s.conn.send(p, s.more)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EAGAIN):
		s.keep(p[n:])
	default:
		s.sendErr = err
		return n, err
	}
	return len(p), nil
}

// Close does nothing: the socket is the Conn's.
func (w *wire) Close() error { return nil }

// LocalAddr is for the configuration's callbacks.
func (w *wire) LocalAddr() net.Addr {
	socket := Socket{fd: w.fd}
	return net.TCPAddrFromAddrPort(socket.LocalAddr())
}

// RemoteAddr is also what a client keeps sessions by when the configuration names no server.
func (w *wire) RemoteAddr() net.Addr {
	socket := Socket{fd: w.fd}
	return net.TCPAddrFromAddrPort(socket.RemoteAddr())
}

// SetDeadline and its kind do nothing: who has the Conn has timers, and closes it.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// frames follows the records of a stream of ciphertext.
type frames struct {
	whole   int // records that ended in what was given last
	longest int // of the records since it was set to 0
	at      int // bytes of the present record's header that were seen
	left    int // bytes that its body still has
}

const headerBytes = 5 // in front of each record; the last two are its length

func (f *frames) given(p []byte) {
	f.whole = 0
	for len(p) > 0 {
		if f.at < headerBytes {
			f.left = f.left<<8 | int(p[0])
			f.at++
			p = p[1:]
			if f.at == headerBytes {
				f.left &= 0xffff
				f.longest = max(f.longest, f.left)
			}
		} else {
			n := min(f.left, len(p))
			f.left -= n
			p = p[n:]
		}
		if f.at == headerBytes && f.left == 0 {
			f.at = 0
			f.whole++
		}
	}
}
