package router

import "bytes"

// Error says why a request is refused by its path. It is a constant.
type Error uint8

// The reasons to refuse a path.
const (
	ErrPath Error = iota + 1
	ErrAmbiguousPath
	ErrEscapedSlash
)

// Status is what the client is answered.
func (Error) Status() int { return 400 }

// Reason is a short name without spaces for access logs and statistics.
func (e Error) Reason() string {
	switch e {
	case ErrAmbiguousPath:
		return "route.ambiguous_path"
	case ErrEscapedSlash:
		return "route.escaped_slash"
	}
	return "route.invalid_path"
}

// Error is the explanation in words.
func (e Error) Error() string {
	switch e {
	case ErrEscapedSlash:
		return "path has an escaped slash"
	case ErrAmbiguousPath:
		return "path has another route when slashes and escapes are read as an upstream may read them"
	}
	return "path is not absolute or has an invalid escape"
}

// Normalize returns the normal form of an absolute path (RFC 3986 sections 6.2.2.2 and 6.2.2.3): escapes of unreserved
// characters are decoded, then dot segments removed. What is normal already is returned as it is; else the result is built in
// dst, which must not overlap path. ambiguous tells that servers differ in how they read the result: it has an escape, an
// empty segment, a backslash or a semicolon. An invalid escape and an escaped NUL are errors.
func Normalize(dst, path []byte) (normal []byte, ambiguous bool, err error) {
	if len(path) == 0 || path[0] != '/' {
		return nil, false, ErrPath
	}
	if !needsWork(path) {
		return path, false, nil
	}
	if !validEscapes(path) {
		return nil, false, ErrPath
	}
	dst = decodeUnreserved(dst, path)
	dst = removeDots(dst)
	if bytes.Equal(dst, path) {
		dst = path
	}
	return dst, needsWork(dst), nil
}

// needsWork reports whether a path has anything that Normalize or secondReading could change.
func needsWork(path []byte) bool {
	for i, c := range path {
		switch c {
		case '%', '\\', ';':
			return true
		case '/':
			if i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
				return true
			}
		}
	}
	return false
}

func validEscapes(path []byte) bool {
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		if i+2 >= len(path) {
			return false
		}
		hi, lo := unhex(path[i+1]), unhex(path[i+2])
		if hi < 0 || lo < 0 || hi == 0 && lo == 0 {
			return false
		}
		i += 2
	}
	return true
}

// decodeUnreserved appends path with the escapes of unreserved characters decoded. Its escapes may be invalid.
func decodeUnreserved(dst, path []byte) []byte {
	for i := 0; i < len(path); i++ {
		if c, ok := escape(path[i:]); ok && unreserved(c) {
			dst = append(dst, c)
			i += 2
			continue
		}
		dst = append(dst, path[i])
	}
	return dst
}

// secondReading appends path as a server might read it that decodes every escape, ignores what follows a semicolon in a
// segment, takes a backslash for a slash and merges slashes. ok is false when the order of these steps could matter: a dot
// segment comes of them, or a slash is escaped behind a semicolon. No honest client sends that.
func secondReading(dst, path []byte) (second []byte, ok bool) {
	parameter := false
	start := len(dst) // of the segment
	for i := 0; i < len(path); i++ {
		c, escaped := escape(path[i:])
		if escaped {
			i += 2
		} else {
			c = path[i]
		}
		if c == '\\' {
			c = '/'
		}
		switch {
		case c == ';':
			parameter = true
		case c != '/' && !parameter:
			dst = append(dst, c)
		case c == '/':
			if parameter && escaped || dots(dst[start:]) != 0 {
				return dst, false
			}
			parameter = false
			if len(dst) == 0 || dst[len(dst)-1] != '/' {
				dst = append(dst, c)
			}
			start = len(dst)
		}
	}
	return dst, dots(dst[start:]) == 0
}

// escape decodes the escape at the start of b.
func escape(b []byte) (c byte, ok bool) {
	if len(b) < 3 || b[0] != '%' {
		return 0, false
	}
	hi, lo := unhex(b[1]), unhex(b[2])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

// removeDots removes dot segments in place (RFC 3986 section 5.2.4).
func removeDots(p []byte) []byte {
	out := 0
	for i := 0; i < len(p); {
		// p[i] is the '/' that starts a segment (or anything, in a relative path: then it is copied).
		end := i + 1
		for end < len(p) && p[end] != '/' {
			end++
		}
		last := end == len(p)
		switch dots(p[i+1 : end]) {
		case 1:
		case 2:
			for out > 0 {
				if out--; p[out] == '/' {
					break
				}
			}
		default:
			out += copy(p[out:], p[i:end])
			i = end
			continue
		}
		if last {
			p[out] = '/'
			out++
		}
		i = end
	}
	return p[:out]
}

// dots returns 1 for ".", 2 for "..", else 0.
func dots(segment []byte) int {
	switch {
	case len(segment) == 1 && segment[0] == '.':
		return 1
	case len(segment) == 2 && segment[0] == '.' && segment[1] == '.':
		return 2
	}
	return 0
}

func unreserved(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '.' || c == '_' || c == '~'
}

func unhex(c byte) int {
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
