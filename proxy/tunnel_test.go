package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

func startTCP(t testing.TB, addrs ...string) *testProxy {
	t.Helper()
	return start(t, &config.Config{
		Listeners: []*config.Listener{{
			Name: "db", Addresses: []netip.AddrPort{freeAddr(t)},
			TCP: &config.TCP{StatPrefix: "db", Attempts: 3, Clusters: []config.WeightedCluster{{Name: "db", Weight: 1}}, IdleTimeout: time.Minute, AccessLogs: []config.AccessLog{{Path: "/dev/stdout"}}},
		}},
		Clusters: clusters(cluster("db", addrs...)),
	}, nil)
}

// TestTCPHalfClose sends everything, closes its side, and gets the answer after that: as `nc -N` does. The sizes lead through
// the buffer and through splice.
func TestTCPHalfClose(t *testing.T) {
	p := startTCP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		data, err := io.ReadAll(r)
		if err == nil {
			_, _ = conn.Write(data)
		}
	}))
	for _, size := range []int{0, 1, 5000, 64 << 10, 20 << 20} {
		data := pattern(size)
		conn := p.dial()
		go func() {
			_, _ = conn.Write(data)
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
			t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
		}
	}
	p.stop()
	if !strings.Contains(p.log.String(), ` "- - -" 0 - 20971520 20971520 `) {
		t.Errorf("access log %q", p.log)
	}
}

func TestTCPServerSpeaksFirst(t *testing.T) {
	p := startTCP(t, freeAddr(t).String(), rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, "220 ready\r\n")
		line, _ := r.ReadString('\n')
		_, _ = io.WriteString(conn, "got "+line)
	}))
	for range 4 { // one of two hosts is dead
		conn := p.dial()
		r := bufio.NewReader(conn)
		if line, err := r.ReadString('\n'); line != "220 ready\r\n" || err != nil {
			t.Fatalf("%q %v", line, err)
		}
		_, _ = io.WriteString(conn, "HELO\n")
		if rest, err := io.ReadAll(r); string(rest) != "got HELO\n" || err != nil {
			t.Errorf("%q %v", rest, err)
		}
	}
}

func TestTCPResetIsPassedOn(t *testing.T) {
	p := startTCP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = r.ReadByte()
		_ = conn.(*net.TCPConn).SetLinger(0)
	}))
	conn := p.dial()
	_, _ = conn.Write([]byte("x"))
	if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
}

func TestTCPNoUpstream(t *testing.T) {
	p := startTCP(t, freeAddr(t).String())
	conn, err := net.Dial("tcp", p.addr.String())
	if err == nil {
		_, err = io.ReadAll(conn)
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	p.stop()
	if !strings.Contains(p.log.String(), " UF,URX ") {
		t.Errorf("access log %q", p.log)
	}
}

const upgradeRequest = "GET /chat HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\r\n"

func TestUpgrade(t *testing.T) {
	p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if head := readHead(r); !strings.Contains(head, "Connection: Upgrade\r\nUpgrade: WebSocket\r\n") {
			t.Errorf("the upstream saw %q", head)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello")
		data, _ := io.ReadAll(r)
		_, _ = conn.Write(bytes.ToUpper(data))
	}))
	conn := p.dial()
	_, _ = io.WriteString(conn, upgradeRequest+"early ")
	r := bufio.NewReader(conn)
	if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "Connection: Upgrade\r\nUpgrade: websocket\r\n") {
		t.Fatalf("head %q", head)
	}
	greeting := make([]byte, 5)
	if _, err := io.ReadFull(r, greeting); err != nil || string(greeting) != "hello" {
		t.Fatalf("%q %v", greeting, err)
	}
	large := bytes.Repeat([]byte("a"), 1<<20)
	_, _ = conn.Write(large)
	_ = conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "EARLY "+strings.Repeat("A", 1<<20) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	p.stop()
	if !strings.Contains(p.log.String(), `"GET /chat HTTP/1.1" 101 - 1048582 1048587 `) {
		t.Errorf("access log %q", p.log)
	}
}

