// Package mux is HTTP/2 on a loop: it moves the bytes of a connection whose protocol package http2 knows, and gives each of its
// streams to a [Receiver].
//
// What the streams of a connection write during a turn of the loop is sent at once at its end. A stream keeps what the peer's
// windows do not allow yet; who writes to it must stop while [Stream.Congested]. Everything belongs to the loop's goroutine.
package mux

import (
	"errors"
	"math"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
)

const (
	turnBytes = 256 << 10 // read from one connection before the others have their turn
	// flushBytes are sent without waiting for the end of the turn.
	flushBytes = 48 << 10
	// clogBytes wait at most for a peer that does not read before nothing is begun that would add to them. Each stream that was
	// begun may still add what its receiver writes before it stops.
	clogBytes = 1 << 20
)

// Receiver is told what comes on a stream. What it is given is valid during the call. It may close the stream in any call, and
// has to in Reset.
type Receiver interface {
	// Head tells the response, informational or final. Requests are told to [Owner.Opened].
	Head(h *message.Head, end bool)
	// Content tells content. If more is false the peer is held back until Pull.
	Content(p loop.Piece, end bool) (more bool)
	Trailers(t *message.Fields)
	// Reset tells that nothing more comes and nothing can be sent: the peer cut the stream off, or (remote is false) what it
	// sent was malformed, or the connection is lost.
	Reset(code http2.ErrCode, remote bool)
	// Writable tells that a stream that was congested is so no more.
	Writable()
}

// Owner is told what concerns a connection as a whole.
type Owner interface {
	// Opened tells a new request on a server's connection. The owner gives the stream its receiver by [Stream.Use] or closes it.
	Opened(s *Stream, h *message.Head, end bool)
	// Told tells that everything was told that had been received, of which [Conn.Partial] may be left; not when that ended the connection.
	Told()
	Event(e http2.Event)
	// Idle tells that the last stream was closed.
	Idle()
	// Ended tells that the connection is over and its socket closed, after every stream was told; later than that where a client
	// broke the rules. err says why; io.EOF is an orderly end.
	Ended(err error)
}

// Arena is memory that the connections of one loop share.
type Arena struct {
	http2.Arena
	free  []*Stream
	tails []*message.Fields
}

// Counts is what a connection counts in: bytes, and what else happens; nil: that is not asked for.
type Counts struct {
	Received, Sent *uint64
	Frames         *http2.Counts
}

// Conn is one end of an HTTP/2 connection.
type Conn struct {
	http2.Conn
	arena  *Arena
	loop   *loop.Loop
	socket *loop.Conn
	owner  Owner
	counts Counts

	received, sent uint64 // bytes

	out []byte // to be sent from at
	at  int
	in  []byte // received and not used yet: a part of a frame

	waiting *Stream  // congested ones, to be told when out is gone
	failed  error    // the connection ends, when out is sent if that may still be
	shunned *shunned // a client that broke the rules
	pulse   *pulse   // nil: nobody has asked yet whether the peer is there

	before   uint32 // field sections before the one that is partial, or may be
	patience uint32 // of a server with who breaks the rules, in ms
	heard    uint32 // when something came from the peer, in ms of the loop's clock
	partial  bool
	server   bool
	dirty    bool // Flush will be called
	stuck    bool // the kernel takes no more
	readable bool
	hup      bool
	closed   bool
	busy     bool // within feed
	resting  bool // until a stream begins
	linger   bool // the connection does not end before the peer has ended it
	parting  bool // all is sent, and the peer knows
}

// Serve begins a server's connection on an open socket, whose events have to be given to Ready. early is what was read from it, at
// most [loop.SharedSize] bytes. A client that breaks the rules keeps its connection for patience, but nothing of it is read any more: it
// can read why, and cannot begin anew as fast as it can write.
func (c *Conn) Serve(l *loop.Loop, socket *loop.Conn, limits http2.Limits, a *Arena, owner Owner, counts Counts, patience time.Duration, early []byte) {
	c.begin(l, socket, a, owner, counts)
	c.server, c.patience = true, uint32(min(patience.Milliseconds(), math.MaxUint32))
	c.InitServer(limits, &a.Arena)
	c.Count(counts.Frames)
	if len(early) > 0 {
		c.in = append(l.Buffer(len(early)), early...)
	}
	c.readable = true
	c.mark()
	socket.Again()
}

