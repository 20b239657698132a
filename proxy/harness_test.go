package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// freeAddr returns a loopback address that nobody listens on at the moment.
func freeAddr(t testing.TB) netip.AddrPort {
	t.Helper()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(testbed.FreePort(t)))
}

// testProxy is a running proxy with one HTTP listener.
type testProxy struct {
	*proxy.Proxy
	t      testing.TB
	config *watch.Value[*config.Config]
	addr   netip.AddrPort
	log    *lockedBuffer
	stop   func() // ends Run's context and waits for it
	cancel func()
	done   chan struct{}
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// httpConfig is a listener on addr that sends the hosts of routes to clusters.
func httpConfig(addr netip.AddrPort, vhosts ...*config.VirtualHost) *config.Listener {
	return &config.Listener{Name: "outbound", Addresses: []netip.AddrPort{addr}, HTTP: &config.HTTP{
		StatPrefix: "outbound", Routes: &config.RouteTable{Name: "outbound", VirtualHosts: vhosts},
		RequestHeadersTimeout: 2 * time.Second, StreamIdleTimeout: 10 * time.Second, IdleTimeout: time.Minute, DelayedCloseTimeout: time.Second,
		MaxRequestHeadBytes: 60 << 10, MaxRequestHeaders: 100, UseRemoteAddress: true, GenerateRequestID: true,
		ServerName: "envoy", Upgrades: []string{"websocket"}, AccessLogs: []config.AccessLog{{Path: "/dev/stdout"}},
	}}
}

// vhost routes everything for a host to a cluster.
func vhost(domain, cluster string) *config.VirtualHost {
	return &config.VirtualHost{Name: domain, Domains: []string{domain, domain + ":*"}, Routes: []*config.Route{{
		Path: "/", Clusters: []config.WeightedCluster{{Name: cluster, Weight: 1}}, Timeout: 5 * time.Second,
		Retry: config.Retry{On: config.RetryConnectFailure | config.RetryReset, Max: 2},
	}}}
}

// cluster has a host at each address, which is one of TCP or the path of a unix socket.
func cluster(name string, addrs ...string) *config.Cluster {
	c := &config.Cluster{Name: name, ConnectTimeout: time.Second, PanicThreshold: 50, IdleTimeout: time.Minute, Assigned: true}
	for _, a := range addrs {
		at := config.Address{Path: a}
		if a[0] != '/' && a[0] != '@' {
			at = config.Address{IP: netip.MustParseAddrPort(a)}
		}
		c.Endpoints = append(c.Endpoints, &config.Endpoint{Addr: at, Weight: 1})
	}
	return c
}

func clusters(all ...*config.Cluster) map[string]*config.Cluster {
	m := map[string]*config.Cluster{}
	for _, c := range all {
		m[c.Name] = c
	}
	return m
}

// goroutines returns the stacks of those that a running proxy started, and those started: all bear its label.
func goroutines(label string) (stacks []string) {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		panic(err)
	}
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, strconv.Quote(label)) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// start runs a proxy with a configuration and waits until its listeners are bound. The test fails if goroutines are left.
func start(t testing.TB, cfg *config.Config, change func(*proxy.Options)) *testProxy {
	t.Helper()
	label := fmt.Sprintf("%s on %d", t.Name(), time.Now().UnixNano())
	p := &testProxy{t: t, config: watch.New(cfg), log: &lockedBuffer{}, done: make(chan struct{})}
	opts := proxy.Options{Config: p.config, Admin: "127.0.0.1:0", Loops: 2, DrainTime: 5 * time.Second, AccessLog: p.log, Version: "test"}
	if change != nil {
		change(&opts)
	}
	var err error
	if p.Proxy, err = proxy.New(opts); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go pprof.Do(ctx, pprof.Labels("proxy", label), func(ctx context.Context) {
		defer close(p.done)
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	p.cancel = cancel
	p.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			buf := make([]byte, 1<<20)
			t.Errorf("Run did not return:\n%s", buf[:runtime.Stack(buf, true)])
		}
	})
	t.Cleanup(func() {
		p.stop()
		http.DefaultClient.CloseIdleConnections()
		var left []string
		for range 1000 {
			if left = goroutines(label); len(left) == 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("goroutines left:\n%s", strings.Join(left, "\n\n"))
	})
	if len(cfg.Listeners) > 0 {
		p.addr = cfg.Listeners[0].Addresses[0]
		p.waitBound(p.addr)
		if len(goroutines(label)) == 0 {
			t.Fatalf("no goroutine has the label %q: none that is left would be found", label)
		}
	}
	return p
}

func (p *testProxy) waitBound(addr netip.AddrPort) {
	p.t.Helper()
	for range 500 {
		if strings.Contains(p.adminGet("/listeners"), addr.String()+"\n") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Fatalf("%s is not bound: %s", addr, p.adminGet("/listeners"))
}

func (p *testProxy) adminGet(path string) string {
	p.t.Helper()
	resp, err := http.Get("http://" + p.AdminAddr() + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// stat is the value of one line of /stats.
func (p *testProxy) stat(name string) string {
	p.t.Helper()
	for line := range strings.Lines(p.adminGet("/stats")) {
		if rest, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "missing"
}

// waitStat waits until a figure has a value.
func (p *testProxy) waitStat(name, want string) {
	p.t.Helper()
	got := ""
	for range 300 {
		if got = p.stat(name); got == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Errorf("%s is %s, want %s", name, got, want)
}

// dial opens a raw connection to the proxy.
func (p *testProxy) dial() net.Conn {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.addr.String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// raw sends text on a connection of its own and returns all that comes back until the proxy closes it.
func (p *testProxy) raw(text string) string {
	p.t.Helper()
	conn := p.dial()
	if _, err := io.WriteString(conn, text); err != nil {
		p.t.Fatal(err)
	}
	data, err := io.ReadAll(conn)
	if err != nil {
		p.t.Fatalf("read after %q: %v", data, err)
	}
	return string(data)
}

// get sends a GET for host and returns status and body.
func (p *testProxy) get(client *http.Client, host, path string) (int, string, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+p.addr.String()+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// rawBackend accepts connections and has each served by handle.
func rawBackend(t testing.TB, handle func(conn net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	acceptRaw(t, l, handle)
	return l.Addr().String()
}

// acceptRaw does that at a listener.
func acceptRaw(t testing.TB, l net.Listener, handle func(conn net.Conn, r *bufio.Reader)) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				handle(conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
}

// readHead reads a head with its empty line; "" at the end of the connection.
func readHead(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return ""
		}
		b.WriteString(line)
		if line == "\r\n" {
			return b.String()
		}
	}
}

// answer writes a response with a body of known length.
func answer(w io.Writer, body string) {
	fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}
