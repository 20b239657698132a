package upstream

import (
	"slices"
	"sort"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// balance is the set of hosts that may be picked, prepared for the cluster's policy.
type balance struct {
	hosts []*Host
	panic bool // health is ignored
	equal bool // all weights are
	next  int  // round robin over equal weights

	heap []*Host // weighted round robin: earliest deadline first
	now  float64

	sums []uint64 // least request: the weights summed up
}

// build chooses the hosts: those of the first priority of which enough are healthy; degraded ones only when no host is
// healthy; and when there is no such priority, all that are not draining (panic).
func (b *balance) build(c *Cluster) {
	*b = balance{hosts: b.hosts[:0], heap: b.heap[:0], sums: b.sums[:0]}
	b.choose(c)
	if len(b.hosts) == 0 {
		return
	}
	b.equal = true
	for _, h := range b.hosts {
		b.equal = b.equal && weight(h) == weight(b.hosts[0])
	}
	b.next = c.rand.IntN(len(b.hosts)) // or the loops would go round in step
	switch {
	case b.equal:
	case c.cfg.Policy == config.LeastRequest:
		sum := uint64(0)
		for _, h := range b.hosts {
			sum += uint64(weight(h))
			b.sums = append(b.sums, sum)
		}
	default:
		for _, h := range b.hosts {
			h.deadline = c.rand.Float64() / float64(weight(h))
			b.heap = append(b.heap, h)
		}
		slices.SortFunc(b.heap, func(x, y *Host) int {
			if x.deadline < y.deadline {
				return -1
			}
			return 1
		})
	}
}

func (b *balance) choose(c *Cluster) {
	priorities := []uint32{}
	for _, h := range c.hosts {
		if !slices.Contains(priorities, h.Endpoint.Priority) {
			priorities = append(priorities, h.Endpoint.Priority)
		}
	}
	slices.Sort(priorities)
	for _, p := range priorities {
		all, healthy, degraded := 0, 0, 0
		for _, h := range c.hosts {
			if h.Endpoint.Priority != p {
				continue
			}
			all++
			switch h.Endpoint.Health {
			case config.Healthy:
				healthy++
			case config.Degraded:
				degraded++
			}
		}
		if healthy+degraded == 0 || float64(healthy+degraded)*100 < c.cfg.PanicThreshold*float64(all) {
			continue
		}
		want := config.Healthy
		if healthy == 0 {
			want = config.Degraded
		}
		b.add(c, func(h *Host) bool { return h.Endpoint.Priority == p && h.Endpoint.Health == want })
		return
	}
	if c.cfg.PanicThreshold > 0 && len(priorities) > 0 {
		b.panic = true
		b.add(c, func(h *Host) bool {
			return h.Endpoint.Priority == priorities[0] && h.Endpoint.Health != config.Draining
		})
		if len(b.hosts) == 0 {
			b.add(c, func(*Host) bool { return true })
		}
	}
}

func (b *balance) add(c *Cluster, use func(*Host) bool) {
	for _, h := range c.hosts {
		if use(h) {
			b.hosts = append(b.hosts, h)
		}
	}
}

func weight(h *Host) uint32 { return max(h.Endpoint.Weight, 1) }

// Pick returns the next host by the cluster's policy, one that is not among tried if there is one; nil when no host may
// be used.
func (c *Cluster) Pick(tried []*Host) *Host {
	b := &c.usable
	if len(b.hosts) == 0 {
		c.Stats.Count[NoneHealthy]++
		return nil
	}
	if b.panic {
		c.Stats.Count[Panic]++
	}
	var h *Host
	for range 4 {
		if h = b.pick(c); !slices.Contains(tried, h) {
			return h
		}
	}
	for range b.hosts { // weights may hide the one that is left
		b.next++
		if other := b.hosts[b.next%len(b.hosts)]; !slices.Contains(tried, other) {
			return other
		}
	}
	return h
}

func (b *balance) pick(c *Cluster) *Host {
	switch {
	case len(b.hosts) == 1:
		return b.hosts[0]
	case c.cfg.Policy == config.LeastRequest:
		return less(b.random(c), b.random(c))
	case b.equal:
		if b.next++; b.next >= len(b.hosts) {
			b.next = 0
		}
		return b.hosts[b.next]
	}
	h := b.heap[0]
	b.now = h.deadline
	h.deadline = b.now + 1/float64(weight(h))
	b.sink()
	return h
}

// random draws a host in proportion to its weight.
func (b *balance) random(c *Cluster) *Host {
	if b.equal {
		return b.hosts[c.rand.IntN(len(b.hosts))]
	}
	at := c.rand.Uint64N(b.sums[len(b.sums)-1])
	return b.hosts[sort.Search(len(b.sums), func(i int) bool { return b.sums[i] > at })]
}

// less returns the host with fewer requests for its weight; x of two equal ones, so that idle hosts are picked in
// proportion to their weights.
func less(x, y *Host) *Host {
	if uint64(y.active)*uint64(weight(x)) < uint64(x.active)*uint64(weight(y)) {
		return y
	}
	return x
}

// sink restores the heap after its first deadline grew.
func (b *balance) sink() {
	heap, i := b.heap, 0
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && heap[child+1].deadline < heap[child].deadline {
			child++
		}
		if heap[i].deadline <= heap[child].deadline {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}
