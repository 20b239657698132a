package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	readers   = 3   // requests under way at a time, of
	batchSize = 64  // nodes at most: a node may hold a megabyte
	oldReads  = 128 // requests under way to an old server, of one node each

	maxNodes = 1_000_000 // of the tree

	publishEvery = 15 * time.Millisecond // while changes stream in
	// holdMost is how long a view waits for reads that are under way. A re-registration is a node that leaves and one
	// that comes: who lists both at once must not show the time between.
	holdMost = 50 * time.Millisecond
)

// node is one node of the tree that we know.
type node struct {
	path     string
	place    place
	parent   *node           // nil for the root
	children map[string]bool // by name, of a directory
	czxid    int64           // of the node whose data was decoded last: one that is made again is another
	mzxid    int64           // of that data
	known    bool            // it was read
	opening  bool            // the first view waits for it
	stale    bool            // it is to be read, with a watch
	queued   bool            // it is in the queue, or being read
	watch    bool            // it was stale when its reading began; not changed until that ends
}

// tree reads the nodes below a root and keeps reading what changes. It belongs to one goroutine; its readers, which
// ask the server, are others.
//
// A node is gone when a read of that very node says so. Events, lists of children and failed reads only say what is
// to be read again, so it does not matter in which order they come to us.
type tree struct {
	cfg      *Config
	layout   layout
	session  *session
	assembly *registry.Assembly
	nodes    map[string]*node
	queue    []*node
	batches  chan []*node
	answers  chan []answer
	old      bool // the server wants a watch on each node

	opening int // nodes that the first view waits for
	busy    int // reads of stale nodes that are queued or under way
	read    int // instances that could be decoded, ever

	changed   time.Time // of the oldest change that is not published; zero without any
	published time.Time
	audit     audit
}

func newTree(cfg *Config, l layout, s *session) *tree {
	return &tree{
		cfg: cfg, layout: l, session: s, assembly: registry.NewAssembly(), nodes: make(map[string]*node),
		batches: make(chan []*node), answers: make(chan []answer, readers), old: s.old.Load(),
	}
}

// run reads and publishes until ctx ends or something fails.
func (t *tree) run(ctx context.Context, publish func(registry.View)) error {
	group, ctx := errgroup.WithContext(ctx)
	for range t.atOnce() {
		group.Go(func() error { return t.readNodes(ctx) })
	}
	group.Go(func() error { return t.keep(ctx, publish) })
	return group.Wait()
}

// keep is the goroutine that the tree belongs to.
func (t *tree) keep(ctx context.Context, publish func(registry.View)) error {
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	sweep := time.NewTicker(auditTick)
	defer sweep.Stop()
	t.add(&node{path: t.cfg.Root, place: directory, opening: true})
	var next []*node
	for {
		var batches chan<- []*node
		if next == nil {
			next = t.batch()
		}
		if next != nil {
			batches = t.batches
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case batches <- next:
			next = nil
		case answers := <-t.answers:
			for _, a := range answers {
				if err := t.apply(a); err != nil {
					return err
				}
			}
		case <-t.session.wake:
			for _, e := range t.session.take() {
				t.told(e)
			}
		case now := <-sweep.C:
			t.sweep(now)
		case <-due.C:
		}
		if err := t.publish(publish, due); err != nil {
			return err
		}
	}
}

// told takes in what a watch tells of. The watch on all tells of each node that comes, goes or changes, and needs no
// list for that.
func (t *tree) told(e zk.Event) {
	if !t.old && e.Type == zk.EventNodeChildrenChanged {
		return // some versions tell of that too
	}
	if n := t.nodes[e.Path]; n != nil {
		t.mark(n)
		return
	}
	above, name := path.Split(e.Path)
	parent := t.nodes[strings.TrimSuffix(above, "/")]
	if e.Type != zk.EventNodeCreated || parent == nil || parent.place != directory {
		return
	}
	if len(t.nodes) >= maxNodes {
		t.mark(parent) // which tells
		return
	}
	t.addChild(parent, t.at(parent), name)
}

// publish publishes what changed when it is time, or sets due to when it is.
func (t *tree) publish(publish func(registry.View), due *time.Timer) error {
	if t.changed.IsZero() || t.opening > 0 {
		return nil
	}
	now := time.Now()
	at := t.published.Add(publishEvery)
	if held := t.changed.Add(holdMost); t.busy > 0 && held.After(at) {
		at = held
	}
	if at.After(now) {
		due.Reset(at.Sub(now))
		return nil
	}
	if t.read == 0 && len(t.nodes) > 1 {
		if other, at := t.session.survey(t.cfg.Root, t.cfg.Layout, t.excluded); other != "" {
			return fmt.Errorf("read %s: nothing there is of layout %s; %s looks like layout %s: see layout", t.cfg.Root, t.cfg.Layout, at, other)
		}
	}
	publish(t.assembly.View())
	t.changed, t.published = time.Time{}, now
	return nil
}

// touch notes that there is something to publish.
func (t *tree) touch() {
	if t.changed.IsZero() {
		t.changed = time.Now()
	}
}

// add takes a node up that was not known. What its name says is taken at once.
func (t *tree) add(n *node) {
	t.nodes[n.path] = n
	if n.place == named {
		t.decode(n, nil)
		return
	}
	if n.opening {
		t.opening++
	}
	t.mark(n)
}

// mark says that a node is to be read. It is in the queue once; one that is being read is read once more.
func (t *tree) mark(n *node) {
	if n.stale {
		return
	}
	n.stale = true
	t.busy++
	t.enqueue(n)
}

func (t *tree) enqueue(n *node) {
	if !n.queued {
		n.queued = true
		t.queue = append(t.queue, n)
	}
}

