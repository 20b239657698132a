package http1

import (
	"strconv"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// AppendRequest appends a head with what e, which may be nil, changes in it, for the next hop and in HTTP/1.1: its fields but
// those of one hop, what e sets, and the framing of the body said anew. h may have come in any version of HTTP.
//
// A request that wants another protocol (h.Protocol) says so and has no body; what came as CONNECT with a protocol (RFC 8441) is
// written as GET. Expect is passed on unless e drops it.
func AppendRequest(dst []byte, h *message.Head, e *message.Edit, f Framing) []byte {
	if e == nil {
		e = &message.Edit{}
	}
	upgrade := h.Protocol.End > h.Protocol.Start
	connect := h.Method == message.MethodConnect
	if upgrade && connect {
		dst, connect = append(dst, "GET "...), false
	} else {
		dst = append(append(dst, h.Bytes(h.MethodText)...), ' ')
	}
	authority := e.Authority
	if authority == nil {
		authority = h.Bytes(h.Authority)
	}
	switch {
	case connect:
		dst = append(dst, authority...)
	case e.Target != nil:
		dst = append(dst, e.Target...)
	default:
		dst = appendTarget(dst, h)
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, authority...)
	dst = append(dst, "\r\n"...)

	drop := requestDrop
	if f.Kind == Chunked {
		drop = chunkedRequestDrop
	}
	dst = appendFields(dst, h, e, drop)
	switch {
	case upgrade:
		dst = appendUpgrade(dst, h)
	case connect:
	default:
		if acceptsTrailers(h) {
			dst = append(dst, "Connection: TE\r\nTE: trailers\r\n"...)
		}
		switch {
		case f.Kind == Chunked:
			dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		case f.Kind == Length:
			dst = appendLength(dst, f.Length)
		case h.ContentLength == 0:
			dst = appendLength(dst, 0)
		}
	}
	return append(dst, "\r\n"...)
}

// What a writer says itself, or does not pass on.
var (
	written             = hopByHop.Or(message.Names(message.ContentLength))
	chunkedRequestDrop  = written.Or(message.Names(message.Host))
	requestDrop         = chunkedRequestDrop.Or(message.Names(message.Trailer))
	chunkedResponseDrop = written
	responseDrop        = written.Or(message.Names(message.Trailer))
)

// appendTarget writes path and query in origin form, or "*".
func appendTarget(dst []byte, h *message.Head) []byte {
	if !h.HasQuery {
		return append(dst, h.Bytes(h.Path)...)
	}
	if h.Query.Start == h.Path.End+1 {
		return append(dst, h.Text[h.Path.Start:h.Query.End]...)
	}
	dst = append(append(dst, h.Bytes(h.Path)...), '?')
	return append(dst, h.Bytes(h.Query)...)
}

// acceptsTrailers reports whether the sender of a request welcomes trailers.
func acceptsTrailers(h *message.Head) bool {
	i := h.First(message.TE)
	if i < 0 {
		return false
	}
	for fields := h.Fields(); i < len(fields); i++ {
		if f := &fields[i]; f.Known == message.TE && !f.Hop && message.EqualFold(h.Bytes(f.Value), "trailers") {
			return true
		}
	}
	return false
}

// ResponseForm is how a response is written for the one who asked.
type ResponseForm struct {
	Framing Framing // of the body as it will be sent
	// Close says Connection: close, KeepAlive says Connection: keep-alive (to HTTP/1.0 clients). A body that ends with the
	// connection always says close.
	Close, KeepAlive bool
	HTTP10           bool // the client knows no chunks: a body in chunks becomes one that ends with the connection
}

// AppendResponse appends a head with what e, which may be nil, changes in it, for the client that made a request of method m, in
// HTTP/1.1: its fields but those of one hop, what e sets, and the framing of the body said anew. h may have come in any version
// of HTTP; without a reason the status has its usual one.
func AppendResponse(dst []byte, h *message.Head, m message.Method, e *message.Edit, f ResponseForm) []byte {
	if e == nil {
		e = &message.Edit{}
	}
	dst = appendStatus(dst, h)
	kind := f.Framing.Kind
	none := bodiless(m, h.Status)
	switch {
	case none:
		kind = NoBody
	case kind == Chunked && f.HTTP10:
		kind = UntilClose
	}
	drop := responseDrop
	if kind == Chunked {
		drop = chunkedResponseDrop
	}
	dst = appendFields(dst, h, e, drop)
	switch {
	case h.Status == 101:
		return append(appendUpgrade(dst, h), "\r\n"...)
	case h.Status < 200 || opens(m, h.Status):
		return append(dst, "\r\n"...)
	case f.Close || kind == UntilClose:
		dst = append(dst, "Connection: close\r\n"...)
	case f.KeepAlive:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	switch {
	case h.Status == 204:
	case none: // to HEAD, or 304: what a body would have been
		if h.ContentLength >= 0 {
			dst = appendLength(dst, h.ContentLength)
		}
	case kind == Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case kind == Length:
		dst = appendLength(dst, f.Framing.Length)
	case kind == NoBody:
		dst = appendLength(dst, 0)
	}
	return append(dst, "\r\n"...)
}

func appendStatus(dst []byte, h *message.Head) []byte {
	n := h.Status
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, '0'+byte(n/100), '0'+byte(n/10%10), '0'+byte(n%10), ' ')
	if h.Reason.End > h.Reason.Start {
		dst = append(dst, h.Bytes(h.Reason)...)
	} else {
		dst = append(dst, phrase(n)...)
	}
	return append(dst, "\r\n"...)
}

func appendUpgrade(dst []byte, h *message.Head) []byte {
	dst = append(dst, "Connection: Upgrade\r\nUpgrade: "...)
	dst = append(dst, h.Bytes(h.Protocol)...)
	return append(dst, "\r\n"...)
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

// appendFields writes the fields that are passed on, then those that e sets. Adjacent lines are copied at once.
func appendFields(dst []byte, h *message.Head, e *message.Edit, drop message.NameSet) []byte {
	drop = drop.Or(e.Drop)
	fields := h.Fields()
	lines, end := h.Lines()
	from, to := uint32(0), uint32(0)
	for i := range fields[:lines] {
		f := &fields[i]
		if f.Hop || f.Known != message.Other && drop.Has(f.Known) {
			continue
		}
		if f.Name.Start != to {
			dst = append(dst, h.Text[from:to]...)
			from = f.Name.Start
		}
		to = end
		if i+1 < lines {
			to = fields[i+1].Name.Start
		}
	}
	dst = append(dst, h.Text[from:to]...)
	if lines < len(fields) {
		dst = appendOthers(dst, h, lines, drop)
	}
	for i := range e.Set {
		s := &e.Set[i]
		if len(s.Name) > 0 {
			dst = append(dst, s.Name...)
		} else {
			dst = append(dst, s.Known.String()...)
		}
		dst = append(dst, ": "...)
		dst = append(dst, s.Value...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// appendOthers writes fields, from field i on, that do not stand in the head's text as lines. HTTP/2 lets a sender split its
// cookies; here they are one field again (RFC 9113 section 8.2.3).
func appendOthers(dst []byte, h *message.Head, i int, drop message.NameSet) []byte {
	fields := h.Fields()
	cookies := false
	for ; i < len(fields); i++ {
		f := &fields[i]
		if f.Hop || f.Known != message.Other && drop.Has(f.Known) || cookies && f.Known == message.Cookie {
			continue
		}
		dst = append(append(dst, h.Bytes(f.Name)...), ": "...)
		dst = append(dst, h.Bytes(f.Value)...)
		if f.Known == message.Cookie {
			cookies = true
			for j := i + 1; j < len(fields); j++ {
				if f := &fields[j]; f.Known == message.Cookie && !f.Hop {
					dst = append(append(dst, "; "...), h.Bytes(f.Value)...)
				}
			}
		}
		dst = append(dst, "\r\n"...)
	}
	return dst
}
