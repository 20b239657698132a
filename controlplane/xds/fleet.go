package xds

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// fleet is all clients, ordered by what they have in common, so that it is computed and encoded once:
// clients of one class see the same resources, and those of a class with equal subscriptions to a type are a group.
//
// It does no I/O. Its methods are safe for concurrent use.
type fleet struct {
	mu      sync.Mutex
	common  *compile.Common // guarded by mu, as is everything below; nil until the first update
	classes map[classKey]*class
}

type classKey struct {
	compile.Class
	delta bool
}

type class struct {
	key       classKey
	sessions  int
	resources *compile.Resources // nil until there is a Common
	groups    map[groupKey]*group
}

type groupKey struct {
	t   compile.Type
	sum [sha256.Size]byte
}

// group is the clients that are owed the same.
type group struct {
	class   *class
	key     groupKey
	t       compile.Type
	sub     *subscription
	members map[*session]struct{}
	// now is the state of a client that is up to date; it is replaced when something that is subscribed changes. nil
	// until there is a Common. The latest resources are the class's: for this subscription they say what now says.
	now *state
	// memo holds the way from other states (nil: from nothing) to now, for as long as now stays or until swept.
	memo map[*state]*payload
}

// state is what a client has. Two states are equal if they are the same pointer.
type state struct{ resources *compile.Resources }

// subscription is what a client wants of one type. It is immutable.
type subscription struct {
	wildcard bool
	names    []string // sorted, without duplicates
}

func (s *subscription) has(name string) bool {
	_, found := slices.BinarySearch(s.names, name)
	return found
}

// sum identifies a subscription by its content.
func (s *subscription) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	var head [5]byte
	if s.wildcard {
		head[0] = 1
	}
	h.Write(head[:1])
	for _, name := range s.names {
		binary.BigEndian.PutUint32(head[1:], uint32(len(name)))
		h.Write(head[1:])
		h.Write([]byte(name))
	}
	h.Sum(sum[:0])
	return sum
}

func newFleet() *fleet { return &fleet{classes: map[classKey]*class{}} }

// update makes common what is served and returns the sessions that are owed something by it: only those with a
// subscription to what changed.
func (f *fleet) update(common *compile.Common) []*session {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.common = common
	touched := map[*session]struct{}{}
	for _, c := range f.classes {
		before := c.resources
		c.resources = compile.ForClass(before, common, c.key.Class)
		for _, g := range c.groups {
			if !g.advance(before) {
				continue
			}
			for s := range g.members {
				touched[s] = struct{}{}
			}
		}
	}
	sessions := make([]*session, 0, len(touched))
	for s := range touched {
		sessions = append(sessions, s)
	}
	return sessions
}

// advance reports whether g's members are owed something by what their class sees now. before is what it saw so far.
func (g *group) advance(before *compile.Resources) bool {
	if before == nil {
		g.now = &state{g.class.resources}
		return true
	}
	if !g.differs(before, g.class.resources) {
		return false
	}
	way := g.difference(before, g.class.resources, debt{})
	was := g.now
	g.now, g.memo = &state{g.class.resources}, nil
	// A way that says nothing (a resource is gone that this variant cannot say) leads to the new state all the same.
	g.remember(was, way)
	return true
}

// remember keeps way for the others that come the same way.
func (g *group) remember(from *state, way *payload) {
	if g.memo == nil {
		g.memo = map[*state]*payload{}
	}
	if len(g.members) > 1 {
		way.join()
	}
	g.memo[from] = way
}

// sweep forgets the prepared ways, which a client that comes late computes again.
func (f *fleet) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.classes {
		for _, g := range c.groups {
			g.memo = nil
		}
	}
}

// enter returns the class of that key; leave it as often as it was entered.
func (f *fleet) enter(key classKey) *class {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.classes[key]
	if c == nil {
		c = &class{key: key, groups: map[groupKey]*group{}}
		if f.common != nil {
			c.resources = compile.ForClass(nil, f.common, key.Class)
		}
		f.classes[key] = c
	}
	c.sessions++
	return c
}

func (f *fleet) leave(c *class) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.sessions--; c.sessions == 0 {
		delete(f.classes, c.key)
	}
}

// move takes s from its group (nil: none) to the one that subscribes sub. have is the state s is in, what it returns is
// that state for the new group: a client that was up to date is so there, too, for what both groups subscribe.
func (f *fleet) move(s *session, from *group, c *class, t compile.Type, sub *subscription, have *state) (*group, *state) {
	key := groupKey{t, sub.sum()}
	f.mu.Lock()
	defer f.mu.Unlock()
	if from != nil && from.key == key {
		return from, have
	}
	g := c.groups[key]
	if g == nil {
		g = &group{class: c, key: key, t: t, sub: sub, members: map[*session]struct{}{}}
		if c.resources != nil {
			g.now = &state{c.resources}
		}
		c.groups[key] = g
	}
	g.members[s] = struct{}{}
	if from != nil {
		if have != nil && have == from.now {
			have = g.now
		}
		from.drop(s)
	}
	return g, have
}

func (f *fleet) quit(s *session, g *group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g.drop(s)
}

func (g *group) drop(s *session) {
	if delete(g.members, s); len(g.members) == 0 {
		delete(g.class.groups, g.key)
	}
}

// owed returns the way from have to the present, the present state and its number. There is no present (nil) until the
// first update; the way is nil when nothing is owed.
func (f *fleet) owed(g *group, have *state, d debt) (way *payload, now *state, number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g.now == nil {
		return nil, nil, 0
	}
	number = g.class.resources.Number()
	if have == g.now && d.none() {
		return nil, g.now, number
	}
	if way = g.memo[have]; way != nil && d.none() {
		return way, g.now, number
	}
	var before *compile.Resources
	switch {
	case have == g.now:
		before = g.class.resources
	case have != nil:
		before = have.resources
	}
	way = g.difference(before, g.class.resources, d)
	if d.none() && len(g.members) > 1 {
		g.remember(have, way)
	}
	return way, g.now, number
}

// gone returns those of names that do not exist for the members of g at present.
func (f *fleet) gone(g *group, names []string) ([]string, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var gone []string
	for _, name := range names {
		if g.visible(g.class.resources, name) == nil {
			gone = append(gone, name)
		}
	}
	return gone, g.class.resources.Number()
}
