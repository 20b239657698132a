package upstream

import (
	"crypto/tls"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/mux"
)

// Stream is one request on a connection to a host and its response, whatever version of HTTP they are in. It belongs to the
// receiver that opened it until Done or Drop.
type Stream interface {
	// Send sends the head, with what e changes in it, and the content that is at hand; whole tells that this is all of it.
	Send(h *message.Head, e *message.Edit, content []byte, whole bool)
	// SendContent sends content, SendTrailers the end of the request. What cannot be sent yet is kept, so nothing more should
	// be sent while the stream is congested.
	SendContent(p loop.Piece, whole bool)
	SendTrailers(t *message.Fields)
	// Congested reports whether what was sent waits here. If so Writable is called when it does not.
	Congested() bool
	// Sent reports whether the host may have seen anything of the request.
	Sent() bool
	// Pull asks for the response to go on after a Content that wanted no more.
	Pull()
	// Done gives the stream back when the response is complete. Its connection is used again if that is possible.
	Done()
	// Drop gives the request up: the host sees that.
	Drop()
	// Connection is the connection, which other streams may use as well.
	Connection() *Conn
	// Protocol is the version of HTTP as access logs tell it.
	Protocol() string
}

// Receiver is a request that waits for a stream, and for its response. It is called on the loop; what it is given is valid during
// the call. It may call Done or Drop at any time.
type Receiver interface {
	waiting
	// Connected is called once when Open had to connect: the stream is there, or err says why not (a syscall.Errno, ETIMEDOUT
	// after the connect timeout).
	Connected(s Stream, err error)
	// Head tells a response, informational or final. end: it has no content.
	Head(h *message.Head, end bool)
	// Content tells content, and whether it is the last. If more is false nothing else is told before Pull.
	Content(p loop.Piece, end bool) (more bool)
	// Trailers ends the response.
	Trailers(t *message.Fields)
	// Cut tells that the response will not be complete. The stream is gone.
	Cut(c Cut)
	// Writable is told when a stream that was congested is so no more.
	Writable()
}

// Cut is why a response is not complete.
type Cut struct {
	Kind   CutKind
	Silent bool // nothing of a response was seen
	Unsent bool // the host has not processed anything of the request
	Lost   bool // the connection is gone, and not the stream alone
}

// CutKind is how a response was cut off.
type CutKind uint8

// The kinds.
const (
	CutClosed    CutKind = iota // the host closed the connection in good order
	CutReset                    // it reset the stream, or the connection
	CutRefused                  // it refused the stream: the request was not processed
	CutMalformed                // what it sent is no response, or broke the rules of the connection
)

// Arena is memory that the clusters of one loop share.
type Arena struct {
	mux.Arena
	heads   []*message.Head
	scratch []byte
	calls   []*muxCall
}

// Head returns an empty head; GiveHead, which takes nil too, gives it back.
func (a *Arena) Head() *message.Head {
	if n := len(a.heads); n > 0 {
		h := a.heads[n-1]
		a.heads = a.heads[:n-1]
		h.Reset()
		return h
	}
	h := new(message.Head)
	h.Reset()
	return h
}

// trim gives up a scratch buffer that an unusual message made large.
func (a *Arena) trim() {
	if cap(a.scratch) > keptScratch {
		a.scratch = nil
	}
}

const (
	keptScratch  = 256 << 10
	keptHeads    = 256
	keptHeadText = 16 << 10
)

// GiveHead takes a head of Head back.
func (a *Arena) GiveHead(h *message.Head) {
	if h != nil && len(a.heads) < keptHeads && cap(h.Text) <= keptHeadText {
		a.heads = append(a.heads, h)
	}
}

// memory is what the loop's clusters share.
func (c *Cluster) memory() *Arena {
	if c.arena == nil {
		c.arena = new(Arena)
	}
	return c.arena
}

// UseArena gives the cluster the memory of its loop; without it has its own.
func (c *Cluster) UseArena(a *Arena) { c.arena = a }

// Origination returns how TLS is begun with an endpoint, nil for plaintext. use is what the connection is for.
type Origination func(e *config.Endpoint, use Use) *tls.Config

// Use is what a connection is for.
type Use uint8

// The uses.
const (
	ForBytes Use = iota
	ForHTTP1
	ForHTTP2
	ForHTTP // either version: what ALPN says
)

// Originate has connections that open from now on begin as o says.
// judge tells as which counter a failed handshake counts; nil: as none.
func (c *Cluster) Originate(o Origination, judge func(error) Counter) {
	c.origination, c.judge = o, judge
}

// Open gets a stream to h for r: one on a connection that is there, or (nil and no error) on one that begins to open, and r will
// be told by Connected. The error is ErrWait, ErrOverflow, or that of the system call that opens sockets. Until r has its
// stream, Forget takes it out. client is what the request's client speaks, for clusters that go by it.
func (c *Cluster) Open(h *Host, r Receiver, w *Waiter, want Want, client config.Protocol) (Stream, error) {
	use := ForHTTP1
	switch p := c.cfg.Protocol; {
	case p == config.ProtocolHTTP2, p == config.ProtocolDownstream && client == config.ProtocolHTTP2:
		return c.openMux(h, r, w)
	case p == config.ProtocolAuto:
		use = ForHTTP
		if k := c.reuseMux(h, r); k != nil {
			return k, nil
		}
	}
	conn, reused, err := c.acquire(h, w, r, want, use)
	if err != nil {
		return nil, err
	}
	conn.call.begin(r)
	if reused {
		return conn, nil
	}
	conn.call.waiter, w.conn = w, conn
	return nil, nil
}

// Forget takes out a receiver that waits for its stream.
func (c *Cluster) Forget(w *Waiter) {
	c.Dequeue(w)
	conn := w.conn
	if conn == nil {
		return
	}
	w.conn = nil
	if conn.mux != nil {
		conn.mux.forget(w)
		return
	}
	conn.Discard()
}
