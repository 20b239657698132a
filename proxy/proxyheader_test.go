package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/preamble"
)

// preambled is a back end that wants a PROXY header and answers every request with the client that it named. It counts
// connections.
type preambled struct {
	addr string
	mu   sync.Mutex
	all  []preamble.Header // guarded by mu; of each connection
}

func newPreambled(t *testing.T) *preambled {
	b := &preambled{}
	b.addr = rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		var h preamble.Header
		for want := 1; ; want++ {
			data, err := r.Peek(max(want, r.Buffered()))
			if err != nil {
				return
			}
			got, n, err := preamble.Read(data)
			if err != nil {
				t.Errorf("got %q: %v", data, err)
				return
			}
			if want = len(data); n > 0 {
				h = got
				_, _ = r.Discard(n)
				break
			}
		}
		b.mu.Lock()
		b.all = append(b.all, h)
		b.mu.Unlock()
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			answer(conn, h.Source.String())
		}
	})
	return b
}

func (b *preambled) headers() []preamble.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]preamble.Header(nil), b.all...)
}

// TestCVEClass14_ConnectionsThatNameAClientServeNobodyElse: each client's requests come over connections that name that client, and nobody else's do.
func TestCVEClass14_ConnectionsThatNameAClientServeNobodyElse(t *testing.T) {
	for version := 1; version <= 2; version++ {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			b := newPreambled(t)
			c := cluster("web", b.addr)
			c.ProxyHeader = &config.ProxyHeader{Version: version}
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
			const clients = 4
			conns, readers := make([]net.Conn, clients), make([]*bufio.Reader, clients)
			for i := range conns {
				conns[i] = p.dial()
				readers[i] = bufio.NewReader(conns[i])
			}
			for range 5 { // in turn: each finds the idle connections of the others
				for i, conn := range conns {
					_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
					resp, err := http.ReadResponse(readers[i], nil)
					if err != nil {
						t.Fatal(err)
					}
					body, _ := io.ReadAll(resp.Body)
					if string(body) != conn.LocalAddr().String() {
						t.Errorf("%s was taken for %s", conn.LocalAddr(), body)
					}
				}
			}
			all := b.headers()
			if len(all) != clients {
				t.Errorf("%d connections for %d clients", len(all), clients)
			}
			for _, h := range all {
				if h.Destination != p.addr || h.Version != version {
					t.Errorf("got %+v, want it to tell of %s", h, p.addr)
				}
			}
		})
	}
}

// saying is a listener that takes the PROXY header from each connection.
type saying struct{ net.Listener }

// said is a connection that has said whose it is.
type said struct {
	net.Conn
	client netip.AddrPort
}

func (l saying) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	var head []byte
	for {
		if h, n, err := preamble.Read(head); err != nil || n > 0 {
			return said{conn, h.Source}, nil
		}
		var b [1]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return conn, nil
		}
		head = append(head, b[0])
	}
}

// TestStreamsOfOneClientShareAConnection: over HTTP/2 too a connection names one client, and carries requests of that one only.
func TestStreamsOfOneClientShareAConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	type client struct{}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Context().Value(client{}), " ", r.Proto)
	}), ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
		if c, ok := conn.(said); ok {
			return context.WithValue(ctx, client{}, c.client)
		}
		return ctx
	}}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(saying{l}) }()
	t.Cleanup(func() { s.Close() })
	c := cluster("web", l.Addr().String())
	c.ProxyHeader, c.Protocol = &config.ProxyHeader{Version: 2}, config.ProtocolHTTP2
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	const clients = 3
	conns, readers := make([]net.Conn, clients), make([]*bufio.Reader, clients)
	for i := range conns {
		conns[i] = p.dial()
		readers[i] = bufio.NewReader(conns[i])
	}
	for range 4 {
		for i, conn := range conns {
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
			resp, err := http.ReadResponse(readers[i], nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(resp.Body); string(body) != conn.LocalAddr().String()+" HTTP/2.0" {
				t.Errorf("%s was taken for %q", conn.LocalAddr(), body)
			}
		}
	}
	if n := p.stat("cluster.web.upstream_cx_total"); n != fmt.Sprint(clients) {
		t.Errorf("%s connections for %d clients", n, clients)
	}
}

