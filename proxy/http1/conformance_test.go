package http1

import (
	"errors"
	"strings"
	"testing"
)

// judge reads a whole message as a proxy does: head, then body. It returns the error, or what is left over and whether the
// message was complete.
func judge(in string, l Limits) (rest string, complete bool, err error) {
	r := new(Request)
	r.Reset()
	n, err := r.Parse([]byte(in), l)
	if err != nil || n == 0 {
		return in, false, err
	}
	in = in[n:]
	b := NewBody(r.Framing(), false)
	for {
		n, _, err := b.Next([]byte(in))
		if err != nil {
			return in, false, err
		}
		if n == 0 {
			return in, b.Done(), nil
		}
		in = in[n:]
	}
}

type probe struct {
	name, in string
	want     error // nil: accepted, complete, nothing left over
}

func runProbes(t *testing.T, probes []probe) {
	t.Helper()
	for _, p := range probes {
		t.Run(p.name, func(t *testing.T) {
			rest, complete, err := judge(p.in, Limits{})
			if !errors.Is(err, p.want) {
				t.Fatalf("error %v (%[1]d), want %v (%[2]d)", err, p.want)
			}
			if err == nil && (!complete || rest != "") {
				t.Fatalf("complete %v, left over %q", complete, rest)
			}
		})
	}
}

// get is a request with these lines after its request line and Host.
func get(lines ...string) string {
	return crlf(append([]string{"GET / HTTP/1.1", "Host: a"}, lines...)...)
}

// line is a request with this request line.
func line(s string) string { return crlf(s, "Host: a") }

func TestConformanceRequestLine(t *testing.T) {
	runProbes(t, []probe{
		{"plain", line("GET / HTTP/1.1"), nil},
		{"own method", line("FROB-1 / HTTP/1.1"), nil},
		{"lower-case method is another method", line("get / HTTP/1.1"), nil},
		{"one empty line before", "\r\n" + line("GET / HTTP/1.1"), nil},
		{"two empty lines before", "\r\n\r\n" + line("GET / HTTP/1.1"), ErrRequestLine},
		{"LF before", "\n" + line("GET / HTTP/1.1"), ErrBareLF},
		{"CR before", "\r" + line("GET / HTTP/1.1"), ErrBareCR},
		{"space before", line(" GET / HTTP/1.1"), ErrRequestLine},
		{"tab before", line("\tGET / HTTP/1.1"), ErrMethod},
		{"0.9", "GET /\r\n", ErrRequestLine},
		{"0.9 with version", line("GET / HTTP/0.9"), ErrVersionUnsupported},
		{"no target", line("GET HTTP/1.1"), ErrRequestLine},
		{"empty target", line("GET  HTTP/1.1"), ErrRequestLine},
		{"no method", line("/ HTTP/1.1"), ErrRequestLine},
		{"two spaces before target", line("GET  / HTTP/1.1"), ErrRequestLine},
		{"two spaces before version", line("GET /  HTTP/1.1"), ErrRequestLine},
		{"tab for space", line("GET\t/\tHTTP/1.1"), ErrRequestLine},
		{"tab after method", line("GET\t / HTTP/1.1"), ErrMethod},
		{"vertical tab", line("GET\v/ HTTP/1.1"), ErrRequestLine},
		{"space in target", line("GET /a b HTTP/1.1"), ErrRequestLine},
		{"tab in target", line("GET /a\tb HTTP/1.1"), ErrTarget},
		{"space at end", line("GET / HTTP/1.1 "), ErrRequestLine},
		{"tab at end", line("GET / HTTP/1.1\t"), ErrVersion},
		{"LF only", "GET / HTTP/1.1\nHost: a\n\n", ErrBareLF},
		{"CR only", "GET / HTTP/1.1\rHost: a\r\r", ErrBareCR},
		{"CR CR LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", ErrBareCR},
		{"NUL in method", line("G\x00T / HTTP/1.1"), ErrMethod},
		{"colon in method", line("GE:T / HTTP/1.1"), ErrMethod},
		{"brackets in method", line("G(ET / HTTP/1.1"), ErrMethod},
		{"non-ASCII method", line("GÉT / HTTP/1.1"), ErrMethod},
		{"over-long method", line(strings.Repeat("A", 33) + " / HTTP/1.1"), ErrMethodTooLong},
		{"version in lower case", line("GET / http/1.1"), ErrVersion},
		{"version without slash", line("GET / HTTP1.1"), ErrVersion},
		{"version with two digits", line("GET / HTTP/1.10"), ErrVersion},
		{"version with leading zero", line("GET / HTTP/01.1"), ErrVersion},
		{"version without minor", line("GET / HTTP/1"), ErrVersion},
		{"version with comma", line("GET / HTTP/1,1"), ErrVersion},
		{"version with plus", line("GET / HTTP/+1.1"), ErrVersion},
		{"another protocol", line("GET / HTTPS/1.1"), ErrVersion},
		{"1.2", line("GET / HTTP/1.2"), ErrVersionUnsupported},
		{"2.0", line("GET / HTTP/2.0"), ErrVersionUnsupported},
		{"3.0", line("GET / HTTP/3.0"), ErrVersionUnsupported},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ErrHTTP2Preface},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", ErrRequestLine},
	})
}

