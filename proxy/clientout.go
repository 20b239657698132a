package proxy

import (
	"errors"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// directBytes are sent at once where they lie; less is copied behind what waits for the end of the turn.
const directBytes = 8 << 10

// protocol implements responder.
func (c *client) protocol() string {
	if c.http10 {
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// option implements responder.
func (c *client) option() []byte {
	switch {
	case c.phase == phaseTunnel:
		return nil
	case !c.keep:
		return optionClose
	case c.http10:
		return optionKeepAlive
	}
	return nil
}

// inform implements responder.
func (c *client) inform(h *message.Head) {
	if c.http10 {
		return
	}
	c.out = http1.AppendResponse(c.room(512), h, c.x.method, nil, http1.ResponseForm{})
	c.mark()
}

// respond implements responder.
func (c *client) respond(h *message.Head, e *message.Edit, end bool) {
	x := c.x
	if x.tunnel {
		c.phase = phaseTunnel
		c.timer.Stop()
		c.out = http1.AppendResponse(c.room(512), h, x.method, e, http1.ResponseForm{})
		c.mark()
		c.Again() // what the client sent early was held back until now: it could have been a smuggled request
		return
	}
	form := c.form(h, end)
	c.out = http1.AppendResponse(c.room(512), h, x.method, e, form)
	c.mark()
}

// form settles how the response's content is delimited, and whether the connection outlives it.
func (c *client) form(h *message.Head, end bool) (f http1.ResponseForm) {
	x := c.x
	if !x.whole || c.draining() { // what is left of the request cannot be told from the next one by everybody
		c.keep = false
	}
	c.chunked = false
	bodiless := x.method == message.MethodHead || h.Status == 204 || h.Status == 304
	switch {
	case bodiless:
	case h.ContentLength >= 0 && (c.http10 || h.Known(message.Trailer) == nil): // else chunks, which have a place for trailers
		f.Framing = http1.Framing{Kind: http1.Length, Length: h.ContentLength}
	case end:
		f.Framing = http1.Framing{Kind: http1.Length}
	case c.http10:
		f.Framing.Kind = http1.UntilClose
		c.keep = false
	default:
		f.Framing.Kind = http1.Chunked
		c.chunked = true
	}
	f.Close, f.KeepAlive, f.HTTP10 = !c.keep, c.keep && c.http10, c.http10
	return f
}

// content implements responder.
func (c *client) content(p loop.Piece, end bool) {
	if c.phase == phaseTunnel {
		c.write(p)
		if end {
			c.shut = true
			c.mark()
		}
		return
	}
	if c.chunked {
		c.contentChunk(p, end)
		return
	}
	c.write(p)
}

// contentChunk sends content as a chunk, around it where there is room.
func (c *client) contentChunk(p loop.Piece, end bool) {
	const around = 24
	switch {
	case p.Len() == 0:
	case p.From >= around && cap(p.Buf)-p.To >= around:
		p.Buf = p.Buf[:cap(p.Buf)]
		p.From, p.To = http1.WrapChunk(p.Buf, p.From, p.To)
		if end {
			p.To += copy(p.Buf[p.To:], "0\r\n\r\n")
		}
		c.write(p)
		return
	default:
		c.out = http1.AppendChunkSize(c.room(p.Len()+around), p.Len())
		c.out = append(append(c.out, p.Bytes()...), "\r\n"...)
	}
	if end {
		c.out = append(c.room(8), "0\r\n\r\n"...)
	}
	c.mark()
}

// trailers implements responder. A client that has no place for them does without.
func (c *client) trailers(t *message.Fields) {
	if c.chunked {
		c.out = http1.AppendLastChunk(c.room(512), t)
		c.mark()
	}
}

// congested implements responder.
func (c *client) congested() bool { return c.stuck }

// write sends a piece, behind what waits already.
func (c *client) write(p loop.Piece) {
	switch {
	case p.Len() == 0 || c.dead:
		return
	case c.stuck:
	case c.outAt == len(c.out):
		c.direct(p.Bytes())
		return
	case p.Prepend(c.out[c.outAt:]):
		c.w.loop.Release(c.out)
		c.out, c.outAt = nil, 0
		c.direct(p.Bytes())
		return
	case p.Len() >= directBytes:
		if c.push(); !c.stuck && !c.dead {
			c.direct(p.Bytes())
			return
		}
	}
	c.out = append(c.room(p.Len()), p.Bytes()...)
	c.mark()
}

// direct sends p, of which a part may have to wait; nothing waits yet.
func (c *client) direct(p []byte) {
	n, err := c.Write(p)
	c.countSent(n)
	if err == nil {
		c.stuck = c.Pending()
		return
	}
	if !errors.Is(err, syscall.EAGAIN) {
		c.lose()
		return
	}
	c.stuck = true
	c.out = append(c.room(len(p)-n), p[n:]...)
}

// room returns the output with room for n more bytes.
func (c *client) room(n int) []byte {
	if c.out == nil {
		c.out = c.w.loop.Buffer(n)
	}
	return c.w.loop.Grow(c.out, n)
}

// mark has the output sent at the end of the turn.
func (c *client) mark() {
	if !c.dirty {
		c.dirty = true
		c.w.loop.AtEnd(c)
	}
}

// lose notes that nothing can be sent any more. Who is concerned is told when nobody of them is on the stack.
func (c *client) lose() {
	c.dead = true
	c.Again()
}

// push sends what waits.
func (c *client) push() {
	if c.outAt < len(c.out) {
		n, err := c.Write(c.out[c.outAt:])
		c.outAt += n
		c.countSent(n)
		if n > 0 && c.x != nil {
			c.x.touch()
		}
		if err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				c.lose()
				return
			}
			c.stuck = true
			if n > 0 && c.x == nil && c.phase == phaseIdle && !c.closing {
				c.w.loop.Start(&c.timer, c.idleTimeout(), c)
			}
			return
		}
	}
	c.w.loop.Release(c.out)
	c.out, c.outAt = nil, 0
	c.stuck = c.Pending()
}

// Flush sends what waits; then what waited for that goes on.
func (c *client) Flush() {
	c.dirty = false
	if !c.IsOpen() || c.stuck || c.dead {
		return
	}
	if c.push(); c.stuck || c.dead {
		return
	}
	switch x := c.x; {
	case c.closing && c.phase != phaseLinger:
		c.finishClose()
	case x != nil && c.phase == phaseTunnel:
		if c.shut {
			c.shut = false
			c.CloseWrite()
		}
		x.writable()
	case x != nil && c.phase == phaseServing:
		x.writable()
	case c.phase == phaseIdle && (len(c.in) > 0 || c.readable):
		c.Again() // a request that came before its turn
	}
}

// finish implements responder.
func (c *client) finish(reject bool) {
	tunnel := c.phase == phaseTunnel
	c.x = nil
	if tunnel {
		c.keep, c.tunneled = false, true
	}
	c.nextRequest(c.keep && !reject, reject)
}

// abort implements responder.
func (c *client) abort() {
	c.w.loop.Release(c.out)
	c.out, c.outAt = nil, 0
	c.broken, c.stuck = true, false
	c.x = nil
	c.nextRequest(false, false)
}

func (c *client) countSent(n int) {
	c.a.stats.count[listenerTxBytes] += uint64(n)
	c.sent += uint64(n)
}
