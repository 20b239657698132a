package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// direct is a listener that answers everything itself.
func direct(addr netip.AddrPort) *config.Listener {
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: "hello"}
	return httpConfig(addr, v)
}

// ofListener is the name of a listener's figure.
func (p *testProxy) ofListener(name string) string {
	return "listener." + strings.ReplaceAll(p.addr.String(), ":", "_") + "." + name
}

// closedAtOnce reports whether the proxy closes a connection on which nothing was sent.
func closedAtOnce(t *testing.T, conn net.Conn, within time.Duration) bool {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(within))
	_, err := conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
	return true
}

// TestConnectionLimitsAreExact: of many connections that come at the same time to several loops exactly as many are served
// as may be, whichever limit it is, and those that are closed make room.
func TestConnectionLimitsAreExact(t *testing.T) {
	const most, attempts = 7, 60
	addr := freeAddr(t)
	plain := direct(addr)
	chained := direct(addr)
	chained.Chains = []*config.FilterChain{{HTTP: chained.HTTP, Limit: &config.ConnectionLimit{StatPrefix: "few", Max: most}}}
	chained.HTTP = nil
	for _, c := range []struct {
		name     string
		listener *config.Listener
		overload *config.Overload
		refused  func(p *testProxy) string
		active   func(p *testProxy) string
	}{
		{
			"listener", plain, &config.Overload{MaxListenerConnections: map[string]uint64{"outbound": most, "other": 1}},
			func(p *testProxy) string { return p.ofListener("downstream_cx_overflow") }, func(*testProxy) string { return "server.total_connections" },
		},
		{
			"all", plain, &config.Overload{MaxConnections: most},
			func(p *testProxy) string { return p.ofListener("downstream_global_cx_overflow") }, func(*testProxy) string { return "server.total_connections" },
		},
		{
			"chain", chained, nil,
			func(*testProxy) string { return "connection_limit.few.limited_connections" }, func(*testProxy) string { return "connection_limit.few.active_connections" },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, &config.Config{Listeners: []*config.Listener{c.listener}}, func(o *proxy.Options) { o.Loops, o.Overload = 3, c.overload })
			{
				conns := make(chan net.Conn, attempts)
				var all sync.WaitGroup
				for range attempts {
					all.Go(func() {
						conn, err := net.Dial("tcp", p.addr.String())
						if err != nil {
							t.Error(err)
							return
						}
						conns <- conn
					})
				}
				all.Wait()
				close(conns)
				p.waitStat(c.active(p), strconv.Itoa(most))
				served, refused := 0, 0
				var held []net.Conn
				defer func() {
					for _, conn := range held {
						conn.Close()
					}
				}()
				for conn := range conns {
					_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
					_, _ = io.WriteString(conn, get)
					if n, _ := conn.Read(make([]byte, 1)); n == 1 {
						served++
					} else {
						refused++
					}
					held = append(held, conn)
				}
				if served != most || refused != attempts-most {
					t.Errorf("served %d, refused %d, want %d and %d", served, refused, most, attempts-most)
				}

			}
			p.waitStat(c.refused(p), strconv.Itoa(attempts-most))
		})
	}
}

// TestConnectionsMakeRoom: whoever leaves lets another in, and a limit that comes later counts those that are there.
func TestConnectionsMakeRoom(t *testing.T) {
	l := direct(freeAddr(t))
	limited := func(most uint64) *config.Listener {
		next := *l
		next.Chains, next.HTTP = []*config.FilterChain{{HTTP: l.HTTP, Limit: &config.ConnectionLimit{StatPrefix: "few", Max: most}}}, nil
		return &next
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{limited(100)}}, nil)
	var conns []net.Conn
	for range 4 {
		conns = append(conns, p.dial())
	}
	p.waitStat("connection_limit.few.active_connections", "4")
	p.config.Set(&config.Config{Listeners: []*config.Listener{limited(3)}})
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn := p.dial()
		if closedAtOnce(t, conn, 500*time.Millisecond) {
			break
		}
		conn.Close() // it came before the new limit
		if time.Now().After(deadline) {
			t.Fatal("the new limit does not count")
		}
	}
	conns[0].Close()
	conns[1].Close()
	p.waitStat("connection_limit.few.active_connections", "2")
	conn := p.dial()
	_, _ = io.WriteString(conn, get)
	if n, err := conn.Read(make([]byte, 1)); n != 1 {
		t.Errorf("a connection for which there is room: %v", err)
	}
	p.waitStat("connection_limit.few.active_connections", "3")
}

