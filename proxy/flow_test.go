package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestClientAbortReachesTheUpstream(t *testing.T) {
	for _, c := range []struct{ name, request string }{
		{"waiting", get},
		{"sending", "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 10\r\n\r\nx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			begun, ended := make(chan struct{}), make(chan struct{})
			p := startHTTP(t, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				readHead(r)
				close(begun)
				_, _ = io.Copy(io.Discard, r)
				close(ended)
			}))
			conn := p.dial()
			_, _ = io.WriteString(conn, c.request)
			<-begun
			conn.Close()
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Fatal("the upstream still waits")
			}
			p.stop()
			if !strings.Contains(p.log.String(), " 0 DC ") {
				t.Errorf("access log %q", p.log)
			}
		})
	}
}

// TestSlowReadersBoundMemory has clients ask for large bodies and not read them, and upload to upstreams that do not read.
func TestSlowReadersBoundMemory(t *testing.T) {
	stop := make(chan struct{})
	var sent atomic.Int64
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		head := readHead(r)
		if strings.HasPrefix(head, "POST") {
			<-stop
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		chunk := make([]byte, 64<<10)
		for {
			n, err := conn.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	defer close(stop)
	p := startHTTP(t, backend)
	const conns = 20
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range conns {
		conn := p.dial()
		if i%2 == 0 {
			// Many requests at once, none of the answers read.
			_, _ = io.WriteString(conn, strings.Repeat(get, 20))
			continue
		}
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 1000000000\r\n\r\n")
		go func() {
			_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
			chunk := make([]byte, 64<<10)
			for {
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		}()
	}
	last := int64(-1)
	for now := sent.Load(); now != last || now == 0; now = sent.Load() { // until everything stands still
		last = now
		time.Sleep(200 * time.Millisecond)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > conns*300<<10 {
		t.Errorf("the heap grew by %d KiB for %d stalled connections", grown>>10, conns)
	}
}

func TestConfigurationChangesUnderLoad(t *testing.T) {
	named := func(name string) string {
		return server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, name) })
	}
	hosts := []string{named("a"), named("b"), named("c")}
	addr := freeAddr(t)
	v := vhost("web.mesh.internal", "web")
	l := httpConfig(addr, v)
	first := &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", hosts...))}
	p := start(t, first, nil)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var served, failed atomic.Int32
	for range 8 {
		load.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				status, body, err := p.get(client, "web.mesh.internal", "/")
				if status != 200 || err != nil {
					t.Logf("%d %q %v", status, body, err)
					failed.Add(1)
				}
				served.Add(1)
			}
		})
	}
	for i := range 60 {
		cfg := &config.Config{Version: fmt.Sprint(i), Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", hosts[i%3], hosts[(i+1)%3]))}
		if i%2 == 1 { // a new route table, and another cluster
			cfg.Listeners = []*config.Listener{httpConfig(addr, vhost("web.mesh.internal", "other"))}
			cfg.Clusters["other"] = cluster("other", hosts[i%3])
		}
		p.config.Set(cfg)
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	load.Wait()
	if failed.Load() > 0 || served.Load() < 200 {
		t.Errorf("%d of %d requests failed", failed.Load(), served.Load())
	}
}

func TestListenersComeAndGo(t *testing.T) {
	backend := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	a, b := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web")), httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	b.Name = "second"
	c := httpConfig(netip.MustParseAddrPort(taken.Addr().String()), vhost("web.mesh.internal", "web"))
	c.Name = "third"
	cl := clusters(cluster("web", backend))
	p := start(t, &config.Config{Listeners: []*config.Listener{a, c}, Clusters: cl}, nil)
	if status, _, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 || err != nil {
		t.Fatalf("%d %v: one address that is taken must not hinder another", status, err)
	}
	if text := p.adminGet("/listeners"); !strings.Contains(text, "third::"+taken.Addr().String()+"::not bound: ") || !strings.Contains(text, "address already in use") {
		t.Errorf("/listeners says %q", text)
	}
	if n := p.stat("listener_manager.total_listeners_not_bound"); n != "1" {
		t.Errorf("total_listeners_not_bound is %s", n)
	}
	taken.Close()
	p.waitBound(c.Addresses[0]) // it is tried again

	kept := p.dial() // on a
	p.config.Set(&config.Config{Listeners: []*config.Listener{a, b}, Clusters: cl})
	p.waitBound(b.Addresses[0])
	for range 100 {
		if !strings.Contains(p.adminGet("/listeners"), "third") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if conn, err := net.Dial("tcp", c.Addresses[0].String()); err == nil {
		conn.Close()
		t.Error("the address of a removed listener still accepts")
	}
	_, _ = io.WriteString(kept, get)
	if resp, _ := readResponse(t, bufio.NewReader(kept), "GET"); resp.StatusCode != 200 || resp.Close {
		t.Errorf("the connection of a listener that stayed: %s, close %v", resp.Status, resp.Close)
	}
}

func TestHostsThatStayKeepTheirConnections(t *testing.T) {
	var conns atomic.Int32
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		conns.Add(1)
		for readHead(r) != "" {
			answer(conn, "ok")
		}
	})
	addr := freeAddr(t)
	l := httpConfig(addr, vhost("web.mesh.internal", "web"))
	other := server(t, func(http.ResponseWriter, *http.Request) {})
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", backend))}, oneLoop)
	conn := p.dial()
	r := bufio.NewReader(conn)
	for i := range 5 {
		_, _ = io.WriteString(conn, get)
		readResponse(t, r, "GET")
		next := cluster("web", backend)
		if i%2 == 0 {
			next = cluster("web", backend, other)
			next.Endpoints[1].Health = config.Unhealthy
		}
		p.config.Set(&config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(next)})
		p.waitStat("cluster.web.membership_total", fmt.Sprint(len(next.Endpoints)))
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections, want the one kept through all updates", n)
	}
	p.config.Set(&config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", other))})
	p.waitStat("cluster.web.upstream_cx_active", "0") // of the host that left, the idle connection is closed
}

