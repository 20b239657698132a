package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// h2 is HTTP/2 over plaintext with prior knowledge; each client has as many requests outstanding as streams says. Blocks of fields are
// coded once, so that the generator costs little. What the proxy does is looked at in the first exchange of each
// connection; of all later ones the status, the end and the length, which need no HPACK: 200 is one byte.
type h2 struct {
	streams           int
	request, response []byte // bodies; no request body: a GET
	ask, head, end    coded  // fields of a request, a response and, with gRPC, its trailers
	grpc              bool
	path              string
}

func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }

func newH2(streams, size int) *h2 {
	h := &h2{streams: streams, response: bytes.Repeat([]byte("x"), size), path: requestPath}
	h.ask = code([]hpack.HeaderField{
		field(":method", "GET"), field(":scheme", "http"), field(":authority", authority), field(":path", h.path),
		field("user-agent", "bench/1"), field("accept", "*/*"),
	})[0]
	h.head = code([]hpack.HeaderField{
		field(":status", "200"), field("server", "bench"), field("date", "Mon, 01 Jan 2024 00:00:00 GMT"),
		field("content-type", "application/octet-stream"), field("content-length", strconv.Itoa(size)),
	})[0]
	return h
}

// newGRPC is unary calls with messages of one size both ways.
func newGRPC(streams, size int) *h2 {
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(size)), bytes.Repeat([]byte("x"), size)...)
	h := &h2{streams: streams, request: message, response: message, grpc: true, path: "/bench.Echo/Unary"}
	h.ask = code([]hpack.HeaderField{
		field(":method", "POST"), field(":scheme", "http"), field(":path", h.path), field(":authority", authority),
		field("content-type", "application/grpc"), field("user-agent", "grpc-go/1.85.0"), field("te", "trailers"), field("grpc-timeout", "5S"),
	})[0]
	answer := code([]hpack.HeaderField{field(":status", "200"), field("content-type", "application/grpc")},
		[]hpack.HeaderField{field("grpc-status", "0"), field("grpc-message", "")})
	h.head, h.end = answer[0], answer[1]
	return h
}

func (h *h2) client() speaker {
	return &h2Client{h2: h, h2conn: newH2Conn(), next: 1, decoder: hpack.NewDecoder(tableSize, nil)}
}

func (h *h2) backend() speaker {
	return &h2Backend{h2: h, h2conn: newH2Conn(), preface: len(clientPreface)}
}

// flight is a request that is outstanding.
type flight struct {
	id   uint32
	head bool
	got  int
}

type h2Client struct {
	*h2
	h2conn
	next    uint32 // stream
	sent    int
	flights []flight
	short   int            // requests that wait for the connection's window
	decoder *hpack.Decoder // until the first exchange was looked at
}

// greet opens the connection; requests follow when the proxy has said what it takes.
func (c *h2Client) greet(l *load, e *end) error {
	e.out = appendGreeting(append(e.out, clientPreface...))
	return l.flush(e)
}

// ask fills the connection up to its streams.
func (c *h2Client) ask(l *load, e *end) error {
	for len(c.flights)+c.short < c.streams {
		c.open(e)
	}
	return l.flush(e)
}

func (c *h2Client) open(e *end) {
	if c.window < len(c.request) {
		c.short++
		return
	}
	b := c.h2.ask.of(&c.h2conn, c.sent)
	flags := byte(flagEndHeaders)
	if len(c.request) == 0 {
		flags |= flagEndStream
	}
	e.out = append(appendFrameHead(e.out, len(b), frameHeaders, flags, c.next), b...)
	if len(c.request) > 0 {
		e.out = append(appendFrameHead(e.out, len(c.request), frameData, flagEndStream, c.next), c.request...)
		c.window -= len(c.request)
	}
	c.flights = append(c.flights, flight{id: c.next})
	c.next += 2
	c.sent++
}

func (c *h2Client) take(l *load, e *end, b []byte) error {
	settled := c.settled
	if err := c.frames(e, b, func(e *end, kind, flags byte, id uint32, payload []byte) error {
		return c.stream(l, e, kind, flags, id, payload)
	}); err != nil {
		return err
	}
	if !settled && c.settled {
		if int(c.most) < c.streams || int(c.initial) < len(c.request) {
			return fmt.Errorf("proxy takes %d streams with windows of %d, want %d and %d", c.most, c.initial, c.streams, len(c.request))
		}
		if err := l.next(e); err != nil {
			return err
		}
	}
	for short := c.short; short > 0; short-- {
		c.short--
		c.open(e)
	}
	return l.flush(e)
}

