package proxy_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	proxyLine = "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"
	closing   = "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"
)

// proxyBinary is a header of version 2 with an extension behind the addresses.
func proxyBinary(command byte, source, destination netip.AddrPort) string {
	family := byte(0x11)
	rest := append(source.Addr().AsSlice(), destination.Addr().AsSlice()...)
	if source.Addr().Is6() {
		family = 0x21
	}
	rest = binary.BigEndian.AppendUint16(rest, source.Port())
	rest = binary.BigEndian.AppendUint16(rest, destination.Port())
	rest = append(rest, 4, 0, 2, 'n', 'o')
	head := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return string(append(binary.BigEndian.AppendUint16(head, uint16(len(rest))), rest...))
}

// tellsForwarded is a back end that answers with the x-forwarded-for that it got.
func tellsForwarded(t testing.TB) string {
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			for line := range strings.Lines(strings.ToLower(head)) {
				if v, ok := strings.CutPrefix(line, "x-forwarded-for: "); ok {
					answer(conn, strings.TrimSpace(v))
				}
			}
		}
	})
}

// behindProxy starts a proxy whose HTTP listener wants a PROXY header.
func behindProxy(t *testing.T, p config.ProxyProtocol, timeout time.Duration) *testProxy {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.ProxyProtocol, l.Filters.Timeout = &p, timeout
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", tellsForwarded(t)))}, oneLoop)
}

// listenerStat is the name of a figure of the proxy's first listener.
func (p *testProxy) listenerStat(name string) string {
	return "listener." + strings.ReplaceAll(p.addr.String(), ":", "_") + "." + name
}

// TestProxyHeader: the client is whom the header names, however it is cut into pieces, and bytes right behind it are not lost.
func TestProxyHeader(t *testing.T) {
	source6, destination6 := netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2")
	source4, destination4 := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("198.51.100.1:2")
	p := behindProxy(t, config.ProxyProtocol{}, 10*time.Second)
	for _, c := range []struct{ name, header, want string }{
		{"v1", proxyLine, "192.0.2.1"},
		{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n", "2001:db8::1"},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "127.0.0.1"},
		{"v2", proxyBinary(0x21, source4, destination4), "192.0.2.1"},
		{"v2 IPv6", proxyBinary(0x21, source6, destination6), "2001:db8::1"},
		{"v2 local", proxyBinary(0x20, source4, destination4), "127.0.0.1"},
	} {
		for _, piece := range []int{1, 7, 1000} {
			t.Run(fmt.Sprintf("%s by %d", c.name, piece), func(t *testing.T) {
				conn := p.dial()
				for text := c.header + closing; text != ""; {
					n := min(piece, len(text))
					if _, err := io.WriteString(conn, text[:n]); err != nil {
						t.Fatal(err)
					}
					text = text[n:]
				}
				if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || body != c.want {
					t.Errorf("%s %q, want %q", resp.Status, body, c.want)
				}
			})
		}
	}
	p.waitStat("proxy_proto.versions.v1.found", "9")
	p.waitStat("proxy_proto.versions.v2.found", "9")
	p.waitStat(p.listenerStat("downstream_cx_total"), "18")
	p.waitStat(p.listenerStat("downstream_cx_active"), "0")
	p.waitStat(p.listenerStat("downstream_pre_cx_active"), "0")
}

// closedUnanswered checks that the proxy closes without a byte; input that it did not read makes that a reset.
func closedUnanswered(t *testing.T, conn net.Conn) {
	t.Helper()
	got, err := io.ReadAll(conn)
	if len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestProxyHeaderRefused: what is not a right header ends the connection and is counted; nothing of it is served.
func TestProxyHeaderRefused(t *testing.T) {
	p := behindProxy(t, config.ProxyProtocol{}, 10*time.Second)
	for _, c := range []struct{ name, text, counted string }{
		{"none", closing, "proxy_proto.not_found_disallowed"},
		{"v1", "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n" + closing, "proxy_proto.versions.v1.error"},
		{"v2 unix", "\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + strings.Repeat("x", 216) + closing, "proxy_proto.versions.v2.error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := p.dial()
			if _, err := io.WriteString(conn, c.text); err != nil {
				t.Fatal(err)
			}
			closedUnanswered(t, conn)
			p.waitStat(c.counted, "1")
		})
	}
	p.waitStat(p.listenerStat("downstream_listener_filter_error"), "3")
	p.waitStat(p.listenerStat("downstream_cx_total"), "0")
	p.waitStat(p.listenerStat("downstream_pre_cx_active"), "0")
}

// TestProxyHeaderThatNeverComes: a client that is silent, or stops within the header, loses its connection; so does one that goes.
func TestProxyHeaderThatNeverComes(t *testing.T) {
	p := behindProxy(t, config.ProxyProtocol{}, 300*time.Millisecond)
	for _, text := range []string{"", "PRO", proxyLine[:30]} {
		conn := p.dial()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		closedUnanswered(t, conn)
	}
	p.waitStat(p.listenerStat("downstream_pre_cx_timeout"), "3")
	conn := p.dial()
	if _, err := io.WriteString(conn, "PROXY"); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	closedUnanswered(t, conn)
	p.waitStat(p.listenerStat("downstream_listener_filter_remote_close"), "1")
	p.waitStat(p.listenerStat("downstream_pre_cx_active"), "0")
}

// TestProxyHeaderOptional: without the header a connection is its peer's own; a broken one is refused still.
func TestProxyHeaderOptional(t *testing.T) {
	p := behindProxy(t, config.ProxyProtocol{Optional: true}, 10*time.Second)
	for _, c := range []struct{ text, want string }{{closing, "127.0.0.1"}, {proxyLine + closing, "192.0.2.1"}} {
		if got := p.raw(c.text); !strings.HasSuffix(got, "\r\n\r\n"+c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	conn := p.dial()
	if _, err := io.WriteString(conn, "PROXY TCP9\r\n"); err != nil {
		t.Fatal(err)
	}
	closedUnanswered(t, conn)
	p.waitStat("proxy_proto.not_found_allowed", "1")
	p.waitStat("proxy_proto.versions.v1.error", "1")
}

// TestProxyHeaderTCP: of a TCP connection only the header is taken away.
func TestProxyHeaderTCP(t *testing.T) {
	echo := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(conn, r) })
	l := &config.Listener{
		Name: "db", Addresses: []netip.AddrPort{freeAddr(t)}, ProxyProtocol: &config.ProxyProtocol{}, Filters: config.Filters{Timeout: 10 * time.Second},
		TCP: &config.TCP{StatPrefix: "db", Clusters: []config.WeightedCluster{{Name: "db", Weight: 1}}, IdleTimeout: time.Minute},
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("db", echo))}, oneLoop)
	conn := p.dial()
	if _, err := io.WriteString(conn, proxyLine+"PROXY is what follows"); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "PROXY is what follows" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestProxyHeaderInAccessLog: the lines tell the header's addresses and, as the direct one, that of the proxy in front.
