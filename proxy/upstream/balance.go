package upstream

import (
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// activity tells the picker of the hosts' requests.
type activity Cluster

func (a *activity) Active(i int) int { return a.hosts[i].requests() }

// usePlan begins to pick by a plan. Its hosts are those of the cluster, which are the same and in the same order.
func (c *Cluster) usePlan(plan *balance.Plan) {
	states := make([]*balance.State, len(c.hosts))
	for i, h := range c.hosts {
		states[i] = &h.turn
	}
	c.picker.Use(plan, states, c.now())
	c.useSubsets(plan)
}

func (c *Cluster) now() time.Time { return c.loop.Wall(c.loop.Now()) }

// Plan is how the cluster's hosts are used.
func (c *Cluster) Plan() *balance.Plan { return c.picker.Plan() }

// Pick returns the next host by the cluster's policy, one that is not among tried if there is one; nil when no host may
// be used.
func (c *Cluster) Pick(tried []*Host) *Host { return c.PickBy(balance.Key{}, tried) }

// PickBy is Pick for a request whose key chooses the host, if the policy is one by hash, and the subset of the hosts.
func (c *Cluster) PickBy(key balance.Key, tried []*Host) *Host {
	var h *Host
	switch {
	case c.cfg.OriginalDst != nil:
		h = c.pickDestination(key.Destination)
	case c.cfg.Subsets != nil:
		h = c.pickSubset(key, tried)
	default:
		h = c.pick(&c.picker, c.hosts, key, tried)
	}
	if h == nil {
		c.Stats.Count[NoneHealthy]++
	}
	return h
}

// pick chooses among hosts, which are those of the picker.
func (c *Cluster) pick(p *balance.Picker, hosts []*Host, key balance.Key, tried []*Host) *Host {
	if p.Slow() {
		p.Tick(c.now())
	}
	var h *Host
	for attempt := range 4 {
		i, panics := p.Pick(key, attempt)
		if i < 0 {
			return nil
		}
		if panics && attempt == 0 {
			c.Stats.Count[Panic]++
		}
		if h = hosts[i]; !slices.Contains(tried, h) {
			return h
		}
	}
	others := p.Others() // weights may hide the one that is left
	from := c.rand.IntN(len(others))
	for i := range others {
		if other := hosts[others[(from+i)%len(others)]]; !slices.Contains(tried, other) {
			return other
		}
	}
	return h
}