func TestConformanceTarget(t *testing.T) {
	runProbes(t, []probe{
		{"fragment", line("GET /a#b HTTP/1.1"), ErrTarget},
		{"non-ASCII", line("GET /é HTTP/1.1"), ErrTarget},
		{"byte over 0x7f", line("GET /\xff HTTP/1.1"), ErrTarget},
		{"NUL", line("GET /\x00 HTTP/1.1"), ErrTarget},
		{"DEL", line("GET /\x7f HTTP/1.1"), ErrTarget},
		{"no leading slash", line("GET a HTTP/1.1"), ErrTarget},
		{"question mark first", line("GET ?a HTTP/1.1"), ErrTarget},
		{"backslash first", line(`GET \a HTTP/1.1`), ErrTarget},
		{"GET *", line("GET * HTTP/1.1"), ErrTarget},
		{"OPTIONS *", line("OPTIONS * HTTP/1.1"), nil},
		{"OPTIONS *x", line("OPTIONS *x HTTP/1.1"), ErrTarget},
		{"OPTIONS /*", line("OPTIONS /* HTTP/1.1"), nil},
		{"absolute", line("GET http://a/ HTTP/1.1"), nil},
		{"absolute in capitals", line("GET HTTP://a/ HTTP/1.1"), nil},
		{"absolute https", line("GET https://a/ HTTP/1.1"), nil},
		{"absolute without authority", line("GET http:///a HTTP/1.1"), ErrAuthority},
		{"absolute without slashes", line("GET http:a HTTP/1.1"), ErrTarget},
		{"absolute with one slash", line("GET http:/a HTTP/1.1"), ErrTarget},
		{"another scheme", line("GET ftp://a/ HTTP/1.1"), ErrTarget},
		{"javascript", line("GET javascript:x HTTP/1.1"), ErrTarget},
		{"user information", line("GET http://u:p@a/ HTTP/1.1"), ErrAuthority},
		{"user only", line("GET http://u@a/ HTTP/1.1"), ErrAuthority},
		{"backslash in authority", line(`GET http://a\b/ HTTP/1.1`), ErrAuthority},
		{"port is no number", line("GET http://a:b/ HTTP/1.1"), ErrAuthority},
		{"port too large", line("GET http://a:65536/ HTTP/1.1"), ErrAuthority},
		{"port 0", line("GET http://a:0/ HTTP/1.1"), ErrAuthority},
		{"two ports", line("GET http://a:1:2/ HTTP/1.1"), ErrAuthority},
		{"absolute without Host", crlf("GET http://a/ HTTP/1.1"), ErrHostMissing},
		{"CONNECT", line("CONNECT a:443 HTTP/1.1"), ErrConnect},
		{"CONNECT in 1.0", line("CONNECT a:443 HTTP/1.0"), ErrConnect},
		{"CONNECT without port", line("CONNECT a HTTP/1.1"), ErrAuthority},
		{"CONNECT to a path", line("CONNECT / HTTP/1.1"), ErrAuthority},
		{"CONNECT to a URI", line("CONNECT http://a:80/ HTTP/1.1"), ErrAuthority},
		{"authority form with GET", line("GET a:443 HTTP/1.1"), ErrTarget},
	})
}

