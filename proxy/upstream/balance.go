package upstream

import (
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// activity tells the picker of the hosts' requests.
type activity Cluster

func (a *activity) Active(i int) int { return a.hosts[i].active }

// usePlan begins to pick by a plan. Its hosts are those of the cluster, which are the same and in the same order.
func (c *Cluster) usePlan(plan *balance.Plan) {
	states := make([]*balance.State, len(c.hosts))
	for i, h := range c.hosts {
		states[i] = &h.turn
	}
	c.picker.Use(plan, states, c.now())
}

func (c *Cluster) now() time.Time { return c.loop.Wall(c.loop.Now()) }

// Plan is how the cluster's hosts are used.
func (c *Cluster) Plan() *balance.Plan { return c.picker.Plan() }

// Pick returns the next host by the cluster's policy, one that is not among tried if there is one; nil when no host may
// be used.
func (c *Cluster) Pick(tried []*Host) *Host { return c.PickBy(balance.Key{}, tried) }

// PickBy is Pick for a request whose key chooses the host, if the policy is one by hash.
func (c *Cluster) PickBy(key balance.Key, tried []*Host) *Host {
	if c.picker.Slow() {
		c.picker.Tick(c.now())
	}
	var h *Host
	for attempt := range 4 {
		i, panics := c.picker.Pick(key, attempt)
		if i < 0 {
			c.Stats.Count[NoneHealthy]++
			return nil
		}
		if panics && attempt == 0 {
			c.Stats.Count[Panic]++
		}
		if h = c.hosts[i]; !slices.Contains(tried, h) {
			return h
		}
	}
	others := c.picker.Others() // weights may hide the one that is left
	from := c.rand.IntN(len(others))
	for i := range others {
		if other := c.hosts[others[(from+i)%len(others)]]; !slices.Contains(tried, other) {
			return other
		}
	}
	return h
}
