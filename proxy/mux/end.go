package mux

import (
	"errors"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// End closes the connection when all is sent: streams that are open are reset.
func (c *Conn) End() {
	if c.closed || c.failed != nil {
		return
	}
	c.failed = http2.NoError
	c.mark()
}

// Finish does that and then waits for the peer to close the connection. To close it while the peer still sends, as it does to open
// windows for what it reads, would reset it, and what the peer has not got yet would be lost. The owner has to Abort when it lasts
// too long.
func (c *Conn) Finish() {
	c.linger = true
	c.End()
}

// discard drops what a peer sends that is told to go.
func (c *Conn) discard() {
	buf := c.loop.Shared()
	for range turnBytes / len(buf) {
		n, err := c.socket.Read(buf)
		*c.counts.Received += uint64(n)
		c.received += uint64(n)
		if err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				c.end(c.failed)
			}
			return
		}
	}
	c.socket.Again()
}

// Abort closes the connection at once.
func (c *Conn) Abort() {
	if c.shunned != nil {
		c.shunned.timer.Stop()
		c.shunned = nil
		c.part(c.failed)
		return
	}
	c.end(syscall.ECONNABORTED)
}

func (c *Conn) end(err error) {
	if !c.closed {
		c.lose()
		c.part(err)
	}
}

// lose ends every stream.
func (c *Conn) lose() {
	c.closed = true
	if c.pulse != nil {
		c.pulse.timer.Stop()
	}
	c.Close(http2.InternalError, (*handler)(c))
	c.loop.Release(c.out)
	c.loop.Release(c.in)
	c.out, c.in, c.waiting = nil, nil, nil
}

// ByPeer reports whether it was the peer that closed a connection which ended by err, and not this side.
func (c *Conn) ByPeer(err error) bool {
	return !errors.As(err, new(http2.ErrCode)) && !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, ErrSilent) && c.failed == nil
}

func (c *Conn) part(err error) {
	c.socket.Close()
	c.owner.Ended(err)
}

// shun ends every stream and lets the peer, which was told why, wait. One that floods does not get the end of the connection to see
// before the time is over, or it would begin anew at once.
func (c *Conn) shun() {
	c.lose()
	if code := http2.NoError; !errors.As(c.failed, &code) || code != http2.EnhanceYourCalm {
		c.socket.CloseWrite()
	}
	c.shunned = &shunned{conn: c}
	c.loop.Start(&c.shunned.timer, time.Duration(c.patience)*time.Millisecond, c.shunned)
}

// shunned is a connection whose time to read why it ended runs out.
type shunned struct {
	timer loop.Timer
	conn  *Conn
}

// Expired implements loop.Expirer.
func (s *shunned) Expired(*loop.Timer) { s.conn.Abort() }

// fail ends the connection of a peer that was told why, or will be.
func (c *Conn) fail(err error) {
	c.failed = err
	if err := c.push(); c.patience > 0 && err == nil && !c.stuck && !c.hup { // who breaks the rules and does not read is not waited for
		c.shun()
	} else {
		c.end(c.failed)
	}
}

// GiveUp ends the connection of a peer as if it had broken the rules by code; why is what Ended is told. It must not be called while
// something is told.
func (c *Conn) GiveUp(code http2.ErrCode, why error) {
	if !c.Closed() {
		c.Fail(code)
		c.fail(why)
	}
}
