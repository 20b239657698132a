// Package balance chooses the hosts of a cluster.
//
// A [Plan] is what follows from a configuration: which part of the requests each priority gets, which hosts are used there, and
// the tables of ring hash and Maglev. It is made once a process for each change, away from the loops, and shared by them; it is
// never changed. A [Picker] is a loop's own memory of whose turn it is. The package is pure: no I/O, no locks, no clock.
package balance

import (
	"cmp"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	whole                   = 100 // percent
	defaultOverprovisioning = 140
)

// Plan is how the hosts of a cluster are used.
type Plan struct {
	// Hosts are the endpoints that have different addresses; all indexes are those of this slice.
	Hosts []*config.Endpoint

	config  *config.Cluster
	changes uint64 // how often hosts came or went
	loads   []load
	groups  []group

	subsets *subsets // nil without

	since []time.Time // with slow start: when each host became healthy; zero for one that is not
	until time.Time   // when the last of them is up to speed
}

// load is the part of the requests that a group gets: those above the load before it and up to its own percentage.
type load struct {
	upTo  uint64
	group int
}

// group is a set of hosts that share requests.
type group struct {
	hosts []uint32
	panic bool  // health is ignored
	sets  []set // the hosts, divided by locality where their weights count
	table *table
}

// set is a part of a group.
type set struct {
	locality config.Locality
	priority uint32
	weight   float64 // among the sets
	hosts    []uint32
	equal    bool // all weights are
}

// level is a priority.
type level struct {
	priority               uint32
	all, healthy, degraded []uint32
}

// New makes the plan of a cluster. old is the plan before it, nil without: what did not change is taken from there, and so is
// since when its hosts are healthy.
func New(c *config.Cluster, old *Plan, now time.Time) *Plan {
	p := &Plan{config: c, Hosts: distinct(c.Endpoints)}
	p.countChange(old)
	p.divide()
	if c.SlowStart != nil && (c.Policy == config.RoundRobin || c.Policy == config.LeastRequest) {
		p.startSlowly(old, now)
	}
	if c.Policy == config.RingHash || c.Policy == config.Maglev {
		for i := range p.groups {
			var before *table
			if old != nil && i < len(old.groups) {
				before = old.groups[i].table
			}
			p.groups[i].table = newTable(paramsOf(c), p.members(&p.groups[i]), before)
		}
	}
	if c.Subsets != nil {
		p.divideSubsets(old, now)
	}
	return p
}

// countChange counts hosts that are new or gone since the plan before, however many, as one change.
func (p *Plan) countChange(old *Plan) {
	var before []*config.Endpoint
	if old != nil {
		before, p.changes = old.Hosts, old.changes
	}
	same := len(before) == len(p.Hosts)
	for i := 0; same && i < len(before); i++ {
		same = before[i].Addr == p.Hosts[i].Addr
	}
	if same {
		return
	}
	was := make(map[config.Address]bool, len(before))
	for _, e := range before {
		was[e.Addr] = true
	}
	if len(before) != len(p.Hosts) || slices.ContainsFunc(p.Hosts, func(e *config.Endpoint) bool { return !was[e.Addr] }) {
		p.changes++
	}
}

// Config is what the plan was made of.
func (p *Plan) Config() *config.Cluster { return p.config }

// Gauges are the figures of the plan's tables, or rather of the first, and of its subsets.
func (p *Plan) Gauges() []Gauge {
	degraded := uint64(0)
	for _, e := range p.Hosts {
		if e.Health == config.Degraded {
			degraded++
		}
	}
	out := []Gauge{{Name: "membership_change", Value: p.changes, Counter: true}, {Name: "membership_degraded", Value: degraded}}
	if len(p.groups) > 0 && p.groups[0].table != nil {
		out = append(out, p.groups[0].table.gauges...)
	}
	if p.subsets != nil {
		out = append(out, p.subsets.gauges()...)
	}
	return out
}

// distinct leaves out the endpoints that have the address of one before them: the same socket would be one host twice.
func distinct(all []*config.Endpoint) []*config.Endpoint {
	seen := make(map[config.Address]bool, len(all))
	out := make([]*config.Endpoint, 0, len(all))
	for _, e := range all {
		if !seen[e.Addr] {
			seen[e.Addr] = true
			out = append(out, e)
		}
	}
	return out
}