func TestConformanceHost(t *testing.T) {
	host := func(v string) string { return crlf("GET / HTTP/1.1", "Host: "+v) }
	var probes []probe
	for _, v := range []string{
		"a", "A.b-c_d", "a:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80", "[2001:db8::7:1]", "[::ffff:1.2.3.4]",
		"[1:2:3:4:5:6:7:8]", "a.", "xn--nxasmq6b", "a%20b", "a!$&'()*+;=~b",
	} {
		probes = append(probes, probe{"valid " + v, host(v), nil})
	}
	for _, v := range []string{
		"", " ", ":80", "a:", "a:0", "a:65536", "a:080000", "a:8x", "a:-1", "a:+1", "a: 80", "a b", "a\tb", "a/b", "a?b", "a#b",
		"u@a", "u:p@a", "a,b", "a, a", `a\b`, "a\"b", "<a>", "http://a", "é", "\xff", "a%", "a%2", "a%zz", "[::1", "::1", "[]",
		"[1]", "[1.2.3.4]", "[::1]x", "[::1]:", "[:::1]", "[1::2::3]", "[1:2:3:4:5:6:7]", "[1:2:3:4:5:6:7:8:9]", "[::12345]",
		"[::1.2.3]", "[::1.2.3.256]", "[::01.2.3.4]", "[fe80::1%25eth0]", "[v1.a]", "[::g]", "a[", "a]", strings.Repeat("a", 256),
	} {
		probes = append(probes, probe{"invalid " + v, host(v), ErrHost})
	}
	runProbes(t, append(probes, []probe{
		{"missing", crlf("GET / HTTP/1.1"), ErrHostMissing},
		{"missing in 1.0", crlf("GET / HTTP/1.0"), nil},
		{"empty in 1.0", crlf("GET / HTTP/1.0", "Host:"), ErrHost},
		{"duplicate", get("Host: b"), ErrHostDuplicate},
		{"duplicate and equal", get("Host: a"), ErrHostDuplicate},
		{"duplicate in another case", get("hOST: a"), ErrHostDuplicate},
		{"duplicate in 1.0", crlf("GET / HTTP/1.0", "Host: a", "Host: a"), ErrHostDuplicate},
		{"invalid beside an absolute form", crlf("GET http://a/ HTTP/1.1", "Host: a/b"), ErrHost},
	}...))
}

func TestConformanceFields(t *testing.T) {
	runProbes(t, []probe{
		{"empty value", get("A:"), nil},
		{"no space", get("A:b"), nil},
		{"tabs around", get("A:\t b \t"), nil},
		{"tab within", get("A: b\tc"), nil},
		{"colon in value", get("A: b:c"), nil},
		{"obs-text", get("A: \xe9"), nil},
		{"all token characters", get("!#$%&'*+-.^_`|~1aZ: b"), nil},
		{"folding with space", get("A: b", " c"), ErrFolding},
		{"folding with tab", get("A: b", "\tc"), ErrFolding},
		{"folding of the first field", crlf("GET / HTTP/1.1", " Host: a"), ErrFolding},
		{"folded empty line", get("A: b", " "), ErrFolding},
		{"space before colon", get("A : b"), ErrFieldName},
		{"tab before colon", get("A\t: b"), ErrFieldName},
		{"space in name", get("A B: c"), ErrFieldName},
		{"no name", get(": b"), ErrFieldName},
		{"no colon", get("Ab"), ErrFieldName},
		{"NUL in name", get("A\x00: b"), ErrFieldName},
		{"control in name", get("A\x01: b"), ErrFieldName},
		{"non-ASCII name", get("Ä: b"), ErrFieldName},
		{"brackets in name", get("A[1]: b"), ErrFieldName},
		{"slash in name", get("A/b: c"), ErrFieldName},
		{"NUL in value", get("A: b\x00c"), ErrFieldValue},
		{"NUL at end of value", get("A: b\x00"), ErrFieldValue},
		{"bell in value", get("A: \a"), ErrFieldValue},
		{"escape in value", get("A: longer than eight bytes \x1b[0m"), ErrFieldValue},
		{"DEL in value", get("A: longer than eight bytes \x7f"), ErrFieldValue},
		{"form feed in value", get("A: b\fc"), ErrFieldValue},
		{"vertical tab in value", get("A: b\vc"), ErrFieldValue},
		{"bare CR in value", get("A: b\rc"), ErrBareCR},
		{"bare CR at the end", get("A: b\r"), ErrBareCR},
		{"bare CR in name", get("A\r: b"), ErrBareCR},
		{"bare LF between fields", "GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", ErrBareLF},
		{"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", ErrBareLF},
		{"LF CR", "GET / HTTP/1.1\r\nHost: a\n\r\r\n\r\n", ErrBareLF},
		{"connection list", get("Connection: a, b ,c"), nil},
		{"connection with empty elements", get("Connection: ,a,,"), nil},
		{"connection with junk", get("Connection: a b"), ErrConnectionOptions},
		{"connection with quotes", get(`Connection: "close"`), ErrConnectionOptions},
		{"connection with very many", get("Connection: " + strings.Repeat("a,", 17)), ErrConnectionOptions},
		{"connection with very many lines", get(strings.Split(strings.Repeat("Connection: a|", 16)+"Connection: a", "|")...), ErrConnectionOptions},
		{"100-continue", get("Expect: 100-Continue"), nil},
		{"100-continue to 1.0", crlf("GET / HTTP/1.0", "Expect: 100-continue"), nil},
		{"unknown expectation in 1.0", crlf("GET / HTTP/1.0", "Expect: x"), nil},
		{"unknown expectation", get("Expect: 200-ok"), ErrExpect},
		{"two expectations", get("Expect: 100-continue", "Expect: 100-continue"), ErrExpect},
		{"list of expectations", get("Expect: 100-continue, x"), ErrExpect},
		{"upgrade", get("Connection: upgrade", "Upgrade: websocket"), nil},
		{"two upgrades", get("Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c"), ErrUpgrade},
		{"upgrade with body", get("Connection: upgrade", "Upgrade: websocket", "Content-Length: 1") + "a", ErrUpgrade},
		{"upgrade with chunks", get("Connection: upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked") + "0\r\n\r\n", ErrUpgrade},
		{"TRACE", line("TRACE / HTTP/1.1"), nil},
		{"TRACE with body", crlf("TRACE / HTTP/1.1", "Host: a", "Content-Length: 1") + "a", ErrTraceBody},
	})
}

