package dns

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	patience    = 5 * time.Second        // for the names that fail, before the first view
	silence     = 2 * time.Second        // without any answer: the resolvers are away
	retry       = 500 * time.Millisecond // after a failure; longer when hundreds of names fail
	retryBudget = 5 * time.Millisecond   // one retry in that time, all names together
	witnesses   = 3                      // names that are asked at once when one fails: is it the name, or the resolver?
	coalesce    = 20 * time.Millisecond  // between two views
)

// poller decides when which name is asked for, and what a failure means. All of its state belongs to run.
type poller struct {
	*Registry
	jobs    chan *name
	results chan result

	queue    queue // the names that nobody is asking about, by when they are due
	began    time.Time
	answered int // names, in this Watch
	tried    int // names, answered or failed, in this Watch
	failing  int // names whose last lookup failed

	mute      map[*name]error // who failed since the last answer to any name
	muteSince time.Time       // when the first of these lookups began

	dirty  bool      // something changed since the last view
	synced bool      // there was a first view
	viewed time.Time // when
}

// result is what a lookup gave.
type result struct {
	name  *name
	began time.Time
	found *found
	err   error
}

func newPoller(r *Registry) *poller {
	p := &poller{
		Registry: r, jobs: make(chan *name), results: make(chan result),
		began: time.Now(), mute: make(map[*name]error), dirty: true,
	}
	for _, n := range r.want {
		n.answered, n.tried, n.due = false, false, p.began
		if n.failure != "" { // and is still told in what was made
			p.failing++
		}
		heap.Push(&p.queue, n)
	}
	return p
}

// start has workers ask for the names that are handed out.
func (p *poller) start(ctx context.Context, group *errgroup.Group, look *lookup) {
	for range min(workers, len(p.want)) {
		group.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case n := <-p.jobs:
					r := result{name: n, began: time.Now()}
					r.found, r.err = look.resolve(ctx, n, n.last.known())
					select {
					case <-ctx.Done():
						return ctx.Err()
					case p.results <- r:
					}
				}
			}
		})
	}
}

// run hands out names when they are due and publishes what comes back.
func (p *poller) run(ctx context.Context, publish func(registry.View)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		if p.ready(now) {
			publish(p.made.View())
			p.dirty, p.synced, p.viewed = false, true, time.Now()
		}
		if err := p.away(now); err != nil {
			return err
		}
		var jobs chan *name // nil, which nobody takes from, unless one is due
		var next *name
		if len(p.queue) > 0 && !p.queue[0].due.After(now) {
			jobs, next = p.jobs, p.queue[0]
		}
		timer.Reset(p.sleep(now))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case jobs <- next:
			heap.Remove(&p.queue, next.place)
		case r := <-p.results:
			p.take(r, time.Now())
		case <-timer.C:
		}
	}
}

// sleep returns how long nothing happens unless a lookup ends.
func (p *poller) sleep(now time.Time) time.Duration {
	wake := now.Add(time.Minute)
	for _, t := range []time.Time{p.began.Add(patience), p.viewed.Add(coalesce), p.muteSince.Add(silence)} {
		if t.After(now) && t.Before(wake) {
			wake = t
		}
	}
	if len(p.queue) > 0 && p.queue[0].due.After(now) && p.queue[0].due.Before(wake) {
		wake = p.queue[0].due
	}
	return wake.Sub(now)
}

// ready tells whether it is time for a view.
func (p *poller) ready(now time.Time) bool {
	switch {
	case !p.dirty || now.Before(p.viewed.Add(coalesce)):
		return false
	case p.synced || p.answered == len(p.want):
		return true
	}
	return p.answered > 0 && p.tried == len(p.want) && !now.Before(p.began.Add(patience))
}

// away tells that the resolvers are, or that they refuse us. One name that fails is no sign of it; that everybody asked
// for two seconds fails is, and a few names stand for all, as the others may be good for minutes.
func (p *poller) away(now time.Time) error {
	if len(p.mute) < min(len(p.want), 1+witnesses) || now.Before(p.muteSince.Add(silence)) {
		return nil
	}
	var shown error
	refused := true
	for _, err := range p.mute {
		if shown == nil || err.Error() < shown.Error() {
			shown = err
		}
		refused = refused && errors.Is(err, registry.ErrPermission)
	}
	if !refused && errors.Is(shown, registry.ErrPermission) {
		shown = errors.New(shown.Error())
	}
	return fmt.Errorf("no name is answered: %w", shown)
}

