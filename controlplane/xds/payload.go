package xds

import (
	"maps"
	"slices"

	"google.golang.org/grpc/mem"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// maxPart is the most bytes of resources in one response, one resource aside. gRPC clients refuse messages of more
// than 4 MiB by default.
const maxPart = 1 << 20

// payload is what brings a client from one state to another.
type payload struct {
	parts   []mem.BufferSlice // resources, a response each
	removed []string          // names that do not exist (any more); sorted. Delta only.
}

// collector gathers a payload.
type collector struct {
	delta bool
	whole bool // everything must be in one response
	size  int
	payload
}

func (c *collector) add(r *compile.Resource) {
	field := r.StateField()
	if c.delta {
		field = r.DeltaField()
	}
	if len(c.parts) == 0 || !c.whole && c.size+len(field) > maxPart {
		c.parts, c.size = append(c.parts, nil), 0
	}
	last := len(c.parts) - 1
	c.parts[last] = append(c.parts[last], mem.SliceBuffer(field))
	c.size += len(field)
}

func (c *collector) remove(name string) {
	if c.delta {
		c.removed = append(c.removed, name)
	}
}

func (c *collector) finish() *payload {
	slices.Sort(c.removed)
	c.removed = slices.Compact(c.removed)
	return &c.payload
}

// join makes each part one piece, which pays when many are sent it.
func (p *payload) join() {
	for i, part := range p.parts {
		if len(part) > 1 {
			p.parts[i] = mem.BufferSlice{mem.SliceBuffer(part.Materialize())}
		}
	}
}

// debt is what a client is owed beyond the difference between two states.
type debt struct {
	claimed map[string]string   // versions that it brought with it, when it has been sent nothing yet
	fresh   map[string]struct{} // names to be answered whatever it has
	all     bool                // the wildcard is to be answered whatever it has
}

func (d *debt) none() bool { return len(d.claimed) == 0 && len(d.fresh) == 0 && !d.all }

// difference returns what a client that has seen before (nil: nothing) needs to know now.
func (g *group) difference(before, now *compile.Resources, d debt) *payload {
	c := collector{delta: g.class.key.delta, whole: g.stateOfTheWorld()}
	switch {
	case before == nil:
		g.everything(&c, now, d.claimed)
		return c.finish()
	case g.stateOfTheWorld():
		if d.none() && !g.differs(before, now) {
			return c.finish()
		}
		g.everything(&c, now, nil)
		return c.finish()
	}
	answer := func(name string, r *compile.Resource) {
		if r == nil {
			c.remove(name)
		} else {
			c.add(r)
		}
	}
	g.changes(before, now, func(name string, r *compile.Resource) bool {
		_, fresh := d.fresh[name]
		if !fresh && !(d.all && r != nil && now.InWildcard(g.t, name)) {
			answer(name, r)
		}
		return true
	})
	if d.all {
		for r := range now.Wildcard(g.t) {
			if _, fresh := d.fresh[r.Name]; !fresh {
				c.add(r)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.fresh)) {
		answer(name, g.visible(now, name))
	}
	return c.finish()
}

// everything collects all that g subscribes, without what the client claims to have in that very version.
func (g *group) everything(c *collector, now *compile.Resources, claimed map[string]string) {
	add := func(r *compile.Resource) {
		if version, ok := claimed[r.Name]; !ok || version != r.Version {
			c.add(r)
		}
	}
	if g.sub.wildcard {
		for r := range now.Wildcard(g.t) {
			add(r)
		}
		for name := range claimed {
			if g.visible(now, name) == nil {
				c.remove(name)
			}
		}
	}
	for _, name := range g.sub.names {
		r := now.Get(g.t, name)
		switch {
		case r == nil:
			c.remove(name)
		case !g.sub.wildcard || !now.InWildcard(g.t, name):
			add(r)
		}
	}
}

// changes calls visit for each name whose resource is another one now, with that or nil, until visit returns false.
// When now was made from before only the names that changed are looked at, otherwise all.
func (g *group) changes(before, now *compile.Resources, visit func(name string, r *compile.Resource) bool) {
	if before == now {
		return
	}
	compare := func(name string) bool {
		was, is := g.visible(before, name), g.visible(now, name)
		if was == is || was != nil && is != nil && was.Version == is.Version {
			return true
		}
		return visit(name, is)
	}
	if names, ok := now.Changed(before, g.t); ok {
		for _, name := range names {
			if !compare(name) {
				return
			}
		}
		return
	}
	for _, name := range g.sub.names {
		if !compare(name) {
			return
		}
	}
	if !g.sub.wildcard {
		return
	}
	for r := range now.Wildcard(g.t) {
		if !g.sub.has(r.Name) && !compare(r.Name) {
			return
		}
	}
	for r := range before.Wildcard(g.t) {
		gone := g.visible(now, r.Name) == nil
		if gone && !g.sub.has(r.Name) && !compare(r.Name) {
			return
		}
	}
}

// differs reports whether any subscribed resource is another one now.
func (g *group) differs(before, now *compile.Resources) bool {
	found := false
	g.changes(before, now, func(string, *compile.Resource) bool {
		found = true
		return false
	})
	return found
}

// visible returns the resource of that name if g subscribes it and it exists.
func (g *group) visible(in *compile.Resources, name string) *compile.Resource {
	if g.sub.has(name) || g.sub.wildcard && in.InWildcard(g.t, name) {
		return in.Get(g.t, name)
	}
	return nil
}

// stateOfTheWorld reports whether a response must hold all that is subscribed, as the older variant wants it for
// listeners and clusters.
func (g *group) stateOfTheWorld() bool {
	return !g.class.key.delta && (g.t == compile.Listener || g.t == compile.Cluster)
}
