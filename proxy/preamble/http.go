package preamble

import "bytes"

// preface2 is what a client of HTTP/2 sends first (RFC 9113 section 3.4).
const preface2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// MaxRequestLine is what of a request's first line is waited for.
const MaxRequestLine = 8 << 10

// The protocols that ReadHTTP tells apart, by their names as application protocols.
const (
	HTTP10 = "http/1.0"
	HTTP11 = "http/1.1"
	H2C    = "h2c"
)

// IsHTTP2 reports whether data begins with the preface of HTTP/2, and if not whether it may with more bytes.
func IsHTTP2(data []byte) (is, maybe bool) {
	return begins(data, preface2), startOf(data, preface2)
}

// ReadHTTP reports which HTTP a plaintext connection begins with, empty for none. done is false as long as more bytes are
// needed to tell; that is never so with MaxRequestLine. It does not judge a request beyond its first line's form.
func ReadHTTP(data []byte) (protocol string, done bool) {
	is, maybe := IsHTTP2(data)
	switch {
	case is:
		return H2C, true
	case maybe:
		return "", false
	}
	line := data[:min(len(data), MaxRequestLine)]
	end := bytes.IndexByte(line, '\n')
	if end >= 0 {
		line = bytes.TrimSuffix(line[:end], []byte{'\r'})
	}
	method := bytes.IndexByte(line, ' ')
	name := line
	if method >= 0 {
		name = line[:method]
	}
	for _, b := range name {
		if !isTokenByte(b) {
			return "", true
		}
	}
	if end < 0 {
		return "", len(data) >= MaxRequestLine
	}
	last := bytes.LastIndexByte(line, ' ')
	if method <= 0 || last == method || last == method+1 {
		return "", true
	}
	switch string(line[last+1:]) {
	case "HTTP/1.1":
		return HTTP11, true
	case "HTTP/1.0":
		return HTTP10, true
	}
	return "", true
}

// isTokenByte reports whether a method may contain b (RFC 9110 section 5.6.2).
func isTokenByte(b byte) bool {
	switch {
	case b >= '0' && b <= '9', b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z':
		return true
	}
	return bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0
}
