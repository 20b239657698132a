package balance

import (
	"cmp"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Active tells how many requests a host is serving, by its index.
type Active interface{ Active(host int) int }

// State is what a loop remembers of a host over changes of the configuration: how near its turn is.
type State struct {
	phase float64 // of the way between two turns, what is left: 0 is now, 1 is just served
	known bool
}

// Picker is a loop's memory of whose turn it is. It is not safe for concurrent use.
type Picker struct {
	plan   *Plan
	rand   *rand.Rand
	active Active
	groups []turns
	states []*State
	kept   map[place]*State // of localities

	slow bool // some hosts may be in their slow start
	now  time.Time
	last int // the group of the host that was picked last, -1
}

// place is a locality within a priority.
type place struct {
	priority uint32
	locality config.Locality
}

// turns are whose turn it is in a group.
type turns struct {
	among queue   // which set, if there are several
	sets  []queue // which host of a set
}

// queue is a weighted round robin, the earliest deadline first; where all weights are equal, a plain one.
type queue struct {
	heap []entry
	now  float64
	next int // of a plain one: index in the set's hosts
}

type entry struct {
	deadline, interval float64
	index              uint32 // of a host, or of a set
}

// Init prepares a picker. random draws its choices.
func (p *Picker) Init(random *rand.Rand, active Active) {
	*p = Picker{plan: &Plan{config: &config.Cluster{}}, rand: random, active: active, last: -1}
}

// Plan is what the picker goes by.
func (p *Picker) Plan() *Plan { return p.plan }

// Use takes another plan. states are those of its hosts: the same for a host that stays, so that it keeps its turn; a new
// host's turn is at a random time, or the loops would go round in step.
func (p *Picker) Use(plan *Plan, states []*State, now time.Time) {
	p.save()
	p.plan, p.states, p.now, p.last = plan, states, now, -1
	p.slow = now.Before(plan.until)
	p.groups = make([]turns, len(plan.groups))
	for i := range plan.groups {
		g, t := &plan.groups[i], &p.groups[i]
		if plan.config.Policy == config.RingHash || plan.config.Policy == config.Maglev {
			continue
		}
		t.sets = make([]queue, len(g.sets))
		for j := range g.sets {
			p.line(&g.sets[j], &t.sets[j])
		}
		if len(g.sets) > 1 {
			p.lineSets(g, &t.among)
		}
	}
	if !plan.config.LocalityWeighted {
		p.kept = nil
	}
}

// weighs reports whether the hosts of a set take their turns by weight.
func (p *Picker) weighs(s *set) bool {
	return (!s.equal || p.slow) && p.plan.config.Policy != config.Random && len(s.hosts) > 1
}

// line queues the hosts of a set.
func (p *Picker) line(s *set, q *queue) {
	if !p.weighs(s) {
		q.next = p.rand.IntN(max(len(s.hosts), 1))
		least := math.Inf(1)
		for i, h := range s.hosts {
			if state := p.states[h]; state.known && state.phase < least {
				q.next, least = i, state.phase
			}
		}
		return
	}
	q.heap = make([]entry, 0, len(s.hosts))
	for _, h := range s.hosts {
		q.add(h, p.weight(h), p.states[h].left(p.rand))
	}
	q.sort()
}

func (p *Picker) lineSets(g *group, q *queue) {
	kept := p.kept
	if kept == nil {
		kept = map[place]*State{}
		p.kept = kept
	}
	for i := range g.sets {
		s := &g.sets[i]
		state := kept[place{s.priority, s.locality}]
		if state == nil {
			state = &State{}
		}
		q.add(uint32(i), s.weight, state.left(p.rand))
	}
	q.sort()
}

// save puts down how near the turns are.
func (p *Picker) save() {
	if p.kept != nil {
		clear(p.kept)
	}
	for i := range p.groups {
		g, t := &p.plan.groups[i], &p.groups[i]
		for _, e := range t.among.heap {
			s := &g.sets[e.index]
			p.kept[place{s.priority, s.locality}] = &State{t.among.phase(e), true}
		}
		for j := range t.sets {
			q, s := &t.sets[j], &g.sets[j]
			for _, e := range q.heap {
				*p.states[e.index] = State{q.phase(e), true}
			}
			if len(q.heap) > 0 || p.plan.config.Policy == config.Random {
				continue
			}
			for k, h := range s.hosts {
				n := len(s.hosts)
				*p.states[h] = State{float64((k-q.next+n)%n) / float64(n), true}
			}
		}
	}
}

func (s *State) left(random *rand.Rand) float64 {
	if s.known {
		return s.phase
	}
	return random.Float64()
}

func (q *queue) add(index uint32, weight, phase float64) {
	q.heap = append(q.heap, entry{phase / weight, 1 / weight, index})
}

func (q *queue) sort() {
	slices.SortFunc(q.heap, func(a, b entry) int { return cmp.Compare(a.deadline, b.deadline) })
}

func (q *queue) phase(e entry) float64 { return max(0, min(1, (e.deadline-q.now)/e.interval)) }

// served gives the first of the queue its next turn.
func (q *queue) served(weight float64) {
	e := &q.heap[0]
	q.now = e.deadline
	e.interval = 1 / weight
	e.deadline += e.interval
	heap, i := q.heap, 0
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

// Slow reports whether hosts are in their slow start, so that Tick is to be called before Pick.
func (p *Picker) Slow() bool { return p.slow }

// Tick tells the picker the time.
func (p *Picker) Tick(now time.Time) {
	p.now = now
	p.slow = now.Before(p.plan.until)
}

// Key is what a request is balanced by. The zero Key is of one that has nothing that counts.
type Key struct {
	Hash   uint64
	Set    bool          // Hash counts
	Labels config.Labels // of the hosts that are wanted; who calls Pick has chosen the Picker by them
	// Destination is the host itself, in a cluster that has no others.
	Destination netip.AddrPort
}

// Pick returns the index of the next host, -1 when there is none, and whether its priority is in panic. With a Key that is set,
// a policy by hash gives the same host for the same attempt, and mostly another one for another.
func (p *Picker) Pick(key Key, attempt int) (host int, panics bool) {
	plan := p.plan
	byHash := plan.config.Policy == config.RingHash || plan.config.Policy == config.Maglev
	p.last = p.group(&key, byHash)
	if p.last < 0 || len(plan.groups[p.last].hosts) == 0 {
		p.last = -1
		return -1, false
	}
	g := &plan.groups[p.last]
	if byHash {
		return int(g.table.host(key.Hash, attempt)), g.panic
	}
	t := &p.groups[p.last]
	at := 0
	if len(g.sets) > 1 {
		at = int(t.among.heap[0].index)
		t.among.served(g.sets[at].weight)
	}
	return int(p.ofSet(&g.sets[at], &t.sets[at])), g.panic
}

// group chooses by load. A policy by hash gets a random key if there is none.
func (p *Picker) group(key *Key, byHash bool) int {
	loads := p.plan.loads
	if byHash && !key.Set {
		key.Hash, key.Set = p.rand.Uint64(), true
	}
	switch {
	case len(loads) == 0:
		return -1
	case len(loads) == 1:
		return loads[0].group
	}
	hash := key.Hash
	if !byHash {
		hash = p.rand.Uint64()
	}
	for i := range loads {
		if hash%whole < loads[i].upTo {
			return loads[i].group
		}
	}
	return loads[len(loads)-1].group
}

func (p *Picker) ofSet(s *set, q *queue) uint32 {
	switch {
	case len(s.hosts) == 1:
		return s.hosts[0]
	case len(q.heap) > 0:
		h := q.heap[0].index
		q.served(p.weight(h))
		return h
	case p.plan.config.Policy == config.Random:
		return s.hosts[p.rand.IntN(len(s.hosts))]
	case p.plan.config.Policy == config.LeastRequest:
		return p.least(s)
	}
	h := s.hosts[q.next]
	if q.next++; q.next == len(s.hosts) {
		q.next = 0
	}
	return h
}

// least compares random hosts of equal weights.
func (p *Picker) least(s *set) uint32 {
	n := uint32(2)
	if c := p.plan.config.Choice; c != nil {
		if c.All {
			return p.leastOfAll(s)
		}
		n = c.Hosts
	}
	best := s.hosts[p.rand.IntN(len(s.hosts))]
	for fewest := p.active.Active(int(best)); n > 1; n-- {
		other := s.hosts[p.rand.IntN(len(s.hosts))]
		if a := p.active.Active(int(other)); a < fewest {
			best, fewest = other, a
		}
	}
	return best
}

// leastOfAll compares all hosts, from a random one, so that of equally busy ones any may be first.
func (p *Picker) leastOfAll(s *set) uint32 {
	from := p.rand.IntN(len(s.hosts))
	best := s.hosts[from]
	fewest := p.active.Active(int(best))
	for i := 1; i < len(s.hosts) && fewest > 0; i++ {
		other := s.hosts[(from+i)%len(s.hosts)]
		if a := p.active.Active(int(other)); a < fewest {
			best, fewest = other, a
		}
	}
	return best
}

// weight is what a host's next turn goes by.
func (p *Picker) weight(host uint32) float64 {
	w := p.plan.weight(host)
	if p.plan.config.Policy == config.LeastRequest {
		busy := float64(p.active.Active(int(host)) + 1)
		switch c := p.plan.config.Choice; {
		case c == nil || c.Bias == 1:
			w /= busy
		case c.Bias != 0:
			w /= math.Pow(busy, c.Bias)
		}
	}
	if p.slow {
		w *= p.plan.factor(host, p.now)
	}
	return max(w, math.SmallestNonzeroFloat32)
}

// Others returns the hosts that could have been picked instead of the one that was picked last. The slice is the plan's.
func (p *Picker) Others() []uint32 {
	if p.last < 0 {
		return nil
	}
	return p.plan.groups[p.last].hosts
}