func (p *Plan) levels() []level {
	var out []level
	for i, e := range p.Hosts {
		at := slices.IndexFunc(out, func(l level) bool { return l.priority == e.Priority })
		if at < 0 {
			at = len(out)
			out = append(out, level{priority: e.Priority})
		}
		l := &out[at]
		l.all = append(l.all, uint32(i))
		switch e.Health {
		case config.Healthy:
			l.healthy = append(l.healthy, uint32(i))
		case config.Degraded:
			l.degraded = append(l.degraded, uint32(i))
		}
	}
	slices.SortFunc(out, func(a, b level) int { return cmp.Compare(a.priority, b.priority) })
	return out
}

func (p *Plan) overprovisioning() uint64 {
	return uint64(cmp.Or(p.config.Overprovisioning, defaultOverprovisioning))
}

// divide gives the priorities their parts of the requests, as Envoy does: a priority bears, by its healthy hosts and the
// overprovisioning factor, up to all of them, the next one what is left. What no healthy host bears goes to the degraded ones.
// When all bear less than there is, each gets more in proportion; and one of which too few hosts are healthy is in panic.
func (p *Plan) divide() {
	levels := p.levels()
	if len(levels) == 0 {
		return
	}
	healthy, degraded := make([]uint64, len(levels)), make([]uint64, len(levels))
	available := uint64(0)
	for i, l := range levels {
		healthy[i] = min(whole, p.overprovisioning()*uint64(len(l.healthy))/uint64(len(l.all)))
		degraded[i] = min(whole, p.overprovisioning()*uint64(len(l.degraded))/uint64(len(l.all)))
		available += healthy[i] + degraded[i]
	}
	available = min(available, whole)
	panics, total := p.panics(levels, available)
	switch {
	case total:
		shareAll(levels, healthy)
		clear(degraded)
	case available == 0: // without panic, and so few hosts are healthy that they count for nothing: they are what there is
		for i := len(levels) - 1; i >= 0; i-- {
			if len(levels[i].degraded) > 0 {
				clear(degraded)
				degraded[i] = whole
			}
		}
		for i := len(levels) - 1; i >= 0; i-- {
			if len(levels[i].healthy) > 0 {
				clear(healthy)
				clear(degraded)
				healthy[i] = whole
			}
		}
	default:
		some := func(n uint64) bool { return n > 0 }
		first := healthy
		if !slices.ContainsFunc(healthy, some) {
			first = degraded
		}
		i := slices.IndexFunc(first, some)
		left := distribute(degraded, distribute(healthy, whole, available), available)
		first[i] += left // by rounding
	}
	p.addLoads(levels, healthy, panics, func(l *level) []uint32 { return l.healthy })
	p.addLoads(levels, degraded, panics, func(l *level) []uint32 { return l.degraded })
}

// distribute turns what each priority bears into its part of total, and returns what is left of that.
func distribute(parts []uint64, total, available uint64) uint64 {
	for i := range parts {
		parts[i] = min(total, parts[i]*whole/available)
		total -= parts[i]
	}
	return total
}

// panics tells which levels are in panic, and whether all are.
func (p *Plan) panics(levels []level, available uint64) (panics []bool, total bool) {
	threshold := float64(min(whole, uint64(p.config.PanicThreshold)))
	panics, total = make([]bool, len(levels)), true
	for i, l := range levels {
		usable := float64(whole*(len(l.healthy)+len(l.degraded))) / float64(len(l.all))
		panics[i] = available < whole && usable < threshold
		total = total && panics[i]
	}
	return panics, total
}

// shareAll divides the requests by the numbers of hosts, whatever their health.
func shareAll(levels []level, parts []uint64) {
	hosts := uint64(0)
	for _, l := range levels {
		hosts += uint64(len(l.all))
	}
	left := uint64(whole)
	for i, l := range levels {
		parts[i] = whole * uint64(len(l.all)) / hosts
		left -= parts[i]
	}
	parts[0] += left
}

