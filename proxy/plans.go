package proxy

import (
	"maps"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/upstream"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// plans are how the hosts of each cluster are used. They are made here, on the binder's goroutine, once for all loops: a big
// table takes longer than a loop may be held up. A set of plans is not changed once a loop has it.
type plans map[string]*balance.Plan

// next returns the plans for cfg, of which the clusters named in changed are other ones.
func (p plans) next(cfg *config.Config, changed []string, now time.Time) plans {
	if len(changed) == 0 {
		return p
	}
	out := maps.Clone(p)
	if out == nil {
		out = plans{}
	}
	for _, name := range changed {
		if c := cfg.Clusters[name]; c != nil {
			out[name] = balance.New(c, p[name], now)
		} else {
			delete(out, name)
		}
	}
	return out
}

// planned makes the worker's part of a cluster.
func (w *worker) planned(cfg *config.Cluster) *upstream.Cluster {
	return upstream.NewPlanned(w.loop, w.loops, w.plans[cfg.Name], w.rand)
}

// planSamples are the figures of a cluster's plan, which all loops share.
func planSamples(p *balance.Plan) []sample {
	var out []sample
	for _, g := range p.Gauges() {
		out = append(out, sample{name: g.Name, value: g.Value, gauge: !g.Counter})
	}
	return out
}
