package http1test

import "strings"

// Hosts are requests that differ in Host.
func Hosts() []Probe {
	host := func(v string) string { return crlf("GET / HTTP/1.1", "Host: "+v) }
	var probes []Probe
	for _, v := range []string{
		"a", "A.b-c_d", "a:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80", "[2001:db8::7:1]", "[::ffff:1.2.3.4]",
		"[1:2:3:4:5:6:7:8]", "a.", "xn--nxasmq6b", "a%20b", "a!$&'()*+;=~b",
	} {
		probes = append(probes, Probe{"valid " + v, host(v), ""})
	}
	for _, v := range []string{
		"", " ", ":80", "a:", "a:0", "a:65536", "a:080000", "a:8x", "a:-1", "a:+1", "a: 80", "a b", "a\tb", "a/b", "a?b", "a#b",
		"u@a", "u:p@a", "a,b", "a, a", `a\b`, "a\"b", "<a>", "http://a", "é", "\xff", "a%", "a%2", "a%zz", "[::1", "::1", "[]",
		"[1]", "[1.2.3.4]", "[::1]x", "[::1]:", "[:::1]", "[1::2::3]", "[1:2:3:4:5:6:7]", "[1:2:3:4:5:6:7:8:9]", "[::12345]",
		"[::1.2.3]", "[::1.2.3.256]", "[::01.2.3.4]", "[fe80::1%25eth0]", "[v1.a]", "[::g]", "a[", "a]", strings.Repeat("a", 256),
	} {
		probes = append(probes, Probe{"invalid " + v, host(v), "http1.invalid_host"})
	}
	return append(probes, []Probe{
		{"missing", crlf("GET / HTTP/1.1"), "http1.missing_host"},
		{"missing in 1.0", crlf("GET / HTTP/1.0"), ""},
		{"empty in 1.0", crlf("GET / HTTP/1.0", "Host:"), "http1.invalid_host"},
		{"duplicate", get("Host: b"), "http1.duplicate_host"},
		{"duplicate and equal", get("Host: a"), "http1.duplicate_host"},
		{"duplicate in another case", get("hOST: a"), "http1.duplicate_host"},
		{"duplicate in 1.0", crlf("GET / HTTP/1.0", "Host: a", "Host: a"), "http1.duplicate_host"},
		{"invalid beside an absolute form", crlf("GET http://a/ HTTP/1.1", "Host: a/b"), "http1.invalid_host"},
	}...)
}

