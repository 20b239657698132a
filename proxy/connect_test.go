package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const connectTo = "db.mesh.internal:5432"

// connectRoute leads CONNECT to a cluster.
func connectRoute(terminate bool) *config.Route {
	return &config.Route{
		PathMatch: config.PathConnect, Clusters: []config.WeightedCluster{{Name: "db", Weight: 1}},
		Upgrades: []config.Upgrade{{Name: config.ConnectUpgrade, Allowed: true}}, Terminate: terminate,
		Retry: config.Retry{On: config.RetryConnectFailure, Max: 2},
	}
}

// startConnect runs a proxy for clients of one version that leads CONNECT by route to hosts.
func startConnect(t testing.TB, down config.Protocol, route *config.Route, up config.Protocol, hosts ...string) *testProxy {
	t.Helper()
	v := vhost("db.mesh.internal", "db")
	v.Routes = append([]*config.Route{route}, v.Routes...)
	l := httpConfig(freeAddr(t), v)
	l.HTTP.Protocol = down
	c := cluster("db", hosts...)
	c.Protocol = up
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
}

// tunnelEnd is the client's end of a tunnel.
type tunnelEnd struct {
	io.Reader
	io.Writer
	closeWrite func()
	close      func()
}

// connect asks for a tunnel with early behind the request.
func (p *testProxy) connect(version config.Protocol, to, early string) (*http.Response, tunnelEnd) {
	p.t.Helper()
	if version == config.ProtocolHTTP1 {
		conn := p.dial()
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n%s", to, to, early)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil {
			p.t.Fatal(err)
		}
		return resp, tunnelEnd{r, conn, func() { _ = conn.(*net.TCPConn).CloseWrite() }, func() { _ = conn.(*net.TCPConn).SetLinger(0); conn.Close() }}
	}
	body, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, early) }()
	resp, err := p.plainClient(version).Do(&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "http", Host: to}, Host: to, Body: body, ContentLength: -1, Header: http.Header{}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { w.Close(); resp.Body.Close() })
	return resp, tunnelEnd{resp.Body, w, func() { w.Close() }, func() { resp.Body.Close() }}
}

// upper sends back what comes in upper case, greets first and says when it has seen the end.
func upper(r io.Reader, w io.Writer) {
	_, _ = io.WriteString(w, "220 ready\n")
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if _, werr := w.Write(bytes.ToUpper(buf[:n])); werr != nil {
			return
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_, _ = io.WriteString(w, "bye")
			}
			return
		}
	}
}

// upperHost takes tunnels by CONNECT in both versions of HTTP.
func upperHost(t *testing.T) string {
	return plainServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != connectTo || r.URL.Path != "" || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("the host was asked %s %s %s %v", r.Method, r.Host, r.URL, r.Header)
		}
		if r.ProtoMajor == 1 {
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 Connected\r\n\r\n")
			upper(rw, conn)
			return
		}
		w.WriteHeader(200)
		upper(r.Body, flushed{w, http.NewResponseController(w)})
	})
}

type flushed struct {
	io.Writer
	c *http.ResponseController
}

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}

// useTunnel sends and receives through a tunnel to upper, and ends it by half.
func useTunnel(t *testing.T, resp *http.Response, tunnel tunnelEnd, early string, size int) {
	t.Helper()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Length") != "" || resp.Header.Get("Transfer-Encoding") != "" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	data := bytes.Repeat([]byte("some text "), size/10)
	go func() {
		_, _ = tunnel.Write(data)
		tunnel.closeWrite()
	}()
	want := "220 ready\n" + strings.ToUpper(early) + string(bytes.ToUpper(data)) + "bye"
	if got, err := io.ReadAll(tunnel); err != nil || string(got) != want {
		t.Errorf("%d bytes, %v, want %d: %.60q", len(got), err, len(want), got)
	}
}

// TestConnectIsTerminated: the proxy opens a connection to a host of the route's cluster, of which one is dead, and passes the
// bytes on as they are; the ends of both directions too.
func TestConnectIsTerminated(t *testing.T) {
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { upper(r, conn) })
			p := startConnect(t, version, connectRoute(true), config.ProtocolHTTP2, freeAddr(t).String(), host)
			for i, size := range []int{0, 10, 100 << 10, 2 << 20} {
				early := strings.Repeat("early ", i)
				resp, tunnel := p.connect(version, connectTo, early)
				useTunnel(t, resp, tunnel, early, size)
				tunnel.close()
			}
			p.waitStat("cluster.db.upstream_cx_active", "0")
			p.waitStat("cluster.db.upstream_rq_active", "0")
			p.waitStat("http.outbound.downstream_cx_upgrades_total", "4")
			p.stop()
			if log := p.log.String(); strings.Count(log, `"CONNECT - HTTP/`) != 4 || strings.Count(log, ` 200 - `) != 4 || !strings.Contains(log, `"`+connectTo+`" "`+host+`"`) {
				t.Errorf("access log %s", log)
			}
		})
	}
}

