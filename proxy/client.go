package proxy

import (
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/preamble"
)

const (
	turnBytes = 256 << 10 // moved for one socket before the others have their turn
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

// client is a downstream HTTP/1 connection. An idle one owns no buffer.
type client struct {
	downstream
	timer loop.Timer
	x     *exchange // the request being received or served

	parser http1.Request
	body   http1.Body      // of the request
	tail   *message.Fields // of a chunked one: its trailers

	in    []byte // received and not yet used: a part of a head, or requests to come
	out   []byte // to be sent from outAt
	outAt int

	phase    phase
	chunked  bool // the response's content goes in chunks
	auto     bool // the first bytes tell whether it is HTTP/1 at all
	guessing bool // and have not told yet
	http10   bool
	keep     bool // the client keeps the connection
	dirty    bool // Flush will be called
	stuck    bool // the kernel takes no more
	dead     bool // nothing can be sent any more; nobody was told yet
	readable bool // there may be something to read: no new edge will tell
	hup      bool // the client will send no more
	closing  bool // close when out is sent
	tunneled bool // at once: a tunnel is over
	linger   bool // and the client may still be sending
	shut     bool // a tunnel: tell the end when out is sent
	broken   bool // the last response is cut off, and the client must see that
	flush    flush

	received, sent uint64 // bytes
}

// moved implements connection.
func (c *client) moved() (received, sent uint64) { return c.received, c.sent }

// begin waits for a request.
func (c *client) begin() { c.w.loop.Start(&c.timer, c.idleTimeout(), c) }

// Ready takes the socket's events.
func (c *client) Ready(e loop.Event) {
	if e&loop.Err != 0 || c.dead {
		c.gone()
		return
	}
	if e&loop.Hup != 0 {
		c.hup = true
	}
	if e&(loop.In|loop.Hup) != 0 {
		c.readable = true
	}
	if e&loop.Out != 0 && c.stuck {
		c.stuck = false
		if c.Flush(); !c.IsOpen() {
			return
		}
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
		c.pump()
	case phaseTunnel:
		c.pumpTunnel()
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
		if c.auto && c.phase == phaseIdle {
			switch is, maybe := preamble.IsHTTP2(at[:n]); {
			case is:
				c.becomeSession(at[:n])
				return
			case maybe:
				if !c.guessing { // once: a client that drips its preface gains no time
					c.guessing = true
					c.w.loop.Start(&c.timer, c.served.http().RequestHeadersTimeout, c)
				}
				continue
			}
			c.auto = false
		}
		if c.phase == phaseIdle {
			c.beginHead()
		}
		limits := http1.Limits{HeadBytes: headLimit(c.served.http().MaxRequestHeadBytes), Fields: c.served.http().MaxRequestHeaders}
		head, err := c.parser.Parse(at[:n], &c.x.req, limits)
		if err != nil {
			c.giveUp()
			c.x.malformed(err)
			return
		}
		if head > 0 {
			c.serve(at[:n], head)
			return
		}
	}
}

// giveUp has a request answered whose head is not complete.
func (c *client) giveUp() {
	c.timer.Stop()
	c.phase, c.keep, c.http10 = phaseServing, false, false
}

func headLimit(configured int) int {
	if configured <= 0 || configured > maxHead {
		return maxHead
	}
	return configured
}

// serve has a request served whose head is data[:head].
func (c *client) serve(data []byte, head int) {
	x := c.x
	c.phase = phaseServing
	c.timer.Stop()
	c.http10 = c.parser.HTTP10()
	if h := &x.req; c.http10 && h.Authority.Start == h.Authority.End {
		h.Authority = c.authority(h)
	}
	c.keep = !c.lastRequest() && c.parser.KeepAlive()
	c.body = http1.NewBody(c.parser.Framing())
	rest, err := c.takeBody(data[head:])
	c.save(rest)
	x.serve(err)
	if c.x == x && c.phase == phaseServing {
		c.pump()
	}
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
		c.received += uint64(n)
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
	c.refresh()
	c.speaks(1)
	c.phase = phaseHead
	c.parser.Reset()
	c.x = c.w.newExchange(&c.downstream, c)
	c.w.loop.Start(&c.timer, c.served.http().RequestHeadersTimeout, c)
}

// ended handles the end of the client's bytes before a head was complete; n of them are left over.
func (c *client) ended(n int) {
	if c.phase == phaseHead || n > 0 {
		c.underWay = true
	}
	c.byPeer = true
	c.dispose()
}

// nextRequest makes the connection ready for another request, or closes it when all is sent.
func (c *client) nextRequest(keep, linger bool) {
	c.phase = phaseIdle
	c.w.arena.GiveHead(c.tail)
	c.tail = nil
	if !keep {
		c.closing, c.linger = true, linger
		if len(c.out) == 0 && !c.stuck {
			c.finishClose()
		} else {
			c.watchFlush()
		}
		return
	}
	c.w.loop.Start(&c.timer, c.idleTimeout(), c)
	if len(c.out) == 0 && (len(c.in) > 0 || c.readable) { // else Flush does
		c.Again()
	}
}

// watchFlush gives the client time to take its last response.
func (c *client) watchFlush() {
	c.flush = c.newFlush()
	c.w.loop.Start(&c.timer, c.w.flushLook, c)
}

func (c *client) idleTimeout() time.Duration {
	if c.draining() {
		return c.w.drainIdle
	}
	return c.served.http().IdleTimeout
}

// finishClose ends a connection in good order.
func (c *client) finishClose() {
	patience := c.served.http().DelayedCloseTimeout
	c.byPeer = c.hup
	if c.hup || c.tunneled || c.broken || patience == 0 || !c.linger && len(c.in) == 0 && !c.readable && !c.mayLose() {
		c.dispose()
		return
	}
	// Input that is unread, or comes later, resets a closed connection, and the client may lose the response (RFC 9112 section 9.6).
	c.phase = phaseLinger
	c.w.loop.Release(c.in)
	c.in = nil
	c.CloseWrite()
	c.flush = c.newFlush()
	c.w.loop.Start(&c.timer, patience, c)
	c.Again()
}

// mayLose reports whether the client may still send a request while it has not got all of the last response. One that has said that it
// sends no more is believed.
func (c *client) mayLose() bool { return c.parser.KeepAlive() && c.Unsent() > 0 }

// lingers reports whether a client that was told the end is waited for still: as long as it takes the rest of the last response, and
// once more its time when it has that.
func (c *client) lingers() bool {
	waited := c.flush.begun()
	switch left := c.Unsent(); {
	case left > 0 && !c.flush.stalls(left):
		c.w.loop.Start(&c.timer, c.w.flushLook, c)
	case left == 0 && waited:
		c.flush = c.newFlush()
		c.w.loop.Start(&c.timer, c.served.http().DelayedCloseTimeout, c)
	default:
		c.broken = left > 0 // it must not take what it has got for all
		return false
	}
	return true
}

// drainInput reads and drops what a client sends that was already answered.
func (c *client) drainInput() {
	buf := c.w.loop.Shared()
	for range turnBytes / len(buf) {
		if _, err := c.read(buf); err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				c.byPeer = true
				c.dispose()
			}
			return
		}
	}
	c.Again()
}