// addLoads appends the loads of the levels, for the hosts that use chooses.
func (p *Plan) addLoads(levels []level, parts []uint64, panics []bool, use func(*level) []uint32) {
	sum := uint64(0)
	if n := len(p.loads); n > 0 {
		sum = p.loads[n-1].upTo
	}
	for i := range levels {
		l := &levels[i]
		if parts[i] == 0 {
			continue
		}
		hosts := use(l)
		if panics[i] {
			hosts = p.undrained(l.all)
		}
		sum += parts[i]
		p.loads = append(p.loads, load{sum, len(p.groups)})
		p.groups = append(p.groups, group{hosts: hosts, panic: panics[i], sets: p.sets(l, hosts, panics[i])})
	}
}

// undrained leaves out the draining hosts: they are to get nothing new, unless they are all there is. (Envoy uses them too.)
func (p *Plan) undrained(hosts []uint32) []uint32 {
	out := slices.DeleteFunc(slices.Clone(hosts), func(i uint32) bool { return p.Hosts[i].Health == config.Draining })
	if len(out) == 0 {
		return hosts
	}
	return out
}

// sets divides the hosts of a group by locality if that counts, and if any of the localities has a weight.
func (p *Plan) sets(l *level, hosts []uint32, panics bool) []set {
	var out []set
	if p.config.LocalityWeighted && !panics {
		all := map[config.Locality]int{}
		for _, i := range l.all {
			all[p.Hosts[i].Locality]++
		}
		for _, i := range hosts {
			e := p.Hosts[i]
			at := slices.IndexFunc(out, func(s set) bool { return s.locality == e.Locality })
			if at < 0 {
				at = len(out)
				out = append(out, set{locality: e.Locality, priority: e.Priority, weight: float64(e.LocalityWeight)})
			}
			out[at].hosts = append(out[at].hosts, i)
		}
		for i := range out {
			// Envoy's rule: a locality keeps its weight as long as what is left of it can bear that.
			s := &out[i]
			s.weight *= min(1, float64(p.overprovisioning())/whole*float64(len(s.hosts))/float64(all[s.locality]))
		}
		out = slices.DeleteFunc(out, func(s set) bool { return s.weight == 0 })
	}
	if len(out) == 0 {
		out = []set{{hosts: hosts}}
	}
	for i := range out {
		s := &out[i]
		s.equal = !slices.ContainsFunc(s.hosts, func(h uint32) bool { return p.weight(h) != p.weight(s.hosts[0]) })
	}
	return out
}

func (p *Plan) weight(host uint32) float64 { return float64(max(p.Hosts[host].Weight, 1)) }

// members lists the hosts of a group with their parts of its requests.
func (p *Plan) members(g *group) []member {
	sums, localities, total := map[config.Locality]float64{}, map[config.Locality]float64{}, 0.0
	for _, i := range g.hosts {
		sums[p.Hosts[i].Locality] += p.weight(i)
	}
	if p.config.LocalityWeighted && len(g.hosts) > 0 {
		for _, e := range p.Hosts {
			if e.Priority == p.Hosts[g.hosts[0]].Priority {
				localities[e.Locality] = float64(e.LocalityWeight)
			}
		}
		for _, w := range localities {
			total += w
		}
	}
	out := make([]member, 0, len(g.hosts))
	flat := 0.0
	for _, sum := range sums {
		flat += sum
	}
	for _, i := range g.hosts {
		e := p.Hosts[i]
		m := member{host: i, key: p.key(e), weight: p.weight(i) / flat}
		if total > 0 {
			m.weight = localities[e.Locality] / total * p.weight(i) / sums[e.Locality]
		}
		if m.weight > 0 {
			out = append(out, m)
		}
	}
	if len(out) == 0 && total > 0 { // only localities without weight have hosts: they are what there is
		for _, i := range g.hosts {
			out = append(out, member{host: i, key: p.key(p.Hosts[i]), weight: p.weight(i) / flat})
		}
	}
	return out
}

// key is what a table knows a host by.
func (p *Plan) key(e *config.Endpoint) string {
	switch {
	case e.HashKey != "":
		return e.HashKey
	case p.config.HashHostname && e.Hostname != "":
		return e.Hostname
	}
	return e.Addr.String()
}
