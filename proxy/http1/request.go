package http1

import "bytes"

// Request is the head of a request. Reset it before each head.
//
// Its byte slices point into the bytes last given to Parse and are valid as long as those are.
type Request struct {
	head

	Method     Method
	MethodName []byte
	Target     []byte // as received
	// Authority is whom the request is for: that of an absolute-form target, else Host. Empty only in HTTP/1.0.
	Authority []byte
	Path      []byte // starts with '/', or is "*"; percent-encoding as received
	Query     []byte // without '?'
	HasQuery  bool   // there was a '?'

	absolute bool
	line     struct{ method, target, targetEnd int }
}

// Reset makes r ready for a head; it keeps r's arrays.
func (r *Request) Reset() {
	*r = Request{head: r.head}
	r.head.reset()
}

// Parse reads a head at the start of buf and returns its length, 0 when more bytes are needed. It then is called again with
// the same bytes, at the same or another place, followed by more; what was parsed is not parsed again. A non-nil error is
// an [Error].
func (r *Request) Parse(buf []byte, limits Limits) (n int, err error) {
	l := limits.orDefaults()
	for !r.started {
		start, end, ok, err := r.head.line(buf, l.HeadBytes)
		if err != nil || !ok {
			return 0, err
		}
		if start == end && start == 0 {
			continue // RFC 9112 section 2.2: one empty line before a request is tolerated
		}
		if err := r.requestLine(buf, start, end); err != 0 {
			return 0, lineError(buf[start:end], err)
		}
		r.started = true
	}
	done, err := r.parseFields(buf, l)
	if err != nil || !done {
		return 0, err
	}
	if err := r.finish(buf[:r.pos:r.pos]); err != nil {
		return 0, err
	}
	return r.pos, nil
}

// requestLine parses 'method SP target SP version'.
func (r *Request) requestLine(buf []byte, start, end int) Error {
	line := buf[start:end]
	first := bytes.IndexByte(line, ' ')
	last := bytes.LastIndexByte(line, ' ')
	if first <= 0 || first == last {
		return ErrRequestLine
	}
	method, target := line[:first], line[first+1:last]
	switch {
	case !all(method, isToken):
		return ErrMethod
	case len(method) > maxMethod:
		return ErrMethodTooLong
	case string(line) == "PRI * HTTP/2.0":
		return ErrHTTP2Preface
	case len(target) == 0 || bytes.IndexByte(target, ' ') >= 0:
		return ErrRequestLine
	case !all(target, isTarget):
		return ErrTarget
	}
	http10, err := version(line[last+1:])
	if err != 0 {
		return err
	}
	r.http10 = http10
	r.Method = ParseMethod(method)
	r.line.method, r.line.target, r.line.targetEnd = start, start+first+1, start+last
	return 0
}

// version parses "HTTP/1.1" or "HTTP/1.0".
func version(b []byte) (http10 bool, err Error) {
	if len(b) != 8 || string(b[:5]) != "HTTP/" || b[6] != '.' || !digit(b[5]) || !digit(b[7]) {
		return false, ErrVersion
	}
	if b[5] != '1' || b[7] > '1' {
		return false, ErrVersionUnsupported
	}
	return b[7] == '0', 0
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// finish sets the slices and checks what needs the whole head.
func (r *Request) finish(buf []byte) error {
	r.buf = buf
	first := r.line.method
	r.MethodName = buf[first : r.line.target-1]
	r.Target = buf[r.line.target:r.line.targetEnd:r.line.targetEnd]
	if err := r.host(); err != nil {
		return err
	}
	if err := r.splitTarget(); err != nil {
		return err
	}
	if err := r.head.finish(buf); err != nil {
		return err
	}
	if r.Method == MethodTrace && (r.chunked || r.length > 0) {
		return ErrTraceBody
	}
	if r.http10 {
		r.upgrade = false
	}
	if r.first[Upgrade] == 0 {
		r.upgrade = false
	}
	if r.upgrade && (r.Count(Upgrade) > 1 || r.chunked || r.length > 0) {
		return ErrUpgrade
	}
	return r.expect()
}

func (r *Request) host() error {
	if r.first[Host] == 0 {
		if r.http10 {
			return nil
		}
		return ErrHostMissing
	}
	r.Authority = r.Known(Host)
	if !validAuthority(r.Authority, false) {
		return ErrHost
	}
	return nil
}

func (r *Request) expect() error {
	if r.http10 || r.first[Expect] == 0 {
		return nil // RFC 9110 section 10.1.1: ignored in HTTP/1.0
	}
	if r.Count(Expect) > 1 || !equalFold(r.Known(Expect), "100-continue") {
		return ErrExpect
	}
	return nil
}

// HTTP10 reports whether the request was made in HTTP/1.0.
func (r *Request) HTTP10() bool { return r.http10 }

// KeepAlive reports whether the client wants to keep the connection (RFC 9112 section 9.3).
func (r *Request) KeepAlive() bool {
	return !r.close && (!r.http10 || r.keepAlive)
}

// Upgrading returns the protocols that the client wants to change to, nil when it does not. Such a request has no body.
func (r *Request) Upgrading() []byte {
	if !r.upgrade {
		return nil
	}
	return r.Known(Upgrade)
}

// Expects100 reports whether the client waits for a 100 response before it sends the body.
func (r *Request) Expects100() bool {
	return !r.http10 && r.first[Expect] != 0 && (r.chunked || r.length > 0)
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
