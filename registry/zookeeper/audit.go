package zookeeper

import (
	"time"

	"github.com/go-zookeeper/zk"
)

// The audit reads all nodes again, one after the other, without watches: ZooKeeper tells nobody that a permission
// was taken away. It also finds what a watch failed to tell.
const (
	auditTick  = 100 * time.Millisecond
	auditEvery = 2 * time.Second // at most so often a node
	auditRate  = 50              // nodes a tick: 500 a second
)

// audit is where the round over all nodes is.
type audit struct {
	left  []*node
	began time.Time // of the round
	root  time.Time // when the root was read last
}

// sweep reads the next part of the round. Permission is mostly lost at the root, so that is looked at in any case.
func (t *tree) sweep(now time.Time) {
	if t.published.IsZero() {
		return
	}
	a := &t.audit
	if len(a.left) == 0 {
		if now.Sub(a.began) < auditEvery {
			return
		}
		a.began = now
		a.left = make([]*node, 0, len(t.nodes))
		for _, n := range t.nodes {
			if n.place != named {
				a.left = append(a.left, n)
			}
		}
	}
	if now.Sub(a.root) >= auditEvery {
		a.root = now
		t.enqueue(t.nodes[t.cfg.Root])
	}
	part := a.left[:min(auditRate, len(a.left))]
	a.left = a.left[len(part):]
	for _, n := range part {
		if t.nodes[n.path] == n {
			t.enqueue(n)
		}
	}
}

// read asks the server for a node.
func (s *session) read(j job) answer {
	a := answer{job: j}
	n := j.node
	switch {
	case n.place == directory && j.watch:
		a.children, a.stat, _, a.err = s.ChildrenW(n.path)
		if a.err == zk.ErrNoNode && n.parent == nil {
			s.awaitRoot(&a)
		}
	case n.place == directory:
		a.children, a.stat, a.err = s.Children(n.path)
	case n.place == instance && j.watch:
		a.data, a.stat, _, a.err = s.GetW(n.path)
	case n.place == instance:
		a.data, a.stat, a.err = s.Get(n.path)
	default:
		var exists bool
		if exists, a.stat, a.err = s.Exists(n.path); a.err == nil && !exists {
			a.err = zk.ErrNoNode
		}
	}
	return a
}

// awaitRoot sets a watch on the creation of the root, and lists it after all if it is there by now.
func (s *session) awaitRoot(a *answer) {
	exists, _, _, err := s.ExistsW(a.node.path)
	switch {
	case err != nil:
		a.err = err
	case exists:
		a.children, a.stat, _, a.err = s.ChildrenW(a.node.path)
	}
}
