package proxy

import (
	"errors"
	"io"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// takeBody gives the exchange what follows the head and belongs to the request, and returns the rest: pipelined requests, or bytes
// that make sense only with those to come.
func (c *client) takeBody(data []byte) (rest []byte, err error) {
	x := c.x
	if !c.body.Done() {
		if c.body.Kind() == http1.Chunked {
			c.tail = c.w.arena.Head()
		}
		kept, used, err := http1.Compact(&c.body, data, c.tail)
		if err != nil {
			c.keep = false
			return nil, err
		}
		x.hold(data[:kept])
		data = data[used:]
	}
	if x.whole = c.body.Done(); x.whole && c.tail != nil && c.tail.Len() > 0 {
		x.keepTrailers(c.tail)
	}
	return data, nil
}

// pull implements responder. Who calls may be reading into the loop's buffer, so it waits for a turn.
func (c *client) pull() { c.Again() }

// pump moves the rest of the request's content, as fast as the upstream takes it.
func (c *client) pump() {
	x := c.x
	shared := c.w.loop.Shared()
	buf := shared[loop.Headroom:]
	for moved := 0; c.x == x && !x.whole && !x.full(); {
		if moved >= turnBytes {
			c.Again()
			return
		}
		n := copy(buf, c.in)
		c.w.loop.Release(c.in)
		c.in = nil
		m, err := c.read(buf[n:])
		if err != nil && (n == 0 || !errors.Is(err, syscall.EAGAIN)) {
			if !errors.Is(err, syscall.EAGAIN) {
				c.gone()
			}
			return
		}
		moved += n + m
		c.forward(loop.Headroom, loop.Headroom+n+m)
		if m == 0 {
			return
		}
	}
}

// forward gives the exchange what of shared[from:to] is the request's content.
func (c *client) forward(from, to int) {
	x := c.x
	shared := c.w.loop.Shared()
	kept, used, err := http1.Compact(&c.body, shared[from:to], c.tail)
	if err != nil {
		c.keep = false
		x.brokenBody(err)
		return
	}
	c.save(shared[from+used : to])
	done := c.body.Done()
	tail := done && c.tail != nil && c.tail.Len() > 0
	if kept > 0 || done && !tail {
		x.requestContent(loop.Piece{Buf: shared, From: from, To: from + kept}, done && !tail)
	}
	if tail && c.x == x {
		x.requestTrailers(c.tail)
	}
}

// pumpTunnel passes on what the client sends after an upgrade.
func (c *client) pumpTunnel() {
	x := c.x
	shared := c.w.loop.Shared()
	buf := shared[loop.Headroom:]
	for moved := 0; c.x == x && !x.whole && !x.full(); {
		if moved >= turnBytes {
			c.Again()
			return
		}
		n := copy(buf, c.in)
		c.w.loop.Release(c.in)
		c.in = nil
		if n == 0 {
			var err error
			if n, err = c.read(buf); err != nil {
				switch {
				case errors.Is(err, syscall.EAGAIN):
				case errors.Is(err, io.EOF):
					x.requestContent(loop.Piece{}, true)
				default:
					c.gone()
				}
				return
			}
		}
		moved += n
		x.requestContent(loop.Piece{Buf: shared, From: loop.Headroom, To: loop.Headroom + n}, false)
	}
}
