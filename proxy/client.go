package proxy

import (
	"errors"
	"io"
	"net/netip"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

const (
	turnBytes  = 256 << 10       // moved for one socket before the others have their turn
	lingerTime = 2 * time.Second // for a client to read the last response before its unread input resets the connection
	// maxHead leaves room in the shared read buffer, where heads are parsed.
	maxHead = 60 << 10
)

// phase is what a client's connection is doing.
type phase uint8

const (
	phaseIdle    phase = iota // between requests
	phaseHead                 // a part of a request's head is there
	phaseServing              // a request is being served
	phaseTunnel               // bytes are passed on after an upgrade
	phaseLinger               // all is said; waiting for the client to close
)

// client is a downstream HTTP connection. An idle one owns no buffer.
type client struct {
	loop.Socket
	w      *worker
	a      *branch
	served *served // the listener as the current request found it
	peer   netip.AddrPort
	via    *proxied // nil: peer is who is connected
	id     uint64

	next, prev *client // all of the acceptor
	timer      loop.Timer
	life       loop.Timer // how long the connection may take requests
	requests   uint32
	x          *exchange // the request being received or served
	tunnel     *tunnel

	in    []byte // received and not yet used: a part of a head, or requests to come
	out   []byte // to be sent from outAt
	outAt int

	phase    phase
	readable bool // there may be something to read: no new edge will tell
	hup      bool // the client will send no more
	closing  bool // close when out is sent
	linger   bool // and the client may still be sending
	over     bool // its life is: it ends with its present request
	broken   bool // the last response is cut off, and the client must see that
}

// Ready takes the socket's events.
func (c *client) Ready(e loop.Event) {
	if c.tunnel != nil {
		c.tunnel.clientReady(e)
		return
	}
	if e&loop.Err != 0 {
		c.gone()
		return
	}
	if e&loop.Hup != 0 {
		c.hup = true
	}
	if e&(loop.In|loop.Hup) != 0 {
		c.readable = true
	}
	if e&loop.Out != 0 && len(c.out) > 0 && !c.flush() {
		return
	}
	c.advance()
}

// advance does what the connection can do now.
func (c *client) advance() {
	switch c.phase {
	case phaseIdle, phaseHead:
		if len(c.out) == 0 {
			c.receive()
		}
	case phaseServing:
		if c.hup {
			// A client that half-closes cannot be told from one that went away; like Envoy, take it for gone.
			c.gone()
			return
		}
		c.x.pumpRequest()
	case phaseLinger:
		c.drainInput()
	}
}

// receive reads until a request's head is complete and has it served.
func (c *client) receive() {
	shared := c.w.loop.Shared()
	at := shared[loop.Headroom:]
	n := copy(at, c.in)
	c.w.loop.Release(c.in)
	c.in = nil
	fresh := n > 0 && c.phase == phaseIdle // a pipelined request may be complete already
	for {
		if fresh {
			fresh = false
		} else {
			m, err := c.read(at[n:])
			if err != nil {
				if !errors.Is(err, syscall.EAGAIN) {
					c.ended(n)
					return
				}
				c.save(at[:n])
				return
			}
			n += m
		}
		if c.phase == phaseIdle {
			c.beginHead()
		}
		limits := http1.Limits{HeadBytes: headLimit(c.served.http().MaxRequestHeadBytes), Fields: c.served.http().MaxRequestHeaders}
		head, err := c.x.req.Parse(at[:n], limits)
		if err != nil {
			c.x.malformed(err)
			return
		}
		if head > 0 {
			c.x.serve(at[:n], head)
			return
		}
	}
}

func headLimit(configured int) int {
	if configured <= 0 || configured > maxHead {
		return maxHead
	}
	return configured
}

// read reads what is there. EAGAIN is returned when that is nothing.
func (c *client) read(p []byte) (int, error) {
	if !c.readable {
		return 0, syscall.EAGAIN
	}
	n, err := c.Read(p)
	switch {
	case err == nil:
		c.readable = n == len(p) || c.hup
		c.a.stats.count[listenerRxBytes] += uint64(n)
	case errors.Is(err, syscall.EAGAIN):
		c.readable = false
	case errors.Is(err, io.EOF):
		c.hup = true
	}
	return n, err
}

// save keeps bytes that cannot be used yet.
func (c *client) save(data []byte) {
	if len(data) > 0 {
		c.in = append(c.w.loop.Buffer(len(data)), data...)
	}
}

// beginHead starts a request at its first byte.
func (c *client) beginHead() {
	if s := c.a.served; s.http() != nil {
		c.served = s
	}
	c.phase = phaseHead
	c.x = c.w.newExchange(c)
	c.w.loop.Start(&c.timer, c.served.http().RequestHeadersTimeout, c)
}

// ended handles the end of the client's bytes before a head was complete; n of them are left over.
func (c *client) ended(n int) {
	if c.phase == phaseHead || n > 0 {
		c.http().count[httpCxDestroyActive]++
	}
	c.dispose()
}

// http is where the connection's requests are counted.
func (c *client) http() *httpStats { return c.a.http }

// send sends p, of which a part may have to wait; false means that the client is gone and the connection closed.
func (c *client) send(p []byte) bool {
	if len(c.out) > 0 {
		c.queue(p)
		return true
	}
	n, err := c.Write(p)
	c.a.stats.count[listenerTxBytes] += uint64(n)
	if err == nil {
		return true
	}
	if !errors.Is(err, syscall.EAGAIN) {
		c.gone()
		return false
	}
	c.queue(p[n:])
	return true
}

func (c *client) queue(p []byte) {
	if c.out == nil {
		c.out = c.w.loop.Buffer(len(p))
	}
	c.out = append(c.w.loop.Grow(c.out, len(p)), p...)
}

// flush sends what waits; then what waited for that goes on. False means that the connection was closed.
func (c *client) flush() bool {
	n, err := c.Write(c.out[c.outAt:])
	c.outAt += n
	c.a.stats.count[listenerTxBytes] += uint64(n)
	if err != nil {
		if !errors.Is(err, syscall.EAGAIN) {
			c.gone()
			return false
		}
		switch {
		case n == 0:
		case c.x != nil:
			c.x.touch()
		case c.phase == phaseIdle && !c.closing:
			c.w.loop.Start(&c.timer, c.idleTimeout(), c)
		}
		return true
	}
	c.w.loop.Release(c.out)
	c.out, c.outAt = nil, 0
	if c.closing {
		return c.finishClose()
	}
	if x := c.x; x != nil && c.phase == phaseServing {
		x.touch()
		x.readResponse()
	}
	return c.IsOpen()
}

// nextRequest makes the connection ready for another request, or closes it when all is sent.
func (c *client) nextRequest(keep, linger bool) {
	c.phase = phaseIdle
	if !keep {
		c.closing, c.linger = true, linger
		if len(c.out) == 0 {
			c.finishClose()
		} else {
			c.w.loop.Start(&c.timer, flushTime, c)
		}
		return
	}
	c.w.loop.Start(&c.timer, c.idleTimeout(), c)
	if len(c.in) > 0 || c.readable {
		c.Again()
	}
}

func (c *client) idleTimeout() time.Duration {
	if c.draining() {
		return c.w.drainIdle
	}
	return c.served.http().IdleTimeout
}

// draining reports whether the connection is to end with its present request.
func (c *client) draining() bool {
	return c.over || c.w.draining || c.a.gone || c.a.served.http() == nil
}

// finishClose ends a connection in good order. It reports false if that was at once.
func (c *client) finishClose() bool {
	if !c.linger && len(c.in) == 0 && !c.readable || c.hup || c.broken {
		c.dispose()
		return false
	}
	// Closing with unread input resets the connection, and the client may lose the response (RFC 9112 section 9.6).
	c.phase = phaseLinger
	c.w.loop.Release(c.in)
	c.in = nil
	c.CloseWrite()
	c.w.loop.Start(&c.timer, lingerTime, c)
	c.Again()
	return true
}

// drainInput reads and drops what a client sends that was already answered.
func (c *client) drainInput() {
	buf := c.w.loop.Shared()
	for range turnBytes / len(buf) {
		if _, err := c.read(buf); err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				c.dispose()
			}
			return
		}
	}
	c.Again()
}

