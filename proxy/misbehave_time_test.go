package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// lazy is a back end that answers with what the path says:
//
//	/silent   nothing
//	/half     a part of a body, and nothing more
//	/drip     a body of which a byte comes now and then, without end
func lazy(t testing.TB) string {
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		head := readHead(r)
		switch {
		case head == "":
			return
		case strings.Contains(head, " /half "):
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
		case strings.Contains(head, " /drip "):
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for {
				if _, err := io.WriteString(conn, "1\r\nx\r\n"); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
		_, _ = io.Copy(io.Discard, r)
	})
}

// TestEveryLimitInTime has a row for each limit and each state in which a request can be when it is met; TestTimeouts has the plain
// ones. Within a response the client sees it cut off.
func TestEveryLimitInTime(t *testing.T) {
	const (
		tick    = 60 * time.Millisecond
		host    = " HTTP/1.1\r\nHost: web.mesh.internal\r\n"
		partial = "POST /silent" + host + "Content-Length: 9\r\n\r\nx"
	)
	for _, c := range []struct {
		name, request, drip string // drip goes on coming, a byte at a time
		change              func(*config.HTTP, *config.Route)
		status, log         string // status "": the response is cut off within
		stat                string // that is 1
	}{
		{"stream idle, the request is not complete", partial, "", func(h *config.HTTP, _ *config.Route) { h.StreamIdleTimeout = tick }, "408", " 408 SI ", "http.outbound.downstream_rq_idle_timeout"},
		{"stream idle within a response", "GET /half" + host + "\r\n", "", func(h *config.HTTP, _ *config.Route) { h.StreamIdleTimeout = tick }, "", " 200 SI ", "http.outbound.downstream_rq_idle_timeout"},
		{"idle of the route", "GET /silent" + host + "Connection: close\r\n\r\n", "", func(_ *config.HTTP, r *config.Route) { r.IdleTimeout = tick }, "504", " 504 SI ", "http.outbound.downstream_rq_idle_timeout"},
		{"request that drips", "POST /silent" + host + "Content-Length: 100000\r\n\r\n", "x", func(h *config.HTTP, _ *config.Route) { h.RequestTimeout = tick }, "408", " 408 - ", "http.outbound.downstream_rq_timeout"},
		{"head that drips", "GET /silent" + host, "x", func(h *config.HTTP, _ *config.Route) { h.RequestHeadersTimeout = tick }, "408", " 408 - ", ""},
		{"route within a response that drips", "GET /drip" + host + "\r\n", "", func(_ *config.HTTP, r *config.Route) { r.Timeout = tick }, "", " 200 UT ", "cluster.web.upstream_rq_timeout"},
		{"max stream duration, the request is not complete", partial, "", func(h *config.HTTP, _ *config.Route) { h.MaxStreamDuration = tick }, "408", " 408 ", "http.outbound.downstream_rq_max_duration_reached"},
		{"max stream duration within a response that drips", "GET /drip" + host + "\r\n", "", func(h *config.HTTP, _ *config.Route) { h.MaxStreamDuration = tick }, "", " 200 ", "http.outbound.downstream_rq_max_duration_reached"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := plain("web")
			l := httpConfig(freeAddr(t), v)
			c.change(l.HTTP, v.Routes[0])
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", lazy(t)))}, nil)
			conn := p.dial()
			_, _ = io.WriteString(conn, c.request)
			over := make(chan struct{})
			if c.drip != "" {
				go func() {
					for {
						select {
						case <-over:
							return
						case <-time.After(5 * time.Millisecond):
							_, _ = io.WriteString(conn, c.drip)
						}
					}
				}()
			}
			got, err := io.ReadAll(conn)
			close(over)
			want := "HTTP/1.1 " + c.status + " "
			if c.status == "" {
				want = "HTTP/1.1 200 "
			}
			if !strings.HasPrefix(string(got), want) || c.status == "" && (strings.HasSuffix(string(got), "0\r\n\r\n") || err == nil && strings.Contains(string(got), "Length")) {
				t.Errorf("%q, %v; want %s, cut off %v", clipped(got), err, want, c.status == "")
			}
			p.waitNone("cluster.web.upstream_rq_active")
			p.waitNone("cluster.web.upstream_cx_active") // it is not used again
			if c.stat != "" {
				p.waitStat(c.stat, "1")
			}
			p.stop()
			if !strings.Contains(p.log.String(), c.log) {
				t.Errorf("access log %q has no %q", p.log, c.log)
			}
		})
	}
}

