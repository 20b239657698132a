package proxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// ofListener is an access log of a listener with what there is to be told of connections.
func ofListener(filter *config.LogFilter) []config.AccessLog {
	return []config.AccessLog{{Path: "/dev/stdout", Filter: filter, Format: &config.LogFormat{Text: "type=%ACCESS_LOG_TYPE% proto=%PROTOCOL% method=%REQ(:METHOD)% code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% " +
		"det=%RESPONSE_CODE_DETAILS% term=%CONNECTION_TERMINATION_DETAILS% fail=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% rx=%BYTES_RECEIVED% tx=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% " +
		"host=%UPSTREAM_HOST% chain=%FILTER_CHAIN_NAME% sni=%REQUESTED_SERVER_NAME% tls=%DOWNSTREAM_TLS_VERSION% local=%DOWNSTREAM_LOCAL_ADDRESS%\n"}}}
}

// line is what such a log writes, with what differs from what is said of a connection of which nothing is known.
func connectionLine(at netip.AddrPort, known ...string) string {
	l := "type=NotSet proto=- method=- code=0 flags=- det=- term=- fail=- rx=0 tx=0 cluster=- host=- chain=- sni=- tls=- local=" + at.String()
	for _, k := range known {
		name, _, _ := strings.Cut(k, "=")
		l = regexp.MustCompile(`\b`+name+`=\S*`).ReplaceAllLiteralString(l, k)
	}
	return l
}

