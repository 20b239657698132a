package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestAttemptsToConnect: a TCP connection is offered to as many hosts as max_connect_attempts says, by default to one, each of them once while
// there is another; that the last one failed is counted and in the access log. Hosts on unix sockets refuse at once, others later.
func TestAttemptsToConnect(t *testing.T) {
	dir := shortDir(t)
	var refusing [2][]string
	for i := range 4 {
		refusing[0] = append(refusing[0], freeAddr(t).String())
		refusing[1] = append(refusing[1], filepath.Join(dir, strconv.Itoa(i)))
	}
	for kind, hosts := range refusing {
		for _, c := range []struct{ attempts, made int }{{0, 1}, {1, 1}, {2, 2}, {4, 4}, {6, 6}} {
			t.Run(fmt.Sprintf("kind %d, %d attempts", kind, c.attempts), func(t *testing.T) {
				p := startAttempts(t, c.attempts, hosts...)
				conn, err := net.Dial("tcp", p.addr.String())
				if err == nil {
					_, err = io.ReadAll(conn)
					conn.Close()
				}
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %v, want a reset", err)
				}
				p.waitStat("cluster.web.upstream_cx_connect_fail", strconv.Itoa(c.made))
				p.waitStat("cluster.web.upstream_cx_connect_attempts_exceeded", "1")
				all := p.adminGet("/clusters")
				if met := strings.Count(all, "::cx_connect_fail::"); met != len(hosts) {
					t.Fatalf("%d hosts in\n%s", met, all)
				}
				if spared := strings.Count(all, "::cx_connect_fail::0\n"); spared != len(hosts)-min(c.made, len(hosts)) {
					t.Errorf("%d attempts spared %d hosts", c.made, spared)
				}
				p.stop()
				if !strings.Contains(p.log.String(), " UF,URX ") {
					t.Errorf("access log %q", p.log)
				}
			})
		}
	}
	t.Run("the last one answers", func(t *testing.T) {
		good := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) { _, _ = io.WriteString(conn, "hello") })
		p := startAttempts(t, 3, refusing[0][0], refusing[1][0], good)
		for range 9 {
			if got := p.raw(""); got != "hello" {
				t.Errorf("got %q", got)
			}
		}
		if got := p.stat("cluster.web.upstream_cx_connect_attempts_exceeded"); got != "0" {
			t.Errorf("%s connections reached nobody", got)
		}
	})
}

func startAttempts(t *testing.T, attempts int, hosts ...string) *testProxy {
	t.Helper()
	l := &config.Listener{Name: "tcp", Addresses: []netip.AddrPort{freeAddr(t)}, TCP: &config.TCP{
		StatPrefix: "tcp", Attempts: uint32(attempts), Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}, IdleTimeout: time.Minute,
		AccessLogs: []config.AccessLog{{Path: "/dev/stdout"}},
	}}
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", hosts...))}, nil)
}