// TestLimitWithDelay: a connection too many is held for a while, so that who tries again at once is slowed down, and ends with
// the proxy.
func TestLimitWithDelay(t *testing.T) {
	l := direct(freeAddr(t))
	l.Chains, l.HTTP = []*config.FilterChain{{HTTP: l.HTTP, Limit: &config.ConnectionLimit{StatPrefix: "few", Max: 1, Delay: 300 * time.Millisecond}}}, nil
	p := start(t, &config.Config{Listeners: []*config.Listener{l}}, nil)
	first := p.dial()
	_, _ = io.WriteString(first, get)
	_, _ = first.Read(make([]byte, 1))
	began := time.Now()
	if !closedAtOnce(t, p.dial(), 5*time.Second) {
		t.Error("a connection too many is not closed")
	}
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("it was closed after %v", took)
	}
	p.dial()
	p.waitStat("connection_limit.few.limited_connections", "2")
	p.waitStat("connection_limit.few.active_connections", "1")
}

// perLoop are the connections that each loop has.
func (p *testProxy) perLoop(loops int) []int {
	p.t.Helper()
	var out []int
	for i := range loops {
		n, err := strconv.Atoi(p.stat(p.ofListener("worker_" + strconv.Itoa(i) + ".downstream_cx_active")))
		if err != nil {
			p.t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// TestFewConnectionsAreSpreadOverTheLoops, whichever the kernel chose.
func TestFewConnectionsAreSpreadOverTheLoops(t *testing.T) {
	for _, how := range []config.Balance{config.BalanceDefault, config.BalanceExact} {
		l := direct(freeAddr(t))
		l.Balance = how
		p := start(t, &config.Config{Listeners: []*config.Listener{l}}, nil)
		for range 8 {
			conn := p.dial()
			_, _ = io.WriteString(conn, get)
			if n, err := conn.Read(make([]byte, 1)); n != 1 {
				t.Fatal(err)
			}
		}
		if n := p.perLoop(2); n[0]+n[1] != 8 || n[0] < 3 || n[0] > 5 {
			t.Errorf("balance %d: the loops have %v connections, want 4 and 4", how, n)
		}
	}
}

// TestShortConnectionsAreNotMoved: to wake another loop for each would cost more than it brings.
func TestShortConnectionsAreNotMoved(t *testing.T) {
	p := start(t, &config.Config{Listeners: []*config.Listener{direct(freeAddr(t))}}, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 250 {
				conn, err := net.Dial("tcp", p.addr.String())
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}
		})
	}
	all.Wait()
	moved, err := strconv.Atoi(p.stat(p.ofListener("downstream_cx_rebalanced")))
	if err != nil || moved > 30 {
		t.Errorf("%d of 1,000 connections were moved (%v), want next to none", moved, err)
	}
	p.waitStat("server.total_connections", "0")
}

// TestOverloadShedsAndHeals: as the pressure rises requests are refused, connections are not kept, then none is accepted;
// those that wait are served when it has fallen.
func TestOverloadShedsAndHeals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pressure")
	press := func(v string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(v+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	press("0")
	at := func(v float64) []config.OverloadTrigger {
		return []config.OverloadTrigger{{Resource: config.ResourceInjected, From: v, To: v}}
	}
	l := direct(freeAddr(t))
	l.HTTP.AccessLogs[0].Format = &config.LogFormat{Text: " %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}}, func(o *proxy.Options) {
		o.Overload = &config.Overload{Interval: 5 * time.Millisecond, Injected: file, Actions: []config.OverloadAction{
			{Kind: config.ShedKeepAlive, Triggers: at(0.5)},
			{Kind: config.ShedRequests, Triggers: at(0.6)},
			{Kind: config.ShedAccepting, Triggers: at(0.7)},
			{Kind: config.ShedConnections, Triggers: at(0.8)},
		}}
	})
	active := func(action, want string) {
		t.Helper()
		p.waitStat("overload.envoy.overload_actions."+action+".active", want)
	}
	if got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("without pressure: got %q", got)
	}
	press("0.55")
	active("disable_http_keepalive", "1")
	if got := p.raw(get); !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(strings.ToLower(got), "connection: close") {
		t.Errorf("without keep-alive: got %q", got)
	}
	press("0.65")
	active("stop_accepting_requests", "1")
	if got := p.raw(get); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.HasSuffix(got, "envoy overloaded") {
		t.Errorf("without requests: got %q", got)
	}
	press("0.85")
	active("reject_incoming_connections", "1")
	press("0.75")
	active("reject_incoming_connections", "0")
	active("stop_accepting_connections", "1")
	waiting := p.dial()
	_, _ = io.WriteString(waiting, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
	if closedAtOnce(t, waiting, 100*time.Millisecond) {
		t.Error("a connection that waits was closed")
	}
	press("0")
	_ = waiting.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(waiting); !strings.HasPrefix(string(got), "HTTP/1.1 200 ") {
		t.Errorf("after the pressure: got %q, %v", got, err)
	}
	for action := range strings.FieldsSeq("disable_http_keepalive stop_accepting_requests stop_accepting_connections") {
		active(action, "0")
	}
	for name, want := range map[string]string{"http.outbound.downstream_rq_overload_close": "1", "overload.envoy.resource_monitors.injected_resource.pressure": "0"} {
		if got := p.stat(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	p.stop() // which writes all lines
	if !strings.Contains(p.log.String(), " 503 OM overload\n") {
		t.Errorf("access log %q, want the flag OM", p.log)
	}
}

// TestOverloadRejectsConnections as they come.
func TestOverloadRejectsConnections(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pressure")
	if err := os.WriteFile(file, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{direct(freeAddr(t))}}, func(o *proxy.Options) {
		o.Overload = &config.Overload{Interval: 5 * time.Millisecond, Injected: file, Actions: []config.OverloadAction{
			{Kind: config.ShedConnections, Triggers: []config.OverloadTrigger{{Resource: config.ResourceInjected, From: 1, To: 1}}},
		}}
	})
	p.waitStat("overload.envoy.overload_actions.reject_incoming_connections.active", "1")
	if !closedAtOnce(t, p.dial(), 5*time.Second) {
		t.Error("a connection is not closed")
	}
	p.waitStat(p.ofListener("downstream_cx_overload_reject"), "1")
}

// TestOverloadResetsWhatHoldsMost: a client that does not read its large response is reset, one that holds little is not.
func TestOverloadResetsWhatHoldsMost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pressure")
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := vhost("web.mesh.internal", "web")
	big.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: string(pattern(8 << 20))}
	small := vhost("small", "web")
	small.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: "hello"}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), big, small)}}, func(o *proxy.Options) {
		o.Overload = &config.Overload{Interval: 5 * time.Millisecond, Injected: file, Actions: []config.OverloadAction{
			{Kind: config.ShedStreams, Triggers: []config.OverloadTrigger{{Resource: config.ResourceInjected, From: 0.5, To: 0.9}}},
		}}
	})
	greedy, modest := p.dial(), p.dial()
	_, _ = io.WriteString(modest, "GET / HTTP/1.1\r\nHost: small\r\n\r\n")
	if n, err := modest.Read(make([]byte, 4096)); n == 0 {
		t.Fatal(err)
	}
	_, _ = io.WriteString(greedy, get)
	if n, err := greedy.Read(make([]byte, 1)); n == 0 {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("0.6"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.waitStat(p.ofListener("downstream_cx_overload_reset"), "1")
	if _, err := io.Copy(io.Discard, greedy); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who holds most: got %v, want a reset", err)
	}
	_, _ = io.WriteString(modest, "GET / HTTP/1.1\r\nHost: small\r\n\r\n")
	if n, err := modest.Read(make([]byte, 4096)); n == 0 {
		t.Errorf("who holds little: %v", err)
	}
}

