package http2

import "github.com/hostmesh/hostmesh/proxy/message"

type sectionKind uint8

const (
	requestSection sectionKind = iota
	responseSection
	trailerSection
)

// section fills a head from the fields of a section and judges them (RFC 9113 section 8).
type section struct {
	head      *message.Head
	kind      sectionKind
	bytes     int // decoded, with the overhead of each field
	fields    int
	limits    *Limits
	regular   bool // a field that is no pseudo-field was seen
	pseudo    uint8
	malformed bool
	over      bool // a limit was exceeded; from there on nothing is kept
}

func (s *section) begin(h *message.Head, kind sectionKind, l *Limits) {
	h.Reset()
	*s = section{head: h, kind: kind, limits: l}
}

// add takes a field whose text is in the head. It reports whether the text is to stay.
func (s *section) add(f message.Field, bad bool) (keep bool) {
	size := int(f.Name.End-f.Name.Start) + int(f.Value.End-f.Value.Start) + headerOverhead
	s.bytes += size
	s.fields++
	if s.bytes > s.limits.HeaderBytes || s.fields > s.limits.Fields {
		s.over = true
	}
	if bad {
		s.malformed = true
	}
	if s.over || s.malformed {
		return false
	}
	if f.Known >= message.NumNames {
		s.malformed = !s.addPseudo(f)
	} else {
		s.regular = true
		s.malformed = !s.addRegular(f)
	}
	return !s.malformed
}

func (s *section) addPseudo(f message.Field) bool {
	bit := uint8(1) << (f.Known - message.NumNames)
	if s.regular || s.pseudo&bit != 0 || (f.Known == pseudoStatus) != (s.kind == responseSection) || s.kind == trailerSection {
		return false
	}
	s.pseudo |= bit
	h, value := s.head, s.head.Bytes(f.Value)
	switch f.Known {
	case pseudoMethod:
		h.Method, h.MethodText = message.ParseMethod(value), f.Value
		return message.ValidToken(value)
	case pseudoScheme:
		h.Scheme = f.Value
		return string(value) == "http" || string(value) == "https"
	case pseudoPath:
		h.SetPath(f.Value)
		return message.ValidTarget(value)
	case pseudoAuthority:
		h.Authority = f.Value
		return message.ValidAuthority(value, false)
	case pseudoProtocol:
		h.Protocol = f.Value
		return s.limits.ExtendedConnect && message.ValidToken(value)
	case pseudoStatus:
		if len(value) != 3 {
			return false
		}
		n, ok := message.ParseLength(value)
		h.Status = int(n)
		return ok && n >= 100 && n <= 599 && n != 101 // section 8.6
	}
	return false
}

func (s *section) addRegular(f message.Field) bool {
	h := s.head
	switch f.Known {
	case message.Other, message.ContentType, message.ContentEncoding:
		f.Hop = message.Disguised(h.Bytes(f.Name))
	case message.Connection, message.ProxyConnection, message.KeepAlive, message.TransferEncoding, message.Upgrade:
		return false // section 8.2.2
	case message.HTTP2Settings:
		f.Hop = true
	case message.TE:
		if string(h.Bytes(f.Value)) != "trailers" {
			return false
		}
	case message.Host:
		if h.Count(message.Host) > 0 || s.kind == trailerSection {
			return false
		}
	case message.ContentLength:
		n, ok := message.ParseLength(h.Bytes(f.Value))
		if !ok || h.Count(message.ContentLength) > 0 || s.kind == trailerSection {
			return false
		}
		h.ContentLength = n
	}
	h.Add(f)
	return true
}

func (s *section) has(name message.Name) bool { return s.pseudo>>(name-message.NumNames)&1 != 0 }

// finish judges the section as a whole.
func (s *section) finish() (ok bool) {
	switch {
	case s.malformed:
		return false
	case s.kind == responseSection:
		return s.finishResponse()
	case s.kind == requestSection:
		return s.finishRequest()
	}
	return true
}

func (s *section) finishResponse() bool {
	h := s.head
	return s.has(pseudoStatus) && (h.ContentLength <= 0 || h.Status >= 200 && h.Status != 204)
}

func (s *section) finishRequest() bool {
	h := s.head
	if !s.has(pseudoMethod) || !s.finishAuthority() {
		return false
	}
	if h.Method == message.MethodConnect && !s.has(pseudoProtocol) { // section 8.5
		return s.has(pseudoAuthority) && message.ValidAuthority(h.Bytes(h.Authority), true) && !s.has(pseudoPath) && !s.has(pseudoScheme) &&
			h.Known(message.ContentLength) == nil
	}
	if !s.has(pseudoScheme) || !s.has(pseudoPath) || s.has(pseudoProtocol) && h.Method != message.MethodConnect {
		return false
	}
	path := h.Bytes(h.Path)
	return len(path) > 0 && path[0] == '/' || string(path) == "*" && !h.HasQuery && h.Method == message.MethodOptions
}