func TestProxyHeaderInAccessLog(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.ProxyProtocol, l.Filters.Timeout = &config.ProxyProtocol{Optional: true}, 10*time.Second
	l.HTTP.AccessLogs = []config.AccessLog{{Path: "/dev/stdout", Format: &config.LogFormat{
		Text: "remote %DOWNSTREAM_REMOTE_ADDRESS% local %DOWNSTREAM_LOCAL_ADDRESS% direct %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%\n",
	}}}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", tellsForwarded(t)))}, oneLoop)
	conn := p.dial()
	if _, err := io.WriteString(conn, proxyLine+closing); err != nil {
		t.Fatal(err)
	}
	readResponse(t, bufio.NewReader(conn), "GET")
	own := p.dial()
	if _, err := io.WriteString(own, closing); err != nil {
		t.Fatal(err)
	}
	readResponse(t, bufio.NewReader(own), "GET")
	p.stop()
	for _, want := range []string{
		"remote 192.0.2.1:56324 local 198.51.100.1:443 direct 127.0.0.1\n",
		"remote " + own.LocalAddr().String() + " local " + p.addr.String() + " direct 127.0.0.1\n",
	} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("no %q in %q", want, p.log)
		}
	}
}

// TestProxyHeaderAtTheEnd: connections that wait for their header are closed when the process ends, however long they might wait.
func TestProxyHeaderAtTheEnd(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.ProxyProtocol = &config.ProxyProtocol{}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}}, func(o *proxy.Options) { o.Loops, o.DrainTime = 1, 200*time.Millisecond })
	conn := p.dial()
	if _, err := io.WriteString(conn, "PROXY"); err != nil {
		t.Fatal(err)
	}
	p.waitStat(p.listenerStat("downstream_pre_cx_active"), "1")
	p.stop()
	closedUnanswered(t, conn)
}

// TestProxyHeaderOfRemovedListener: a connection that waits for its header when its listener leaves is served yet.
func TestProxyHeaderOfRemovedListener(t *testing.T) {
	p := behindProxy(t, config.ProxyProtocol{}, 10*time.Second)
	conn := p.dial()
	if _, err := io.WriteString(conn, proxyLine[:10]); err != nil {
		t.Fatal(err)
	}
	p.waitStat(p.listenerStat("downstream_pre_cx_active"), "1")
	before, _ := p.config.Get()
	p.config.Set(&config.Config{Clusters: before.Clusters})
	for range 300 {
		if !strings.Contains(p.adminGet("/listeners"), p.addr.String()) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := io.WriteString(conn, proxyLine[10:]+closing); err != nil {
		t.Fatal(err)
	}
	if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || body != "192.0.2.1" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

// TestProxyHeaderByCurl and TestProxyHeaderByHAProxy have programs that others wrote send the header.
func TestProxyHeaderByCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("curl is not installed; run make setup")
	}
	p := behindProxy(t, config.ProxyProtocol{}, 10*time.Second)
	out, err := exec.Command(curl, "-sS", "--max-time", "10", "--haproxy-protocol", "-H", "Host: web.mesh.internal", "http://"+p.addr.String()+"/").CombinedOutput()
	if err != nil || string(out) != "127.0.0.1" {
		t.Errorf("%q, %v", out, err)
	}
	p.waitStat("proxy_proto.versions.v1.found", "1")
}

func TestProxyHeaderByHAProxy(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatal("haproxy is not installed; run make setup")
	}
	p := behindProxy(t, config.ProxyProtocol{}, 10*time.Second)
	for version, option := range []string{"send-proxy", "send-proxy-v2"} {
		front := freeAddr(t)
		file := filepath.Join(t.TempDir(), "haproxy.cfg")
		text := fmt.Sprintf("defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\nlisten front\n bind %s\n server mesh %s %s\n", front, p.addr, option)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(haproxy, "-db", "-f", file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		conn := dialFrom(t, "127.0.0.9", front)
		if _, err := io.WriteString(conn, closing); err != nil {
			t.Fatal(err)
		}
		if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || body != "127.0.0.9" {
			t.Errorf("%s: %s %q", option, resp.Status, body)
		}
		p.waitStat(fmt.Sprintf("proxy_proto.versions.v%d.found", version+1), "1")
	}
}

// dialFrom connects from an address of its own, as soon as somebody listens.
func dialFrom(t *testing.T, from string, to netip.AddrPort) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	for range 500 {
		conn, err := d.Dial("tcp", to.String())
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			return conn
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nobody listens on %s", to)
	return nil
}
