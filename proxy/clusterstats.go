package proxy

import (
	"fmt"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// samples are the figures of a cluster, without their owner.
func (c *clusterCounts) samples() []sample {
	out := make([]sample, 0, upstream.NumCounters+40)
	for i, v := range c.stats.Count {
		out = append(out, sample{name: upstream.Counter(i).String(), value: v})
	}
	c.stats.Statuses(func(status int, n uint64) {
		out = append(out, sample{name: fmt.Sprintf("upstream_rq_%d", status), value: n})
	})
	g := &c.gauges
	for _, v := range []struct {
		name  string
		value int
	}{
		{"upstream_cx_active", g.Conns},
		{"upstream_rq_active", g.Requests},
		{"upstream_rq_pending_active", g.Pending},
		{"membership_total", g.Members},
		{"membership_healthy", g.HealthyMembers},
	} {
		out = append(out, sample{name: v.name, value: uint64(v.value), gauge: true})
	}
	out = append(append(out, c.breakerSamples()...), planSamples(c.plan)...)
	if n := c.stats.HTTP2; n != nil {
		for i, v := range n {
			out = append(out, sample{name: "http2." + http2.Counter(i).String(), value: v})
		}
	}
	for _, h := range []struct {
		name string
		of   *upstream.Histogram
	}{{"upstream_rq_time", c.stats.Time}, {"upstream_cx_connect_ms", c.stats.Connect}, {"upstream_cx_length_ms", c.stats.Length}} {
		if h.of != nil {
			out = append(out, sample{name: h.name, histogram: h.of})
		}
	}
	return out
}

// breakerSamples tell which limits are used up. There is one priority: the high one has no requests, and so is never open.
func (c *clusterCounts) breakerSamples() []sample {
	cfg, g := c.plan.Config(), &c.gauges
	retries := cfg.MaxRetries
	if b := cfg.RetryBudget; b != nil {
		retries = max(uint32(b.Percent/100*float64(g.Requests)), b.MinConcurrency)
	}
	var out []sample
	for _, l := range []struct {
		name  string
		used  int
		limit uint32
		none  bool // without a limit
	}{
		{"cx_open", g.Conns, cfg.MaxConnections, cfg.MaxConnections == 0},
		{"rq_pending_open", g.Pending, cfg.MaxPending, cfg.MaxPending == 0},
		{"rq_open", g.Requests, cfg.MaxRequests, cfg.MaxRequests == 0},
		{"rq_retry_open", g.RetriesInFlight, retries, retries == 0 && cfg.RetryBudget == nil},
	} {
		open := uint64(0)
		if !l.none && uint64(l.used) >= uint64(l.limit) {
			open = 1
		}
		out = append(out,
			sample{name: "circuit_breakers.default." + l.name, value: open, gauge: true},
			sample{name: "circuit_breakers.high." + l.name, gauge: true})
	}
	return out
}
