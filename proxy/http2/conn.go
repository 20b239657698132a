package http2

import (
	"encoding/binary"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// Event is something that concerns the connection as a whole.
type Event uint8

// The events.
const (
	EventSettings Event = iota + 1 // the peer's settings came or changed
	EventGoAway                    // the peer takes no new streams
	EventPingAck
	EventResets   // the peer began more streams for nothing than it may: the connection ends
	EventRejected // a stream was reset that nobody has seen: it was refused, malformed or too large
)

// Handler is told what the peer's bytes mean. It may call any method of the connection but Feed and Close. What it is given of
// bytes and heads is valid during the call.
type Handler interface {
	// Headers tells a new request, or an informational or the final response.
	Headers(s *Stream, h *message.Head, end bool)
	// Data tells content; it counts against the windows until [Conn.Consumed].
	Data(s *Stream, p []byte, end bool)
	// Trailers ends the message.
	Trailers(s *Stream, f *message.Fields)
	// Reset tells that the stream is cut off, by the peer or because of what the peer sent. A stream that was refused or never
	// seen (RefusedStream from the peer) was not processed.
	Reset(s *Stream, code ErrCode, remote bool)
	// Writable tells that a stream for which DataHeader took nothing can send again.
	Writable(s *Stream)
	Event(e Event)
}

// Conn is one end of a connection.
type Conn struct {
	arena  *Arena
	limits *Limits
	*work            // nil: nothing happens
	ours   *resetIDs // nil: this side reset no stream
	counts *Counts   // nil: nobody asks

	dec decoder
	enc encoder

	room     int      // the peer's window
	echoes   int      // window updates and pings that are owed to what was sent
	active   int32    // streams begun and not released
	credit   int32    // of the connection's window: used and not given back yet
	heads    uint32   // field sections that were complete
	lastPeer uint32   // the highest stream of the peer
	lastTake uint32   // the highest one that is taken still
	nextID   uint32   // a client's next stream
	last     uint32   // of ours that the peer takes
	peer     settings // what it told
	noise    int32
	resets   int32
	underWay underWay
	now      uint32
	failed   ErrCode

	client  bool
	preface uint8 // bytes of the client's preface seen
	settled bool  // the peer's SETTINGS came
	acked   bool  // the peer knows ours
	gone    bool  // the peer sent GOAWAY
	urgent  bool  // control goes before anything else
	feeding bool
	connect bool // the peer takes :protocol
}

type settings struct {
	window  int32
	frame   int32
	streams uint32
}

// block is a field section that is not complete.
type block struct {
	open   bool
	stream uint32
	end    bool
	frames int
	self   bool // the stream depends on itself
	buf    []byte
}

// content is a DATA frame that is being read.
type content struct {
	open   bool
	stream *Stream // nil: nobody gets it
	left   int
	pad    int
	end    bool
}

// underWay is what peers may have sent on streams before they knew that those were reset. It is no noise: small messages fill a
// window with thousands of frames, which are not to end the connection of all the other streams. No bytes are under way beyond the
// connection's window, and no streams beyond those that the peer may have open.
type underWay struct{ bytes, frames int32 }

const prefaceText = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// InitServer makes c the server's end of a new connection.
func (c *Conn) InitServer(l Limits, a *Arena) { c.init(l, a, false) }

// InitClient makes c the client's end of a new connection.
func (c *Conn) InitClient(l Limits, a *Arena) { c.init(l, a, true) }

func (c *Conn) init(l Limits, a *Arena, client bool) {
	*c = Conn{
		arena: a, limits: a.shared(l, client), work: a.work(), client: client, nextID: 1, room: initialWindow, lastTake: maxWindow, last: maxWindow,
		peer: settings{initialWindow, maxFrame, maxWindow}, urgent: true,
	}
	l = *c.limits
	c.dec.init()
	c.enc.init(&c.finder)
	if client {
		c.control = append(c.control, prefaceText...)
		c.preface = uint8(len(prefaceText))
	}
	c.control = appendSettings(c.control, l, client)
	if l.ConnWindow > initialWindow {
		c.control = appendWindowUpdate(c.control, 0, l.ConnWindow-initialWindow)
	}
}

func appendSettings(dst []byte, l Limits, client bool) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, frameHeaderSize)...)
	set := func(id uint16, value int) {
		dst = binary.BigEndian.AppendUint16(dst, id)
		dst = binary.BigEndian.AppendUint32(dst, uint32(value))
	}
	if client {
		set(settingPush, 0)
	} else {
		set(settingStreams, l.Streams)
		if l.ExtendedConnect {
			set(settingConnect, 1)
		}
	}
	set(settingWindow, l.Window)
	set(settingHeaderList, l.HeaderBytes)
	h := frame{len(dst) - start - frameHeaderSize, frameSettings, 0, 0}.bytes()
	copy(dst[start:], h[:])
	return dst
}

