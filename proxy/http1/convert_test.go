package http1_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/http1/http1test"
	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// end is one end of an HTTP/2 connection. It keeps what the other one says.
type end struct {
	conn           http2.Conn
	stream         *http2.Stream
	head, trailers message.Head
	heads, resets  int
}

func (e *end) Headers(s *http2.Stream, h *message.Head, _ bool) {
	e.heads++
	e.stream = s
	e.head.Copy(h)
}
func (e *end) Data(s *http2.Stream, p []byte, _ bool)         { e.conn.Consumed(s, len(p)) }
func (e *end) Trailers(_ *http2.Stream, f *message.Fields)    { e.trailers.Copy(f) }
func (e *end) Reset(s *http2.Stream, _ http2.ErrCode, _ bool) { e.resets++; e.conn.Release(s) }
func (e *end) Writable(*http2.Stream)                         {}
func (e *end) Event(http2.Event)                              {}
func (e *end) feed(t testing.TB, p []byte) {
	t.Helper()
	if n, err := e.conn.Feed(p, e); err != nil || n != len(p) {
		t.Fatalf("%d of %d bytes, %v", n, len(p), err)
	}
}

// connection is an HTTP/2 connection on which a request is being asked.
func connection(t testing.TB) (client, server *end) {
	client, server = new(end), new(end)
	client.conn.InitClient(http2.Limits{}, new(http2.Arena))
	server.conn.InitServer(http2.Limits{ExtendedConnect: true}, new(http2.Arena))
	client.feed(t, server.conn.AppendControl(nil))
	return client, server
}

// request is a head as the server of an HTTP/2 connection reads it; nil if it refuses it.
func request(t testing.TB, h *message.Head, e *message.Edit) (got *message.Head, client, server *end) {
	t.Helper()
	client, server = connection(t)
	client.stream = client.conn.Open()
	server.feed(t, client.conn.AppendHeaders(client.conn.AppendControl(nil), client.stream, h, e, false))
	if server.heads != 1 || server.resets != 0 {
		return nil, client, server
	}
	return &server.head, client, server
}

// response is a head as the client of an HTTP/2 connection reads it; nil if it refuses it.
func response(t testing.TB, h *message.Head, e *message.Edit) *message.Head {
	t.Helper()
	asked := new(message.Head)
	asked.Reset()
	asked.MethodText, asked.Authority, asked.Path = asked.Put("GET"), asked.Put("a"), asked.Put("/")
	_, client, server := request(t, asked, nil)
	client.feed(t, server.conn.AppendHeaders(server.conn.AppendControl(nil), server.stream, h, e, false))
	if client.heads != 1 || client.resets != 0 {
		return nil
	}
	return &client.head
}

func crlf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func parse(t testing.TB, in string) (*http1.Request, *message.Head) {
	t.Helper()
	r, h := new(http1.Request), new(message.Head)
	if n, err := r.Parse([]byte(in), h, http1.Limits{}); n == 0 || err != nil {
		t.Fatalf("%q: %d, %v", in, n, err)
	}
	return r, h
}

// normal is a head with what HTTP/2 does not keep made equal: the case of names, and that a cookie may be several fields.
func normal(head string) string {
	lines := strings.Split(head, "\r\n")
	out := lines[:1]
	cookie := -1
	for _, l := range lines[1:] {
		name, value, ok := strings.Cut(l, ":")
		if value = strings.Trim(value, " \t"); !ok {
			out = append(out, l)
			continue
		}
		if name = strings.ToLower(name); name == "cookie" {
			if cookie >= 0 {
				out[cookie] += "; " + value
				continue
			}
			cookie = len(out)
		}
		out = append(out, name+": "+value)
	}
	return strings.Join(out, "\r\n")
}

