package balance

import (
	"cmp"
	"math"
	"slices"
	"sort"
	"strconv"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Envoy's defaults.
const (
	defaultRingMin    = 1024
	defaultRingMax    = 8 << 20
	defaultMaglevSize = 65537
)

// table gives each hash a host. It is immutable and shared by the loops.
type table struct {
	params  tableParams
	members []member

	ring   []point  // ring hash
	slots  []uint32 // Maglev: indexes of hosts
	gauges []Gauge
}

// tableParams and members are all that a table depends on.
type tableParams struct {
	policy config.Policy
	ring   config.Ring
	maglev uint32
}

type member struct {
	host   uint32 // its index
	key    string
	weight float64 // part of the whole
}

// point is where a host stands on a ring.
type point struct {
	hash uint64
	host uint32
}

// Gauge is a figure of a cluster, by Envoy's name.
type Gauge struct {
	Name    string
	Value   uint64
	Counter bool // it only grows
}

func paramsOf(c *config.Cluster) tableParams {
	p := tableParams{policy: c.Policy}
	switch {
	case c.Policy == config.Maglev:
		p.maglev = c.MaglevSize
		if p.maglev == 0 {
			p.maglev = defaultMaglevSize
		}
	case c.Ring != nil:
		p.ring = *c.Ring
	default:
		p.ring = config.Ring{Min: defaultRingMin, Max: defaultRingMax}
	}
	return p
}

// newTable fills a table. When old was made of the same it is used again: most updates of a cluster change nothing here.
func newTable(params tableParams, members []member, old *table) *table {
	if old != nil && old.params == params && slices.Equal(old.members, members) {
		return old
	}
	t := &table{params: params, members: members}
	switch {
	case len(members) == 0:
	case params.policy == config.Maglev:
		t.fillSlots()
	default:
		t.fillRing()
	}
	return t
}

// fillRing gives each host points in proportion to its weight, the lightest one a whole number of them, so that hosts of equal
// weights have equally many. Where weights do not come out even, the sums up to each host do. Points depend on nothing but the
// host's key and their number, so that a host that leaves or comes moves only its own part of the keys.
func (t *table) fillRing() {
	lightest := math.Inf(1)
	for _, m := range t.members {
		lightest = min(lightest, m.weight)
	}
	scale := min(math.Ceil(lightest*float64(t.params.ring.Min))/lightest, float64(t.params.ring.Max))
	size := int(math.Ceil(scale))
	t.ring = make([]point, 0, size)
	target, least, most := 0.0, uint64(size), uint64(0)
	var text []byte
	for _, m := range t.members {
		target += scale * m.weight
		text = append(append(text[:0], m.key...), '_')
		prefix, count := len(text), uint64(0)
		for ; float64(len(t.ring)) < target; count++ {
			text = strconv.AppendUint(text[:prefix], count, 10)
			h := uint64(0)
			if t.params.ring.Murmur {
				h = murmur(text)
			} else {
				h = Hash(text, 0)
			}
			t.ring = append(t.ring, point{h, m.host})
		}
		least, most = min(least, count), max(most, count)
	}
	slices.SortFunc(t.ring, func(a, b point) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.host, b.host)) })
	t.gauges = []Gauge{
		{Name: "ring_hash_lb.size", Value: uint64(size)},
		{Name: "ring_hash_lb.min_hashes_per_host", Value: least},
		{Name: "ring_hash_lb.max_hashes_per_host", Value: most},
	}
}

// turn is a host's place in the filling of Maglev slots.
type turn struct {
	member
	offset, skip, at uint64 // of its permutation of the slots
	due              float64
	count            uint64
}

// fillSlots gives each host in turn the next free slot of its own permutation; lighter ones miss turns.
func (t *table) fillSlots() {
	size := uint64(t.params.maglev)
	turns := make([]turn, 0, len(t.members))
	heaviest := 0.0
	for _, m := range t.members {
		turns = append(turns, turn{member: m, offset: Hash(m.key, 0) % size, skip: Hash(m.key, 1)%(size-1) + 1})
		heaviest = max(heaviest, m.weight)
	}
	// By key, so that every proxy fills them alike, in whatever order it was told of the hosts.
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.key, b.key) })
	const free = math.MaxUint32
	t.slots = slices.Repeat([]uint32{free}, int(size))
	filled := uint64(0)
	for round := 1.0; filled < size; round++ {
		for i := 0; i < len(turns) && filled < size; i++ {
			next := &turns[i]
			if round*next.weight < next.due {
				continue
			}
			next.due += heaviest
			for {
				slot := (next.offset + next.skip*next.at) % size
				next.at++
				if t.slots[slot] == free {
					t.slots[slot] = next.host
					break
				}
			}
			next.count++
			filled++
		}
	}
	least, most := size, uint64(0)
	for i := range turns {
		least, most = min(least, turns[i].count), max(most, turns[i].count)
	}
	t.gauges = []Gauge{{Name: "maglev_lb.min_entries_per_host", Value: least}, {Name: "maglev_lb.max_entries_per_host", Value: most}}
}

// host returns the index of the host of a hash. Attempts after the first one, 0, mostly lead to other hosts.
func (t *table) host(hash uint64, attempt int) uint32 {
	if t.params.policy == config.Maglev {
		if attempt > 0 {
			hash ^= ^uint64(0) - uint64(attempt) + 1
		}
		return t.slots[hash%uint64(len(t.slots))]
	}
	i := sort.Search(len(t.ring), func(i int) bool { return t.ring[i].hash >= hash })
	return t.ring[(i+attempt)%len(t.ring)].host
}
