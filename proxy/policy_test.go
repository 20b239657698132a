package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// policied runs a proxy with one loop in front of a back end that answers with the head it got.
func policied(t testing.TB, change func(*config.HTTP, *config.Route, *config.Cluster)) *testProxy {
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			if strings.HasPrefix(head, "GET /silent") {
				_, _ = io.Copy(io.Discard, r)
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nVia: 1.0 back\r\nContent-Length: %d\r\n\r\n%s", len(head), head)
		}
	})
	v := vhost("web.mesh.internal", "web")
	l, cl := httpConfig(freeAddr(t), v), cluster("web", backend)
	change(l.HTTP, v.Routes[0], cl)
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, oneLoop)
}

// TestRequestPolicies: what a listener's policy makes of a request, as the back end and the client see it.
func TestRequestPolicies(t *testing.T) {
	const host = " HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n"
	for _, c := range []struct {
		name, request string
		change        func(*config.HTTP)
		want, not     []string
		stat          string // that is 1
	}{
		{"via", "GET /" + host + "Via: 1.1 front\r\n\r\n", func(h *config.HTTP) { h.Via = "mesh" }, []string{"HTTP/1.1 200", "Via: 1.1 front\r\n", "Via: 1.0 back\r\n"}, nil, ""},
		{"via not asked for", "GET /" + host + "\r\n", func(*config.HTTP) {}, nil, []string{"via: "}, ""},
		{"via of a local reply", "GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n", func(h *config.HTTP) { h.Via = "mesh" }, []string{"HTTP/1.1 404", "via: mesh\r\n"}, nil, ""},
		{"x-forwarded-for", "GET /" + host + "X-Forwarded-For: 10.0.0.1\r\n\r\n", func(*config.HTTP) {}, []string{"x-forwarded-for: 10.0.0.1,127.0.0.1\r\n"}, nil, ""},
		{"x-forwarded-for not appended to", "GET /" + host + "X-Forwarded-For: 10.0.0.1\r\n\r\n", func(h *config.HTTP) { h.SkipXFFAppend = true }, []string{"x-forwarded-for: 10.0.0.1\r\n"}, []string{"x-forwarded-for: 127.0.0.1\r\n", ",127.0.0.1\r\n"}, ""},
		{"x-forwarded-for of a proxy behind one", "GET /" + host + "X-Forwarded-Proto: https\r\n\r\n", func(h *config.HTTP) { h.XFFTrustedHops = 1 }, []string{"X-Forwarded-Proto: https\r\n"}, []string{"x-forwarded-proto: http\r\n"}, ""},
		{"underscores", "GET /" + host + "A_b: c\r\n\r\n", func(*config.HTTP) {}, []string{"A_b: c\r\n"}, nil, ""},
		{"underscores dropped", "GET /" + host + "A_b: c\r\nD: e\r\n\r\n", func(h *config.HTTP) { h.Underscores = config.UnderscoresDrop }, []string{"HTTP/1.1 200", "D: e\r\n"}, []string{"A_b"}, "http1.dropped_headers_with_underscores"},
		{"underscores refused", "GET /" + host + "A_b: c\r\n\r\nGET /" + host + "\r\n", func(h *config.HTTP) { h.Underscores = config.UnderscoresReject }, []string{"HTTP/1.1 400", "Connection: close\r\n"}, []string{"HTTP/1.1 200"}, "http1.requests_rejected_with_underscores_in_headers"},
		{"escaped slash", "GET /a%2Fb" + host + "\r\n", func(*config.HTTP) {}, []string{"GET /a%2Fb HTTP/1.1\r\n"}, nil, ""},
		{"escaped slash refused", "GET /a%2fb" + host + "\r\n", func(h *config.HTTP) { h.Slashes = config.SlashesReject }, []string{"HTTP/1.1 400"}, nil, "http.outbound.downstream_rq_failed_path_normalization"},
		{"escaped slash decoded", "GET /a%2Fb?c=%2F" + host + "\r\n", func(h *config.HTTP) { h.Slashes = config.SlashesForward }, []string{"GET /a/b?c=%2F HTTP/1.1\r\n"}, nil, ""},
		{"escaped slash redirected", "GET /a%2Fb?c=%2F" + host + "\r\n", func(h *config.HTTP) { h.Slashes = config.SlashesRedirect }, []string{"HTTP/1.1 307 Temporary Redirect", "location: /a/b?c=%2F\r\n"}, nil, "http.outbound.downstream_rq_redirected_with_normalized_path"},
		{"no open redirect", "GET /%2Fevil.example" + host + "\r\n", func(h *config.HTTP) { h.Slashes = config.SlashesRedirect }, []string{"HTTP/1.1 400"}, []string{"location"}, ""},
		{"slashes", "GET //a///b?c=//" + host + "\r\n", func(*config.HTTP) {}, []string{"GET //a///b?c=// HTTP/1.1\r\n"}, nil, ""},
		{"slashes merged", "GET //a///b?c=//" + host + "\r\n", func(h *config.HTTP) { h.MergeSlashes = true }, []string{"GET /a/b?c=// HTTP/1.1\r\n"}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policied(t, func(h *config.HTTP, _ *config.Route, _ *config.Cluster) { c.change(h) })
			got := p.raw(c.request)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q has no %q", got, want)
				}
			}
			for _, not := range c.not {
				if strings.Contains(got, not) {
					t.Errorf("%q has %q", got, not)
				}
			}
			if c.name == "via" && strings.Count(got, "via: mesh\r\n") != 2 {
				t.Errorf("%q: via is not in the request and in the response", got)
			}
			if c.stat != "" && p.stat(c.stat) != "1" {
				t.Errorf("%s is %s", c.stat, p.stat(c.stat))
			}
		})
	}
}

