package proxy

import (
	"context"
	"maps"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http2"
)

// counts is everything that the loops have counted.
type counts struct {
	clusters  map[string]*clusterCounts
	http      map[string]*httpStats
	tcp       map[string]*tcpStats
	listeners map[config.Address]*listenerStats
	prefaces  prefaceStats
	http2     http2.Counts
	draining  map[string]bool // the names of listeners that left and have connections still
	perLoop   map[config.Address][]loopCount
}

// loopCount is what one loop has of an address.
type loopCount struct{ slot, active int }

// gather asks each loop for its counts, on the loop, and sums them. A loop that does not answer in time is left out.
func (p *Proxy) gather(ctx context.Context) *counts {
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	total := newCounts()
	for _, w := range p.workers {
		part := newCounts() // of its own: a loop that answers too late writes to what nobody reads
		if w.loop.Do(ctx, func() { part.take(w) }) == nil {
			total.add(part)
		}
	}
	return total
}

func newCounts() *counts {
	return &counts{map[string]*clusterCounts{}, map[string]*httpStats{}, map[string]*tcpStats{}, map[config.Address]*listenerStats{}, prefaceStats{}, http2.Counts{}, map[string]bool{}, map[config.Address][]loopCount{}}
}

// take copies what a worker has counted; on its loop.
func (n *counts) take(w *worker) {
	for name, c := range w.clusters {
		cc := &clusterCounts{gauges: c.Gauges(), plan: c.Plan(), hosts: map[config.Address]*hostCounts{}}
		cc.stats.Add(&c.Stats)
		for _, h := range c.Hosts() {
			cc.hosts[h.Endpoint.Addr] = &hostCounts{h.Stats, h.Active(), h.Conns()}
		}
		n.clusters[name] = cc
	}
	for prefix, s := range w.http {
		own := *s
		n.http[prefix] = &own
	}
	for prefix, s := range w.tcp {
		own := *s
		n.tcp[prefix] = &own
	}
	for addr, a := range w.acceptors {
		own := *a.stats
		n.listeners[addr] = &own
		n.perLoop[addr] = []loopCount{{w.slot, a.active}}
	}
	n.prefaces, n.http2 = w.prefaces, w.http2
	for _, a := range w.leaving {
		n.draining[a.reception.cfg.Name] = true
	}
}

func (n *counts) add(other *counts) {
	for name, c := range other.clusters {
		mine := n.clusters[name]
		if mine == nil {
			n.clusters[name] = c
			continue
		}
		mine.stats.Add(&c.stats)
		mine.gauges.Conns += c.gauges.Conns
		mine.gauges.Requests += c.gauges.Requests
		mine.gauges.Pending += c.gauges.Pending
		mine.gauges.RetriesInFlight += c.gauges.RetriesInFlight
		for addr, h := range c.hosts {
			if m := mine.hosts[addr]; m == nil {
				mine.hosts[addr] = h
			} else {
				m.stats.Add(&h.stats)
				m.active += h.active
				m.conns += h.conns
			}
		}
		if c.plan.Config().OriginalDst != nil { // each loop has made its own
			mine.gauges.Members, mine.gauges.HealthyMembers = len(mine.hosts), len(mine.hosts)
		}
	}
	merge(n.http, other.http, (*httpStats).add)
	merge(n.tcp, other.tcp, (*tcpStats).add)
	merge(n.listeners, other.listeners, (*listenerStats).add)
	n.prefaces.add(&other.prefaces)
	n.http2.Add(&other.http2)
	maps.Copy(n.draining, other.draining)
	for addr, counts := range other.perLoop {
		n.perLoop[addr] = append(n.perLoop[addr], counts...)
	}
}

func merge[K comparable, V any](into, from map[K]*V, add func(*V, *V)) {
	for k, v := range from {
		if mine := into[k]; mine != nil {
			add(mine, v)
		} else {
			into[k] = v
		}
	}
}
