// Package http1test has probes for HTTP/1.1 readers: messages, and whether a strict reader (RFC 9112) accepts them. They judge
// package http1 alone and the proxy as a whole.
package http1test

import (
	"slices"
	"strings"
)

// Probe is a whole request, head and body.
type Probe struct {
	Name, In string
	// Refused is the reason (http1.Error's Reason) why it must be refused: answered with that error's status, never forwarded, the
	// connection closed. Empty: it must be accepted, and nothing is left over behind it.
	Refused string
}

// Requests are all the probes.
func Requests() []Probe {
	return slices.Concat(RequestLines(), Targets(), Hosts(), Fields(), Framing())
}

// crlf joins the lines of a head.
func crlf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// get is a request with these lines after its request line and Host.
func get(lines ...string) string {
	return crlf(append([]string{"GET / HTTP/1.1", "Host: a"}, lines...)...)
}

// line is a request with this request line.
func line(s string) string { return crlf(s, "Host: a") }

// RequestLines are requests that differ in their first line.
func RequestLines() []Probe {
	return []Probe{
		{"plain", line("GET /plain HTTP/1.1"), ""},
		{"own method", line("FROB-1 / HTTP/1.1"), ""},
		{"lower-case method is another method", line("get / HTTP/1.1"), ""},
		{"one empty line before", "\r\n" + line("GET / HTTP/1.1"), ""},
		{"two empty lines before", "\r\n\r\n" + line("GET / HTTP/1.1"), "http1.codec_error"},
		{"LF before", "\n" + line("GET / HTTP/1.1"), "http1.bare_lf"},
		{"CR before", "\r" + line("GET / HTTP/1.1"), "http1.bare_cr"},
		{"space before", line(" GET / HTTP/1.1"), "http1.codec_error"},
		{"tab before", line("\tGET / HTTP/1.1"), "http1.invalid_method"},
		{"0.9", "GET /\r\n", "http1.codec_error"},
		{"0.9 with version", line("GET / HTTP/0.9"), "http1.unsupported_version"},
		{"no target", line("GET HTTP/1.1"), "http1.codec_error"},
		{"empty target", line("GET  HTTP/1.1"), "http1.codec_error"},
		{"no method", line("/ HTTP/1.1"), "http1.codec_error"},
		{"two spaces before target", line("GET  / HTTP/1.1"), "http1.codec_error"},
		{"two spaces before version", line("GET /  HTTP/1.1"), "http1.codec_error"},
		{"tab for space", line("GET\t/\tHTTP/1.1"), "http1.codec_error"},
		{"tab after method", line("GET\t / HTTP/1.1"), "http1.invalid_method"},
		{"vertical tab", line("GET\v/ HTTP/1.1"), "http1.codec_error"},
		{"space in target", line("GET /a b HTTP/1.1"), "http1.codec_error"},
		{"tab in target", line("GET /a\tb HTTP/1.1"), "http1.invalid_target"},
		{"space at end", line("GET / HTTP/1.1 "), "http1.codec_error"},
		{"tab at end", line("GET / HTTP/1.1\t"), "http1.invalid_version"},
		{"LF only", "GET / HTTP/1.1\nHost: a\n\n", "http1.bare_lf"},
		{"CR only", "GET / HTTP/1.1\rHost: a\r\r", "http1.bare_cr"},
		{"CR CR LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "http1.bare_cr"},
		{"NUL in method", line("G\x00T / HTTP/1.1"), "http1.invalid_method"},
		{"colon in method", line("GE:T / HTTP/1.1"), "http1.invalid_method"},
		{"brackets in method", line("G(ET / HTTP/1.1"), "http1.invalid_method"},
		{"non-ASCII method", line("GÉT / HTTP/1.1"), "http1.invalid_method"},
		{"over-long method", line(strings.Repeat("A", 33) + " / HTTP/1.1"), "http1.unknown_method"},
		{"version in lower case", line("GET / http/1.1"), "http1.invalid_version"},
		{"version without slash", line("GET / HTTP1.1"), "http1.invalid_version"},
		{"version with two digits", line("GET / HTTP/1.10"), "http1.invalid_version"},
		{"version with leading zero", line("GET / HTTP/01.1"), "http1.invalid_version"},
		{"version without minor", line("GET / HTTP/1"), "http1.invalid_version"},
		{"version with comma", line("GET / HTTP/1,1"), "http1.invalid_version"},
		{"version with plus", line("GET / HTTP/+1.1"), "http1.invalid_version"},
		{"another protocol", line("GET / HTTPS/1.1"), "http1.invalid_version"},
		{"1.2", line("GET / HTTP/1.2"), "http1.unsupported_version"},
		{"2.0", line("GET / HTTP/2.0"), "http1.unsupported_version"},
		{"3.0", line("GET / HTTP/3.0"), "http1.unsupported_version"},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http1.http2_preface"},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", "http1.codec_error"},
	}
}

