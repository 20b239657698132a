package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// listenUnix listens at a path, or at a name that begins with @.
func listenUnix(t testing.TB, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestHostsOnUnixSockets: every version of HTTP to both kinds of names, with content of any size both ways, over connections that are
// used again; with an IP host in the cluster each gets its share.
func TestHostsOnUnixSockets(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "web")
			abstract := "@" + path
			hosts := []string{path, abstract, plainServer(t, echoFrom("ip"))}
			servePlain(t, listenUnix(t, path), echoFrom("path"))
			servePlain(t, listenUnix(t, abstract), echoFrom("name"))
			l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
			l.HTTP.Protocol = pair.down
			c := cluster("web", hosts...)
			c.Protocol = pair.up
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, oneLoop)
			client := p.plainClient(pair.down)
			met := map[string]int{}
			for _, size := range []int{0, 1, 5000, 300 << 10} {
				data := pattern(size)
				for range len(hosts) {
					resp, err := client.Post(pairURL, "application/octet-stream", bytes.NewReader(data))
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 200 || err != nil || !bytes.Equal(body, data) {
						t.Fatalf("%d bytes: %s and %d bytes, %v", size, resp.Status, len(body), err)
					}
					met[resp.Header.Get("X-From")]++
				}
			}
			if met["path"] != 4 || met["name"] != 4 || met["ip"] != 4 {
				t.Errorf("requests went to %v", met)
			}
			// A connection to each, and what stays keeps its own.
			next := *c
			next.Endpoints = []*config.Endpoint{{Addr: c.Endpoints[0].Addr, Weight: 2}}
			p.config.Set(&config.Config{Version: "2", Listeners: []*config.Listener{l}, Clusters: clusters(&next)})
			p.waitStat("cluster.web.membership_total", "1")
			if status, _, err := p.get(client, "web.mesh.internal", "/"); status != 200 || err != nil {
				t.Errorf("after the update: %d, %v", status, err)
			}
			if n := p.stat("cluster.web.upstream_cx_total"); n != "3" {
				t.Errorf("%s connections, want 3", n)
			}
			client.CloseIdleConnections()
			p.stop()
			for _, host := range hosts {
				if !strings.Contains(p.log.String(), ` "`+host+"\"\n") {
					t.Errorf("access log without %s:\n%s", host, p.log)
				}
			}
		})
	}
}

// echoFrom answers with what it got, and says who it is.
func echoFrom(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-From", name)
		_, _ = w.Write(data)
	}
}

// TestTLSOverUnixSockets: the host proves who it is there too, health checks as well.
func TestTLSOverUnixSockets(t *testing.T) {
	a := testbed.NewAuthority(t)
	for hop, proto := range map[config.Protocol]string{config.ProtocolHTTP1: "HTTP/1.1", config.ProtocolHTTP2: "HTTP/2.0", config.ProtocolAuto: "HTTP/2.0"} {
		path := filepath.Join(shortDir(t), "web")
		s := &http.Server{
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{a.Leaf("b.mesh.internal")}},
			Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS.ServerName, " ", r.Proto) }),
		}
		l := listenUnix(t, path)
		go func() { _ = s.ServeTLS(l, "", "") }()
		t.Cleanup(func() { s.Close() })
		c := cluster("web", path)
		c.Protocol, c.HealthCheck = hop, readiness()
		originate(t, c, a, a.Leaf("a.mesh.internal"), "b.mesh.internal")
		p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, nil)
		p.waitFlags(path, "healthy")
		if status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 || err != nil || body != "b.mesh.internal "+proto {
			t.Errorf("%v: %d %q, %v", hop, status, body, err)
		}
	}
}

// TestHostsOnUnixSocketsAreToldOfClients: the PROXY header says who the client is, whatever the socket; of a client that has no
// address, and of a check in version 1, that nothing is known.
func TestHostsOnUnixSocketsAreToldOfClients(t *testing.T) {
	for _, version := range []int{1, 2} {
		dir := shortDir(t)
		path, in := filepath.Join(dir, "web"), filepath.Join(dir, "in")
		type client struct{}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Context().Value(client{}))
		}), ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if c, ok := conn.(said); ok {
				return context.WithValue(ctx, client{}, c.client)
			}
			return ctx
		}}
		l := listenUnix(t, path)
		go func() { _ = s.Serve(saying{l}) }()
		t.Cleanup(func() { s.Close() })
		c := cluster("web", path)
		c.ProxyHeader, c.HealthCheck = &config.ProxyHeader{Version: version}, readiness()
		listener := httpConfig(freeAddr(t), plain("web"))
		listener.Pipes = []config.Pipe{{Path: in}}
		p := start(t, &config.Config{Listeners: []*config.Listener{listener}, Clusters: clusters(c)}, nil)
		p.waitFlags(path, "healthy")
		conn := p.dial()
		_, _ = io.WriteString(conn, get)
		if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || body != conn.LocalAddr().String() {
			t.Errorf("version %d: %s, %q, want %s", version, resp.Status, body, conn.LocalAddr())
		}
		if resp, body, err := ask(t, "unix", in, get); err != nil || resp.StatusCode != 200 || body != (netip.AddrPort{}).String() {
			t.Errorf("version %d, from a unix socket: %v %q, %v", version, resp, body, err)
		}
	}
}