// TestOverloadIsToldAsTheProxysDoing: a request that is under way and is reset has the flag OM alone, and is not counted as one that its
// client gave up.
func TestOverloadIsToldAsTheProxysDoing(t *testing.T) {
	for name, version := range map[string]config.Protocol{"HTTP/1": config.ProtocolHTTP1, "HTTP/2": config.ProtocolHTTP2} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pressure")
			if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
				t.Fatal(err)
			}
			v := vhost("web.mesh.internal", "web")
			v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 1}
			l := httpConfig(freeAddr(t), v)
			l.HTTP.Protocol = version
			l.HTTP.AccessLogs[0].Format = &config.LogFormat{Text: " %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}
			silent := rawBackend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", silent))}, func(o *proxy.Options) {
				o.Overload = &config.Overload{Interval: 5 * time.Millisecond, Injected: file, Actions: []config.OverloadAction{
					{Kind: config.ShedStreams, Triggers: []config.OverloadTrigger{{Resource: config.ResourceInjected, From: 0.5, To: 0.9}}},
				}}
			})
			body, more := io.Pipe()
			go func() { _, _ = more.Write(pattern(48 << 10)) }() // kept as long as the request may have to be sent again
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+p.addr.String()+"/", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "web.mesh.internal"
			gone := make(chan error, 1)
			client := p.plainClient(version)
			go func() {
				resp, err := client.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				gone <- err
			}()
			p.waitStat("cluster.web.upstream_rq_active", "1")
			if err := os.WriteFile(file, []byte("0.6"), 0o600); err != nil {
				t.Fatal(err)
			}
			p.waitStat(p.ofListener("downstream_cx_overload_reset"), "1")
			more.Close() // for which a client of HTTP/1 waits
			if err := <-gone; err == nil {
				t.Error("the client got a response")
			}
			p.await("the log has the flag OM alone", func() bool { return strings.Contains(p.log.String(), " 0 OM overload\n") })
			for name, want := range map[string]string{"http.outbound.downstream_rq_tx_reset": "1", "http.outbound.downstream_rq_rx_reset": "0", "cluster.web.upstream_rq_cancelled": "0"} {
				if got := p.stat(name); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}

