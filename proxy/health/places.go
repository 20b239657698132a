package health

import (
	"container/heap"
	"slices"
	"time"
)

// mostAtATime is how many checks run; others wait, so that no more descriptors and goroutines are taken. A cluster takes a place
// only while more are free than it has. So there is one for who comes next, however many endpoints a cluster has whose checks
// end in their timeouts: one such cluster has a half at most, two a third each.
const mostAtATime = 256

// Where a host stands of which no check is to come.
const (
	checking = -1 // a check runs
	waiting  = -2 // its time has come, and it waits for a place
)

// call has hosts whose time has come wait for a place. It returns how long it takes until the next one's time comes.
func (c *Checker) call(now time.Time) (wait time.Duration, more bool) {
	for len(c.due) > 0 {
		if wait := c.due[0].next.Sub(now); wait > 0 {
			return wait, true
		}
		h := heap.Pop(&c.due).(*host)
		h.index = waiting
		if len(h.group.waiting) == 0 {
			c.waiting = append(c.waiting, h.group)
		}
		h.group.waiting = append(h.group.waiting, h)
	}
	return 0, false
}

// seat returns the host that gets the next place, nil if none does: of the cluster that has fewest, and has waited longest of such.
func (c *Checker) seat() *host {
	first := -1
	for i, g := range c.waiting {
		if first < 0 || g.running < c.waiting[first].running {
			first = i
		}
	}
	if first < 0 || c.waiting[first].running >= mostAtATime-c.running {
		return nil
	}
	g := c.waiting[first]
	h := g.waiting[0]
	g.waiting = g.waiting[1:]
	c.waiting = slices.Delete(c.waiting, first, first+1)
	if len(g.waiting) > 0 {
		c.waiting = append(c.waiting, g)
	} else {
		g.waiting = nil
	}
	h.index = checking
	g.running++
	c.running++
	return h
}

// unseat takes back the place of a check that has ended.
func (c *Checker) unseat(h *host) {
	c.running--
	h.group.running--
}

// rises takes a host out of those that wait for a place.
func (c *Checker) rises(h *host) {
	g := h.group
	g.waiting = slices.DeleteFunc(g.waiting, func(other *host) bool { return other == h })
	if len(g.waiting) == 0 {
		c.waiting = slices.DeleteFunc(c.waiting, func(other *group) bool { return other == g })
	}
}