// TestConnectIsPassedOn: without connect_config the host is asked by CONNECT, in its version of HTTP.
func TestConnectIsPassedOn(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			p := startConnect(t, pair.down, connectRoute(false), pair.up, upperHost(t))
			for i, size := range []int{0, 10, 1 << 20} {
				early := strings.Repeat("early ", i)
				resp, tunnel := p.connect(pair.down, connectTo, early)
				useTunnel(t, resp, tunnel, early, size)
				tunnel.close()
			}
			p.waitStat("cluster.db.upstream_rq_active", "0")
			p.waitStat("http.outbound.downstream_cx_upgrades_total", "3")
		})
	}
}

// TestConnectHostRefuses: any answer but 2xx is an ordinary response, and what the client has sent reaches nobody.
func TestConnectHostRefuses(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			p := startConnect(t, pair.down, connectRoute(false), pair.up, plainServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodConnect {
					t.Errorf("the host got %s %s", r.Method, r.URL)
				}
				w.Header().Set("Proxy-Authenticate", "Basic")
				w.WriteHeader(407)
				_, _ = io.WriteString(w, "who are you?")
			}))
			for range 2 {
				resp, tunnel := p.connect(pair.down, connectTo, "GET / HTTP/1.1\r\nHost: db.mesh.internal\r\n\r\n")
				if body, err := io.ReadAll(resp.Body); resp.StatusCode != 407 || string(body) != "who are you?" || err != nil {
					t.Errorf("%s %q %v", resp.Status, body, err)
				}
				if rest, err := io.ReadAll(tunnel); pair.down == config.ProtocolHTTP1 && (len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET)) {
					t.Errorf("after the answer: %q %v", rest, err)
				}
				tunnel.close()
			}
			p.waitStat("cluster.db.upstream_rq_active", "0")
			p.waitStat("http.outbound.downstream_cx_upgrades_total", "0")
		})
	}
}

// TestConnectHostEndsFirst: a host that has said all still gets all, however much that is.
func TestConnectHostEndsFirst(t *testing.T) {
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			const size = 8 << 20
			got := make(chan int64, 1)
			p := startConnect(t, version, connectRoute(true), config.ProtocolHTTP1, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				_, _ = io.WriteString(conn, "all")
				_ = conn.(*net.TCPConn).CloseWrite()
				time.Sleep(100 * time.Millisecond)
				n, _ := io.Copy(io.Discard, r)
				got <- n
			}))
			_, tunnel := p.connect(version, connectTo, "")
			if all, err := io.ReadAll(tunnel); string(all) != "all" || err != nil {
				t.Fatalf("%q %v", all, err)
			}
			if version == config.ProtocolHTTP1 { // net/http stops to send when a response has ended
				_, _ = tunnel.Write(pattern(size))
				tunnel.closeWrite()
				if n := <-got; n != size {
					t.Errorf("the host got %d bytes, want %d", n, size)
				}
			}
			tunnel.close()
			p.waitStat("cluster.db.upstream_cx_active", "0")
		})
	}
}

// TestConnectIsCutOff: neither side takes the loss of the other one for its end in good order.
func TestConnectIsCutOff(t *testing.T) {
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			seen := make(chan error, 1)
			p := startConnect(t, version, connectRoute(true), config.ProtocolHTTP1, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				_, _ = io.WriteString(conn, "x")
				if c, _ := r.ReadByte(); c == 'r' {
					_ = conn.(*net.TCPConn).SetLinger(0)
					return
				}
				_, err := io.ReadAll(r)
				seen <- err
			}))
			_, tunnel := p.connect(version, connectTo, "r")
			if _, err := io.ReadAll(tunnel); err == nil {
				t.Error("the client saw an end in good order of a host that is gone")
			}
			_, tunnel = p.connect(version, connectTo, "c")
			_, _ = io.ReadFull(tunnel, make([]byte, 1))
			p.waitStat("cluster.db.upstream_cx_tx_bytes_total", "2")
			tunnel.close()
			if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the host saw %v of a client that is gone", err)
			}
		})
	}
}