// Tick tells the time in seconds, of any clock. Call it before Feed: the budgets of [Limits] fill up as time passes.
func (c *Conn) Tick(now uint32) {
	if passed := int(now - c.now); passed > 0 && c.now != 0 {
		passed = min(passed, 10)
		c.noise = int32(max(0, int(c.noise)-passed*(c.limits.Noise+9)/10))
		c.resets = int32(max(0, int(c.resets)-passed*(c.limits.Resets+9)/10))
	}
	c.now = now
}

// Feed reads what the peer sent. It uses whole frames, and content as it comes; what it leaves over is to be given again with
// more behind it, at most a frame. An error is the end of the connection: send what AppendControl has, then close it.
func (c *Conn) Feed(buf []byte, to Handler) (used int, err error) {
	if c.failed != NoError {
		return 0, c.failed
	}
	c.rouse()
	c.feeding = true
	code := NoError
	for code == NoError {
		var n int
		if n, code = c.step(buf[used:], to); n == 0 {
			break
		}
		used += n
		c.forget()
		if code == NoError && len(c.control)-c.own > controlBytes {
			c.count(OutboundControlFlood)
			code = EnhanceYourCalm
		}
	}
	c.feeding = false
	if code != NoError {
		if code != EnhanceYourCalm { // else it was counted by its kind
			c.count(MessagingError)
		}
		c.Fail(code)
		return used, code
	}
	return used, nil
}

// Fail ends the connection as an error of Feed does. It must not be called during Feed.
func (c *Conn) Fail(code ErrCode) {
	c.failed = code
	c.rouse()
	c.count(GoAwaySent)
	c.control = appendGoAway(c.control, min(c.lastPeer, c.lastTake), code)
}

// Unfinished reports whether a field section has begun and is not complete, or a client has begun to say that it speaks HTTP/2 and not
// said all of that (RFC 9113 section 3.4), and how many sections were before it. rest is what Feed left over.
func (c *Conn) Unfinished(rest []byte) (before uint32, is bool) {
	opening := !c.client && !c.settled && (c.preface > 0 || len(rest) > 0)
	return c.heads, opening || c.work != nil && c.block.open || len(rest) > 3 && frameType(rest[3]) == frameHeaders
}

// step reads the preface, one frame or some content. n is 0 when more is needed.
func (c *Conn) step(p []byte, to Handler) (n int, code ErrCode) {
	switch {
	case len(p) == 0:
		return 0, NoError
	case int(c.preface) < len(prefaceText):
		left := prefaceText[c.preface:]
		n = min(len(p), len(left))
		if string(p[:n]) != left[:n] {
			return 0, ProtocolError
		}
		c.preface += uint8(n)
		return n, NoError
	case c.data.open:
		return c.readContent(p, to), NoError
	case len(p) < frameHeaderSize:
		return 0, NoError
	}
	f := parseFrame(p)
	if code = c.admit(f); code != NoError {
		return 0, code
	}
	if f.kind == frameData {
		return c.beginData(f, p, to)
	}
	if len(p) < frameHeaderSize+f.length {
		return 0, NoError
	}
	n = frameHeaderSize + f.length
	return n, c.frame(f, p[frameHeaderSize:n], to)
}

// admit judges a frame by its header.
func (c *Conn) admit(f frame) ErrCode {
	switch {
	case f.length > maxFrame:
		return FrameSizeError
	case !c.settled && (f.kind != frameSettings || f.has(flagAck)):
		return ProtocolError
	case c.block.open != (f.kind == frameContinuation) || c.block.open && f.stream != c.block.stream:
		return ProtocolError
	}
	connection := f.kind == frameSettings || f.kind == framePing || f.kind == frameGoAway
	if connection && f.stream != 0 || f.stream == 0 && f.kind <= frameContinuation && !connection && f.kind != frameWindowUpdate {
		return ProtocolError
	}
	return NoError
}