// waitNone waits until a figure is 0, or not there because it never was anything else.
func (p *testProxy) waitNone(name string) {
	p.t.Helper()
	if p.stat(name) != "missing" {
		p.waitStat(name, "0")
	}
}

func clipped(b []byte) string {
	if len(b) > 300 {
		b = b[:300]
	}
	return string(b)
}

// TestIdleUpstreamConnectionIsClosed: a pooled connection ends after the cluster's time without a request, not before.
func TestIdleUpstreamConnectionIsClosed(t *testing.T) {
	ended := make(chan struct{})
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			answer(conn, "ok")
		}
		close(ended)
	})
	cl := cluster("web", backend)
	cl.IdleTimeout = 300 * time.Millisecond
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cl)}, oneLoop)
	conn := p.dial()
	r := bufio.NewReader(conn)
	for range 5 {
		_, _ = io.WriteString(conn, get)
		if resp, _ := readResponse(t, r, "GET"); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := p.stat("cluster.web.upstream_cx_total"); n != "1" {
		t.Errorf("%s connections for requests one after the other", n)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the idle connection stays")
	}
	p.waitStat("cluster.web.upstream_cx_idle_timeout", "1")
	p.waitStat("cluster.web.upstream_cx_active", "0")
}

// TestBreakersAreFreeAgain: what fails, hangs or is given up gives its place back. After all of it as many requests pass as before.
func TestBreakersAreFreeAgain(t *testing.T) {
	t.Run("host 1", func(t *testing.T) { testBreakersAreFreeAgain(t, config.ProtocolHTTP1, failing1(t)) })
	t.Run("host 2", func(t *testing.T) { testBreakersAreFreeAgain(t, config.ProtocolHTTP2, plainServer(t, failing2)) })
}

// failing1 fails as the path says.
func failing1(t *testing.T) string {
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			switch {
			case head == "":
				return
			case strings.Contains(head, " /reset "):
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			case strings.Contains(head, " /silent "):
				_, _ = io.Copy(io.Discard, r)
				return
			case strings.Contains(head, " /garbage "):
				_, _ = io.WriteString(conn, "garbage\r\n\r\n")
				return
			case strings.Contains(head, " /cut "):
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")
				return
			}
			answer(conn, "ok")
		}
	})
}

// failing2 does so in HTTP/2.
func failing2(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/silent":
		<-r.Context().Done()
	case "/cut", "/garbage":
		_, _ = io.WriteString(w, "cut")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "/reset":
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, "ok")
}

func testBreakersAreFreeAgain(t *testing.T, up config.Protocol, host string) {
	v := plain("web")
	v.Routes[0].Timeout = 50 * time.Millisecond
	cl := cluster("web", host, freeAddr(t).String())
	cl.Protocol, cl.HTTP2.MaxStreams = up, 1
	cl.MaxRequests, cl.MaxConnections, cl.MaxPending, cl.MaxRetries = 2, 2, 2, 2
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cl)}, func(o *proxy.Options) { o.Loops = 1 })
	for i := range 10 {
		for _, path := range []string{"/reset", "/silent", "/garbage", "/cut", "/gone"} {
			conn := p.dial()
			_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
			if path == "/gone" || i%3 == 2 {
				conn.Close()
				continue
			}
			_, _ = io.ReadAll(conn)
		}
	}
	p.waitStat("cluster.web.upstream_rq_active", "0")
	p.waitStat("cluster.web.upstream_rq_pending_active", "0")
	served := 0
	for range 20 { // every second one meets nobody
		if status, _, _ := p.get(once(), "web.mesh.internal", "/"); status == 200 {
			served++
		}
	}
	if served != 10 {
		t.Errorf("%d of 20 were served by one of two hosts", served)
	}
}
