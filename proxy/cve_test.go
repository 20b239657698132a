package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// The classes of vulnerability that peers had, tried on the whole proxy. docs/security.md lists them all.

// twoRoutes is a proxy that sends /admin to one upstream and the rest to another, and tells what each got.
func twoRoutes(t *testing.T) (p *testProxy, admin, rest *lockedBuffer) {
	admin, rest = &lockedBuffer{}, &lockedBuffer{}
	backend := func(seen *lockedBuffer) string {
		return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			for head := readHead(r); head != ""; head = readHead(r) {
				line, _, _ := strings.Cut(head, "\r\n")
				fmt.Fprintln(seen, line)
				answer(conn, "ok")
			}
		})
	}
	v := vhost("web.mesh.internal", "rest")
	v.Routes = append([]*config.Route{{Path: "/admin", PathMatch: config.PathSeparatedPrefix, Clusters: []config.WeightedCluster{{Name: "admin", Weight: 1}}}}, v.Routes...)
	return start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), v)},
		Clusters:  clusters(cluster("admin", backend(admin)), cluster("rest", backend(rest))),
	}, nil), admin, rest
}

// No way to write a path leads the part that belongs to one route to the upstream of another, and what an upstream gets
// is what was matched (CVE-2021-29492, CVE-2019-9901, CVE-2025-66490).
func TestCVEClass01_PathIsMatchedAsItIsForwarded(t *testing.T) {
	p, admin, rest := twoRoutes(t)
	for _, path := range []string{
		"/admin", "/x/../admin", "/x/%2e%2e/admin", "/./admin", "/%61dmin", "/x/.%2E/admin/y", "/..//../admin", "//admin", "///x/..//admin",
		"/x%2f..%2fadmin", "/x%2F%2e%2e%2Fadmin", `/\admin`, `/x\..\admin`, "/x%5c..%5cadmin", "/x/..;/admin", "/admin;a=b", "/admin%2f", "/admin%3b",
		"/x/..%2fadmin", "/%2e/admin", "/x/%252e%252e/admin", "/admin/../admin/../admin",
	} {
		got := p.raw("GET " + path + " HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 200 ") && !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%s: %q", path, got)
		}
	}
	for line := range strings.Lines(rest.String()) {
		// Nothing that a server could read as /admin, whatever it decodes. (%252e is a percent sign, and stays one.)
		if line != "GET /x/%252e%252e/admin HTTP/1.1\n" {
			t.Errorf("the upstream of the other routes got %q", line)
		}
	}
	for line := range strings.Lines(admin.String()) {
		if !strings.HasPrefix(line, "GET /admin ") && !strings.HasPrefix(line, "GET /admin/") {
			t.Errorf("the upstream of /admin got %q", line)
		}
	}
	if n := strings.Count(admin.String(), "\n"); n < 7 {
		t.Errorf("the upstream of /admin got %d requests, want those that mean it:\n%s", n, admin)
	}
}

// A fragment, or a query that looks like a path, changes nothing about what is matched (CVE-2023-47106, CVE-2026-40912).
func TestCVEClass02_FragmentAndQueryAreNoPath(t *testing.T) {
	p, admin, rest := twoRoutes(t)
	for _, c := range []struct{ target, status string }{
		{"/x#/../admin", "400"},
		{"/admin#", "400"},
		{"http://web.mesh.internal/x#y", "400"},
		{"/x%23/../admin", "200"},
		{"/x?/../admin", "200"},
		{"/x?a=/../../admin#b", "400"},
		{"http://web.mesh.internal?/admin", "200"},
		{"/x%3f/../../admin", "200"},
	} {
		if got := p.raw("GET " + c.target + " HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 "+c.status) {
			t.Errorf("%s: %.60q, want %s", c.target, got, c.status)
		}
	}
	if got, want := rest.String(), "GET /x?/../admin HTTP/1.1\nGET /?/admin HTTP/1.1\n"; got != want {
		t.Errorf("the upstream of the other routes got\n%swant\n%s", got, want)
	}
	for line := range strings.Lines(admin.String()) {
		if line != "GET /admin HTTP/1.1\n" {
			t.Errorf("the upstream of /admin got %q", line)
		}
	}
}

// A target without a leading slash is no path (CVE-2026-33186).
func TestCVEClass03_PathHasALeadingSlash(t *testing.T) {
	p, admin, rest := twoRoutes(t)
	for _, target := range []string{"admin", "admin/../x", "*admin", "web.mesh.internal/admin", "http:/admin", "http:admin", "?/admin", "@/admin", "%2fadmin"} {
		if got := p.raw("GET " + target + " HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%q: %.60q, want 400", target, got)
		}
	}
	if got := admin.String() + rest.String(); got != "" {
		t.Errorf("the upstreams got %q", got)
	}
}

