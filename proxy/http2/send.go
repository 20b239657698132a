package http2

import "github.com/hostmesh/hostmesh/proxy/message"

// Slots is how many streams a client can open now.
func (c *Conn) Slots() int {
	if c.gone || c.failed != NoError || c.nextID > maxWindow-2*uint32(c.active) {
		return 0
	}
	return max(0, int(min(c.peer.streams, uint32(c.limits.Streams)))-int(c.active))
}

// ExtendedConnect reports whether the peer, a server, takes :protocol.
func (c *Conn) ExtendedConnect() bool { return c.connect }

// Active is the number of streams that are not released.
func (c *Conn) Active() int { return int(c.active) }

// Open begins a stream of a client; nil without a slot. It gets its number when its head is written.
func (c *Conn) Open() *Stream {
	if !c.client || c.Slots() == 0 {
		return nil
	}
	c.rouse()
	s := c.arena.stream()
	c.active++
	return s
}

// AppendHeaders writes a head with what e, which may be nil, changes in it. Heads must be sent in the order in which they were
// written.
func (c *Conn) AppendHeaders(dst []byte, s *Stream, h *message.Head, e *message.Edit, end bool) []byte {
	if s.reset || s.done {
		return dst
	}
	if c.client && s.id == 0 {
		s.id, s.window, s.room, s.remaining = c.nextID, c.streamWindow(), int(c.peer.window), -1
		s.head = h.Method == message.MethodHead && h.Protocol == message.Span{} // with a protocol it is CONNECT
		c.nextID += 2
		c.table.add(s)
	}
	dst, start := c.beginBlock(dst)
	dst = c.enc.appendHead(dst, h, e)
	return c.endBlock(dst, start, s, end)
}

// AppendTrailers writes a trailer section, which ends the message.
func (c *Conn) AppendTrailers(dst []byte, s *Stream, f *message.Fields, e *message.Edit) []byte {
	if s.reset || s.done {
		return dst
	}
	dst, start := c.beginBlock(dst)
	dst = c.enc.appendFields(dst, f, e)
	return c.endBlock(dst, start, s, true)
}

func (c *Conn) beginBlock(dst []byte) (out []byte, start int) {
	if c.urgent {
		dst = c.AppendControl(dst)
	}
	var room [frameHeaderSize]byte
	dst = append(dst, room[:]...)
	return c.enc.begin(dst), len(dst)
}

func (c *Conn) endBlock(dst []byte, start int, s *Stream, end bool) []byte {
	if end {
		s.done = true
		c.finished(s)
	}
	return appendBlock(dst, start, s.id, end, int(c.peer.frame))
}

// DataHeader makes the header of a DATA frame for the first take of n bytes, to be sent with them at once. Call it until all
// is taken. When it takes nothing of something there is no frame; Handler.Writable will tell when to go on.
// What is sent because of Writable goes behind what AppendControl has: a peer may want its settings acknowledged first.
func (c *Conn) DataHeader(s *Stream, n int, end bool) (header [frameHeaderSize]byte, take int) {
	if s.reset || s.done {
		return header, 0
	}
	take = min(n, s.room, c.room, int(c.peer.frame))
	if take <= 0 && n > 0 {
		c.blocked.push(s)
		return header, 0
	}
	take = max(take, 0) // a window may be below zero
	s.room -= take
	c.room -= take
	c.echoes += echoesPerFrame
	f := frame{take, frameData, 0, s.id}
	if end && take == n {
		f.flags = flagEndStream
		s.done = true
		c.finished(s)
	}
	return f.bytes(), take
}

// Cancel resets a stream that is not over. Its handler is not told.
func (c *Conn) Cancel(s *Stream, code ErrCode) {
	if s.reset || s.id == 0 || s.complete() {
		return
	}
	c.expectLate(s.left())
	c.cutOff(s)
	c.remember(s.id)
	c.say(appendReset(c.control, s.id, code))
	c.count(ResetSent)
}

// Release gives a stream back. One that is not over is cancelled: with NoError when only the peer's part is missing, so that
// what was sent stands.
func (c *Conn) Release(s *Stream) {
	if s.released {
		return
	}
	code := Cancel
	if s.done && !c.client {
		code = NoError
	}
	c.Cancel(s, code)
	s.held = 0
	c.blocked.remove(s)
	if c.data.stream == s {
		c.data.stream = nil
	}
	s.released = true
	s.User = nil
	c.active--
	s.queue.after, c.done = c.done, s
	if !c.feeding {
		c.forget()
	}
}

// forget takes released streams out of the table. Within Feed that waits, so that nobody walks over a stream that is gone.
func (c *Conn) forget() {
	for s := c.done; s != nil; s = s.queue.after {
		if s.id != 0 {
			c.table.remove(s)
		}
	}
	c.free()
}

// Ping asks for an answer, of which EventPingAck tells.
func (c *Conn) Ping(data [8]byte) {
	c.rouse()
	c.say(append(frame{8, framePing, 0, 0}.append(c.control), data[:]...))
}

// Shutdown tells the peer to begin no more streams: first without last, which refuses none, then, when that has had the time to
// arrive, with last, which names the last one that is taken.
func (c *Conn) Shutdown(last bool) {
	id := uint32(maxWindow)
	if last {
		c.lastTake = min(c.lastTake, c.lastPeer)
		id = c.lastTake
	}
	c.count(GoAwaySent)
	c.rouse()
	c.say(appendGoAway(c.control, id, NoError))
}

// say takes the frames that wait with more behind them, which do not answer the peer: they are no matter of its own flooding.
func (c *Conn) say(control []byte) {
	c.own += len(control) - len(c.control)
	c.control = control
}

// Close tells the handler of every stream that the connection is gone.
func (c *Conn) Close(code ErrCode, to Handler) {
	if c.work == nil {
		return
	}
	c.feeding = true
	c.table.each(func(s *Stream) {
		if !s.reset && !s.released && !s.complete() {
			c.cutOff(s)
			to.Reset(s, code, true)
		}
	})
	c.feeding = false
	c.forget()
	c.blocked = queue{}
	if c.active == 0 {
		c.giveUp()
	}
}

// Each passes every stream to f, which must not release one.
func (c *Conn) Each(f func(*Stream)) {
	if c.work != nil {
		c.table.each(f)
	}
}

// Pending reports whether AppendControl has something.
func (c *Conn) Pending() bool { return c.work != nil && len(c.control) > 0 }

// AppendControl appends what the connection itself has to send. Call it when a batch of input is done.
func (c *Conn) AppendControl(dst []byte) []byte {
	if c.work == nil {
		return dst
	}
	dst = append(dst, c.control...)
	c.control, c.own, c.urgent = c.control[:0], 0, false
	if cap(c.control) > 4<<10 {
		c.control = nil // of a flood
	}
	return dst
}