// TestRefusedUpgrades: CVE class 14, no byte that a client sends ahead reaches an upstream before that agreed to change, and a
// connection that did not change is not used again.
func TestRefusedUpgrades(t *testing.T) {
	t.Run("protocol", func(t *testing.T) {
		p := startHTTP(t, rawBackend(t, func(net.Conn, *bufio.Reader) { t.Error("the upstream was reached") }))
		for _, protocol := range []string{"websocket, h2c", "h2c, foo", "h2", "tls/1.0"} {
			got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: Upgrade, close\r\nUpgrade: " + protocol + "\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 403 ") {
				t.Errorf("%s: %q", protocol, got)
			}
		}
	})
	t.Run("by the upstream", func(t *testing.T) {
		seen := make(chan string, 10)
		p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			for n := 0; ; n++ {
				head := readHead(r)
				if head == "" {
					return
				}
				if n > 0 {
					t.Error("the connection of a refused upgrade was used again")
				}
				seen <- head
				answer(conn, "plain")
			}
		}))
		conn := p.dial()
		_, _ = io.WriteString(conn, upgradeRequest+get)
		r := bufio.NewReader(conn)
		for range 2 {
			if resp, body := readResponse(t, r, "GET"); resp.StatusCode != 200 || body != "plain" {
				t.Errorf("%s %q", resp.Status, body)
			}
		}
		if first := <-seen; strings.Count(first, "GET") != 1 {
			t.Errorf("the upstream saw %q", first)
		}
		if second := <-seen; strings.Contains(second, "Upgrade") {
			t.Errorf("the second request is %q", second)
		}
	})
}

// TestTunnelThatStandsIsIdle: bytes that come in and are not taken on the other side do not keep a tunnel alive when all that it can hold
// is held, also when the kernel moves them.
func TestTunnelThatStandsIsIdle(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	host := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		<-release
	})
	defer close(release)
	const timeout = 3 * time.Second
	p := start(t, &config.Config{
		Listeners: []*config.Listener{{
			Name: "db", Addresses: []netip.AddrPort{freeAddr(t)},
			TCP: &config.TCP{StatPrefix: "db", Attempts: 1, Clusters: []config.WeightedCluster{{Name: "db", Weight: 1}}, IdleTimeout: timeout},
		}},
		Clusters: clusters(cluster("db", host)),
	}, nil)
	conn := p.dial()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	send := func(n int) {
		t.Helper()
		if _, err := conn.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	send(1)
	p.waitStat("cluster.db.upstream_cx_active", "1")
	// A read that fills its whole buffer has the kernel move what follows.
	freeLoops := p.Hold()
	go func() { _, _ = conn.Write(make([]byte, 4*loop.SharedSize)) }()
	for unread(t, conn) < loop.SharedSize {
		time.Sleep(time.Millisecond)
	}
	freeLoops()
	// Until it takes no more: the host's buffers are full, and the pipe.
	for stands := 0; stands < 10; time.Sleep(time.Millisecond) {
		if unread(t, conn) > 0 {
			stands++
			continue
		}
		stands = 0
		send(32 << 10)
	}
	for range 200 {
		before := unread(t, conn)
		if _, err := conn.Write([]byte("x")); err != nil || before < 0 {
			p.waitStat("tcp.db.idle_timeout", "1")
			return
		}
		time.Sleep(timeout / 20)
	}
	t.Error("it is open after ten times its idle timeout")
}

// unread is how many bytes of a client's connection wait in the kernel for the proxy; -1: the proxy has closed it.
func unread(t *testing.T, conn net.Conn) int {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	port := func(a net.Addr) string { return fmt.Sprintf(":%04X", a.(*net.TCPAddr).Port) }
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if !strings.HasSuffix(f[1], port(conn.RemoteAddr())) || !strings.HasSuffix(f[2], port(conn.LocalAddr())) {
			continue
		}
		_, queue, _ := strings.Cut(f[4], ":")
		n, err := strconv.ParseInt(queue, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	return -1
}
