package accesslog

import "unicode/utf8"

// Append writes the line for r. In a text every byte of a value that is no printable ASCII, and quotes and backslashes, become
// \xNN; in JSON a value is a JSON string in ASCII whatever its bytes are. So a value can end neither its field nor its line, and
// sends nothing to a terminal.
func (p *Program) Append(dst []byte, r *Record) []byte {
	if p.json != nil {
		dst, _ = p.json.append(dst, r, p.omit)
		return append(dst, '\n')
	}
	for i := range p.ops {
		o := &p.ops[i]
		if o.write == nil {
			dst = append(dst, o.text...)
			continue
		}
		from := len(dst)
		out, kind := o.write(o, dst, r)
		dst = out
		switch {
		case kind == text:
			dst = escape(dst, from, appendText)
		case kind == missing && !p.omit:
			dst = append(dst, '-')
		}
	}
	return dst
}

const hex = "0123456789abcdef"

// plain reports whether a byte stands for itself in a text and in JSON.
func plain(c byte) bool { return c >= ' ' && c < 0x7f && c != '"' && c != '\\' }

// escape replaces dst[from:] by what add makes of it.
func escape(dst []byte, from int, add func(dst, value []byte) []byte) []byte {
	to := len(dst)
	at := from
	for at < to && plain(dst[at]) {
		at++
	}
	if at == to {
		return dst
	}
	// The new form is written behind the old one, and moved over it.
	dst = add(dst, dst[at:to])
	return dst[:at+copy(dst[at:], dst[to:])]
}

func appendText(dst, value []byte) []byte {
	for _, c := range value {
		if plain(c) {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '\\', 'x', hex[c>>4], hex[c&15])
	}
	return dst
}

func appendJSON(dst, value []byte) []byte {
	for len(value) > 0 {
		c := value[0]
		switch {
		case plain(c):
			dst = append(dst, c)
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			// A byte that is no UTF-8 becomes U+FFFD.
			r, n := utf8.DecodeRune(value)
			value = value[n:]
			if r > 0xffff {
				r -= 0x10000
				dst = appendUnit(dst, 0xd800+r>>10)
				r = 0xdc00 + r&0x3ff
			}
			dst = appendUnit(dst, r)
			continue
		}
		value = value[1:]
	}
	return dst
}

func appendUnit(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
