package http1

import (
	"testing"

	"github.com/hostmesh/hostmesh/proxy/message"
)

const (
	browserRequest = "GET /index.html?q=1 HTTP/1.1\r\nHost: web.default.mesh.internal\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
		"Accept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
	plainResponse = "HTTP/1.1 200 OK\r\nServer: app\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
	chunkedBody   = "5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
)

// exchange parses and rewrites one request and one response and follows a chunked body.
func exchange(t testing.TB) func() {
	request, response, asked, answer := new(Request), new(Response), new(message.Head), new(message.Head)
	edit := &message.Edit{Drop: message.Names(message.XForwardedFor, message.XRequestID), Set: []message.Set{
		{Known: message.XRequestID, Value: []byte("1")}, {Known: message.XForwardedFor, Value: []byte("10.0.0.1, 10.0.0.2")},
	}}
	back := &message.Edit{Drop: message.Names(message.Server), Set: []message.Set{{Known: message.Server, Value: []byte("mesh")}}}
	in, out, body, trailers := []byte(browserRequest), []byte(plainResponse), []byte(chunkedBody), new(message.Fields)
	dst := make([]byte, 0, 4096)
	return func() {
		request.Reset()
		if n, err := request.Parse(in, asked, Limits{}); n == 0 || err != nil {
			t.Fatal(n, err)
		}
		dst = AppendRequest(dst[:0], asked, edit, request.Framing())
		response.Reset()
		n, err := response.Parse(out, answer, Limits{})
		if n == 0 || err != nil {
			t.Fatal(n, err)
		}
		dst = AppendResponse(dst[:0], answer, asked.Method, back, ResponseForm{Framing: response.Framing(asked.Method)})
		b := NewBody(Framing{Kind: Chunked})
		trailers.Reset()
		for rest := body; !b.Done(); {
			n, _, err := b.Next(rest, trailers)
			if n == 0 || err != nil {
				t.Fatal(n, err)
			}
			rest = rest[n:]
		}
		dst = AppendLastChunk(dst[:0], trailers)
	}
}

func TestNothingIsAllocated(t *testing.T) {
	do := exchange(t)
	do()
	if n := testing.AllocsPerRun(100, do); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	bad := []byte("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n")
	r, h := new(Request), new(message.Head)
	if n := testing.AllocsPerRun(100, func() {
		r.Reset()
		if _, err := r.Parse(bad, h, Limits{}); err == nil {
			t.Fatal("accepted")
		}
	}); n != 0 {
		t.Errorf("%v allocations to refuse, want none", n)
	}
}

// A head that arrives byte by byte must not be read again each time.
func TestParseIsResumed(t *testing.T) {
	head := []byte("GET / HTTP/1.1\r\nHost: a\r\nA: ")
	for range 50 << 10 {
		head = append(head, 'b')
	}
	r, h := new(Request), new(message.Head)
	for i := range head {
		if n, err := r.Parse(head[:i+1], h, Limits{}); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		if int(r.scan) != i+1 && head[i] != '\r' && head[i] != '\n' {
			t.Fatalf("after %d bytes the search resumes at %d", i+1, r.scan)
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	do := exchange(b)
	b.ReportAllocs()
	for b.Loop() {
		do()
	}
}