// gone handles a client that went away, or whom nothing can be sent any more.
func (c *client) gone() {
	c.byPeer = true
	c.quit()
}

// quit ends the connection whatever it is doing.
func (c *client) quit() {
	if x := c.x; x != nil && (c.phase == phaseServing || c.phase == phaseTunnel) {
		x.clientGone(flagClientGone)
	}
	c.dispose()
}

// dispose closes the connection and forgets it.
func (c *client) dispose() {
	if !c.IsOpen() {
		return
	}
	if c.x != nil {
		c.underWay = true
		c.w.freeExchange(c.x)
		c.x = nil
	}
	c.timer.Stop()
	c.life.stop()
	if c.broken || c.outAt < len(c.out) || c.Pending() { // the client must not take what it has got for all
		c.ResetOnClose()
	}
	c.w.loop.Release(c.in)
	c.w.loop.Release(c.out)
	c.in, c.out, c.outAt = nil, nil, 0
	c.Close()
	c.a.forget(&c.downstream)
}

// drain implements connection.
func (c *client) drain() {
	switch {
	case c.phase != phaseIdle || c.closing:
	case len(c.out) > 0: // its last response is still on its way
		c.closing = true
		c.watchFlush()
	default:
		c.w.loop.Start(&c.timer, c.idleTimeout(), c)
	}
}

// shutdown implements connection.
func (c *client) shutdown() {
	if c.phase == phaseTunnel || c.phase == phaseServing {
		c.broken = true
	}
	c.quit()
}

// Expired handles the connection's own timeouts.
func (c *client) Expired(*loop.Timer) {
	switch {
	case c.phase == phaseLinger:
		if c.lingers() {
			return
		}
		c.http().count[httpCxDelayedClose]++
		c.dispose()
	case c.closing && !c.flush.stalls(len(c.out)-c.outAt+c.Unsent()):
		c.w.loop.Start(&c.timer, c.w.flushLook, c)
	case c.closing:
		c.http().count[httpCxDelayedClose]++
		c.dispose()
	case c.phase == phaseIdle:
		c.http().count[httpCxIdleTimeout]++
		switch {
		case len(c.out) > 0: // it takes nothing
			c.dispose()
		case !c.guessing && (c.readable || !c.Quiet()): // a request is just arriving
		default:
			c.finishClose()
		}
	case c.phase == phaseHead:
		c.giveUp()
		c.x.headTimeout()
	}
}
