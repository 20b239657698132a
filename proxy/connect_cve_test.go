package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// A CONNECT leads to the hosts of a route that is made for it and allowed to, never to where the client says; and what follows
// one that is refused is no request (CVE-2024-23326, CVE-2022-41721).
func TestCVEClass14_ConnectIsNoOpenProxy(t *testing.T) {
	var reached atomic.Int32
	host := rawBackend(t, func(net.Conn, *bufio.Reader) { reached.Add(1) })
	off, direct := connectRoute(true), &config.Route{PathMatch: config.PathConnect, Direct: &config.DirectResponse{Status: 421, Body: "no"}}
	off.Upgrades[0].Allowed = false
	silent := connectRoute(true)
	silent.Upgrades = nil
	for _, c := range []struct {
		name, request, status string
		route                 *config.Route
		allow                 bool // of the listener
	}{
		{"another host", "CONNECT " + host + " HTTP/1.1\r\nHost: db.mesh.internal:5432", "404", connectRoute(true), true},
		{"another Host", "CONNECT " + host + " HTTP/1.1\r\nHost: db.mesh.internal:5432", "404", connectRoute(false), true},
		{"not allowed", "CONNECT db.mesh.internal:5432 HTTP/1.1\r\nHost: db.mesh.internal:5432", "403", silent, false},
		{"not allowed by the route", "CONNECT db.mesh.internal:5432 HTTP/1.1\r\nHost: db.mesh.internal:5432", "403", off, true},
		{"no such route", "CONNECT db.mesh.internal:5432 HTTP/1.1\r\nHost: db.mesh.internal:5432", "404", &config.Route{Path: "/x"}, true},
		{"direct response", "CONNECT db.mesh.internal:5432 HTTP/1.1\r\nHost: db.mesh.internal:5432", "421", direct, true},
		{"as a protocol", "GET /x HTTP/1.1\r\nHost: db.mesh.internal:5432\r\nConnection: upgrade, close\r\nUpgrade: connect", "403", connectRoute(true), true},
		{"with a body", "CONNECT db.mesh.internal:5432 HTTP/1.1\r\nHost: db.mesh.internal:5432\r\nContent-Length: 4", "400", connectRoute(true), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := vhost("db.mesh.internal", "db")
			v.Routes = append([]*config.Route{c.route}, v.Routes...)
			l := httpConfig(freeAddr(t), v)
			if c.allow {
				l.HTTP.Upgrades = append(l.HTTP.Upgrades, config.ConnectUpgrade)
			}
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("db", host))}, nil)
			got := p.raw(c.request + "\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: db.mesh.internal\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") || strings.Count(got, "HTTP/1.1 ") != 1 || !strings.Contains(got, "Connection: close\r\n") {
				t.Errorf("%q, want one answer with %s", got, c.status)
			}
			if n := reached.Load(); n > 0 {
				t.Errorf("the host was reached %d times", n)
			}
		})
	}
}

// A host that answers a wish for a tunnel in the wrong way opens none: 101 is no consent to CONNECT, and 2xx of a host of HTTP/1
// none to a client of HTTP/2 that wants another protocol. Nothing of what such a client sends reaches the host, whose connection
// would be a request's (CVE-2024-23326).
func TestCVEClass14_TunnelsAreOpenedByConsentOnly(t *testing.T) {
	t.Run("101 to CONNECT", func(t *testing.T) {
		seen := &lockedBuffer{}
		p := startConnect(t, config.ProtocolHTTP1, connectRoute(false), config.ProtocolHTTP1, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			_ = readHead(r)
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(seen, r)
		}))
		resp, tunnel := p.connect(config.ProtocolHTTP1, connectTo, get)
		if rest, _ := io.ReadAll(tunnel); resp.StatusCode != 502 || strings.Contains(string(rest), "HTTP/1.1") || seen.String() != "" {
			t.Errorf("%s, then %q; the host got %q", resp.Status, rest, seen)
		}
	})
	t.Run("200 to extended CONNECT", func(t *testing.T) {
		seen := &lockedBuffer{}
		l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
		l.HTTP.Protocol = config.ProtocolHTTP2
		p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			_ = readHead(r)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
			_, _ = io.Copy(seen, r)
		})))}, nil)
		conn := p.dial()
		_, _ = io.WriteString(conn, http2.ClientPreface)
		f := http2.NewFramer(conn, conn)
		_ = f.WriteSettings()
		var block bytes.Buffer
		e := hpack.NewEncoder(&block)
		for _, field := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/"}, {":authority", "web.mesh.internal"}} {
			_ = e.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
		_ = f.WriteData(1, false, []byte(get))
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if head, ok := frame.(*http2.MetaHeadersFrame); ok {
				if status := head.PseudoValue("status"); status != "502" {
					t.Errorf("status %s, want 502", status)
				}
				break
			}
		}
		p.waitStat("cluster.web.upstream_cx_active", "0")
		if seen.String() != "" {
			t.Errorf("the host got %q", seen)
		}
	})
}

// TestConnectByCurl: curl speaks TLS with a host through a tunnel that the proxy terminates, or that a second proxy does.
func TestConnectByCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("curl is not installed; run make setup")
	}
	a := testbed.NewAuthority(t)
	tlsListener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{a.Leaf("db.mesh.internal")}})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Host, r.URL.Path, n)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(tlsListener) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	inner := startConnect(t, config.ProtocolAuto, connectRoute(true), config.ProtocolHTTP1, tlsListener.Addr().String())
	for _, up := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		outer := startConnect(t, config.ProtocolAuto, connectRoute(false), up, inner.addr.String())
		for _, p := range []*testProxy{inner, outer} {
			out, err := exec.Command(curl, "-sSk", "--noproxy", "", "--max-time", "20", "--proxytunnel", "-x", "http://"+p.addr.String(), "--data-binary", "@-", "https://"+connectTo+"/a").CombinedOutput()
			if string(out) != connectTo+" /a 0" || err != nil {
				t.Errorf("%q %v", out, err)
			}
			cmd := exec.Command(curl, "-sSk", "--noproxy", "", "--max-time", "20", "-x", "http://"+p.addr.String(), "--data-binary", "@-", "-H", "Expect:", "https://"+connectTo+"/b")
			cmd.Stdin = bytes.NewReader(pattern(3 << 20))
			if out, err := cmd.CombinedOutput(); string(out) != connectTo+" /b 3145728" || err != nil {
				t.Errorf("%q %v", out, err)
			}
		}
	}
	out, err := exec.Command(curl, "-sSk", "--max-time", "20", "--noproxy", "", "-x", "http://"+inner.addr.String(), "https://other.mesh.internal:5432/").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "404") {
		t.Errorf("to another host: %q %v", out, err)
	}
}
