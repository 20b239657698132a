package http2

import (
	"encoding/binary"

	"github.com/hostmesh/hostmesh/proxy/message"
)

const (
	settingTable      = 1
	settingPush       = 2
	settingStreams    = 3
	settingWindow     = 4
	settingFrame      = 5
	settingHeaderList = 6
	settingConnect    = 8
)

func (c *Conn) headers(f frame, p []byte, to Handler) ErrCode {
	p, code := f.unpad(p)
	if code != NoError {
		return code
	}
	self := false
	if f.has(flagPriority) {
		if len(p) < 5 {
			return FrameSizeError
		}
		self = binary.BigEndian.Uint32(p)&maxWindow == f.stream
		p = p[5:]
	}
	c.block = block{stream: f.stream, end: f.has(flagEndStream), self: self}
	if f.has(flagEndHeaders) {
		return c.fields(p, to)
	}
	c.block.open = true
	c.block.buf = append(c.arena.block(), p...)
	return NoError
}

func (c *Conn) continuation(f frame, p []byte, to Handler) ErrCode {
	b := &c.block
	kind := HeaderOverflow
	if len(p) == 0 {
		kind = InboundEmptyFramesFlood
	}
	if b.frames++; b.frames > blockFrames || len(b.buf)+len(p) > c.limits.HeaderBytes {
		c.count(kind)
		return EnhanceYourCalm
	}
	if len(p) == 0 {
		if code := c.charge(1, kind); code != NoError {
			return code
		}
	}
	b.buf = append(b.buf, p...)
	if !f.has(flagEndHeaders) {
		return NoError
	}
	b.open = false
	code := c.fields(b.buf, to)
	if len(c.arena.blocks) < keptBlocks {
		c.arena.blocks = append(c.arena.blocks, b.buf[:0])
	}
	b.buf = nil
	return code
}

// fields takes a whole section. It is decoded whatever becomes of it, or the tables would get out of step.
func (c *Conn) fields(p []byte, to Handler) ErrCode {
	c.heads++
	id := c.block.stream
	s := c.table.find(id)
	kind, use, code := c.expect(s, id)
	if code != NoError {
		return code
	}
	h := c.arena.head()
	defer func() { c.arena.heads = append(c.arena.heads, h) }()
	c.section.begin(h, kind, c.limits)
	if err := c.dec.decode(p, &c.section); err != nil {
		return CompressionError
	}
	if kind == requestSection {
		c.lastPeer = id
	}
	if c.section.over { // it had to be decoded all the same
		if code := c.charge(overNoise+len(p)/overBytes, HeaderOverflow); code != NoError {
			return code
		}
		c.count(HeaderOverflow)
	}
	switch ok := c.section.finish(); {
	case !use && kind == requestSection: // its content will come too
		c.expectLate(c.streamWindow())
		return c.charge(1, InboundUselessFramesFlood)
	case !use:
		return c.chargeLate()
	case s != nil && s.ended:
		return c.streamError(s, id, StreamClosed, to)
	case c.section.over && !c.section.malformed:
		return c.streamError(s, id, EnhanceYourCalm, to)
	case !ok || c.block.self:
		return c.streamError(s, id, ProtocolError, to)
	case kind == requestSection:
		return c.request(id, h, to)
	case kind == responseSection:
		return c.response(s, h, to)
	}
	if !c.block.end || s.remaining > 0 {
		return c.streamError(s, id, ProtocolError, to)
	}
	s.ended = true
	c.count(Trailers)
	c.finished(s)
	to.Trailers(s, h)
	return NoError
}

// expect tells what a section on a stream is. use is false for one that was sent before the peer knew of a reset.
func (c *Conn) expect(s *Stream, id uint32) (kind sectionKind, use bool, code ErrCode) {
	switch {
	case s == nil && !c.client && id&1 == 1 && id > c.lastPeer:
		return requestSection, id <= c.lastTake, NoError
	case s == nil && c.idle(id):
		return 0, false, ProtocolError
	case s == nil && !c.late(id):
		return 0, false, StreamClosed
	case s == nil || s.reset:
		return trailerSection, false, NoError
	case s.complete():
		return 0, false, StreamClosed
	case c.client && !s.started:
		return responseSection, true, NoError
	}
	return trailerSection, true, NoError
}

func (c *Conn) request(id uint32, h *message.Head, to Handler) ErrCode {
	if int(c.active) >= c.limits.Streams {
		return c.streamError(nil, id, RefusedStream, to)
	}
	if c.block.end && h.ContentLength > 0 {
		return c.streamError(nil, id, ProtocolError, to)
	}
	s := c.arena.stream()
	s.id, s.window, s.room = id, c.streamWindow(), int(c.peer.window)
	s.remaining, s.started, s.ended, s.began = h.ContentLength, true, c.block.end, c.now
	c.table.add(s)
	c.active++
	to.Headers(s, h, c.block.end)
	return NoError
}

