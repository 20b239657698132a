package accesslog

import (
	"bytes"
	"fmt"
	"strings"
)

var question = []byte("?")

// path compiles PATH(query:which): query is WQ, with it, or NQ, without; which is PATH, ORIG (x-envoy-original-path), or
// ORIG_OR_PATH for the first that is there.
func (c *Compiler) path(call call) (op, error) {
	query, which, _ := strings.Cut(call.params, ":")
	field := map[string]string{"PATH": ":path", "ORIG": "x-envoy-original-path", "ORIG_OR_PATH": "x-envoy-original-path?:path", "": "x-envoy-original-path?:path"}[which]
	if field == "" || query != "WQ" && query != "NQ" && query != "" {
		return op{}, fmt.Errorf("got %q for %%PATH%%, want WQ or NQ, and behind a colon PATH, ORIG or ORIG_OR_PATH", clip(call.params))
	}
	name := "REQ"
	if query == "NQ" {
		name = "REQ_WITHOUT_QUERY"
	}
	return c.field(callTo(name, field, call.length))
}

func callTo(name, params string, length int) call {
	return call{name: name, params: params, hasParams: true, length: length}
}

// queryParam compiles QUERY_PARAM(name):length.
func queryParam(call call) (op, error) {
	if call.params == "" {
		return op{}, fmt.Errorf("got %%QUERY_PARAM%% without a name, want %%QUERY_PARAM(name)%%")
	}
	return op{text: call.params, max: call.length, write: (*op).queryParam}, nil
}

// queryParam writes the first parameter of its name.
func (o *op) queryParam(dst []byte, r *Record) ([]byte, valueKind) {
	_, query, _ := bytes.Cut(r.Path, question)
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte("&"))
		name, value, _ := bytes.Cut(pair, []byte("="))
		from := len(dst)
		dst = appendDecoded(dst, name)
		found := string(dst[from:]) == o.text
		if dst = dst[:from]; !found {
			continue
		}
		dst = appendDecoded(dst, value)
		if o.max >= 0 && len(dst)-from > o.max {
			dst = dst[:from+o.max]
		}
		return dst, text
	}
	return dst, missing
}

// appendDecoded writes what percent signs stand for (RFC 3986 section 2.1). What is no such triplet stays as it is.
func appendDecoded(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi < 16 && lo < 16 {
				dst = append(dst, hi<<4|lo)
				i += 2
				continue
			}
		}
		dst = append(dst, s[i])
	}
	return dst
}

// unhex is the value of a digit, 16 of what is none.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 16
}
