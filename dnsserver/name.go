package dnsserver

import (
	"fmt"
	"strings"
)

// Name is an absolute domain name in wire form: lower case, uncompressed, ending in the root's empty label.
type Name string

const (
	maxNameBytes  = 255 // RFC 1035 §3.1, with the root's label
	maxLabelBytes = 63
)

// ParseName reads a name as it is written in zone files (RFC 1035 §5.1), with or without the last dot.
func ParseName(s string) (Name, error) {
	if s == "" || s == "." {
		return "\x00", nil
	}
	wire, label := make([]byte, 1, len(s)+2), 0 // label is where the length of the current label goes
	end := func() error {
		n := len(wire) - label - 1
		if n == 0 || n > maxLabelBytes {
			return fmt.Errorf("read domain name %q: got a label of %d bytes, want 1 to %d", s, n, maxLabelBytes)
		}
		wire[label] = byte(n)
		label = len(wire)
		wire = append(wire, 0)
		return nil
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '.':
			if err := end(); err != nil {
				return "", err
			}
			continue
		case c == '\\':
			value, n := unescape(s[i+1:])
			if n == 0 {
				return "", fmt.Errorf("read domain name %q: got a backslash without a character or three digits up to 255", s)
			}
			c, i = value, i+n
		}
		wire = append(wire, lower(c))
	}
	if len(wire) > label+1 {
		if err := end(); err != nil {
			return "", err
		}
	}
	if len(wire) > maxNameBytes {
		return "", fmt.Errorf("read domain name %q: got %d bytes, want at most %d", s, len(wire), maxNameBytes)
	}
	return Name(wire), nil
}

// unescape reads what follows a backslash: a character, or three digits. n is 0 for neither.
func unescape(s string) (value byte, n int) {
	switch {
	case s == "":
		return 0, 0
	case !digit(s[0]):
		return s[0], 1
	case len(s) < 3 || !digit(s[1]) || !digit(s[2]):
		return 0, 0
	}
	v := int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	if v > 255 {
		return 0, 0
	}
	return byte(v), 3
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// String writes the name as in zone files, with the last dot.
func (n Name) String() string {
	var b strings.Builder
	for label := range n.labels() {
		for i := range len(label) {
			switch c := label[i]; {
			case c == '.' || c == '\\' || c == '"' || c == '(' || c == ')' || c == ';' || c == '@' || c == '$':
				b.WriteByte('\\')
				b.WriteByte(c)
			case c < '!' || c > '~':
				fmt.Fprintf(&b, `\%03d`, c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('.')
	}
	if b.Len() == 0 {
		return "."
	}
	return b.String()
}

// labels are the name's, without the root's.
func (n Name) labels() func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for rest := string(n); len(rest) > 1; rest = rest[1+int(rest[0]):] {
			if !yield(rest[1 : 1+int(rest[0])]) {
				return
			}
		}
	}
}

// parent is the name without its first label. The root has none.
func (n Name) parent() Name { return n[1+int(n[0]):] }

// within says whether the name is an origin's or below it, by labels.
func (n Name) within(origin Name) bool {
	for len(n) > len(origin) {
		n = n.parent()
	}
	return n == origin
}

// Join returns the name of a relative name below an origin; relative is written as in zone files, "" is the origin.
func Join(relative string, origin Name) (Name, error) {
	if relative == "" {
		return origin, nil
	}
	if strings.HasSuffix(relative, ".") && !strings.HasSuffix(relative, `\.`) {
		return "", fmt.Errorf("read domain name %q: got a dot at its end, want a name relative to %s", relative, origin)
	}
	first, err := ParseName(relative)
	if err != nil {
		return "", err
	}
	joined := first[:len(first)-1] + origin
	if len(joined) > maxNameBytes {
		return "", fmt.Errorf("read domain name %q: got %d bytes with %s, want at most %d", relative, len(joined), origin, maxNameBytes)
	}
	return joined, nil
}
