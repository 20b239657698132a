package upstream

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Kind is a reason to eject a host.
type Kind uint8

// The kinds, by Envoy's names (see String).
const (
	Consecutive5xx Kind = iota
	ConsecutiveGateway
	ConsecutiveLocal
	SuccessRate
	SuccessRateLocal
	FailurePercentage
	FailurePercentageLocal
	numKinds
)

// String is the kind as it is in the names of figures.
func (k Kind) String() string {
	return [...]string{
		"consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure", "success_rate",
		"local_origin_success_rate", "failure_percentage", "local_origin_failure_percentage",
	}[k]
}

// Detector ejects the hosts of a cluster that answer badly, and takes them back. It does nothing by itself: Look is to be
// called when its Shared wakes somebody, Sweep after every interval. It is not safe for concurrent use.
type Detector struct {
	Stats OutlierStats

	shared  *Shared
	cfg     *config.Outlier
	rand    *rand.Rand
	hosts   map[config.Address]*watched
	order   []config.Address // as configured
	ejected int
}

// OutlierStats are the counters of a detector.
type OutlierStats struct {
	Detected, Enforced [numKinds]uint64
	Overflow, Total    uint64 // Total: Envoy's sum over two kinds, enforced or not
	RateTotal          uint64
}

// watched is a host under a detector.
type watched struct {
	state     *HostState
	out       bool
	since     time.Time // of the ejection
	jitter    time.Duration
	backoff   time.Duration // ejections in a row, as a factor
	last      [4]uint64     // what was counted until the last sweep
	rate      float64       // of answers in the last interval, in percent; -1: too few
	localRate float64
}

// NewDetector makes the detector of a cluster; random draws jitter and enforcement.
func NewDetector(s *Shared, random *rand.Rand) *Detector {
	return &Detector{shared: s, rand: random, hosts: map[config.Address]*watched{}}
}

// Set takes rules and the hosts they are for. Hosts that stay keep their state. nil ends the detection: nobody is ejected.
func (d *Detector) Set(cfg *config.Outlier, endpoints []*config.Endpoint) {
	d.cfg = cfg
	d.shared.rules.Store(cfg)
	if cfg == nil {
		endpoints = nil
	}
	old := d.hosts
	d.hosts, d.order, d.ejected = make(map[config.Address]*watched, len(endpoints)), d.order[:0], 0
	for _, e := range endpoints {
		if d.hosts[e.Addr] != nil {
			continue
		}
		h := old[e.Addr]
		if h == nil {
			h = &watched{state: d.shared.host(e.Addr), rate: -1, localRate: -1}
			h.last = h.state.sum()
		}
		if h.out {
			d.ejected++
		}
		d.hosts[e.Addr] = h
		d.order = append(d.order, e.Addr)
	}
	d.shared.mu.Lock()
	defer d.shared.mu.Unlock()
	for addr := range d.shared.hosts {
		if d.hosts[addr] == nil {
			delete(d.shared.hosts, addr)
		}
	}
}

// Ejected reports whether a host is put out of use.
func (d *Detector) Ejected(addr config.Address) bool { h := d.hosts[addr]; return h != nil && h.out }

// Active is how many hosts are put out of use.
func (d *Detector) Active() int { return d.ejected }

// Rates are a host's shares of good answers and of successful attempts to reach it in the last interval, in percent; -1 when
// there were too few.
func (d *Detector) Rates(addr config.Address) (answers, local float64) {
	if h := d.hosts[addr]; h != nil {
		return h.rate, h.localRate
	}
	return -1, -1
}

// Look handles the failures in a row that the loops have told of. It reports whether another host is ejected now.
func (d *Detector) Look(now time.Time) bool {
	if !d.shared.detected.Swap(false) || d.cfg == nil {
		return false
	}
	before := d.ejected
	for _, addr := range d.order {
		h := d.hosts[addr]
		for kinds, k := h.state.detected.Swap(0), Kind(0); k <= ConsecutiveLocal; k++ {
			if kinds>>k&1 == 0 || h.out {
				continue
			}
			d.detect(h, k, now)
			// So that another row is seen although no success was between them.
			[]interface{ Store(uint32) }{&h.state.fives, &h.state.gateways, &h.state.locals}[k].Store(0)
		}
	}
	return d.ejected != before
}

// Sweep takes hosts back whose time has passed, and compares the others. It reports whether another set is ejected now.
func (d *Detector) Sweep(now time.Time) bool {
	if d.cfg == nil {
		return false
	}
	changed := false
	for _, addr := range d.order {
		h := d.hosts[addr]
		if !h.out && h.backoff > 0 {
			h.backoff-- // a quiet interval; the one that ends an ejection is none
		}
		if h.out && now.Sub(h.since) >= min(h.backoff*d.cfg.BaseEjectionTime, d.cfg.MaxEjectionTime)+h.jitter {
			d.back(h)
			changed = true
		}
	}
	before := d.ejected
	d.compare(now)
	return changed || d.ejected != before
}

// Passed tells that a host has passed a health check and is healthy. It reports whether that ended its ejection.
func (d *Detector) Passed(addr config.Address) bool {
	h := d.hosts[addr]
	if h == nil || !h.out || d.cfg.KeepOnCheck {
		return false
	}
	d.back(h)
	return true
}

func (d *Detector) back(h *watched) {
	h.out = false
	d.ejected--
	h.state.fives.Store(0)
	h.state.gateways.Store(0)
	h.state.locals.Store(0)
	h.state.detected.Store(0)
}

