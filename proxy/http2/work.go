package http2

// work is what a connection needs while something happens on it, and only then. An idle connection has none: those of a loop are
// many, and few of them are busy at a time.
type work struct {
	table   streams
	blocked queue
	section section
	block   block
	data    content
	finder  finder
	done    *Stream // released during Feed
	control []byte  // frames that wait to be sent
	own     int     // of their bytes those that this side says of its own accord
}

// rouse gets the connection what it needs.
func (c *Conn) rouse() {
	if c.work == nil {
		c.work = c.arena.work()
		c.enc.use(&c.finder)
	}
}

// Rest gives back what memory the connection needs only while something happens on it, if nothing does: to be called when it was idle
// for a while. It is good for use as before, and takes what it needs then. It must not be called during Feed.
func (c *Conn) Rest() {
	if c.work == nil || c.active > 0 || c.block.open || c.data.open || c.Pending() {
		return
	}
	c.dec.table.trim()
	c.enc.table.trim()
	c.giveUp()
}

// giveUp gives the work back, of which nothing is left to do.
func (c *Conn) giveUp() {
	c.arena.rest(c.work)
	c.work, c.enc.finder = nil, nil
}

func (a *Arena) work() *work {
	n := len(a.works)
	if n == 0 {
		return new(work)
	}
	w := a.works[n-1]
	a.works[n-1] = nil
	a.works = a.works[:n-1]
	return w
}

func (a *Arena) rest(w *work) {
	if len(a.works) >= keptWorks {
		return
	}
	buckets := w.table.buckets
	if len(buckets) > keptBuckets {
		buckets = nil
	}
	control := w.control[:0]
	if cap(control) > keptControl {
		control = nil
	}
	*w = work{table: streams{buckets: buckets}, control: control}
	a.works = append(a.works, w)
}

// shared returns l with its defaults, for reading only: the connections of one loop mostly have the same.
func (a *Arena) shared(l Limits, client bool) *Limits {
	l = l.orDefaults()
	last := &a.limits[0]
	if client {
		last = &a.limits[1]
	}
	if *last == nil || **last != l {
		fresh := l
		*last = &fresh
	}
	return *last
}
