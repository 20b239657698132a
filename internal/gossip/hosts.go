package gossip

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// State is what the ring knows of a host.
type State uint8

// The states. A host that told that it leaves is Leaving until it is gone, then Left; one that fell silent is Dead.
const (
	Alive State = iota + 1
	Leaving
	Left
	Dead
)

var stateNames = [...]string{Alive: "alive", Leaving: "leaving", Left: "left", Dead: "dead"}

// String returns the lower-case name.
func (s State) String() string {
	if s >= Alive && s <= Dead {
		return stateNames[s]
	}
	return "unknown"
}

// Host is a host as a control node sees it.
type Host struct {
	ID          string
	Addr        netip.AddrPort // of its gossip
	Incarnation uint64
	State       State
	Since       time.Time // when it came to be in that state
	// Body is what the host announced last, as far as it was obtained; nil before that. It is not to be changed: the
	// same pointer means the same announcement.
	Body *Announcement
	// Current tells that Body is what the host announces now; also that it announces nothing and Body is nil.
	Current bool
	// Rival is the address of another live node that claims the same host id, and has for a while.
	Rival netip.AddrPort
}

// rivalAfter is how long two nodes may claim one host: a crashed one is not found dead at once.
const rivalAfter = 15 * time.Second

// maxNodes bounds the ring, whatever its members tell of others.
const maxNodes = 16384

// node is one life of a host: a member of the ring.
type node struct {
	meta  meta
	to    memberlist.Node // as SendReliable wants it; a copy, memberlist changes its own under its lock
	since time.Time
}

// record is all that is known of a host.
type record struct {
	node            // the life that counts: the latest
	state State     // of that life
	since time.Time // of that state

	rival *node // another life that is alive beside it

	body       *Announcement
	bodyDigest digest

	asked   int       // how often its current digest was asked for
	askNext time.Time // when to ask again
}

// wants reports whether the host announces what we do not have.
func (r *record) wants() bool {
	return (r.state == Alive || r.state == Leaving) && r.meta.Digest != digest{} && r.meta.Digest != r.bodyDigest
}

// table follows the nodes of the ring. A proxy needs only the control nodes, a control node everything.
type table struct {
	self     meta
	changed  chan struct{} // something is new for the reader of the hosts
	fetch    chan struct{} // and maybe for the one who asks for bodies
	lost     chan struct{} // a member went, maybe a seed
	mu       sync.Mutex
	members  map[string]netip.AddrPort // live nodes but ourselves, by node name; guarded by mu
	hosts    map[string]*record        // proxies by host id; guarded by mu; stays empty on a proxy
	controls map[string]*node          // live control nodes but ourselves, by node name; guarded by mu
}

func newTable(self meta) *table {
	return &table{
		self: self, changed: make(chan struct{}, 1), fetch: make(chan struct{}, 1), lost: make(chan struct{}, 1),
		members: map[string]netip.AddrPort{}, hosts: map[string]*record{}, controls: map[string]*node{},
	}
}

// wake puts a token into a one-slot channel.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (t *table) notify() {
	wake(t.changed)
	wake(t.fetch)
}

// joined takes in that a node is there or has changed its meta. memberlist holds its lock meanwhile.
func (t *table) joined(n *memberlist.Node, now time.Time) {
	m, err := decodeMeta(n.Meta)
	if err != nil || n.Name != m.name() || n.Name == t.self.name() {
		return // NotifyAlive refused what is wrong, so this is ourselves
	}
	life := node{meta: m, to: *n, since: now}
	life.to.Meta = nil
	t.mu.Lock()
	defer t.mu.Unlock()
	t.members[n.Name] = address(*n)
	if m.Role == Control {
		t.controls[n.Name] = &life
		t.notify()
		return
	}
	if t.self.Role == Control {
		t.take(life, now)
	}
}

// take takes in a live proxy; t.mu is held.
func (t *table) take(life node, now time.Time) {
	r := t.hosts[life.meta.Host]
	switch {
	case r == nil:
		r = &record{}
		t.hosts[life.meta.Host] = r
	case r.meta.Incarnation == life.meta.Incarnation:
		if life.meta.Sequence < r.meta.Sequence {
			life.meta = r.meta // a hint was faster than gossip
		}
	case r.meta.Incarnation > life.meta.Incarnation && (r.state == Alive || r.state == Leaving):
		t.challenge(r, life)
		return
	case r.state == Alive || r.state == Leaving:
		old := r.node
		r.rival = &old
		r.rival.since = now
	}
	if r.rival != nil && r.rival.meta.Incarnation == life.meta.Incarnation {
		r.rival = nil
	}
	t.set(r, life, now)
}

// challenge takes in a life that claims the host beside the one that counts; t.mu is held.
func (t *table) challenge(r *record, life node) {
	if r.rival != nil && r.rival.meta.Incarnation == life.meta.Incarnation {
		life.since = r.rival.since
		if life.meta.Sequence < r.rival.meta.Sequence {
			life.meta = r.rival.meta
		}
	}
	r.rival = &life
}

