package proxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// reset has the end of a connection be no orderly one.
func reset(conn net.Conn) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok { // a unix socket resets as it is, when something was not read
		_ = tcp.SetLinger(0)
	}
}

// misbehave answers requests as the die falls: well, slowly, in pieces, too short, too early, or with a reset.
func misbehave(conn net.Conn, r *bufio.Reader) {
	for {
		head := readHead(r)
		if head == "" {
			return
		}
		dice := rand.IntN(12)
		if dice == 0 { // before the body
			reset(conn)
			return
		}
		if dice == 1 {
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
			return
		}
		_, after, _ := strings.Cut(head, "Content-Length: ")
		length, _, _ := strings.Cut(after, "\r\n")
		n, _ := strconv.ParseInt(length, 10, 64)
		if _, err := io.CopyN(io.Discard, r, n); err != nil {
			return
		}
		body := strings.Repeat("x", rand.IntN(100_000))
		switch dice {
		case 2:
			return // no answer
		case 3:
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body)+10, body)
			return // cut off
		case 4:
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n\r\n%s", body)
			return
		case 5:
			_, _ = io.WriteString(conn, "nonsense\r\n\r\n")
			return
		case 6:
			time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
			fallthrough
		case 7:
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for len(body) > 0 {
				n := min(len(body), 1+rand.IntN(20_000))
				fmt.Fprintf(conn, "%x\r\n%s\r\n", n, body[:n])
				body = body[n:]
			}
			_, _ = io.WriteString(conn, "0\r\n\r\n")
		case 8:
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
			return
		default:
			answer(conn, body)
		}
	}
}

// bother sends requests as the die falls: whole, in pieces, pipelined, malformed, and goes away at any time.
func bother(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(conn)
	for range 1 + rand.IntN(8) {
		body := strings.Repeat("y", rand.IntN(100_000))
		method := []string{"GET", "POST", "PUT"}[rand.IntN(3)]
		if method == "GET" {
			body = ""
		}
		request := fmt.Sprintf("%s /%d HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: %d\r\n\r\n%s", method, rand.IntN(9), len(body), body)
		switch rand.IntN(10) {
		case 0:
			_, _ = io.WriteString(conn, request[:rand.IntN(len(request))])
			return
		case 1:
			_, _ = io.WriteString(conn, request)
			reset(conn)
			return
		case 2:
			_, _ = io.WriteString(conn, "malformed\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
			return
		case 3:
			_, _ = io.WriteString(conn, request+get)
			_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // for what may be more than comes
			_, _ = io.CopyN(io.Discard, r, int64(rand.IntN(50_000)))
			return
		case 4:
			at := rand.IntN(len(request))
			_, _ = io.WriteString(conn, request[:at])
			time.Sleep(time.Millisecond)
			request = request[at:]
		}
		if _, err := io.WriteString(conn, request); err != nil {
			return
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close {
			return
		}
	}
}

// TestChaosLeavesNothingBehind lets bad clients meet bad backends while the configuration changes, in plaintext and over TLS. Whatever
// they do, when they are gone nothing is counted as active, and every request has its line in the access log.
func TestChaosLeavesNothingBehind(t *testing.T) {
	t.Run("plaintext", func(t *testing.T) { testChaos(t, nil, 40, 200) })
	t.Run("TLS", func(t *testing.T) { testChaos(t, newSafe(t), 20, 20) })
}

func testChaos(t *testing.T, s *safe, changes, least int) {
	onUnix := filepath.Join(shortDir(t), "web")
	acceptRaw(t, listenUnix(t, onUnix), s.backend(misbehave))
	backends := []string{rawBackend(t, s.backend(misbehave)), onUnix, freeAddr(t).String(), onUnix + "missing"}
	cfg := func(i int) *config.Config {
		v := vhost("web.mesh.internal", "web")
		v.Routes[0].Retry = config.Retry{On: config.RetryConnectFailure | config.RetryReset | config.Retry5xx, Max: 3}
		l, c := httpConfig(freeAddr(t), v), cluster("web", backends[:2+i%3]...)
		c.Policy = config.Policy(i % 2)
		if i%4 == 3 {
			c.MaxConnections, c.MaxPending, c.MaxRetries = 3, 5, 1
		}
		s.secure(l, c)
		return &config.Config{Clusters: clusters(c), Listeners: []*config.Listener{l}}
	}
	first := cfg(0)
	p := start(t, first, nil)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if conn, err := net.Dial("tcp", p.addr.String()); err == nil {
					bother(s.client(conn))
				}
			}
		})
	}
	for i := range changes {
		next := cfg(i)
		next.Listeners[0].Addresses = first.Listeners[0].Addresses
		p.config.Set(next)
		time.Sleep(50 * time.Millisecond)
	}
	p.config.Set(first)
	close(stop)
	clients.Wait()
	for _, name := range []string{"http.outbound.downstream_rq_active", "http.outbound.downstream_cx_active", "cluster.web.upstream_rq_active", "cluster.web.upstream_rq_pending_active"} {
		p.waitStat(name, "0")
	}
	total := p.stat("http.outbound.downstream_rq_total")
	if n, _ := strconv.Atoi(total); n < least {
		t.Errorf("only %d requests", n)
	}
	t.Logf("%s requests", total)
	p.stop()
	if lines := strings.Count(p.log.String(), "\n"); strconv.Itoa(lines) != total {
		t.Errorf("%d access-log lines for %s requests", lines, total)
	}
	if strings.Contains(p.log.String(), `HTTP/1.1" 0 - `) {
		t.Error("a request ended without a status and without a reason")
	}
}
