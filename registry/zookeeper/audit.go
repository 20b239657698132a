package zookeeper

import "time"

// The audit reads all nodes again, one after the other, without watches: ZooKeeper tells nobody that a permission
// was taken away. It also finds what a watch failed to tell.
const (
	auditTick  = 100 * time.Millisecond
	auditEvery = 2 * time.Second // at most so often a node
	auditRate  = 200             // nodes a tick: 2,000 a second
	oldAudits  = 50              // of an old server
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
	rate := auditRate
	if t.old {
		rate = oldAudits
	}
	part := a.left[:min(rate, len(a.left))]
	a.left = a.left[len(part):]
	for _, n := range part {
		if t.nodes[n.path] == n {
			t.enqueue(n)
		}
	}
}