// set makes life the one that counts; t.mu is held.
func (t *table) set(r *record, life node, now time.Time) {
	state := Alive
	if life.meta.Leaving {
		state = Leaving
	}
	if r.state != state {
		r.state, r.since = state, now
	}
	if r.meta.Digest != life.meta.Digest || r.meta.Incarnation != life.meta.Incarnation {
		r.asked, r.askNext = 0, time.Time{}
	}
	r.node = life
	t.notify()
}

// hinted takes in a meta that came ahead of gossip. It counts only for a node that gossip has told of.
func (t *table) hinted(m meta, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.hosts[m.Host]
	if r == nil || m.Role != Proxy {
		return
	}
	if rival := r.rival; rival != nil && rival.meta.Incarnation == m.Incarnation && m.Sequence > rival.meta.Sequence {
		rival.meta = m
		return
	}
	if r.meta.Incarnation != m.Incarnation || m.Sequence <= r.meta.Sequence {
		return
	}
	if r.state != Alive && r.state != Leaving {
		return
	}
	life := r.node
	life.meta = m
	t.set(r, life, now)
}

// gone takes in that a node left the ring or was found dead. memberlist holds its lock meanwhile.
func (t *table) gone(n *memberlist.Node, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.members, n.Name)
	wake(t.lost)
	if _, ok := t.controls[n.Name]; ok {
		delete(t.controls, n.Name)
		t.notify()
		return
	}
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return
	}
	r := t.hosts[m.Host]
	if r == nil {
		return
	}
	if r.rival != nil && r.rival.to.Name == n.Name {
		r.rival = nil
	}
	if r.to.Name != n.Name { // an earlier life; the present one goes on
		return
	}
	if r.rival != nil && r.state != Leaving { // the clock went back: what claims the host still is what runs there
		life := *r.rival
		r.rival = nil
		t.set(r, life, now)
		return
	}
	r.rival = nil
	state := Dead
	if r.state == Leaving || m.Leaving {
		state = Left
	}
	if r.state != state {
		r.state, r.since = state, now
	}
	t.notify()
}

// want is a body to ask for.
type want struct {
	to     memberlist.Node
	digest digest
}

// due returns the bodies to ask for now, at most limit, and when to look again. backoff is called for the n-th asking.
func (t *table) due(now time.Time, limit int, backoff func(n int) time.Duration) (wants []want, next time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.hosts {
		if !r.wants() {
			continue
		}
		if !r.askNext.After(now) && len(wants) < limit {
			r.askNext = now.Add(backoff(r.asked))
			r.asked++
			wants = append(wants, want{to: r.to, digest: r.meta.Digest})
		}
		if next.IsZero() || r.askNext.Before(next) {
			next = r.askNext
		}
	}
	return wants, next
}

// asking returns the hosts that announce that digest and whose body we lack: more than one when somebody repeats another's.
func (t *table) asking(d digest) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var hosts []string
	for id, r := range t.hosts {
		if r.asked > 0 && r.wants() && r.meta.Digest == d {
			hosts = append(hosts, id)
		}
	}
	return hosts
}

// obtained takes in a body.
func (t *table) obtained(id string, d digest, body *Announcement) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.hosts[id]; r != nil && r.meta.Digest == d {
		r.body, r.bodyDigest = body, d
		t.notify()
	}
}

// list returns the hosts, sorted by id.
func (t *table) list(now time.Time) []Host {
	t.mu.Lock()
	defer t.mu.Unlock()
	hosts := make([]Host, 0, len(t.hosts))
	for id, r := range t.hosts {
		h := Host{
			ID: id, Addr: address(r.to), Incarnation: r.meta.Incarnation, State: r.state, Since: r.since,
			Body: r.body, Current: r.bodyDigest == r.meta.Digest,
		}
		if r.rival != nil && now.Sub(r.rival.since) >= rivalAfter {
			h.Rival = address(r.rival.to)
		}
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b Host) int { return cmp.Compare(a.ID, b.ID) })
	return hosts
}

// forget drops a host that is not there any more.
func (t *table) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.hosts[id]; r != nil && (r.state == Dead || r.state == Left) {
		delete(t.hosts, id)
	}
}

// live returns where the live control nodes are, and by node name.
func (t *table) live() map[string]memberlist.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	nodes := make(map[string]memberlist.Node, len(t.controls))
	for name, n := range t.controls {
		nodes[name] = n.to
	}
	return nodes
}

// has reports whether a live node is at that address.
func (t *table) has(at netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, member := range t.members {
		if member == at {
			return true
		}
	}
	return false
}

// full reports whether there is no room for a node that is not known yet.
func (t *table) full(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, known := t.members[name]
	return !known && (len(t.members) >= maxNodes || len(t.hosts) >= maxNodes)
}

// size returns how many live nodes there are beside ourselves, and how many of them are control nodes.
func (t *table) size() (members, controls int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.members), len(t.controls)
}

func address(n memberlist.Node) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(addr.Unmap(), n.Port)
}
