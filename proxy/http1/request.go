package http1

import (
	"bytes"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// Request is the state of reading the head of a request. Reset it before each head. It holds no pointers.
type Request struct {
	state

	expects bool // Expect: 100-continue
}

// Reset makes r ready for a head.
func (r *Request) Reset() { *r = Request{} }

// Parse reads a head at the start of buf into h and returns its length, 0 when more bytes are needed. It then is called again with
// the same bytes, at the same or another place, followed by more, and the same h; what was parsed is not parsed again. Of h
// nothing may be read until it is complete; then it depends on buf no longer. A non-nil error is an [Error], and leaves h empty.
//
// h.Authority is whom the request is for: that of a target in absolute form or of CONNECT, else Host; empty only in HTTP/1.0.
// h.Path starts with '/', or is "*", or is empty for CONNECT; its percent-encoding is as received. h.Protocol is the value of
// Upgrade when the client wants to change to another protocol (RFC 9110 section 7.8); such a request has no body. The offer to go on
// in HTTP/2 (h2c), which many clients make with every first request, is not taken, and the request is what it is without it.
func (r *Request) Parse(buf []byte, h *message.Head, l Limits) (n int, err error) {
	r.begin(h)
	done, err := r.parse(buf, h, l.orDefaults())
	switch {
	case err != nil:
		h.Reset()
		return 0, err
	case !done:
		return 0, nil
	}
	return int(r.pos), nil
}

func (r *Request) parse(buf []byte, h *message.Head, l Limits) (done bool, err error) {
	for !r.started {
		start, end, ok, err := r.line(buf, l.HeadBytes)
		if err != nil || !ok {
			return false, err
		}
		if start == end && start == 0 {
			continue // RFC 9112 section 2.2: one empty line before a request is tolerated
		}
		if err := r.requestLine(buf, h, start, end); err != 0 {
			return false, lineError(buf[start:end], err)
		}
		r.started = true
	}
	if done, err := r.fields(buf, h, l); err != nil || !done {
		return false, err
	}
	r.take(buf, h)
	return true, r.finish(h)
}

// requestLine parses 'method SP target SP version'. The target is kept in h.Path until the head is complete.
func (r *Request) requestLine(buf []byte, h *message.Head, start, end int) Error {
	line := buf[start:end]
	first := bytes.IndexByte(line, ' ')
	last := bytes.LastIndexByte(line, ' ')
	if first <= 0 || first == last {
		return ErrRequestLine
	}
	method, target := line[:first], line[first+1:last]
	switch {
	case !message.ValidToken(method):
		return ErrMethod
	case len(method) > maxMethod:
		return ErrMethodTooLong
	case string(line) == "PRI * HTTP/2.0":
		return ErrHTTP2Preface
	case len(target) == 0 || bytes.IndexByte(target, ' ') >= 0:
		return ErrRequestLine
	case !message.ValidTarget(target):
		return ErrTarget
	}
	http10, err := version(line[last+1:])
	if err != 0 {
		return err
	}
	r.http10 = http10
	h.Method = message.ParseMethod(method)
	h.MethodText = message.Span{Start: uint32(start), End: uint32(start + first)}
	h.Path = message.Span{Start: uint32(start + first + 1), End: uint32(start + last)}
	return 0
}

// finish checks what needs the whole head.
func (r *Request) finish(h *message.Head) error {
	if err := r.host(h); err != nil {
		return err
	}
	if err := splitTarget(h); err != nil {
		return err
	}
	if err := r.state.finish(h); err != nil {
		return err
	}
	body := r.chunked || r.length > 0
	switch {
	case h.Method == message.MethodTrace && body:
		return ErrTraceBody
	case h.Method == message.MethodConnect && (r.chunked || r.length >= 0):
		return ErrConnect
	}
	protocol, count := r.protocol(h)
	if count == 1 && h.Method != message.MethodConnect && message.EqualFold(h.Bytes(protocol), "h2c") {
		protocol, count = message.Span{}, 0
	}
	if count > 1 || count == 1 && (body || h.Method == message.MethodConnect) {
		return ErrUpgrade
	}
	h.Protocol = protocol
	r.trailers(h)
	return r.expect(h)
}

func (r *Request) host(h *message.Head) error {
	i := h.First(message.Host)
	if i < 0 {
		if r.http10 {
			return nil
		}
		return ErrHostMissing
	}
	h.Authority = h.Field(i).Value
	if !message.ValidAuthority(h.Bytes(h.Authority), false) {
		return ErrHost
	}
	return nil
}

// trailers shows that trailers are welcome, which every hop says for itself: then TE has that value and no other.
func (r *Request) trailers(h *message.Head) {
	i := h.First(message.TE)
	if i < 0 || r.http10 {
		return
	}
	for fields := h.Fields(); i < len(fields); i++ {
		if f := &fields[i]; f.Known == message.TE && message.EqualFold(h.Bytes(f.Value), "trailers") {
			f.Hop = false
		}
	}
}

func (r *Request) expect(h *message.Head) error {
	i := h.First(message.Expect)
	if i < 0 {
		return nil
	}
	if r.http10 { // RFC 9110 section 10.1.1: ignored, and not passed on as if HTTP/1.1 had been spoken
		h.Hide(h.Bytes(h.Field(i).Name))
		return nil
	}
	if h.Count(message.Expect) > 1 || !message.EqualFold(h.Known(message.Expect), "100-continue") {
		return ErrExpect
	}
	r.expects = true
	return nil
}

// HTTP10 reports whether the request was made in HTTP/1.0.
func (r *Request) HTTP10() bool { return r.http10 }

// KeepAlive reports whether the client wants to keep the connection (RFC 9112 section 9.3).
func (r *Request) KeepAlive() bool { return r.persists() }

// Expects100 reports whether the client waits for a 100 response before it sends the body.
func (r *Request) Expects100() bool {
	return r.expects && (r.chunked || r.length > 0)
}

// Framing says how the body is delimited (RFC 9112 section 6.3).
func (r *Request) Framing() Framing {
	switch {
	case r.chunked:
		return Framing{Kind: Chunked}
	case r.length > 0:
		return Framing{Kind: Length, Length: r.length}
	}
	return Framing{Kind: NoBody}
}

// splitTarget finds authority, path and query of the four forms of a target (RFC 9112 section 3.2), which stands in h.Path.
func splitTarget(h *message.Head) error {
	target := h.Path
	t := h.Bytes(target)
	switch {
	case h.Method == message.MethodConnect:
		if !message.ValidAuthority(t, true) {
			return ErrAuthority
		}
		h.Authority, h.Path = target, message.Span{}
		return nil
	case t[0] == '/':
		h.SetPath(target)
		return nil
	case len(t) == 1 && t[0] == '*':
		if h.Method != message.MethodOptions {
			return ErrTarget
		}
		return nil
	}
	return splitAbsolute(h, target)
}

// splitAbsolute splits a target in absolute form. Its authority replaces Host (RFC 9112 section 3.2.2).
func splitAbsolute(h *message.Head, target message.Span) error {
	t := h.Bytes(target)
	switch {
	case message.HasPrefixFold(t, "http://"):
		h.Scheme = message.Span{Start: target.Start, End: target.Start + uint32(len("http"))}
	case message.HasPrefixFold(t, "https://"):
		h.Scheme = message.Span{Start: target.Start, End: target.Start + uint32(len("https"))}
	default:
		return ErrTarget
	}
	start := h.Scheme.End + uint32(len("://"))
	rest := message.Span{Start: target.End, End: target.End}
	if i := bytes.IndexAny(h.Text[start:target.End], "/?"); i >= 0 {
		rest.Start = start + uint32(i)
	}
	h.Authority = message.Span{Start: start, End: rest.Start}
	if !message.ValidAuthority(h.Bytes(h.Authority), false) {
		return ErrAuthority
	}
	h.SetPath(rest)
	switch {
	case h.Path.End > h.Path.Start:
	case h.Method == message.MethodOptions && !h.HasQuery:
		h.Path = h.Put("*") // RFC 9112 section 3.2.4: it asks for the server as a whole
	default:
		h.Path = h.Put("/")
	}
	return nil
}