func TestConformanceFraming(t *testing.T) {
	runProbes(t, []probe{
		{"length", get("Content-Length: 3") + "abc", nil},
		{"length 0", get("Content-Length: 0"), nil},
		{"length with leading zeros", get("Content-Length: 003") + "abc", nil},
		{"length of 19 digits", get("Content-Length: 0000000000000000003") + "abc", nil},
		{"length too large", get("Content-Length: 9223372036854775808"), ErrLength},
		{"length that overflows 64 bits", get("Content-Length: 18446744073709551619"), ErrLength},
		{"length of many digits", get("Content-Length: 00000000000000000003"), ErrLength},
		{"length with plus", get("Content-Length: +3"), ErrLength},
		{"length with minus", get("Content-Length: -3"), ErrLength},
		{"length in hex", get("Content-Length: 0x3"), ErrLength},
		{"length in hex digits", get("Content-Length: a"), ErrLength},
		{"length with fraction", get("Content-Length: 3.0"), ErrLength},
		{"length with exponent", get("Content-Length: 1e1"), ErrLength},
		{"length with underscore", get("Content-Length: 1_0"), ErrLength},
		{"length with space", get("Content-Length: 1 0"), ErrLength},
		{"length with tab", get("Content-Length: 1\t0"), ErrLength},
		{"length empty", get("Content-Length:"), ErrLength},
		{"length list", get("Content-Length: 3, 3"), ErrLength},
		{"length list that differs", get("Content-Length: 3,4"), ErrLength},
		{"length with semicolon", get("Content-Length: 3;a"), ErrLength},
		{"length in quotes", get(`Content-Length: "3"`), ErrLength},
		{"length in other digits", get("Content-Length: \u0663"), ErrLength},
		{"duplicate length", get("Content-Length: 3", "Content-Length: 4"), ErrLengthDuplicate},
		{"duplicate equal length", get("Content-Length: 3", "content-length: 3"), ErrLengthDuplicate},
		{"chunked", get("Transfer-Encoding: chunked") + "0\r\n\r\n", nil},
		{"chunked in capitals", get("Transfer-Encoding: CHUNKED") + "0\r\n\r\n", nil},
		{"chunked and length", get("Transfer-Encoding: chunked", "Content-Length: 5"), ErrLengthAndCoding},
		{"length and chunked", get("Content-Length: 5", "Transfer-Encoding: chunked"), ErrLengthAndCoding},
		{"length 0 and chunked", get("Content-Length: 0", "Transfer-Encoding: chunked"), ErrLengthAndCoding},
		{"chunked in 1.0", crlf("POST / HTTP/1.0", "Transfer-Encoding: chunked"), ErrCodingVersion},
		{"chunked twice", get("Transfer-Encoding: chunked, chunked"), ErrCoding},
		{"chunked in two lines", get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), ErrCoding},
		{"chunked and identity in two lines", get("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), ErrCoding},
		{"identity and chunked in two lines", get("Transfer-Encoding: identity", "Transfer-Encoding: chunked"), ErrCodingUnknown},
		{"gzip, chunked", get("Transfer-Encoding: gzip, chunked"), ErrCoding},
		{"chunked, gzip", get("Transfer-Encoding: chunked, gzip"), ErrCoding},
		{"gzip", get("Transfer-Encoding: gzip"), ErrCodingUnknown},
		{"identity", get("Transfer-Encoding: identity"), ErrCodingUnknown},
		{"identity and length", get("Content-Length: 1", "Transfer-Encoding: identity") + "a", ErrCodingUnknown},
		{"unknown coding", get("Transfer-Encoding: xchunked"), ErrCodingUnknown},
		{"empty coding", get("Transfer-Encoding:"), ErrCoding},
		{"coding with comma", get("Transfer-Encoding: chunked,"), ErrCoding},
		{"coding with comma before", get("Transfer-Encoding: ,chunked"), ErrCoding},
		{"coding with parameter", get("Transfer-Encoding: chunked;a=b"), ErrCoding},
		{"coding in quotes", get(`Transfer-Encoding: "chunked"`), ErrCoding},
		{"coding with vertical tab", get("Transfer-Encoding: \vchunked"), ErrFieldValue},
		{"coding with NUL", get("Transfer-Encoding: chunked\x00"), ErrFieldValue},
		{"coding folded", get("Transfer-Encoding:", " chunked"), ErrCoding},
		{"coding with space before colon", get("Transfer-Encoding : chunked"), ErrFieldName},
		{"coding by a long s", get("Tranſfer-Encoding: chunked"), ErrFieldName},
		{"disguised coding is not forwarded as one", get("Transfer_Encoding: chunked"), nil},
	})
}

func TestConformanceLimits(t *testing.T) {
	tests := []struct {
		name, in string
		l        Limits
		want     error
	}{
		{"default count", get(strings.Split(strings.Repeat("a: b|", 98)+"a: b", "|")...), Limits{}, nil},
		{"over the default count", get(strings.Split(strings.Repeat("a: b|", 99)+"a: b", "|")...), Limits{}, ErrTooManyFields},
		{"10,000 fields", get(strings.Split(strings.Repeat("a:|", 9999)+"a:", "|")...), Limits{}, ErrTooManyFields},
		{"own count", get("b: c"), Limits{Fields: 1}, ErrTooManyFields},
		{"long target", line("GET /" + strings.Repeat("a", 61<<10) + " HTTP/1.1"), Limits{}, ErrTargetTooLong},
		{"long method without end", strings.Repeat("A", 61<<10), Limits{}, ErrTargetTooLong},
		{"long name", get(strings.Repeat("a", 61<<10) + ": b"), Limits{}, ErrHeadTooLarge},
		{"long value", get("a: " + strings.Repeat("b", 61<<10)), Limits{}, ErrHeadTooLarge},
		{"value without end", "GET / HTTP/1.1\r\na: " + strings.Repeat("b", 61<<10), Limits{}, ErrHeadTooLarge},
		{"head as long as allowed", get(), Limits{HeadBytes: len(get())}, nil},
		{"head one byte too long", get(), Limits{HeadBytes: len(get()) - 1}, ErrHeadTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, complete, err := judge(tt.in, tt.l)
			if !errors.Is(err, tt.want) || err == nil && !complete {
				t.Errorf("complete %v, error %v; want %v", complete, err, tt.want)
			}
		})
	}
}

func TestErrorsAnswer(t *testing.T) {
	seen := map[string]Error{}
	for e := ErrBareLF; e <= ErrTruncated; e++ {
		if s := e.Status(); s < 400 || s > 505 {
			t.Errorf("%d: status %d", e, s)
		}
		if other, ok := seen[e.Reason()]; ok || strings.ContainsAny(e.Reason(), " \"") || e.Error() == "" {
			t.Errorf("%d: reason %q, text %q, like %d", e, e.Reason(), e.Error(), other)
		}
		seen[e.Reason()] = e
	}
}
