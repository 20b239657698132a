package http1

import "bytes"

// Field is one field line of a head, as offsets into the bytes that were parsed.
type Field struct {
	line, nameEnd, value, valueEnd, next uint32 // next is where the following line starts

	// Name is what is known of the name.
	Name Name
	// Hop is set for a field that is not passed on and that nobody may see: it is of this hop only, Connection names it, or
	// it disguises a name that the proxy sets.
	Hop bool
}

// head is what requests and responses have in common. Offsets, not slices, so that the caller may move its bytes while a
// head is incomplete.
type head struct {
	buf    []byte // the head; set when it is complete
	fields []Field
	first  [numNames]uint16 // index + 1 of the first field of that name
	pos    int              // start of the line to parse next
	scan   int              // up to where no line end was found

	started   bool // the first line was parsed
	http10    bool
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
	upgrade   bool // Connection: upgrade
	chunked   bool
	length    int64 // Content-Length, -1 without
}

func (h *head) reset() {
	*h = head{fields: h.fields[:0], length: -1}
}

// line finds the next complete line, buf[start:end], and moves behind its CRLF. ok is false when more bytes are needed. A CR
// within the line is left to [lineError].
func (h *head) line(buf []byte, limit int) (start, end int, ok bool, err error) {
	window := buf[:min(len(buf), limit)]
	from := max(h.scan, h.pos)
	if lf := bytes.IndexByte(window[from:], '\n'); lf >= 0 {
		start, end = h.pos, from+lf-1
		if end < start || buf[end] != '\r' {
			return 0, 0, false, lineError(buf[start:from+lf], ErrBareLF)
		}
		h.pos = from + lf + 1
		h.scan = h.pos
		return start, end, true, nil
	}
	cr := bytes.IndexByte(window[from:], '\r')
	switch {
	case cr >= 0 && from+cr < len(window)-1:
		return 0, 0, false, ErrBareCR
	case len(buf) < limit:
		h.scan = len(window)
		if cr >= 0 {
			h.scan-- // its LF may be the next byte
		}
		return 0, 0, false, nil
	case !h.started:
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

// parseFields parses field lines up to the empty line. done is false when more bytes are needed.
func (h *head) parseFields(buf []byte, l Limits) (done bool, err error) {
	for {
		start, end, ok, err := h.line(buf, l.HeadBytes)
		if err != nil || !ok {
			return false, err
		}
		if start == end {
			return true, nil
		}
		if len(h.fields) >= l.Fields {
			return false, ErrTooManyFields
		}
		h.fields = append(h.fields, Field{})
		f := &h.fields[len(h.fields)-1]
		if err := f.parse(buf, start, end); err != 0 {
			return false, lineError(buf[start:end], err)
		}
		f.next = uint32(h.pos)
		if f.Name == Other {
			continue
		}
		if h.first[f.Name] == 0 {
			h.first[f.Name] = uint16(len(h.fields))
		}
		if err := h.note(buf, f); err != nil {
			return false, err
		}
	}
}

// parse parses the line buf[start:end], which has no LF. It returns 0 if that went well.
func (f *Field) parse(buf []byte, start, end int) Error {
	line := buf[start:end]
	if line[0] == ' ' || line[0] == '\t' {
		return ErrFolding
	}
	colon, underscore := len(line), false
	for i, c := range line {
		if classes[c]&isToken == 0 {
			colon = i
			break
		}
		underscore = underscore || c == '_'
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return ErrFieldName
	}
	from, to := colon+1, len(line)
	for from < to && (line[from] == ' ' || line[from] == '\t') {
		from++
	}
	for to > from && (line[to-1] == ' ' || line[to-1] == '\t') {
		to--
	}
	if !validValue(line[from:to]) {
		return ErrFieldValue
	}
	f.line, f.nameEnd = uint32(start), uint32(start+colon)
	f.value, f.valueEnd = uint32(start+from), uint32(start+to)
	f.Name = lookup(line[:colon])
	f.Hop = hopByHop.Has(f.Name) || underscore && disguised(line[:colon])
	return 0
}

// note takes what a field says about the message as a whole.
func (h *head) note(buf []byte, f *Field) error {
	value := buf[f.value:f.valueEnd]
	switch f.Name {
	case Host:
		if int(h.first[Host]) != len(h.fields) {
			return ErrHostDuplicate
		}
	case ContentLength:
		if int(h.first[ContentLength]) != len(h.fields) {
			return ErrLengthDuplicate
		}
		n, ok := parseLength(value)
		if !ok {
			return ErrLength
		}
		h.length = n
	case TransferEncoding:
		if h.chunked {
			return ErrCoding
		}
		if !equalFold(value, "chunked") {
			return codingError(value)
		}
		h.chunked = true
	}
	return nil
}

// codingError tells a list or nonsense (400) from a coding that is merely not known (501, RFC 9112 section 6.1).
func codingError(value []byte) error {
	if len(value) == 0 || !all(value, isToken) {
		return ErrCoding
	}
	return ErrCodingUnknown
}

func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return int64(n), n < 1<<63
}

// finish checks what can be checked only when all fields are there.
func (h *head) finish(buf []byte) error {
	if h.chunked {
		if h.first[ContentLength] != 0 {
			return ErrLengthAndCoding
		}
		if h.http10 {
			return ErrCodingVersion
		}
	}
	if h.first[Connection] != 0 {
		return h.options(buf)
	}
	return nil
}

// options reads the Connection fields (RFC 9110 section 7.6.1) and hides the fields they name.
func (h *head) options(buf []byte) error {
	count := 0
	for i := int(h.first[Connection]) - 1; i < len(h.fields); i++ {
		if h.fields[i].Name != Connection {
			continue
		}
		list := buf[h.fields[i].value:h.fields[i].valueEnd]
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
			if count++; count > maxOptions || !all(token, isToken) {
				return ErrConnectionOptions
			}
			h.option(buf, token)
		}
	}
	return nil
}

