package dnsserver

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// ranks of a record's place, as seen from a client's.
const (
	sameSubZone = iota
	sameZone
	sameRegion
	elsewhere
)

func (l Locality) rank(of Locality) int {
	switch {
	case l.Region != of.Region:
		return elsewhere
	case l.Zone != of.Zone:
		return sameRegion
	case l.SubZone != of.SubZone:
		return sameZone
	}
	return sameSubZone
}

// ranked appends the records that are nearest to a place first.
func (r *responder) ranked(s *Set, from Locality) {
	r.order = r.order[:0]
	for i := range s.Data {
		r.order = append(r.order, candidate{index: i, rank: from.rank(s.Order.Localities[i]), lot: s.lot(i)})
	}
	slices.SortFunc(r.order, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.lot, a.lot))
	})
	for _, one := range r.order {
		r.run(s, one.index, one.index+1)
	}
}

// candidate is a record in the order of an answer.
type candidate struct {
	index, rank int
	lot         float64 // the highest comes first
}

// lot draws for a record so that each is first among its equals as often as its weight says (Efraimidis and Spirakis: the
// greatest of u^(1/w), or of -e/w with e exponential).
func (s *Set) lot(i int) float64 {
	weight := float64(1)
	if s.Order.Weights != nil {
		weight = max(float64(s.Order.Weights[i]), 1e-9)
	}
	return -rand.ExpFloat64() / weight
}

// chooseFor returns the window for a client whose place may be known.
func (s *Set) chooseFor(where Locality, known bool) *window {
	if known && s.Order != nil && s.Order.Localities != nil {
		return s.chooseNear(where)
	}
	return s.choose()
}

// placeOf is the place of all records of a window, where the set has localities and more than one window.
func (s *Set) placeOf(w *window) Locality { return s.Order.Localities[w.from] }

// chooseNear returns one of the windows that are nearest, by their weights.
func (s *Set) chooseNear(from Locality) *window {
	best, sum := elsewhere, uint64(0)
	for i := range s.windows {
		if rank := from.rank(s.placeOf(&s.windows[i])); rank < best {
			best, sum = rank, 0
		}
		if from.rank(s.placeOf(&s.windows[i])) == best {
			sum += s.windows[i].weight
		}
	}
	if sum == 0 {
		return s.choose()
	}
	at := rand.Uint64N(sum)
	for i := range s.windows {
		if w := &s.windows[i]; from.rank(s.placeOf(w)) == best {
			if at < w.weight {
				return w
			}
			at -= w.weight
		}
	}
	return s.choose()
}

// locate returns where the client is: by the subnet that a trusted resolver tells, else by its address.
func (r *responder) locate() (where Locality, known bool) {
	q := &r.query
	client, subnet := q.client, q.edns.hasSubnet && r.trusted(q.client)
	if subnet {
		if q.edns.subnet.source == 0 {
			return Locality{}, false // RFC 7871 §7.1.2: the client does not want to be told apart
		}
		client = q.edns.subnet.addr
	}
	where, bits, known := r.server.opts.Locality(client)
	if subnet {
		r.scope = uint8(bits)
	}
	return where, known
}

func (r *responder) trusted(resolver netip.Addr) bool {
	return within(r.server.opts.SubnetFrom, resolver)
}
