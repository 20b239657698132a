package upstream

import (
	"errors"
	"io"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// callReady takes the events of a connection that carries a call.
func (conn *Conn) callReady(e loop.Event) {
	k := &conn.call
	if e&(loop.In|loop.Hup|loop.Err) != 0 {
		k.readable = true
		k.hup = k.hup || e&(loop.Hup|loop.Err) != 0
		conn.parted = k.hup
	}
	if e&loop.Out != 0 && (len(k.out) > 0 || k.congested) {
		r := k.recv
		conn.writable()
		if k.recv != r {
			return
		}
	}
	conn.read()
}

// Pull implements Stream.
func (conn *Conn) Pull() {
	if conn.call.held {
		conn.call.held = false
		conn.Again() // who calls may be reading into the loop's buffer
	}
}

// read passes on what there is of the response, as far as the receiver takes it.
func (conn *Conn) read() {
	k, c := &conn.call, conn.Host.cluster
	shared := c.loop.Shared()
	for moved := 0; k.readable && !k.held; {
		if moved >= turnBytes {
			conn.Again()
			return
		}
		at := shared[loop.Headroom:]
		n := copy(at, k.in)
		if n == len(at) {
			conn.malformed()
			return
		}
		m, err := conn.Read(at[n:])
		if err != nil {
			if errors.Is(err, syscall.EAGAIN) {
				k.readable = false
				return
			}
			conn.ended(err)
			return
		}
		c.loop.Release(k.in)
		k.in = nil
		moved += m
		k.seen = true
		k.readable = n+m == len(at) || k.hup
		c.Stats.Count[ConnRxBytes] += uint64(m)
		if !conn.respond(loop.Headroom, loop.Headroom+n+m) {
			return
		}
	}
}

// respond tells the receiver what shared[from:to] means. It reports whether the call goes on.
func (conn *Conn) respond(from, to int) bool {
	k, c := &conn.call, conn.Host.cluster
	shared := c.loop.Shared()
	r := k.recv
	for !k.answered {
		if k.head == nil {
			k.head = c.memory().Head()
			k.parser.Reset()
		}
		n, err := k.parser.Parse(shared[from:to], k.head, http1.Limits{HeadBytes: maxHead})
		if err != nil {
			conn.malformed()
			return false
		}
		if n == 0 {
			conn.keepInput(shared[from:to])
			return true
		}
		from += n
		if to = conn.answeredHead(from, to); k.recv != r {
			return false
		}
	}
	return conn.content(from, to)
}

// answeredHead handles a complete head, behind which shared[from:to] came, and returns to, or where what was read since ends.
func (conn *Conn) answeredHead(from, to int) int {
	k, a := &conn.call, conn.Host.cluster.memory()
	h := k.head
	k.head = nil
	defer a.GiveHead(h)
	accepted := k.upgrading && conn.accepts(h)
	if h.Status < 200 && !accepted {
		if h.Status == 101 {
			conn.malformed()
			return to
		}
		k.recv.Head(h, false)
		return to
	}
	framing := k.parser.Framing(k.method)
	k.answered = true
	k.keep = k.parser.KeepAlive() && framing.Kind != http1.UntilClose && !k.upgrading
	k.answer = http1.NewBody(framing)
	if accepted {
		k.raw = true
		k.recv.Head(h, false)
		return to
	}
	if k.answer.Done() {
		conn.keepInput(conn.Host.cluster.loop.Shared()[from:to]) // surplus: the connection is not used again
		k.recv.Head(h, true)
		return from
	}
	to = conn.readMore(from, to)
	k.recv.Head(h, false)
	return to
}

// readMore tries once more for the rest of a short body, of which shared[from:to] is there: many hosts send head and body apart,
// and a read costs far less than a second send.
func (conn *Conn) readMore(from, to int) int {
	k, c := &conn.call, conn.Host.cluster
	left := k.answer.Remaining() - int64(to-from)
	room := c.loop.Shared()[to:]
	if k.readable || left <= 0 || left > int64(len(room)) {
		return to
	}
	n, err := conn.Read(room)
	if err != nil {
		k.readable = !errors.Is(err, syscall.EAGAIN) // an end is told again
		return to
	}
	k.readable = n == len(room) || k.hup
	c.Stats.Count[ConnRxBytes] += uint64(n)
	return to + n
}

// content tells the content in shared[from:to]. It reports whether the call goes on.
func (conn *Conn) content(from, to int) bool {
	k, c := &conn.call, conn.Host.cluster
	shared := c.loop.Shared()
	r := k.recv
	if k.raw {
		if from < to && !k.recv.Content(loop.Piece{Buf: shared, From: from, To: to}, false) && k.recv == r {
			k.held = true
		}
		return k.recv == r
	}
	if k.answer.Done() {
		return true
	}
	if k.tail == nil && k.answer.Kind() == http1.Chunked {
		k.tail = c.memory().Head()
	}
	kept, used, err := http1.Compact(&k.answer, shared[from:to], k.tail)
	if err != nil {
		conn.malformed()
		return false
	}
	conn.keepInput(shared[from+used : to])
	done := k.answer.Done()
	tail := done && k.tail != nil && k.tail.Len() > 0
	if kept > 0 || done && !tail {
		more := k.recv.Content(loop.Piece{Buf: shared, From: from, To: from + kept}, done && !tail)
		if k.recv == r {
			k.held = !more
		}
	}
	if tail && k.recv == r {
		k.recv.Trailers(k.tail)
	}
	return k.recv == r
}

func (conn *Conn) keepInput(data []byte) {
	if len(data) > 0 {
		conn.call.in = append(conn.Host.cluster.loop.Buffer(len(data)), data...)
	}
}

// ended handles the end of the host's bytes.
func (conn *Conn) ended(err error) {
	k := &conn.call
	k.hup, k.keep = true, false
	conn.parted = true
	orderly := errors.Is(err, io.EOF)
	switch {
	case k.raw && orderly:
		k.readable = false
		k.recv.Content(loop.Piece{}, true)
		return
	case k.answered && orderly && k.answer.End() == nil:
		k.recv.Content(loop.Piece{}, true)
		return
	case orderly:
		conn.cut(CutClosed)
		return
	}
	conn.cut(CutReset)
}

func (conn *Conn) malformed() {
	conn.Host.cluster.Stats.Count[ConnProtocolError]++
	conn.cut(CutMalformed)
}
