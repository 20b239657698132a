package proxy_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// host2 answers requests of HTTP/2 by 204, and pings, on each connection but the first: there it answers nothing from the first request on,
// or pings alone (pings), or it speaks now and then of other things (speaks).
func host2(t *testing.T, pings, speaks bool) (addr string, conns *atomic.Int32) {
	t.Helper()
	conns = new(atomic.Int32)
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		first := conns.Add(1) == 1
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(conn, r)
		_ = f.WriteSettings()
		for asked := false; ; {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.HeadersFrame:
				if first && speaks && !asked {
					go func() {
						for err := error(nil); err == nil; time.Sleep(20 * time.Millisecond) {
							err = f.WriteWindowUpdate(0, 1)
						}
					}()
				}
				if asked = true; first {
					continue
				}
				var block bytes.Buffer
				_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			case *http2.PingFrame:
				if !frame.IsAck() && (!first || !asked || pings) {
					_ = f.WritePing(true, frame.Data)
				}
			}
		}
	}), conns
}

// TestKeepaliveOfHosts: a host that answers no ping is gone, with the requests that it has; one that does is waited for.
func TestKeepaliveOfHosts(t *testing.T) {
	for _, c := range []struct {
		name        string
		pings       bool
		speaks      bool
		keep        config.Keepalive
		status      int
		silent, log string
	}{
		{"silent", false, false, config.Keepalive{Interval: 50 * time.Millisecond, Timeout: 200 * time.Millisecond}, 503, "1", " 503 UC "},
		{"busy", false, true, config.Keepalive{Interval: 50 * time.Millisecond, Timeout: 200 * time.Millisecond}, 504, "0", " 504 UT "},
		{"alive", true, false, config.Keepalive{Interval: 10 * time.Millisecond, Jitter: 0.5, Timeout: 500 * time.Millisecond}, 504, "0", " 504 UT "},
		{"nobody asks", false, false, config.Keepalive{}, 504, "0", " 504 UT "},
		{"asked after a pause", false, false, config.Keepalive{Timeout: 200 * time.Millisecond, Idle: time.Second}, 204, "1", " 204 - "}, // it is sent again,
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr, _ := host2(t, c.pings, c.speaks)
			p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, addr, func(l *config.Listener, cl *config.Cluster) {
				r := l.HTTP.Routes.VirtualHosts[0].Routes[0]
				r.Retry, r.Timeout = config.Retry{}, 1500*time.Millisecond
				cl.HTTP2.Keepalive = &c.keep
			})
			if c.keep.Idle > 0 {
				if status, _, err := p.get(once(), "web.mesh.internal", "/"); status != 504 || err != nil {
					t.Errorf("on a new connection: got %d, %v, want 504", status, err)
				}
			}
			if status, _, err := p.get(once(), "web.mesh.internal", "/"); status != c.status || err != nil {
				t.Errorf("got %d, %v, want %d", status, err, c.status)
			}
			if got := p.stat("cluster.web.http2.keepalive_timeout"); got != c.silent {
				t.Errorf("%s connections were silent, want %s", got, c.silent)
			}
			p.await("the log has the flag", func() bool { return strings.Contains(p.log.String(), c.log) })
		})
	}
}

