package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http1/http1test"
)

// recorder is a back end that keeps, byte for byte, what each of its connections gets, and answers what another implementation
// (net/http) reads as a request.
type recorder struct {
	addr string

	mu    sync.Mutex
	conns []*lockedBuffer // guarded by mu
}

func newRecorder(t testing.TB) *recorder {
	rec := &recorder{}
	rec.addr = rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
		got := &lockedBuffer{}
		rec.mu.Lock()
		rec.conns = append(rec.conns, got)
		rec.mu.Unlock()
		r := bufio.NewReader(io.TeeReader(conn, got))
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				_, _ = io.Copy(io.Discard, r)
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			answer(conn, "ok")
		}
	})
	return rec
}

// taken returns the requests that net/http found whole in what came since the last call, and the bytes.
func (rec *recorder) taken() (requests []*http.Request, bytesGot string) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, c := range rec.conns {
		text := c.String()
		bytesGot += text
		r := bufio.NewReader(strings.NewReader(text))
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				break
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				break
			}
			requests = append(requests, req)
		}
	}
	rec.conns = nil
	return requests, bytesGot
}

// probed runs a proxy in front of the recorder that takes every host, and closes upstream connections after each request so that
// what belongs together is together.
func probed(t testing.TB) (*testProxy, *recorder) {
	rec := newRecorder(t)
	v := plain("web")
	v.Domains = []string{"*"}
	cl := cluster("web", rec.addr)
	cl.MaxConnRequests = 1
	return start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cl)}, nil), rec
}

// say sends a probe and what a smuggler would send behind it, and returns all that comes back until the proxy closes.
func (p *testProxy) say(text string) string {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.addr.String())
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, text)
	data, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Errorf("the proxy waits for more after %q", clipped([]byte(text)))
	}
	return string(data)
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// TestProbesOfTheWholeProxy has every probe of http1test, with another request behind it, meet the whole proxy. One that must be
// refused gets one answer and its connection is closed; no byte of it or of what is behind it reaches a back end. One that is taken
// reaches the back end, for another implementation too, as one request.
func TestProbesOfTheWholeProxy(t *testing.T) {
	p, rec := probed(t)
	reached := 0
	for _, probe := range http1test.Requests() {
		got := p.say(probe.In + smuggled)
		requests, sent := rec.taken()
		responses := strings.Count(got, "HTTP/1.1 ")
		if probe.Refused != "" {
			if status := got[min(9, len(got)):min(10, len(got))]; responses != 1 || status != "4" && status != "5" || !strings.Contains(strings.ToLower(got), "connection: close\r\n") {
				t.Errorf("%s: answered %q, want one refusal", probe.Name, got)
			}
			if sent != "" {
				t.Errorf("%s: it must be refused, but the back end got %q", probe.Name, sent)
			}
			continue
		}
		if strings.HasPrefix(got, "HTTP/1.1 400 ") || responses == 0 {
			t.Errorf("%s: answered %q, though it is right", probe.Name, got)
		}
		reached += min(len(requests), 1)
		for i, req := range requests {
			if i > 1 || (req.URL.Path == "/smuggled") != (i == len(requests)-1 && responses > 1) {
				t.Errorf("%s: %d answers; the back end got %q", probe.Name, responses, sent)
			}
		}
	}
	if reached < 40 {
		t.Errorf("only %d of the probes that are right reached the back end", reached)
	}
}