func (c *Conn) frame(f frame, p []byte, to Handler) ErrCode {
	switch f.kind {
	case frameHeaders:
		return c.headers(f, p, to)
	case frameContinuation:
		return c.continuation(f, p, to)
	case framePriority:
		return c.priority(f, p, to)
	case frameReset:
		return c.peerReset(f, p, to)
	case frameSettings:
		return c.settings(f, p, to)
	case framePushPromise:
		return ProtocolError // a client does not allow it, a server must not get it
	case framePing:
		return c.ping(f, p, to)
	case frameGoAway:
		return c.goAway(p, to)
	case frameWindowUpdate:
		return c.windowUpdate(f, p, to)
	}
	return c.charge(1, InboundUselessFramesFlood) // unknown frames are ignored (RFC 9113 section 5.5)
}

// charge counts frames that make work and move nothing. Too many are a flood of the kind.
func (c *Conn) charge(n int, kind Counter) ErrCode {
	if c.noise += int32(n); int(c.noise) > c.limits.Noise {
		c.count(kind)
		return EnhanceYourCalm
	}
	return NoError
}

// expectLate allows for what is under way to a stream that is reset: window bytes of content, and frames besides.
func (c *Conn) expectLate(window int) {
	u := &c.underWay
	u.bytes = int32(min(int(u.bytes)+max(0, window), c.limits.ConnWindow))
	u.frames = int32(min(int(u.frames)+lateFrames, lateFrames*c.limits.Streams))
}

// chargeLate counts a frame for a stream that was reset.
func (c *Conn) chargeLate() ErrCode {
	if c.underWay.frames > 0 {
		c.underWay.frames--
		return NoError
	}
	return c.charge(1, InboundUselessFramesFlood)
}

// chargeEcho counts a window update or a ping: those that follow from what was sent are no noise. A peer that measures the way, as
// gRPC does to set its windows, has a ping under way whenever it gets content.
func (c *Conn) chargeEcho(kind Counter) ErrCode {
	if c.echoes > 0 {
		c.echoes--
		return NoError
	}
	return c.charge(1, kind)
}

// chargeReset counts a stream that was begun for nothing.
func (c *Conn) chargeReset(to Handler) ErrCode {
	if c.resets++; int(c.resets) > c.limits.Resets {
		to.Event(EventResets)
		return EnhanceYourCalm
	}
	return NoError
}

// idle reports whether a stream was never begun.
func (c *Conn) idle(id uint32) bool {
	if c.client == (id&1 == 1) {
		return !c.client || id >= c.nextID
	}
	return id > c.lastPeer
}

// late reports whether what comes on a stream that is not there may have been sent before the peer knew.
func (c *Conn) late(id uint32) bool { return c.ours.maybe(id) || id > c.lastTake }

// streamWindow is what a peer may send on a new stream. Until it knows our settings it goes by the protocol's.
func (c *Conn) streamWindow() int {
	if c.acked {
		return c.limits.Window
	}
	return max(c.limits.Window, initialWindow)
}

// streamError resets a stream because of what the peer sent.
func (c *Conn) streamError(s *Stream, id uint32, code ErrCode, to Handler) ErrCode {
	c.remember(id)
	c.count(ResetSent)
	if code == ProtocolError {
		c.count(MessagingError)
	}
	c.control = appendReset(c.control, id, code)
	if s != nil {
		c.expectLate(s.left())
		c.cutOff(s)
		to.Reset(s, code, false)
		return c.chargeReset(to)
	}
	if code != StreamClosed { // of one that had ended nothing is under way
		c.expectLate(c.streamWindow())
	}
	to.Event(EventRejected)
	return c.chargeReset(to)
}

// remember notes that this side reset a stream.
func (c *Conn) remember(id uint32) {
	if c.ours == nil {
		c.ours = new(resetIDs)
	}
	c.ours.add(id)
}

// cutOff ends a stream here.
func (c *Conn) cutOff(s *Stream) {
	s.reset = true
	s.held = 0
	c.blocked.remove(s)
}

// finished is told that one direction ended. A stream that was worth its while pays for frames that were not.
func (c *Conn) finished(s *Stream) {
	if s.complete() {
		c.noise = max(0, c.noise-10)
		c.resets = max(0, c.resets-1)
	}
}

func (c *Conn) free() {
	for c.done != nil {
		s := c.done
		c.done = s.queue.after
		c.arena.put(s)
	}
}