// What comes in several lines goes on in several lines, in their order; what may be there once is there once
// (CVE-2026-26308, CVE-2024-10006).
func TestCVEClass05_DuplicateHeadersAreAllSeen(t *testing.T) {
	heads := make(chan string, 1)
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) { heads <- readHead(r); answer(conn, "") }))
	p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nX-Role: user\r\nX-Forwarded-For: 192.0.2.1\r\nx-role: admin\r\nX-Forwarded-For: 192.0.2.2\r\n" +
		"X-Request-Id: one\r\nX-Request-Id: two\r\nConnection: close\r\n\r\n")
	head := <-heads
	if i, j := strings.Index(head, "X-Role: user\r\n"), strings.Index(head, "x-role: admin\r\n"); i < 0 || j < i {
		t.Errorf("x-role: %q, want both lines in their order", head)
	}
	if !strings.Contains(strings.ReplaceAll(head, ", ", ","), "x-forwarded-for: 192.0.2.1,192.0.2.2,127.0.0.1\r\n") || strings.Count(strings.ToLower(head), "x-forwarded-for:") != 1 {
		t.Errorf("x-forwarded-for: %q, want all of them and the peer in one line", head)
	}
	if strings.Count(strings.ToLower(head), "x-request-id:") != 1 {
		t.Errorf("x-request-id: %q, want one", head)
	}
	for _, twice := range []string{"Host: web.mesh.internal\r\n", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"} {
		if got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n" + twice + twice + "\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%q twice: %.60q, want 400", twice, got)
		}
	}
}

// No control character gets through, in either direction (CVE-2019-9900).
func TestCVEClass06_EmbeddedNULIsRefused(t *testing.T) {
	var reached atomic.Int32
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		reached.Add(1)
		head := readHead(r)
		for _, bad := range []string{"X: a\x00b", "X\x00: a", "X: \x1b[2J"} {
			if strings.Contains(head, fmt.Sprintf("/%x ", bad)) {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"+bad+"\r\n\r\n")
			}
		}
	}))
	for _, request := range []string{
		"GET /\x00 HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n", "GET / HTTP/1.1\r\nHost: web.mesh.internal\x00.evil\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nX: a\x00b\r\n\r\n", "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nX\x00: b\r\n\r\n",
		"GET /%00 HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n", "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nX: \x1b[2J\r\n\r\n",
	} {
		if got := p.raw(request); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%q: %.60q, want 400", request, got)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Fatalf("the upstream saw %d connections", n)
	}
	for _, bad := range []string{"X: a\x00b", "X\x00: a", "X: \x1b[2J"} {
		status, _, err := p.get(http.DefaultClient, "web.mesh.internal", fmt.Sprintf("/%x", bad))
		if status != 502 || err != nil {
			t.Errorf("a response with %q: %d %v, want 502", bad, status, err)
		}
	}
}

// A client cannot take away by Connection, nor imitate, what the proxy tells the upstream (CVE-2024-45410, CVE-2026-29054,
// CVE-2026-35051, CVE-2026-33433).
func TestCVEClass13_ConnectionHeaderDoesNotStripProxyHeaders(t *testing.T) {
	heads := make(chan string, 1)
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) { heads <- readHead(r); answer(conn, "") }))
	for _, lines := range []string{
		"Connection: close, X-Forwarded-For, x-forwarded-proto, X-REQUEST-ID, Host, Authorization\r\n",
		"Connection: close\r\nConnection: x-forwarded-for\r\nConnection: x-forwarded-proto,x-request-id,authorization\r\n",
		"Proxy-Connection: x-request-id\r\nKeep-Alive: x-forwarded-for\r\nConnection: close\r\n",
	} {
		p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n" + lines + "X-Forwarded-Proto: https\r\nX_Forwarded_Proto: https\r\nX-Forwarded_Proto: https\r\n" +
			"X_Request_Id: forged\r\nX_Forwarded_For: 192.0.2.9\r\nAuthorization: me\r\n\r\n")
		head := strings.ToLower(<-heads)
		for _, want := range []string{"host: web.mesh.internal\r\n", "x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n", "x-request-id: ", "authorization: me\r\n"} {
			if strings.Count(head, want) != 1 {
				t.Errorf("after %q the upstream got %q, want %q once", lines, head, want)
			}
		}
		for _, bad := range []string{"https", "forged", "192.0.2.9", "connection: x"} {
			if strings.Contains(head, bad) {
				t.Errorf("after %q the upstream got %q, with %q in it", lines, head, bad)
			}
		}
	}
}

