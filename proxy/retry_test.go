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

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// resetting is a backend that reads a request and closes without an answer.
func resetting(t testing.TB, seen *atomic.Int32) string {
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if readHead(r) != "" {
			seen.Add(1)
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
	})
}

func ok(t testing.TB) string {
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
		_, _ = io.WriteString(w, "ok")
	})
}

func TestConnectFailureGoesToAnotherHost(t *testing.T) {
	dead := freeAddr(t).String()
	p := startHTTP(t, dead, ok(t))
	for i := range 20 {
		resp, err := http.DefaultClient.Do(request(p, "POST", fmt.Sprint("body", i)))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != fmt.Sprint("body", i, "ok") {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
	}
	if n := p.stat("cluster.web.upstream_rq_retry_success"); n == "0" {
		t.Error("nothing was retried")
	}
}

func request(p *testProxy, method, body string) *http.Request {
	req, _ := http.NewRequest(method, "http://"+p.addr.String()+"/", strings.NewReader(body))
	req.Host = "web.mesh.internal"
	return req
}

func TestAllHostsDown(t *testing.T) {
	p := startHTTP(t, freeAddr(t).String(), freeAddr(t).String(), freeAddr(t).String(), freeAddr(t).String())
	status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/")
	if status != 503 || err != nil || !strings.HasPrefix(body, "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure") {
		t.Errorf("%d %q %v", status, body, err)
	}
	p.stop()
	if !strings.Contains(p.log.String(), " 503 URX,UF ") {
		t.Errorf("access log %q", p.log)
	}
	if n := strings.Count(p.log.String(), "\n"); n != 1 {
		t.Errorf("%d lines for one request", n)
	}
}

func TestResetIsRetriedOnlyIfIdempotent(t *testing.T) {
	for _, c := range []struct {
		method, body string
		status       int
	}{
		{"GET", "", 200},
		{"PUT", "again", 200},
		{"DELETE", "", 200},
		{"POST", "once", 503},
		{"PATCH", "once", 503},
	} {
		t.Run(c.method, func(t *testing.T) {
			var bad atomic.Int32
			p := startHTTP(t, resetting(t, &bad), ok(t))
			failed := 0
			for range 6 {
				resp, err := http.DefaultClient.Do(request(p, c.method, c.body))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode == 200 && string(body) != c.body+"ok" {
					t.Errorf("body %q", body)
				}
				if resp.StatusCode != 200 {
					failed++
				}
			}
			if bad.Load() == 0 {
				t.Fatal("the resetting backend was never tried")
			}
			if want := c.status != 200; want != (failed > 0) {
				t.Errorf("%d of 6 failed with %d seen by the resetting backend", failed, bad.Load())
			}
			if c.status != 200 && int32(failed) != bad.Load() {
				t.Errorf("%d failed, but the backend saw %d requests: one was repeated", failed, bad.Load())
			}
		})
	}
}

func TestStaleConnectionIsReplacedWithoutPolicy(t *testing.T) {
	// Each connection serves one request and is closed when the second arrives: the race of an idle timeout.
	var conns atomic.Int32
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		conns.Add(1)
		readHead(r)
		answer(conn, "ok")
		_, _ = r.Peek(1)
		_ = conn.(*net.TCPConn).SetLinger(0)
	})
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cluster("web", backend))}, nil)
	conn := p.dial()
	r := bufio.NewReader(conn)
	for i := range 10 {
		_, _ = io.WriteString(conn, get)
		if resp, body := readResponse(t, r, "GET"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("request %d: %s %q", i, resp.Status, body)
		}
	}
}

// TestClosedIdleConnectionIsNotUsedForPOST: the backend closes its idle connection just before the next request, and the
// loop meets the request first. A POST cannot be sent twice, so it must not be sent there at all.
func TestClosedIdleConnectionIsNotUsedForPOST(t *testing.T) {
	end, ended := make(chan struct{}), make(chan struct{})
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if readHead(r) == "" {
			return
		}
		_, _ = io.CopyN(io.Discard, r, 4)
		answer(conn, "ok")
		if _, more := <-end; more {
			closeSeen(t, conn)
			ended <- struct{}{}
		}
	})
	defer close(end)
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(cluster("web", backend)),
	}, oneLoop)
	conn := p.dial()
	r := bufio.NewReader(conn)
	const post = "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 4\r\n\r\nbody"
	_, _ = io.WriteString(conn, post)
	for i := range 10 {
		if resp, body := readResponse(t, r, "POST"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("request %d: %s %q", i, resp.Status, body)
		}
		release := p.Hold()
		_, _ = io.WriteString(conn, post)
		end <- struct{}{}
		<-ended
		release()
	}
}

