package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/message"
)

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		get("A: b"), get("Connection: x, close", "X: y"), get("Content-Length: 3") + "abc",
		get("Transfer-Encoding: chunked") + "3;a=\"b\"\r\nabc\r\n0\r\nx: y\r\n\r\n", crlf("GET http://u/p?q HTTP/1.1", "Host: [::1]:1"),
		crlf("OPTIONS * HTTP/1.0", "Connection: keep-alive"), get("Connection: upgrade", "Upgrade: websocket"), "\r\n" + get("TE: trailers"),
		crlf("CONNECT a:443 HTTP/1.1", "Host: b"),
		"GET / HTTP/1.1\nHost: a\n\n", get("Content-Length: 3", "Transfer-Encoding: chunked"), get("X_Forwarded_For: 1", "A: \xff\t"),
	} {
		f.Add([]byte(s))
	}
	limits := Limits{HeadBytes: 2 << 10, Fields: 20}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, split, h, other := new(Request), new(Request), new(message.Head), new(message.Head)
		n, err := r.Parse(in, h, limits)
		splitN, splitErr := inPieces(in, func(b []byte) (int, error) { return split.Parse(b, other, limits) })
		if n != splitN || err != splitErr {
			t.Fatalf("at once %d, %v; in pieces %d, %v", n, err, splitN, splitErr)
		}
		if err != nil || n == 0 {
			return
		}
		head := AppendRequest(nil, h, nil, r.Framing())
		if other := AppendRequest(nil, other, nil, split.Framing()); !bytes.Equal(head, other) {
			t.Fatalf("at once %q, in pieces %q", head, other)
		}
		b, trailers := NewBody(r.Framing()), new(message.Fields)
		content, _, err := follow(&b, trailers, string(in[n:]), len(in))
		if err == nil && b.Done() {
			compareWithGo(t, h, string(head)+framed(r.Framing(), content, trailers), content)
		}
	})
}

// framed is content as f has it.
func framed(f Framing, content string, trailers *message.Fields) string {
	if f.Kind != Chunked {
		return content
	}
	var out []byte
	for _, part := range []string{content[:len(content)/2], content[len(content)/2:]} {
		if part != "" {
			buf := make([]byte, 18+len(part)+2)
			from, to := WrapChunk(buf, 18, 18+copy(buf[18:], part))
			out = append(out, buf[from:to]...)
		}
	}
	return string(AppendLastChunk(out, trailers))
}