// TestNoDescriptorLeaks runs requests that end in every way and counts the descriptors afterwards.
func TestNoDescriptorLeaks(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	t.Run("run", func(t *testing.T) {
		p := startHTTP(t, freeAddr(t).String(), server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
		for range 20 {
			conn := p.dial()
			_, _ = io.WriteString(conn, get)
			conn.Close()
			p.raw("bad\r\n\r\n")
			_, _, _ = p.get(http.DefaultClient, "web.mesh.internal", "/")
			if resp, err := http.DefaultClient.Do(request(p, "POST", "x")); err == nil {
				resp.Body.Close()
			}
		}
		http.DefaultClient.CloseIdleConnections()
	})
	for range 200 {
		if count() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d descriptors before, %d after", before, count())
}

// TestNoAllocationOnTheHotPath measures the whole process, with a client and a backend that do not allocate either.
func TestNoAllocationOnTheHotPath(t *testing.T) {
	response := []byte("HTTP/1.1 200 OK\r\nContent-Length: 128\r\nDate: x\r\n\r\n" + strings.Repeat("a", 128))
	backend := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
		buf := make([]byte, 4096)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write(response); err != nil {
				return
			}
		}
	})
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))},
		Clusters:  clusters(cluster("web", backend)),
	}, func(o *proxy.Options) { o.AccessLog = io.Discard; o.Loops = 1 })
	conn := p.dial()
	request := []byte("GET /path?query HTTP/1.1\r\nHost: web.mesh.internal\r\nUser-Agent: test\r\nX-Forwarded-For: 10.0.0.1\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4096)
	run := func(n int) {
		for range n {
			_, _ = conn.Write(request)
			for got := 0; !bytes.HasSuffix(buf[:got], []byte("aaaa")) || got < 150; {
				m, err := conn.Read(buf[got:])
				if err != nil {
					t.Fatal(err)
				}
				got += m
			}
		}
	}
	run(500) // everything that is made once
	const n = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(n)
	runtime.ReadMemStats(&after)
	if allocs := after.Mallocs - before.Mallocs; allocs > n/20 {
		t.Errorf("%d allocations for %d requests", allocs, n)
	}
}
