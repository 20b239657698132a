package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const get = "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n"

// readResponse reads a response to method.
func readResponse(t testing.TB, r *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	return resp, string(body)
}

func TestResponseFraming(t *testing.T) {
	for _, c := range []struct {
		name, request, answer string
		close                 bool // the backend closes after its answer
		wantHead, wantBody    string
		lacks                 string
		wantClose             bool
	}{
		{name: "length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", wantHead: "Content-Length: 5", wantBody: "hello"},
		{name: "empty", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", wantHead: "Content-Length: 0"},
		{name: "chunked", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", wantHead: "Transfer-Encoding: chunked", wantBody: "hello"},
		{name: "until close", answer: "HTTP/1.1 200 OK\r\n\r\nhello", close: true, wantHead: "Transfer-Encoding: chunked", wantBody: "hello"},
		{name: "until close of HTTP/1.0", answer: "HTTP/1.0 200 OK\r\n\r\nhello", close: true, wantHead: "HTTP/1.1 200 OK", wantBody: "hello"},
		{name: "204", answer: "HTTP/1.1 204 No Content\r\n\r\n", wantHead: "204 No Content", lacks: "ontent-"},
		{name: "304", answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n", wantHead: "ETag: x"},
		{name: "HEAD", request: "HEAD / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", wantHead: "Content-Length: 5"},
		{name: "client asks to close", request: "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", wantHead: "Connection: close", wantBody: "hello", wantClose: true},
		{name: "HTTP/1.0", request: "GET / HTTP/1.0\r\nHost: web.mesh.internal\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", wantHead: "Connection: close", wantBody: "hello", wantClose: true},
		{name: "HTTP/1.0 keep-alive", request: "GET / HTTP/1.0\r\nHost: web.mesh.internal\r\nConnection: keep-alive\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", wantHead: "Connection: keep-alive", wantBody: "hello"},
		{name: "chunked to HTTP/1.0", request: "GET / HTTP/1.0\r\nHost: web.mesh.internal\r\nConnection: keep-alive\r\n\r\n", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", lacks: "chunked", wantBody: "hello", wantClose: true},
		{name: "hop-by-hop fields", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nServer: apache\r\n\r\n", wantHead: "server: envoy", lacks: "X-Hop"},
		{name: "interim", answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", wantHead: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				for readHead(r) != "" {
					_, _ = io.WriteString(conn, c.answer)
					if c.close {
						return
					}
				}
			}))
			if c.request == "" {
				c.request = get
			}
			conn := p.dial()
			_, _ = io.WriteString(conn, c.request)
			method, _, _ := strings.Cut(c.request, " ")
			var seen bytes.Buffer
			r := bufio.NewReader(io.TeeReader(conn, &seen))
			resp, body := readResponse(t, r, method)
			for resp.StatusCode < 200 {
				resp, body = readResponse(t, r, method)
			}
			if body != c.wantBody || !strings.Contains(seen.String(), c.wantHead) || c.lacks != "" && strings.Contains(seen.String(), c.lacks) {
				t.Errorf("got %q", seen.String())
			}
			_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, err := r.ReadByte()
			if closed := err == io.EOF; closed != c.wantClose {
				t.Errorf("after the response: %v, want closed: %v", err, c.wantClose)
			}
		})
	}
}

