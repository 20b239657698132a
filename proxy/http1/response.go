package http1

import "github.com/hostmesh/hostmesh/proxy/message"

// Response is the state of reading the head of a response. Reset it before each head. It holds no pointers.
type Response struct {
	state

	status uint16
}

// Reset makes r ready for a head.
func (r *Response) Reset() { *r = Response{} }

// Parse reads a head at the start of buf into h, as [Request.Parse] does. No empty line is tolerated before it.
//
// h.Status is 100 to 599. h.Reason may be empty. h.Protocol is what a 101 response changes to; one without it is malformed.
func (r *Response) Parse(buf []byte, h *message.Head, l Limits) (n int, err error) {
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

func (r *Response) parse(buf []byte, h *message.Head, l Limits) (done bool, err error) {
	if !r.started {
		start, end, ok, err := r.line(buf, l.HeadBytes)
		if err != nil || !ok {
			return false, err
		}
		if err := r.statusLine(buf, h, start, end); err != 0 {
			return false, lineError(buf[start:end], err)
		}
		r.started = true
	}
	if done, err := r.fields(buf, h, l); err != nil || !done {
		return false, err
	}
	r.take(buf, h)
	if err := r.finish(h); err != nil {
		return false, err
	}
	if h.Status < 200 || h.Status == 204 {
		switch { // RFC 9112 section 6.1, RFC 9110 section 8.6: not with these; "Content-Length: 0" is common and harmless
		case r.chunked:
			return false, ErrCoding
		case r.length > 0:
			return false, ErrLength
		}
	}
	if h.Status == 101 {
		if protocol, count := r.protocol(h); count == 1 {
			h.Protocol = protocol
		}
	}
	return true, nil
}

// statusLine parses 'version SP status SP [reason]'. That the second space is missing when the reason is, is common and
// cannot be misread.
func (r *Response) statusLine(buf []byte, h *message.Head, start, end int) Error {
	line := buf[start:end]
	if len(line) < len("HTTP/1.1 200") || line[8] != ' ' {
		return ErrStatusLine
	}
	http10, err := version(line[:8])
	if err != 0 {
		return err
	}
	code := line[9:12]
	if !digit(code[0]) || !digit(code[1]) || !digit(code[2]) || code[0] < '1' || code[0] > '5' {
		return ErrStatusLine
	}
	if len(line) > 12 {
		if line[12] != ' ' || !message.ValidText(line[13:]) {
			return ErrStatusLine
		}
		h.Reason = message.Span{Start: uint32(start + 13), End: uint32(end)}
	}
	r.http10 = http10
	h.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	r.status = uint16(h.Status)
	return 0
}

// HTTP10 reports whether the response was made in HTTP/1.0.
func (r *Response) HTTP10() bool { return r.http10 }

// KeepAlive reports whether the upstream lets the connection be used again after the body, if the body's framing does: not
// after UntilClose.
func (r *Response) KeepAlive() bool { return r.persists() }

// Framing says how the body of a response to a request of method m is delimited (RFC 9112 section 6.3). What follows a 2xx
// response to CONNECT is the tunnel: it has no body.
func (r *Response) Framing(m message.Method) Framing {
	switch {
	case bodiless(m, int(r.status)):
		return Framing{Kind: NoBody}
	case r.chunked:
		return Framing{Kind: Chunked}
	case r.length > 0:
		return Framing{Kind: Length, Length: r.length}
	case r.length == 0:
		return Framing{Kind: NoBody}
	}
	return Framing{Kind: UntilClose}
}

// bodiless tells the responses that never have a body, whatever their fields say.
func bodiless(m message.Method, status int) bool {
	return m == message.MethodHead || status < 200 || status == 204 || status == 304 || opens(m, status)
}

// opens reports whether a response opens the tunnel that CONNECT asked for.
func opens(m message.Method, status int) bool {
	return m == message.MethodConnect && status >= 200 && status < 300
}
