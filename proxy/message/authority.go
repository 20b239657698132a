package message

import "bytes"

// ValidAuthority reports whether b is host [":" port], without user information. The port may be demanded.
func ValidAuthority(b []byte, needPort bool) bool {
	host, port := b, []byte(nil)
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || !validIPv6(b[1:end]) {
			return false
		}
		host, port = nil, b[end+1:]
	} else {
		if colon := bytes.IndexByte(b, ':'); colon >= 0 {
			host, port = b[:colon], b[colon:]
		}
		if len(host) == 0 || len(host) > 255 || !validRegName(host) {
			return false
		}
	}
	if len(port) == 0 {
		return !needPort
	}
	return port[0] == ':' && validPort(port[1:])
}

func validRegName(b []byte) bool {
	for i := 0; i < len(b); i++ {
		if b[i] == '%' {
			if i+2 >= len(b) || Unhex(b[i+1]) < 0 || Unhex(b[i+2]) < 0 {
				return false
			}
			i += 2
			continue
		}
		if classes[b[i]]&isHost == 0 {
			return false
		}
	}
	return true
}

// validPort wants 1 to 65535. An empty port is grammatical (RFC 3986) but nobody writes it, and readers differ on it.
func validPort(b []byte) bool {
	if len(b) == 0 || len(b) > 5 {
		return false
	}
	n := 0
	for _, c := range b {
		if !digit(c) {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n > 0 && n <= 65535
}

// validIPv6 checks RFC 4291 section 2.2 text without a zone.
func validIPv6(b []byte) bool {
	groups, gap, i := 0, false, 0
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		gap, i = true, 2
	}
	for i < len(b) {
		start := i
		for i < len(b) && Unhex(b[i]) >= 0 {
			i++
		}
		if i < len(b) && b[i] == '.' {
			if !validIPv4(b[start:]) {
				return false
			}
			groups += 2
			break
		}
		if i == start || i-start > 4 {
			return false
		}
		groups++
		if i == len(b) {
			break
		}
		if b[i] != ':' {
			return false
		}
		i++
		if i == len(b) {
			return false
		}
		if b[i] == ':' {
			if gap {
				return false
			}
			gap = true
			i++
		}
	}
	return groups == 8 && !gap || groups < 8 && gap
}

func validIPv4(b []byte) bool {
	for part := range 4 {
		n, i := 0, 0
		for i < len(b) && i < 3 && digit(b[i]) {
			n = n*10 + int(b[i]-'0')
			i++
		}
		if i == 0 || n > 255 || i > 1 && b[0] == '0' {
			return false
		}
		b = b[i:]
		if part == 3 {
			return len(b) == 0
		}
		if len(b) == 0 || b[0] != '.' {
			return false
		}
		b = b[1:]
	}
	return false
}

// Unhex is the value of a hexadecimal digit, -1 if it is none.
func Unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
