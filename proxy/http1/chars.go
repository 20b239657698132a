package http1

import "encoding/binary"

// Classes of bytes.
const (
	isToken  = 1 << iota // RFC 9110 section 5.6.2 tchar
	isTarget             // may stand in a path or query (printable ASCII but space and '#')
	isHost               // may stand in a registered name (RFC 3986 unreserved and sub-delims, but no comma)
	isQuoted             // may stand in a quoted string: HTAB, SP, VCHAR and obs-text but '"' and '\'
)

var classes = makeClasses()

func makeClasses() (t [256]byte) {
	for c := range 256 {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if alnum || in("!#$%&'*+-.^_`|~", c) {
			t[c] |= isToken
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[c] |= isTarget
		}
		if alnum || in("-._~!$&'()*+;=", c) {
			t[c] |= isHost
		}
		if (c >= ' ' && c != 0x7f || c == '\t') && c != '"' && c != '\\' {
			t[c] |= isQuoted
		}
	}
	return t
}

func in(set string, c int) bool {
	for i := range len(set) {
		if int(set[i]) == c {
			return true
		}
	}
	return false
}

func all(b []byte, class byte) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return true
}

// validValue reports whether b holds no control character but HTAB (RFC 9110 section 5.5). Eight bytes at a time: of all
// loops over a head this one sees the most bytes.
func validValue(b []byte) bool {
	const (
		low  = 0x0101010101010101
		high = 0x8080808080808080
	)
	for len(b) >= 8 {
		w := binary.LittleEndian.Uint64(b)
		del := w ^ 0x7f*low
		if ((w-0x20*low)&^w|(del-low)&^del)&high != 0 && !validBytes(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return validBytes(b)
}

func validBytes(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// equalFold compares b with name, which is lower case, without regard to ASCII case.
func equalFold(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i, c := range b {
		if lower(c) != name[i] {
			return false
		}
	}
	return true
}

func hasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && equalFold(b[:len(prefix)], prefix)
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
