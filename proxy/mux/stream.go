package mux

import (
	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// Stream is one exchange on a connection, until Close.
type Stream struct {
	c    *Conn
	s    *http2.Stream // nil: closed
	recv Receiver

	held int    // content that was given and not pulled
	wait []byte // content that the windows do not allow yet, from at
	at   int
	end  bool            // wait ends the message, or tail does
	tail *message.Fields // the trailers behind wait

	waits bool // in the connection's list of those to be told
	after *Stream
}

// stream makes the stream of a protocol's stream.
func (c *Conn) stream(s *http2.Stream, r Receiver) *Stream {
	a := c.arena
	var st *Stream
	if n := len(a.free); n > 0 {
		st = a.free[n-1]
		a.free = a.free[:n-1]
	} else {
		st = new(Stream)
	}
	*st = Stream{c: c, s: s, recv: r}
	s.User = st
	c.resting = false
	return st
}

// Each passes every open stream and its receiver to f, which must not close them.
func (c *Conn) Each(f func(*Stream, Receiver)) {
	c.Conn.Each(func(h *http2.Stream) {
		if s, ok := h.User.(*Stream); ok && s.s == h {
			f(s, s.recv)
		}
	})
}

// Held is the memory in which content of the stream waits for the peer.
func (s *Stream) Held() int { return cap(s.wait) }

// Held is the memory of the connection's own buffers.
func (c *Conn) Held() int { return cap(c.in) + cap(c.out) }

// Use has r told what comes from now on.
func (s *Stream) Use(r Receiver) { s.recv = r }

// Conn is the stream's connection.
func (s *Stream) Conn() *Conn { return s.c }

// ID is the stream's number.
func (s *Stream) ID() uint32 { return s.s.ID() }

// SendHead writes a head with what e, which may be nil, changes in it. With end nothing follows.
func (s *Stream) SendHead(h *message.Head, e *message.Edit, end bool) {
	c := s.c
	if c.Pending() { // it may tell of the end of a stream whose place this one takes
		c.control()
	}
	c.out = c.AppendHeaders(c.room(2<<10), s.s, h, e, end)
	c.wrote()
}

// Send writes content. What cannot be sent yet is kept, so nothing more should be written while the stream is congested.
func (s *Stream) Send(b []byte, end bool) {
	if s.s.Over() {
		return
	}
	if s.Pending() {
		s.keep(b, end)
		return
	}
	if n := s.write(b, end); n < len(b) {
		s.keep(b[n:], end)
	}
	s.c.wrote()
}

// SendTrailers writes a trailer section, which ends the message.
func (s *Stream) SendTrailers(t *message.Fields, e *message.Edit) {
	c := s.c
	if s.Pending() {
		s.tail = c.arena.fields()
		s.tail.Copy(t)
		s.end = true
		return
	}
	c.out = c.AppendTrailers(c.room(1<<10), s.s, t, e)
	c.wrote()
}

const (
	keptTails    = 64
	keptTailText = 4 << 10
)

// fields returns fields for trailers that have to wait; give, which takes nil too, takes them back.
func (a *Arena) fields() *message.Fields {
	n := len(a.tails)
	if n == 0 {
		return new(message.Fields)
	}
	t := a.tails[n-1]
	a.tails = a.tails[:n-1]
	return t
}

func (a *Arena) give(t *message.Fields) {
	if t != nil && len(a.tails) < keptTails && cap(t.Text) <= keptTailText {
		a.tails = append(a.tails, t)
	}
}

// write moves as much as the windows allow to the output.
func (s *Stream) write(b []byte, end bool) (n int) {
	c := s.c
	for first := true; n < len(b) || first && end; first = false {
		header, take := c.DataHeader(s.s, len(b)-n, end)
		if take == 0 && n < len(b) {
			return n
		}
		if c.Pending() { // a peer may want its settings acknowledged first
			c.control()
		}
		c.out = append(c.room(len(header)+take), header[:]...)
		c.out = append(c.out, b[n:n+take]...)
		n += take
	}
	return n
}

// Pending reports whether content waits here for the peer's windows: to close the stream now would cut it off.
func (s *Stream) Pending() bool { return s.wait != nil }

// Unsent is how many bytes of content wait so.
func (s *Stream) Unsent() int { return len(s.wait) - s.at }

func (s *Stream) keep(b []byte, end bool) {
	l := s.c.loop
	if s.wait == nil {
		s.wait = l.Buffer(len(b))
	}
	s.wait = append(l.Grow(s.wait, len(b)), b...)
	s.end = s.end || end
}

// resume goes on with what was kept.
func (s *Stream) resume() {
	if s.wait == nil {
		return
	}
	s.at += s.write(s.wait[s.at:], s.end && s.tail == nil)
	if s.at < len(s.wait) {
		s.c.wrote()
		return
	}
	s.c.loop.Release(s.wait)
	s.wait, s.at = nil, 0
	if t := s.tail; t != nil {
		s.tail = nil
		s.SendTrailers(t, nil)
		s.c.arena.give(t)
	}
	s.c.wrote()
	if s.s != nil && !s.waits {
		s.recv.Writable()
	}
}

// Congested reports whether what was written last is still waiting here. If so the receiver's Writable is called when it is not.
func (s *Stream) Congested() bool {
	c := s.c
	if s.Pending() {
		return true
	}
	if !c.stuck {
		return false
	}
	if !s.waits {
		s.waits = true
		s.after, c.waiting = c.waiting, s
	}
	return true
}

// Pull lets the peer send on after a Content that wanted no more.
func (s *Stream) Pull() {
	if s.held > 0 && s.s != nil {
		s.c.Consumed(s.s, s.held)
		s.held = 0
		if s.c.Pending() {
			s.c.mark()
		}
	}
}

// Cancel resets a stream that is not over.
func (s *Stream) Cancel(code http2.ErrCode) {
	s.c.Cancel(s.s, code)
	s.c.mark()
}

// Close gives the stream back. One that is not over is reset. The receiver is told nothing more.
func (s *Stream) Close() {
	if s.s == nil {
		return
	}
	c := s.c
	c.Release(s.s)
	if s.waits {
		for at := &c.waiting; *at != nil; at = &(*at).after {
			if *at == s {
				*at = s.after
				break
			}
		}
	}
	c.loop.Release(s.wait)
	c.arena.give(s.tail)
	*s = Stream{c: c}
	if len(c.arena.free) < 1024 {
		c.arena.free = append(c.arena.free, s)
	}
	if c.closed {
		return
	}
	if c.Pending() {
		c.mark()
	}
	if c.Active() == 0 {
		c.owner.Idle()
	}
}

var _ loop.Flusher = (*Conn)(nil)