// What an upstream sends beyond its response reaches nobody, least of all the next client (CVE-2026-71324).
func TestCVEClass14_SurplusBytesReachNobody(t *testing.T) {
	poison := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for _, c := range []struct {
		name, first string
		pause       time.Duration // before the surplus
		method      string
	}{
		{"in one piece", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 0, "GET"},
		{"in one piece, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 0, "GET"},
		{"in one piece, 204", "HTTP/1.1 204 No Content\r\n\r\n", 0, "GET"},
		{"in one piece, HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 0, "HEAD"},
		{"while idle", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 30 * time.Millisecond, "GET"},
		{"a byte while idle", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 30 * time.Millisecond, "GET"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conns atomic.Int32
			p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				conns.Add(1)
				if readHead(r) == "" {
					return
				}
				if c.pause == 0 {
					_, _ = io.WriteString(conn, c.first+poison)
				} else {
					_, _ = io.WriteString(conn, c.first)
					time.Sleep(c.pause)
					_, _ = io.WriteString(conn, poison[:1])
					if c.name == "while idle" {
						_, _ = io.WriteString(conn, poison[1:])
					}
				}
				_, _ = io.Copy(io.Discard, r)
			}))
			for i := range 4 {
				conn := p.dial()
				_, _ = io.WriteString(conn, c.method+" / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
				got, err := io.ReadAll(conn)
				if err != nil || strings.Contains(string(got), "poison") || strings.Count(string(got), "HTTP/1.1 ") != 1 {
					t.Errorf("client %d got %q, %v", i, got, err)
				}
				conn.Close()
				time.Sleep(3 * c.pause)
			}
			if n := conns.Load(); n != 4 {
				t.Errorf("%d upstream connections for 4 requests, want that none is used again", n)
			}
		})
	}
}

// An upgrade that the upstream does not grant leaves nothing behind: neither do bytes behind the request reach it, nor is
// its connection used again (CVE-2024-23326, CVE-2022-41721).
func TestCVEClass14_RefusedUpgradeSmugglesNothing(t *testing.T) {
	var conns atomic.Int32
	seen := &lockedBuffer{}
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		n := conns.Add(1)
		head := readHead(r)
		fmt.Fprintf(seen, "%d:%s", n, head)
		answer(conn, "no")
		data, _ := io.ReadAll(r)
		fmt.Fprintf(seen, "%d:%s", n, data)
	}))
	conn := p.dial()
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+
		"GET /second HTTP/1.1\r\nHost: other.mesh.internal\r\nConnection: close\r\n\r\n")
	got, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(got), "HTTP/1.1 200 ") || strings.Contains(seen.String(), "/second") {
		t.Errorf("the client got %q, the upstream %q: want the second request judged on its own", got, seen)
	}
	if status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/next"); status != 200 || body != "no" || err != nil {
		t.Errorf("%d %q %v", status, body, err)
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d upstream connections, want 2", n)
	}
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
		"CONNECT web.mesh.internal:80 HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
	} {
		conn := p.dial()
		_, _ = io.WriteString(conn, request)
		line, _ := bufio.NewReader(conn).ReadString('\n')
		if strings.HasPrefix(line, "HTTP/1.1 200") || strings.HasPrefix(line, "HTTP/1.1 101") {
			t.Errorf("%q: %q", request, line)
		}
		conn.Close()
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d upstream connections, want none for what is refused", n)
	}
}

// Clients that never finish their head get an end, and hold nobody else back meanwhile (CVE-2026-22045, CVE-2026-25949).
func TestCVEClass16_SlowHeadsEndAndHoldNobodyBack(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.RequestHeadersTimeout = 300 * time.Millisecond
	p := start(t, &config.Config{
		Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(http.ResponseWriter, *http.Request) {}))),
	}, nil)
	slow := make([]net.Conn, 200)
	for i := range slow {
		slow[i] = p.dial()
		_, _ = io.WriteString(slow[i], "GET / HTTP/1.1\r\nHost: web.mesh")
	}
	for range 20 {
		if status, _, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 || err != nil {
			t.Fatalf("beside slow clients: %d %v", status, err)
		}
	}
	for _, conn := range slow {
		_, _ = io.WriteString(conn, ".") // a byte now and then does not help
		if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), "HTTP/1.1 408 ") {
			t.Fatalf("a slow client got %q, want 408", got)
		}
	}
	p.waitStat("http.outbound.downstream_rq_header_timeout", fmt.Sprint(len(slow)))
}