// TestBrokenChunksOfTheWholeProxy: a body that breaks reaches the back end as an incomplete one, and nothing behind it does.
func TestBrokenChunksOfTheWholeProxy(t *testing.T) {
	p, rec := probed(t)
	for name, body := range map[string]string{
		"no size": "\r\n\r\n", "space before size": " 1\r\na\r\n0\r\n\r\n", "space after size": "1 \r\na\r\n0\r\n\r\n", "tab after size": "1\t\r\na\r\n0\r\n\r\n",
		"plus": "+1\r\na\r\n0\r\n\r\n", "minus": "-1\r\na\r\n0\r\n\r\n", "0x": "0x1\r\na\r\n0\r\n\r\n", "no hex digit": "g\r\n0\r\n\r\n", "underscore": "1_0\r\n0\r\n\r\n",
		"overflow": "8000000000000000\r\n", "overflow of 64 bits": "10000000000000001\r\na\r\n0\r\n\r\n", "very many zeros": strings.Repeat("0", 17) + "1\r\na\r\n0\r\n\r\n",
		"size in LF": "1\na\r\n0\r\n\r\n", "size in CR": "1\ra\r\n0\r\n\r\n", "size in CR CR LF": "1\r\r\na\r\n0\r\n\r\n", "data too long": "1\r\nab\r\n0\r\n\r\n",
		"data too short": "3\r\nab\r\n0\r\n\r\n", "data in LF": "1\r\na\n0\r\n\r\n", "data in CR": "1\r\na\r0\r\n\r\n", "extension without name": "1;\r\na\r\n0\r\n\r\n",
		"extension in LF": "1;a\na\r\n0\r\n\r\n", "extension with LF in quotes": "1;a=\"\n\"\r\na\r\n0\r\n\r\n", "extension with CRLF in quotes": "1;a=\"\r\n\"\r\na\r\n0\r\n\r\n",
		"extension too long": "1;" + strings.Repeat("a", 20<<10) + "\r\na\r\n0\r\n\r\n", "end in LF": "0\n\n", "last line in LF": "0\r\n\n", "end in CR": "0\r\n\r0",
		"trailer in LF": "0\r\na: b\n\r\n", "trailer folded": "0\r\na: b\r\n c\r\n\r\n", "trailer without colon": "0\r\na\r\n\r\n",
		"trailer with space before colon": "0\r\na : b\r\n\r\n", "trailer with NUL": "0\r\na: \x00\r\n\r\n", "trailer too long": "0\r\na: " + strings.Repeat("b", 70<<10) + "\r\n\r\n",
		"two ends": "0\r\n0\r\n\r\n", "sign in the end": "-0\r\n\r\n",
	} {
		got := p.say("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body + smuggled)
		requests, sent := rec.taken()
		if strings.Contains(sent, "smuggled") || len(requests) > 0 {
			t.Errorf("%s: the back end got %q", name, sent)
		}
		if strings.Count(got, "HTTP/1.1 ") > 1 || strings.HasPrefix(got, "HTTP/1.1 2") {
			t.Errorf("%s: answered %q", name, got)
		}
	}
}

// TestMalformedResponsesAreNotForwarded: what a back end may not say is answered 502, and its connection is not used again. What
// breaks within a body is cut off.
func TestMalformedResponsesAreNotForwarded(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	chunked := func(body string) string { return head + "Transfer-Encoding: chunked\r\n\r\n" + body }
	for name, said := range map[string]string{
		"LF only": "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "CR only": "HTTP/1.1 200 OK\rContent-Length: 0\r\r", "version 0.9": "HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
		"version 2": "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", "version in lower case": "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"status of two digits": "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", "status of four digits": "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
		"status 099": "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", "status with sign": "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
		"two spaces": "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", "NUL in reason": "HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n", "bare CR in reason": "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
		"folded": head + "A: b\r\n c\r\nContent-Length: 0\r\n\r\n", "space before colon": head + "A : b\r\nContent-Length: 0\r\n\r\n", "no colon": head + "A\r\nContent-Length: 0\r\n\r\n",
		"NUL in value": head + "A: \x00\r\nContent-Length: 0\r\n\r\n", "bare CR in value": head + "A: b\rSet-Cookie: c\r\nContent-Length: 0\r\n\r\n",
		"signed length": head + "Content-Length: +2\r\n\r\nab", "length in hex": head + "Content-Length: 0x2\r\n\r\nab", "length that overflows": head + "Content-Length: 18446744073709551618\r\n\r\nab",
		"negative length": head + "Content-Length: -1\r\n\r\nab", "empty length": head + "Content-Length:\r\n\r\nab", "two lengths": head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"length and chunked": head + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "unknown coding": head + "Transfer-Encoding: gzip\r\n\r\nab",
		"chunked twice": head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "chunked, then gzip": head + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
		"coding in 1.0": "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "many fields": head + strings.Repeat("A: b\r\n", 10000) + "Content-Length: 0\r\n\r\n",
		"endless head": head + "A: " + strings.Repeat("b", 1<<20),
		"chunk in LF":  chunked("1\na\r\n0\r\n\r\n"), "chunk 0x": chunked("0x1\r\na\r\n0\r\n\r\n"), "chunk that overflows": chunked("10000000000000001\r\na\r\n0\r\n\r\n"),
		"chunk too long": chunked("1\r\nab\r\n0\r\n\r\n"), "trailer in LF": chunked("0\r\na: b\n\r\n"),
	} {
		var conns int
		said := []byte(said)
		backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			conns++
			readHead(r)
			_, _ = conn.Write(said)
			_, _ = io.Copy(io.Discard, r)
		})
		p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cluster("web", backend))}, oneLoop)
		got := p.raw2("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
		inBody := bytes.Contains(said, []byte("Transfer-Encoding: chunked\r\n\r\n")) && bytes.HasPrefix(said, []byte(head+"Transfer"))
		switch {
		case !inBody && !strings.HasPrefix(got, "HTTP/1.1 502 "):
			t.Errorf("%s: answered %q, want 502", name, clipped([]byte(got)))
		case inBody && strings.HasPrefix(got, "HTTP/1.1 200 ") && strings.HasSuffix(got, "0\r\n\r\n"):
			t.Errorf("%s: answered %q, as if it were whole", name, clipped([]byte(got)))
		}
		p.waitStat("cluster.web.upstream_cx_active", "0")
		p.stop()
		if strings.Contains(got, "Set-Cookie") || conns != 1 {
			t.Errorf("%s: %d connections, answered %q", name, conns, clipped([]byte(got)))
		}
	}
}

// raw2 is raw for answers that may be cut off.
func (p *testProxy) raw2(text string) string {
	p.t.Helper()
	conn := p.dial()
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		p.t.Fatal(fmt.Errorf("write: %w", err))
	}
	data, _ := io.ReadAll(conn)
	return string(data)
}
