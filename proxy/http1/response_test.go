package http1

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResponse(t *testing.T) {
	type parts struct {
		Status    int
		Reason    string
		KeepAlive bool
		Framing   Framing
		Upgrade   string
	}
	until := Framing{Kind: UntilClose}
	tests := []struct {
		name string
		m    Method
		in   string
		want parts
	}{
		{"length", MethodGet, crlf("HTTP/1.1 200 OK", "Content-Length: 5"), parts{200, "OK", true, Framing{Length, 5}, ""}},
		{"no reason", MethodGet, crlf("HTTP/1.1 200 ", "Content-Length: 0"), parts{200, "", true, Framing{}, ""}},
		{"no reason and no space", MethodGet, crlf("HTTP/1.1 200", "Content-Length: 0"), parts{200, "", true, Framing{}, ""}},
		{
			"long reason", MethodGet, crlf("HTTP/1.1 404 Not \xe9 Found", "Content-Length: 0"),
			parts{404, "Not \xe9 Found", true, Framing{}, ""},
		},
		{"chunked", MethodGet, crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), parts{200, "OK", true, Framing{Kind: Chunked}, ""}},
		{"until close", MethodGet, crlf("HTTP/1.1 200 OK", "Connection: close"), parts{200, "OK", false, until, ""}},
		{"1.0", MethodGet, crlf("HTTP/1.0 200 OK"), parts{200, "OK", false, until, ""}},
		{
			"1.0 keep-alive", MethodGet, crlf("HTTP/1.0 200 OK", "Connection: Keep-Alive", "Content-Length: 1"),
			parts{200, "OK", true, Framing{Length, 1}, ""},
		},
		{"to HEAD", MethodHead, crlf("HTTP/1.1 200 OK", "Content-Length: 5"), parts{200, "OK", true, Framing{}, ""}},
		{"to HEAD, chunked", MethodHead, crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), parts{200, "OK", true, Framing{}, ""}},
		{"204", MethodGet, crlf("HTTP/1.1 204 No Content"), parts{204, "No Content", true, Framing{}, ""}},
		{"204 with length 0", MethodGet, crlf("HTTP/1.1 204 No", "Content-Length: 0"), parts{204, "No", true, Framing{}, ""}},
		{"304 with length", MethodGet, crlf("HTTP/1.1 304 Not", "Content-Length: 5"), parts{304, "Not", true, Framing{}, ""}},
		{"100", MethodGet, crlf("HTTP/1.1 100 Continue"), parts{100, "Continue", true, Framing{}, ""}},
		{"101", MethodGet, crlf("HTTP/1.1 101 S", "Connection: upgrade", "Upgrade: websocket"), parts{101, "S", true, Framing{}, "websocket"}},
		{"101 without connection", MethodGet, crlf("HTTP/1.1 101 S", "Upgrade: websocket"), parts{101, "S", true, Framing{}, ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := new(Response)
			r.Reset()
			n, err := r.Parse([]byte(tt.in), Limits{})
			if err != nil || n != len(tt.in) {
				t.Fatalf("Parse = %d, %v", n, err)
			}
			got := parts{r.Status, string(r.Reason()), r.KeepAlive(), r.Framing(tt.m), string(r.Upgrading())}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestResponseRefused(t *testing.T) {
	ok := func(lines ...string) string { return crlf(append([]string{"HTTP/1.1 200 OK"}, lines...)...) }
	tests := []struct {
		name, in string
		want     error
	}{
		{"empty line before", "\r\n" + ok(), ErrStatusLine},
		{"LF only", "HTTP/1.1 200 OK\n\n", ErrBareLF},
		{"0.9", "<html>\r\n", ErrStatusLine},
		{"version", crlf("HTTP/2.0 200 OK"), ErrVersionUnsupported},
		{"version malformed", crlf("HTTP/1.x 200 OK"), ErrVersion},
		{"lower case", crlf("http/1.1 200 OK"), ErrVersion},
		{"two spaces", crlf("HTTP/1.1  200 OK"), ErrStatusLine},
		{"tab", crlf("HTTP/1.1\t200 OK"), ErrStatusLine},
		{"two digits", crlf("HTTP/1.1 20 OK"), ErrStatusLine},
		{"four digits", crlf("HTTP/1.1 2000 OK"), ErrStatusLine},
		{"sign", crlf("HTTP/1.1 +20 OK"), ErrStatusLine},
		{"status 600", crlf("HTTP/1.1 600 OK"), ErrStatusLine},
		{"status 099", crlf("HTTP/1.1 099 OK"), ErrStatusLine},
		{"junk after status", crlf("HTTP/1.1 200OK"), ErrStatusLine},
		{"control in reason", crlf("HTTP/1.1 200 O\x00K"), ErrStatusLine},
		{"CR in reason", crlf("HTTP/1.1 200 O\rK"), ErrBareCR},
		{"folding", ok("A: b", " c"), ErrFolding},
		{"space before colon", ok("A : b"), ErrFieldName},
		{"length and chunked", ok("Content-Length: 1", "Transfer-Encoding: chunked"), ErrLengthAndCoding},
		{"two lengths", ok("Content-Length: 1", "Content-Length: 1"), ErrLengthDuplicate},
		{"list of lengths", ok("Content-Length: 1, 1"), ErrLength},
		{"gzip, chunked", ok("Transfer-Encoding: gzip, chunked"), ErrCoding},
		{"chunked in 1.0", crlf("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"), ErrCodingVersion},
		{"204 with length", crlf("HTTP/1.1 204 No", "Content-Length: 1"), ErrLength},
		{"204 chunked", crlf("HTTP/1.1 204 No", "Transfer-Encoding: chunked"), ErrCoding},
		{"100 with length", crlf("HTTP/1.1 100 C", "Content-Length: 1"), ErrLength},
		{"101 chunked", crlf("HTTP/1.1 101 S", "Transfer-Encoding: chunked"), ErrCoding},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := new(Response)
			r.Reset()
			if n, err := r.Parse([]byte(tt.in), Limits{}); !errors.Is(err, tt.want) {
				t.Errorf("Parse = %d, %v; want %v", n, err, tt.want)
			}
		})
	}
}