func (c *Conn) response(s *Stream, h *message.Head, to Handler) ErrCode {
	end := c.block.end
	if h.Status < 200 {
		if end {
			return c.streamError(s, s.id, ProtocolError, to)
		}
		to.Headers(s, h, false)
		return c.charge(1, InboundUselessFramesFlood)
	}
	s.remaining = h.ContentLength
	if s.head || h.Status == 304 || h.Status == 204 {
		s.remaining = 0
	}
	if end && s.remaining > 0 {
		return c.streamError(s, s.id, ProtocolError, to)
	}
	s.started, s.ended = true, end
	c.finished(s)
	to.Headers(s, h, end)
	return NoError
}

func (c *Conn) priority(f frame, p []byte, to Handler) ErrCode {
	wrong := NoError
	if len(p) != 5 {
		wrong = FrameSizeError
	} else if binary.BigEndian.Uint32(p)&maxWindow == f.stream {
		wrong = ProtocolError
	}
	if wrong == NoError {
		return c.charge(1, InboundPriorityFramesFlood) // deprecated, ignored (RFC 9113 section 5.3.2)
	}
	s := c.table.find(f.stream)
	if s == nil || s.reset {
		return wrong
	}
	return c.streamError(s, f.stream, wrong, to)
}

func (c *Conn) peerReset(f frame, p []byte, to Handler) ErrCode {
	if len(p) != 4 {
		return FrameSizeError
	}
	if c.idle(f.stream) {
		return ProtocolError
	}
	c.count(ResetReceived)
	s := c.table.find(f.stream)
	if s == nil || s.reset {
		return c.chargeLate()
	}
	// A client asked for whatever its host refuses. And clients that have had enough of a long answer, many of them behind one proxy,
	// are no flood of requests for nothing.
	meant := s.complete() || c.now-s.began > 1
	c.cutOff(s)
	to.Reset(s, ErrCode(binary.BigEndian.Uint32(p)), true)
	if meant || c.client {
		return NoError
	}
	return c.chargeReset(to)
}

func (c *Conn) ping(f frame, p []byte, to Handler) ErrCode {
	if len(p) != 8 {
		return FrameSizeError
	}
	if f.has(flagAck) {
		to.Event(EventPingAck)
		return c.charge(1, InboundUselessFramesFlood)
	}
	c.control = append(frame{8, framePing, flagAck, 0}.append(c.control), p...)
	return c.chargeEcho(OutboundControlFlood)
}

func (c *Conn) goAway(p []byte, to Handler) ErrCode {
	if len(p) < 8 {
		return FrameSizeError
	}
	last := binary.BigEndian.Uint32(p) & maxWindow
	if last > c.last {
		return ProtocolError // it must not grow (RFC 9113 section 6.8)
	}
	c.gone, c.last = true, last
	if c.client {
		c.table.each(func(s *Stream) {
			if s.id > last && !s.reset && !s.released {
				c.cutOff(s)
				to.Reset(s, RefusedStream, true)
			}
		})
	}
	to.Event(EventGoAway)
	return c.charge(1, InboundUselessFramesFlood)
}

func (c *Conn) settings(f frame, p []byte, to Handler) ErrCode {
	if f.has(flagAck) {
		if len(p) != 0 {
			return FrameSizeError
		}
		c.acknowledged()
		return c.charge(1, InboundUselessFramesFlood)
	}
	if len(p)%6 != 0 {
		return FrameSizeError
	}
	window := int(c.peer.window)
	for ; len(p) > 0; p = p[6:] {
		id, value := binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])
		if id == settingWindow {
			if value > maxWindow {
				return FlowControlError
			}
			window = int(value)
		} else if code := c.setting(id, value); code != NoError {
			return code
		}
	}
	c.settled = true
	c.control = frame{0, frameSettings, flagAck, 0}.append(c.control)
	c.urgent = true
	if code := c.initialWindow(window, to); code != NoError {
		return code
	}
	to.Event(EventSettings)
	return c.charge(1+f.length/60, OutboundControlFlood)
}

// acknowledged is told that the peer goes by our settings from here on.
func (c *Conn) acknowledged() {
	if c.acked {
		return
	}
	change := c.streamWindow() - c.limits.Window
	c.acked = true
	c.table.each(func(s *Stream) { s.window -= change })
}

func (c *Conn) setting(id uint16, value uint32) ErrCode {
	switch id {
	case settingTable:
		c.enc.limit(value)
	case settingPush:
		if value > 1 || c.client && value == 1 {
			return ProtocolError
		}
	case settingStreams:
		c.peer.streams = value
	case settingFrame:
		if value < maxFrame || value > 1<<24-1 {
			return ProtocolError
		}
		c.peer.frame = int32(min(value, maxSendFrame))
	case settingConnect:
		if value > 1 || c.connect && value == 0 {
			return ProtocolError
		}
		c.connect = value == 1
	}
	return NoError
}
