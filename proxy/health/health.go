// Package health checks the endpoints of clusters, once for the whole process: it connects, or sends a request, again and
// again, and says which endpoints may be used.
//
// The meaning of all settings is Envoy's. An endpoint that the configuration no longer has stays in use while its checks pass
// (Removed), unless the cluster says otherwise: a discovery that forgets endpoints must not take them from service.
package health

import (
	"container/heap"
	"context"
	"crypto/tls"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Stats are the counters of a cluster's checks.
type Stats struct {
	Attempt, Success, Failure, NetworkFailure uint64
	Healthy, Degraded                         int // endpoints, at present
}

// Host is an endpoint with what the checks have found.
type Host struct {
	Endpoint *config.Endpoint
	Flags    Flags
}

// Checker checks endpoints while Run runs. Its methods may be called from any goroutine.
type Checker struct {
	// TLS, if set before Run, tells what the checks of an endpoint speak; nil is plaintext. It is called for every check.
	// A connection is kept for the next check as long as version, which can be compared, stays the same. It must not
	// block, nor call the Checker.
	TLS func(c *config.Cluster, e *config.Endpoint) (cfg *tls.Config, version any)

	check  func(ctx context.Context, cluster string, c *config.HealthCheck, at config.Address, way Way, kept *link) (Outcome, *link)
	tell   func(cluster string, addr config.Address, passed, changed bool)
	wakeUp chan struct{}

	mu       sync.Mutex
	clusters map[string]*group // guarded by mu
	due      queue             // guarded by mu: endpoints whose next check is to come, the next one first
	waiting  []*group          // guarded by mu: those with endpoints that wait for a place
	running  int               // guarded by mu
}

// group is a cluster.
type group struct {
	name  string
	cfg   *config.Cluster
	used  func() bool
	hosts map[config.Address]*host
	order []config.Address // as configured, then those that are kept
	stats Stats

	waiting []*host // for a place, the first to get one first
	running int     // checks
}

// host is an endpoint under checks.
type host struct {
	group    *group
	endpoint *config.Endpoint
	state    state
	removed  bool
	gone     bool
	next     time.Time
	index    int                 // in the queue, or checking, or waiting
	cancel   context.CancelFunc  // of the running check
	link     *link               // belongs to the running check, if one runs
	way      Way                 // how it was made
	how      *config.HealthCheck // of the last check
}

// New makes a checker. tell, if not nil, is called after every check, without locks held: whether it passed and whether that
// changed the endpoint's flags.
func New(tell func(cluster string, addr config.Address, passed, changed bool)) *Checker {
	return &Checker{check: check, tell: tell, wakeUp: make(chan struct{}, 1), clusters: map[string]*group{}}
}

// Set gives a cluster its checks and endpoints; one without HealthCheck is forgotten. Endpoints that stay keep their state.
// used says whether a connection to the cluster was ever made.
func (c *Checker) Set(cfg *config.Cluster, used func() bool) {
	if cfg.HealthCheck == nil {
		c.Forget(cfg.Name)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.clusters[cfg.Name]
	if g == nil {
		g = &group{name: cfg.Name, hosts: map[config.Address]*host{}}
		c.clusters[cfg.Name] = g
	}
	if g.cfg == cfg {
		return
	}
	g.cfg, g.used = cfg, used
	for _, h := range g.hosts {
		if h.index != checking && h.how != nil && h.how != cfg.HealthCheck { // other checks: the first of them is not waited for
			h.closeLink()
			if h.index == waiting {
				h.how = nil
				continue
			}
			h.next, h.how = time.Now().Add(upTo(cfg.HealthCheck.InitialJitter)), nil
			heap.Fix(&c.due, h.index)
		}
	}
	present := make(map[config.Address]bool, len(cfg.Endpoints))
	old := g.order
	g.order = nil
	for _, e := range cfg.Endpoints {
		if present[e.Addr] {
			continue
		}
		present[e.Addr] = true
		g.order = append(g.order, e.Addr)
		h := g.hosts[e.Addr]
		if h == nil {
			h = &host{group: g, state: newState(), next: time.Now().Add(upTo(cfg.HealthCheck.InitialJitter)), index: checking}
			g.hosts[e.Addr] = h
			heap.Push(&c.due, h)
		}
		h.endpoint, h.removed = e, false
	}
	for _, addr := range old {
		h := g.hosts[addr]
		if h == nil || present[addr] {
			continue
		}
		h.removed = true
		if c.keeps(h) {
			g.order = append(g.order, addr)
		} else {
			c.drop(h)
		}
	}
	c.wake()
}

// keeps reports whether an endpoint that the configuration has no more is used on.
func (c *Checker) keeps(h *host) bool {
	said := h.endpoint.Health
	return !h.group.cfg.DropRemoved && h.state.flags&(Failed|Pending) == 0 && (said == config.Healthy || said == config.Degraded)
}

// Forget ends the checks of a cluster.
func (c *Checker) Forget(cluster string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.clusters[cluster]; g != nil {
		delete(c.clusters, cluster)
		for _, h := range g.hosts {
			c.drop(h)
		}
	}
}

// drop ends the checks of an endpoint.
func (c *Checker) drop(h *host) {
	delete(h.group.hosts, h.endpoint.Addr)
	h.gone = true
	switch {
	case h.index == waiting:
		c.rises(h)
		h.closeLink()
	case h.index >= 0:
		heap.Remove(&c.due, h.index)
		h.closeLink()
	case h.cancel != nil:
		h.cancel()
	}
}

func (h *host) closeLink() {
	if h.link != nil {
		h.link.close()
		h.link = nil
	}
}

// Hosts returns the endpoints of a cluster, those that are kept last. known is false for a cluster that is not checked.
func (c *Checker) Hosts(cluster string) (hosts []Host, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.clusters[cluster]
	if g == nil {
		return nil, false
	}
	for _, addr := range g.order {
		h := g.hosts[addr]
		flags := h.state.flags
		if h.removed {
			flags |= Removed
		}
		hosts = append(hosts, Host{h.endpoint, flags})
	}
	return hosts, true
}

// Stats returns the counters of a cluster.
func (c *Checker) Stats(cluster string) (Stats, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.clusters[cluster]
	if g == nil {
		return Stats{}, false
	}
	s := g.stats
	for _, h := range g.hosts {
		switch {
		case h.state.flags&Failed != 0:
		case h.state.flags&Degraded != 0:
			s.Degraded++
		default:
			s.Healthy++
		}
	}
	return s, true
}

func (c *Checker) wake() {
	select {
	case c.wakeUp <- struct{}{}:
	default:
	}
}

// Run checks until ctx ends.
func (c *Checker) Run(ctx context.Context) {
	var checks sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if wait, more := c.startDue(ctx, &checks); more {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-c.wakeUp:
		}
	}
	checks.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.due {
		h.closeLink()
	}
	for _, g := range c.waiting {
		for _, h := range g.waiting {
			h.closeLink()
		}
	}
}

// startDue begins the checks whose time has come, and returns how long nothing else is to be done.
func (c *Checker) startDue(ctx context.Context, checks *sync.WaitGroup) (wait time.Duration, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait, more = c.call(time.Now())
	for h := c.seat(); h != nil; h = c.seat() {
		h.group.stats.Attempt++
		way := c.way(h.group.cfg, h.endpoint)
		if h.way.Header != way.Header || h.way.version != way.version {
			h.closeLink()
		}
		h.way = way
		own, cancel := context.WithCancel(ctx)
		h.cancel, h.how = cancel, h.group.cfg.HealthCheck
		name, how, at, kept := h.group.name, h.how, h.endpoint.Addr, h.link
		checks.Go(func() {
			defer cancel()
			o, link := c.check(own, name, how, at, way, kept)
			c.ended(ctx, h, o, link)
		})
	}
	return wait, more
}

// way is how the checks of an endpoint connect.
func (c *Checker) way(cfg *config.Cluster, e *config.Endpoint) Way {
	w := Way{Header: cfg.ProxyHeader}
	if c.TLS != nil {
		w.TLS, w.version = c.TLS(cfg, e)
	}
	return w
}

// ended takes the end of a check.
func (c *Checker) ended(ctx context.Context, h *host, o Outcome, l *link) {
	c.mu.Lock()
	c.unseat(h)
	h.link = l
	g := h.group
	addr := h.endpoint.Addr
	if h.gone || ctx.Err() != nil {
		h.closeLink()
		c.mu.Unlock()
		c.wake()
		return
	}
	passed := o == Passed || o == PassedDegraded
	switch {
	case passed:
		g.stats.Success++
	case o != Unknown:
		g.stats.Failure++
	}
	if o == Refused || o == Late {
		g.stats.NetworkFailure++
	}
	if h.how != g.cfg.HealthCheck {
		h.closeLink()
	}
	t := h.state.take(g.cfg.HealthCheck, o)
	healthy := passed && h.state.flags&Failed == 0
	h.next = time.Now().Add(interval(g.cfg.HealthCheck, passed, t, g.used()))
	heap.Push(&c.due, h)
	if h.removed && !c.keeps(h) {
		for i, other := range g.order {
			if other == addr {
				g.order = append(g.order[:i:i], g.order[i+1:]...)
				break
			}
		}
		c.drop(h)
	}
	c.mu.Unlock()
	c.wake()
	if c.tell != nil {
		c.tell(g.name, addr, healthy, t == changed)
	}
}

// queue is a heap by time.
type queue []*host

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].next.Before(q[j].next) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is for package heap.
func (q *queue) Push(x any) {
	h := x.(*host)
	h.index = len(*q)
	*q = append(*q, h)
}

// Pop is for package heap.
func (q *queue) Pop() any {
	last := len(*q) - 1
	h := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	h.index = checking
	return h
}
