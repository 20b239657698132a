package proxy

import "github.com/hostmesh/hostmesh/proxy/upstream"

// becomeTunnel answers an upgrade that the upstream agreed to: what follows on both connections is passed on as it is.
// Bytes that the client sent early were held back until now: before the 101 they could have been a smuggled request.
// It reports whether the exchange has ended instead.
func (x *exchange) becomeTunnel(head []byte) (ended bool) {
	c := x.c
	if !c.send(head) {
		return true
	}
	c.phase = phaseTunnel
	c.timer.Stop()
	x.routeTimer.Stop()
	x.tryTimer.Stop()
	x.idleTimer.Stop()
	x.tryIdle.Stop()
	t := &tunnel{}
	t.open(x.w, &c.Socket, x.up, x.streamIdle(), c)
	t.toUp.readable, t.toUp.hup = c.readable, c.hup
	t.toDown.readable, t.toDown.hup = x.upReadable, x.upHup
	t.give(&t.toUp, c.in)
	t.toUp.bytes = uint64(len(c.in))
	x.w.loop.Release(c.in)
	c.in = nil
	if len(c.out) > 0 {
		t.give(&t.toDown, c.out[c.outAt:])
		x.w.loop.Release(c.out)
		c.out, c.outAt = nil, 0
	}
	c.tunnel = t
	x.cluster.Stats.Count[upstream.RequestCompleted]++
	c.http().count[httpUpgradesTotal]++
	return false
}

// upgraded starts the tunnel; early is what the upstream sent behind its head.
func (c *client) upgraded(early []byte) {
	t := c.tunnel
	if len(early) > 0 {
		t.toDown.bytes += uint64(len(early))
		if t.toDown.pending == nil {
			t.give(&t.toDown, early)
		} else {
			t.toDown.pending = append(t.w.loop.Grow(t.toDown.pending, len(early)), early...)
		}
	}
	t.start()
}

// tunnelEnded ends the exchange that became a tunnel, and its connection.
func (c *client) tunnelEnded(broken bool) {
	x, t := c.x, c.tunnel
	x.bytesIn, x.bytesOut = t.toUp.bytes, t.toDown.bytes
	x.up = nil
	if broken {
		x.flags |= flagClientGone
		c.broken = true
	}
	x.account()
	c.tunnel = nil
	c.dispose()
}
