package registry

import (
	"container/heap"
	"fmt"
	"time"
)

// departure is when something doubted leaves at the earliest. What is doubted leaves later when its source fails
// meanwhile, which is seen when the departure is due.
type departure struct {
	at   time.Time
	loss *loss
}

// departures is a heap, the earliest first.
type departures []departure

func (d departures) Len() int           { return len(d) }
func (d departures) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d departures) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *departures) Push(x any)        { *d = append(*d, x.(departure)) }

func (d *departures) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

// enqueue has something that is doubted leave in time.
func (g *guard) enqueue(l *loss) {
	if len(g.queue) > 2*len(g.kept)+64 { // mostly struck
		g.queueAgain()
	} else if at, _ := g.leaves(l); !at.IsZero() {
		heap.Push(&g.queue, departure{at, l})
	}
}

// queueAgain makes the queue of what is kept now.
func (g *guard) queueAgain() {
	g.queue = nil
	for l := range g.kept {
		if l.state != doubted {
			continue
		}
		if at, _ := g.leaves(l); !at.IsZero() {
			g.queue = append(g.queue, departure{at, l})
		}
	}
	heap.Init(&g.queue)
}

// pass lets leave what is due and returns what is served.
func (g *guard) pass(now time.Time) []*Service {
	g.expire(now)
	if !g.quiet.IsZero() && !now.Before(g.quiet) {
		g.tellWhole()
	}
	if !g.word.IsZero() {
		if len(g.holding) > 0 && !now.Before(g.burstEnd()) {
			g.endBurst(now)
		}
		g.depart(now)
	}
	return g.serve()
}

// depart lets leave the doubted whose time has come.
func (g *guard) depart(now time.Time) {
	for len(g.queue) > 0 && !now.Before(g.queue[0].at) {
		l := g.queue[0].loss
		at, why := g.leaves(l)
		switch {
		case g.struck(l) || at.IsZero():
			heap.Pop(&g.queue)
		case now.Before(at):
			g.queue[0].at = at
			heap.Fix(&g.queue, 0)
		default:
			heap.Pop(&g.queue)
			g.strike(l, why)
		}
	}
}

// next returns when tick is to be called; zero: never, as things are.
func (g *guard) next() (at time.Time) {
	if g.word.IsZero() {
		return time.Time{}
	}
	soonest := func(t time.Time) {
		if at.IsZero() || !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	soonest(g.sweep)
	soonest(g.quiet)
	if len(g.queue) > 0 {
		soonest(g.queue[0].at)
	}
	if len(g.holding) > 0 {
		soonest(g.burstEnd())
	}
	return at
}

// leaves returns when a doubted one leaves, and why; zero: not by time.
func (g *guard) leaves(l *loss) (time.Time, string) {
	switch {
	case l.unclear:
		return time.Time{}, ""
	case !l.until.IsZero():
		return l.until, byFewness
	}
	return later(g.word, l.marked).Add(g.rules.Time), byRepetition
}

// burstEnd returns when what is held leaves: when nothing has come to it for Hold, or it has lasted long enough.
func (g *guard) burstEnd() time.Time {
	return earlier(g.burstLast.Add(g.rules.Hold), g.burstBegan.Add(mostHolds*g.rules.Hold))
}

// endBurst lets leave what is held, but for services that lost their last endpoint together.
func (g *guard) endBurst(now time.Time) {
	var empty []*loss
	first, last := now, time.Time{}
	g.burstBegan = now
	for _, l := range g.holding {
		switch {
		case l.state != held || g.struck(l):
		case g.losses[l.service.Name].rest == 0:
			empty = append(empty, l)
			first, last = earlier(first, l.since), later(last, l.since)
		case l.recent:
			l.state = left // and may come back
			g.drop(l)
		default:
			g.strike(l, "")
		}
	}
	g.holding = nil
	if len(empty) == 1 {
		if l := empty[0]; l.recent {
			l.state = left
			g.drop(l)
		} else {
			g.strike(l, "")
		}
		return
	}
	for _, l := range empty {
		g.doubt(now, l, fmt.Sprintf("%d services lost their last endpoint within %v", len(empty), within(last, first)))
		l.until = later(now, l.since.Add(g.rules.Window))
		g.enqueue(l) // that may be earlier
	}
}