// TestMaxStreamDuration: the limit of the route goes before that of the listener, holds whatever moves, and ends a tunnel too.
func TestMaxStreamDuration(t *testing.T) {
	const tick, long = 50 * time.Millisecond, time.Hour
	for _, c := range []struct {
		name            string
		listener, route time.Duration
		ends            bool
	}{
		{"listener", tick, 0, true},
		{"route", long, tick, true},
		{"the route has none", tick, -1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policied(t, func(h *config.HTTP, r *config.Route, _ *config.Cluster) {
				h.MaxStreamDuration, r.MaxDuration = c.listener, c.route
				r.Timeout = 500 * time.Millisecond
			})
			status, body, err := p.get(once(), "web.mesh.internal", "/silent")
			want, text, stat := 504, "upstream request timeout", "0"
			if c.ends {
				want, text, stat = 504, "downstream duration timeout", "1"
			}
			if status != want || body != text || err != nil {
				t.Errorf("%d %q %v, want %d %q", status, body, err, want, text)
			}
			if got := p.stat("http.outbound.downstream_rq_max_duration_reached"); got != stat {
				t.Errorf("counted %s times, want %s", got, stat)
			}
		})
	}
}

// TestMaxStreamDurationEndsATunnel: bytes that keep coming do not keep an upgraded connection open.
func TestMaxStreamDurationEndsATunnel(t *testing.T) {
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, r)
	})
	v := vhost("web.mesh.internal", "web")
	l := httpConfig(freeAddr(t), v)
	l.HTTP.MaxStreamDuration = 100 * time.Millisecond
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", backend))}, oneLoop)
	conn := p.dial()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(conn)
	if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("head %q", head)
	}
	for {
		if _, err := io.WriteString(conn, "x"); err != nil {
			break
		}
		if _, err := r.ReadByte(); err != nil {
			break
		}
	}
	p.waitStat("http.outbound.downstream_rq_max_duration_reached", "1")
	p.waitStat("http.outbound.downstream_cx_active", "0")
	p.waitStat("cluster.web.upstream_cx_active", "0")
}

// TestConnectionLimits: a client's connection ends in good order with the request at which a limit is met.
func TestConnectionLimits(t *testing.T) {
	t.Run("requests", func(t *testing.T) {
		p := policied(t, func(h *config.HTTP, _ *config.Route, _ *config.Cluster) { h.MaxConnectionRequests = 3 })
		conn := p.dial()
		_, _ = io.WriteString(conn, strings.Repeat(get, 5))
		r := bufio.NewReader(conn)
		for i := 1; i <= 3; i++ {
			if resp, _ := readResponse(t, r, "GET"); resp.StatusCode != 200 || resp.Close != (i == 3) {
				t.Errorf("response %d: %s, close %v", i, resp.Status, resp.Close)
			}
		}
		if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v after the last response", rest, err)
		}
		if n := p.stat("http.outbound.downstream_cx_max_requests_reached"); n != "1" {
			t.Errorf("counted %s times", n)
		}
	})
	t.Run("duration, idle", func(t *testing.T) {
		p := policied(t, func(h *config.HTTP, _ *config.Route, _ *config.Cluster) {
			h.MaxConnectionDuration = 50 * time.Millisecond
		})
		if got := p.raw(""); got != "" {
			t.Errorf("got %q", got)
		}
		if n := p.stat("http.outbound.downstream_cx_max_duration_reached"); n != "1" {
			t.Errorf("counted %s times", n)
		}
	})
	t.Run("duration, between requests", func(t *testing.T) {
		p := policied(t, func(h *config.HTTP, _ *config.Route, _ *config.Cluster) {
			h.MaxConnectionDuration = 50 * time.Millisecond
		})
		conn := p.dial()
		p.waitStat("http.outbound.downstream_cx_max_duration_reached", "1")
		_, _ = io.WriteString(conn, get)
		if resp, _ := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || !resp.Close {
			t.Errorf("%s, close %v", resp.Status, resp.Close)
		}
	})
}

