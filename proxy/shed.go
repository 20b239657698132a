package proxy

import (
	"context"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/mux"
	"github.com/hostmesh/hostmesh/proxy/overload"
)

const (
	textOverloaded = "envoy overloaded"
	heldMuch       = 32 << 10         // bytes in buffers that make a connection worth a reset
	mostResets     = 50               // of a loop at a look
	shrinkEvery    = 10 * time.Second // to give memory back costs a whole collection
)

// shed is what a loop is spared now.
type shed struct {
	requests  bool // are answered 503
	keepAlive bool // no connection has another request
	accepting bool // connections wait in the kernel's queues
	reject    bool // connections are closed as they come
}

// watchOverload has the loops spared what the monitor says, until ctx ends.
func (p *Proxy) watchOverload(ctx context.Context) {
	shrunk := time.Time{}
	p.overload.Run(ctx, func(s overload.State) {
		for _, w := range p.workers {
			w.loop.Post(func() { w.relieve(&s) })
		}
		if s.Full(config.ShrinkHeap) && time.Since(shrunk) > shrinkEvery {
			shrunk = time.Now()
			debug.FreeOSMemory()
		}
	})
}

// relieve takes up what is to be spared.
func (w *worker) relieve(s *overload.State) {
	before := w.shed
	w.shed = shed{
		requests: s.Full(config.ShedRequests), keepAlive: s.Full(config.ShedKeepAlive),
		accepting: s.Full(config.ShedAccepting), reject: s.Full(config.ShedConnections),
	}
	if before.accepting && !w.shed.accepting {
		for _, a := range w.acceptors {
			a.resume() // no edge tells of what has come meanwhile
		}
		if w.steering != nil {
			w.steering.resume()
		}
	}
	if share := s[config.ShedStreams]; share > 0 {
		w.resetLargest(share)
	}
}

// holder is something that holds memory for a client.
type holder struct {
	held  int
	reset func()
}

// resetLargest resets a share of the connections and streams that hold much, those that hold most first.
func (w *worker) resetLargest(share float64) {
	var found []holder
	each := func(a *acceptor) {
		for _, b := range a.branches {
			found = b.holders(found)
		}
		for _, b := range a.parting {
			found = b.holders(found)
		}
	}
	for _, a := range w.acceptors {
		each(a)
	}
	for _, a := range w.leaving {
		each(a)
	}
	slices.SortFunc(found, func(x, y holder) int { return y.held - x.held })
	n := min(mostResets, int(math.Ceil(share*float64(len(found)))))
	for _, h := range found[:n] {
		h.reset()
	}
}

// holders appends the connections, and of those over HTTP/2 the streams, that hold much.
func (b *branch) holders(out []holder) []holder {
	for d := b.clients.next; d != &b.clients; d = d.next {
		switch c := d.owner.(type) {
		case *client:
			if n := c.held(); n >= heldMuch {
				out = append(out, holder{n, c.overloaded})
			}
		case *session:
			out = c.holders(out)
		}
	}
	for s := b.streams.next; s != &b.streams; s = s.next {
		if s.tunnel == nil {
			continue
		}
		if n := s.tunnel.held(); n >= heldMuch {
			out = append(out, holder{n, func() {
				b.stats.count[listenerOverloadReset]++
				s.flags |= flagOverload
				s.shutdown()
			}})
		}
	}
	return out
}

// holders appends the streams that hold much. What the connection itself holds is its streams' at the same time, and little.
func (s *session) holders(out []holder) []holder {
	s.mux.Each(func(m *mux.Stream, r mux.Receiver) {
		l, ok := r.(*lane)
		if f, last := r.(*farewell); last {
			l, ok = (*lane)(f), true
		}
		if !ok {
			return
		}
		n := m.Held()
		if l.x != nil {
			n += cap(l.x.buf)
		}
		if n >= heldMuch {
			out = append(out, holder{n, func() { l.overloaded(m) }})
		}
	})
	return out
}

// held is the memory of the connection's buffers.
func (c *client) held() int {
	n := cap(c.in) + cap(c.out)
	if c.x != nil {
		n += cap(c.x.buf)
	}
	return n
}

// held is what waits in the tunnel, here and in the kernel's pipes.
func (t *tunnel) held() int {
	return cap(t.toUp.pending) + cap(t.toDown.pending) + t.toUp.splice.Held() + t.toDown.splice.Held()
}

// overloaded resets the connection and what it serves.
func (c *client) overloaded() {
	if !c.IsOpen() {
		return
	}
	c.a.stats.count[listenerOverloadReset]++
	c.broken = true
	if x := c.x; x != nil && (c.phase == phaseServing || c.phase == phaseTunnel) {
		x.overloaded()
	}
	c.dispose()
}

// overloaded resets the stream, if it is m still, and what it serves.
func (l *lane) overloaded(m *mux.Stream) {
	if l.m != m {
		return
	}
	l.s.a.stats.count[listenerOverloadReset]++
	if x := l.x; x != nil {
		x.overloaded()
		l.s.w.freeExchange(x)
	}
	m.Cancel(http2.EnhanceYourCalm)
	l.close()
}

// resume goes on accepting, unless that is spared.
func (a *acceptor) resume() {
	if !a.w.shed.accepting && a.socket.IsOpen() {
		a.accept(acceptsATurn)
	}
}

// overloadSamples are the figures of overload and of limits.
func (p *Proxy) overloadSamples() []sample {
	var out []sample
	for _, s := range p.overload.Stats() {
		out = append(out, sample{scope: "overload", name: s.Name, value: s.Value, gauge: s.Gauge})
	}
	out = append(out, sample{scope: "server", name: "total_connections", value: uint64(max(0, p.global.active.Load())), gauge: true})
	return append(out, p.binder.limitSamples()...)
}
