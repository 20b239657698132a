package balance

import (
	"math"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// leastFactor keeps a weight from vanishing: a host that got a turn at the very start of its window would wait for the next one
// long after the end of the window.
const leastFactor = 0.01

// startSlowly notes since when the hosts are healthy.
func (p *Plan) startSlowly(old *Plan, now time.Time) {
	before := map[config.Address]time.Time{}
	if old != nil {
		for i, e := range old.Hosts {
			switch {
			case e.Health != config.Healthy:
			case old.since == nil: // slow start is new, the host is not
				before[e.Addr] = now.Add(-p.config.SlowStart.Window)
			default:
				before[e.Addr] = old.since[i]
			}
		}
	}
	p.since = make([]time.Time, len(p.Hosts))
	for i, e := range p.Hosts {
		if e.Health != config.Healthy {
			continue
		}
		p.since[i] = now
		if at, known := before[e.Addr]; known {
			p.since[i] = at
		}
		if end := p.since[i].Add(p.config.SlowStart.Window); end.After(p.until) {
			p.until = end
		}
	}
}

// sinceByAddr is since when each host is healthy; nil without slow start.
func (p *Plan) sinceByAddr() map[config.Address]time.Time {
	if p.since == nil {
		return nil
	}
	out := make(map[config.Address]time.Time, len(p.Hosts))
	for i, e := range p.Hosts {
		out[e.Addr] = p.since[i]
	}
	return out
}

// startAs has the hosts of a subset be as far as they are in the whole: one that gets other labels is not new.
func (p *Plan) startAs(whole *Plan, since map[config.Address]time.Time) {
	if p.since == nil || since == nil {
		return
	}
	for i, e := range p.Hosts {
		p.since[i] = since[e.Addr]
	}
	p.until = whole.until
}

// factor is what a host's weight is multiplied by.
func (p *Plan) factor(host uint32, now time.Time) float64 {
	slow := p.config.SlowStart
	since := p.since[host]
	if since.IsZero() {
		return 1
	}
	passed := now.Sub(since)
	if passed >= slow.Window {
		return 1
	}
	f := float64(max(passed, time.Millisecond)) / float64(slow.Window)
	if slow.Aggression != 1 {
		f = math.Pow(f, 1/slow.Aggression)
	}
	return max(min(f, 1), slow.MinWeight, leastFactor)
}
