package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestMalformedRequestsAreNeverForwarded holds the ways to say something that two readers may understand differently
// (CVE classes 2, 6, 13, 14). The backend must never see the connection, or in the rows that break within the body, never
// a complete request.
func TestMalformedRequestsAreNeverForwarded(t *testing.T) {
	host := "Host: web.mesh.internal\r\n"
	for _, c := range []struct {
		name, request string
		status        string
	}{
		{"no version", "GET /\r\n\r\n", "400"},
		{"bare LF", "GET / HTTP/1.1\nHost: web.mesh.internal\n\n", "400"},
		{"bare CR in a value", "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", "400"},
		{"NUL in a value", "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n", "400"},
		{"space before colon", "GET / HTTP/1.1\r\n" + host + "X : 1\r\n\r\n", "400"},
		{"folded line", "GET / HTTP/1.1\r\n" + host + "X: 1\r\n 2\r\n\r\n", "400"},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", "400"},
		{"two Hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", "400"},
		{"Host with a path", "GET / HTTP/1.1\r\nHost: web.mesh.internal/x\r\n\r\n", "400"},
		{"Host with user information", "GET / HTTP/1.1\r\nHost: a@web.mesh.internal\r\n\r\n", "400"},
		{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "400"},
		{"length list", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n\r\na", "400"},
		{"signed length", "POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\na", "400"},
		{"length and chunked", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"chunked twice", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400"},
		{"unknown coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip\r\n\r\n", "501"},
		{"coding in HTTP/1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"chunk size sign", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", "400"},
		{"chunk size 0x", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "400"},
		{"chunk with bare LF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", "400"},
		{"chunk without CRLF", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n", "400"},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"},
		{"HTTP/3.0", "GET / HTTP/3.0\r\n" + host + "\r\n", "505"},
		{"CONNECT", "CONNECT web.mesh.internal:443 HTTP/1.1\r\n" + host + "\r\n", "404"},
		{"CONNECT with a request behind it", "CONNECT web.mesh.internal:443 HTTP/1.1\r\n" + host + "\r\n" + get, "404"},
		{"fragment", "GET /a#b HTTP/1.1\r\n" + host + "\r\n", "400"},
		{"no leading slash", "GET a HTTP/1.1\r\n" + host + "\r\n", "400"},
		{"method with a colon", "GE:T / HTTP/1.1\r\n" + host + "\r\n", "400"},
		{"large head", "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 61<<10) + "\r\n\r\n", "431"},
		{"many headers", "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: 1\r\n", 200) + "\r\n", "431"},
		{"long target", "GET /" + strings.Repeat("a", 61<<10) + " HTTP/1.1\r\n" + host + "\r\n", "414"},
		{"unknown expectation", "GET / HTTP/1.1\r\n" + host + "Expect: magic\r\n\r\n", "417"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Int32
			p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				seen.Add(1)
				_, _ = io.Copy(io.Discard, r)
			}))
			got := p.raw(c.request)
			if !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") || !strings.Contains(strings.ToLower(got), "connection: close") {
				t.Errorf("answer %q, want %s and the connection closed", got, c.status)
			}
			if strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("more than one answer: %q", got)
			}
			if n := seen.Load(); n != 0 {
				t.Errorf("the backend saw %d connections", n)
			}
		})
	}
}

// TestBrokenBodyIsCutOff is a request whose body turns out to be malformed when its head is on its way: the upstream sees
// an incomplete request, on a connection that ends.
func TestBrokenBodyIsCutOff(t *testing.T) {
	got := make(chan string, 1)
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		data, _ := io.ReadAll(r)
		got <- string(data)
	}))
	conn := p.dial()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	p.waitStat("cluster.web.upstream_cx_total", "1")
	time.Sleep(20 * time.Millisecond)
	_, _ = io.WriteString(conn, "zz\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
	data, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(data), "HTTP/1.1 400 ") || strings.Count(string(data), "HTTP/1.1") != 1 {
		t.Errorf("answer %q, want one 400", data)
	}
	if body := <-got; strings.Contains(body, "smuggled") || strings.HasSuffix(body, "0\r\n\r\n") || !strings.HasSuffix(body, "5\r\nhello\r\n") {
		t.Errorf("the upstream got %q", body)
	}
}

func TestUnknownNamesAreNotProxied(t *testing.T) {
	target := server(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("reached with %s", r.Host) })
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host+r.URL.Path) }))
	for _, c := range []struct{ request, want string }{
		{"GET / HTTP/1.1\r\nHost: " + target + "\r\nConnection: close\r\n\r\n", "404"},
		{"GET http://" + target + "/ HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n", "404"},
		{"GET http://web.mesh.internal/x HTTP/1.1\r\nHost: " + target + "\r\nConnection: close\r\n\r\n", "web.mesh.internal/x"},
		{"GET / HTTP/1.0\r\n\r\n", "404"},
	} {
		if got := p.raw(c.request); !strings.Contains(got, c.want) {
			t.Errorf("%q: %q, want %s", c.request, got, c.want)
		}
	}
	p.stop()
	if !strings.Contains(p.log.String(), `" 404 NR 0 0 `) {
		t.Errorf("access log %q has no NR", p.log)
	}
}

func TestTimeouts(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		<-hang
	})
	short := func(change func(*config.HTTP, *config.Route)) *testProxy {
		v := vhost("web.mesh.internal", "web")
		l := httpConfig(freeAddr(t), v)
		l.HTTP.AccessLogs[0].Format = &config.LogFormat{Text: " %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}
		change(l.HTTP, v.Routes[0])
		return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", backend))}, nil)
	}
	const tick = 50 * time.Millisecond
	for _, c := range []struct {
		name, request, status, text, log string
		change                           func(*config.HTTP, *config.Route)
	}{
		{"route", get, "504", "upstream request timeout", " 504 UT response_timeout\n", func(_ *config.HTTP, r *config.Route) { r.Timeout = tick }},
		{"per try", get, "504", "upstream request timeout", " 504 URX,UT upstream_per_try_timeout\n", func(_ *config.HTTP, r *config.Route) { r.Retry.PerTryTimeout = tick; r.Retry.Max = 0 }},
		{"stream idle", get, "504", "stream timeout", " 504 SI stream_idle_timeout\n", func(h *config.HTTP, _ *config.Route) { h.StreamIdleTimeout = tick }},
		{"head", "GET / HT", "408", "request header timeout", " 408 - request_header_timeout\n", func(h *config.HTTP, _ *config.Route) { h.RequestHeadersTimeout = tick }},
		{"request", "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 9\r\n\r\nx", "408", "request timeout", " 408 - request_overall_timeout\n", func(h *config.HTTP, _ *config.Route) { h.RequestTimeout = tick }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := short(c.change)
			conn := p.dial()
			_, _ = io.WriteString(conn, c.request)
			resp, body := readResponse(t, bufio.NewReader(conn), "GET")
			if resp.Status[:3] != c.status || body != c.text {
				t.Errorf("%s %q, want %s %q", resp.Status, body, c.status, c.text)
			}
			conn.Close()
			p.stop()
			if !strings.Contains(p.log.String(), c.log) {
				t.Errorf("access log %q has no %q", p.log, c.log)
			}
		})
	}
	t.Run("idle connection", func(t *testing.T) {
		p := short(func(h *config.HTTP, _ *config.Route) { h.IdleTimeout = tick })
		if data, err := io.ReadAll(p.dial()); len(data) > 0 || err != nil {
			t.Errorf("%q %v, want a silent end", data, err)
		}
	})
}