// Dial begins a client's connection on an open socket, as Serve does.
func (c *Conn) Dial(l *loop.Loop, socket *loop.Conn, limits http2.Limits, a *Arena, owner Owner, counts Counts) {
	c.begin(l, socket, a, owner, counts)
	c.InitClient(limits, &a.Arena)
	c.Count(counts.Frames)
	c.mark()
}

func (c *Conn) begin(l *loop.Loop, socket *loop.Conn, a *Arena, owner Owner, counts Counts) {
	*c = Conn{arena: a, loop: l, socket: socket, owner: owner, counts: counts}
	c.hear()
}

// Ready takes the socket's events.
func (c *Conn) Ready(e loop.Event) {
	if c.closed {
		if e&(loop.Err|loop.Hup) != 0 {
			c.Abort()
		}
		return
	}
	if e&loop.Err != 0 {
		if c.server || c.failed != nil {
			errno := c.socket.Failure()
			if errno == 0 {
				errno = syscall.ECONNRESET
			}
			c.end(errno)
			return
		}
		e |= loop.Hup // a host may have answered before it reset the connection: that is read first, and then the error
	}
	if c.parting {
		c.discard()
		return
	}
	c.hup = c.hup || e&loop.Hup != 0
	c.readable = c.readable || e&(loop.In|loop.Hup) != 0
	if e&loop.Out != 0 && c.stuck {
		c.stuck = false
		c.Flush()
	}
	c.read()
}

// read feeds the protocol with what is there.
func (c *Conn) read() {
	shared := c.loop.Shared()[loop.Headroom:]
	for moved := 0; (c.readable || moved == 0 && len(c.in) > 0) && !c.closed && c.failed == nil; {
		if moved >= turnBytes {
			c.socket.Again()
			break
		}
		if c.server && c.Clogged() { // the peer's requests would go on making responses; it is read again when it reads
			break
		}
		n := copy(shared, c.in)
		m, err := 0, error(nil)
		if n < len(shared) { // else what was read before it was known that this is HTTP/2
			m, err = c.socket.Read(shared[n:])
		}
		switch {
		case err == nil:
			c.readable = n+m == len(shared) || c.hup
			*c.counts.Received += uint64(m)
			c.received += uint64(m)
		case errors.Is(err, syscall.EAGAIN):
			c.readable = false
		default:
			c.end(err)
			return
		}
		if m == 0 && moved > 0 {
			break
		}
		c.loop.Release(c.in)
		c.in = nil
		moved += max(m, 1)
		c.feed(shared[:n+m])
	}
	switch {
	case c.closed:
	case c.Pending():
		c.mark()
	case c.resting:
		c.Conn.Rest()
	}
}

// Rest gives back what memory the connection needs only while something happens on it, until a stream begins; to be called when it
// was idle for a while, and not while something is told. A ping is answered at rest.
func (c *Conn) Rest() {
	c.resting = true
	c.Conn.Rest()
}

func (c *Conn) feed(data []byte) {
	c.hear()
	c.Tick(uint32(c.loop.Now()/1e9) + 1)
	c.busy = true
	used, err := c.Feed(data, (*handler)(c))
	if err == nil && !c.closed {
		c.before, c.partial = c.Unfinished(data[used:])
		c.owner.Told()
	}
	c.busy = false
	switch {
	case c.closed:
		return
	case err != nil:
		c.fail(err)
		return
	}
	if used < len(data) {
		c.in = append(c.loop.Buffer(len(data)-used), data[used:]...)
	}
}

// Partial reports whether a field section of the peer's, or the client's preface, has begun and is not complete, which keeps all else
// back, and how many sections were before it.
func (c *Conn) Partial() (before uint32, is bool) { return c.before, c.partial }

// mark has what is to be sent sent at the end of the turn.
func (c *Conn) mark() {
	if !c.dirty && !c.closed {
		c.dirty = true
		c.loop.AtEnd(c)
	}
}

// Flush sends what is to be sent.
func (c *Conn) Flush() {
	c.dirty = false
	if c.closed || c.stuck {
		return
	}
	if c.failed == nil || errors.As(c.failed, new(http2.ErrCode)) {
		if err := c.push(); err != nil {
			c.end(err)
			return
		}
	}
	switch {
	case c.parting:
	case c.failed != nil && !c.stuck && c.linger && !c.hup:
		c.parting = true
		c.socket.CloseWrite()
		c.socket.Again() // for what has come meanwhile
	case c.failed != nil && !c.stuck:
		c.end(c.failed)
	case !c.stuck:
		c.wake()
		if c.resting {
			c.Conn.Rest()
		}
	}
}

