package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Request is a request of HTTP/2 that need not be right.
type h2Request struct {
	fields   []hpack.HeaderField
	body     string
	trailers []hpack.HeaderField
}

// field is a line "name=value" of a request; the first = parts it.
func field(line string) hpack.HeaderField {
	name, value, _ := strings.Cut(line, "=")
	return hpack.HeaderField{Name: name, Value: value}
}

// h2With is a right request with the pseudo fields of that many lines replaced, and the other lines behind them. A line "-:name" takes
// a pseudo field away.
func h2With(lines ...string) h2Request {
	pseudo := map[string][]string{":method": {"POST"}, ":scheme": {"http"}, ":path": {"/"}, ":authority": {"a"}}
	replaced := map[string]bool{}
	var more []hpack.HeaderField
	for _, line := range lines {
		if name, gone := strings.CutPrefix(line, "-"); gone {
			delete(pseudo, name)
			continue
		}
		f := field(line)
		if _, known := pseudo[f.Name]; !known {
			more = append(more, f)
			continue
		}
		if !replaced[f.Name] {
			pseudo[f.Name] = nil
		}
		replaced[f.Name] = true
		pseudo[f.Name] = append(pseudo[f.Name], f.Value)
	}
	r := h2Request{}
	for _, name := range []string{":method", ":scheme", ":path", ":authority"} {
		for _, value := range pseudo[name] {
			r.fields = append(r.fields, hpack.HeaderField{Name: name, Value: value})
		}
	}
	r.fields = append(r.fields, more...)
	return r
}

func (r h2Request) with(body string, trailers ...string) h2Request {
	r.body = body
	for _, line := range trailers {
		r.trailers = append(r.trailers, field(line))
	}
	return r
}

// ask sends the request on a connection of its own and returns the status of the answer, or how the stream or the connection ended.
func (r h2Request) ask(t testing.TB, addr string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	f := newFlooder(conn)
	encode := func(fields []hpack.HeaderField) []byte {
		f.block.Reset()
		for _, h := range fields {
			_ = f.encoder.WriteField(h)
		}
		return bytes.Clone(f.block.Bytes())
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(r.fields), EndHeaders: true, EndStream: r.body == "" && r.trailers == nil})
	if r.body != "" {
		_ = f.WriteData(1, r.trailers == nil, []byte(r.body))
	}
	if r.trailers != nil {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(r.trailers), EndHeaders: true, EndStream: true})
	}
	_ = f.out.Flush()
	in := http2.NewFramer(nil, conn)
	in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := in.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset " + frame.ErrCode.String()
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return "goaway " + frame.ErrCode.String()
			}
		}
	}
}

// recordingBackend keeps all bytes that it gets and answers what net/http reads as requests.
type recordingBackend struct {
	addr string
	mu   sync.Mutex
	got  bytes.Buffer // guarded by mu
}

func (b *recordingBackend) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got.Write(p)
}

// taken returns what came since the last call.
func (b *recordingBackend) taken() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.got.Reset()
	return b.got.String()
}

func startRecording(t testing.TB) *recordingBackend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	b := &recordingBackend{addr: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(io.TeeReader(conn, b))
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, req.Body); err != nil {
						return
					}
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			}()
		}
	}()
	return b
}

