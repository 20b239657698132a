package proxy

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	// fewConnections of an address are spread over the loops one by one. Of more the kernel's own spreading is good enough
	// as long as no loop has an eighth of all more than another.
	fewConnections = 16
	crowdPart      = 8
	// shortLived: when more came in the last second or two than twice those that are there, they last for less than half
	// a second (Little's law), and to wake another loop costs more than it brings.
	shortLived = 2
)

// crowd knows how many connections of an address each loop has, and how fast they come. All loops read and write it.
type crowd struct{ loops []crowdLoop }

// crowdLoop is written by its own loop, but for active, and has a cache line of its own.
type crowdLoop struct {
	active  atomic.Int64
	second  atomic.Int64 // in which came fell
	came    atomic.Int64
	earlier atomic.Int64 // came of the second before
	_       [32]byte
}

func newCrowd(loops int) *crowd { return &crowd{make([]crowdLoop, loops)} }

// enter counts a connection to a loop.
func (c *crowd) enter(loop int) { c.loops[loop].active.Add(1) }

// leave counts it out.
func (c *crowd) leave(loop int) { c.loops[loop].active.Add(-1) }

// arrived notes that a connection came to a loop in a second of the clock.
func (c *crowd) arrived(loop int, second int64) {
	l := &c.loops[loop]
	switch l.second.Load() {
	case second:
		l.came.Add(1)
		return
	case second - 1:
		l.earlier.Store(l.came.Load())
	default:
		l.earlier.Store(0)
	}
	l.came.Store(1)
	l.second.Store(second)
}

// choose returns the loop that is to have a connection that came to mine, and counts it there. It decides by what the
// other loops were a moment ago: two may choose the same one at a time.
func (c *crowd) choose(mine int, second int64, how config.Balance) int {
	least, least0, total, came := mine, c.loops[mine].active.Load(), int64(1), int64(0)
	here := least0
	for i := range c.loops {
		l := &c.loops[i]
		n := l.active.Load()
		total += n
		if n < least0 {
			least, least0 = i, n
		}
		switch s := l.second.Load(); {
		case s >= second:
			came += l.came.Load() + l.earlier.Load()
		case s == second-1:
			came += l.came.Load()
		}
	}
	bound := int64(1)
	if total > fewConnections {
		bound += total / crowdPart
	}
	if how != config.BalanceExact && (here-least0 < bound || came > shortLived*total) {
		least = mine
	}
	c.enter(least)
	return least
}

// arrived takes a fresh connection in, on this loop or another.
func (a *acceptor) arrived(fd int, peer netip.AddrPort) {
	if !a.takeLimits() {
		_ = syscall.Close(fd)
		return
	}
	mine := a.w.slot
	second := a.w.loop.Wall(a.w.loop.Now()).Unix()
	a.crowd.arrived(mine, second)
	to := a.crowd.choose(mine, second, a.reception.cfg.Balance)
	if to == mine {
		a.look(fd, peer)
		return
	}
	w, addr, r, c := a.w.peers[to], a.addr, a.reception, a.crowd
	if w.loop.Post(func() { w.receive(addr, r, c, fd, peer) }) {
		a.stats.count[listenerCxRebalanced]++
		return
	}
	c.leave(to)
	c.enter(mine)
	a.look(fd, peer)
}

// receive takes a connection from another loop. Its listener may have left while it was on its way.
func (w *worker) receive(addr config.Address, r *reception, c *crowd, fd int, peer netip.AddrPort) {
	a := w.acceptors[addr]
	if a == nil || a.reception.limit != r.limit {
		a = w.newAcceptor(addr, r, c)
		defer a.leave()
	}
	a.look(fd, peer)
}

// look finds out whose connection it is, which is counted already.
func (a *acceptor) look(fd int, peer netip.AddrPort) {
	a.taken++
	if a.reception.looks() {
		a.acceptPreface(fd, peer)
	} else {
		a.admit(a.newArrival(fd, peer))
	}
}

// loopSamples are the connections of each address by loop, in Envoy's names.
func (n *counts) loopSamples() []sample {
	var out []sample
	for _, addr := range slices.SortedFunc(maps.Keys(n.perLoop), config.Address.Compare) {
		for _, c := range n.perLoop[addr] {
			out = append(out, sample{
				scope: "listener", label: "envoy_listener_address", owner: statOwner(addr),
				name: "worker_" + strconv.Itoa(c.slot) + ".downstream_cx_active", value: uint64(c.active), gauge: true,
			})
		}
	}
	return out
}