// pattern is n bytes that are not repeated.
func pattern(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestBodiesOfAllSizes(t *testing.T) {
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.Header.Get("X-Chunked") == "" {
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		}
		for len(body) > 0 {
			n := min(len(body), 7000)
			_, _ = w.Write(body[:n])
			body = body[n:]
		}
	}))
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	for _, method := range []string{http.MethodPost, http.MethodPut} {
		for _, size := range []int{0, 1, 1000, 16 << 10, 65535, 65536, 65537, 200_000, 3 << 20} {
			for _, chunked := range []bool{false, true} {
				body := pattern(size)
				req, _ := http.NewRequest(method, "http://"+p.addr.String()+"/", bytes.NewReader(body))
				req.Host = "web.mesh.internal"
				if chunked {
					req.Header.Set("X-Chunked", "1")
					req.ContentLength = -1
					req.Body = io.NopCloser(bytes.NewReader(body))
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatalf("%s %d chunked=%v: %v", method, size, chunked, err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || sha256.Sum256(got) != sha256.Sum256(body) {
					t.Fatalf("%s %d chunked=%v: %d bytes back, %v, status %d", method, size, chunked, len(got), err, resp.StatusCode)
				}
			}
		}
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	conn := p.dial()
	const n = 300
	go func() {
		var all strings.Builder
		for i := range n {
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 4\r\n\r\nbody", i)
		}
		_, _ = io.WriteString(conn, all.String())
	}()
	r := bufio.NewReader(conn)
	for i := range n {
		if _, body := readResponse(t, r, "POST"); body != "/"+strconv.Itoa(i) {
			t.Fatalf("response %d is %q", i, body)
		}
	}
}

func TestRequestByteByByte(t *testing.T) {
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	conn := p.dial()
	for _, b := range []byte("POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n" + get) {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Microsecond)
	}
	r := bufio.NewReader(conn)
	if _, body := readResponse(t, r, "POST"); body != "abcde" {
		t.Errorf("body %q", body)
	}
	readResponse(t, r, "GET")
}

func TestResponseByteByByte(t *testing.T) {
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			for _, b := range []byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n") {
				_, _ = conn.Write([]byte{b})
				time.Sleep(100 * time.Microsecond)
			}
		}
	}))
	conn := p.dial()
	r := bufio.NewReader(conn)
	for range 3 {
		_, _ = io.WriteString(conn, get)
		readResponse(t, r, "GET")
		if resp, body := readResponse(t, r, "GET"); body != "abcde" || resp.Trailer.Get("X-T") != "1" {
			t.Errorf("body %q, trailer %v", body, resp.Trailer)
		}
	}
}

func TestUpstreamConnectionsAreKept(t *testing.T) {
	var conns atomic.Int32
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		conns.Add(1)
		for readHead(r) != "" {
			answer(conn, "ok")
		}
	}))
	conn := p.dial()
	r := bufio.NewReader(conn)
	for range 50 {
		_, _ = io.WriteString(conn, get)
		readResponse(t, r, "GET")
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d upstream connections for 50 requests one after the other, want 1", n)
	}
}

// TestAccessLogCountsContent: what the log counts are the bodies' bytes, however they were delimited.
func TestAccessLogCountsContent(t *testing.T) {
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			for {
				if line, err := r.ReadString('\n'); err != nil || line == "0\r\n" {
					break
				}
			}
			_, _ = r.ReadString('\n')
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nx-trailer: 1\r\n\r\n")
		}
	}))
	conn := p.dial()
	r := bufio.NewReader(conn)
	parts := []string{"PUT / HTTP/1.1\r\nHost: web.mesh.internal\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", "llo\r\n", "6\r\n world\r\n0\r\n\r\n"}
	for _, pause := range []time.Duration{0, 20 * time.Millisecond} {
		for _, part := range parts {
			_, _ = io.WriteString(conn, part)
			time.Sleep(pause)
		}
		if resp, body := readResponse(t, r, "PUT"); resp.StatusCode != 200 || body != "abcdefg" {
			t.Fatalf("%s %q", resp.Status, body)
		}
	}
	conn.Close()
	p.stop()
	if n := strings.Count(p.log.String(), " 200 - 11 7 "); n != 2 {
		t.Errorf("access log %q: want two lines with 11 bytes received and 7 sent", p.log)
	}
}

func TestExpect100Continue(t *testing.T) {
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // net/http answers 100 at the first read
		_, _ = w.Write(body)
	}))
	conn := p.dial()
	r := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if resp, _ := readResponse(t, r, "POST"); resp.StatusCode != 100 {
		t.Fatalf("status %d, want 100", resp.StatusCode)
	}
	_, _ = io.WriteString(conn, "hello")
	if resp, body := readResponse(t, r, "POST"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("status %d, body %q", resp.StatusCode, body)
	}
}

func TestEarlyResponseEndsTheRequest(t *testing.T) {
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
		time.Sleep(100 * time.Millisecond)
	}))
	conn := p.dial()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 50000000\r\n\r\n")
	go func() {
		chunk := make([]byte, 64<<10)
		for range 50000000 / len(chunk) {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	resp, body := readResponse(t, bufio.NewReader(conn), "POST")
	if resp.StatusCode != 413 || body != "no!" || !resp.Close {
		t.Errorf("status %d, body %q, close %v", resp.StatusCode, body, resp.Close)
	}
}

func TestTruncatedResponseIsSeenByTheClient(t *testing.T) {
	for _, c := range []struct{ name, answer string }{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"broken chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				readHead(r)
				_, _ = io.WriteString(conn, c.answer)
			}))
			_, _, err := p.get(http.DefaultClient, "web.mesh.internal", "/")
			if err == nil {
				t.Error("the client took the response for complete")
			}
		})
	}
}
