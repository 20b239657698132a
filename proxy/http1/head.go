package http1

import (
	"bytes"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// state is where the reading of a head is, and what requests and responses have in common of what it says. Offsets, not slices,
// so that the caller may move its bytes while a head is incomplete.
type state struct {
	length    int64  // Content-Length, -1 without
	pos, scan uint32 // start of the line to parse next; up to where no line end was found

	begun     bool // the head was reset
	started   bool // the first line was parsed
	http10    bool
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
	upgrade   bool // Connection: upgrade
	chunked   bool
}

func (s *state) begin(h *message.Head) {
	if !s.begun {
		*s = state{begun: true, length: -1}
		h.Reset()
	}
}

// line finds the next complete line, buf[start:end], and moves behind its CRLF. ok is false when more bytes are needed. A CR
// within the line is left to [lineError].
func (s *state) line(buf []byte, limit int) (start, end int, ok bool, err error) {
	window := buf[:min(len(buf), limit)]
	from := int(max(s.scan, s.pos))
	if lf := bytes.IndexByte(window[from:], '\n'); lf >= 0 {
		start, end = int(s.pos), from+lf-1
		if end < start || buf[end] != '\r' {
			return 0, 0, false, lineError(buf[start:from+lf], ErrBareLF)
		}
		s.pos = uint32(from + lf + 1)
		s.scan = s.pos
		return start, end, true, nil
	}
	cr := bytes.IndexByte(window[from:], '\r')
	switch {
	case cr >= 0 && from+cr < len(window)-1:
		return 0, 0, false, ErrBareCR
	case len(buf) < limit:
		s.scan = uint32(len(window))
		if cr >= 0 {
			s.scan-- // its LF may be the next byte
		}
		return 0, 0, false, nil
	case !s.started:
		return 0, 0, false, ErrTargetTooLong
	}
	return 0, 0, false, ErrHeadTooLarge
}

// lineError is what is wrong with a line that is wrong: a bare CR before anything else, as when it had come in pieces.
func lineError(line []byte, err Error) error {
	if bytes.IndexByte(line, '\r') >= 0 {
		return ErrBareCR
	}
	return err
}

// fields parses field lines up to the empty line. done is false when more bytes are needed. What is in h then are offsets into
// buf, until [state.take].
func (s *state) fields(buf []byte, h *message.Head, l Limits) (done bool, err error) {
	window := buf[:min(len(buf), l.HeadBytes)]
	for {
		full := h.Len() >= l.Fields
		if !full && s.scan <= s.pos { // else the search for the end of a line that is not complete goes on
			if ok, err := s.field(window, h); err != nil {
				return false, err
			} else if ok {
				continue
			}
		}
		start, end, ok, err := s.line(buf, l.HeadBytes)
		if err != nil || !ok {
			return false, err
		}
		if start == end {
			h.SetLines(uint32(start))
			return true, nil
		}
		if full {
			return false, ErrTooManyFields
		}
		s.pos = uint32(start)
		if ok, err := s.field(window, h); err != nil {
			return false, err
		} else if !ok {
			return false, lineError(buf[start:end], fieldError(buf[start:end]))
		}
	}
}

// field reads one field line, if it is complete and right.
func (s *state) field(window []byte, h *message.Head) (ok bool, err error) {
	f := h.Slot()
	n := readField(window[s.pos:], f, s.pos)
	if n == 0 {
		return false, nil
	}
	s.pos += uint32(n)
	if f.Known != message.Other {
		if err := s.note(window[f.Value.Start:f.Value.End], h, f.Known); err != nil {
			return false, err
		}
	}
	h.Keep()
	return true, nil
}

// readField reads the field line at the start of b, which stands at offset at of the head's text, and returns its length: 0 if
// it is not complete or not right.
func readField(b []byte, f *message.Field, at uint32) (n int) {
	name, underscore := message.TokenLen(b)
	if name == 0 || name == len(b) || b[name] != ':' {
		return 0
	}
	from := name + 1
	for from < len(b) && (b[from] == ' ' || b[from] == '\t') {
		from++
	}
	to := from + message.TextLen(b[from:])
	if len(b)-to < 2 || b[to] != '\r' || b[to+1] != '\n' {
		return 0
	}
	n = to + 2
	for to > from && (b[to-1] == ' ' || b[to-1] == '\t') {
		to--
	}
	known := message.Lookup(b[:name])
	f.Name = message.Span{Start: at, End: at + uint32(name)}
	f.Value = message.Span{Start: at + uint32(from), End: at + uint32(to)}
	f.Known, f.Sensitive = known, false
	f.Hop = hopByHop.Has(known) || underscore && message.Disguised(b[:name])
	return n
}

// fieldError is what is wrong with a field line that is complete and wrong.
func fieldError(line []byte) Error {
	if line[0] == ' ' || line[0] == '\t' {
		return ErrFolding
	}
	if n, _ := message.TokenLen(line); n == 0 || n == len(line) || line[n] != ':' {
		return ErrFieldName
	}
	return ErrFieldValue
}

// note takes what a field, which h does not know by its name yet, says about the message as a whole.
func (s *state) note(value []byte, h *message.Head, name message.Name) error {
	switch name {
	case message.Host:
		if h.First(message.Host) >= 0 {
			return ErrHostDuplicate
		}
	case message.ContentLength:
		if s.length >= 0 {
			return ErrLengthDuplicate
		}
		n, ok := message.ParseLength(value)
		if !ok {
			return ErrLength
		}
		s.length, h.ContentLength = n, n
	case message.TransferEncoding:
		if s.chunked {
			return ErrCoding
		}
		if !message.EqualFold(value, "chunked") {
			return codingError(value)
		}
		s.chunked = true
	}
	return nil
}

// codingError tells a list or nonsense (400) from a coding that is merely not known (501, RFC 9112 section 6.1).
func codingError(value []byte) error {
	if !message.ValidToken(value) {
		return ErrCoding
	}
	return ErrCodingUnknown
}

// take copies the head, which is complete.
func (s *state) take(buf []byte, h *message.Head) {
	h.Text = append(h.Text[:0], buf[:s.pos]...)
}

// finish checks what can be checked only when all fields are there.
func (s *state) finish(h *message.Head) error {
	if s.chunked {
		if s.length >= 0 {
			return ErrLengthAndCoding
		}
		if s.http10 {
			return ErrCodingVersion
		}
	}
	if first := h.First(message.Connection); first >= 0 {
		return s.options(h, first)
	}
	return nil
}

// options reads the Connection fields (RFC 9110 section 7.6.1) and hides the fields they name.
func (s *state) options(h *message.Head, first int) error {
	count := 0
	fields := h.Fields()
	for i := first; i < len(fields); i++ {
		if fields[i].Known != message.Connection {
			continue
		}
		list := h.Bytes(fields[i].Value)
		for len(list) > 0 {
			token := list
			if comma := bytes.IndexByte(list, ','); comma >= 0 {
				token, list = list[:comma], list[comma+1:]
			} else {
				list = nil
			}
			token = trim(token)
			if len(token) == 0 {
				continue // RFC 9110 section 5.6.1.2: empty elements are ignored
			}
			if count++; count > maxOptions || !message.ValidToken(token) {
				return ErrConnectionOptions
			}
			s.option(h, token)
		}
	}
	return nil
}

func (s *state) option(h *message.Head, token []byte) {
	switch {
	case message.EqualFold(token, "close"):
		s.close = true
	case message.EqualFold(token, "keep-alive"):
		s.keepAlive = true
	case message.EqualFold(token, "upgrade"):
		s.upgrade = true
	case !endToEnd(token):
		h.Hide(token)
	}
}

// protocol is the value of the first Upgrade field of a message that says Connection: upgrade, and how many there are.
func (s *state) protocol(h *message.Head) (p message.Span, count int) {
	i := h.First(message.Upgrade)
	if i < 0 || !s.upgrade || s.http10 {
		return p, 0
	}
	return h.Field(i).Value, h.Count(message.Upgrade)
}

// persists is KeepAlive.
func (s *state) persists() bool { return !s.close && (!s.http10 || s.keepAlive) }

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

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
