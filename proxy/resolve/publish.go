package resolve

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// publish hands on what there is, if it is another than before. It returns how long it may be until time alone changes
// that, and 0 if it does not.
//
// A listener that is new waits until all names have been asked for once, and what the present ones may lead to stays as
// long: no request meets a cluster of which nobody has looked yet where it is.
func (r *Resolver) publish(now time.Time) time.Duration {
	if r.source == nil {
		return 0
	}
	waits := r.warm(now)
	if !r.dirty && r.warming == (waits > 0) {
		return waits
	}
	r.dirty, r.warming = false, waits > 0
	old, next := r.out.Load(), r.source
	switch {
	case r.warming && old == nil:
		return waits
	case len(r.byOwner) > 0:
		next = r.compose(old, r.warming, now)
	default:
		clear(r.built)
	}
	if old != next && (old == nil || old.Version != next.Version || !slices.Equal(old.Listeners, next.Listeners) || !maps.Equal(old.Clusters, next.Clusters)) {
		r.out.Set(next)
	}
	return waits
}

// warm returns how long names that were not asked for yet are to be waited for.
func (r *Resolver) warm(now time.Time) time.Duration {
	waits := time.Duration(0)
	for n := range r.unasked {
		waits = max(waits, n.waits(now))
	}
	return waits
}

// compose makes the configuration for what is known.
func (r *Resolver) compose(old *config.Config, waiting bool, now time.Time) *config.Config {
	next := *r.source
	next.Clusters = maps.Clone(r.source.Clusters)
	for cluster := range r.built {
		if c := r.source.Clusters[cluster]; c == nil || c.DNS == nil {
			delete(r.built, cluster)
			delete(r.fresh, cluster)
		}
	}
	for cluster, c := range r.source.Clusters {
		if c.DNS == nil {
			continue
		}
		if old != nil && old.Clusters[cluster] != nil && r.unknown(cluster, now) {
			next.Clusters[cluster] = old.Clusters[cluster] // as it was before it had these names
			continue
		}
		b := r.built[cluster]
		if b.from != c || !r.fresh[cluster] {
			b = r.build(cluster, c, b)
			r.built[cluster], r.fresh[cluster] = b, true
		}
		next.Clusters[cluster] = b.out
	}
	if waiting {
		next.Listeners = old.Listeners
		for cluster, c := range old.Clusters {
			if next.Clusters[cluster] == nil {
				next.Clusters[cluster] = c
			}
		}
	}
	return &next
}

// unknown reports whether a cluster has a name that is waited for and of which nothing is known.
func (r *Resolver) unknown(cluster string, now time.Time) bool {
	return slices.ContainsFunc(r.byOwner[cluster], func(n *name) bool { return n.last == nil && n.waits(now) > 0 })
}

// build gives a cluster the addresses that are known. What did not change keeps its pointer. An address that two names
// have is that of the first.
func (r *Resolver) build(cluster string, c *config.Cluster, before built) built {
	var list []*config.Endpoint
	same := map[config.Endpoint]*config.Endpoint{}
	if before.out != nil {
		for _, e := range before.out.Endpoints {
			same[*e] = e
		}
	}
	seen := map[config.Address]bool{}
	for i := range c.DNS.Names {
		from := &c.DNS.Names[i]
		found := r.names[key{cluster, from.Host}].last
		if c.DNS.Logical {
			found = found[:min(1, len(found))]
		}
		for _, a := range found {
			e := from.As
			e.Addr = config.Address{IP: netip.AddrPortFrom(a, from.Port)}
			if seen[e.Addr] {
				continue
			}
			seen[e.Addr] = true
			if old := same[e]; old != nil {
				list = append(list, old)
			} else {
				list = append(list, &e)
			}
		}
	}
	if before.from == c && slices.Equal(before.out.Endpoints, list) {
		return before
	}
	out := *c
	out.Endpoints = list
	return built{c, &out}
}
