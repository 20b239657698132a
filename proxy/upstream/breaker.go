package upstream

import (
	"sync"
	"sync/atomic"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// limit is one of the things that a circuit breaker counts.
type limit uint8

const (
	limitConns limit = iota
	limitPending
	limitRequests
	limitRetries
	numLimits
)

// exactPerLoop times the number of loops is the largest limit that the loops count together. Of a larger one each loop has its
// share, so that a busy cluster does not pass a cache line around for every request; a loop that has used up its share looks
// what the others leave.
const exactPerLoop = 64

// Breakers are the counts that the loops of a process have in common. They are safe for concurrent use; a lock is only taken
// when a loop meets a cluster for the first time or leaves it, and when requests wait for a connection.
type Breakers struct {
	mu       sync.Mutex
	clusters map[string]*tally // guarded by mu
}

// NewBreakers returns counts for one process.
func NewBreakers() *Breakers { return &Breakers{clusters: map[string]*tally{}} }

// tally is what the loops count together of one cluster.
type tally struct {
	used    [numLimits]atomic.Int64
	waiting atomic.Int64 // users in the queues of all loops, for a connection that another loop may have

	mu    sync.Mutex
	loops []*Cluster               // guarded by mu
	loads map[config.Address]*load // guarded by mu
}

// breaker is a loop's part in the limits of a cluster.
type breaker struct {
	common *Breakers // nil: the limits are divided, whatever they are
	shared *tally
	used   [numLimits]int          // by this loop
	told   [numLimits]atomic.Int64 // used, for the other loops, where it is not exact
	limit  [numLimits]int          // 0: none; of all loops if exact, else of this one
	all    [numLimits]int          // of all loops
	exact  [numLimits]bool
	budget *config.RetryBudget

	turn    int         // counts the connections that were released while others waited
	serving atomic.Bool // a task that serves the queue is on its way
	yields  atomic.Bool // a task that gives idle connections up is on its way
}

// Join has the cluster count its small limits together with the same cluster on other loops.
func (c *Cluster) Join(all *Breakers) {
	c.breaker.common = all
	c.setLimits()
	c.shareLoads()
}

// setLimits takes the limits of the configuration. What is in use moves to where it is counted from now on.
func (c *Cluster) setLimits() {
	b := &c.breaker
	switch {
	case b.common == nil:
	case c.gone:
		defer b.common.leave(c)
	case b.shared == nil:
		b.common.join(c)
	}
	b.budget = c.cfg.RetryBudget
	for k, all := range [numLimits]uint32{c.cfg.MaxConnections, c.cfg.MaxPending, c.cfg.MaxRequests, c.cfg.MaxRetries} {
		exact := b.shared != nil && !c.gone && (all > 0 && int(all) <= exactPerLoop*c.share || b.budget != nil && limit(k) >= limitRequests)
		if exact != b.exact[k] {
			n := int64(b.used[k])
			if !exact {
				n = -n
			}
			b.shared.used[k].Add(n)
		}
		b.exact[k], b.limit[k], b.all[k] = exact, int(all), int(all)
		if !exact {
			b.limit[k] = (int(all) + c.share - 1) / c.share
		}
	}
}

// take counts one more of k, or reports false when there are as many as may be.
func (c *Cluster) take(k limit) bool {
	b := &c.breaker
	limit := b.limit[k]
	if k == limitRetries && b.budget != nil {
		limit = c.budgeted()
		if limit == 0 {
			return false
		}
	}
	switch {
	case !b.exact[k]:
		if limit > 0 && b.used[k] >= limit && !c.spare(k) {
			return false
		}
	default:
		for {
			n := b.shared.used[k].Load()
			if limit > 0 && n >= int64(limit) {
				return false
			}
			if b.shared.used[k].CompareAndSwap(n, n+1) {
				break
			}
		}
	}
	b.used[k]++
	b.tell(k)
	return true
}

// tell lets the other loops know.
func (b *breaker) tell(k limit) {
	if !b.exact[k] && b.limit[k] > 0 {
		b.told[k].Store(int64(b.used[k]))
	}
}

// spare reports whether the other loops leave more of k than this one's share. Two that ask at once may both be told so.
func (c *Cluster) spare(k limit) bool {
	b := &c.breaker
	if b.shared == nil || b.exact[k] {
		return false
	}
	total := 0
	b.shared.each(nil, func(other *Cluster) { total += int(other.breaker.told[k].Load()) })
	return total < b.all[k]
}

// budgeted is how many retries there may be by the budget.
func (c *Cluster) budgeted() int {
	b := &c.breaker
	active := int64(b.used[limitRequests])
	if b.exact[limitRequests] {
		active = b.shared.used[limitRequests].Load()
	}
	return max(int(b.budget.Percent/100*float64(active)), int(b.budget.MinConcurrency))
}

// give counts one of k less.
func (c *Cluster) give(k limit) {
	b := &c.breaker
	b.used[k]--
	b.tell(k)
	if !b.exact[k] {
		return
	}
	b.shared.used[k].Add(-1)
	if k == limitConns && b.othersWait(c) {
		b.shared.serve(c)
	}
}

// full reports whether there are as many of k as may be.
func (c *Cluster) full(k limit) bool {
	b := &c.breaker
	if b.exact[k] {
		return b.limit[k] > 0 && b.shared.used[k].Load() >= int64(b.limit[k])
	}
	return over(b.used[k], b.limit[k]) && !c.spare(k)
}

// othersWait reports whether users of other loops wait for a connection.
func (b *breaker) othersWait(c *Cluster) bool {
	return b.shared != nil && b.shared.waiting.Load() > int64(c.waiting.count)
}

// passOn reports whether a connection whose request is done is to be closed for the sake of another loop: when nobody of this
// one waits, and else now and then.
func (c *Cluster) passOn() bool {
	b := &c.breaker
	if !b.exact[limitConns] || !b.othersWait(c) {
		return false
	}
	b.turn++
	return c.waiting.count == 0 || b.turn%4 == 0
}

// queued notes that a user entered (1) or left (-1) the queue. Who enters asks the other loops for their idle connections: the
// limit may be used up by those.
func (c *Cluster) queued(n int) {
	c.waiting.count += n
	b := &c.breaker
	if b.shared == nil {
		return
	}
	b.shared.waiting.Add(int64(n))
	if n < 0 || !b.exact[limitConns] {
		return
	}
	if !c.full(limitConns) { // it was given back before those who gave could see that somebody waits
		c.askServe()
		return
	}
	b.shared.each(c, func(other *Cluster) {
		if other.breaker.yields.CompareAndSwap(false, true) {
			other.loop.Post(other.yield)
		}
	})
}

// yield closes idle connections while users of other loops wait.
func (c *Cluster) yield() {
	b := &c.breaker
	b.yields.Store(false)
	if !b.exact[limitConns] {
		return
	}
	for left := b.shared.waiting.Load() - int64(c.waiting.count); left > 0; left-- {
		if !c.evict() {
			return
		}
	}
}

// serve has the other loops look at their queues.
func (s *tally) serve(from *Cluster) {
	s.each(from, (*Cluster).askServe)
}

// askServe has the cluster's loop look at its queue. It may be called on any loop.
func (c *Cluster) askServe() {
	if c.breaker.serving.CompareAndSwap(false, true) {
		c.loop.Post(func() {
			c.breaker.serving.Store(false)
			c.serveWaiting()
		})
	}
}

func (s *tally) each(but *Cluster, f func(*Cluster)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.loops {
		if c != but {
			f(c)
		}
	}
}

func (all *Breakers) join(c *Cluster) {
	all.mu.Lock()
	defer all.mu.Unlock()
	s := all.clusters[c.cfg.Name]
	if s == nil {
		s = &tally{}
		all.clusters[c.cfg.Name] = s
	}
	s.mu.Lock()
	s.loops = append(s.loops, c)
	s.mu.Unlock()
	c.breaker.shared = s
	s.waiting.Add(int64(c.waiting.count))
}

// leave takes a retired cluster out. What it still uses counts for nobody.
func (all *Breakers) leave(c *Cluster) {
	s := c.breaker.shared
	if s == nil {
		return
	}
	c.breaker.shared = nil
	s.waiting.Add(-int64(c.waiting.count))
	all.mu.Lock()
	defer all.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.loops {
		if other == c {
			s.loops = append(s.loops[:i], s.loops[i+1:]...)
			break
		}
	}
	if len(s.loops) == 0 && all.clusters[c.cfg.Name] == s {
		delete(all.clusters, c.cfg.Name)
	}
}