// malformedHTTP2 are requests that RFC 9113 calls malformed (sections 8.1.1, 8.2, 8.3, 8.5), or that mean something else when they are
// written as HTTP/1. Text that must not arrive has "evil" in it.
func malformedHTTP2() map[string]h2Request {
	const crlf = "\r\nevil: 1\r\n\r\nGET /evil HTTP/1.1\r\nhost: evil\r\n\r\n"
	return map[string]h2Request{
		"CRLF in a value": h2With("x=a" + crlf), "LF in a value": h2With("x=a\nevil: 1"), "CR in a value": h2With("x=a\revil: 1"), "NUL in a value": h2With("x=evil\x00"),
		"space before a value": h2With("x= evil"), "space behind a value": h2With("x=evil "), "tab before a value": h2With("x=\tevil"),
		"CRLF in a name": h2With("x\r\nevil: 1=a"), "upper case in a name": h2With("X-Evil=a"), "colon in a name": h2With("evil:x=a"), "space in a name": h2With("evil x=a"),
		"no name": h2With("=evil"), "NUL in a name": h2With("evil\x00=a"), "non-ASCII in a name": h2With("evil\xe9=a"), "DEL in a name": h2With("evil\x7f=a"),
		"connection": h2With("connection=evil"), "keep-alive": h2With("keep-alive=evil"), "proxy-connection": h2With("proxy-connection=evil"),
		"upgrade": h2With("upgrade=evil"), "transfer-encoding": h2With("transfer-encoding=chunked").with("0\r\n\r\nGET /evil HTTP/1.1\r\nhost: evil\r\n\r\n"), "te": h2With("te=evil"),
		"no path": h2With("-:path"), "empty path": h2With(":path="), "two paths": h2With(":path=/", ":path=/evil"), "path without slash": h2With(":path=evil"),
		"path with space": h2With(":path=/ HTTP/1.1" + crlf), "path with CRLF": h2With(":path=/" + crlf), "path with NUL": h2With(":path=/evil\x00"), "path with fragment": h2With(":path=/#evil"),
		"path * of a POST": h2With(":path=*", "evil=1"), "path that is a URI": h2With(":path=http://evil/"),
		"no method": h2With("-:method", "evil=1"), "two methods": h2With(":method=GET", ":method=EVIL", "evil=1"), "method with spaces": h2With(":method=GET /evil HTTP/1.1" + crlf + "GET"),
		"empty method": h2With(":method=", "evil=1"), "no scheme": h2With("-:scheme", "evil=1"), "two schemes": h2With(":scheme=http", ":scheme=https", "evil=1"),
		"two authorities": h2With(":authority=a", ":authority=evil"), "authority with user": h2With(":authority=evil@a"), "authority with path": h2With(":authority=a/evil"),
		"authority with CRLF": h2With(":authority=a" + crlf), "authority with space": h2With(":authority=a evil"), "no authority": h2With("-:authority", "evil=1"),
		"host that differs": h2With("host=evil"), "two hosts": h2With("-:authority", "host=a", "host=evil"),
		"pseudo field behind others": {fields: append(h2With("-:path", "evil=1").fields, field(":path=/"))}, "unknown pseudo field": h2With(":evil=1"), "pseudo field of responses": h2With(":status=200", "evil=1"),
		"protocol of no CONNECT": h2With(":protocol=evil"), "CONNECT with path": h2With(":method=CONNECT", "evil=1"),
		"length too large": h2With("content-length=9", "evil=1").with("body"), "length too small": h2With("content-length=1", "evil=1").with("body"), "length without body": h2With("content-length=4", "evil=1"),
		"signed length": h2With("content-length=+4", "evil=1").with("body"), "list of lengths": h2With("content-length=4, 4", "evil=1").with("body"),
		"two lengths": h2With("content-length=4", "content-length=5", "evil=1").with("body"), "length in hex": h2With("content-length=0x4", "evil=1").with("body"),
		"pseudo field in trailers": h2With().with("body", ":path=/evil"), "CRLF in trailers": h2With().with("body", "x=a"+crlf), "upper case in trailers": h2With().with("body", "Evil=1"),
		"connection in trailers": h2With().with("body", "connection=evil"),
	}
}

// judgeDowngrade has malformed requests of HTTP/2 meet a back end of HTTP/1. Whatever begins to arrive of them, none arrives whole and
// no other request is made of one.
func judgeDowngrade(t *testing.T, kind hopKind, excused ...string) {
	back := startRecording(t)
	h := startHop(t, kind, hopSpec{to: []string{back.addr}})
	excuse := map[string]bool{}
	for _, name := range excused {
		excuse[name] = true
	}
	for name, r := range malformedHTTP2() {
		got := r.ask(t, h.addr)
		refused := strings.HasPrefix(got, "4") || strings.HasPrefix(got, "5") || strings.HasPrefix(got, "reset ") || strings.HasPrefix(got, "goaway ") || got == "EOF"
		sent := back.taken()
		if (!refused || wholeRequests(sent) > 0) && !excuse[name] {
			t.Errorf("%s: answered %q; the back end got %q", name, got, sent)
		}
		if again := h2With(":path=/right").ask(t, h.addr); again != "200" || strings.Count(back.taken(), " /right HTTP/1.1\r\n") != 1 {
			t.Errorf("after %s: a right request is answered %q", name, again)
		}
	}
	for name, c := range map[string]struct {
		r    h2Request
		want string // of the head
	}{
		"crumbs":   {h2With("cookie=a=1", "cookie=b=2"), "cookie: a=1; b=2\r\n"},
		"te":       {h2With("te=trailers"), ""},
		"length":   {h2With("content-length=4").with("body"), "content-length: 4\r\n"},
		"host":     {h2With("-:authority", "host=a"), "host: a\r\n"},
		"trailers": {h2With().with("body", "x-sum=1"), "chunked\r\n"},
	} {
		if got := c.r.ask(t, h.addr); got != "200" {
			t.Errorf("%s: answered %q, though it is right", name, got)
		}
		if sent := back.taken(); !strings.Contains(strings.ToLower(sent), c.want) || wholeRequests(sent) != 1 {
			t.Errorf("%s: the back end got %q, want %q in one request", name, sent, c.want)
		}
	}
}

// wholeRequests is how many requests net/http finds in what a back end got.
func wholeRequests(text string) (n int) {
	for r := bufio.NewReader(strings.NewReader(text)); ; n++ {
		req, err := http.ReadRequest(r)
		if err != nil {
			return n
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return n
		}
	}
}
