// Package upstream holds a loop's view of its clusters: which host is next, which connections to it are open, and how
// much of its limits is used.
//
// Every loop has clusters of its own, built when first used; nothing here is safe for concurrent use. The hosts share
// their endpoints with the configuration.
package upstream

import (
	"math/rand/v2"
	"slices"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// Cluster is one loop's part of a cluster.
type Cluster struct {
	Stats Stats

	loop  *loop.Loop
	share int // of how many loops this is one; limits are divided by it
	cfg   *config.Cluster
	rand  *rand.Rand

	hosts  []*Host // all, in the order of the configuration
	byAddr map[config.Address]*Host
	picker balance.Picker

	subsets map[config.Labels]*subset  // by name, those that were used
	choices map[config.Labels][]choice // by what a request wants, since the last update

	cleaning loop.Timer // of hosts that were made on demand

	breaker breaker // counts connections (open or opening), requests, retries
	idle    int     // of the connections, in the hosts' pools
	opening int
	waiting waiters
	gone    bool

	arena       *Arena // of the loop
	origination Origination
	judge       func(error) Counter // of failed handshakes

	shared *Shared // what the process knows; nil: nobody asks how requests end
	slot   int     // this loop's number there
}

// Host is an endpoint of a cluster with its connections. It stays the same while configurations change around it.
type Host struct {
	Endpoint *config.Endpoint
	Stats    HostStats

	cluster *Cluster
	idle    *Conn // the one used last: it is the warmest, and the others may time out
	muxes   []*muxConn
	gone    bool // no longer in the configuration
	manner  manner
	epoch   int   // counts the changes of manner; connections of another epoch are not used again
	asked   bool  // it was picked since the last cleaning; of hosts that are made on demand
	active  int   // requests, by this loop
	load    *load // requests, by all loops; nil: nobody asks
	conns   int
	state   *HostState // what the process knows; nil: nobody asks

	turn balance.State
}

// New builds a loop's part of a cluster. loops is the number of parts; random draws the balancing's choices.
func New(l *loop.Loop, loops int, cfg *config.Cluster, random *rand.Rand) *Cluster {
	return NewPlanned(l, loops, balance.New(cfg, nil, l.Wall(l.Now())), random)
}

// NewPlanned is New for a cluster of which there is a plan already.
func NewPlanned(l *loop.Loop, loops int, plan *balance.Plan, random *rand.Rand) *Cluster {
	c := &Cluster{loop: l, share: max(loops, 1), rand: random, cfg: &config.Cluster{}}
	c.waiting.init()
	c.picker.Init(random, (*activity)(c))
	c.UpdatePlanned(plan)
	return c
}

// Config is what the cluster was last given.
func (c *Cluster) Config() *config.Cluster { return c.cfg }

// Hosts are the hosts in the order of the configuration. The slice is the cluster's own.
func (c *Cluster) Hosts() []*Host { return c.hosts }

// Update takes a new configuration. Hosts that stay keep their connections and counters; of hosts that left the idle
// connections are closed and the others when their request is done. nil retires the whole cluster.
func (c *Cluster) Update(cfg *config.Cluster) {
	c.gone = cfg == nil
	if c.gone {
		cfg = &config.Cluster{Name: c.cfg.Name, ConnectTimeout: c.cfg.ConnectTimeout}
	}
	c.UpdatePlanned(balance.New(cfg, c.picker.Plan(), c.now()))
}

// UpdatePlanned is Update for a plan.
func (c *Cluster) UpdatePlanned(plan *balance.Plan) {
	cfg := plan.Config()
	old := c.byAddr
	if len(c.hosts) == 1 && sameLogical(c.cfg, cfg) {
		old = map[config.Address]*Host{cfg.Endpoints[0].Addr: c.hosts[0]}
	}
	c.cfg = cfg
	c.setLimits()
	c.hosts = make([]*Host, 0, len(cfg.Endpoints))
	c.byAddr = make(map[config.Address]*Host, len(cfg.Endpoints))
	for _, e := range cfg.Endpoints {
		if c.byAddr[e.Addr] != nil {
			continue // the same socket would be one host twice
		}
		h := old[e.Addr]
		if h == nil {
			h = &Host{cluster: c}
		}
		h.Endpoint, h.state = e, c.state(e.Addr)
		h.speak(manner{cfg.EndpointTLS(e), cfg.Protocol})
		c.byAddr[e.Addr] = h
		c.hosts = append(c.hosts, h)
	}
	c.keepDestinations(old)
	for addr, h := range old {
		if c.byAddr[addr] == nil {
			h.leave()
		}
	}
	c.shareLoads()
	c.usePlan(plan)
	c.serveWaiting()
}

// Close closes all connections that no request uses and lets no new one start.
func (c *Cluster) Close() { c.Update(nil) }

// manner is how a host is spoken to.
type manner struct {
	tls      *config.UpstreamTLS
	protocol config.Protocol
}

// speak takes how the host is spoken to from now on. Connections that were begun in another way finish what they do: what is to
// be encrypted never goes where it is not.
func (h *Host) speak(m manner) {
	if h.manner == m {
		return
	}
	h.manner = m
	h.epoch++
	h.dropIdle()
}

func (h *Host) leave() {
	h.gone = true
	h.part()
	h.dropIdle()
}

// dropIdle closes the connections that nobody uses, and the others when nobody does.
func (h *Host) dropIdle() {
	for h.idle != nil {
		h.idle.end()
	}
	for _, m := range slices.Clone(h.muxes) {
		m.drain()
	}
}

// Healthy reports whether the control plane lets the host be used.
func (h *Host) Healthy() bool {
	return h.Endpoint.Health == config.Healthy || h.Endpoint.Health == config.Degraded
}

// Gone reports whether the cluster has the host no more.
func (h *Host) Gone() bool { return h.gone }

// Active is the number of requests the host is serving for this loop.
func (h *Host) Active() int { return h.active }

// Conns is the number of connections to the host that are open or opening.
func (h *Host) Conns() int { return h.conns }

func over(used, limit int) bool { return limit > 0 && used >= limit }

// BeginRequest counts a request in, or reports false when the cluster serves as many as it may.
func (c *Cluster) BeginRequest() bool {
	if !c.take(limitRequests) {
		c.Stats.Count[RequestPendingOverflow]++
		return false
	}
	c.Stats.Count[RequestTotal]++
	return true
}

// EndRequest counts a request out that BeginRequest counted in.
func (c *Cluster) EndRequest() { c.give(limitRequests) }

// BeginRetry counts a retry in, or reports false when there are as many as may be.
func (c *Cluster) BeginRetry() bool {
	if !c.take(limitRetries) {
		c.Stats.Count[RetryOverflow]++
		return false
	}
	c.Stats.Count[Retry]++
	return true
}

// EndRetry counts a retry out.
func (c *Cluster) EndRetry() { c.give(limitRetries) }

// Gauges are the present values of a cluster on one loop. Pending are those that wait for a connection: in the queue for one, or until
// one is open.
type Gauges struct {
	Conns, Requests, Pending      int
	Members, HealthyMembers       int
	ConnsOpening, RetriesInFlight int
}

// Gauges returns the present values.
func (c *Cluster) Gauges() Gauges {
	used := &c.breaker.used
	g := Gauges{Conns: used[limitConns], Requests: used[limitRequests], Pending: used[limitPending], Members: len(c.hosts), ConnsOpening: c.opening, RetriesInFlight: used[limitRetries]}
	for _, h := range c.hosts {
		if h.Healthy() {
			g.HealthyMembers++
		}
	}
	return g
}
