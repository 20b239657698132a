package upstream

import (
	"errors"
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
	pipe      bool // Send opens a tunnel of bytes at once
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
	if k.pipe {
		conn.openPipe()
		return
	}
	protocol := h.Protocol.End > h.Protocol.Start
	k.upgrading = protocol || h.Method == message.MethodConnect
	if protocol && h.Method == message.MethodConnect {
		k.method = message.MethodGet // as which it is written
	}
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
	a.trim()
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
		a.trim()
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
	k.congested = len(k.out) > 0 || k.raw && k.whole && conn.Pending()
	return k.congested
}

// endRaw tells the host that nothing more comes.
func (conn *Conn) endRaw() {
	if len(conn.call.out) == 0 && !conn.call.failed {
		conn.CloseWrite()
	}
}

// cut closes the connection and tells the receiver.
func (conn *Conn) cut(kind CutKind) {
	k := &conn.call
	r, c := k.recv, Cut{Kind: kind, Silent: !k.seen, Unsent: !k.sent, Lost: true}
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
	conn.serves = false
	conn.Discard()
}

// Drop implements Stream. The host must not take the end of a tunnel that is cut off for its sender's own.
func (conn *Conn) Drop() {
	if conn.call.raw {
		conn.ResetOnClose()
	}
	conn.Discard()
}

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
