// Package message holds the head and the fields of an HTTP message as every version of HTTP has them: what a parser of one
// version fills, an encoder of another one reads.
//
// It is pure and holds no policy. A [Head] is reused: once its arrays have grown it allocates nothing.
package message

import "bytes"

// Span is a piece of a head's text.
type Span struct{ Start, End uint32 }

// Field is one field line: offsets into the head's text, so that the text may move while it grows.
type Field struct {
	Name, Value Span
	Known       Name
	// Hop is set for a field that is not passed on and that nobody may see.
	Hop bool
	// Sensitive is set for a field that no hop may put into a compression table.
	Sensitive bool
}

// Head is the head of a request or a response, or a trailer section.
type Head struct {
	Method        Method
	Status        int
	ContentLength int64 // -1 when it is not told

	// Text is what the spans point into. A parser appends to it; nothing in it moves until Reset.
	Text []byte

	// The start line: method, scheme, authority, path and query of a request, the reason of a response, as they came. Protocol is
	// what the connection or the stream is to become, or in a response becomes: of Upgrade or of :protocol. A part that is not
	// there is empty.
	MethodText, Scheme, Authority, Path, Query, Protocol, Reason Span
	HasQuery                                                     bool // a '?' with nothing behind it is a query too

	fields []Field
	first  [NumNames]uint16 // index + 1 of the first field of that name

	lines    int    // so many fields stand in Text as lines of HTTP/1, one behind the other
	linesEnd uint32 // behind the last of them
}

// Fields are the fields of a trailer section: a head without a start line.
type Fields = Head

// Reset empties the head and keeps its memory.
func (h *Head) Reset() {
	h.Method, h.Status, h.ContentLength = 0, 0, -1
	h.Text, h.fields = h.Text[:0], h.fields[:0]
	h.MethodText, h.Scheme, h.Authority, h.Path, h.Query, h.Protocol, h.Reason = Span{}, Span{}, Span{}, Span{}, Span{}, Span{}, Span{}
	h.HasQuery = false
	h.first = [NumNames]uint16{}
	h.lines, h.linesEnd = 0, 0
}

// Bytes returns the text of a span. It is valid until Reset.
func (h *Head) Bytes(s Span) []byte { return h.Text[s.Start:s.End:s.End] }

// Put appends text and returns where it stands.
func (h *Head) Put(text string) Span {
	start := uint32(len(h.Text))
	h.Text = append(h.Text, text...)
	return Span{start, uint32(len(h.Text))}
}

// Copy makes h a copy of another head that depends on nothing of it.
func (h *Head) Copy(from *Head) {
	text, fields := append(h.Text[:0], from.Text...), append(h.fields[:0], from.fields...)
	*h = *from
	h.Text, h.fields = text, fields
}

// Add appends a field whose text is in the head already.
func (h *Head) Add(f Field) {
	h.fields = append(h.fields, f)
	if f.Known != Other && h.first[f.Known] == 0 {
		h.first[f.Known] = uint16(len(h.fields))
	}
}

// Slot returns room for one field more. [Head.Keep] adds it once it is filled; until then it is not one of the head's.
func (h *Head) Slot() *Field {
	n := len(h.fields)
	if n == cap(h.fields) {
		h.fields = append(h.fields, Field{})[:n]
	}
	return &h.fields[:n+1][n]
}

// Keep adds the field in the slot, which must be filled as a whole.
func (h *Head) Keep() {
	h.fields = h.fields[:len(h.fields)+1]
	if n := h.fields[len(h.fields)-1].Known; n != Other && h.first[n] == 0 {
		h.first[n] = uint16(len(h.fields))
	}
}

// AddField appends a field with its text.
func (h *Head) AddField(name, value string) {
	n, v := h.Put(name), h.Put(value)
	h.Add(Field{Name: n, Value: v, Known: Lookup(h.Bytes(n))})
}

