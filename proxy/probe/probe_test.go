package probe_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/probe"
)

// backend accepts connections and has each handled, with its number.
func backend(t *testing.T, handle func(n int, conn net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				handle(n, conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return "http://" + l.Addr().String() + "/"
}

func answer(w io.Writer, r *bufio.Reader, text string) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_ = req.Body.Close()
	_, err = io.WriteString(w, text)
	return err == nil
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestEveryKindOfDropIsCounted, and what is no drop is not.
func TestEveryKindOfDropIsCounted(t *testing.T) {
	for _, c := range []struct {
		name   string
		fresh  int
		handle func(n int, conn net.Conn, r *bufio.Reader)
		reason string // empty: nothing is dropped
	}{
		{"nothing, kept", 0, func(_ int, conn net.Conn, r *bufio.Reader) {
			for answer(conn, r, ok) {
			}
		}, ""},
		{"nothing, fresh", 100, func(_ int, conn net.Conn, r *bufio.Reader) { answer(conn, r, ok) }, ""},
		{"a close that was announced", 0, func(_ int, conn net.Conn, r *bufio.Reader) {
			answer(conn, r, strings.Replace(ok, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		}, ""},
		{"a close that was not", 0, func(_ int, conn net.Conn, r *bufio.Reader) { answer(conn, r, ok) }, "kept connection: "},
		{"reset", 100, func(_ int, conn net.Conn, _ *bufio.Reader) { _ = conn.(*net.TCPConn).SetLinger(0) }, "new connection: connection reset by peer"},
		{"half a body", 100, func(_ int, conn net.Conn, r *bufio.Reader) { answer(conn, r, strings.TrimSuffix(ok, "k")) }, "new connection: in the body: unexpected EOF"},
		{"an error of the proxy", 0, func(_ int, conn net.Conn, r *bufio.Reader) {
			for answer(conn, r, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") {
			}
		}, "new connection: status 503"},
		{"silence", 100, func(_ int, conn net.Conn, _ *bufio.Reader) { _, _ = io.Copy(io.Discard, conn) }, "new connection: no answer in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := probe.Run(t.Context(), probe.Options{URL: backend(t, c.handle), Rate: 100, Duration: 300 * time.Millisecond, Kept: 4, Fresh: c.fresh, Timeout: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests == 0 || r.Answered+r.Dropped != r.Requests {
				t.Errorf("got %+v: requests are missing", r)
			}
			if c.reason == "" {
				if r.Dropped != 0 {
					t.Errorf("got %+v, want nothing dropped", r)
				}
				return
			}
			found := uint64(0)
			for reason, n := range r.Reasons {
				if strings.HasPrefix(reason, c.reason) {
					found += n
				}
			}
			if found == 0 {
				t.Errorf("got %+v, want %q among the reasons", r, c.reason)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r, err := probe.Run(t.Context(), probe.Options{URL: "http://" + l.Addr().String(), Duration: 100 * time.Millisecond, WebSockets: 2})
	if err != nil || r.Answered != 0 || r.Reasons["connect: connection refused"] != r.Requests || r.Reasons["WebSocket handshake: connection refused"] != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestWebSocketThatIsCutIsCounted; one that stays is not.
func TestWebSocketThatIsCutIsCounted(t *testing.T) {
	var refused atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refused.Store(true); r.Header.Get("Upgrade") != "" {
			http.Error(w, "no", http.StatusForbidden)
		}
	}))
	defer s.Close()
	r, err := probe.Run(t.Context(), probe.Options{URL: s.URL, Duration: 100 * time.Millisecond, WebSockets: 1})
	if err != nil || r.Dropped != 1 || r.Reasons["WebSocket handshake: status 403"] != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
	// One that speaks no WebSocket but says so.
	url := backend(t, func(_ int, conn net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Header.Get("Upgrade") != "" {
				fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: other\r\n\r\n")
				return
			}
			fmt.Fprint(conn, ok)
		}
	})
	r, err = probe.Run(t.Context(), probe.Options{URL: url, Duration: 100 * time.Millisecond, WebSockets: 1})
	if err != nil || r.Reasons["WebSocket handshake: the answer is another's"] != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []probe.Options{{URL: "ftp://a/"}, {URL: "nonsense"}, {URL: "http://a:b:c"}, {URL: "http://a/", Fresh: 101}} {
		if _, err := probe.Run(t.Context(), o); err == nil {
			t.Errorf("%+v: got no error", o)
		}
	}
}

// TestEveryVersionOfHTTP is asked, and nothing else.
func TestEveryVersionOfHTTP(t *testing.T) {
	for _, c := range []struct {
		name        string
		http2, safe bool
		want        string
	}{
		{"HTTP/1", false, false, "HTTP/1.1"},
		{"HTTP/1 over TLS", false, true, "HTTP/1.1"},
		{"HTTP/2 by prior knowledge", true, false, "HTTP/2.0"},
		{"HTTP/2 over TLS", true, true, "HTTP/2.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Proto != c.want || r.Host != "web.mesh.internal" {
					http.Error(w, "no", http.StatusInternalServerError)
				}
			}))
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetHTTP1(true)
			s.Config.Protocols.SetHTTP2(true)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.EnableHTTP2 = true
			o := probe.Options{Host: "web.mesh.internal", Rate: 100, Duration: 300 * time.Millisecond, Kept: 2, Fresh: 50, HTTP2: c.http2}
			if c.safe {
				s.StartTLS()
				o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
				o.TLS.RootCAs.AddCert(s.Certificate())
			} else {
				s.Start()
			}
			defer s.Close()
			o.URL = s.URL
			if r, err := probe.Run(t.Context(), o); err != nil || r.Dropped != 0 || r.Answered == 0 {
				t.Errorf("got %+v, %v", r, err)
			}
			if o.TLS = nil; c.safe {
				if r, err := probe.Run(t.Context(), o); err != nil || r.Answered != 0 {
					t.Errorf("by the system's roots: got %+v, %v", r, err)
				}
			}
		})
	}
}
