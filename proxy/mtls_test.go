package proxy_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// originate has a cluster spoken to with a certificate of an authority, of which the other side must have one for a name.
func originate(t *testing.T, c *config.Cluster, a *testbed.Authority, cert tls.Certificate, name string) {
	t.Helper()
	chain, key := testbed.PEM(t, cert)
	c.TLS = &config.UpstreamTLS{ServerName: name, MaxSessions: 1, TLS: config.TLS{
		MinVersion: config.TLS12, MaxVersion: config.TLS13,
		Certificates: []config.Certificate{{Chain: config.Source{Inline: chain}, Key: config.Source{Inline: key}}},
		Verify: &config.Verification{CA: config.Source{Inline: a.PEM()}, MaxDepth: -1, Names: []config.SANMatch{
			{Type: config.SANDNS, Match: config.TextMatch{Text: name}},
		}},
	}}
}

// inbound runs the proxy in front of a back end, which speaks mTLS to the proxies of others.
func inbound(t *testing.T, a *testbed.Authority, up config.Protocol, h http.HandlerFunc, change ...func(*config.HTTP)) *testProxy {
	t.Helper()
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.Name = "inbound"
	l.HTTP.Protocol, l.HTTP.UseRemoteAddress = config.ProtocolAuto, false
	for _, f := range change {
		f(l.HTTP)
	}
	l.Chains = []*config.FilterChain{{HTTP: l.HTTP, TLS: asking(settings(t, a.Leaf("b.mesh.internal"), "h2", "http/1.1"), a)}}
	l.HTTP = nil
	c := cluster("web", plainServer(t, h))
	c.Protocol = up
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.DrainTime = 2 * time.Second })
}

// outbound runs the proxy beside a client, which speaks mTLS to the proxy at addr.
func outbound(t *testing.T, a *testbed.Authority, down, hop config.Protocol, addr netip.AddrPort, name string, change ...func(*config.HTTP)) *testProxy {
	t.Helper()
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "hop"))
	l.HTTP.Protocol = down
	for _, f := range change {
		f(l.HTTP)
	}
	c := cluster("hop", addr.String())
	c.Protocol = hop
	originate(t, c, a, a.Leaf("a.mesh.internal"), name)
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.DrainTime = 2 * time.Second })
}

// TestTwoProxiesWithMTLS: content and trailers go the whole way of a mesh, whatever each of its three hops speaks.
func TestTwoProxiesWithMTLS(t *testing.T) {
	names := map[config.Protocol]string{config.ProtocolHTTP1: "1", config.ProtocolHTTP2: "2", config.ProtocolAuto: "auto", config.ProtocolDownstream: "down"}
	a := testbed.NewAuthority(t)
	for _, pair := range pairings {
		for _, hop := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2, config.ProtocolAuto, config.ProtocolDownstream} {
			t.Run(fmt.Sprint(pair.name, " by ", names[hop]), func(t *testing.T) {
				far := inbound(t, a, pair.up, echo)
				near := outbound(t, a, pair.down, hop, far.addr, "b.mesh.internal")
				client := near.plainClient(pair.down)
				for _, size := range []int{0, 1000, 70_000, 1 << 20} {
					body := pattern(size)
					req, _ := http.NewRequest(http.MethodPost, pairURL+"/echo", io.NopCloser(bytes.NewReader(body)))
					req.Trailer = http.Header{"X-Told": {"by the client"}}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || !bytes.Equal(got, body) || resp.Trailer.Get("X-Told") != "by the client" {
						t.Fatalf("%d bytes: %d came back, %v, %v", size, len(got), resp.Trailer, err)
					}
				}
			})
		}
	}
}

// TestCVEClass19_OriginationVerifies: who cannot show the certificate that the cluster wants gets nothing, and it is told why.
func TestCVEClass19_OriginationVerifies(t *testing.T) {
	a := testbed.NewAuthority(t)
	asked := false
	far := inbound(t, a, config.ProtocolHTTP1, func(http.ResponseWriter, *http.Request) { asked = true })
	for _, c := range []struct {
		name string
		near *testProxy
		want string
	}{
		{"another name", outbound(t, a, config.ProtocolHTTP1, config.ProtocolHTTP1, far.addr, "c.mesh.internal"), "no subject alternative name matches"},
		{"another authority", outbound(t, testbed.NewAuthority(t), config.ProtocolHTTP1, config.ProtocolHTTP1, far.addr, "b.mesh.internal"), "unknown authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, err := c.near.get(http.DefaultClient, "web.mesh.internal", "/")
			if err != nil || status != 503 || !strings.Contains(body, c.want) || asked {
				t.Errorf("%d %q %v", status, body, err)
			}
		})
	}
}

// TestCVEClass25_NoPlaintextAfterTLS: when a cluster begins to be spoken to in TLS, what was pooled in plaintext is used no more.
func TestCVEClass25_NoPlaintextAfterTLS(t *testing.T) {
	for _, hop := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		t.Run(fmt.Sprint(hop), func(t *testing.T) {
			a := testbed.NewAuthority(t)
			l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "hop"))
			plain := cluster("hop", plainServer(t, func(http.ResponseWriter, *http.Request) {}))
			plain.Protocol = hop
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(plain)}, nil)
			if status, _, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 || err != nil {
				t.Fatal(status, err)
			}
			secured := *plain
			originate(t, &secured, a, a.Leaf("a.mesh.internal"), "b.mesh.internal")
			p.config.Set(&config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(&secured)})
			p.waitStat("cluster.hop.upstream_cx_active", "0")
			if status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 503 || err != nil {
				t.Errorf("%d %q %v: the host speaks no TLS", status, body, err)
			}
		})
	}
}

// TestTCPOverTLS passes bytes on between two proxies with mTLS between them, with each direction's own end.
func TestTCPOverTwoProxiesWithMTLS(t *testing.T) {
	a := testbed.NewAuthority(t)
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			conn, err := backend.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			go func() {
				defer conn.Close()
				data, err := io.ReadAll(conn)
				if err == nil {
					_, _ = conn.Write(data)
				}
			}()
		}
	}()
	tcp := func(name, to string) *config.Listener {
		return &config.Listener{Name: name, Addresses: []netip.AddrPort{freeAddr(t)}, TCP: &config.TCP{
			StatPrefix: name, Clusters: []config.WeightedCluster{{Name: to, Weight: 1}}, IdleTimeout: time.Minute,
		}}
	}
	in := tcp("inbound", "db")
	in.Chains = []*config.FilterChain{{TCP: in.TCP, TLS: asking(settings(t, a.Leaf("b.mesh.internal")), a)}}
	in.TCP = nil
	far := start(t, &config.Config{Listeners: []*config.Listener{in}, Clusters: clusters(cluster("db", backend.Addr().String()))}, nil)
	hop := cluster("hop", far.addr.String())
	originate(t, hop, a, a.Leaf("a.mesh.internal"), "b.mesh.internal")
	near := start(t, &config.Config{Listeners: []*config.Listener{tcp("outbound", "hop")}, Clusters: clusters(hop)}, nil)
	for _, size := range []int{0, 1, 5000, 64 << 10, 20 << 20} {
		data := pattern(size)
		conn := near.dial()
		go func() {
			_, _ = conn.Write(data)
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
		}
	}
}