// inPieces calls parse with one byte more each time, at a new place each time.
func inPieces(in []byte, parse func([]byte) (int, error)) (int, error) {
	for i := range in {
		piece := bytes.Clone(in[:i+1])
		n, err := parse(piece)
		clear(piece) // nothing may depend on it
		if n != 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// compareWithGo checks that net/http understands what is passed on as we did.
func compareWithGo(t *testing.T, h *message.Head, sent, payload string) {
	t.Helper()
	target, _, _ := strings.Cut(strings.SplitN(sent, " ", 3)[1], "?")
	if _, err := url.ParseRequestURI(target); err != nil && h.Method != message.MethodConnect {
		return // an invalid escape: the router refuses it
	}
	if h.Count(message.Trailer) > 0 {
		return // net/http refuses some announcements that are without effect
	}
	reader := bufio.NewReader(strings.NewReader(sent))
	got, err := http.ReadRequest(reader)
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", sent, err)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil || string(body) != payload {
		t.Fatalf("body of %q: net/http reads %q, %v; want %q", sent, body, err, payload)
	}
	if rest, _ := io.ReadAll(reader); len(rest) > 0 {
		t.Fatalf("net/http leaves %q of %q", rest, sent)
	}
	host := string(h.Bytes(h.Authority))
	if h.Method == message.MethodConnect { // there, and only there, net/http decodes escapes
		host, _ = url.PathUnescape(host)
	}
	if got.Host != host || got.Method != string(h.Bytes(h.MethodText)) || got.Proto != "HTTP/1.1" {
		t.Fatalf("net/http reads %s %s %s of %q", got.Method, got.Host, got.Proto, sent)
	}
	want := http.Header{}
	for _, f := range h.Fields() {
		if !f.Hop && !message.Names(message.Host, message.ContentLength, message.TE).Has(f.Known) {
			key := textproto.CanonicalMIMEHeaderKey(string(h.Bytes(f.Name)))
			want[key] = append(want[key], string(h.Bytes(f.Value)))
		}
	}
	for key, values := range want {
		if strings.Join(got.Header[key], "\n") != strings.Join(values, "\n") {
			t.Fatalf("net/http reads %q: %q of %q, want %q", key, got.Header[key], sent, values)
		}
	}
	for key := range got.Header {
		if _, ok := want[key]; !ok && key != "Content-Length" && key != "Connection" && key != "Te" && (key != "Upgrade" || h.Protocol == message.Span{}) {
			t.Fatalf("net/http reads %q of %q, which was not passed on", key, sent)
		}
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		crlf("HTTP/1.1 200 OK", "Content-Length: 3") + "abc", crlf("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "1\r\na\r\n0\r\n\r\n",
		crlf("HTTP/1.0 200") + "abc", crlf("HTTP/1.1 304 Not Modified", "Content-Length: 3"), crlf("HTTP/1.1 204 No", "Connection: a", "A: b"),
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	limits := Limits{HeadBytes: 2 << 10, Fields: 20}
	f.Fuzz(func(t *testing.T, in []byte, toHead bool) {
		r, split, h, other := new(Response), new(Response), new(message.Head), new(message.Head)
		n, err := r.Parse(in, h, limits)
		splitN, splitErr := inPieces(in, func(b []byte) (int, error) { return split.Parse(b, other, limits) })
		if n != splitN || err != splitErr {
			t.Fatalf("at once %d, %v; in pieces %d, %v", n, err, splitN, splitErr)
		}
		if err != nil || n == 0 || h.Status < 200 {
			return
		}
		m, method := message.MethodGet, "GET"
		if toHead {
			m, method = message.MethodHead, "HEAD"
		}
		framing := r.Framing(m)
		b, trailers := NewBody(framing), new(message.Fields)
		content, _, err := follow(&b, trailers, string(in[n:]), len(in))
		if err != nil || b.End() != nil || h.Count(message.Trailer) > 0 {
			return
		}
		sent := string(AppendResponse(nil, h, m, nil, ResponseForm{Framing: framing})) + framed(framing, content, trailers)
		reader := bufio.NewReader(strings.NewReader(sent))
		got, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", sent, err)
		}
		read, err := io.ReadAll(got.Body)
		if err != nil || string(read) != content || got.StatusCode != h.Status {
			t.Fatalf("net/http reads %d %q, %v of %q; want %d %q", got.StatusCode, read, err, sent, h.Status, content)
		}
		if rest, _ := io.ReadAll(reader); len(rest) > 0 {
			t.Fatalf("net/http leaves %q of %q", rest, sent)
		}
	})
}

// FuzzChunked: in one piece as in many; what is passed on is what net/http reads, trailers with it.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"), 1, 3)
	f.Add([]byte("a;b=\"c\";d\r\n0123456789\r\n0\r\nA: b\r\nHost: c\r\n\r\n"), 5, 2)
	f.Add([]byte("7fffffffffffffff\r\n"), 2, 2)
	f.Fuzz(func(t *testing.T, in []byte, first, then int) {
		whole, pieces := NewBody(Framing{Kind: Chunked}), NewBody(Framing{Kind: Chunked})
		trailers, other := new(message.Fields), new(message.Fields)
		content, rest, err := follow(&whole, trailers, string(in), len(in))
		piecesContent, piecesRest, piecesErr := follow(&pieces, other, string(in), first, then)
		if content != piecesContent || err != piecesErr || err == nil && rest != piecesRest || whole.Done() != pieces.Done() {
			t.Fatalf("at once %q, %q, %v; in pieces %q, %q, %v", content, rest, err, piecesContent, piecesRest, piecesErr)
		}
		sent := framed(Framing{Kind: Chunked}, content, trailers)
		if again := framed(Framing{Kind: Chunked}, content, other); again != sent {
			t.Fatalf("at once %q, in pieces %q", sent, again)
		}
		if err != nil || !whole.Done() {
			return
		}
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(request.Body); err != nil || string(body) != content {
			t.Fatalf("net/http reads %q, %v of %q; want %q", body, err, sent, content)
		}
		for i := range trailers.Len() {
			f := trailers.Field(i)
			if key := textproto.CanonicalMIMEHeaderKey(string(trailers.Bytes(f.Name))); !slices.Contains(request.Trailer[key], string(trailers.Bytes(f.Value))) {
				t.Fatalf("net/http reads the trailers %q of %q", request.Trailer, sent)
			}
		}
	})
}