func TestResponseAppendHead(t *testing.T) {
	tests := []struct {
		name string
		m    Method
		in   string
		w    ResponseRewrite
		want string
	}{
		{
			"plain", MethodGet, crlf("HTTP/1.1 200 OK", "A: b", "Content-Length: 05"),
			ResponseRewrite{},
			crlf("HTTP/1.1 200 OK", "A: b", "Content-Length: 5"),
		},
		{
			"hop by hop", MethodGet, crlf("HTTP/1.0 200", "Connection: x, keep-alive", "X: y", "Keep-Alive: 1", "Server: s", "Content-Length: 0"),
			ResponseRewrite{Drop: Names(Server), Extra: []byte("server: m\r\n"), Close: true},
			crlf("HTTP/1.1 200 ", "server: m", "Connection: close", "Content-Length: 0"),
		},
		{
			"chunked", MethodGet, crlf("HTTP/1.1 200 OK", "Trailer: a", "Transfer-Encoding: chunked"),
			ResponseRewrite{},
			crlf("HTTP/1.1 200 OK", "Trailer: a", "Transfer-Encoding: chunked"),
		},
		{
			"out of its chunks", MethodGet, crlf("HTTP/1.1 200 OK", "Trailer: a", "Transfer-Encoding: chunked"),
			ResponseRewrite{Unwrap: true, Close: true},
			crlf("HTTP/1.1 200 OK", "Connection: close"),
		},
		{"into chunks", MethodGet, crlf("HTTP/1.0 200 OK"), ResponseRewrite{Chunk: true}, crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")},
		{"no chunks for HEAD", MethodHead, crlf("HTTP/1.0 200 OK"), ResponseRewrite{Chunk: true}, crlf("HTTP/1.1 200 OK")},
		{
			"length for HEAD", MethodHead, crlf("HTTP/1.1 200 OK", "Content-Length: 5"),
			ResponseRewrite{KeepAlive: true},
			crlf("HTTP/1.1 200 OK", "Connection: keep-alive", "Content-Length: 5"),
		},
		{"204", MethodGet, crlf("HTTP/1.1 204 No", "Content-Length: 0"), ResponseRewrite{}, crlf("HTTP/1.1 204 No")},
		{"304", MethodGet, crlf("HTTP/1.1 304 No", "Content-Length: 5"), ResponseRewrite{}, crlf("HTTP/1.1 304 No", "Content-Length: 5")},
		{"103", MethodGet, crlf("HTTP/1.1 103 Hints", "Link: a"), ResponseRewrite{Close: true}, crlf("HTTP/1.1 103 Hints", "Link: a")},
		{
			"101", MethodGet, crlf("HTTP/1.1 101 S", "Connection: upgrade", "Upgrade: websocket", "A: b"),
			ResponseRewrite{},
			crlf("HTTP/1.1 101 S", "A: b", "Connection: Upgrade", "Upgrade: websocket"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := new(Response)
			r.Reset()
			if _, err := r.Parse([]byte(tt.in), Limits{}); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, string(r.AppendHead(nil, tt.m, &tt.w))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