// waitLines waits for the lines of a log that a pattern takes, and returns them.
func (p *testProxy) waitLines(pattern string, n int) []string {
	p.t.Helper()
	is := regexp.MustCompile(pattern)
	var got []string
	for range 500 {
		got = got[:0]
		for line := range strings.Lines(p.log.String()) {
			if is.MatchString(line) {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if len(got) >= n {
			return got
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("%d lines of %s, want %d: %s", len(got), pattern, n, p.log.String())
	return nil
}

// TestListenersLogConnections: a line for each, as the stock Envoy 1.40 writes them, whatever became of it.
func TestListenersLogConnections(t *testing.T) {
	a := testbed.NewAuthority(t)
	back := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	dead := freeAddr(t).String()
	plain := func() *config.Listener {
		l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
		l.HTTP.AccessLogs, l.HTTP.Protocol, l.AccessLogs = nil, config.ProtocolAuto, ofListener(nil)
		return l
	}
	chained := func(change func(*config.Listener, *config.FilterChain)) *config.Listener {
		l := plain()
		l.Chains = []*config.FilterChain{{Name: "ch", HTTP: l.HTTP}}
		l.HTTP = nil
		change(l, l.Chains[0])
		return l
	}
	tcp := func(cluster string) *config.Listener {
		return &config.Listener{Name: "t", Addresses: []netip.AddrPort{freeAddr(t)}, AccessLogs: ofListener(nil), Chains: []*config.FilterChain{
			{Name: "ch", TCP: &config.TCP{StatPrefix: "t", Clusters: []config.WeightedCluster{{Name: cluster, Weight: 1}}, IdleTimeout: time.Minute}},
		}}
	}
	secure := func(l *config.Listener, c *config.FilterChain) {
		c.TLS, c.ConnectTimeout = settings(t, a.Leaf("web.mesh.internal"), "http/1.1"), 300*time.Millisecond
	}
	const request = "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"
	send := func(p *testProxy, text string) {
		conn, err := net.Dial("tcp", p.addr.String())
		if err != nil { // it may be reset at once
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, text)
		_, _ = io.Copy(io.Discard, conn)
	}
	for _, c := range []struct {
		name     string
		listener *config.Listener
		use      func(p *testProxy)
		want     []string
	}{
		{"a request", plain(), func(p *testProxy) { send(p, request) }, []string{"proto=HTTP/1.1", fmt.Sprintf("rx=%d", len(request)), "tx=N"}},
		{"HTTP/2", plain(), func(p *testProxy) {
			client := p.plainClient(config.ProtocolHTTP2)
			if status, _, err := p.get(client, "web.mesh.internal", "/"); status != 200 {
				t.Error(status, err)
			}
			client.CloseIdleConnections()
		}, []string{"proto=HTTP/2", "rx=N", "tx=N"}},
		{"silence", plain(), func(p *testProxy) { p.dial().Close() }, nil},
		{"TLS", chained(secure), func(p *testProxy) {
			conn := tls.Client(p.dial(), &tls.Config{RootCAs: a.Pool(), ServerName: "web.mesh.internal"})
			_, _ = io.WriteString(conn, request)
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}, []string{"proto=HTTP/1.1", fmt.Sprintf("rx=%d", len(request)), "tx=N", "chain=ch", "sni=web.mesh.internal", "tls=TLSv1.3"}},
		{"no TLS", chained(secure), func(p *testProxy) { send(p, request) }, []string{"chain=ch", "fail=TLS_error:_handshake:_tls:_first_record_does_not_look_like_a_TLS_handshake"}},
		{"a handshake that stalls", chained(secure), func(p *testProxy) { send(p, "") }, []string{"chain=ch", "term=transport socket timeout was reached"}},
		{"no chain", chained(func(_ *config.Listener, c *config.FilterChain) { c.Match.Port = 1 }), func(p *testProxy) { send(p, "") }, []string{"flags=NR", "det=filter_chain_not_found"}},
		{"no PROXY header", chained(func(l *config.Listener, _ *config.FilterChain) {
			l.ProxyProtocol, l.Filters.Timeout = &config.ProxyProtocol{}, time.Second
		}), func(p *testProxy) { send(p, request) }, nil},
		{"TCP", tcp("web"), func(p *testProxy) {
			conn := p.dial()
			_, _ = io.WriteString(conn, request)
			_, _ = http.ReadResponse(bufio.NewReader(conn), nil)
			conn.Close()
		}, []string{fmt.Sprintf("rx=%d", len(request)), "tx=40", "cluster=web", "host=" + back, "chain=ch"}},
		{"TCP to nobody", tcp("dead"), func(p *testProxy) { send(p, "") }, []string{"flags=UF,URX", "cluster=dead", "host=" + dead, "chain=ch"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, &config.Config{Listeners: []*config.Listener{c.listener}, Clusters: clusters(cluster("web", back), cluster("dead", dead))}, nil)
			c.use(p)
			got := p.waitLines("^type=", 1)
			p.stop()
			for i := range got {
				for _, name := range []string{"rx", "tx"} { // of which it is only known that they are there
					if strings.Contains(strings.Join(c.want, " "), name+"=N") {
						got[i] = regexp.MustCompile(name+`=[1-9]\d+`).ReplaceAllString(got[i], name+"=N")
					}
				}
			}
			if want := connectionLine(c.listener.Addresses[0], c.want...); len(got) != 1 || got[0] != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// TestListenersLogWhatTheirFiltersTake: that of Consul wants those which no chain takes.
func TestListenersLogWhatTheirFiltersTake(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.AccessLogs, l.HTTP.AccessLogs = ofListener(&config.LogFilter{Kind: config.LogFlags, Flags: []string{"NR"}}), nil
	l.Chains = []*config.FilterChain{{Name: "first", HTTP: l.HTTP, Match: config.ChainMatch{From: config.SourceExternal}}}
	l.HTTP = nil
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web"))}, func(o *proxy.Options) { o.Loops = 1 })
	conn := p.dial()
	_, _ = io.Copy(io.Discard, conn)
	if got := p.waitLines("^type=", 1); got[0] != connectionLine(l.Addresses[0], "flags=NR", "det=filter_chain_not_found") {
		t.Errorf("got %q", got)
	}
	own := *l
	own.Chains = []*config.FilterChain{{Name: "first", HTTP: l.Chains[0].HTTP}}
	p.config.Set(&config.Config{Listeners: []*config.Listener{&own}, Clusters: clusters(cluster("web"))})
	p.waitStat("listener_manager.listener_modified", "1")
	if got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("got %q", got)
	}
	p.stop()
	if got := p.waitLines("^type=", 1); len(got) != 1 {
		t.Errorf("a connection that a chain took is told: %q", got)
	}
}
