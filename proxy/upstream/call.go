package upstream

import (
	"errors"
	"io"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
)

const (
	turnBytes = 256 << 10 // moved for one socket before the others have their turn
	// maxHead leaves room in the shared read buffer, where heads are parsed.
	maxHead = 60 << 10
)

// call is the request that an HTTP/1 connection carries, and its response. A Conn is the Stream of its call.
type call struct {
	recv   Receiver // nil: none
	waiter *Waiter  // of a receiver that waits for the connection
	parser http1.Response
	head   *message.Head // of the response, while it is read
	answer http1.Body
	tail   *message.Fields // of a chunked answer: its trailers
	method message.Method

	out   []byte // not sent yet, from outAt
	outAt int
	in    []byte // received and not used yet

	chunked   bool // the request's content goes in chunks
	whole     bool // all of the request was given
	sent      bool // the kernel took some of it
	seen      bool // bytes of the response came
	answered  bool // its final head came
	keep      bool // the host lets the connection be used again
	raw       bool // an upgrade: bytes are passed on as they are
	upgrading bool
	readable  bool
	hup       bool
	failed    bool // the host takes no more of the request
	held      bool // the receiver wants no more content now
	congested bool // the receiver is to be told when out is gone
}

func (k *call) begin(r Receiver) { *k = call{recv: r} }

// Connection is the connection itself.
func (conn *Conn) Connection() *Conn { return conn }

// Protocol is the version of HTTP.
func (conn *Conn) Protocol() string { return "HTTP/1.1" }

// Sent implements Stream.
func (conn *Conn) Sent() bool { return conn.call.sent }

// Send implements Stream.
func (conn *Conn) Send(h *message.Head, e *message.Edit, content []byte, whole bool) {
	k, a := &conn.call, conn.Host.cluster.memory()
	conn.Requests++
	k.method, k.whole = h.Method, whole
	k.upgrading = h.Protocol.End > h.Protocol.Start || h.Method == message.MethodConnect
	framing := requestFraming(h, len(content), whole)
	k.chunked = framing.Kind == http1.Chunked
	if k.upgrading {
		k.chunked, framing = false, http1.Framing{}
	}
	a.scratch = http1.AppendRequest(a.scratch[:0], h, e, framing)
	if k.chunked {
		a.scratch = appendChunk(a.scratch, content)
		if whole {
			a.scratch = http1.AppendLastChunk(a.scratch, nil)
		}
	} else {
		a.scratch = append(a.scratch, content...)
	}
	conn.write(a.scratch)
}

// requestFraming is how the content of a request is delimited, of which n bytes are at hand.
func requestFraming(h *message.Head, n int, whole bool) http1.Framing {
	switch {
	case h.ContentLength > 0:
		return http1.Framing{Kind: http1.Length, Length: h.ContentLength}
	case h.ContentLength == 0 || whole && n == 0:
		return http1.Framing{}
	}
	return http1.Framing{Kind: http1.Chunked}
}

func appendChunk(dst, content []byte) []byte {
	if len(content) == 0 {
		return dst
	}
	dst = http1.AppendChunkSize(dst, len(content))
	dst = append(dst, content...)
	return append(dst, "\r\n"...)
}

// SendContent implements Stream.
func (conn *Conn) SendContent(p loop.Piece, whole bool) {
	k := &conn.call
	k.whole = k.whole || whole
	if k.raw {
		if p.Len() > 0 {
			conn.write(p.Bytes())
		}
		if whole {
			conn.endRaw()
		}
		return
	}
	if k.chunked {
		conn.writeChunk(p, whole)
		return
	}
	if p.Len() > 0 {
		conn.write(p.Bytes())
	}
}

// writeChunk writes content as a chunk, around it where there is room.
func (conn *Conn) writeChunk(p loop.Piece, whole bool) {
	const around = 24
	switch {
	case p.Len() == 0:
	case p.From >= around && cap(p.Buf)-p.To >= around:
		buf := p.Buf[:cap(p.Buf)]
		from, to := http1.WrapChunk(buf, p.From, p.To)
		if whole {
			to += copy(buf[to:], "0\r\n\r\n")
		}
		conn.write(buf[from:to])
		return
	default:
		a := conn.Host.cluster.memory()
		a.scratch = appendChunk(a.scratch[:0], p.Bytes())
		conn.write(a.scratch)
	}
	if whole {
		conn.write([]byte("0\r\n\r\n"))
	}
}