// SetPath sets path and query from a target in origin or asterisk form.
func (h *Head) SetPath(target Span) {
	h.Path, h.Query, h.HasQuery = target, Span{}, false
	if i := bytes.IndexByte(h.Bytes(target), '?'); i >= 0 {
		at := target.Start + uint32(i)
		h.Path.End, h.Query, h.HasQuery = at, Span{at + 1, target.End}, true
	}
}

// Interim reports whether a response is followed by another one to the same request (1xx but 101).
func (h *Head) Interim() bool { return h.Status < 200 && h.Status != 101 }

// SetLines says that the fields so far stand in Text as lines of HTTP/1, one behind the other, each from the start of its name;
// the last one ends at end. A writer of HTTP/1 copies such lines as they are.
func (h *Head) SetLines(end uint32) { h.lines, h.linesEnd = len(h.fields), end }

// Lines returns how many fields stand in Text as lines of HTTP/1, and where the last of them ends.
func (h *Head) Lines() (n int, end uint32) { return h.lines, h.linesEnd }

// Len is the number of fields.
func (h *Head) Len() int { return len(h.fields) }

// Field returns field i.
func (h *Head) Field(i int) Field { return h.fields[i] }

// Fields returns all fields. They belong to the head; of a field only Hop may be changed.
func (h *Head) Fields() []Field { return h.fields }

// First returns which field is the first one of a known name, -1 without one.
func (h *Head) First(n Name) int { return int(h.first[n]) - 1 }

// Known returns the value of the first field of a known name, nil without one.
func (h *Head) Known(n Name) []byte {
	if h.first[n] == 0 {
		return nil
	}
	return h.Bytes(h.fields[h.first[n]-1].Value)
}

// Next returns the value of the first field at or after field i that is named name (in lower case) and passed on, and the
// field to continue at; -1 when there is none. A field may occur more than once: who judges a value must see all of them.
func (h *Head) Next(name string, i int) (value []byte, next int) {
	for ; i < len(h.fields); i++ {
		if f := &h.fields[i]; !f.Hop && EqualFold(h.Bytes(f.Name), name) {
			return h.Bytes(f.Value), i + 1
		}
	}
	return nil, -1
}

// Count is the number of fields of a known name.
func (h *Head) Count(n Name) int {
	if h.first[n] == 0 {
		return 0
	}
	count := 0
	for i := int(h.first[n]) - 1; i < len(h.fields); i++ {
		if h.fields[i].Known == n {
			count++
		}
	}
	return count
}

// Hide sets Hop for the fields of a name.
func (h *Head) Hide(name []byte) {
	known := Lookup(name)
	for i := range h.fields {
		if f := &h.fields[i]; !f.Hop && f.Known == known && EqualFoldBytes(h.Bytes(f.Name), name) {
			f.Hop = true
		}
	}
}

// HideKnown sets Hop for the fields whose names are in a set.
func (h *Head) HideKnown(names NameSet) {
	for i := range h.fields {
		if f := &h.fields[i]; f.Known != Other && names.Has(f.Known) {
			f.Hop = true
		}
	}
}

// Underscored is the number of fields whose names have an underscore and that would be passed on. If drop is set they are not.
func (h *Head) Underscored(drop bool) int {
	count := 0
	for i := range h.fields {
		f := &h.fields[i]
		if bytes.IndexByte(h.Bytes(f.Name), '_') < 0 {
			continue
		}
		count++
		f.Hop = f.Hop || drop
	}
	return count
}

// Edit is what an encoder changes while it writes a head. The head itself never changes, so it can be written again for
// another try.
type Edit struct {
	Target    []byte // path and query; nil leaves them
	Scheme    []byte // nil leaves it; HTTP/1 does not say it
	Authority []byte // nil leaves it
	Drop      NameSet
	Set       []Set // written behind the fields of the head
}

// Set is one field to write. Name is in lower case; it may be left out when Known tells it.
type Set struct {
	Known Name
	Name  []byte
	Value []byte
}
