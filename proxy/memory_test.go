package proxy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// heap is how much memory is in use.
func heap() int {
	var m runtime.MemStats
	for range 3 { // what pools have, and what has a finalizer, goes later
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// settled is how much memory is in use when it has not become less for as long as that, and a half.
func settled(rests time.Duration) int {
	for before := heap(); ; {
		time.Sleep(rests + rests/2)
		now := heap()
		if now > before-32<<10 {
			return now
		}
		before = now
	}
}

// bare is a client's connection of which nothing lies in memory.
type bare int

func dialBare(t *testing.T, p *testProxy) bare {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(p.addr.Port()), Addr: p.addr.Addr().As4()})
	}
	if err != nil {
		t.Fatal(err)
	}
	return bare(fd)
}

func (c bare) Read(p []byte) (int, error) {
	n, err := unix.Read(int(c), p)
	for err == unix.EINTR {
		n, err = unix.Read(int(c), p)
	}
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), err
}

func (c bare) Write(p []byte) (int, error)      { return unix.Write(int(c), p) }
func (c bare) Close() error                     { return unix.Close(int(c)) }
func (c bare) LocalAddr() net.Addr              { return nil }
func (c bare) RemoteAddr() net.Addr             { return nil }
func (c bare) SetDeadline(time.Time) error      { return nil }
func (c bare) SetReadDeadline(time.Time) error  { return nil }
func (c bare) SetWriteDeadline(time.Time) error { return nil }

// readTo reads until what came ends so.
func readTo(t *testing.T, conn net.Conn, end string) {
	t.Helper()
	var got []byte
	for buf := make([]byte, 1024); !strings.HasSuffix(string(got), end); {
		n, err := conn.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			t.Fatalf("%v after %q, want %q", err, got, end)
		}
	}
}

// TestIdleConnectionsAreSmall: what a client's connection takes while nothing happens is bounded, whatever went over it before.
func TestIdleConnectionsAreSmall(t *testing.T) {
	a := testbed.NewAuthority(t)
	quiet := func(o *proxy.Options) { o.AccessLog, o.Loops = io.Discard, 1 }
	ask := func(t *testing.T, conn net.Conn, fields ...string) {
		t.Helper()
		_, _ = io.WriteString(conn, http2.ClientPreface)
		f := &peer2{http2.NewFramer(conn, conn), t, conn}
		_ = f.WriteSettings()
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for stream := uint32(1); stream < 10; stream += 2 { // fields that repeat come into both tables
			block.Reset()
			all := append([]string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "web.mesh.internal"}, fields...)
			for i := 0; i < len(all); i += 2 {
				_ = enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
			}
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			f.until(func(frame http2.Frame) bool {
				return frame.Header().Flags.Has(http2.FlagDataEndStream) && frame.Header().StreamID == stream
			})
		}
	}
	ping := func(t *testing.T, conn net.Conn) {
		t.Helper()
		f := &peer2{http2.NewFramer(conn, conn), t, conn}
		_ = f.WritePing(false, [8]byte{1})
		f.until(func(frame http2.Frame) bool { return frame.Header().Type == http2.FramePing })
	}
	plain := func(t *testing.T) *testProxy {
		l, c := tlsWeb(t, nil)
		l.HTTP, l.Chains = l.Chains[0].HTTP, nil
		return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: c}, quiet)
	}
	for _, c := range []struct {
		name  string
		most  int
		many  int           // that are opened and counted
		rests time.Duration // after which they have given back what they do not need
		proxy func(t *testing.T) *testProxy
		use   func(t *testing.T, conn net.Conn)
		again func(t *testing.T, conn net.Conn) // what one does that rests
	}{
		{"HTTP/1", 1 << 10, 300, 0, plain, func(t *testing.T, conn net.Conn) {
			_, _ = io.WriteString(conn, get)
			readTo(t, conn, "http")
		}, nil},
		{"HTTP/2", 1 << 10, 300, time.Second, plain, func(t *testing.T, conn net.Conn) { ask(t, conn) }, ping},
		{"HTTP/2 with 1 KB in its tables", 2<<10 + 128, 300, time.Second, plain, func(t *testing.T, conn net.Conn) {
			ask(t, conn, "x-large", strings.Repeat("x", 1<<10))
		}, ping},
		{"HTTP/1 over TLS", 8 << 10, 40, 0, func(t *testing.T) *testProxy {
			l, c := tlsWeb(t, settings(t, a.Leaf("web.mesh.internal"), "http/1.1"))
			return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: c}, quiet)
		}, func(t *testing.T, conn net.Conn) {
			secure := tls.Client(conn, &tls.Config{RootCAs: a.Pool(), ServerName: "web.mesh.internal"})
			_, _ = io.WriteString(secure, get)
			readTo(t, secure, "https")
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.proxy(t)
			conns := make([]bare, 0, 2*c.many)
			open := func(n int) {
				t.Helper()
				for range n {
					conn := dialBare(t, p)
					conns = append(conns, conn)
					c.use(t, conn)
				}
			}
			defer func() {
				for _, conn := range conns {
					conn.Close()
				}
			}()
			open(c.many)
			before := settled(c.rests)
			open(c.many)
			each := (settled(c.rests) - before) / c.many
			for _, conn := range conns {
				if c.again != nil {
					c.again(t, conn)
				}
			}
			each = max(each, (heap()-before)/c.many)
			if each > c.most {
				t.Errorf("an idle connection takes %d bytes, want at most %d", each, c.most)
			}
			t.Logf("%d bytes", each)
			p.waitStat(p.listenerStat("downstream_cx_active"), fmt.Sprint(2*c.many))
		})
	}
}

// TestClustersAreSmall: a cluster of one host that was used, with its route and its configuration, is 10 KB at most.
func TestClustersAreSmall(t *testing.T) {
	host := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	with := func(n int) *config.Config {
		l, all := httpConfig(freeAddr(t)), map[string]*config.Cluster{}
		for i := range n {
			name := fmt.Sprint("cluster-", i)
			l.HTTP.Routes.VirtualHosts = append(l.HTTP.Routes.VirtualHosts, vhost(name+".mesh.internal", name))
			all[name] = cluster(name, host)
			all[name].IdleTimeout = 10 * time.Millisecond // connections are counted elsewhere
		}
		return &config.Config{Listeners: []*config.Listener{l}, Clusters: all}
	}
	const few, many = 50, 1050
	serve := func(n int) int {
		before := heap()
		p := start(t, with(n), func(o *proxy.Options) { o.AccessLog, o.Loops = io.Discard, 1 })
		defer p.stop()
		conn := p.dial()
		for i := range n {
			_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: cluster-%d.mesh.internal\r\n\r\n", i)
			readTo(t, conn, "hello")
		}
		p.waitStat(fmt.Sprintf("cluster.cluster-%d.upstream_cx_active", n-1), "0")
		return heap() - before
	}
	serve(few)
	base := serve(few)
	each := (serve(many) - base) / (many - few)
	if each > 10<<10 {
		t.Errorf("a cluster takes %d bytes, want at most 10 KB", each)
	}
	t.Logf("%d bytes", each)
}
