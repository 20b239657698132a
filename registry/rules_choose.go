package registry

import (
	"cmp"
	"math"
	"slices"
)

// sort brings claims, which are in configured order, into that of the rule's precedence.
func (r Rule) sort(claims []claim) {
	named := r.Prefer
	if len(r.Failover) > 0 {
		named = r.Failover
	}
	rank := func(c claim) int {
		if i := slices.Index(named, c.source); i >= 0 {
			return i
		}
		if _, ok := r.Weights[c.source]; ok {
			return 0
		}
		return math.MaxInt
	}
	slices.SortStableFunc(claims, func(a, b claim) int { return cmp.Compare(rank(a), rank(b)) })
}

// orders reports whether the rule says whose word goes first, beyond the configured order.
func (r Rule) orders() bool { return len(r.Prefer) > 0 || len(r.Failover) > 0 || len(r.Weights) > 0 }

// choose splits all endpoints, which are sorted by ID, into the service's active and standby ones.
func (u *union) choose(claims []claim, all []joined) {
	takes := func(e joined) bool { return true }
	switch {
	case len(u.rule.Prefer) > 0:
		takes = reportedBy(first(claims, all, func(joined) bool { return true }))
	case len(u.rule.Failover) > 0:
		source, ok := first(claims, all, func(e joined) bool { return e.Health.Serving() && e.Doubt == nil })
		if !ok {
			source, ok = first(claims, all, func(e joined) bool { return e.Health.Serving() })
		}
		if !ok {
			source, ok = first(claims, all, func(joined) bool { return true })
		}
		takes = reportedBy(source, ok)
	case len(u.rule.Weights) > 0:
		takes = func(e joined) bool {
			return slices.ContainsFunc(e.Sources, func(source string) bool { return u.rule.Weights[source] > 0 })
		}
	}
	var active []joined
	u.service.Endpoints = make([]*Endpoint, 0, len(all))
	for _, e := range all {
		if !takes(e) {
			u.service.Standby = append(u.service.Standby, e.Endpoint)
			continue
		}
		u.service.Endpoints = append(u.service.Endpoints, e.Endpoint)
		if len(u.rule.Weights) > 0 {
			active = append(active, e)
		}
	}
	if len(u.rule.Weights) > 0 {
		spread(u.rule.Weights, active)
	}
}

// first returns the first source, by precedence, that reports an endpoint of that kind.
func first(claims []claim, all []joined, kind func(joined) bool) (source string, ok bool) {
	for _, c := range claims {
		for _, e := range all {
			if kind(e) && slices.Contains(e.Sources, c.source) {
				return c.source, true
			}
		}
	}
	return "", false
}

func reportedBy(source string, ok bool) func(joined) bool {
	return func(e joined) bool { return ok && slices.Contains(e.Sources, source) }
}

// mostWeight bounds the sum of the weights of a service's serving endpoints, which are uint32 on the wire.
const mostWeight = 1 << 24

// share is what one source gets of the traffic of a service, and who of its own share it.
type share struct {
	source  string
	share   uint64
	serving bool   // some of its endpoints are
	total   uint64 // the sum of their weights as the source has them; if none serves, of all its endpoints
}

// spread sets the weights of active endpoints so that each source gets its share, divided among its serving endpoints
// by their own weights; one of two sources gets a part of both. The weights are the least integers that do so exactly;
// where their sum would pass mostWeight they are rounded to about that. An endpoint that does not serve gets what it
// would get beside those that do, for clients that take any when too few serve.
func spread(weights map[string]uint32, active []joined) {
	shares := sharesOf(weights, active)
	sum, scale, exact := scaleOf(shares)
	var divisor uint64
	for _, e := range active {
		w := uint64(0)
		if exact {
			for _, s := range shares {
				w += s.share * ownWeight(e, s.source) * (scale / s.total)
			}
		} else {
			part := 0.0
			for _, s := range shares {
				part += float64(s.share) / float64(sum) * float64(ownWeight(e, s.source)) / float64(s.total)
			}
			w = uint64(math.Round(min(part, 1) * mostWeight))
		}
		e.Weight = uint32(min(max(w, 1), mostWeight))
		divisor = gcd(divisor, uint64(e.Weight))
	}
	for _, e := range active {
		e.Weight /= uint32(divisor)
	}
}

// sharesOf returns the shares of the sources that have an endpoint.
func sharesOf(weights map[string]uint32, active []joined) []share {
	var shares []share
	var divisor uint64
	for _, source := range sortedKeys(weights) {
		s := share{source: source, share: uint64(weights[source])}
		if s.share == 0 {
			continue
		}
		var all uint64
		for _, e := range active {
			own := ownWeight(e, source)
			all += own
			if own > 0 && e.Health.Serving() {
				s.serving = true
				s.total += own
			}
		}
		if s.total = cmp.Or(s.total, all); s.total > 0 {
			shares = append(shares, s)
			divisor = gcd(divisor, s.share)
		}
	}
	for i := range shares {
		shares[i].share /= divisor
	}
	return shares
}

// scaleOf returns the sum of the shares that count, and the least number that every total divides, if the weights that
// these make stay below mostWeight.
func scaleOf(shares []share) (sum, scale uint64, exact bool) {
	some := slices.ContainsFunc(shares, func(s share) bool { return s.serving })
	scale, exact = 1, true
	for _, s := range shares {
		if s.serving || !some {
			sum += s.share
		}
		if exact = exact && s.total <= mostWeight; exact {
			scale *= s.total / gcd(scale, s.total)
			exact = scale <= mostWeight
		}
	}
	return sum, scale, exact && sum*scale <= mostWeight
}

// ownWeight returns the weight that a source gives an endpoint, 0 if it does not report it.
func ownWeight(e joined, source string) uint64 {
	for _, r := range e.reports {
		if r.source == source {
			return uint64(r.endpoint.Weight)
		}
	}
	return 0
}

func gcd(a, b uint64) uint64 {
	for b > 0 {
		a, b = b, a%b
	}
	return a
}