// stream takes a frame of an answer.
func (c *h2Client) stream(l *load, e *end, kind, flags byte, id uint32, payload []byte) error {
	at := -1
	for i := range c.flights {
		if c.flights[i].id == id {
			at = i
		}
	}
	if at < 0 {
		if kind == frameData || kind == frameHeaders {
			return fmt.Errorf("proxy sent frame %d for stream %d, which is not open", kind, id)
		}
		return nil
	}
	f := &c.flights[at]
	switch kind {
	case frameReset:
		return fmt.Errorf("proxy reset stream %d with error %x", id, payload)
	case frameContinuation:
		return errors.New("proxy sent CONTINUATION, which the load does not read")
	case frameData:
		if flags&flagPadded != 0 {
			return errors.New("proxy padded DATA, which the load does not read")
		}
		f.got += len(payload)
	case frameHeaders:
		if err := c.fields(f, flags, payload); err != nil {
			return err
		}
		f.head = true
	default:
		return nil
	}
	if flags&flagEndStream == 0 {
		return nil
	}
	if !f.head || f.got != len(c.response) || c.grpc != (kind == frameHeaders) {
		return fmt.Errorf("proxy ended stream %d by frame %d after %d bytes, want %d", id, kind, f.got, len(c.response))
	}
	c.flights[at] = c.flights[len(c.flights)-1]
	c.flights = c.flights[:len(c.flights)-1]
	c.decoder = nil
	l.answered(e)
	c.open(e)
	return nil
}

// fields looks at the head or the trailers of an answer.
func (c *h2Client) fields(f *flight, flags byte, payload []byte) error {
	b, err := block(flags, payload)
	if err != nil {
		return err
	}
	if c.decoder != nil {
		fields, err := c.decoder.DecodeFull(b)
		if err != nil {
			return fmt.Errorf("decode the proxy's fields %x: %w", b, err)
		}
		text, want := fieldsText(fields), "\n:status: 200\n"
		if f.head {
			want = "\ngrpc-status: 0\n"
		}
		if !strings.Contains(text, want) {
			return fmt.Errorf("proxy answered %q", text)
		}
		return nil
	}
	for len(b) > 0 && b[0]&0xe0 == 0x20 { // a new size of the table may come first, in one byte or more
		more := b[0] == 0x3f
		for b = b[1:]; more && len(b) > 0; b = b[1:] {
			more = b[0]&0x80 != 0
		}
	}
	if !f.head && (len(b) == 0 || b[0] != 0x88) {
		return fmt.Errorf("proxy answered another status than 200, or not in the short form: fields %x", b)
	}
	return nil
}

type h2Backend struct {
	*h2
	h2conn
	preface int // bytes of it still to come
	greeted bool
	checked bool // the first request was looked at
	sent    int
	waiting []uint32 // streams whose answer waits for the connection's window
}

func (s *h2Backend) take(l *load, e *end, b []byte) error {
	if s.preface > 0 {
		n := min(s.preface, len(b))
		at := len(clientPreface) - s.preface
		if string(b[:n]) != clientPreface[at:at+n] {
			return fmt.Errorf("proxy opened an HTTP/2 connection with %q", b[:n])
		}
		s.preface -= n
		b = b[n:]
	}
	if !s.greeted {
		s.greeted = true
		e.out = appendGreeting(e.out)
	}
	if err := s.frames(e, b, s.stream); err != nil {
		return err
	}
	for len(s.waiting) > 0 && s.window >= len(s.response) {
		s.answer(e, s.waiting[0])
		s.waiting = append(s.waiting[:0], s.waiting[1:]...)
	}
	return l.flush(e)
}

// stream takes a frame of a request.
func (s *h2Backend) stream(e *end, kind, flags byte, id uint32, payload []byte) error {
	switch kind {
	case frameHeaders:
		b, err := block(flags, payload)
		if err != nil {
			return err
		}
		if !s.checked {
			if err := s.check(b); err != nil {
				return err
			}
			s.checked = true
		}
	case frameData:
	default:
		return nil
	}
	if flags&flagEndStream == 0 {
		return nil
	}
	if int(s.initial) < len(s.response) {
		return fmt.Errorf("proxy takes %d bytes on a stream, want %d", s.initial, len(s.response))
	}
	if len(s.waiting) > 0 || s.window < len(s.response) {
		s.waiting = append(s.waiting, id)
		return nil
	}
	s.answer(e, id)
	return nil
}

func (s *h2Backend) answer(e *end, id uint32) {
	head := s.head.of(&s.h2conn, s.sent)
	e.out = append(appendFrameHead(e.out, len(head), frameHeaders, flagEndHeaders, id), head...)
	flags := byte(flagEndStream)
	if s.grpc {
		flags = 0
	}
	e.out = append(appendFrameHead(e.out, len(s.response), frameData, flags, id), s.response...)
	s.window -= len(s.response)
	if s.grpc {
		trailers := s.end.of(&s.h2conn, s.sent)
		if s.table < tableSize {
			trailers = s.end.plain // the head has set the table
		}
		e.out = append(appendFrameHead(e.out, len(trailers), frameHeaders, flagEndHeaders|flagEndStream, id), trailers...)
	}
	s.sent++
}

// check makes sure that a proxy does the work it is compared for.
func (s *h2Backend) check(b []byte) error {
	fields, err := hpack.NewDecoder(tableSize, nil).DecodeFull(b)
	if err != nil {
		return fmt.Errorf("decode the proxy's fields %x: %w", b, err)
	}
	text := fieldsText(fields)
	for _, want := range []string{"\n:path: " + s.path + "\n", ": " + authority + "\n", "\nx-request-id: ", "\nx-forwarded-for: "} {
		if !strings.Contains(text, want) {
			return fmt.Errorf("proxy sent no %q in %q", want, text)
		}
	}
	return nil
}
