package proxy_test

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// clinic is a server of HTTP over TLS, in both versions, that notes how its checks come.
type clinic struct {
	addr   string
	server *httptest.Server
	mu     sync.Mutex
	asked  map[string]int // guarded by mu; by version, ALPN and SNI
	conns  int            // guarded by mu
}

func newClinic(t *testing.T, cert tls.Certificate) *clinic {
	c := &clinic{asked: map[string]int{}}
	c.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" {
			c.mu.Lock()
			c.asked[r.Proto+" "+r.TLS.NegotiatedProtocol+" "+r.TLS.ServerName]++
			c.mu.Unlock()
		}
	}))
	c.server.EnableHTTP2, c.server.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	c.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	c.server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			c.mu.Lock()
			c.conns++
			c.mu.Unlock()
		}
	}
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	c.addr = c.server.Listener.Addr().String()
	return c
}

func (c *clinic) state() (asked map[string]int, conns int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked = map[string]int{}
	for how, n := range c.asked {
		asked[how] = n
	}
	return asked, c.conns
}

// grpcClinic is a server of gRPC over TLS with a health service.
func grpcClinic(t *testing.T, cert tls.Certificate) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	healthpb.RegisterHealthServer(s, grpchealth.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// checked runs a proxy with a cluster whose hosts' certificates must be of an authority, for a name.
func checked(t *testing.T, a *testbed.Authority, name string, hc *config.HealthCheck, change func(*config.Cluster), addrs ...string) *testProxy {
	c := cluster("web", addrs...)
	originate(t, c, a, a.Leaf("a.mesh.internal"), name)
	c.HealthCheck = hc
	if change != nil {
		change(c)
	}
	return start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
}

// TestCVEClass25_ChecksSpeakTLS: checks of a cluster that speaks TLS do so too, by each protocol, and a host that cannot show
// the certificate which the cluster wants is not healthy.
func TestCVEClass25_ChecksSpeakTLS(t *testing.T) {
	a, other := testbed.NewAuthority(t), testbed.NewAuthority(t)
	cert := a.Leaf("b.mesh.internal")
	web, api := newClinic(t, cert), grpcClinic(t, cert)
	var asked atomic.Int32
	bare := server(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) }) // in plaintext
	for _, c := range []struct {
		name   string
		addr   string
		change func(*config.HealthCheck)
		how    string // that web is asked
	}{
		{"HTTP/1.1", web.addr, func(*config.HealthCheck) {}, "HTTP/1.1 http/1.1 b.mesh.internal"},
		{"HTTP/2", web.addr, func(c *config.HealthCheck) { c.HTTP.HTTP2 = true }, "HTTP/2.0 h2 b.mesh.internal"},
		{"gRPC", api, func(c *config.HealthCheck) { c.HTTP, c.GRPC = nil, &config.GRPCCheck{} }, ""},
		{"TCP", web.addr, func(c *config.HealthCheck) { c.HTTP, c.TCP = nil, &config.TCPCheck{} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func() *config.HealthCheck {
				hc := readiness()
				c.change(hc)
				return hc
			}
			p := checked(t, a, "b.mesh.internal", check(), nil, c.addr, bare)
			p.waitFlags(c.addr, "healthy")
			p.waitFlags(bare, "/failed_active_hc")
			if how, _ := web.state(); c.how != "" && how[c.how] == 0 {
				t.Errorf("not asked by %s, but %v", c.how, how)
			}
			checked(t, other, "b.mesh.internal", check(), nil, c.addr).waitFlags(c.addr, "/failed_active_hc")
			checked(t, a, "c.mesh.internal", check(), nil, c.addr).waitFlags(c.addr, "/failed_active_hc")
		})
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the host without TLS was asked %d times", n)
	}
}

// TestChecksAreTheEndpointsOwn: a host is checked in the way in which it is spoken to, by its own name.
func TestChecksAreTheEndpointsOwn(t *testing.T) {
	a := testbed.NewAuthority(t)
	first, second, third := newClinic(t, a.Leaf("b.mesh.internal")), newClinic(t, a.Leaf("c.mesh.internal")), newClinic(t, a.Leaf("x.mesh.internal"))
	bare := newPatient(t, "bare")
	p := checked(t, a, "", readiness(), func(c *config.Cluster) {
		c.TLS.Verify.Names, c.TLS.HostServerName, c.TLS.VerifyName = nil, true, true
		c.SocketMatches = []config.SocketMatch{{Name: "plaintext", Mark: config.NewMarks(map[string]string{"tls": "off"})}}
		for i, name := range []string{"b.mesh.internal", "C.mesh.internal", "d.mesh.internal", ""} {
			c.Endpoints[i].Hostname = name
		}
		c.Endpoints[3].SocketMark = config.NewMarks(map[string]string{"tls": "off"})
	}, first.addr, second.addr, third.addr, bare.addr)
	p.waitFlags(first.addr, "healthy")
	p.waitFlags(second.addr, "healthy")
	p.waitFlags(third.addr, "/failed_active_hc")
	p.waitFlags(bare.addr, "healthy")
	if asked, _ := second.state(); len(asked) != 1 || asked["HTTP/1.1 http/1.1 c.mesh.internal"] == 0 {
		t.Errorf("asked %v", asked)
	}
}

// TestChecksKeepTheirConnection, as long as the cluster's settings mean the same: when another authority is trusted, the host
// has to show its certificate again.
func TestChecksKeepTheirConnection(t *testing.T) {
	a := testbed.NewAuthority(t)
	web := newClinic(t, a.Leaf("b.mesh.internal"))
	ca := filepath.Join(t.TempDir(), "ca.crt")
	write := func(pem string) {
		t.Helper()
		if err := os.WriteFile(ca+".new", []byte(pem), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(ca+".new", ca); err != nil {
			t.Fatal(err)
		}
	}
	write(a.PEM())
	p := checked(t, a, "b.mesh.internal", readiness(), func(c *config.Cluster) { c.TLS.Verify.CA = config.Source{File: ca} }, web.addr)
	p.waitFlags(web.addr, "healthy")
	const enough = 20
	for i := 0; ; i++ {
		asked, conns := web.state()
		if n := asked["HTTP/1.1 http/1.1 b.mesh.internal"]; n >= enough {
			if conns != 1 {
				t.Errorf("%d connections for %d checks", conns, n)
			}
			break
		}
		if i == 1000 {
			t.Fatalf("asked %v", asked)
		}
		time.Sleep(5 * time.Millisecond)
	}
	write(testbed.NewAuthority(t).PEM())
	p.waitFlags(web.addr, "/failed_active_hc")
	write(a.PEM())
	p.waitFlags(web.addr, "healthy")
}