// A client's text stays within its field of its line of the access log (CVE-2024-37307, CVE-2025-25294).
func TestCVEClass27_AccessLogCannotBeForged(t *testing.T) {
	p := startHTTP(t, server(t, func(http.ResponseWriter, *http.Request) {}))
	p.raw("GET /a\" HTTP/1.1\r\nHost: web.mesh.internal\r\nUser-Agent: x\" \"y\\\" \"z\r\nX-Request-Id: \" 200 -\r\nX-Forwarded-For: \t\"1\r\nConnection: close\r\n\r\n")
	p.raw("GET /\r\n[2026-01-01T00:00:00.000Z] \"GET /forged HTTP/1.1\" 200\r\n\r\n")
	p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nUser-Agent: a\u009b31mb\u202ec\r\nConnection: close\r\n\r\n")
	p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nUser-Agent: a\x1b[2Jb\r\n\r\n")
	p.stop()
	lines := strings.Split(strings.TrimSuffix(p.log.String(), "\n"), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines, want one for each request:\n%s", len(lines), p.log)
	}
	for _, line := range lines {
		// Envoy's line has six quoted fields, whatever is in them. No control of a terminal is left, C1 and bidi neither.
		if strings.Count(line, `"`) != 12 || strings.ContainsAny(line, "\x1b\u009b\u202e") || !strings.HasPrefix(line, "[20") {
			t.Errorf("line %q", line)
		}
	}
	// The loops write in an order of their own.
	if !strings.Contains(p.log.String(), `x\x22 \x22y\x5c\x22 \x22z`) {
		t.Errorf("lines\n%s\nwant the user agent escaped", p.log)
	}
}

// What a client sends makes no new metric (CVE-2025-43915).
func TestCVEClass30_ClientsMakeNoMetrics(t *testing.T) {
	p := startHTTP(t, server(t, func(http.ResponseWriter, *http.Request) {}))
	flood := func(from, to int) {
		for i := from; i < to; i++ {
			p.raw(fmt.Sprintf("M%d /p%d?q=%d HTTP/1.1\r\nHost: h%d.example\r\nX-Request-Id: %d\r\nUser-Agent: a%d\r\nConnection: close\r\n\r\n", i, i, i, i, i, i))
			p.raw(fmt.Sprintf("GET /p%d HTTP/1.1\r\nHost: web.mesh.internal:%d\r\nX-%d: 1\r\nConnection: close\r\n\r\n", i, i+1, i))
		}
	}
	flood(0, 5)
	before := strings.Count(p.adminGet("/stats/prometheus"), "\n")
	flood(5, 55)
	if after := strings.Count(p.adminGet("/stats/prometheus"), "\n"); after != before || before == 0 {
		t.Errorf("%d lines of metrics, %d before 100 more requests", after, before)
	}
}

// An endpoint that drains gets no new request while another serves; a connection to it that waits in the pool is not used
// again (CVE-2025-32793).
func TestCVEClass25_DrainingEndpointsGetNothingNew(t *testing.T) {
	var old, fresh atomic.Int32
	web := cluster("web", server(t, func(http.ResponseWriter, *http.Request) { old.Add(1) }), server(t, func(http.ResponseWriter, *http.Request) { fresh.Add(1) }))
	cfg := &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(web)}
	p := start(t, cfg, nil)
	send := func(n int) {
		t.Helper()
		for range n {
			if status, _, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 || err != nil {
				t.Fatalf("%d %v", status, err)
			}
		}
	}
	send(20)
	if old.Load() == 0 || fresh.Load() == 0 {
		t.Fatalf("%d and %d requests, want both to serve", old.Load(), fresh.Load())
	}
	drained := *web
	leaving := *web.Endpoints[0]
	leaving.Health = config.Draining
	drained.Endpoints = []*config.Endpoint{&leaving, web.Endpoints[1]}
	next := *cfg
	next.Clusters = clusters(&drained)
	p.config.Set(&next)
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(p.adminGet("/clusters"), leaving.Addr.String()+"::health_flags::/eds_status_draining"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the change is not seen")
		}
	}
	time.Sleep(50 * time.Millisecond) // the other loop's turn
	before := old.Load()
	send(40)
	if n := old.Load() - before; n != 0 {
		t.Errorf("the one that drains got %d of 40 requests", n)
	}
}
