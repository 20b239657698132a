package http1

import (
	"math"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// Kind is how a body is delimited.
type Kind uint8

// The kinds of framing.
const (
	NoBody Kind = iota
	Length
	Chunked
	UntilClose
)

// Framing says how a body is delimited. Length counts only for that kind and is then at least 1.
type Framing struct {
	Kind   Kind
	Length int64
}

// Body follows a body through the bytes of a connection, and takes it out of its chunks. It holds no bytes and no pointers.
type Body struct {
	kind   Kind
	state  chunkState
	done   bool
	digits uint8
	lines  uint8 // of trailers so far
	ext    uint16
	extras int32 // bytes of extensions and trailers so far
	remain int64 // of the body or of the chunk

	content uint64
}

// NewBody starts at the first byte after a head.
func NewBody(f Framing) Body {
	return Body{kind: f.Kind, remain: f.Length, done: f.Kind == NoBody}
}

// Done reports whether the body has ended; the next byte is not part of it.
func (b *Body) Done() bool { return b.done }

// Kind tells how the body is delimited.
func (b *Body) Kind() Kind { return b.kind }

// Remaining returns how many bytes of a body of known length are still to come.
func (b *Body) Remaining() int64 {
	if b.kind != Length {
		return 0
	}
	return b.remain
}

// Content returns how many bytes of content Next has advanced over.
func (b *Body) Content() uint64 { return b.content }

// Next says what to do with the first n bytes of buf: they are content, or (keep is false) to be dropped. n is 0 when the body
// has ended or more bytes are needed; buf then starts with the same bytes in the next call. Call it until it returns 0.
//
// Of a chunked body everything is validated. Its trailer fields are added to trailers, which may be nil, and depend on buf no
// longer; those that would change how the message is framed, routed or authenticated (RFC 9110 section 6.5.1) are dropped.
//
// With an error, an [Error], n is 0; what was passed on so far is a truncated message: close both connections.
func (b *Body) Next(buf []byte, trailers *message.Fields) (n int, keep bool, err error) {
	if b.done || len(buf) == 0 {
		return 0, false, nil
	}
	switch b.kind {
	case UntilClose:
		b.content += uint64(len(buf))
		return len(buf), true, nil
	case Length:
		n = int(min(b.remain, int64(len(buf))))
		b.content += uint64(n)
		b.remain -= int64(n)
		b.done = b.remain == 0
		return n, true, nil
	}
	return b.chunked(buf, trailers)
}

// End is told that the connection has ended: nil if the body may end there.
func (b *Body) End() error {
	if b.kind == UntilClose {
		b.done = true
	}
	if !b.done {
		return ErrTruncated
	}
	return nil
}

const (
	maxExtension = 256
	maxExtras    = 16 << 10
	maxTrailer   = 4 << 10
	maxTrailers  = 100
	maxChunk     = math.MaxInt64
)
