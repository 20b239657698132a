package mux

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// Keepalive is how a connection finds out that its peer is gone without a word, as one that has lost its power: by pings.
type Keepalive struct {
	Interval time.Duration // from an answer to the next ping; 0: none is sent
	Jitter   float64       // the share of the interval that is added at most, at random
	Timeout  time.Duration // for an answer, or anything else, or the connection ends
}

// ErrSilent ends a connection whose peer did not answer a ping in time.
var ErrSilent = errors.New("peer does not answer pings")

// pulse asks whether the peer is still there.
type pulse struct {
	c     *Conn
	timer loop.Timer
	keep  Keepalive
	limit time.Duration // for the answer that is awaited
	asked bool
	doubt bool  // because of a doubt
	last  int64 // when there was one, on the loop's clock
}

// KeepAlive has the connection, which has just begun, ask for its peer as k says.
func (c *Conn) KeepAlive(k Keepalive) {
	if k.Interval > 0 {
		c.pulse = &pulse{c: c, keep: k}
		c.pulse.wait()
	}
}

// Ask asks the peer whether it is still there; when nothing comes of it for that time the connection ends. It does nothing while an answer
// is awaited.
func (c *Conn) Ask(timeout time.Duration) {
	if c.pulse == nil {
		c.pulse = &pulse{c: c}
	}
	c.pulse.ask(timeout)
}

// Doubt is Ask for who has a reason to think that the peer is gone, and has that reason again and again: it asks once in every while.
func (c *Conn) Doubt(timeout, every time.Duration) {
	now := c.loop.Now()
	if p := c.pulse; p != nil && (p.asked || p.last > 0 && now-p.last < int64(every)) {
		return
	}
	c.Ask(timeout)
	c.pulse.doubt, c.pulse.last = true, now
}

// Doubted reports whether the answer to a doubt is awaited.
func (c *Conn) Doubted() bool { return c.pulse != nil && c.pulse.doubt }

// Silence is how long nothing has come from the peer.
func (c *Conn) Silence() time.Duration {
	return time.Duration(uint32(c.loop.Now()/1e6)-c.heard) * time.Millisecond
}

func (c *Conn) hear() { c.heard = uint32(c.loop.Now() / 1e6) }

func (p *pulse) ask(timeout time.Duration) {
	if p.asked || p.c.Closed() {
		return
	}
	p.asked, p.limit = true, timeout
	p.c.Ping([8]byte{'p', 'u', 'l', 's', 'e'})
	p.c.mark()
	p.c.loop.StartAt(&p.timer, timeout, p)
}

// answered is told that a ping was. Answers come in the order of pings: it may be one to the owner's, who is told of the next.
func (p *pulse) answered() bool {
	if !p.asked {
		return false
	}
	p.asked, p.doubt = false, false
	p.timer.Stop()
	p.wait()
	return true
}

func (p *pulse) wait() {
	if k := p.keep; k.Interval > 0 {
		p.c.loop.StartAt(&p.timer, k.Interval+time.Duration(rand.Float64()*k.Jitter*float64(k.Interval)), p)
	}
}

// Expired asks, or ends the connection of a peer that did not answer. One of which anything else comes is there, as in Envoy: the ping, or
// its answer, may wait behind content. Nothing can come while the peer is not read, because it does not read, and when the connection
// ends: those who have it look after that.
func (p *pulse) Expired(*loop.Timer) {
	c := p.c
	if c.Closed() {
		return
	}
	if !p.asked {
		p.ask(p.keep.Timeout)
		return
	}
	left := p.limit - c.Silence()
	if c.server && c.Clogged() {
		left = p.limit
	}
	if left > 0 {
		c.loop.StartAt(&p.timer, left, p)
		return
	}
	c.CountOne(http2.KeepaliveTimeout)
	c.end(ErrSilent)
}