// TestHostsAreToldBeforeTLS: the header comes in front of the handshake, and with ALPN too a connection is one client's.
func TestHostsAreToldBeforeTLS(t *testing.T) {
	a := testbed.NewAuthority(t)
	for hop, proto := range map[config.Protocol]string{config.ProtocolHTTP1: "HTTP/1.1", config.ProtocolHTTP2: "HTTP/2.0", config.ProtocolAuto: "HTTP/2.0"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		type client struct{}
		s := &http.Server{
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{a.Leaf("b.mesh.internal")}},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, r.Context().Value(client{}), " ", r.Proto)
			}),
			ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
				return context.WithValue(ctx, client{}, conn.(*tls.Conn).NetConn().(said).client)
			},
		}
		go func() { _ = s.ServeTLS(saying{l}, "", "") }()
		t.Cleanup(func() { s.Close() })
		c := cluster("web", l.Addr().String())
		c.ProxyHeader, c.Protocol = &config.ProxyHeader{Version: 2}, hop
		originate(t, c, a, a.Leaf("a.mesh.internal"), "b.mesh.internal")
		c.HealthCheck = readiness()
		p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
		p.waitFlags(l.Addr().String(), "healthy") // checks say that they are nobody's
		const clients = 3
		conns, readers := make([]net.Conn, clients), make([]*bufio.Reader, clients)
		for i := range conns {
			conns[i] = p.dial()
			readers[i] = bufio.NewReader(conns[i])
		}
		for range 4 {
			for i, conn := range conns {
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
				resp, err := http.ReadResponse(readers[i], nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, _ := io.ReadAll(resp.Body); string(body) != conn.LocalAddr().String()+" "+proto {
					t.Errorf("%s was taken for %q", conn.LocalAddr(), body)
				}
			}
		}
		if n := p.stat("cluster.web.upstream_cx_total"); n != fmt.Sprint(clients) {
			t.Errorf("%s: %s connections for %d clients", proto, n, clients)
		}
	}
}

// TestHostsAreToldTheClientThatAProxyNamed: what a PROXY header in front said is passed on, with TCP as with HTTP.
func TestHostsAreToldTheClientThatAProxyNamed(t *testing.T) {
	const front = "PROXY TCP6 2001:db8::1 2001:db8::2 1111 2222\r\n"
	want := preamble.Header{Version: 2, Source: netip.MustParseAddrPort("[2001:db8::1]:1111"), Destination: netip.MustParseAddrPort("[2001:db8::2]:2222")}
	b := newPreambled(t)
	c := cluster("web", b.addr)
	c.ProxyHeader = &config.ProxyHeader{Version: 2, TLVs: []config.ProxyTLV{{Type: 0xea, Value: "x"}}}
	tcp := &config.Listener{Name: "tcp", Addresses: []netip.AddrPort{freeAddr(t)}, TCP: &config.TCP{StatPrefix: "tcp", Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}}}
	for _, l := range []*config.Listener{httpConfig(freeAddr(t), plain("web")), tcp} {
		l.ProxyProtocol = &config.ProxyProtocol{}
		p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
		conn := p.dial()
		_, _ = io.WriteString(conn, front+"GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); string(body) != want.Source.String() {
			t.Errorf("%s: got %q", l.Name, body)
		}
		conn.Close()
		p.stop()
	}
	all := b.headers()
	if len(all) != 2 || all[0] != want || all[1] != want {
		t.Errorf("got %+v", all)
	}
}

// TestIdleConnectionsOfOthersMakeRoom: when a cluster may have no more connections, one of a client that is not asking now is
// closed for one that is.
func TestIdleConnectionsOfOthersMakeRoom(t *testing.T) {
	b := newPreambled(t)
	c := cluster("web", b.addr)
	c.ProxyHeader, c.MaxConnections = &config.ProxyHeader{Version: 1}, 2
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, nil)
	for i := range 10 {
		conn := p.dial() // stays open
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != conn.LocalAddr().String() {
			t.Errorf("client %d: got %d %q", i, resp.StatusCode, body)
		}
	}
}

// TestTheHeaderComesWithTheConfiguration: a connection from before it, without a header, serves nobody after it.
func TestTheHeaderComesWithTheConfiguration(t *testing.T) {
	heads := make(chan string, 10)
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			heads <- head
			answer(conn, "ok")
		}
	})
	c := cluster("web", backend)
	l := []*config.Listener{httpConfig(freeAddr(t), plain("web"))}
	p := start(t, &config.Config{Listeners: l, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	p.served(1)
	if head := <-heads; !strings.HasPrefix(head, "GET / ") {
		t.Errorf("got %q", head)
	}
	next := *c
	next.ProxyHeader, next.MaxRequests = &config.ProxyHeader{Version: 1}, 77
	p.config.Set(&config.Config{Version: "2", Listeners: l, Clusters: clusters(&next)})
	told := func(head string) bool { return strings.HasPrefix(head, "PROXY TCP4 127.0.0.1 127.0.0.1 ") }
	for i := 0; ; i++ {
		p.served(1)
		if head := <-heads; told(head) {
			break
		}
		if i == 500 {
			t.Fatal("no header came")
		}
	}
}