// TestHostsThatFallSilentAreDoubted: when a request was given up on a connection on which nothing comes, others get another one, and that
// one is closed if the host does not answer a ping.
func TestHostsThatFallSilentAreDoubted(t *testing.T) {
	for _, pings := range []bool{false, true} {
		t.Run(map[bool]string{false: "silent", true: "slow"}[pings], func(t *testing.T) {
			t.Parallel()
			addr, conns := host2(t, pings, false)
			p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, addr, func(l *config.Listener, _ *config.Cluster) {
				r := l.HTTP.Routes.VirtualHosts[0].Routes[0]
				r.Retry, r.Timeout = config.Retry{}, 2500*time.Millisecond
			})
			if status, _, err := p.get(once(), "web.mesh.internal", "/"); status != 504 || err != nil {
				t.Fatalf("got %d, %v, want 504", status, err)
			}
			if pings {
				p.waitStat("cluster.web.upstream_cx_active", "1")
				if status, _, err := p.get(once(), "web.mesh.internal", "/"); status != 504 || err != nil || conns.Load() != 1 {
					t.Errorf("got %d, %v, on connection %d, want 504 on that which is there", status, err, conns.Load())
				}
				return
			}
			for range 3 {
				if status, _, err := p.get(once(), "web.mesh.internal", "/"); status != http.StatusNoContent || err != nil {
					t.Errorf("got %d, %v, want 204", status, err)
				}
			}
			p.await("the connection ends", func() bool { return p.stat("cluster.web.http2.keepalive_timeout") == "1" })
			p.waitStat("cluster.web.upstream_cx_active", "1")
			if n := conns.Load(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	}
}

// TestKeepaliveOfClients: so do clients end that answer no ping.
func TestKeepaliveOfClients(t *testing.T) {
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, fixed(t), func(l *config.Listener, _ *config.Cluster) {
		l.HTTP.HTTP2.Keepalive = &config.Keepalive{Interval: 50 * time.Millisecond, Timeout: 300 * time.Millisecond}
	})
	alive := p.plainClient(config.ProtocolHTTP2)
	if status, _, err := p.get(alive, "web.mesh.internal", "/"); status != 200 || err != nil {
		t.Fatalf("got %d, %v", status, err)
	}
	silent := p.dial2(t)
	_, _ = io.Copy(io.Discard, silent.conn) // to the end
	p.waitStat("http2.keepalive_timeout", "1")
	if status, _, err := p.get(alive, "web.mesh.internal", "/"); status != 200 || err != nil {
		t.Fatalf("got %d, %v", status, err)
	}
	if got := p.stat("http.outbound.downstream_cx_total"); got != "2" {
		t.Errorf("%s connections, want 2", got)
	}
}

// TestTCPKeepalive: the kernel probes the connections of clients and of hosts for which that is said, and no others.
func TestTCPKeepalive(t *testing.T) {
	for _, on := range []bool{true, false} {
		host := fixed(t)
		var served config.Listener
		var cl *config.Cluster
		p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP1, host, func(l *config.Listener, c *config.Cluster) {
			served, cl = *l, c
			if on {
				l.Keepalive = &config.TCPKeepalive{Time: 100 * time.Second, Interval: 7 * time.Second, Probes: 3}
				c.Keepalive = &config.TCPKeepalive{Time: 50 * time.Second}
			}
		})
		client := p.dial()
		_, _ = io.WriteString(client, get)
		if resp, _ := readResponse(t, bufio.NewReader(client), "GET"); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		down := probesIn(t, p.addr, netip.MustParseAddrPort(client.LocalAddr().String()))
		up := probesIn(t, netip.AddrPort{}, netip.MustParseAddrPort(host))
		within := func(got, most time.Duration) bool { return on && got > most/2 && got <= most || !on && got == 0 }
		if !within(down, 100*time.Second) || !within(up, 50*time.Second) {
			t.Errorf("%v: probes come in %s to the client and in %s to the host", on, down, up)
		}
		if !on {
			continue
		}
		p.config.Set(&config.Config{Listeners: []*config.Listener{&served}, Clusters: clusters(cl)})
		p.await("new connections are not probed any more", func() bool {
			conn := p.dial()
			defer conn.Close()
			_, _ = io.WriteString(conn, get)
			_, _ = readResponse(t, bufio.NewReader(conn), "GET")
			return probesIn(t, p.addr, netip.MustParseAddrPort(conn.LocalAddr().String())) == 0
		})
	}
}

// probesIn tells in what time an idle connection is probed, 0 if it is not.
func probesIn(t *testing.T, local, remote netip.AddrPort) time.Duration {
	t.Helper()
	place := func(a netip.AddrPort) string {
		b := a.Addr().As4()
		return fmt.Sprintf("%08X:%04X", binary.LittleEndian.Uint32(b[:]), a.Port())
	}
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[2] != place(remote) || f[3] != "01" || local.IsValid() && f[1] != place(local) {
			continue
		}
		timer, left, _ := strings.Cut(f[5], ":")
		if timer != "02" {
			return 0
		}
		ticks, err := strconv.ParseInt(left, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(ticks) * time.Second / 100
	}
	t.Fatalf("no connection from %s to %s", local, remote)
	return 0
}