// push writes what the kernel takes.
func (c *Conn) push() error {
	if c.Pending() {
		c.control()
	}
	if c.at < len(c.out) {
		n, err := c.socket.Write(c.out[c.at:])
		c.at += n
		*c.counts.Sent += uint64(n)
		c.sent += uint64(n)
		if err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				return err
			}
			c.stuck = true
			if c.at > len(c.out)/2 {
				c.out, c.at = c.out[:copy(c.out, c.out[c.at:])], 0
			}
			return nil
		}
	}
	c.loop.Release(c.out)
	c.out, c.at = nil, 0
	c.stuck = c.socket.Pending()
	return nil
}

// wake tells those who waited for the output to be gone.
func (c *Conn) wake() {
	for c.waiting != nil && !c.stuck && !c.closed {
		s := c.waiting
		c.waiting = s.after
		s.after, s.waits = nil, false
		if !s.Pending() {
			s.recv.Writable()
		}
	}
}

// control moves the frames of the connection itself to the output. They go before what is written from now on.
func (c *Conn) control() {
	c.out = c.AppendControl(c.room(1 << 10))
}

// room returns the output with room for n more bytes, which is not enough for all: append may grow it.
func (c *Conn) room(n int) []byte {
	if c.out == nil {
		c.out = c.loop.Buffer(max(n, 4<<10))
	}
	return c.loop.Grow(c.out, n)
}

// wrote is called when something was written to out.
func (c *Conn) wrote() {
	if len(c.out)-c.at >= flushBytes && !c.stuck {
		if err := c.push(); err != nil && c.failed == nil {
			c.failed = err // nobody on the stack is to be told now
		}
	}
	c.mark()
}

// Open begins a stream of a client; nil when the peer takes no more now.
func (c *Conn) Open(r Receiver) *Stream {
	if c.closed || c.failed != nil {
		return nil
	}
	h := c.Conn.Open()
	if h == nil {
		return nil
	}
	return c.stream(h, r)
}

// Moved is how many bytes came and went on the connection.
func (c *Conn) Moved() (received, sent uint64) { return c.received, c.sent }

// Closed reports whether the connection is over.
func (c *Conn) Closed() bool { return c.closed || c.failed != nil }

// Clogged reports whether so much waits for a peer that does not read that nothing should be begun which adds to it.
func (c *Conn) Clogged() bool { return c.stuck && len(c.out)-c.at >= clogBytes }

// Unsent is how many bytes wait here for the kernel to take them.
func (c *Conn) Unsent() int { return len(c.out) - c.at }

// Busy reports whether what came on the connection is being told: it cannot be aborted now.
func (c *Conn) Busy() bool { return c.busy }

// Lost reports whether the connection is gone, which is why a stream is reset.
func (c *Conn) Lost() bool { return c.closed }

// Broken reports whether the connection ends, or ended, because the peer broke the rules.
func (c *Conn) Broken() bool {
	var code http2.ErrCode
	return errors.As(c.failed, &code) && code != http2.NoError
}

// Drain tells the peer to begin no more streams; last also names the last one that is taken.
func (c *Conn) Drain(last bool) {
	if !c.closed {
		c.Shutdown(last)
		c.mark()
	}
}

// handler is a connection as the protocol tells it of things.
type handler Conn

func (h *handler) Headers(s *http2.Stream, head *message.Head, end bool) {
	if s.User != nil {
		s.User.(*Stream).recv.Head(head, end)
		return
	}
	c := (*Conn)(h)
	c.owner.Opened(c.stream(s, nil), head, end)
}

func (h *handler) Data(s *http2.Stream, p []byte, end bool) {
	st, ok := s.User.(*Stream)
	if !ok {
		return
	}
	if more := st.recv.Content(loop.Sealed(p), end); st.s != s { // closed
		return
	} else if !more {
		st.held += len(p)
		return
	}
	h.Consumed(s, len(p))
}

func (h *handler) Trailers(s *http2.Stream, f *message.Fields) {
	if st, ok := s.User.(*Stream); ok {
		st.recv.Trailers(f)
	}
}

func (h *handler) Reset(s *http2.Stream, code http2.ErrCode, remote bool) {
	if st, ok := s.User.(*Stream); ok {
		st.recv.Reset(code, remote)
	}
}

func (h *handler) Writable(s *http2.Stream) {
	if st, ok := s.User.(*Stream); ok {
		st.resume()
	}
}

func (h *handler) Event(e http2.Event) {
	if e == http2.EventPingAck && h.pulse != nil && h.pulse.answered() && h.server {
		return
	}
	h.owner.Event(e)
}
