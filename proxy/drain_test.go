package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

func oneLoop(o *proxy.Options) { o.Loops = 1 }

// fullBacklog returns an address where connects hang: its queue is full and nobody accepts.
func fullBacklog(t testing.TB) string {
	t.Helper()
	addr, _ := backlogged(t)
	return addr
}

// backlogged also returns what makes a listener of it, which accepts: who hangs gets through when the kernel tries again, in a second
// or so.
func backlogged(t testing.TB) (addr string, listen func() net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = "127.0.0.1:" + strconv.Itoa(sa.(*unix.SockaddrInet4).Port)
	for range 4 {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	return addr, func() net.Listener {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(copied), addr)
		defer file.Close()
		l, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// TestDrainLosesNoRequest stops the proxy under load of new and of kept connections. A request may be refused at connect,
// but one whose connection was accepted must be answered.
func TestDrainLosesNoRequest(t *testing.T) {
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(2 * time.Millisecond)
		_, _ = io.WriteString(w, "ok")
	}))
	var served, refused, lost atomic.Int32
	var clients sync.WaitGroup
	for i := range 24 {
		keep := i%2 == 0
		clients.Go(func() {
			for {
				conn, err := net.DialTimeout("tcp", p.addr.String(), 5*time.Second)
				if err != nil {
					refused.Add(1)
					return
				}
				r := bufio.NewReader(conn)
				for closing := false; !closing; {
					_, err := io.WriteString(conn, get)
					var resp *http.Response
					if err == nil {
						resp, err = http.ReadResponse(r, nil)
					}
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
					}
					if err != nil {
						t.Logf("lost: %v", err)
						lost.Add(1)
						conn.Close()
						return
					}
					served.Add(1)
					closing = resp.Close || !keep
				}
				conn.Close()
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	p.stop()
	clients.Wait()
	t.Logf("served %d, refused %d, drained in %v", served.Load(), refused.Load(), time.Since(began))
	if lost.Load() > 0 || served.Load() < 100 || refused.Load() != 24 {
		t.Errorf("served %d, refused %d, lost %d requests", served.Load(), refused.Load(), lost.Load())
	}
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	p := startHTTP(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-release
		_, _ = io.WriteString(w, "done")
	}))
	conn := p.dial()
	idle := p.dial()
	_, _ = io.WriteString(conn, get)
	<-begun
	p.cancel()
	time.Sleep(50 * time.Millisecond)
	if ready := p.adminGet("/ready"); ready != "DRAINING\n" {
		t.Errorf("/ready says %q while draining", ready)
	}
	// An idle connection has a last chance.
	_, _ = io.WriteString(idle, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, _ := readResponse(t, bufio.NewReader(idle), "GET"); resp.StatusCode != 404 || !resp.Close {
		t.Errorf("%s, close %v", resp.Status, resp.Close)
	}
	if _, err := net.Dial("tcp", p.addr.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new connection: %v, want it refused", err)
	}
	close(release)
	if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); body != "done" || !resp.Close {
		t.Errorf("%q, close %v", body, resp.Close)
	}
	p.stop()
}

func TestDrainEndsInTime(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { readHead(r); <-hang })
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))},
		Clusters:  clusters(cluster("web", backend)),
	}, func(o *proxy.Options) { o.DrainTime = 200 * time.Millisecond })
	conn := p.dial()
	_, _ = io.WriteString(conn, get)
	p.waitStat("cluster.web.upstream_rq_active", "1")
	began := time.Now()
	p.stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("Run returned after %v", took)
	}
	if !strings.Contains(p.log.String(), " 0 DC ") {
		t.Errorf("access log %q", p.log)
	}
}

// TestDrainCutsWhatHasNoLength: a response that would end with the connection is not whole when the time of the drain is over, and
// its client can tell.
func TestDrainCutsWhatHasNoLength(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\npart")
		<-hang
	})
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))},
		Clusters:  clusters(cluster("web", backend)),
	}, func(o *proxy.Options) { o.DrainTime = 200 * time.Millisecond })
	conn := p.dial()
	_, _ = io.WriteString(conn, strings.Replace(get, "HTTP/1.1", "HTTP/1.0", 1))
	r := bufio.NewReader(conn)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	part := make([]byte, 4)
	if _, err := io.ReadFull(r, part); err != nil || string(part) != "part" {
		t.Fatalf("%q, %v", part, err)
	}
	p.stop()
	if _, err := r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it ended with %v, want a reset", err)
	}
}

// TestRemovedListenerEndsItsConnections: whatever does not end by itself when its listener left the configuration, requests
// and tunnels, is ended when the time for that is over; what ends before is whole.
func TestRemovedListenerEndsItsConnections(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		switch head := readHead(r); {
		case strings.Contains(head, "Upgrade: websocket"):
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(conn, r)
		case strings.HasPrefix(head, "GET /soon "):
			time.Sleep(100 * time.Millisecond)
			answer(conn, "whole")
		default:
			<-hang
		}
	})
	web := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	web.HTTP.DrainTimeout = time.Millisecond // which is no limit
	tcp := &config.Listener{Name: "db", Addresses: []netip.AddrPort{freeAddr(t)}, TCP: &config.TCP{
		StatPrefix: "db", Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}, IdleTimeout: time.Minute,
	}}
	p := start(t, &config.Config{Listeners: []*config.Listener{web, tcp}, Clusters: clusters(cluster("web", backend))},
		func(o *proxy.Options) { o.ListenerDrainTime = 400 * time.Millisecond })
	p.waitBound(tcp.Addresses[0])
	open := func(addr netip.AddrPort, text string) net.Conn {
		p.addr = addr
		conn := p.dial()
		_, _ = io.WriteString(conn, text)
		return conn
	}
	upgraded := open(web.Addresses[0], "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	if head := readHead(bufio.NewReader(upgraded)); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("got %q", head)
	}
	conns := map[string]net.Conn{
		"upgraded": upgraded, "request": open(web.Addresses[0], get), "tcp": open(tcp.Addresses[0], "GET /hang HTTP/1.1\r\n\r\n"),
	}
	soon := open(web.Addresses[0], "GET /soon HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
	p.waitStat("cluster.web.upstream_cx_active", "4")
	began := time.Now()
	p.config.Set(&config.Config{Clusters: clusters(cluster("web", backend))})
	if resp, body := readResponse(t, bufio.NewReader(soon), "GET"); body != "whole" || !resp.Close {
		t.Errorf("a request that ends in time: %s %q", resp.Status, body)
	}
	for name, conn := range conns {
		if n, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s is still open after %v", name, time.Since(began))
		} else if took := time.Since(began); took < 300*time.Millisecond || n > 0 {
			t.Errorf("%s ended after %v with %d bytes (%v)", name, took, n, err)
		}
	}
}