// detect counts an outlier and ejects it, unless too many are, or the rule is not enforced this time.
func (d *Detector) detect(h *watched, k Kind, now time.Time) {
	d.Stats.Detected[k]++
	share := 100 * float64(d.ejected+1) / float64(len(d.hosts))
	if share > float64(d.cfg.MaxEjectionPercent) && (d.ejected > 0 || !d.cfg.AlwaysEjectOne) {
		d.Stats.Overflow++
		return
	}
	if k == Consecutive5xx || k == SuccessRate {
		d.Stats.Total++
	}
	if d.rand.Uint32N(100) >= d.enforced(k) {
		return
	}
	d.Stats.Enforced[k]++
	h.out, h.since, h.jitter = true, now, 0
	d.ejected++
	if most := d.cfg.EjectionJitter; most > 0 {
		h.jitter = time.Duration(d.rand.Int64N(int64(most) + 1))
	}
	if h.backoff*d.cfg.BaseEjectionTime < d.cfg.MaxEjectionTime+d.cfg.BaseEjectionTime {
		h.backoff++
	}
}

// enforced is in how many of a hundred cases a kind leads to an ejection.
func (d *Detector) enforced(k Kind) uint32 {
	c := d.cfg
	return [...]uint32{
		c.Enforce5xx, c.EnforceGateway, c.EnforceLocal, c.SuccessRate.Enforce, c.SuccessRate.EnforceOfLocal,
		c.FailurePercentage.Enforce, c.FailurePercentage.EnforceOfLocal,
	}[k]
}

// sum adds the loops' counts up: answers, good ones, attempts, good ones.
func (s *HostState) sum() (n [4]uint64) {
	for i := range s.rates {
		r := &s.rates[i]
		// The good ones first: none may seem to be without the whole it is a part of.
		n[1] += r.good.Load()
		n[0] += r.answers.Load()
		n[3] += r.localPassed.Load()
		n[2] += r.localTotal.Load()
	}
	return n
}

// compare looks at what was counted since the last sweep.
func (d *Detector) compare(now time.Time) {
	counts := make(map[*watched][4]uint64, len(d.hosts))
	for _, h := range d.hosts {
		sum := h.state.sum()
		for i := range sum {
			h.last[i], sum[i] = sum[i], sum[i]-h.last[i]
		}
		counts[h] = sum
		h.rate, h.localRate = -1, -1
	}
	d.compareOne(now, counts, 0, SuccessRate, FailurePercentage, func(h *watched, r float64) { h.rate = r })
	if d.cfg.SplitLocal {
		d.compareOne(now, counts, 2, SuccessRateLocal, FailurePercentageLocal, func(h *watched, r float64) { h.localRate = r })
	}
}

// compareOne looks at one of two pairs of counts.
func (d *Detector) compareOne(now time.Time, counts map[*watched][4]uint64, at int, success, failure Kind, note func(*watched, float64)) {
	type rated struct {
		h    *watched
		rate float64
	}
	var forSuccess, forFailure []rated
	mean := 0.0
	for _, addr := range d.order {
		h := d.hosts[addr]
		total, good := counts[h][at], counts[h][at+1]
		if h.out || total == 0 {
			continue
		}
		r := rated{h, 100 * float64(min(good, total)) / float64(total)}
		if total >= uint64(min(d.cfg.SuccessRate.RequestVolume, d.cfg.FailurePercentage.RequestVolume)) {
			note(h, r.rate)
		}
		if total >= uint64(d.cfg.SuccessRate.RequestVolume) {
			forSuccess = append(forSuccess, r)
			mean += r.rate
		}
		if total >= uint64(d.cfg.FailurePercentage.RequestVolume) {
			forFailure = append(forFailure, r)
		}
	}
	if n := len(forSuccess); n > 0 && n >= int(d.cfg.SuccessRate.MinimumHosts) {
		mean /= float64(n)
		variance := 0.0
		for _, r := range forSuccess {
			variance += (r.rate - mean) * (r.rate - mean)
		}
		least := mean - math.Sqrt(variance/float64(n))*float64(d.cfg.SuccessRate.Threshold)/1000
		for _, r := range forSuccess {
			if r.rate < least {
				d.Stats.RateTotal++
				d.detect(r.h, success, now)
			}
		}
	}
	if n := len(forFailure); n > 0 && n >= int(d.cfg.FailurePercentage.MinimumHosts) {
		for _, r := range forFailure {
			if !r.h.out && 100-r.rate >= float64(d.cfg.FailurePercentage.Threshold) {
				d.detect(r.h, failure, now)
			}
		}
	}
}

// Figure is a figure of the outlier detection, by Envoy's name.
type Figure struct {
	Name  string
	Value uint64
	Gauge bool
}

// Figures are all figures of the detector.
func (d *Detector) Figures() []Figure {
	s := &d.Stats
	total := uint64(0)
	var out []Figure
	for k := range numKinds {
		out = append(out, Figure{Name: "ejections_detected_" + k.String(), Value: s.Detected[k]}, Figure{Name: "ejections_enforced_" + k.String(), Value: s.Enforced[k]})
		total += s.Enforced[k]
	}
	return append(out,
		Figure{Name: "ejections_enforced_total", Value: total},
		Figure{Name: "ejections_overflow", Value: s.Overflow},
		Figure{Name: "ejections_total", Value: s.Total},
		Figure{Name: "ejections_consecutive_5xx", Value: s.Detected[Consecutive5xx]},
		Figure{Name: "ejections_success_rate", Value: s.RateTotal},
		Figure{Name: "ejections_active", Value: uint64(d.ejected), Gauge: true},
	)
}
