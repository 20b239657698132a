package http2

import (
	"encoding/binary"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// How a field is written.
const (
	indexRepeated = iota // into the table when it comes the second time
	indexNot             // values that do not repeat
	indexNever           // secrets: no hop may put them into a table (RFC 7541 section 7.1.3)
)

var policies = makePolicies()

func makePolicies() (t [numTokens]uint8) {
	for _, n := range []message.Name{
		message.Age, message.ContentLength, message.ContentRange, message.ETag, message.Expires, message.GRPCTimeout, message.IfMatch,
		message.IfModifiedSince, message.IfNoneMatch, message.IfRange, message.IfUnmodifiedSince, message.LastModified, message.Location,
		message.Range, message.XEnvoyUpstreamServiceTime, message.XRequestID, pseudoPath,
	} {
		t[n] = indexNot
	}
	for _, n := range []message.Name{message.Authorization, message.Cookie, message.ProxyAuthorization, message.SetCookie} {
		t[n] = indexNever
	}
	return t
}

const encoderSlots = 128 // a power of two; no more entries than that fit into the table

var tokenBytes = makeTokenBytes()

func makeTokenBytes() (t [numTokens][]byte) {
	for n := range numTokens {
		t[n] = []byte(tokenText(n))
	}
	return t
}

// encoder writes field sections. Its finder is lossy: two fields that meet in a slot push each other out, which costs bytes and
// nothing else. Values are not Huffman coded: on the links of a mesh time is dearer than bytes.
type encoder struct {
	table  table
	finder *finder // what is in the table; nil: it has to be used again before anything is written
	lowest uint16  // the smallest size set since the last section
	resize bool
}

type finder struct {
	seen  [encoderSlots]uint32 // hashes of fields that came once
	entry [encoderSlots]uint32 // number + 1 of the entry
}

func (e *encoder) init(f *finder) {
	*e = encoder{table: table{max: tableSize}}
	e.use(f)
}

// use has f, whatever it knew, find what is in the table from now on.
func (e *encoder) use(f *finder) {
	*f = finder{}
	e.finder = f
	t := &e.table
	for i := range int(t.count) {
		at := t.slot(i)
		name, value := t.texts(at)
		f.entry[hashField(at.token, name, value)%encoderSlots] = t.added - uint32(t.count) + uint32(i) + 1
	}
}

// limit takes the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) limit(n uint32) {
	size := uint16(min(n, tableSize))
	if size == e.table.max && !e.resize {
		return
	}
	if !e.resize {
		e.resize, e.lowest = true, size
	}
	e.lowest = min(e.lowest, size)
	e.table.resize(int(size))
}

// begin starts a section with the size updates that are due.
func (e *encoder) begin(dst []byte) []byte {
	if e.resize {
		if e.lowest < e.table.max {
			dst = appendInt(dst, 0x20, 5, int(e.lowest))
		}
		dst = appendInt(dst, 0x20, 5, int(e.table.max))
		e.resize = false
	}
	return dst
}

func (e *encoder) field(dst []byte, token message.Name, name, value []byte, sensitive bool) []byte {
	switch {
	case sensitive || policies[token] == indexNever:
		return appendLiteral(dst, 0x10, 4, token, name, value)
	case policies[token] == indexNot || len(tokenBytes[token])+len(name)+len(value)+headerOverhead > int(e.table.max)/4:
		return appendLiteral(dst, 0, 4, token, name, value)
	}
	if token != message.Other {
		name = tokenBytes[token] // its length counts in the table, whatever the caller gave
	}
	hash := hashField(token, name, value)
	slot := hash % encoderSlots
	t := &e.table
	if back := t.added - e.finder.entry[slot]; e.finder.entry[slot] > 0 && back < uint32(t.count) {
		found := t.get(int(back))
		n, v := t.texts(found)
		if found.token == token && string(n) == string(name) && string(v) == string(value) {
			return appendInt(dst, 0x80, 7, firstDynamic+int(back))
		}
	}
	if e.finder.seen[slot] != hash {
		e.finder.seen[slot] = hash
		return appendLiteral(dst, 0, 4, token, name, value)
	}
	dst = appendLiteral(dst, 0x40, 6, token, name, value)
	t.add(name, value, token, false)
	e.finder.entry[slot] = t.added
	return dst
}

// indexed writes entry i of the static table.
func indexed(dst []byte, i int) []byte { return append(dst, 0x80|byte(i)) }

func appendLiteral(dst []byte, pattern byte, prefix int, token message.Name, name, value []byte) []byte {
	i := int(staticNames[token])
	dst = appendInt(dst, pattern, prefix, i)
	if i == 0 {
		if token != message.Other {
			name = tokenBytes[token]
		}
		dst = appendInt(dst, 0, 7, len(name))
		dst = message.AppendLower(dst, name)
	}
	dst = appendInt(dst, 0, 7, len(value))
	return append(dst, value...)
}

func appendInt(dst []byte, pattern byte, prefix, n int) []byte {
	mask := 1<<prefix - 1
	if n < mask {
		return append(dst, pattern|byte(n))
	}
	dst = append(dst, pattern|byte(mask))
	for n -= mask; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

func hashField(token message.Name, name, value []byte) uint32 {
	h := uint64(token) + 1
	if token == message.Other {
		h = hashBytes(h, name)
	}
	h = hashBytes(h, value)
	return uint32(h >> 32)
}

func hashBytes(h uint64, b []byte) uint64 {
	const k = 0x9e3779b97f4a7c15
	h ^= uint64(len(b))
	for ; len(b) >= 8; b = b[8:] {
		h = (h ^ binary.LittleEndian.Uint64(b)) * k
		h ^= h >> 29
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * k
	}
	h ^= h >> 32
	return h * k
}
