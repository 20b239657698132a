package http1

import (
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/message"
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
		m    message.Method
		in   string
		want parts
	}{
		{"length", message.MethodGet, crlf("HTTP/1.1 200 OK", "Content-Length: 5"), parts{200, "OK", true, Framing{Length, 5}, ""}},
		{"no reason", message.MethodGet, crlf("HTTP/1.1 200 ", "Content-Length: 0"), parts{200, "", true, Framing{}, ""}},
		{"no reason and no space", message.MethodGet, crlf("HTTP/1.1 200", "Content-Length: 0"), parts{200, "", true, Framing{}, ""}},
		{
			"long reason", message.MethodGet, crlf("HTTP/1.1 404 Not \xe9 Found", "Content-Length: 0"),
			parts{404, "Not \xe9 Found", true, Framing{}, ""},
		},
		{"chunked", message.MethodGet, crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), parts{200, "OK", true, Framing{Kind: Chunked}, ""}},
		{"until close", message.MethodGet, crlf("HTTP/1.1 200 OK", "Connection: close"), parts{200, "OK", false, until, ""}},
		{"1.0", message.MethodGet, crlf("HTTP/1.0 200 OK"), parts{200, "OK", false, until, ""}},
		{
			"1.0 keep-alive", message.MethodGet, crlf("HTTP/1.0 200 OK", "Connection: Keep-Alive", "Content-Length: 1"),
			parts{200, "OK", true, Framing{Length, 1}, ""},
		},
		{"to HEAD", message.MethodHead, crlf("HTTP/1.1 200 OK", "Content-Length: 5"), parts{200, "OK", true, Framing{}, ""}},
		{"to HEAD, chunked", message.MethodHead, crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), parts{200, "OK", true, Framing{}, ""}},
		{"204", message.MethodGet, crlf("HTTP/1.1 204 No Content"), parts{204, "No Content", true, Framing{}, ""}},
		{"204 with length 0", message.MethodGet, crlf("HTTP/1.1 204 No", "Content-Length: 0"), parts{204, "No", true, Framing{}, ""}},
		{"304 with length", message.MethodGet, crlf("HTTP/1.1 304 Not", "Content-Length: 5"), parts{304, "Not", true, Framing{}, ""}},
		{"100", message.MethodGet, crlf("HTTP/1.1 100 Continue"), parts{100, "Continue", true, Framing{}, ""}},
		{"101", message.MethodGet, crlf("HTTP/1.1 101 S", "Connection: upgrade", "Upgrade: websocket"), parts{101, "S", true, Framing{}, "websocket"}},
		{"200 to CONNECT", message.MethodConnect, crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), parts{200, "OK", true, Framing{}, ""}},
		{"200 to CONNECT with length", message.MethodConnect, crlf("HTTP/1.1 200 OK", "Content-Length: 5"), parts{200, "OK", true, Framing{}, ""}},
		{"403 to CONNECT", message.MethodConnect, crlf("HTTP/1.1 403 No", "Content-Length: 5"), parts{403, "No", true, Framing{Length, 5}, ""}},
		{"101 without connection", message.MethodGet, crlf("HTTP/1.1 101 S", "Upgrade: websocket"), parts{101, "S", true, Framing{}, ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, h := new(Response), new(message.Head)
			n, err := r.Parse([]byte(tt.in), h, Limits{})
			if err != nil || n != len(tt.in) {
				t.Fatalf("Parse = %d, %v", n, err)
			}
			got := parts{h.Status, string(h.Bytes(h.Reason)), r.KeepAlive(), r.Framing(tt.m), string(h.Bytes(h.Protocol))}
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
			r, h := new(Response), new(message.Head)
			if n, err := r.Parse([]byte(tt.in), h, Limits{}); !errors.Is(err, tt.want) {
				t.Errorf("Parse = %d, %v; want %v", n, err, tt.want)
			}
		})
	}
}