// TestConnectHoldsBack: a client that does not read holds the host back.
func TestConnectHoldsBack(t *testing.T) {
	const size = 64 << 20
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			stuck := make(chan struct{})
			p := startConnect(t, version, connectRoute(true), config.ProtocolHTTP1, rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
				_ = conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
				n, err := conn.Write(pattern(size))
				if err == nil {
					t.Error("all was sent to a client that reads nothing")
				}
				close(stuck)
				_ = conn.SetWriteDeadline(time.Time{})
				_, _ = conn.Write(pattern(size)[n:])
			}))
			_, tunnel := p.connect(version, connectTo, "")
			<-stuck
			if n, err := io.Copy(io.Discard, tunnel); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			tunnel.close()
			p.waitStat("cluster.db.upstream_cx_active", "0")
		})
	}
}

// TestConnectIdle: a tunnel without a byte ends after the route's time, and the log says why.
func TestConnectIdle(t *testing.T) {
	route := connectRoute(true)
	route.IdleTimeout = 100 * time.Millisecond
	p := startConnect(t, config.ProtocolHTTP1, route, config.ProtocolHTTP1, rawBackend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.ReadAll(r) }))
	_, tunnel := p.connect(config.ProtocolHTTP1, connectTo, "")
	if rest, err := io.ReadAll(tunnel); len(rest) > 0 || err != nil {
		t.Errorf("%q %v, want the end", rest, err)
	}
	p.waitStat("cluster.db.upstream_cx_active", "0")
	p.waitStat("http.outbound.downstream_rq_idle_timeout", "1")
	p.await("the log has the flag SI", func() bool { return strings.Contains(p.log.String(), " 200 SI ") })
}

// TestConnectOverTLS: the connection to the host begins with TLS, with the proxy's certificate, if its cluster says so.
func TestConnectOverTLS(t *testing.T) {
	a := testbed.NewAuthority(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{a.Leaf("db.mesh.internal")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			all.Go(func() {
				defer conn.Close()
				upper(conn, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		v := vhost("db.mesh.internal", "db")
		v.Routes = []*config.Route{connectRoute(true)}
		listener := httpConfig(freeAddr(t), v)
		listener.HTTP.Protocol = version
		c := cluster("db", l.Addr().String())
		originate(t, c, a, a.Leaf("proxy.mesh.internal"), "db.mesh.internal")
		p := start(t, &config.Config{Listeners: []*config.Listener{listener}, Clusters: clusters(c)}, nil)
		for i, size := range []int{0, 10, 2 << 20} {
			early := strings.Repeat("early ", i)
			resp, tunnel := p.connect(version, connectTo, early)
			useTunnel(t, resp, tunnel, early, size)
			tunnel.close()
		}
		p.waitStat("cluster.db.upstream_cx_active", "0")
	}
}

// TestRouteAllowsUpgrades: what a route says of an upgrade goes before what its listener says.
func TestRouteAllowsUpgrades(t *testing.T) {
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Upgrades = []config.Upgrade{{Name: "websocket"}, {Name: "chat", Allowed: true}}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cluster("web", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_ = readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
	})))}, nil)
	for protocol, status := range map[string]string{"websocket": "403", "Chat": "101", "chat, websocket": "403", "connect": "403", "other": "403"} {
		if got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: upgrade, close\r\nUpgrade: " + protocol + "\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 "+status+" ") {
			t.Errorf("%s: %q, want %s", protocol, got, status)
		}
	}
}

// TestConnectWithNothingToSay: a client of HTTP/2 may have ended its direction with the request; the host is told.
func TestConnectWithNothingToSay(t *testing.T) {
	host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { upper(r, conn) })
	for _, p := range []*testProxy{
		startConnect(t, config.ProtocolHTTP2, connectRoute(true), config.ProtocolHTTP1, host),
		startConnect(t, config.ProtocolHTTP2, connectRoute(false), config.ProtocolHTTP1, upperHost(t)),
		startConnect(t, config.ProtocolHTTP2, connectRoute(false), config.ProtocolHTTP2, upperHost(t)),
	} {
		resp, err := p.plainClient(config.ProtocolHTTP2).Do(&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "http", Host: connectTo}, Host: connectTo, Header: http.Header{}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); string(got) != "220 ready\nbye" || err != nil {
			t.Errorf("%q %v", got, err)
		}
		resp.Body.Close()
		p.waitStat("cluster.db.upstream_rq_active", "0")
	}
}
