package http2

import (
	"encoding/binary"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// decoder reads field sections. An error is one of compression: both ends no longer have the same table.
type decoder struct{ table table }

func (d *decoder) init() { d.table = table{max: tableSize} }

// decode reads a whole section. Every field goes to s, also those that are beyond the limits: the table must not get out of step.
// The text of a field that s did not keep is taken back at once.
func (d *decoder) decode(p []byte, s *section) error {
	start := true
	for len(p) > 0 {
		var err ErrCode
		if s.over { // what changes no table is most of what floods are made of
			if p, err = d.skip(p, s.head); err != NoError {
				return err
			}
			if len(p) == 0 {
				break
			}
		}
		if b := p[0]; b&0xe0 == 0x20 {
			if p, err = d.update(p, start); err != NoError {
				return err
			}
			continue
		}
		start = false
		if p, err = d.field(p, s); err != NoError {
			return err
		}
	}
	return nil
}

// update reads a size update. It stands at the start of a section only (RFC 7541 section 4.2).
func (d *decoder) update(p []byte, start bool) ([]byte, ErrCode) {
	n, p, ok := readInt(p, 5)
	if !ok || !start || n > tableSize {
		return nil, CompressionError
	}
	d.table.resize(n)
	return p, NoError
}

func (d *decoder) field(p []byte, s *section) (rest []byte, err ErrCode) {
	b, prefix := p[0], 4
	switch {
	case b&0x80 != 0:
		prefix = 7
	case b&0x40 != 0:
		prefix = 6
	}
	index, p, ok := readInt(p, prefix)
	if !ok || prefix == 7 && index == 0 || index >= firstDynamic+int(d.table.count) {
		return nil, CompressionError
	}
	h := s.head
	mark := len(h.Text)
	var f message.Field
	bad := false
	if index > 0 {
		f, bad = d.indexed(h, index, prefix == 7)
	} else if p, ok = readString(h, p, &f.Name); !ok {
		return nil, CompressionError
	} else {
		name := h.Bytes(f.Name)
		f.Known = tokenOf(name)
		bad = f.Known == pseudoUnknown || f.Known < message.NumNames && !message.ValidLowerName(name)
	}
	if prefix != 7 {
		// The value of an entry that lent its name does not count, neither does what was wrong with it. A wrong name stays wrong.
		if index > 0 {
			bad = bad && f.Known < message.NumNames && !message.ValidLowerName(h.Bytes(f.Name)) || f.Known == pseudoUnknown
		}
		if p, ok = readString(h, p, &f.Value); !ok {
			return nil, CompressionError
		}
		bad = bad || !message.ValidValue(h.Bytes(f.Value))
		f.Sensitive = b&0xf0 == 0x10
	}
	if prefix == 6 {
		d.table.add(h.Bytes(f.Name), h.Bytes(f.Value), f.Known, bad)
	}
	if !s.add(f, bad) {
		h.Text = h.Text[:mark]
	}
	return p, NoError
}

// skip passes over entries that change no table: references of one byte, and literals that are not to be kept. What cannot be
// decoded is an error here as anywhere.
func (d *decoder) skip(p []byte, h *message.Head) (rest []byte, err ErrCode) {
	known := firstDynamic + int(d.table.count)
	for len(p) > 0 {
		switch b := p[0]; {
		case b > 0x80 && b < 0xff:
			if int(b&0x7f) >= known {
				return nil, CompressionError
			}
			p = skipReferences(p[1:], known)
		case b&0xe0 == 0:
			index, name, ok := readInt(p, 4)
			if !ok || index >= known {
				return nil, CompressionError
			}
			if index == 0 {
				if name, ok = skipString(name, h); !ok {
					return nil, CompressionError
				}
			}
			if p, ok = skipString(name, h); !ok {
				return nil, CompressionError
			}
		default:
			return p, NoError
		}
	}
	return nil, NoError
}

// indexed copies an entry's name into the head, and its value if it is wanted.
func (d *decoder) indexed(h *message.Head, index int, whole bool) (f message.Field, bad bool) {
	if index < firstDynamic {
		e := &staticTable[index]
		f.Known = e.name
		if f.Name = h.Put(tokenText(e.name)); whole {
			f.Value = h.Put(e.value)
		}
		return f, false
	}
	e := d.table.get(index - firstDynamic)
	name, value := d.table.texts(e)
	if !whole {
		value = nil
	}
	start := uint32(len(h.Text))
	h.Text = append(append(h.Text, name...), value...)
	mid := start + uint32(len(name))
	f.Name, f.Value = message.Span{Start: start, End: mid}, message.Span{Start: mid, End: mid + uint32(len(value))}
	f.Known = e.token
	return f, e.bad
}

// readInt reads an integer (RFC 7541 section 5.1). No length or index that is right needs more than four further bytes.
func readInt(p []byte, prefix int) (n int, rest []byte, ok bool) {
	mask := 1<<prefix - 1
	n = int(p[0]) & mask
	p = p[1:]
	if n < mask {
		return n, p, true
	}
	for shift := 0; shift < 28 && len(p) > 0; shift += 7 {
		b := p[0]
		p = p[1:]
		n += int(b&0x7f) << shift
		if b < 0x80 {
			return n, p, true
		}
	}
	return 0, nil, false
}

// readString appends a string to the head's text.
func readString(h *message.Head, p []byte, at *message.Span) (rest []byte, ok bool) {
	if len(p) == 0 {
		return nil, false
	}
	coded := p[0]&0x80 != 0
	n, p, ok := readInt(p, 7)
	if !ok || n > len(p) {
		return nil, false
	}
	at.Start = uint32(len(h.Text))
	if coded {
		if h.Text, ok = appendHuffman(h.Text, p[:n]); !ok {
			return nil, false
		}
	} else {
		h.Text = append(h.Text, p[:n]...)
	}
	at.End = uint32(len(h.Text))
	return p[n:], true
}

// skipReferences passes over references of one byte to known entries, eight at a time, as far as there are eight.
func skipReferences(p []byte, known int) []byte {
	const ones = 0x0101010101010101
	limit := uint64(0x80-min(known, 0x7f)) * ones // added to an index that is known it does not reach the top bit
	for len(p) >= 8 {
		x := binary.LittleEndian.Uint64(p)
		index := x & (0x7f * ones)
		if x&(index+0x7f*ones)&^(index+limit)&(0x80*ones) != 0x80*ones {
			break
		}
		p = p[8:]
	}
	return p
}

// skipString passes over a string. One that is coded is decoded, for it may be wrong.
func skipString(p []byte, h *message.Head) (rest []byte, ok bool) {
	if len(p) == 0 {
		return nil, false
	}
	if n := int(p[0]); n < 0x7f {
		if n >= len(p) {
			return nil, false
		}
		return p[1+n:], true
	}
	mark := len(h.Text)
	var at message.Span
	rest, ok = readString(h, p, &at)
	h.Text = h.Text[:mark]
	return rest, ok
}
