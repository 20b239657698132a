package proxy_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// backendsAt starts backends that answer with their address, on several addresses of this host and one port.
func backendsAt(t *testing.T, ips ...string) (port int) {
	t.Helper()
	handler := func(ip string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, ip) })
	}
	for range 20 {
		port = int(freeAddr(t).Port())
		var listeners []net.Listener
		for _, ip := range ips {
			l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
			if err != nil {
				break // somebody else has that port there
			}
			listeners = append(listeners, l)
		}
		if len(listeners) < len(ips) {
			for _, l := range listeners {
				l.Close()
			}
			continue
		}
		for i, l := range listeners {
			s := &http.Server{Handler: handler(ips[i])}
			done := make(chan struct{})
			go func() { defer close(done); _ = s.Serve(l) }()
			t.Cleanup(func() { s.Close(); <-done })
		}
		return port
	}
	t.Fatal("no port is free on all addresses")
	return 0
}

// byName is a cluster of names that one server knows.
func byName(server string, port int, logical bool, hosts ...string) *config.Cluster {
	c := cluster("web")
	c.DNS = &config.DNS{Logical: logical, Refresh: 20 * time.Millisecond, Lookup: config.DNSLookup{
		Family: config.DNSV4Only, Servers: []netip.AddrPort{netip.MustParseAddrPort(server)}, AsIs: true, Timeout: 5 * time.Second, Tries: 2, UDPBytes: 1232,
	}}
	for _, host := range hosts {
		c.DNS.Names = append(c.DNS.Names, config.DNSName{Host: host, Port: uint16(port), As: config.Endpoint{Hostname: host, Weight: 1}})
	}
	return c
}

// answering is who answers some requests.
func (p *testProxy) answering() string {
	p.t.Helper()
	var by []string
	for range 12 {
		status, body, err := p.get(http.DefaultClient, "web", "/")
		if err != nil {
			p.t.Fatal(err)
		}
		if status != http.StatusOK {
			body = strconv.Itoa(status)
		}
		if !slices.Contains(by, body) {
			by = append(by, body)
		}
	}
	slices.Sort(by)
	return strings.Join(by, " ")
}

// awaitAnswering waits until the requests are answered by these.
func (p *testProxy) awaitAnswering(want string) {
	p.t.Helper()
	got := ""
	for range 500 {
		if got = p.answering(); got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("answered by %s, want %s\n%s", got, want, p.adminGet("/clusters"))
}

// TestStrictDNSFollowsTheZone: every address of every name is an endpoint, as BIND has them; what it does not say any more
// is not used, and while it is away nothing changes.
func TestStrictDNSFollowsTheZone(t *testing.T) {
	named := testbed.StartNamed(t)
	named.Update(t, "add a.test.example. 1 A 127.20.0.1", "add a.test.example. 1 A 127.20.0.2", "add b.test.example. 1 CNAME c.test.example.", "add c.test.example. 1 A 127.20.0.3")
	port := backendsAt(t, "127.20.0.1", "127.20.0.2", "127.20.0.3", "127.20.0.4")
	c := byName(named.Address, port, false, "a.test.example", "b.test.example")
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web", "web"))}, Clusters: clusters(c)}, nil)
	p.awaitAnswering("127.20.0.1 127.20.0.2 127.20.0.3")
	if got := p.adminGet("/clusters"); !strings.Contains(got, fmt.Sprintf("web::127.20.0.3:%d::hostname::b.test.example\n", port)) {
		t.Errorf("got\n%s", got)
	}

	named.Update(t, "delete a.test.example. A 127.20.0.1", "add c.test.example. 1 A 127.20.0.4")
	p.awaitAnswering("127.20.0.2 127.20.0.3 127.20.0.4")
	named.Update(t, "delete a.test.example.")
	p.awaitAnswering("127.20.0.3 127.20.0.4")

	named.Kill()
	failed := p.count("cluster.web.update_failure")
	p.await("a lookup fails", func() bool { return p.count("cluster.web.update_failure") > failed })
	if got := p.answering(); got != "127.20.0.3 127.20.0.4" {
		t.Errorf("without the server: answered by %s", got)
	}
	for _, name := range []string{"update_attempt", "update_success", "update_empty", "update_no_rebuild"} {
		if p.count("cluster.web."+name) == 0 {
			t.Errorf("%s is not counted", name)
		}
	}
}

// count is the value of a counter.
func (p *testProxy) count(name string) int {
	n, err := strconv.Atoi(p.stat(name))
	if err != nil {
		p.t.Fatalf("%s: %v", name, err)
	}
	return n
}

func (p *testProxy) await(what string, holds func() bool) {
	p.t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("it never comes to pass that %s", what)
}

// TestLogicalDNSMovesNewConnectionsOnly: a request that is under way ends where it began, and the next connection goes to
// the new address.
func TestLogicalDNSMovesNewConnectionsOnly(t *testing.T) {
	named := testbed.StartNamed(t)
	named.Update(t, "add web.test.example. 1 A 127.20.0.1")
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	t.Cleanup(func() { once.Do(func() { close(release) }) })
	var lines []net.Listener
	port := int(freeAddr(t).Port())
	for _, ip := range []string{"127.20.0.1", "127.20.0.2"} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	var all sync.WaitGroup
	for i, l := range lines {
		all.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				all.Go(func() {
					defer conn.Close()
					head := readHead(bufio.NewReader(conn))
					if i == 0 && strings.HasPrefix(head, "GET /first ") {
						close(arrived)
						<-release
					}
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(l.Addr().String()), l.Addr())
				})
			}
		})
	}
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web", "web"))},
		Clusters:  clusters(byName(named.Address, port, true, "web.test.example")),
	}, func(o *proxy.Options) { o.Loops = 1 })
	t.Cleanup(func() {
		for _, l := range lines {
			l.Close()
		}
		p.stop() // ends the connections to them
		all.Wait()
	})
	first := make(chan string, 1)
	all.Go(func() {
		_, body, err := p.get(http.DefaultClient, "web", "/first")
		first <- fmt.Sprint(body, err)
	})
	<-arrived
	named.Update(t, "delete web.test.example. A", "add web.test.example. 1 A 127.20.0.2")
	p.await("the host is elsewhere", func() bool { return strings.Contains(p.adminGet("/clusters"), "web::127.20.0.2:") })
	moved := 0
	p.await("a new request goes there", func() bool { // the configuration is ahead of the loops
		_, body, err := p.get(http.DefaultClient, "web", "/")
		if err != nil {
			t.Fatal(err)
		}
		moved++
		return body == lines[1].Addr().String()
	})
	once.Do(func() { close(release) })
	if got := <-first; got != lines[0].Addr().String()+"<nil>" {
		t.Errorf("the first request: got %s", got)
	}
	if got, want := p.adminGet("/clusters"), fmt.Sprintf("web::%s::cx_total::%d\n", lines[1].Addr(), 1+moved); !strings.Contains(got, want) {
		t.Errorf("the host did not keep its state: got %s, want in it %s", got, want)
	}
	p.waitStat("cluster.web.membership_total", "1")
}