// TestOverloadResetsStreamsThatHoldMost: the same for streams of one connection of HTTP/2: that whose window is closed is reset,
// the connection and its other streams go on.
func TestOverloadResetsStreamsThatHoldMost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pressure")
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := vhost("*", "web")
	big.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: string(pattern(8 << 20))}
	small := vhost("small", "web")
	small.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: "hello"}
	l := httpConfig(freeAddr(t), big, small)
	l.HTTP.Protocol = config.ProtocolHTTP2
	p := start(t, &config.Config{Listeners: []*config.Listener{l}}, func(o *proxy.Options) {
		o.Overload = &config.Overload{Interval: 5 * time.Millisecond, Injected: file, Actions: []config.OverloadAction{
			{Kind: config.ShedStreams, Triggers: []config.OverloadTrigger{{Resource: config.ResourceInjected, From: 0.5, To: 0.9}}},
		}}
	})
	client := p.plainClient(config.ProtocolHTTP2)
	greedy, err := client.Get("http://" + p.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer greedy.Body.Close()
	if code, body, err := p.get(client, "small", "/"); code != 200 || body != "hello" {
		t.Errorf("got %d, %q, %v", code, body, err)
	}
	if err := os.WriteFile(file, []byte("0.6"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.waitStat(p.ofListener("downstream_cx_overload_reset"), "1")
	if n, err := io.Copy(io.Discard, greedy.Body); err == nil || !strings.Contains(err.Error(), "ENHANCE_YOUR_CALM") {
		t.Errorf("who holds most: got %d bytes, %v, want a reset", n, err)
	}
	if code, body, err := p.get(client, "small", "/"); code != 200 || body != "hello" {
		t.Errorf("who holds little: got %d, %q, %v", code, body, err)
	}
	if got := p.stat("http.outbound.downstream_cx_total"); got != "1" {
		t.Errorf("%s connections, want the one", got)
	}
}