func (h *head) option(buf, token []byte) {
	switch {
	case equalFold(token, "close"):
		h.close = true
		return
	case equalFold(token, "keep-alive"):
		h.keepAlive = true
		return
	case equalFold(token, "upgrade"):
		h.upgrade = true
		return
	}
	known := lookup(token)
	if endToEnd(token, known) {
		return
	}
	for i := range h.fields {
		f := &h.fields[i]
		if !f.Hop && f.Name == known && equalFoldBytes(buf[f.line:f.nameEnd], token) {
			f.Hop = true
		}
	}
}

func equalFoldBytes(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// Len is the number of field lines.
func (h *head) Len() int { return len(h.fields) }

// Field returns line i: its name as it was written and its value without the whitespace around it, both in the bytes that
// were parsed.
func (h *head) Field(i int) (f Field, name, value []byte) {
	f = h.fields[i]
	return f, h.buf[f.line:f.nameEnd], h.buf[f.value:f.valueEnd]
}

// Known returns the value of the first field of a known name, nil without one.
func (h *head) Known(n Name) []byte {
	i := h.first[n]
	if i == 0 {
		return nil
	}
	f := h.fields[i-1]
	return h.buf[f.value:f.valueEnd:f.valueEnd]
}

// Next returns the value of the first field at or after line i that is named name (in lower case) and passed on, and the
// line to continue at; -1 when there is none. A field may occur more than once: who judges a value must see all of them.
func (h *head) Next(name string, i int) (value []byte, next int) {
	for ; i < len(h.fields); i++ {
		f := h.fields[i]
		if !f.Hop && equalFold(h.buf[f.line:f.nameEnd], name) {
			return h.buf[f.value:f.valueEnd:f.valueEnd], i + 1
		}
	}
	return nil, -1
}

// Count is the number of fields of a known name.
func (h *head) Count(n Name) int {
	if h.first[n] == 0 {
		return 0
	}
	count := 0
	for _, f := range h.fields[h.first[n]-1:] {
		if f.Name == n {
			count++
		}
	}
	return count
}