// SendTrailers implements Stream.
func (conn *Conn) SendTrailers(t *message.Fields) {
	k, a := &conn.call, conn.Host.cluster.memory()
	k.whole = true
	if k.chunked {
		a.scratch = http1.AppendLastChunk(a.scratch[:0], t)
		conn.write(a.scratch)
	}
}

// write sends p, or keeps what the kernel does not take.
func (conn *Conn) write(p []byte) {
	k, l := &conn.call, conn.Host.cluster.loop
	switch {
	case k.failed: // the rest is dropped
		return
	case len(k.out) > 0:
		k.out = append(l.Grow(k.out, len(p)), p...)
		return
	}
	n, err := conn.Write(p)
	k.count(conn, n)
	if err == nil {
		return
	}
	if !errors.Is(err, syscall.EAGAIN) {
		conn.writeBroken()
		return
	}
	k.out = append(l.Buffer(len(p)-n), p[n:]...)
}

func (k *call) count(conn *Conn, n int) {
	k.sent = k.sent || n > 0
	conn.Host.cluster.Stats.Count[ConnTxBytes] += uint64(n)
}

// writeBroken handles a host that takes no more. It may have answered before it closed; that is read when nobody is on the
// stack who reads himself.
func (conn *Conn) writeBroken() {
	k := &conn.call
	k.failed, k.keep = true, false
	k.readable, k.hup = true, true
	conn.Host.cluster.loop.Release(k.out)
	k.out, k.outAt = nil, 0
	conn.Again()
}

// flush sends what waits.
func (conn *Conn) flush() {
	k := &conn.call
	n, err := conn.Write(k.out[k.outAt:])
	k.outAt += n
	k.count(conn, n)
	if err != nil {
		if !errors.Is(err, syscall.EAGAIN) {
			conn.writeBroken()
		}
		return
	}
	conn.Host.cluster.loop.Release(k.out)
	k.out, k.outAt = nil, 0
	if k.raw && k.whole {
		conn.CloseWrite()
	}
	if k.congested {
		k.congested = false
		k.recv.Writable()
	}
}

// Congested implements Stream.
func (conn *Conn) Congested() bool {
	k := &conn.call
	k.congested = len(k.out) > 0
	return k.congested
}

// endRaw tells the host that nothing more comes.
func (conn *Conn) endRaw() {
	if len(conn.call.out) == 0 && !conn.call.failed {
		conn.CloseWrite()
	}
}

// callReady takes the events of a connection that carries a call.
func (conn *Conn) callReady(e loop.Event) {
	k := &conn.call
	if e&(loop.In|loop.Hup|loop.Err) != 0 {
		k.readable = true
		k.hup = k.hup || e&(loop.Hup|loop.Err) != 0
	}
	if e&loop.Out != 0 && len(k.out) > 0 {
		r := k.recv
		conn.flush()
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
	accepted := k.upgrading && (h.Status == 101 || k.method == message.MethodConnect && h.Status/100 == 2)
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

func (conn *Conn) malformed() { conn.cut(CutMalformed) }

// cut closes the connection and tells the receiver.
func (conn *Conn) cut(kind CutKind) {
	k := &conn.call
	r, c := k.recv, Cut{Kind: kind, Silent: !k.seen, Unsent: !k.sent}
	conn.Discard()
	r.Cut(c)
}

// Done implements Stream.
func (conn *Conn) Done() {
	k := &conn.call
	if k.keep && k.whole && k.answer.Done() && len(k.out) == 0 && len(k.in) == 0 && !k.hup && !k.readable && !k.failed {
		conn.endCall()
		conn.Release()
		return
	}
	conn.Discard()
}

// Drop implements Stream.
func (conn *Conn) Drop() { conn.Discard() }

// endCall forgets the call.
func (conn *Conn) endCall() {
	k, c := &conn.call, conn.Host.cluster
	c.loop.Release(k.out)
	c.loop.Release(k.in)
	c.memory().GiveHead(k.head)
	c.memory().GiveHead(k.tail)
	if k.waiter != nil {
		k.waiter.conn = nil
	}
	*k = call{}
}
