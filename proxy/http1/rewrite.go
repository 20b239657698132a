package http1

import "strconv"

// Rewrite says how a request head is changed on its way. The zero value changes only what every proxy must.
type Rewrite struct {
	Path    []byte  // replaces path and query, e.g. normalised; nil: as received
	Host    []byte  // replaces the authority; nil: as received
	Drop    NameSet // fields not to pass on, because Extra sets them
	Extra   []byte  // complete field lines, each with its CRLF
	Upgrade bool    // pass the client's wish to change the protocol on
	// Continue passes Expect: 100-continue on; else the proxy has answered it.
	Continue bool
}

// AppendHead appends the head to send upstream, in HTTP/1.1: the fields as they were written but those of this hop, with Host
// from the request's authority and the framing of the body said anew.
func (r *Request) AppendHead(dst []byte, w *Rewrite) []byte {
	dst = append(dst, r.MethodName...)
	dst = append(dst, ' ')
	switch {
	case w.Path != nil:
		dst = append(dst, w.Path...)
	default:
		dst = r.appendPath(dst)
	}
	host := w.Host
	if host == nil {
		host = r.Authority
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, host...)
	dst = append(dst, "\r\n"...)

	drop := w.Drop | Names(Host, ContentLength)
	if !w.Continue || r.http10 {
		drop |= Names(Expect)
	}
	if !r.chunked {
		drop |= Names(Trailer)
	}
	dst = r.appendFields(dst, drop)
	dst = append(dst, w.Extra...)
	dst = r.appendOptions(dst, w.Upgrade && r.upgrade)
	switch {
	case r.chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case r.length >= 0:
		dst = appendLength(dst, r.length)
	}
	return append(dst, "\r\n"...)
}

// appendPath writes path and query in origin form, or "*".
func (r *Request) appendPath(dst []byte) []byte {
	if !r.absolute {
		return append(dst, r.Target...)
	}
	if r.Method == MethodOptions && !r.HasQuery && &r.Path[0] != &r.Target[len(r.Target)-len(r.Path)] {
		return append(dst, '*') // RFC 9112 section 3.2.4: an absolute form without a path
	}
	dst = append(dst, r.Path...)
	if r.HasQuery {
		dst = append(dst, '?')
		dst = append(dst, r.Query...)
	}
	return dst
}

// appendOptions writes what this hop says about the connection to the next: an upgrade, and that trailers are welcome.
func (r *Request) appendOptions(dst []byte, upgrade bool) []byte {
	if upgrade {
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: "...)
		dst = append(dst, r.Known(Upgrade)...)
		return append(dst, "\r\n"...)
	}
	if r.acceptsTrailers() {
		dst = append(dst, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	return dst
}

func (r *Request) acceptsTrailers() bool {
	if r.first[TE] == 0 || r.http10 {
		return false
	}
	for _, f := range r.fields {
		if f.Name == TE && equalFold(r.buf[f.value:f.valueEnd], "trailers") {
			return true
		}
	}
	return false
}

// ResponseRewrite says how a response head is changed on its way.
type ResponseRewrite struct {
	Drop  NameSet // fields not to pass on, because Extra sets them
	Extra []byte  // complete field lines, each with its CRLF
	// Close says Connection: close, KeepAlive says Connection: keep-alive (to HTTP/1.0 clients).
	Close, KeepAlive bool
	// Unwrap leaves Transfer-Encoding out: the body is taken out of its chunks for an HTTP/1.0 client and ends with the
	// connection, so Close must be set.
	Unwrap bool
	// Chunk says that the proxy puts the body, which only the end of the connection delimits, into chunks.
	Chunk bool
}

// AppendHead appends the head to send to the client that made a request of method m.
func (r *Response) AppendHead(dst []byte, m Method, w *ResponseRewrite) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, r.buf[r.line.start+len("HTTP/1.1 "):r.line.end]...)
	if r.line.end-r.line.start == len("HTTP/1.1 200") {
		dst = append(dst, ' ')
	}
	dst = append(dst, "\r\n"...)

	drop := w.Drop | Names(ContentLength)
	chunked := r.chunked && r.Status >= 200 && r.Status != 204 && !w.Unwrap
	if !chunked {
		drop |= Names(Trailer)
	}
	dst = r.appendFields(dst, drop)
	dst = append(dst, w.Extra...)
	switch {
	case r.Status == 101:
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: "...)
		dst = append(dst, r.Known(Upgrade)...)
		dst = append(dst, "\r\n"...)
	case r.Status < 200:
	case w.Close:
		dst = append(dst, "Connection: close\r\n"...)
	case w.KeepAlive:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	switch {
	case chunked || w.Chunk && !r.bodiless(m):
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case r.length >= 0 && r.Status >= 200 && r.Status != 204:
		dst = appendLength(dst, r.length)
	}
	return append(dst, "\r\n"...)
}

// appendFields copies the fields that are passed on, adjacent ones at once.
func (h *head) appendFields(dst []byte, drop NameSet) []byte {
	from, to := uint32(0), uint32(0)
	for i := range h.fields {
		f := &h.fields[i]
		if f.Hop || f.Name != Other && drop.Has(f.Name) {
			continue
		}
		if f.line != to {
			dst = append(dst, h.buf[from:to]...)
			from = f.line
		}
		to = f.next
	}
	return append(dst, h.buf[from:to]...)
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}