// Fields are requests that differ in fields that frame nothing.
func Fields() []Probe {
	return []Probe{
		{"empty value", get("A:"), ""},
		{"no space", get("A:b"), ""},
		{"tabs around", get("A:\t b \t"), ""},
		{"tab within", get("A: b\tc"), ""},
		{"colon in value", get("A: b:c"), ""},
		{"obs-text", get("A: \xe9"), ""},
		{"all token characters", get("!#$%&'*+-.^_`|~1aZ: b"), ""},
		{"folding with space", get("A: b", " c"), "http1.line_folding"},
		{"folding with tab", get("A: b", "\tc"), "http1.line_folding"},
		{"folding of the first field", crlf("GET / HTTP/1.1", " Host: a"), "http1.line_folding"},
		{"folded empty line", get("A: b", " "), "http1.line_folding"},
		{"space before colon", get("A : b"), "http1.invalid_header_name"},
		{"tab before colon", get("A\t: b"), "http1.invalid_header_name"},
		{"space in name", get("A B: c"), "http1.invalid_header_name"},
		{"no name", get(": b"), "http1.invalid_header_name"},
		{"no colon", get("Ab"), "http1.invalid_header_name"},
		{"NUL in name", get("A\x00: b"), "http1.invalid_header_name"},
		{"control in name", get("A\x01: b"), "http1.invalid_header_name"},
		{"non-ASCII name", get("Ä: b"), "http1.invalid_header_name"},
		{"brackets in name", get("A[1]: b"), "http1.invalid_header_name"},
		{"slash in name", get("A/b: c"), "http1.invalid_header_name"},
		{"NUL in value", get("A: b\x00c"), "http1.invalid_header_value"},
		{"NUL at end of value", get("A: b\x00"), "http1.invalid_header_value"},
		{"bell in value", get("A: \a"), "http1.invalid_header_value"},
		{"escape in value", get("A: longer than eight bytes \x1b[0m"), "http1.invalid_header_value"},
		{"DEL in value", get("A: longer than eight bytes \x7f"), "http1.invalid_header_value"},
		{"form feed in value", get("A: b\fc"), "http1.invalid_header_value"},
		{"vertical tab in value", get("A: b\vc"), "http1.invalid_header_value"},
		{"bare CR in value", get("A: b\rc"), "http1.bare_cr"},
		{"bare CR at the end", get("A: b\r"), "http1.bare_cr"},
		{"bare CR in name", get("A\r: b"), "http1.bare_cr"},
		{"bare LF between fields", "GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", "http1.bare_lf"},
		{"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", "http1.bare_lf"},
		{"LF CR", "GET / HTTP/1.1\r\nHost: a\n\r\r\n\r\n", "http1.bare_lf"},
		{"connection list", get("Connection: a, b ,c"), ""},
		{"connection with empty elements", get("Connection: ,a,,"), ""},
		{"connection with junk", get("Connection: a b"), "http1.invalid_connection_header"},
		{"connection with quotes", get(`Connection: "close"`), "http1.invalid_connection_header"},
		{"connection with very many", get("Connection: " + strings.Repeat("a,", 17)), "http1.invalid_connection_header"},
		{"connection with very many lines", get(strings.Split(strings.Repeat("Connection: a|", 16)+"Connection: a", "|")...), "http1.invalid_connection_header"},
		{"100-continue", get("Expect: 100-Continue"), ""},
		{"100-continue to 1.0", crlf("GET / HTTP/1.0", "Expect: 100-continue"), ""},
		{"unknown expectation in 1.0", crlf("GET / HTTP/1.0", "Expect: x"), ""},
		{"unknown expectation", get("Expect: 200-ok"), "http1.unknown_expectation"},
		{"two expectations", get("Expect: 100-continue", "Expect: 100-continue"), "http1.unknown_expectation"},
		{"list of expectations", get("Expect: 100-continue, x"), "http1.unknown_expectation"},
		{"upgrade", get("Connection: upgrade", "Upgrade: websocket"), ""},
		{"two upgrades", get("Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c"), "http1.invalid_upgrade"},
		{"upgrade with body", get("Connection: upgrade", "Upgrade: websocket", "Content-Length: 1") + "a", "http1.invalid_upgrade"},
		{"upgrade with chunks", get("Connection: upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked") + "0\r\n\r\n", "http1.invalid_upgrade"},
		{"TRACE", line("TRACE / HTTP/1.1"), ""},
		{"TRACE with body", crlf("TRACE / HTTP/1.1", "Host: a", "Content-Length: 1") + "a", "http1.trace_with_body"},
	}
}