// closeSeen closes one direction of a connection and waits until the peer's kernel has acknowledged that.
func closeSeen(t *testing.T, conn net.Conn) {
	tcp := conn.(*net.TCPConn)
	_ = tcp.CloseWrite()
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	const finWait2 = 5 // the state of Linux's tcp_info
	for acknowledged := false; !acknowledged; time.Sleep(time.Millisecond) {
		if err := raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			acknowledged = err != nil || info.State >= finWait2
		}); err != nil {
			t.Error(err)
			return
		}
	}
}

func TestRetryOnStatus(t *testing.T) {
	var tries atomic.Int32
	bad := server(t, func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		http.Error(w, "no", http.StatusServiceUnavailable)
	})
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{On: config.RetryGatewayError, Max: 3}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cluster("web", bad, ok(t)))}, nil)
	for range 6 {
		if status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 || body != "ok" || err != nil {
			t.Errorf("%d %q %v", status, body, err)
		}
	}
	if tries.Load() == 0 {
		t.Error("the bad host was never tried")
	}
}

func TestPerTryTimeoutIsRetried(t *testing.T) {
	slow := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 2, PerTryTimeout: 50 * time.Millisecond}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cluster("web", slow, ok(t)))}, nil)
	for range 4 {
		if status, _, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 || err != nil {
			t.Errorf("%d %v", status, err)
		}
	}
}

func TestConnectTimeout(t *testing.T) {
	c := cluster("web", fullBacklog(t))
	c.ConnectTimeout = 100 * time.Millisecond
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(c)}, nil)
	status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/")
	if status != 503 || !strings.HasSuffix(body, "reset reason: connection timeout") || err != nil {
		t.Errorf("%d %q %v", status, body, err)
	}
}

// TestCircuitBreakers: of requests at once no more pass than may, whatever both sides speak, and who is too many is told so.
func TestCircuitBreakers(t *testing.T) {
	const all, busy = 5, 2
	for _, c := range []struct {
		name   string
		change func(*config.Cluster)
		pass   int // of all, of which busy are with the host first
		conns  map[config.Protocol]string
	}{
		{"requests", func(c *config.Cluster) { c.MaxRequests = busy }, 2, map[config.Protocol]string{config.ProtocolHTTP1: "2", config.ProtocolHTTP2: "1"}},
		{"connections and pending", func(c *config.Cluster) { c.MaxConnections, c.MaxPending, c.HTTP2.MaxStreams = busy, 1, 1 }, 3, map[config.Protocol]string{config.ProtocolHTTP1: "2", config.ProtocolHTTP2: "2"}},
	} {
		for _, pair := range pairings {
			t.Run(c.name+"/"+pair.name, func(t *testing.T) {
				release := make(chan struct{})
				var seen atomic.Int32
				host := plainServer(t, func(http.ResponseWriter, *http.Request) { seen.Add(1); <-release })
				p := start2(t, pair.down, pair.up, host, func(_ *config.Listener, cl *config.Cluster) { c.change(cl) })
				client := p.plainClient(pair.down)
				results := make(chan int, all)
				for i := range all {
					go func() {
						status, _, _ := p.get(client, "web.mesh.internal", "/")
						results <- status
					}()
					p.await("it is with the host, waits or is refused", func() bool {
						return int(seen.Load()) == min(i+1, busy) && (i < busy || p.count("cluster.web.upstream_rq_pending_active")+len(results) == i+1-busy)
					})
				}
				for range all - c.pass {
					if status := <-results; status != 503 {
						t.Errorf("status %d, want 503", status)
					}
				}
				close(release)
				for range c.pass {
					if status := <-results; status != 200 {
						t.Errorf("status %d, want 200", status)
					}
				}
				p.waitStat("cluster.web.upstream_cx_total", c.conns[pair.up])
				client.CloseIdleConnections()
				p.stop()
				if n := strings.Count(p.log.String(), " 503 UO "); n != all-c.pass {
					t.Errorf("%d lines with UO in %q", n, p.log)
				}
			})
		}
	}
}