// take notes what a lookup gave.
func (p *poller) take(r result, now time.Time) {
	n := r.name
	if !n.tried {
		n.tried = true
		p.tried++
	}
	failed := n.failure != ""
	if r.err != nil {
		p.fail(r, now)
	} else {
		p.answer(n, r.found, now)
	}
	if failing := n.failure != ""; failing != failed {
		p.failing += map[bool]int{true: 1, false: -1}[failing]
	}
	heap.Push(&p.queue, n)
}

func (p *poller) fail(r result, now time.Time) {
	n, reason := r.name, r.err.Error()
	if n.failure != reason {
		n.failure = reason
		p.made.RejectAs(n.key, "unanswered", reason)
		p.dirty = true
		p.log.Warn("name not answered, its last answer stays", "name", n.key, "error", reason)
	}
	if len(p.mute) == 0 {
		p.muteSince = r.began
		p.hasten(now)
	}
	p.mute[n] = r.err
	n.due = now.Add(p.pause())
}

// pause is how long a name that failed waits.
func (p *poller) pause() time.Duration {
	return max(retry, time.Duration(p.failing)*retryBudget) + rand.N(retry/5)
}

// hasten asks for a few names that did not fail before they are due.
func (p *poller) hasten(now time.Time) {
	var chosen []*name
	for _, n := range p.queue {
		if n.failure == "" && n.due.After(now) {
			if chosen = append(chosen, n); len(chosen) == witnesses {
				break
			}
		}
	}
	for _, n := range chosen {
		n.due = now
		heap.Fix(&p.queue, n.place)
	}
}

func (p *poller) answer(n *name, f *found, now time.Time) {
	clear(p.mute)
	p.muteSince = time.Time{}
	n.due = now.Add(p.lifetime(f.ttl))
	if f.broken {
		n.due = now.Add(p.pause())
	}
	if !n.answered {
		n.answered = true
		p.answered++
	}
	if n.failure == "" && n.last != nil && reflect.DeepEqual(n.last.endpoints, f.endpoints) && reflect.DeepEqual(n.last.problems, f.problems) {
		n.last = f
		return
	}
	if n.failure != "" {
		p.log.Info("name answered again", "name", n.key)
	}
	n.failure, n.last, p.dirty = "", f, true
	set := make(map[string]bool, 1+len(f.endpoints)+len(f.problems))
	p.made.Set(n.key, n.entry(nil)) // the service is there by configuration, whoever runs it
	for _, e := range f.endpoints {
		key := n.key + " " + e.ID
		set[key] = true
		p.made.Set(key, n.entry(e))
	}
	for object, problem := range f.problems {
		key := n.key + " " + object
		set[key] = true
		p.made.Note(key, problem)
	}
	for key := range n.set {
		if !set[key] {
			p.made.Delete(key)
		}
	}
	n.set = set
}

// lifetime is how long an answer is good. What is added keeps names that were asked for together from coming back
// together for ever; asking any earlier would get the same answer out of the resolver's cache.
func (p *poller) lifetime(ttl time.Duration) time.Duration {
	d := max(p.cfg.MinTTL, min(ttl, p.cfg.MaxTTL))
	if p.cfg.Interval > 0 {
		d = p.cfg.Interval
	}
	return d + rand.N(d/16+1)
}

// known returns what the targets had; f may be nil.
func (f *found) known() map[string]map[Family]addrs {
	if f == nil {
		return nil
	}
	return f.targets
}

// queue is a heap of names, by when they are due.
type queue []*name

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push and Pop are for package heap.
func (q *queue) Push(x any) {
	n := x.(*name)
	n.place = len(*q)
	*q = append(*q, n)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	n := (*q)[last]
	n.place = -1
	*q = (*q)[:last]
	return n
}
