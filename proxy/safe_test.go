package proxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// safe has a test's clients, hosts and proxy speak TLS; nil has them speak plaintext.
type safe struct {
	t        testing.TB
	a        *testbed.Authority
	leaf     tls.Certificate
	down     *config.DownstreamTLS
	up       *config.UpstreamTLS
	sessions tls.ClientSessionCache // of the clients
}

func newSafe(t *testing.T) *safe {
	t.Helper()
	s := &safe{t: t, a: testbed.NewAuthority(t), sessions: tls.NewLRUClientSessionCache(8)}
	s.leaf = s.a.Leaf("web.mesh.internal")
	s.down = settings(t, s.leaf, "h2", "http/1.1")
	c := new(config.Cluster)
	originate(t, c, s.a, s.a.Leaf("proxy"), "web.mesh.internal")
	s.up = c.TLS
	return s
}

// secure has a listener and a cluster speak TLS.
func (s *safe) secure(l *config.Listener, c *config.Cluster) {
	if s != nil {
		l.Chains, l.HTTP = []*config.FilterChain{{HTTP: l.HTTP, TLS: s.down}}, nil
		c.TLS = s.up
	}
}

// client has a client's connection speak TLS.
func (s *safe) client(conn net.Conn) net.Conn {
	if s == nil {
		return conn
	}
	return tls.Client(conn, s.clientConfig())
}

func (s *safe) clientConfig() *tls.Config {
	return &tls.Config{RootCAs: s.a.Pool(), ServerName: "web.mesh.internal", ClientSessionCache: s.sessions}
}

// serverConfig is that of hosts.
func (s *safe) serverConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{s.leaf}}
}

// backend has a host speak TLS, to the end in good order.
func (s *safe) backend(handle func(net.Conn, *bufio.Reader)) func(net.Conn, *bufio.Reader) {
	if s == nil {
		return handle
	}
	cfg := s.serverConfig() // for all connections, so that sessions are resumed
	return func(conn net.Conn, _ *bufio.Reader) {
		c := tls.Server(conn, cfg)
		defer c.Close()
		handle(c, bufio.NewReader(c))
	}
}

// server is a server of net/http that speaks both versions, as plainServer.
func (s *safe) server(h http.HandlerFunc) string {
	s.t.Helper()
	if s == nil {
		s.t.Fatal("it is plainServer that speaks plaintext")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	web := &http.Server{
		Handler: h, TLSConfig: s.serverConfig(), Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 50},
		ErrorLog: log.New(io.Discard, "", 0), // of handshakes that were given up
	}
	web.Protocols.SetHTTP1(true)
	web.Protocols.SetHTTP2(true)
	var all sync.WaitGroup
	all.Go(func() { _ = web.ServeTLS(l, "", "") })
	s.t.Cleanup(func() { _ = web.Close(); all.Wait() })
	return l.Addr().String()
}

// startPairing runs a proxy between clients and a server that speak the given versions over TLS, as the function of that name.
func (s *safe) startPairing(pair pairing, h http.HandlerFunc) *testProxy {
	s.t.Helper()
	l, c := httpConfig(freeAddr(s.t), vhost("web.mesh.internal", "web")), cluster("web", s.server(h))
	l.HTTP.Protocol, c.Protocol = pair.down, pair.up
	s.secure(l, c)
	return start(s.t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
}