// TestTCPToUnixSockets: bytes go between sockets of all kinds, few and many (the kernel moves them then), each side with its own end.
func TestTCPToUnixSockets(t *testing.T) {
	dir := shortDir(t)
	out, in := filepath.Join(dir, "out"), filepath.Join(dir, "in")
	acceptRaw(t, listenUnix(t, out), func(conn net.Conn, r *bufio.Reader) {
		if data, err := io.ReadAll(r); err == nil {
			_, _ = conn.Write(data)
		}
	})
	forward := func(name string, cluster string) *config.Listener {
		return &config.Listener{Name: name, Addresses: []netip.AddrPort{freeAddr(t)}, TCP: &config.TCP{
			StatPrefix: name, Clusters: []config.WeightedCluster{{Name: cluster, Weight: 1}}, IdleTimeout: time.Minute, AccessLogs: []config.AccessLog{{Path: "/dev/stdout"}},
		}}
	}
	first, second := forward("first", "out"), forward("second", "in")
	first.Pipes = []config.Pipe{{Path: in}}
	p := start(t, &config.Config{Listeners: []*config.Listener{first, second}, Clusters: clusters(cluster("out", out), cluster("in", in))}, nil)
	p.waitBound(second.Addresses[0])
	for _, way := range []struct{ network, addr string }{
		{"tcp", first.Addresses[0].String()}, {"unix", in}, {"tcp", second.Addresses[0].String()}, // twice through the proxy
	} {
		for _, size := range []int{0, 1, 5000, 64 << 10, 20 << 20} {
			data := pattern(size)
			conn, err := net.Dial(way.network, way.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			go func() {
				_, _ = conn.Write(data)
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			conn.Close()
			if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("%s: %d bytes: %d came back, %v", way.addr, size, len(got), err)
			}
		}
	}
	p.stop()
	for _, host := range []string{in, out} {
		if !strings.Contains(p.log.String(), ` 20971520 20971520 `) || !strings.Contains(p.log.String(), `"`+host+`"`) {
			t.Errorf("access log without %s: %s", host, p.log)
		}
	}
}

// TestUnixHostThatComesBack on the same path, which is another socket then: what waited in the pool is no failure, while
// nobody is there requests are answered 503.
func TestUnixHostThatComesBack(t *testing.T) {
	path := filepath.Join(shortDir(t), "web")
	stop := servePlain(t, listenUnix(t, path), echoFrom("1"))
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cluster("web", path))}, oneLoop)
	conn := p.dial()
	r := bufio.NewReader(conn)
	round := func(want int, from string) *http.Response {
		t.Helper()
		_, _ = io.WriteString(conn, get)
		resp, body := readResponse(t, r, "GET")
		if resp.StatusCode != want || resp.Header.Get("X-From") != from {
			t.Fatalf("%s %q of %q, want %d of %q", resp.Status, body, resp.Header.Get("X-From"), want, from)
		}
		return resp
	}
	for i := range 10 {
		round(200, fmt.Sprint(2*i+1))
		stop()
		stop = servePlain(t, listenUnix(t, path), echoFrom(fmt.Sprint(2*i+2))) // at once: the pool may not know yet
		round(200, fmt.Sprint(2*i+2))
		stop()
		round(503, "")
		stop = servePlain(t, listenUnix(t, path), echoFrom(fmt.Sprint(2*i+3)))
	}
	stop()
	if err := os.WriteFile(path, nil, 0o600); err != nil { // no socket
		t.Fatal(err)
	}
	round(503, "")
	if n := p.stat("cluster.web.upstream_cx_connect_fail"); n != "11" {
		t.Errorf("%s connections failed, want 11", n)
	}
	if n := p.stat("cluster.web.upstream_cx_active"); n != "0" {
		t.Errorf("%s connections are open", n)
	}
	p.stop()
	if n := strings.Count(p.log.String(), `" 503 UF 0 `); n != 11 || !strings.Contains(p.log.String(), `"`+path+"\"\n") {
		t.Errorf("%d lines of the access log have UF: %s", n, p.log)
	}
}

