package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestRetriesAfterTheQueue: a request that waited in the queue is given to whichever host is next then. When that one fails, the other
// is tried, and not that one again.
func TestRetriesAfterTheQueue(t *testing.T) {
	held, release, tried := make(chan struct{}), make(chan struct{}), make(chan string, 8)
	host := func(name string) string {
		return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			if strings.HasPrefix(readHead(r), "GET /first ") {
				close(held)
				<-release
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				return
			}
			tried <- name
			_ = conn.(*net.TCPConn).SetLinger(0)
		})
	}
	cl := cluster("web", host("a"), host("b"))
	cl.MaxConnections = 1
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{On: config.RetryReset, Max: 1}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cl)}, oneLoop)
	results := make(chan int, 2)
	ask := func(path string) {
		status, _, _ := p.get(once(), "web.mesh.internal", path)
		results <- status
	}
	go ask("/first")
	<-held
	go ask("/second")
	p.waitStat("cluster.web.upstream_rq_pending_active", "1")
	close(release)
	if first, second := <-tried, <-tried; first == second {
		t.Errorf("the request was sent to host %s twice", first)
	}
	if a, b := <-results, <-results; a+b != 200+503 {
		t.Errorf("statuses %d and %d", a, b)
	}
}

// TestTimeInTheQueueIsNotTheHosts: the time of a try begins when the host has it. A request that waits for a connection for longer is not
// timed out, and the host not blamed.
func TestTimeInTheQueueIsNotTheHosts(t *testing.T) {
	const most = 300 * time.Millisecond
	held, release := make(chan struct{}), make(chan struct{})
	cl := cluster("web", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if strings.HasPrefix(readHead(r), "GET /first ") {
			close(held)
			<-release
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	}))
	cl.MaxConnections = 1
	first, v := vhost("first", "web"), vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{PerTryTimeout: most}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), first, v)}, Clusters: clusters(cl)}, oneLoop)
	results := make(chan int, 2)
	ask := func(host, path string) {
		status, _, _ := p.get(once(), host, path)
		results <- status
	}
	go ask("first", "/first")
	<-held
	go ask("web.mesh.internal", "/second")
	p.waitStat("cluster.web.upstream_rq_pending_active", "1")
	time.Sleep(2 * most)
	close(release)
	if a, b := <-results, <-results; a != 200 || b != 200 {
		t.Errorf("statuses %d and %d", a, b)
	}
	if got := p.stat("cluster.web.upstream_rq_per_try_timeout"); got != "0" {
		t.Errorf("%s tries took too long, want none", got)
	}
}

// TestPendingRequestsAreLimited: of those that wait for connections which do not come about no more wait than may, whether each has a
// connection of its own or all share one. Who is too many is told so at once, and whoever leaves makes room.
func TestPendingRequestsAreLimited(t *testing.T) {
	for _, c := range []struct {
		name        string
		up          config.Protocol
		connections string // for the three that waited
	}{{"a connection each", config.ProtocolHTTP1, "3"}, {"one for all", config.ProtocolHTTP2, "1"}} {
		logged := func(p *testProxy, what string, n int) {
			t.Helper()
			p.await(fmt.Sprintf("the access log tells of %q %d times", what, n), func() bool { return strings.Count(p.log.String(), what) == n })
		}
		limited := func(l *config.Listener, cl *config.Cluster) {
			l.HTTP.Routes.VirtualHosts[0].Routes[0].Retry = config.Retry{}
			unhurried(l, cl)
			cl.ConnectTimeout, cl.MaxConnections, cl.MaxPending = time.Minute, 0, 2
		}
		// waits has two requests wait, of which the second came when the first had left, and a third found no room.
		waits := func(t *testing.T, p *testProxy) [2]net.Conn {
			t.Helper()
			ask := func(waiting string) net.Conn {
				conn := p.dial()
				_, _ = io.WriteString(conn, get)
				p.waitStat("cluster.web.upstream_rq_pending_active", waiting)
				return conn
			}
			refused := func(n int) {
				t.Helper()
				if got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
					t.Errorf("one too many got %q", got)
				}
				p.waitStat("cluster.web.upstream_rq_pending_overflow", strconv.Itoa(n))
				logged(p, " 503 UO ", n)
			}
			first, second := ask("1"), ask("2")
			refused(1)
			first.Close()
			p.waitStat("cluster.web.upstream_rq_pending_active", "1")
			third := ask("2")
			refused(2)
			p.waitStat("cluster.web.upstream_rq_pending_total", "3")
			p.waitStat("cluster.web.upstream_cx_total", c.connections)
			return [2]net.Conn{second, third}
		}
		t.Run(c.name+"/connected", func(t *testing.T) {
			addr, listen := backlogged(t)
			p := start2(t, config.ProtocolHTTP1, c.up, addr, limited)
			waiting := waits(t, p)
			servePlain(t, listen(), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })
			for _, conn := range waiting {
				if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || body != "served" {
					t.Errorf("who waited got %s %q", resp.Status, body)
				}
			}
			p.waitStat("cluster.web.upstream_rq_pending_active", "0")
		})
		t.Run(c.name+"/not connected", func(t *testing.T) {
			p := start2(t, config.ProtocolHTTP1, c.up, fullBacklog(t), func(l *config.Listener, cl *config.Cluster) {
				limited(l, cl)
				cl.ConnectTimeout = time.Second
			})
			for round := range 2 { // as many the second time
				var conns [2]net.Conn
				for i := range conns {
					conns[i] = p.dial()
					_, _ = io.WriteString(conns[i], get)
				}
				for _, conn := range conns {
					if resp, _ := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 503 {
						t.Errorf("round %d: %s", round, resp.Status)
					}
				}
				p.waitStat("cluster.web.upstream_rq_pending_active", "0")
			}
			p.waitStat("cluster.web.upstream_rq_pending_overflow", "0")
			logged(p, " 503 UF", 4)
		})
	}
}
