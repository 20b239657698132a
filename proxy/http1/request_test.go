package http1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// parseRequest parses s in one piece.
func parseRequest(t testing.TB, s string) (*Request, *message.Head, int, error) {
	t.Helper()
	r, h, in := new(Request), new(message.Head), []byte(s)
	n, err := r.Parse(in, h, Limits{})
	clear(in) // nothing may depend on it
	return r, h, n, err
}

func crlf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func TestRequestParts(t *testing.T) {
	type parts struct {
		Method, Authority, Path, Query string
		HasQuery, KeepAlive            bool
		Framing                        Framing
		Upgrade                        string
	}
	tests := []struct {
		name, in string
		want     parts
	}{
		{
			"origin form", crlf("GET /a/b?c=d HTTP/1.1", "Host: x.y:80"),
			parts{"GET", "x.y:80", "/a/b", "c=d", true, true, Framing{}, ""},
		},
		{"empty query", crlf("GET /? HTTP/1.1", "Host: x"), parts{"GET", "x", "/", "", true, true, Framing{}, ""}},
		{
			"absolute form replaces host", crlf("GET http://a:81/p HTTP/1.1", "Host: b"),
			parts{"GET", "a:81", "/p", "", false, true, Framing{}, ""},
		},
		{
			"absolute form without path", crlf("GET http://a HTTP/1.1", "Host: a"),
			parts{"GET", "a", "/", "", false, true, Framing{}, ""},
		},
		{
			"absolute form with query only", crlf("GET http://a?q HTTP/1.1", "Host: a"),
			parts{"GET", "a", "/", "q", true, true, Framing{}, ""},
		},
		{"asterisk form", crlf("OPTIONS * HTTP/1.1", "Host: a"), parts{"OPTIONS", "a", "*", "", false, true, Framing{}, ""}},
		{
			"one empty line before", "\r\n" + crlf("GET / HTTP/1.1", "Host: a"),
			parts{"GET", "a", "/", "", false, true, Framing{}, ""},
		},
		{
			"close", crlf("GET / HTTP/1.1", "Host: a", "Connection: foo, Close"),
			parts{"GET", "a", "/", "", false, false, Framing{}, ""},
		},
		{"1.0 closes", crlf("GET / HTTP/1.0"), parts{"GET", "", "/", "", false, false, Framing{}, ""}},
		{
			"1.0 keeps alive when asked", crlf("GET / HTTP/1.0", "Connection: keep-alive"),
			parts{"GET", "", "/", "", false, true, Framing{}, ""},
		},
		{
			"length", crlf("POST / HTTP/1.1", "Host: a", "content-length: 12"),
			parts{"POST", "a", "/", "", false, true, Framing{Length, 12}, ""},
		},
		{
			"chunked", crlf("POST / HTTP/1.1", "Host: a", "Transfer-Encoding:\tCHUNKED "),
			parts{"POST", "a", "/", "", false, true, Framing{Kind: Chunked}, ""},
		},
		{
			"upgrade", crlf("GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: keep-alive, Upgrade"),
			parts{"GET", "a", "/", "", false, true, Framing{}, "websocket"},
		},
		{
			"upgrade without connection", crlf("GET / HTTP/1.1", "Host: a", "Upgrade: websocket"),
			parts{"GET", "a", "/", "", false, true, Framing{}, ""},
		},
		{
			"upgrade to nothing", crlf("GET / HTTP/1.1", "Host: a", "Upgrade:", "Connection: Upgrade"),
			parts{"GET", "a", "/", "", false, true, Framing{}, ""},
		},
		{
			"upgrade in 1.0", crlf("GET / HTTP/1.0", "Upgrade: websocket", "Connection: Upgrade, keep-alive"),
			parts{"GET", "", "/", "", false, true, Framing{}, ""},
		},
		{
			"asterisk form from an absolute one", crlf("OPTIONS http://a HTTP/1.1", "Host: a"),
			parts{"OPTIONS", "a", "*", "", false, true, Framing{}, ""},
		},
		{"connect", crlf("CONNECT a:443 HTTP/1.1", "Host: b"), parts{"CONNECT", "a:443", "", "", false, true, Framing{}, ""}},
		{"ipv6", crlf("GET / HTTP/1.1", "Host: [::1]:80"), parts{"GET", "[::1]:80", "/", "", false, true, Framing{}, ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, h, n, err := parseRequest(t, tt.in)
			if err != nil || n != len(tt.in) {
				t.Fatalf("Parse = %d, %v; want %d", n, err, len(tt.in))
			}
			got := parts{
				string(h.Bytes(h.MethodText)), string(h.Bytes(h.Authority)), string(h.Bytes(h.Path)), string(h.Bytes(h.Query)), h.HasQuery,
				r.KeepAlive(), r.Framing(), string(h.Bytes(h.Protocol)),
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestAppendRequest(t *testing.T) {
	tests := []struct {
		name, in string
		e        *message.Edit
		want     string
	}{
		{
			"plain", crlf("GET /a?b HTTP/1.1", "Host: x", "Accept: */*"),
			nil,
			crlf("GET /a?b HTTP/1.1", "Host: x", "Accept: */*"),
		},
		{
			"hop by hop fields go",
			crlf("GET / HTTP/1.1", "Host: x", "Connection: keep-alive, x-foo", "Keep-Alive: 5", "X-Foo: 1", "Proxy-Connection: a", "A: b", "TE: gzip"),
			nil,
			crlf("GET / HTTP/1.1", "Host: x", "A: b"),
		},
		{
			"connection cannot remove who calls",
			crlf("GET / HTTP/1.1", "Connection: host, x-forwarded-for, X-Request-Id, content-length, x-forwarded-anything, authorization",
				"Host: x", "X-Forwarded-For: 1", "X-Request-Id: 2", "X-Forwarded-Anything: 3", "Authorization: 4"),
			nil,
			crlf("GET / HTTP/1.1", "Host: x", "X-Forwarded-For: 1", "X-Request-Id: 2", "X-Forwarded-Anything: 3", "Authorization: 4"),
		},
		{
			"disguised fields go",
			crlf("GET / HTTP/1.1", "Host: x", "X_Forwarded_For: 1", "X-Request_Id: 2", "content_length: 5", "x_y: z", "X_Forwarded_Some_Thing_That_Is_Very_Long: 1"),
			nil,
			crlf("GET / HTTP/1.1", "Host: x", "x_y: z"),
		},
		{
			"set fields", crlf("GET / HTTP/1.1", "Host: x", "X-Request-Id: 1", "A: b"),
			&message.Edit{
				Target: []byte("/n?q"), Authority: []byte("y"), Drop: message.Names(message.XRequestID),
				Set: []message.Set{{Known: message.XRequestID, Value: []byte("2")}, {Name: []byte("x-own"), Value: []byte("3")}},
			},
			crlf("GET /n?q HTTP/1.1", "Host: y", "A: b", "x-request-id: 2", "x-own: 3"),
		},
		{"absolute form", crlf("GET http://a/p?q HTTP/1.1", "Host: b"), nil, crlf("GET /p?q HTTP/1.1", "Host: a")},
		{"absolute form without path", crlf("GET http://a?q HTTP/1.1", "Host: b"), nil, crlf("GET /?q HTTP/1.1", "Host: a")},
		{"options of a whole server", crlf("OPTIONS http://a HTTP/1.1", "Host: b"), nil, crlf("OPTIONS * HTTP/1.1", "Host: a")},
		{"options of the root", crlf("OPTIONS http://a/ HTTP/1.1", "Host: b"), nil, crlf("OPTIONS / HTTP/1.1", "Host: a")},
		{
			"length is canonical", crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 007"),
			nil,
			crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 7"),
		},
		{
			"chunked with trailers", crlf("POST / HTTP/1.1", "Host: x", "TE: trailers", "Trailer: a", "Transfer-Encoding: chunked"),
			nil,
			crlf("POST / HTTP/1.1", "Host: x", "Trailer: a", "Connection: TE", "TE: trailers", "Transfer-Encoding: chunked"),
		},
		{
			"expectation answered here", crlf("POST / HTTP/1.1", "Host: x", "Expect: 100-continue", "Content-Length: 1"),
			&message.Edit{Drop: message.Names(message.Expect)},
			crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 1"),
		},
		{
			"expectation passed on", crlf("POST / HTTP/1.1", "Host: x", "Expect: 100-continue", "Content-Length: 1"),
			nil,
			crlf("POST / HTTP/1.1", "Host: x", "Expect: 100-continue", "Content-Length: 1"),
		},
		{
			"upgrade", crlf("GET / HTTP/1.1", "Host: x", "Connection: upgrade, http2-settings", "HTTP2-Settings: a", "Upgrade: websocket"),
			nil,
			crlf("GET / HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket"),
		},
		{
			"upgrade without connection", crlf("GET / HTTP/1.1", "Host: x", "Upgrade: websocket"),
			nil,
			crlf("GET / HTTP/1.1", "Host: x"),
		},
		{
			"connect", crlf("CONNECT a:443 HTTP/1.1", "Host: x", "A: b", "TE: trailers", "Connection: TE"),
			nil,
			crlf("CONNECT a:443 HTTP/1.1", "Host: a:443", "A: b"),
		},
		{
			"connect elsewhere", crlf("CONNECT a:443 HTTP/1.1", "Host: x"),
			&message.Edit{Authority: []byte("b:80"), Target: []byte("/")},
			crlf("CONNECT b:80 HTTP/1.1", "Host: b:80"),
		},
		{"length 0", crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 0"), nil, crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 0")},
		{"trailers in 1.0", crlf("GET / HTTP/1.0", "Host: x", "TE: trailers", "Connection: TE"), nil, crlf("GET / HTTP/1.1", "Host: x")},
		{
			"trailers are asked for once", crlf("GET / HTTP/1.1", "Host: x", "TE: gzip", "te: Trailers", "TE: trailers", "Connection: te"),
			nil,
			crlf("GET / HTTP/1.1", "Host: x", "Connection: TE", "TE: trailers"),
		},
		{"1.0", crlf("GET / HTTP/1.0", "Host: x", "Expect: 100-continue"), nil, crlf("GET / HTTP/1.1", "Host: x")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, h, _, err := parseRequest(t, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, string(AppendRequest(nil, h, tt.e, r.Framing()))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
