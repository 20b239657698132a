package resolve

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// maxAddrs is how many addresses of a name are used. Of more the lowest are taken: the same ones each time.
const maxAddrs = 1024

// name is one name of one cluster, and what is known of it.
type name struct {
	key   key
	dns   *config.DNS
	since time.Time // when it was first wanted
	known bool      // it was asked for, with or without success
	gone  bool      // nobody wants it any more

	last     []netip.Addr // the last good answer, nil before there was one
	failures int          // since then

	at     time.Time // when to ask again
	place  int       // in the queue, -1 when it is not there
	cancel func()    // ends the lookup that is under way
}

func newName(k key, dns *config.DNS, now time.Time) *name {
	return &name{key: k, dns: dns, since: now, at: now, place: -1}
}

// sameLookup reports whether two ways to ask are the same.
func sameLookup(a, b *config.DNSLookup) bool {
	return a.Family == b.Family && a.Fallback == b.Fallback && a.Rotate == b.Rotate && a.TCP == b.TCP && a.AsIs == b.AsIs &&
		a.Timeout == b.Timeout && a.Tries == b.Tries && a.UDPBytes == b.UDPBytes && slices.Equal(a.Servers, b.Servers)
}

// waits returns how long the first answer is to be waited for.
func (n *name) waits(now time.Time) time.Duration {
	if n.known {
		return 0
	}
	return max(0, warming-now.Sub(n.since))
}

// learn takes a good answer up and reports whether it is another than before.
func (n *name) learn(found []netip.Addr) bool {
	list := append(make([]netip.Addr, 0, len(found)), found...) // never nil: none is an answer
	if n.dns.Logical {
		list = list[:min(1, len(list))]
	} else {
		slices.SortFunc(list, netip.Addr.Compare)
		list = slices.Compact(list)
		list = list[:min(maxAddrs, len(list))]
	}
	changed := n.last == nil || !slices.Equal(n.last, list)
	n.last = list
	return changed
}

// pause is how long after a lookup the next one comes.
func (n *name) pause(failed bool, ttl time.Duration) time.Duration {
	d := n.dns
	if failed {
		if d.FailureBase <= 0 {
			return d.Refresh
		}
		most := d.FailureBase
		for i := 1; i < n.failures && most < d.FailureMost; i++ {
			most *= 2
		}
		// Anything up to it, as in Envoy, but not nothing: a server that fails at once is not to be asked in a loop.
		return max(rand.N(min(most, d.FailureMost)), time.Millisecond)
	}
	pause := d.Refresh
	if d.RespectTTL && ttl > 0 {
		pause = max(ttl, d.LeastTTL)
	}
	if d.Jitter > 0 {
		pause += rand.N(d.Jitter)
	}
	return pause
}

// queue holds the names that are not being asked for, the next one first.
type queue struct{ heap order }

func (q *queue) push(n *name) { heap.Push(&q.heap, n) }

func (q *queue) remove(n *name) {
	if n.place >= 0 {
		heap.Remove(&q.heap, n.place)
	}
}

// pop takes a name whose time has come, nil if there is none.
func (q *queue) pop(now time.Time) *name {
	if len(q.heap) == 0 || q.heap[0].at.After(now) {
		return nil
	}
	return heap.Pop(&q.heap).(*name)
}

// next is how long it is until a name's time has come.
func (q *queue) next(now time.Time) (time.Duration, bool) {
	if len(q.heap) == 0 {
		return 0, false
	}
	return max(0, q.heap[0].at.Sub(now)), true
}

// order is the heap.
type order []*name

func (o order) Len() int           { return len(o) }
func (o order) Less(i, j int) bool { return o[i].at.Before(o[j].at) }
func (o order) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].place, o[j].place = i, j
}

// Push adds a name, for the heap package.
func (o *order) Push(x any) {
	n := x.(*name)
	n.place = len(*o)
	*o = append(*o, n)
}

// Pop takes the last one, for the heap package.
func (o *order) Pop() any {
	last := len(*o) - 1
	n := (*o)[last]
	(*o)[last] = nil
	*o, n.place = (*o)[:last], -1
	return n
}