// finishAuthority wants an authority, and one only: Host may repeat it and nothing else (section 8.3.1).
func (s *section) finishAuthority() bool {
	h := s.head
	if h.Count(message.Host) == 0 {
		return s.has(pseudoAuthority)
	}
	host := h.Known(message.Host)
	if s.has(pseudoAuthority) {
		return message.EqualFoldBytes(host, h.Bytes(h.Authority))
	}
	for i := range h.Len() {
		if f := h.Field(i); f.Known == message.Host {
			h.Authority = f.Value
		}
	}
	return message.ValidAuthority(host, false)
}

// appendHead encodes a head with what e changes in it. A change of protocol, which in HTTP/1 is GET with Upgrade and 101, is here
// CONNECT with :protocol and 200 (RFC 8441).
func (c *encoder) appendHead(dst []byte, h *message.Head, e *message.Edit) []byte {
	if h.Status == 101 {
		dst = c.appendStatus(dst, 200)
	} else if h.Status != 0 {
		dst = c.appendStatus(dst, h.Status)
	} else {
		dst = c.appendStart(dst, h, e)
	}
	return c.appendFields(dst, h, e)
}

func (c *encoder) appendStatus(dst []byte, status int) []byte {
	switch status {
	case 200:
		return indexed(dst, 8)
	case 204:
		return indexed(dst, 9)
	case 206:
		return indexed(dst, 10)
	case 304:
		return indexed(dst, 11)
	case 400:
		return indexed(dst, 12)
	case 404:
		return indexed(dst, 13)
	case 500:
		return indexed(dst, 14)
	}
	text := [3]byte{'0' + byte(status/100), '0' + byte(status/10%10), '0' + byte(status%10)}
	return appendLiteral(dst, 0, 4, pseudoStatus, nil, text[:])
}

func (c *encoder) appendStart(dst []byte, h *message.Head, e *message.Edit) []byte {
	protocol := h.Bytes(h.Protocol)
	switch {
	case len(protocol) > 0:
		dst = c.field(dst, pseudoMethod, nil, []byte("CONNECT"), false)
	case h.Method == message.MethodGet:
		dst = indexed(dst, 2)
	case h.Method == message.MethodPost:
		dst = indexed(dst, 3)
	default:
		dst = c.field(dst, pseudoMethod, nil, h.Bytes(h.MethodText), false)
	}
	if h.Path.End > h.Path.Start { // else CONNECT
		scheme := h.Bytes(h.Scheme)
		if e != nil && e.Scheme != nil {
			scheme = e.Scheme
		}
		if len(scheme) == len("https") {
			dst = indexed(dst, 7)
		} else {
			dst = indexed(dst, 6)
		}
	}
	authority := h.Bytes(h.Authority)
	if e != nil && e.Authority != nil {
		authority = e.Authority
	}
	if len(authority) > 0 {
		dst = c.field(dst, pseudoAuthority, nil, authority, false)
	}
	dst = c.appendPath(dst, h, e)
	if len(protocol) > 0 {
		dst = appendLiteral(dst, 0, 4, message.Other, []byte(":protocol"), protocol)
	}
	return dst
}

func (c *encoder) appendPath(dst []byte, h *message.Head, e *message.Edit) []byte {
	path := h.Bytes(h.Path)
	if len(path) == 0 {
		return dst // CONNECT
	}
	if e != nil && e.Target != nil {
		return appendLiteral(dst, 0, 4, pseudoPath, nil, e.Target)
	}
	if !h.HasQuery {
		if len(path) == 1 && path[0] == '/' {
			return indexed(dst, 4)
		}
		return appendLiteral(dst, 0, 4, pseudoPath, nil, path)
	}
	query := h.Bytes(h.Query)
	dst = append(dst, staticNames[pseudoPath])
	dst = appendInt(dst, 0, 7, len(path)+1+len(query))
	dst = append(append(dst, path...), '?')
	return append(dst, query...)
}

// connectionNames are fields that must not be in HTTP/2 (RFC 9113 section 8.2.2), and Host, which is :authority there.
var connectionNames = message.Names(message.Connection, message.ProxyConnection, message.KeepAlive, message.TransferEncoding, message.Upgrade,
	message.HTTP2Settings, message.Host)

func (c *encoder) appendFields(dst []byte, h *message.Head, e *message.Edit) []byte {
	drop := connectionNames
	if e != nil {
		drop = drop.Or(e.Drop)
	}
	fields := h.Fields()
	for i := range fields {
		f := &fields[i]
		if f.Hop || drop.Has(f.Known) {
			continue
		}
		value := h.Bytes(f.Value)
		switch f.Known {
		case message.TE:
			if !message.EqualFold(value, "trailers") {
				continue
			}
			value = []byte("trailers")
		case message.ContentLength:
			for len(value) > 1 && value[0] == '0' {
				value = value[1:] // a reader might take it for octal
			}
		}
		dst = c.field(dst, f.Known, h.Bytes(f.Name), value, f.Sensitive)
	}
	if e != nil {
		for i := range e.Set {
			dst = c.field(dst, e.Set[i].Known, e.Set[i].Name, e.Set[i].Value, false)
		}
	}
	return dst
}
