package http2

import "github.com/hostmesh/hostmesh/proxy/message"

// Stream is one exchange on a connection. It belongs to whoever got it, from a [Handler] or by [Conn.Open], until
// [Conn.Release], and counts against the limit of streams as long: who resets a stream at once has not thereby ended the work
// for it.
type Stream struct {
	// User is the owner's.
	User any

	id       uint32
	received      // what came in
	sent          // what went out
	reset    bool // by either side
	released bool
	head     bool    // the request was HEAD: its response has no content
	next     *Stream // in its bucket, or in the free list
	queue    links
}

type received struct {
	window    int   // what the peer may send still
	held      int   // content that was given and not consumed
	credit    int   // window consumed and not given back yet
	remaining int64 // of Content-Length; -1 when it is not told
	started   bool  // the head is there
	ended     bool
	began     uint32 // when, as told by Tick
}

type sent struct {
	room    int  // the peer's window
	done    bool // END_STREAM was sent
	blocked bool // in the queue of those that wait for a window
}

type links struct{ before, after *Stream }

// ID is the number of the stream, 0 before a client has sent its head.
func (s *Stream) ID() uint32 { return s.id }

// Over reports whether nothing more can be sent.
func (s *Stream) Over() bool { return s.reset || s.done }

func (s *Stream) complete() bool { return s.ended && s.done }

// left is how much content the peer may send still.
func (s *Stream) left() int {
	if s.ended {
		return 0
	}
	return s.window
}

// Arena is memory that the connections of one loop share: what a connection needs only for a moment, and streams to use again.
type Arena struct {
	heads  []*message.Head
	blocks [][]byte
	works  []*work
	free   *Stream
	kept   int        // in free
	limits [2]*Limits // the last that servers had, and clients
}

func (a *Arena) head() *message.Head {
	if n := len(a.heads); n > 0 {
		h := a.heads[n-1]
		a.heads = a.heads[:n-1]
		return h
	}
	return new(message.Head)
}

func (a *Arena) block() []byte {
	if n := len(a.blocks); n > 0 {
		b := a.blocks[n-1]
		a.blocks = a.blocks[:n-1]
		return b
	}
	return nil
}

func (a *Arena) stream() *Stream {
	s := a.free
	if s == nil {
		return new(Stream)
	}
	a.free = s.next
	a.kept--
	*s = Stream{}
	return s
}

func (a *Arena) put(s *Stream) {
	if a.kept >= keptStreams {
		return
	}
	a.kept++
	*s = Stream{next: a.free}
	a.free = s
}

// What an arena keeps at most: after a burst, or an attack, the rest goes back to the garbage collector.
const (
	keptBlocks  = 16
	keptStreams = 4096
	keptWorks   = 256
	keptBuckets = 256 // of the table of streams in each
	keptControl = 4 << 10
)

// streams finds streams by their number. Numbers come in sequence, so they spread evenly.
type streams struct {
	buckets []*Stream // their number is a power of two
	count   int
}

func (t *streams) bucket(id uint32) **Stream { return &t.buckets[int(id>>1)&(len(t.buckets)-1)] }

func (t *streams) find(id uint32) *Stream {
	if t.count == 0 {
		return nil
	}
	s := *t.bucket(id)
	for s != nil && s.id != id {
		s = s.next
	}
	return s
}

func (t *streams) add(s *Stream) {
	if t.count >= 2*len(t.buckets) {
		old := t.buckets
		t.buckets = make([]*Stream, max(4, 4*len(old)))
		for _, o := range old {
			for o != nil {
				after := o.next
				b := t.bucket(o.id)
				o.next, *b = *b, o
				o = after
			}
		}
	}
	b := t.bucket(s.id)
	s.next, *b = *b, s
	t.count++
}

func (t *streams) remove(s *Stream) {
	for at := t.bucket(s.id); *at != nil; at = &(*at).next {
		if *at == s {
			*at = s.next
			t.count--
			return
		}
	}
}

// each visits all streams; visit must not remove any.
func (t *streams) each(visit func(*Stream)) {
	for _, s := range t.buckets {
		for ; s != nil; s = s.next {
			visit(s)
		}
	}
}

// queue holds the streams that wait for a window, longest first.
type queue struct {
	first, last *Stream
	count       int
}

func (q *queue) push(s *Stream) {
	if s.blocked {
		return
	}
	s.blocked = true
	s.queue = links{before: q.last}
	if q.last != nil {
		q.last.queue.after = s
	} else {
		q.first = s
	}
	q.last = s
	q.count++
}

func (q *queue) remove(s *Stream) {
	if !s.blocked {
		return
	}
	s.blocked = false
	if s.queue.before != nil {
		s.queue.before.queue.after = s.queue.after
	} else {
		q.first = s.queue.after
	}
	if s.queue.after != nil {
		s.queue.after.queue.before = s.queue.before
	} else {
		q.last = s.queue.before
	}
	s.queue = links{}
	q.count--
}

const remembered = 16

// resetIDs remembers which streams this side reset: what the peer sent before it knew is ignored, not an error. Of those that
// are forgotten only the highest number is kept; up to it the benefit of the doubt is given.
type resetIDs struct {
	ids   [remembered]uint32
	at    int
	floor uint32
}

func (r *resetIDs) add(id uint32) {
	r.floor = max(r.floor, r.ids[r.at])
	r.ids[r.at] = id
	r.at = (r.at + 1) % remembered
}

func (r *resetIDs) maybe(id uint32) bool {
	if r == nil {
		return false
	}
	for _, known := range r.ids {
		if known == id {
			return true
		}
	}
	return id <= r.floor
}