// Targets are requests that differ in their target.
func Targets() []Probe {
	return []Probe{
		{"fragment", line("GET /a#b HTTP/1.1"), "http1.invalid_target"},
		{"non-ASCII", line("GET /é HTTP/1.1"), "http1.invalid_target"},
		{"byte over 0x7f", line("GET /\xff HTTP/1.1"), "http1.invalid_target"},
		{"NUL", line("GET /\x00 HTTP/1.1"), "http1.invalid_target"},
		{"DEL", line("GET /\x7f HTTP/1.1"), "http1.invalid_target"},
		{"no leading slash", line("GET a HTTP/1.1"), "http1.invalid_target"},
		{"question mark first", line("GET ?a HTTP/1.1"), "http1.invalid_target"},
		{"backslash first", line(`GET \a HTTP/1.1`), "http1.invalid_target"},
		{"GET *", line("GET * HTTP/1.1"), "http1.invalid_target"},
		{"OPTIONS *", line("OPTIONS * HTTP/1.1"), ""},
		{"OPTIONS *x", line("OPTIONS *x HTTP/1.1"), "http1.invalid_target"},
		{"OPTIONS /*", line("OPTIONS /* HTTP/1.1"), ""},
		{"absolute", line("GET http://a/ HTTP/1.1"), ""},
		{"absolute in capitals", line("GET HTTP://a/ HTTP/1.1"), ""},
		{"absolute https", line("GET https://a/ HTTP/1.1"), ""},
		{"absolute without authority", line("GET http:///a HTTP/1.1"), "http1.invalid_authority"},
		{"absolute without slashes", line("GET http:a HTTP/1.1"), "http1.invalid_target"},
		{"absolute with one slash", line("GET http:/a HTTP/1.1"), "http1.invalid_target"},
		{"another scheme", line("GET ftp://a/ HTTP/1.1"), "http1.invalid_target"},
		{"javascript", line("GET javascript:x HTTP/1.1"), "http1.invalid_target"},
		{"user information", line("GET http://u:p@a/ HTTP/1.1"), "http1.invalid_authority"},
		{"user only", line("GET http://u@a/ HTTP/1.1"), "http1.invalid_authority"},
		{"backslash in authority", line(`GET http://a\b/ HTTP/1.1`), "http1.invalid_authority"},
		{"port is no number", line("GET http://a:b/ HTTP/1.1"), "http1.invalid_authority"},
		{"port too large", line("GET http://a:65536/ HTTP/1.1"), "http1.invalid_authority"},
		{"port 0", line("GET http://a:0/ HTTP/1.1"), "http1.invalid_authority"},
		{"two ports", line("GET http://a:1:2/ HTTP/1.1"), "http1.invalid_authority"},
		{"absolute without Host", crlf("GET http://a/ HTTP/1.1"), "http1.missing_host"},
		{"CONNECT", line("CONNECT a:443 HTTP/1.1"), ""},
		{"CONNECT in 1.0", line("CONNECT a:443 HTTP/1.0"), ""},
		{"CONNECT with another Host", crlf("CONNECT a:443 HTTP/1.1", "Host: b"), ""},
		{"CONNECT without Host", crlf("CONNECT a:443 HTTP/1.1"), "http1.missing_host"},
		{"CONNECT to an IPv6 address", line("CONNECT [::1]:443 HTTP/1.1"), ""},
		{"CONNECT to port 0", line("CONNECT a:0 HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT without host", line("CONNECT :443 HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT with user information", line("CONNECT u@a:443 HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT with a path", line("CONNECT a:443/ HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT with a query", line("CONNECT a:443?b HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT to *", line("CONNECT * HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT with a body", crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Content-Length: 1") + "a", "http1.connect_with_body"},
		{"CONNECT with length 0", crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Content-Length: 0"), "http1.connect_with_body"},
		{"CONNECT with chunks", crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "0\r\n\r\n", "http1.connect_with_body"},
		{"CONNECT with an upgrade", crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket"), "http1.invalid_upgrade"},
		{"CONNECT in lower case is another method", line("connect a:443 HTTP/1.1"), "http1.invalid_target"},
		{"CONNECT without port", line("CONNECT a HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT to a path", line("CONNECT / HTTP/1.1"), "http1.invalid_authority"},
		{"CONNECT to a URI", line("CONNECT http://a:80/ HTTP/1.1"), "http1.invalid_authority"},
		{"authority form with GET", line("GET a:443 HTTP/1.1"), "http1.invalid_target"},
	}
}