// gone handles a client that went away, or whom nothing can be sent any more.
func (c *client) gone() {
	if c.x != nil && c.phase == phaseServing {
		c.x.clientGone()
		return
	}
	c.dispose()
}

// dispose closes the connection and forgets it.
func (c *client) dispose() {
	if !c.IsOpen() {
		return
	}
	if c.x != nil {
		c.w.freeExchange(c.x)
		c.x = nil
	}
	c.timer.Stop()
	c.life.Stop()
	c.w.loop.Release(c.in)
	c.w.loop.Release(c.out)
	c.in, c.out = nil, nil
	if c.broken {
		c.ResetOnClose()
	}
	c.Close()
	c.a.forget(c)
}

// Expired handles the connection's own timeouts.
func (c *client) Expired(t *loop.Timer) {
	switch {
	case t == &c.life:
		c.lifeOver()
	case c.closing, c.phase == phaseLinger:
		c.dispose()
	case c.phase == phaseIdle:
		c.http().count[httpCxIdleTimeout]++
		if len(c.out) == 0 && (c.readable || !c.Quiet()) {
			return // a request is just arriving
		}
		c.dispose()
	case c.phase == phaseHead:
		c.x.headTimeout()
	case c.phase == phaseServing:
		c.x.requestTimeout()
	}
}
