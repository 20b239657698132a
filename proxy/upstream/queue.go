package upstream

import "github.com/hostmesh/hostmesh/proxy/config"

// waiting is who may be in the queue for connections.
type waiting interface {
	// Free is called for who was put in the queue: to ask again.
	Free()
}

// Waiter is a place in the queue for connections, or at one that is being opened, embedded in each user.
type Waiter struct {
	next, prev *Waiter
	user       waiting
	conn       *Conn // that is being opened for a Receiver
}

type waiters struct {
	head  Waiter
	count int
}

func (w *waiters) init() { w.head.next, w.head.prev = &w.head, &w.head }

// pend counts one more that waits for a connection, or reports false when as many wait as may.
func (c *Cluster) pend() bool {
	if c.take(limitPending) {
		return true
	}
	c.Stats.Count[RequestPendingOverflow]++
	return false
}

// connect begins a connection to h, or puts user into the queue.
func (c *Cluster) connect(h *Host, w *Waiter, user waiting, use Use) (*Conn, error) {
	if !c.pend() {
		return nil, ErrOverflow
	}
	for !c.take(limitConns) {
		if c.evict() {
			continue
		}
		c.Stats.Count[ConnOverflow]++
		c.Stats.Count[RequestPendingTotal]++
		c.enqueue(w, user)
		return nil, ErrWait
	}
	return c.open(h, user, use)
}

// evict makes room for a connection by closing an idle one. Who asks for it found none that will do, so those of his host are of another
// kind, or another client's. Nobody of the queue is asked: the place is taken already.
func (c *Cluster) evict() bool {
	var busy *muxConn
	for _, h := range c.hosts {
		if h.idle != nil {
			h.idle.end()
			return true
		}
		for _, m := range h.muxes {
			switch {
			case !m.ready || m.Active() > 0:
			case m.Busy():
				busy = m
			default:
				m.evicted = true
				m.Abort()
				return true
			}
		}
	}
	if busy != nil { // it ends with this turn, and then the queue is asked
		busy.drain()
	}
	return false
}

func (c *Cluster) enqueue(w *Waiter, user waiting) {
	head := &c.waiting.head
	w.user, w.prev, w.next = user, head.prev, head
	head.prev.next = w
	head.prev = w
	c.queued(1)
}

// Dequeue takes a user out of the queue, if it is in it.
func (c *Cluster) Dequeue(w *Waiter) {
	if w.next == nil {
		return
	}
	w.prev.next, w.next.prev = w.next, w.prev
	*w = Waiter{}
	c.give(limitPending)
	c.queued(-1)
}

// serveWaiting asks those in the queue as long as there is room: one who is asked may give up instead of taking it, and
// one who has to wait again is not asked twice.
func (c *Cluster) serveWaiting() {
	for left := c.waiting.count; left > 0 && c.waiting.count > 0 && c.room(); left-- {
		w := c.waiting.head.next
		user := w.user
		c.Dequeue(w)
		user.Free()
	}
}

// room reports whether a connection can be had, or never can.
func (c *Cluster) room() bool {
	return c.idle > 0 || c.gone || !c.full(limitConns) || c.slots()
}

// slots reports whether a connection to any host has a free stream.
func (c *Cluster) slots() bool {
	if c.cfg.Protocol == config.ProtocolHTTP1 {
		return false
	}
	for _, h := range c.hosts {
		for _, m := range h.muxes {
			if m.takes() {
				return true
			}
		}
	}
	return false
}
