package zookeeper

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"
)

// job is a node to read. watch says whether a watch is set with it.
type job struct {
	node  *node
	watch bool
}

// answer is what came of a job.
type answer struct {
	job
	children []string
	data     []byte
	stat     *zk.Stat
	err      error
}

// readNodes asks the server for one node after the other, until ctx ends or the session does.
func (t *tree) readNodes(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-t.jobs:
			a := t.session.read(j)
			select {
			case <-ctx.Done():
				return nil
			case t.answers <- a:
			}
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
		if errors.Is(a.err, zk.ErrNoNode) && n.parent == nil {
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