// Framing are requests that differ in how their body is delimited.
func Framing() []Probe {
	return []Probe{
		{"length", get("Content-Length: 3") + "abc", ""},
		{"length 0", get("Content-Length: 0"), ""},
		{"length with leading zeros", get("Content-Length: 003") + "abc", ""},
		{"length of 19 digits", get("Content-Length: 0000000000000000003") + "abc", ""},
		{"length too large", get("Content-Length: 9223372036854775808"), "http1.invalid_content_length"},
		{"length that overflows 64 bits", get("Content-Length: 18446744073709551619"), "http1.invalid_content_length"},
		{"length of many digits", get("Content-Length: 00000000000000000003"), "http1.invalid_content_length"},
		{"length with plus", get("Content-Length: +3"), "http1.invalid_content_length"},
		{"length with minus", get("Content-Length: -3"), "http1.invalid_content_length"},
		{"length in hex", get("Content-Length: 0x3"), "http1.invalid_content_length"},
		{"length in hex digits", get("Content-Length: a"), "http1.invalid_content_length"},
		{"length with fraction", get("Content-Length: 3.0"), "http1.invalid_content_length"},
		{"length with exponent", get("Content-Length: 1e1"), "http1.invalid_content_length"},
		{"length with underscore", get("Content-Length: 1_0"), "http1.invalid_content_length"},
		{"length with space", get("Content-Length: 1 0"), "http1.invalid_content_length"},
		{"length with tab", get("Content-Length: 1\t0"), "http1.invalid_content_length"},
		{"length empty", get("Content-Length:"), "http1.invalid_content_length"},
		{"length list", get("Content-Length: 3, 3"), "http1.invalid_content_length"},
		{"length list that differs", get("Content-Length: 3,4"), "http1.invalid_content_length"},
		{"length with semicolon", get("Content-Length: 3;a"), "http1.invalid_content_length"},
		{"length in quotes", get(`Content-Length: "3"`), "http1.invalid_content_length"},
		{"length in other digits", get("Content-Length: \u0663"), "http1.invalid_content_length"},
		{"duplicate length", get("Content-Length: 3", "Content-Length: 4"), "http1.duplicate_content_length"},
		{"duplicate equal length", get("Content-Length: 3", "content-length: 3"), "http1.duplicate_content_length"},
		{"chunked", get("Transfer-Encoding: chunked") + "0\r\n\r\n", ""},
		{"chunked in capitals", get("Transfer-Encoding: CHUNKED") + "0\r\n\r\n", ""},
		{"chunked and length", get("Transfer-Encoding: chunked", "Content-Length: 5"), "http1.content_length_and_transfer_encoding"},
		{"length and chunked", get("Content-Length: 5", "Transfer-Encoding: chunked"), "http1.content_length_and_transfer_encoding"},
		{"length 0 and chunked", get("Content-Length: 0", "Transfer-Encoding: chunked"), "http1.content_length_and_transfer_encoding"},
		{"chunked in 1.0", crlf("POST / HTTP/1.0", "Transfer-Encoding: chunked"), "http1.transfer_encoding_in_http10"},
		{"chunked twice", get("Transfer-Encoding: chunked, chunked"), "http1.invalid_transfer_encoding"},
		{"chunked in two lines", get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "http1.invalid_transfer_encoding"},
		{"chunked and identity in two lines", get("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), "http1.invalid_transfer_encoding"},
		{"identity and chunked in two lines", get("Transfer-Encoding: identity", "Transfer-Encoding: chunked"), "http1.unknown_transfer_encoding"},
		{"gzip, chunked", get("Transfer-Encoding: gzip, chunked"), "http1.invalid_transfer_encoding"},
		{"chunked, gzip", get("Transfer-Encoding: chunked, gzip"), "http1.invalid_transfer_encoding"},
		{"gzip", get("Transfer-Encoding: gzip"), "http1.unknown_transfer_encoding"},
		{"identity", get("Transfer-Encoding: identity"), "http1.unknown_transfer_encoding"},
		{"identity and length", get("Content-Length: 1", "Transfer-Encoding: identity") + "a", "http1.unknown_transfer_encoding"},
		{"unknown coding", get("Transfer-Encoding: xchunked"), "http1.unknown_transfer_encoding"},
		{"empty coding", get("Transfer-Encoding:"), "http1.invalid_transfer_encoding"},
		{"coding with comma", get("Transfer-Encoding: chunked,"), "http1.invalid_transfer_encoding"},
		{"coding with comma before", get("Transfer-Encoding: ,chunked"), "http1.invalid_transfer_encoding"},
		{"coding with parameter", get("Transfer-Encoding: chunked;a=b"), "http1.invalid_transfer_encoding"},
		{"coding in quotes", get(`Transfer-Encoding: "chunked"`), "http1.invalid_transfer_encoding"},
		{"coding with vertical tab", get("Transfer-Encoding: \vchunked"), "http1.invalid_header_value"},
		{"coding with NUL", get("Transfer-Encoding: chunked\x00"), "http1.invalid_header_value"},
		{"coding folded", get("Transfer-Encoding:", " chunked"), "http1.invalid_transfer_encoding"},
		{"coding with space before colon", get("Transfer-Encoding : chunked"), "http1.invalid_header_name"},
		{"coding by a long s", get("Tranſfer-Encoding: chunked"), "http1.invalid_header_name"},
		{"disguised coding is not forwarded as one", get("Transfer_Encoding: chunked"), ""},
	}
}
