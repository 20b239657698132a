package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
)

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		get("A: b"), get("Connection: x, close", "X: y"), get("Content-Length: 3") + "abc",
		get("Transfer-Encoding: chunked") + "3;a=\"b\"\r\nabc\r\n0\r\nx: y\r\n\r\n", crlf("GET http://u/p?q HTTP/1.1", "Host: [::1]:1"),
		crlf("OPTIONS * HTTP/1.0", "Connection: keep-alive"), get("Connection: upgrade", "Upgrade: websocket"), "\r\n" + get("TE: trailers"),
		"GET / HTTP/1.1\nHost: a\n\n", get("Content-Length: 3", "Transfer-Encoding: chunked"), get("X_Forwarded_For: 1", "A: \xff\t"),
	} {
		f.Add([]byte(s))
	}
	limits := Limits{HeadBytes: 2 << 10, Fields: 20}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, split := new(Request), new(Request)
		r.Reset()
		n, err := r.Parse(in, limits)
		splitN, splitErr := inPieces(in, func(b []byte) (int, error) { return split.Parse(b, limits) }, split.Reset)
		if n != splitN || err != splitErr {
			t.Fatalf("at once %d, %v; in pieces %d, %v", n, err, splitN, splitErr)
		}
		if err != nil || n == 0 {
			return
		}
		head := r.AppendHead(nil, &Rewrite{})
		if other := split.AppendHead(nil, &Rewrite{}); !bytes.Equal(head, other) {
			t.Fatalf("at once %q, in pieces %q", head, other)
		}
		raw, data := NewBody(r.Framing(), false), NewBody(r.Framing(), true)
		kept, _, err := follow(&raw, string(in[n:]), len(in))
		payload, _, dataErr := follow(&data, string(in[n:]), len(in))
		if err != dataErr || raw.Done() != data.Done() {
			t.Fatalf("raw %v, %v; unwrapped %v, %v", raw.Done(), err, data.Done(), dataErr)
		}
		if err == nil && raw.Done() {
			compareWithGo(t, r, string(head)+kept, payload)
		}
	})
}

// inPieces calls parse with one byte more each time, at a new place each time.
func inPieces(in []byte, parse func([]byte) (int, error), reset func()) (int, error) {
	reset()
	for i := range in {
		if n, err := parse(bytes.Clone(in[:i+1])); n != 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// compareWithGo checks that net/http understands what is passed on as we did.
func compareWithGo(t *testing.T, r *Request, message, payload string) {
	t.Helper()
	target, _, _ := strings.Cut(strings.SplitN(message, " ", 3)[1], "?")
	if _, err := url.ParseRequestURI(target); err != nil {
		return // an invalid escape: the router refuses it
	}
	if r.Count(Trailer) > 0 {
		return // net/http refuses some announcements that are without effect
	}
	reader := bufio.NewReader(strings.NewReader(message))
	got, err := http.ReadRequest(reader)
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", message, err)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil || string(body) != payload {
		t.Fatalf("body of %q: net/http reads %q, %v; want %q", message, body, err, payload)
	}
	if rest, _ := io.ReadAll(reader); len(rest) > 0 {
		t.Fatalf("net/http leaves %q of %q", rest, message)
	}
	if got.Host != string(r.Authority) || got.Method != string(r.MethodName) || got.Proto != "HTTP/1.1" {
		t.Fatalf("net/http reads %s %s %s of %q", got.Method, got.Host, got.Proto, message)
	}
	want := http.Header{}
	for i := range r.Len() {
		f, name, value := r.Field(i)
		if !f.Hop && !Names(Host, ContentLength, Expect).Has(f.Name) {
			key := textproto.CanonicalMIMEHeaderKey(string(name))
			want[key] = append(want[key], string(value))
		}
	}
	for key, values := range want {
		if strings.Join(got.Header[key], "\n") != strings.Join(values, "\n") {
			t.Fatalf("net/http reads %q: %q of %q, want %q", key, got.Header[key], message, values)
		}
	}
	for key := range got.Header {
		if _, ok := want[key]; !ok && key != "Content-Length" && key != "Connection" && key != "Te" {
			t.Fatalf("net/http reads %q of %q, which was not passed on", key, message)
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
		r, split := new(Response), new(Response)
		r.Reset()
		n, err := r.Parse(in, limits)
		splitN, splitErr := inPieces(in, func(b []byte) (int, error) { return split.Parse(b, limits) }, split.Reset)
		if n != splitN || err != splitErr {
			t.Fatalf("at once %d, %v; in pieces %d, %v", n, err, splitN, splitErr)
		}
		if err != nil || n == 0 || r.Status < 200 {
			return
		}
		m, method := MethodGet, "GET"
		if toHead {
			m, method = MethodHead, "HEAD"
		}
		body, data := NewBody(r.Framing(m), false), NewBody(r.Framing(m), true)
		kept, _, err := follow(&body, string(in[n:]), len(in))
		payload, _, _ := follow(&data, string(in[n:]), len(in))
		if err != nil || body.End() != nil || r.Count(Trailer) > 0 {
			return
		}
		message := string(r.AppendHead(nil, m, &ResponseRewrite{})) + kept
		reader := bufio.NewReader(strings.NewReader(message))
		got, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", message, err)
		}
		read, err := io.ReadAll(got.Body)
		if err != nil || string(read) != payload || got.StatusCode != r.Status {
			t.Fatalf("net/http reads %d %q, %v of %q; want %d %q", got.StatusCode, read, err, message, r.Status, payload)
		}
		if rest, _ := io.ReadAll(reader); len(rest) > 0 {
			t.Fatalf("net/http leaves %q of %q", rest, message)
		}
	})
}

// FuzzChunked: in one piece as in many; what is passed on is what net/http reads; a second pass changes nothing more.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\n0\r\n\r\n"), 1, 3)
	f.Add([]byte("a;b=\"c\";d\r\n0123456789\r\n0\r\nA: b\r\nHost: c\r\n\r\n"), 5, 2)
	f.Add([]byte("7fffffffffffffff\r\n"), 2, 2)
	f.Fuzz(func(t *testing.T, in []byte, first, then int) {
		whole, pieces, second := NewBody(Framing{Kind: Chunked}, false), NewBody(Framing{Kind: Chunked}, false), NewBody(Framing{Kind: Chunked}, false)
		kept, rest, err := follow(&whole, string(in), len(in))
		piecesKept, piecesRest, piecesErr := follow(&pieces, string(in), first, then)
		if kept != piecesKept || err != piecesErr || err == nil && rest != piecesRest || whole.Done() != pieces.Done() {
			t.Fatalf("at once %q, %q, %v; in pieces %q, %q, %v", kept, rest, err, piecesKept, piecesRest, piecesErr)
		}
		if err != nil || !whole.Done() {
			return
		}
		if again, rest, err := follow(&second, kept, len(kept)); again != kept || rest != "" || err != nil || !second.Done() {
			t.Fatalf("%q became %q, then %q, rest %q, %v", in, kept, again, rest, err)
		}
		data := NewBody(Framing{Kind: Chunked}, true)
		payload, _, _ := follow(&data, string(in), len(in))
		message := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + kept
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(message)))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(request.Body); err != nil || string(body) != payload {
			t.Fatalf("net/http reads %q, %v of %q; want %q", body, err, kept, payload)
		}
	})
}