func TestConversions(t *testing.T) {
	tests := []struct {
		name, in string
		e        *message.Edit // on the way to HTTP/2
		want     string        // from there to HTTP/1 again
	}{
		{
			"fields", crlf("GET /a?b HTTP/1.1", "Host: x:80", "X-One:\t1 ", "ACCEPT: a", "X-Empty:", "accept: b", "x-one: 2"), nil,
			crlf("GET /a?b HTTP/1.1", "Host: x:80", "x-one: 1", "accept: a", "x-empty: ", "accept: b", "x-one: 2"),
		},
		{
			"cookies are one field", crlf("GET / HTTP/1.1", "Host: x", "Cookie: a=1", "A: b", "cookie: c=2; d=3", "Cookie: e=4"), nil,
			crlf("GET / HTTP/1.1", "Host: x", "cookie: a=1; c=2; d=3; e=4", "a: b"),
		},
		{
			"one hop", crlf("GET / HTTP/1.1", "Host: x", "Connection: keep-alive, x-hop, authorization", "X-Hop: 1", "Keep-Alive: 5", "Authorization: a",
				"Proxy-Connection: b", "X_Forwarded_For: 1", "TE: gzip"), nil,
			crlf("GET / HTTP/1.1", "Host: x", "authorization: a"),
		},
		{
			"trailers are welcome", crlf("POST / HTTP/1.1", "Host: x", "Connection: TE", "TE: Trailers", "Transfer-Encoding: chunked"), nil,
			crlf("POST / HTTP/1.1", "Host: x", "Connection: TE", "TE: trailers", "Transfer-Encoding: chunked"),
		},
		{"length", crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 007"), nil, crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 7")},
		{"length 0", crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 00"), nil, crlf("POST / HTTP/1.1", "Host: x", "Content-Length: 0")},
		{"absolute form", crlf("GET http://y?q HTTP/1.1", "Host: x"), nil, crlf("GET /?q HTTP/1.1", "Host: y")},
		{"the server as a whole", crlf("OPTIONS http://y HTTP/1.1", "Host: x"), nil, crlf("OPTIONS * HTTP/1.1", "Host: y")},
		{"own method", crlf("FROB / HTTP/1.1", "Host: x"), nil, crlf("FROB / HTTP/1.1", "Host: x")},
		{"connect", crlf("CONNECT a:443 HTTP/1.1", "Host: x", "A: b"), nil, crlf("CONNECT a:443 HTTP/1.1", "Host: a:443", "a: b")},
		{
			"upgrade", crlf("GET /chat?a HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"), nil,
			crlf("GET /chat?a HTTP/1.1", "Host: x", "sec-websocket-version: 13", "Connection: Upgrade", "Upgrade: websocket"),
		},
		{
			"edited", crlf("GET /a HTTP/1.1", "Host: x", "X-Request-Id: 1", "A: b"),
			&message.Edit{
				Target: []byte("/n?m"), Authority: []byte("y"), Scheme: []byte("https"), Drop: message.Names(message.XRequestID),
				Set: []message.Set{{Known: message.XRequestID, Value: []byte("2")}, {Name: []byte("x-own"), Value: []byte("3")}},
			},
			crlf("GET /n?m HTTP/1.1", "Host: y", "a: b", "x-request-id: 2", "x-own: 3"),
		},
		{"1.0", crlf("GET / HTTP/1.0", "Host: x", "Expect: 100-continue", "TE: trailers"), nil, crlf("GET / HTTP/1.1", "Host: x")},
		{"expectation", crlf("POST / HTTP/1.1", "Host: x", "Expect: 100-continue", "Content-Length: 1"), nil, crlf("POST / HTTP/1.1", "Host: x", "expect: 100-continue", "Content-Length: 1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, h := parse(t, tt.in)
			got, _, _ := request(t, h, tt.e)
			if got == nil {
				t.Fatal("HTTP/2 refuses it")
			}
			if want := h.Method == message.MethodConnect && h.Protocol == (message.Span{}); want != (len(got.Bytes(got.Scheme)) == 0) {
				t.Errorf("scheme %q", got.Bytes(got.Scheme))
			}
			if d := cmp.Diff(tt.want, string(http1.AppendRequest(nil, got, nil, r.Framing()))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// Every request that is accepted means the same after a hop of HTTP/2.
func TestAcceptedProbesMeanTheSameByHTTP2(t *testing.T) {
	n := 0
	for _, p := range http1test.Requests() {
		if p.Refused != "" {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			r, h := parse(t, p.In)
			sameByHTTP2(t, r, h)
		})
		n++
	}
	if n < 40 {
		t.Errorf("only %d probes", n)
	}
}

func sameByHTTP2(t *testing.T, r *http1.Request, h *message.Head) {
	t.Helper()
	upgrade := len(h.Bytes(h.Protocol)) > 0
	if len(h.Bytes(h.Authority)) == 0 || upgrade && (h.Method != message.MethodGet || !message.ValidToken(h.Bytes(h.Protocol))) {
		return // cannot be said in HTTP/2
	}
	want := string(http1.AppendRequest(nil, h, nil, r.Framing()))
	other, _, _ := request(t, h, nil)
	if other == nil {
		t.Fatalf("HTTP/2 refuses %q", want)
	}
	if got := string(http1.AppendRequest(nil, other, nil, r.Framing())); normal(got) != normal(want) {
		t.Fatalf("%q became %q", want, got)
	}
	again := new(message.Head)
	again.Copy(other)
	if third, _, _ := request(t, again, nil); third == nil || !sameFields(other, third) {
		t.Fatalf("%q changes in another hop", want)
	}
}

func sameFields(a, b *message.Head) bool {
	return slices.EqualFunc(a.Fields(), b.Fields(), func(x, y message.Field) bool {
		return string(a.Bytes(x.Name)) == string(b.Bytes(y.Name)) && string(a.Bytes(x.Value)) == string(b.Bytes(y.Value)) || x.Hop || y.Hop
	})
}

func TestResponseConversions(t *testing.T) {
	const get = message.MethodGet
	chunked, none := http1.ResponseForm{Framing: http1.Framing{Kind: http1.Chunked}}, http1.ResponseForm{}
	tests := []struct {
		name, in string
		m        message.Method
		f        http1.ResponseForm
		want     string
	}{
		{
			"fields", crlf("HTTP/1.1 200 Fine", "Server: a", "Set-Cookie: b=1", "Set-Cookie: c=2", "X-A: d", "Connection: close", "Content-Length: 03"), get,
			http1.ResponseForm{Framing: http1.Framing{Kind: http1.Length, Length: 3}, KeepAlive: true},
			crlf("HTTP/1.1 200 OK", "server: a", "set-cookie: b=1", "set-cookie: c=2", "x-a: d", "Connection: keep-alive", "Content-Length: 3"),
		},
		{"of unknown length", crlf("HTTP/1.0 404 No"), get, chunked, crlf("HTTP/1.1 404 Not Found", "Transfer-Encoding: chunked")},
		{
			"of unknown length, to HTTP/1.0", crlf("HTTP/1.0 404 No", "Trailer: a"), get,
			http1.ResponseForm{Framing: chunked.Framing, HTTP10: true},
			crlf("HTTP/1.1 404 Not Found", "Connection: close"),
		},
		{"trailers announced", crlf("HTTP/1.1 200 OK", "Trailer: a", "Transfer-Encoding: chunked"), get, chunked, crlf("HTTP/1.1 200 OK", "trailer: a", "Transfer-Encoding: chunked")},
		{"without a body", crlf("HTTP/1.1 200 OK"), get, none, crlf("HTTP/1.1 200 OK", "Content-Length: 0")},
		{"204", crlf("HTTP/1.1 204 No", "Content-Length: 0"), get, none, crlf("HTTP/1.1 204 No Content")},
		{"304", crlf("HTTP/1.1 304 No", "Content-Length: 5", "ETag: a"), get, none, crlf("HTTP/1.1 304 Not Modified", "etag: a", "Content-Length: 5")},
		{"HEAD", crlf("HTTP/1.1 200 OK", "Content-Length: 5"), message.MethodHead, none, crlf("HTTP/1.1 200 OK", "Content-Length: 5")},
		{"HEAD of unknown length", crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), message.MethodHead, chunked, crlf("HTTP/1.1 200 OK")},
		{"103", crlf("HTTP/1.1 103 Hints", "Link: a"), get, none, crlf("HTTP/1.1 103 Early Hints", "link: a")},
		{"unknown status", crlf("HTTP/1.1 599 Own", "Content-Length: 0"), get, none, crlf("HTTP/1.1 599 ", "Content-Length: 0")},
		{"CONNECT", crlf("HTTP/1.1 200 OK", "A: b"), message.MethodConnect, http1.ResponseForm{Framing: chunked.Framing, Close: true}, crlf("HTTP/1.1 200 OK", "a: b")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, h := new(http1.Response), new(message.Head)
			if n, err := r.Parse([]byte(tt.in), h, http1.Limits{}); n == 0 || err != nil {
				t.Fatal(n, err)
			}
			got := response(t, h, nil)
			if got == nil {
				t.Fatal("HTTP/2 refuses it")
			}
			if d := cmp.Diff(tt.want, string(http1.AppendResponse(nil, got, tt.m, nil, tt.f))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// A change of protocol is 101 in HTTP/1 and 200 in HTTP/2 (RFC 8441 section 5).
func TestProtocolChangeIsAnsweredInBothVersions(t *testing.T) {
	r, h := new(http1.Response), new(message.Head)
	in := crlf("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: chat")
	if n, err := r.Parse([]byte(in), h, http1.Limits{}); n == 0 || err != nil {
		t.Fatal(n, err)
	}
	got := response(t, h, nil)
	if got == nil || got.Status != 200 || got.Len() != 1 {
		t.Fatalf("HTTP/2 reads %+v", got)
	}
	got.Status, got.Protocol = 101, got.Put("websocket")
	want := crlf("HTTP/1.1 101 Switching Protocols", "sec-websocket-protocol: chat", "Connection: Upgrade", "Upgrade: websocket")
	if d := cmp.Diff(want, string(http1.AppendResponse(nil, got, message.MethodGet, nil, http1.ResponseForm{Close: true}))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestTrailersAreConverted(t *testing.T) {
	b, trailers := http1.NewBody(http1.Framing{Kind: http1.Chunked}), new(message.Fields)
	trailers.Reset()
	for in := []byte("0\r\nGrpc-Status: 0\r\nX-Sum:  1 \r\nHost: a\r\n\r\n"); !b.Done(); {
		n, _, err := b.Next(in, trailers)
		if n == 0 || err != nil {
			t.Fatal(n, err)
		}
		in = in[n:]
	}
	h := new(message.Head)
	h.Reset()
	h.Status = 200
	asked := new(message.Head)
	asked.Reset()
	asked.MethodText, asked.Authority, asked.Path = asked.Put("GET"), asked.Put("a"), asked.Put("/")
	_, client, server := request(t, asked, nil)
	out := server.conn.AppendHeaders(server.conn.AppendControl(nil), server.stream, h, nil, false)
	client.feed(t, server.conn.AppendTrailers(out, server.stream, trailers, nil))
	if got, want := string(http1.AppendLastChunk(nil, &client.trailers)), "0\r\ngrpc-status: 0\r\nx-sum: 1\r\n\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Heads of HTTP/2 are written as HTTP/1 without allocation, as others are.
func TestConversionAllocatesNothing(t *testing.T) {
	_, h := parse(t, crlf("GET /a?b HTTP/1.1", "Host: x", "Cookie: a=1", "Cookie: b=2", "Accept: */*", "TE: trailers", "Connection: TE"))
	got, _, _ := request(t, h, nil)
	e := &message.Edit{Drop: message.Names(message.Accept), Set: []message.Set{{Known: message.XRequestID, Value: []byte("1")}}}
	dst, kept := make([]byte, 0, 1024), new(message.Head)
	kept.Copy(got)
	if n := testing.AllocsPerRun(100, func() {
		kept.Copy(got)
		dst = http1.AppendRequest(dst[:0], kept, e, http1.Framing{})
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// A head that was one of HTTP/1 and is filled by hand is written field by field, and what is added to one of HTTP/1 stands behind
// its lines.
func TestHeadsOfBothKinds(t *testing.T) {
	_, h := parse(t, crlf("GET / HTTP/1.1", "Host: x", "X-A: 1", "X-B: 2"))
	h.AddField("x-c", "3")
	if d := cmp.Diff(crlf("GET / HTTP/1.1", "Host: x", "X-A: 1", "X-B: 2", "x-c: 3"), string(http1.AppendRequest(nil, h, nil, http1.Framing{}))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	h.Reset()
	h.MethodText, h.Authority, h.Path = h.Put("GET"), h.Put("y"), h.Put("/")
	h.AddField("x-d", "4")
	if d := cmp.Diff(crlf("GET / HTTP/1.1", "Host: y", "x-d: 4"), string(http1.AppendRequest(nil, h, nil, http1.Framing{}))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func FuzzConvert(f *testing.F) {
	for _, p := range http1test.Requests() {
		if p.Refused == "" {
			f.Add([]byte(p.In))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, h := new(http1.Request), new(message.Head)
		if n, err := r.Parse(in, h, http1.Limits{HeadBytes: 2 << 10, Fields: 20}); n == 0 || err != nil {
			return
		}
		sameByHTTP2(t, r, h)
	})
}