func TestAppendResponse(t *testing.T) {
	const get = message.MethodGet
	tests := []struct {
		name string
		m    message.Method
		in   string
		e    *message.Edit
		f    ResponseForm // its framing, when it is the zero value, is the response's own
		want string
	}{
		{
			"plain", get, crlf("HTTP/1.1 200 OK", "A: b", "Content-Length: 05"),
			nil,
			ResponseForm{},
			crlf("HTTP/1.1 200 OK", "A: b", "Content-Length: 5"),
		},
		{
			"hop by hop", get, crlf("HTTP/1.0 299", "Connection: x, keep-alive", "X: y", "Keep-Alive: 1", "Server: s", "TE: trailers", "Content-Length: 0"),
			&message.Edit{Drop: message.Names(message.Server), Set: []message.Set{{Known: message.Server, Value: []byte("m")}}},
			ResponseForm{Close: true},
			crlf("HTTP/1.1 299 ", "server: m", "Connection: close", "Content-Length: 0"),
		},
		{
			"chunked", get, crlf("HTTP/1.1 200 OK", "Trailer: a", "Transfer-Encoding: chunked"),
			nil,
			ResponseForm{},
			crlf("HTTP/1.1 200 OK", "Trailer: a", "Transfer-Encoding: chunked"),
		},
		{
			"out of its chunks", get, crlf("HTTP/1.1 200 OK", "Trailer: a", "Transfer-Encoding: chunked"),
			nil,
			ResponseForm{HTTP10: true, KeepAlive: true},
			crlf("HTTP/1.1 200 OK", "Connection: close"),
		},
		{
			"into chunks", get, crlf("HTTP/1.0 200 OK"), nil,
			ResponseForm{Framing: Framing{Kind: Chunked}},
			crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"),
		},
		{"until close", get, crlf("HTTP/1.1 200 OK"), nil, ResponseForm{KeepAlive: true}, crlf("HTTP/1.1 200 OK", "Connection: close")},
		{"no chunks for HEAD", message.MethodHead, crlf("HTTP/1.0 200 OK"), nil, ResponseForm{Framing: Framing{Kind: Chunked}}, crlf("HTTP/1.1 200 OK")},
		{
			"length for HEAD", message.MethodHead, crlf("HTTP/1.1 200 OK", "Content-Length: 5"),
			nil,
			ResponseForm{KeepAlive: true},
			crlf("HTTP/1.1 200 OK", "Connection: keep-alive", "Content-Length: 5"),
		},
		{"204", get, crlf("HTTP/1.1 204 No", "Content-Length: 0"), nil, ResponseForm{}, crlf("HTTP/1.1 204 No")},
		{"304", get, crlf("HTTP/1.1 304 No", "Content-Length: 5"), nil, ResponseForm{}, crlf("HTTP/1.1 304 No", "Content-Length: 5")},
		{"103", get, crlf("HTTP/1.1 103 Hints", "Link: a"), nil, ResponseForm{Close: true}, crlf("HTTP/1.1 103 Hints", "Link: a")},
		{
			"101", get, crlf("HTTP/1.1 101 S", "Connection: upgrade", "Upgrade: websocket", "A: b"),
			nil,
			ResponseForm{Close: true},
			crlf("HTTP/1.1 101 S", "A: b", "Connection: Upgrade", "Upgrade: websocket"),
		},
		{"usual reason", get, crlf("HTTP/1.1 404 ", "Content-Length: 0"), nil, ResponseForm{}, crlf("HTTP/1.1 404 Not Found", "Content-Length: 0")},
		{
			"200 to CONNECT", message.MethodConnect, crlf("HTTP/1.1 200 OK", "Content-Length: 5", "Trailer: a", "A: b"),
			nil,
			ResponseForm{Close: true},
			crlf("HTTP/1.1 200 OK", "A: b"),
		},
		{
			"502 to CONNECT", message.MethodConnect, crlf("HTTP/1.1 502 No", "Content-Length: 5"),
			nil,
			ResponseForm{Close: true},
			crlf("HTTP/1.1 502 No", "Connection: close", "Content-Length: 5"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, h := new(Response), new(message.Head)
			if _, err := r.Parse([]byte(tt.in), h, Limits{}); err != nil {
				t.Fatal(err)
			}
			if tt.f.Framing == (Framing{}) {
				tt.f.Framing = r.Framing(tt.m)
			}
			if d := cmp.Diff(tt.want, string(AppendResponse(nil, h, tt.m, tt.e, tt.f))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestPhrases(t *testing.T) {
	for status := range 700 {
		if got, want := phrase(status), http.StatusText(status); got != want {
			t.Errorf("%d: %q, want %q", status, got, want)
		}
	}
}
