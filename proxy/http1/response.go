package http1

// Response is the head of a response. Reset it before each head.
//
// Its byte slices point into the bytes last given to Parse and are valid as long as those are.
type Response struct {
	head

	Status int // 100 to 599
	line   struct{ start, end int }
}

// Reset makes r ready for a head; it keeps r's arrays.
func (r *Response) Reset() {
	*r = Response{head: r.head}
	r.head.reset()
}

// Parse reads a head at the start of buf, as [Request.Parse] does. No empty line is tolerated before it.
func (r *Response) Parse(buf []byte, limits Limits) (n int, err error) {
	l := limits.orDefaults()
	if !r.started {
		start, end, ok, err := r.head.line(buf, l.HeadBytes)
		if err != nil || !ok {
			return 0, err
		}
		if err := r.statusLine(buf, start, end); err != 0 {
			return 0, lineError(buf[start:end], err)
		}
		r.started = true
	}
	done, err := r.parseFields(buf, l)
	if err != nil || !done {
		return 0, err
	}
	r.buf = buf[:r.pos:r.pos]
	if err := r.head.finish(r.buf); err != nil {
		return 0, err
	}
	if r.Status < 200 || r.Status == 204 {
		switch { // RFC 9112 section 6.1, RFC 9110 section 8.6: not with these; "Content-Length: 0" is common and harmless
		case r.chunked:
			return 0, ErrCoding
		case r.length > 0:
			return 0, ErrLength
		}
	}
	return r.pos, nil
}

// statusLine parses 'version SP status SP [reason]'. That the second space is missing when the reason is, is common and
// cannot be misread.
func (r *Response) statusLine(buf []byte, start, end int) Error {
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
	if len(line) > 12 && (line[12] != ' ' || !validValue(line[13:])) {
		return ErrStatusLine
	}
	r.http10 = http10
	r.Status = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
	r.line.start, r.line.end = start, end
	return 0
}

// HTTP10 reports whether the response was made in HTTP/1.0.
func (r *Response) HTTP10() bool { return r.http10 }

// Reason returns the reason phrase, which may be empty.
func (r *Response) Reason() []byte {
	if r.line.end-r.line.start <= len("HTTP/1.1 200 ") {
		return nil
	}
	return r.buf[r.line.start+len("HTTP/1.1 200 ") : r.line.end]
}

// Interim reports whether another response head follows (1xx but 101).
func (r *Response) Interim() bool { return r.Status < 200 && r.Status != 101 }

// KeepAlive reports whether the upstream lets the connection be used again after the body, if the body's framing does: not
// after UntilClose.
func (r *Response) KeepAlive() bool {
	return !r.close && (!r.http10 || r.keepAlive)
}

// Framing says how the body of a response to a request of method m is delimited (RFC 9112 section 6.3).
func (r *Response) Framing(m Method) Framing {
	switch {
	case r.bodiless(m):
		return Framing{Kind: NoBody}
	case r.chunked:
		return Framing{Kind: Chunked}
	case r.length >= 0:
		if r.length == 0 {
			return Framing{Kind: NoBody}
		}
		return Framing{Kind: Length, Length: r.length}
	}
	return Framing{Kind: UntilClose}
}

// Upgrading returns the protocol that the upstream changes to, nil when this is not a well-formed 101 response.
func (r *Response) Upgrading() []byte {
	if r.Status != 101 || !r.upgrade || r.Count(Upgrade) != 1 {
		return nil
	}
	return r.Known(Upgrade)
}

// bodiless tells the responses that never have a body, whatever their fields say.
func (r *Response) bodiless(m Method) bool {
	return m == MethodHead || r.Status < 200 || r.Status == 204 || r.Status == 304
}
