package http2

import "encoding/binary"

// beginData takes the header of a DATA frame. All of the frame counts against the windows (RFC 9113 section 6.9.1). That of the
// connection is given back whatever becomes of the content: it bounds what is under way, and only a stream's own window what is held
// of it. Streams that nobody reads would stall all others else.
func (c *Conn) beginData(f frame, p []byte, to Handler) (n int, code ErrCode) {
	n = frameHeaderSize
	pad := 0
	if f.has(flagPadded) {
		if f.length == 0 {
			return 0, FrameSizeError
		}
		if len(p) <= n {
			return 0, NoError
		}
		if pad = int(p[n]); pad >= f.length {
			return 0, ProtocolError
		}
		n++
	}
	overhead := n - frameHeaderSize + pad
	length := f.length - overhead
	c.data = content{open: true, left: length, pad: pad, end: f.has(flagEndStream)}
	s := c.table.find(f.stream)
	if s == nil && c.idle(f.stream) {
		return n, ProtocolError
	}
	c.giveBack(f.length)
	if s == nil || s.reset {
		code = c.lateData(s, f, to)
	} else if wrong := s.take(f.length, length, c.data.end); wrong != NoError {
		code = c.streamError(s, f.stream, wrong, to)
	} else {
		c.data.stream = s
		c.giveBackStream(s, overhead)
	}
	if code == NoError && length == 0 && !c.data.end {
		code = c.charge(emptyNoise, InboundEmptyFramesFlood)
	}
	if code == NoError && length == 0 {
		c.endContent(nil, to)
	}
	return n, code
}

// lateData is content for a stream that is closed.
func (c *Conn) lateData(s *Stream, f frame, to Handler) ErrCode {
	switch {
	case s == nil && !c.late(f.stream):
		return c.streamError(nil, f.stream, StreamClosed, to)
	case f.length == 0 || f.length > int(c.underWay.bytes):
		return c.chargeLate()
	}
	c.underWay.bytes -= int32(f.length)
	return NoError
}

// take counts content against the window and the length that was told.
func (s *Stream) take(frame, length int, end bool) ErrCode {
	switch {
	case s.ended:
		return StreamClosed
	case !s.started:
		return ProtocolError
	}
	if s.window -= frame; s.window < 0 {
		return FlowControlError
	}
	if s.remaining >= 0 {
		s.remaining -= int64(length)
		if s.remaining < 0 || end && s.remaining != 0 {
			return ProtocolError
		}
	}
	return NoError
}

// readContent gives content as it comes, then skips the padding.
func (c *Conn) readContent(p []byte, to Handler) (n int) {
	d := &c.data
	if d.left == 0 {
		n = min(len(p), d.pad)
		d.pad -= n
		d.open = d.pad > 0
		return n
	}
	n = min(len(p), d.left)
	d.left -= n
	if d.left == 0 {
		c.endContent(p[:n], to)
		return n
	}
	c.giveContent(p[:n], false, to)
	return n
}

func (c *Conn) endContent(p []byte, to Handler) {
	d := &c.data
	d.open = d.pad > 0
	if s := d.stream; s != nil && d.end && !s.reset && !s.released {
		s.ended = true
		c.finished(s)
	}
	if len(p) > 0 || d.end {
		c.giveContent(p, d.end, to)
	}
	d.stream = nil
}

func (c *Conn) giveContent(p []byte, end bool, to Handler) {
	s := c.data.stream
	if s == nil || s.reset || s.released {
		c.data.stream = nil
		return
	}
	s.held += len(p)
	to.Data(s, p, end)
}

// Consumed tells that n bytes of a stream's content are no longer held here: the peer may send as many again.
func (c *Conn) Consumed(s *Stream, n int) {
	n = min(n, s.held)
	s.held -= n
	c.giveBackStream(s, n)
}

// giveBack opens the connection's window again by n bytes, once half of it is used up. As that is never less than a frame, a peer that
// keeps to the window cannot be told from one that does not.
func (c *Conn) giveBack(n int) {
	c.credit += int32(n)
	if int(c.credit) >= c.limits.ConnWindow/2 {
		c.control = appendWindowUpdate(c.control, 0, int(c.credit))
		c.credit = 0
	}
}

func (c *Conn) giveBackStream(s *Stream, n int) {
	s.credit += n
	if s.credit >= (c.limits.Window+1)/2 && !s.ended && !s.reset {
		c.control = appendWindowUpdate(c.control, s.id, s.credit)
		s.window += s.credit
		s.credit = 0
	}
}

func (c *Conn) windowUpdate(f frame, p []byte, to Handler) ErrCode {
	if len(p) != 4 {
		return FrameSizeError
	}
	n := int(binary.BigEndian.Uint32(p) & maxWindow)
	if f.stream == 0 {
		if n == 0 {
			return ProtocolError
		}
		if c.room += n; c.room > maxWindow {
			return FlowControlError
		}
		c.wake(to)
		return c.chargeEcho(InboundWindowUpdateFlood)
	}
	if c.idle(f.stream) {
		return ProtocolError
	}
	s := c.table.find(f.stream)
	if s == nil || s.reset {
		return c.chargeEcho(InboundWindowUpdateFlood)
	}
	if n == 0 {
		return c.streamError(s, f.stream, ProtocolError, to)
	}
	if s.room += n; s.room > maxWindow {
		return c.streamError(s, f.stream, FlowControlError, to)
	}
	if s.blocked && s.room > 0 && c.room > 0 {
		c.blocked.remove(s)
		to.Writable(s)
	}
	return c.chargeEcho(InboundWindowUpdateFlood)
}

// initialWindow changes the windows of all streams (RFC 9113 section 6.9.2).
func (c *Conn) initialWindow(window int, to Handler) ErrCode {
	change := window - int(c.peer.window)
	if change == 0 {
		return NoError
	}
	c.peer.window = int32(window)
	over := false
	c.table.each(func(s *Stream) {
		s.room += change
		over = over || s.room > maxWindow
	})
	if over {
		return FlowControlError
	}
	c.wake(to)
	return NoError
}

// wake gives every waiting stream a turn, the longest waiting first, while the connection's window lasts.
func (c *Conn) wake(to Handler) {
	for range c.blocked.count {
		s := c.blocked.first
		if s == nil || c.room <= 0 {
			return
		}
		c.blocked.remove(s)
		if s.room <= 0 {
			c.blocked.push(s)
			continue
		}
		to.Writable(s)
	}
}
