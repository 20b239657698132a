package health

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// backend has each connection served by handle until the test ends.
func backend(t testing.TB, handle func(conn net.Conn, r *bufio.Reader)) config.Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
				handle(conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return config.Address{IP: netip.MustParseAddrPort(l.Addr().String())}
}

func httpCheck() *config.HealthCheck {
	return &config.HealthCheck{Timeout: 5 * time.Second, HTTP: &config.HTTPCheck{Method: "GET", Path: "/ready", Expected: []config.StatusRange{{From: 200, To: 201}}}}
}

// answers is a backend that answers every request with text.
func answers(t testing.TB, text string) config.Address {
	return backend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
		}
	})
}

func TestHTTPCheck(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
	status := func(n int) string { return fmt.Sprintf("HTTP/1.1 %d x\r\ncontent-length: 0\r\n\r\n", n) }
	for _, c := range []struct {
		name, text string
		change     func(*config.HTTPCheck)
		want       Outcome
		kept       bool
	}{
		{"200", ok, nil, Passed, true},
		{"204 is not expected", status(204), nil, Rejected, true},
		{"204 is expected", status(204), func(c *config.HTTPCheck) { c.Expected = []config.StatusRange{{From: 200, To: 300}} }, Passed, true},
		{"503", status(503), nil, Rejected, true},
		{"retriable", status(503), func(c *config.HTTPCheck) { c.Retriable = []config.StatusRange{{From: 500, To: 600}} }, Retriable, true},
		{"expected wins", status(503), func(c *config.HTTPCheck) {
			c.Expected, c.Retriable = []config.StatusRange{{From: 503, To: 504}}, []config.StatusRange{{From: 500, To: 600}}
		}, Passed, true},
		{"a redirect is not followed", "HTTP/1.1 302 x\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n", nil, Rejected, true},
		{"degraded", "HTTP/1.1 200 OK\r\nx-envoy-degraded: true\r\ncontent-length: 0\r\n\r\n", nil, PassedDegraded, true},
		{"HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", func(c *config.HTTPCheck) { c.Method = "HEAD" }, Passed, true},
		{"interim", "HTTP/1.1 103 x\r\n\r\n" + ok, nil, Passed, true},
		{"interim for ever", strings.Repeat("HTTP/1.1 103 x\r\n\r\n", 20), nil, Rejected, false},
		{"switching protocols", "HTTP/1.1 101 x\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", nil, Rejected, false},
		{"close", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", nil, Passed, false},
		{"more than was asked for", ok + ok, nil, Passed, false},
		{"no HTTP", "SSH-2.0-OpenSSH_9.2p1\r\n\r\n", nil, Refused, false},
		{"a head without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("a: b\r\n", 20_000), nil, Refused, false},
		{"a long body", "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + strings.Repeat("x", 1_000_000), nil, Passed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			hc := httpCheck()
			hc.ReuseConnection = true
			if c.change != nil {
				c.change(hc.HTTP)
			}
			got, kept := check(context.Background(), "web", hc, answers(t, c.text), Way{}, nil)
			if got != c.want || (kept != nil) != c.kept {
				t.Errorf("outcome %d, kept %v; want %d, %v", got, kept != nil, c.want, c.kept)
			}
			if kept != nil {
				kept.close()
			}
		})
	}
}

func TestRequestOfACheck(t *testing.T) {
	c := &config.HTTPCheck{Method: "HEAD", Path: "/ready?full=1", Headers: []config.CheckHeader{{Name: "x-check", Value: "a b"}}}
	const want = "HEAD /ready?full=1 HTTP/1.1\r\nhost: web\r\nuser-agent: Envoy/HC\r\nx-check: a b\r\n\r\n"
	if got := string(requestText("web", c)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	c.Host = "other.example"
	if got := string(requestText("web", c)); !strings.Contains(got, "\r\nhost: other.example\r\n") {
		t.Errorf("got %q", got)
	}
}

func TestTCPCheck(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  string
		receive []string
		want    Outcome
	}{
		{"all blocks", "hello, +PONG and OK.", []string{"+PONG", "OK"}, Passed},
		{"in another order", "OK +PONG", []string{"+PONG", "OK"}, Refused},
		{"not all", "+PONG", []string{"+PONG", "OK"}, Refused},
		{"one block twice", "aa", []string{"aa", "a"}, Refused},
		{"nothing", "", []string{"x"}, Refused},
		{"no end", strings.Repeat("x", 1<<20), []string{"y"}, Refused},
		{"only the connection", "", nil, Passed},
	} {
		t.Run(c.name, func(t *testing.T) {
			hc := &config.HealthCheck{Timeout: 5 * time.Second, TCP: &config.TCPCheck{Send: []byte("PING\n")}}
			for _, b := range c.receive {
				hc.TCP.Receive = append(hc.TCP.Receive, []byte(b))
			}
			at := backend(t, func(conn net.Conn, r *bufio.Reader) {
				if line, _ := r.ReadString('\n'); line == "PING\n" {
					_, _ = io.WriteString(conn, c.answer)
				}
			})
			if got, kept := check(context.Background(), "c", hc, at, Way{}, nil); got != c.want || kept != nil {
				t.Errorf("outcome %d, kept %v; want %d", got, kept != nil, c.want)
			}
		})
	}
}

func TestChecksThatEndOtherwise(t *testing.T) {
	silent := backend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	gone := func() config.Address {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return config.Address{IP: netip.MustParseAddrPort(l.Addr().String())}
	}()
	hc := httpCheck()
	hc.Timeout = 50 * time.Millisecond
	if got, _ := check(context.Background(), "c", hc, silent, Way{}, nil); got != Late {
		t.Errorf("silent: outcome %d, want %d", got, Late)
	}
	if got, _ := check(context.Background(), "c", hc, gone, Way{}, nil); got != Refused {
		t.Errorf("nobody there: outcome %d, want %d", got, Refused)
	}
	if got := Connect(context.Background(), gone, time.Second); got != Refused {
		t.Errorf("connect, nobody there: outcome %d, want %d", got, Refused)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got, _ := check(ctx, "c", hc, silent, Way{}, nil); got != Unknown {
		t.Errorf("given up: outcome %d, want %d", got, Unknown)
	}
}

// TestReuse: a connection serves several checks, and one that the endpoint closed between two of them is no failure.
func TestReuse(t *testing.T) {
	var mu sync.Mutex
	conns := 0
	at := backend(t, func(conn net.Conn, r *bufio.Reader) {
		mu.Lock()
		conns++
		mu.Unlock()
		for range 2 {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		}
	})
	hc := httpCheck()
	for _, c := range []struct {
		reuse bool
		want  int
	}{{true, 3}, {false, 6}} {
		hc.ReuseConnection = c.reuse
		mu.Lock()
		conns = 0
		mu.Unlock()
		var kept *link
		for i := range 6 {
			var o Outcome
			if o, kept = check(context.Background(), "c", hc, at, Way{}, kept); o != Passed {
				t.Errorf("check %d: outcome %d", i, o)
			}
		}
		if kept != nil {
			kept.close()
		}
		mu.Lock()
		if conns != c.want {
			t.Errorf("reuse %v: %d connections, want %d", c.reuse, conns, c.want)
		}
		mu.Unlock()
	}
}

// FuzzAnswer: whatever an endpoint answers, a check ends in time and keeps no connection with bytes left in it.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "+PONG"} {
		f.Add([]byte(seed))
	}
	hc := httpCheck()
	f.Fuzz(func(t *testing.T, answer []byte) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			if _, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
				_, _ = far.Write(answer)
			}
		}()
		left := &io.LimitedReader{R: near}
		l := &link{conn: near, left: left, r: bufio.NewReader(left)}
		o, reusable, _ := requestHTTP("c", hc.HTTP, l)
		if o > Unknown || reusable && l.r.Buffered() > 0 {
			t.Errorf("outcome %d, reusable %v with %d bytes", o, reusable, l.r.Buffered())
		}
		near.Close()
	})
}