// TestUnixHostsThatFail are tried no more when others do, and ejected: one that is not there, one that does not accept.
func TestUnixHostsThatFail(t *testing.T) {
	dir := shortDir(t)
	full := fullUnix(t, filepath.Join(dir, "full"))
	for _, bad := range []string{filepath.Join(dir, "missing"), "@" + dir + "/missing", full} {
		for split, hop := range map[bool]config.Protocol{false: config.ProtocolHTTP1, true: config.ProtocolHTTP2} {
			c := cluster("web", bad, plainServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "good") }))
			c.Protocol = hop
			c.Outlier = ejecting(func(o *config.Outlier) { o.SplitLocal, o.ConsecutiveGateway, o.ConsecutiveLocal = split, 3, 3 })
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(c)}, oneLoop)
			if got := p.served(20); got["good"] != 20 {
				t.Errorf("%s: served by %v", bad, got)
			}
			p.waitFlags(bad, "/failed_outlier_check")
			for _, name := range []string{"upstream_rq_retry", "upstream_cx_connect_fail"} {
				if n := p.stat("cluster.web." + name); n == "0" {
					t.Errorf("%s: %s is 0", bad, name)
				}
			}
			if all := p.adminGet("/clusters"); !strings.Contains(all, "web::"+bad+"::cx_connect_fail::") || strings.Contains(all, "web::"+bad+"::cx_connect_fail::0\n") {
				t.Errorf("%s: no failures in\n%s", bad, all)
			}
			if all := p.adminGet("/clusters?format=json"); !strings.Contains(all, `"pipe": {`) || !strings.Contains(all, `"path": "`+bad+`"`) {
				t.Errorf("%s: not in\n%s", bad, all)
			}
			http.DefaultClient.CloseIdleConnections()
			p.stop()
		}
	}
}

// fullUnix listens at a path, where nobody accepts and no more may wait.
func fullUnix(t testing.TB, path string) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			return path
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return ""
}

// TestUnixHostsAreChecked: a check finds a host on a unix socket gone, and back.
func TestUnixHostsAreChecked(t *testing.T) {
	path := filepath.Join(shortDir(t), "web")
	for name, change := range map[string]func(*config.HealthCheck){
		"HTTP/1.1": func(*config.HealthCheck) {},
		"HTTP/2":   func(c *config.HealthCheck) { c.HTTP.HTTP2 = true },
		"TCP":      func(c *config.HealthCheck) { c.HTTP, c.TCP = nil, &config.TCPCheck{} },
	} {
		t.Run(name, func(t *testing.T) {
			stop := servePlain(t, listenUnix(t, path), echoFrom("x"))
			c := cluster("web", path)
			c.HealthCheck = readiness()
			change(c.HealthCheck)
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, nil)
			p.waitFlags(path, "healthy")
			stop()
			p.waitFlags(path, "/failed_active_hc")
			servePlain(t, listenUnix(t, path), echoFrom("x"))
			p.waitFlags(path, "healthy")
		})
	}
}

// TestUnixHostsAllocateNothing: a request costs no more than one to an IP address.
func TestUnixHostsAllocateNothing(t *testing.T) {
	path := filepath.Join(shortDir(t), strings.Repeat("x", 40))
	acceptRaw(t, listenUnix(t, path), answerFixed)
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(cluster("web", path)),
	}, func(o *proxy.Options) { o.AccessLog, o.Loops = io.Discard, 1 })
	if n := allocations(t, p, get); n > .05 {
		t.Errorf("%v allocations a request", n)
	}
}

// TestUpgradeOverUnixSockets: a tunnel inside HTTP is one of bytes there too.
func TestUpgradeOverUnixSockets(t *testing.T) {
	path := filepath.Join(shortDir(t), "web")
	var seen atomic.Int32
	acceptRaw(t, listenUnix(t, path), func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		seen.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
		data, _ := io.ReadAll(r)
		_, _ = conn.Write(bytes.ToUpper(data))
	})
	p := startHTTP(t, path)
	conn := p.dial()
	_, _ = io.WriteString(conn, upgradeRequest+"early ")
	r := bufio.NewReader(conn)
	if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("head %q", head)
	}
	_, _ = io.WriteString(conn, "late")
	_ = conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(r); string(rest) != "helloEARLY LATE" || err != nil || seen.Load() != 1 {
		t.Errorf("%q, %v after %d requests", rest, err, seen.Load())
	}
}
