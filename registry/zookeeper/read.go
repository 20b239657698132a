package zookeeper

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"
)

// answer is what came of reading a node.
type answer struct {
	node     *node
	children []string
	data     []byte
	stat     *zk.Stat
	err      error
}

// atOnce is how many readers there are.
func (t *tree) atOnce() int {
	if t.old {
		return oldReads
	}
	return readers
}

// batch takes the nodes that are to be read next out of the queue, nil if there are none.
func (t *tree) batch() []*node {
	size := batchSize
	if t.old {
		size = 1
	}
	size = min(size, len(t.queue))
	if size == 0 {
		return nil
	}
	next := t.queue[:size:size]
	t.queue = t.queue[size:]
	for _, n := range next {
		n.watch, n.stale = n.stale, false
	}
	return next
}

// readNodes asks the server for one batch of nodes after the other, until ctx ends or the session does.
func (t *tree) readNodes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case batch := <-t.batches:
			var answers []answer
			if t.old {
				for _, n := range batch {
					answers = append(answers, t.session.read(n))
				}
			} else {
				answers = t.session.readMany(batch)
			}
			select {
			case <-ctx.Done():
				return nil
			case t.answers <- answers:
			}
		}
	}
}

// read asks an old server for a node.
func (s *session) read(n *node) answer {
	a := answer{node: n}
	switch {
	case n.place == directory && n.watch:
		a.children, a.stat, _, a.err = s.ChildrenW(n.path)
		if errors.Is(a.err, zk.ErrNoNode) && n.parent == nil {
			s.awaitRoot(&a)
		}
	case n.place == directory:
		a.children, a.stat, a.err = s.Children(n.path)
	case n.place == instance && n.watch:
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