// TestUpstreamConnectionLimits: a pooled connection is not used for more requests, nor for longer, than the cluster says.
func TestUpstreamConnectionLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*config.Cluster)
		conns  int32 // for 6 requests; 0: the last is closed while it is idle
		stat   string
	}{
		{"two requests", func(c *config.Cluster) { c.MaxConnRequests = 2 }, 3, "upstream_cx_max_requests"},
		{"one request", func(c *config.Cluster) { c.MaxConnRequests = 1 }, 6, "upstream_cx_max_requests"},
		{"no time at all", func(c *config.Cluster) { c.MaxConnDuration = 1 }, 6, "upstream_cx_max_duration_reached"},
		{"some time", func(c *config.Cluster) { c.MaxConnDuration = 300 * time.Millisecond }, 0, "upstream_cx_max_duration_reached"},
		{"no limit", func(*config.Cluster) {}, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conns atomic.Int32
			backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				conns.Add(1)
				for readHead(r) != "" {
					answer(conn, "ok")
				}
			})
			cl := cluster("web", backend)
			c.change(cl)
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(cl)}, oneLoop)
			conn := p.dial()
			r := bufio.NewReader(conn)
			for range 6 {
				_, _ = io.WriteString(conn, get)
				if resp, body := readResponse(t, r, "GET"); resp.StatusCode != 200 || body != "ok" {
					t.Fatalf("%s %q", resp.Status, body)
				}
			}
			if c.conns > 0 && conns.Load() != c.conns {
				t.Errorf("%d connections, want %d", conns.Load(), c.conns)
			}
			if c.conns != 1 {
				p.waitStat("cluster.web.upstream_cx_active", "0")
				p.waitStat("cluster.web."+c.stat, fmt.Sprint(conns.Load()))
			}
		})
	}
}

// TestNoAllocationWithPolicies: with every policy on a request costs no allocation either, as long as nothing goes wrong.
func TestNoAllocationWithPolicies(t *testing.T) {
	response := []byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nDate: x\r\n\r\naaaa")
	backend := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
		buf := make([]byte, 4096)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write(response); err != nil {
				return
			}
		}
	})
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].MaxDuration = time.Minute
	v.Routes[0].Retry = config.Retry{
		On: ^config.RetryOn(0), Max: 3, PerTryTimeout: time.Minute, PerTryIdle: time.Minute, Statuses: []int{418, 503}, BackOff: time.Second, MaxBackOff: time.Second,
		Headers: []config.HeaderMatch{{Name: "x-again", Exact: "yes"}}, RequestHeaders: []config.HeaderMatch{{Name: "accept", Present: true}},
		RateLimited: &config.RateLimitedBackOff{Headers: []config.ResetHeader{{Name: "retry-after"}}, Max: time.Minute},
	}
	l, cl := httpConfig(freeAddr(t), v), cluster("web", backend)
	l.HTTP.RequestPolicy = config.RequestPolicy{
		Via: "mesh", Slashes: config.SlashesForward, MergeSlashes: true, Underscores: config.UnderscoresDrop,
		MaxStreamDuration: time.Minute, MaxConnectionDuration: time.Minute, MaxConnectionRequests: 1 << 20,
	}
	cl.MaxConnections, cl.MaxPending, cl.MaxRequests, cl.RetryBudget = 5, 5, 5, &config.RetryBudget{Percent: 20, MinConcurrency: 3}
	cl.MaxConnRequests, cl.MaxConnDuration = 1<<20, time.Minute
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, func(o *proxy.Options) { o.AccessLog = io.Discard; o.Loops = 1 })
	conn := p.dial()
	request := []byte("GET //a%2Fb?query HTTP/1.1\r\nHost: web.mesh.internal\r\nA_b: c\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4096)
	run := func(n int) {
		for range n {
			_, _ = conn.Write(request)
			for got := 0; !bytes.HasSuffix(buf[:got], []byte("aaaa")); {
				m, err := conn.Read(buf[got:])
				if err != nil {
					t.Fatal(err)
				}
				got += m
			}
		}
	}
	run(500) // everything that is made once
	const n = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(n)
	runtime.ReadMemStats(&after)
	if allocs := after.Mallocs - before.Mallocs; allocs > n/20 {
		t.Errorf("%d allocations for %d requests", allocs, n)
	}
	if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200 ")) {
		t.Errorf("%q", buf[:40])
	}
}
