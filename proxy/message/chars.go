package message

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Classes of bytes.
const (
	isToken  = 1 << iota // RFC 9110 section 5.6.2 tchar
	isLower              // tchar but upper case
	isTarget             // may stand in a path or query (printable ASCII but space and '#')
	isHost               // may stand in a registered name (RFC 3986 unreserved and sub-delims, but no comma)
	isUnderscore
)

var classes = makeClasses()

func makeClasses() (t [256]byte) {
	for c := range 256 {
		upper := c >= 'A' && c <= 'Z'
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || upper
		if alnum || c < 0x80 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0 {
			t[c] |= isToken
			if !upper {
				t[c] |= isLower
			}
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[c] |= isTarget
		}
		if alnum || c < 0x80 && bytes.IndexByte([]byte("-._~!$&'()*+;="), byte(c)) >= 0 {
			t[c] |= isHost
		}
	}
	t['_'] |= isUnderscore
	return t
}

func all(b []byte, class byte) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return len(b) > 0
}

// TokenByte reports whether c may stand in a token.
func TokenByte(c byte) bool { return classes[c]&isToken != 0 }

// ValidToken reports whether b is a token.
func ValidToken(b []byte) bool { return all(b, isToken) }

// ValidLowerName reports whether b is a field name in lower case.
func ValidLowerName(b []byte) bool { return all(b, isLower) }

// ValidTarget reports whether b may be path and query: no control character, no space, no '#'.
func ValidTarget(b []byte) bool { return all(b, isTarget) }

// ValidValue reports whether b is a field value: as [ValidText], and no space or HTAB at its ends.
func ValidValue(b []byte) bool {
	if len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		return false
	}
	return ValidText(b)
}

// ValidText reports whether b holds no control character but HTAB (RFC 9110 section 5.5).
func ValidText(b []byte) bool { return TextLen(b) == len(b) }

// TextLen is how many bytes at the start of b are no control characters but HTAB. Eight bytes at a time: of all loops over a
// head this one sees the most bytes.
func TextLen(b []byte) int {
	const (
		low  = 0x0101010101010101
		high = 0x8080808080808080
	)
	i := 0
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		del := w ^ 0x7f*low
		found := ((w-0x20*low)&^w | (del-low)&^del) & high
		if found == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(found) / 8 // the lowest one is right, those above it need not be
		if b[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(b) && (b[i] >= ' ' && b[i] != 0x7f || b[i] == '\t') {
		i++
	}
	return i
}

// TokenLen is how many bytes at the start of b may stand in a token, and whether an underscore is among them.
func TokenLen(b []byte) (n int, underscore bool) {
	seen := uint8(0)
	for n < len(b) {
		class := classes[b[n]]
		if class&isToken == 0 {
			break
		}
		seen |= class
		n++
	}
	return n, seen&isUnderscore != 0
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// EqualFold compares b with name, which is lower case, without regard to ASCII case.
func EqualFold(b []byte, name string) bool {
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

// HasPrefixFold reports whether b begins with prefix, which is lower case, without regard to ASCII case.
func HasPrefixFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && EqualFold(b[:len(prefix)], prefix)
}

// EqualFoldBytes compares without regard to ASCII case.
func EqualFoldBytes(a, b []byte) bool {
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

// AppendLower appends b in lower case.
func AppendLower(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, lower(c))
	}
	return dst
}

// ParseLength reads a Content-Length: digits only, below 2^63.
func ParseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if !digit(c) {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return int64(n), n < 1<<63
}

func digit(c byte) bool { return c >= '0' && c <= '9' }
