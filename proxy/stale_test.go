package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// forgetful is a host that closes its idle connections just as they are used again, and keeps the requests that met that.
type forgetful struct {
	mu     sync.Mutex
	closed map[string]string // the host by the request's path; guarded by mu
}

func (f *forgetful) serve(name string, conn net.Conn, r *bufio.Reader) {
	readHead(r)
	answer(conn, name)
	if head := readHead(r); head != "" {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.closed[strings.Fields(head)[1]] = name
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
}

// TestStaleConnectionsKeepTheHost: a request that met a pooled connection whose host had closed it is sent again to that host,
// whatever the policy: sessions stay where they are.
func TestStaleConnectionsKeepTheHost(t *testing.T) {
	for name, policy := range map[string]config.Policy{
		"ring hash": config.RingHash, "maglev": config.Maglev, "round robin": config.RoundRobin, "least request": config.LeastRequest, "random": config.Random,
	} {
		t.Run(name, func(t *testing.T) {
			hosts := &forgetful{closed: map[string]string{}}
			var addrs []string
			for i := range 4 {
				addrs = append(addrs, rawBackend(t, func(conn net.Conn, r *bufio.Reader) { hosts.serve(fmt.Sprint("host ", i), conn, r) }))
			}
			c := cluster("web", addrs...)
			c.Policy = policy
			v := plain("web")
			v.Routes[0].Hash = []config.HashPolicy{{Header: "x-user"}}
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(c)}, oneLoop)
			conn := p.dial()
			r := bufio.NewReader(conn)
			by := map[string]string{}
			const users, requests = 5, 60
			for i := range requests {
				path := fmt.Sprint("/", i)
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: web.mesh.internal\r\nx-user: %d\r\n\r\n", path, i%users)
				resp, body := readResponse(t, r, "GET")
				if resp.StatusCode != 200 {
					t.Fatalf("request %d: %s %q", i, resp.Status, body)
				}
				by[path] = body
				hashes := policy == config.RingHash || policy == config.Maglev
				if first := by[fmt.Sprint("/", i%users)]; hashes && body != first {
					t.Errorf("request %d is served by %s, those of its user before by %s", i, body, first)
				}
			}
			if hosts.mu.Lock(); len(hosts.closed) < requests/4 {
				t.Errorf("only %d requests met a closed connection", len(hosts.closed))
			}
			for path, host := range hosts.closed {
				if by[path] != host {
					t.Errorf("%s was closed by %s and served by %s", path, host, by[path])
				}
			}
			hosts.mu.Unlock()
			p.waitStat("cluster.web.upstream_rq_retry", "0")
		})
	}
}

// TestStaleConnectionOfAHostThatIsGone: when the host of such a connection takes no other one, another host serves the request; it
// has reached nobody.
func TestStaleConnectionOfAHostThatIsGone(t *testing.T) {
	hosts := &forgetful{closed: map[string]string{}}
	var addrs []string
	for i := range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, l.Addr().String())
		acceptRaw(t, l, func(conn net.Conn, r *bufio.Reader) {
			l.Close() // the first is the last
			hosts.serve(fmt.Sprint("host ", i), conn, r)
		})
	}
	c := cluster("web", addrs...)
	c.Policy = config.RingHash
	v := plain("web")
	v.Routes[0].Hash = []config.HashPolicy{{Header: "x-user"}}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(c)}, oneLoop)
	conn := p.dial()
	r := bufio.NewReader(conn)
	var by []string
	for range 2 {
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nx-user: a\r\n\r\n")
		resp, body := readResponse(t, r, "GET")
		by = append(by, resp.Status+" "+body)
	}
	if !strings.HasPrefix(by[0], "200 OK host ") || !strings.HasPrefix(by[1], "200 OK host ") || by[0] == by[1] {
		t.Errorf("served: %q", by)
	}
}