// at returns the names on the way from the root to a node.
func (t *tree) at(n *node) []string {
	if n.parent == nil {
		return nil
	}
	return strings.Split(strings.TrimPrefix(n.path[len(t.cfg.Root):], "/"), "/")
}

// apply takes an answer in.
func (t *tree) apply(a answer) error {
	n := a.node
	n.queued = false
	if n.watch {
		t.busy--
	}
	if n.stale {
		t.enqueue(n)
	}
	if t.nodes[n.path] != n {
		return nil // gone with its parent meanwhile
	}
	switch {
	case errors.Is(a.err, zk.ErrNoNode) && n.stale:
		return nil // it may be back: what a watch told meanwhile came here before this answer
	case errors.Is(a.err, zk.ErrNoNode):
		return t.missing(n)
	case errors.Is(a.err, zk.ErrNoAuth):
		return t.refused(n)
	case errors.Is(a.err, zk.ErrInvalidPath):
		t.assembly.RejectAs(n.path, kindName, "the name has characters that cannot be asked for")
		t.touch()
	case errors.Is(a.err, errTooLarge) && n.place != directory:
		t.reject(n, nil, wrong(kindSize, "got more than %d bytes, want %d at most", maxFrame, maxData))
	case a.err != nil:
		return t.session.explain("read "+n.path, a.err)
	case n.place == directory && a.stat.EphemeralOwner != 0 && n.parent != nil:
		// What goes with its session has no children: it is an instance, whatever its name.
		n.place = instance
		t.mark(n)
		return nil
	case n.place == directory:
		if err := t.list(n, a); err != nil {
			return err
		}
	case n.place == instance && (!n.known || a.stat.Mzxid != n.mzxid):
		if int(a.stat.DataLength) != len(a.data) {
			return fmt.Errorf("read %s: %d bytes, but the server counts %d", n.path, len(a.data), a.stat.DataLength)
		}
		if n.known && a.stat.Czxid != n.czxid {
			t.assembly.Delete(n.path) // the last word of another, which does not stay
		}
		n.czxid, n.mzxid = a.stat.Czxid, a.stat.Mzxid
		t.decode(n, a.data)
	}
	t.opened(n)
	return nil
}

// opened notes that a node was read.
func (t *tree) opened(n *node) {
	n.known = true
	if n.opening {
		n.opening = false
		t.opening--
		if t.opening == 0 && t.published.IsZero() {
			t.touch() // no services are a view too
		}
	}
}

func (t *tree) refused(n *node) error {
	err := fmt.Errorf("%w: no read permission for %s: grant it to", registry.ErrPermission, n.path)
	if t.cfg.Username != "" {
		err = fmt.Errorf("%w %s (and see that passwordFile is right)", err, t.cfg.Username)
	} else {
		err = fmt.Errorf("%w world:anyone, or set username and passwordFile", err)
	}
	if n.parent != nil {
		err = fmt.Errorf("%w, or leave the node out by exclude", err)
	}
	return err
}

// missing takes in that a node does not exist. It may be back by now, which the watch on all tells of; with an old
// server its parent is read again.
func (t *tree) missing(n *node) error {
	if n.parent == nil {
		if !n.known {
			return fmt.Errorf("read %s: there is no such node: see root, and whether anything has registered yet", n.path)
		}
		return nil // the whole tree went, node by node; a watch is set on its return
	}
	t.drop(n)
	parent := n.parent
	delete(parent.children, path.Base(n.path))
	if !t.old {
		t.opened(n)
		return nil
	}
	if n.opening && !parent.opening {
		parent.opening = true
		t.opening++
	}
	t.opened(n)
	t.mark(parent)
	return nil
}

// drop forgets a node and all below it.
func (t *tree) drop(n *node) {
	if t.nodes[n.path] != n {
		return
	}
	delete(t.nodes, n.path)
	for name := range n.children {
		if child := t.nodes[n.path+"/"+name]; child != nil {
			t.drop(child)
			t.opened(child)
		}
	}
	t.assembly.Delete(n.path)
	t.touch()
}

// list takes a directory's children in.
func (t *tree) list(n *node, a answer) error {
	if int(a.stat.NumChildren) != len(a.children) {
		return fmt.Errorf("list %s: %d children, but the server counts %d", n.path, len(a.children), a.stat.NumChildren)
	}
	if len(t.nodes)+len(a.children)-len(n.children) > maxNodes {
		return fmt.Errorf("list %s: more than %d nodes below %s", n.path, maxNodes, t.cfg.Root)
	}
	at := t.at(n)
	listed := make(map[string]bool, len(a.children))
	for _, name := range a.children {
		if name == "" || strings.Contains(name, "/") {
			return fmt.Errorf("list %s: a child %.100q, which no node may be called", n.path, name)
		}
		listed[name] = true
		if !n.children[name] {
			t.addChild(n, at, name)
		}
	}
	for name := range n.children {
		if !listed[name] {
			t.mark(t.nodes[n.path+"/"+name])
		}
	}
	return nil
}

// addChild takes a child of n up, unless it is not to be read. at are the names on the way to n.
func (t *tree) addChild(n *node, at []string, name string) {
	if t.read == 0 {
		t.touch() // whatever it is may tell that the layout is another
	}
	at = append(at[:len(at):len(at)], name)
	place := t.layout.place(at)
	if place == ignored || t.excluded(at) {
		return
	}
	if n.children == nil {
		n.children = make(map[string]bool)
	}
	n.children[name] = true
	t.add(&node{path: n.path + "/" + name, place: place, parent: n, opening: n.opening})
}

func (t *tree) excluded(at []string) bool {
	below := strings.Join(at, "/")
	for _, glob := range t.cfg.Exclude {
		if matched, _ := path.Match(glob, below); matched {
			return true
		}
	}
	return false
}
