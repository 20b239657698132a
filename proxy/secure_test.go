package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// settings are those of a listener that shows a certificate.
func settings(t *testing.T, cert tls.Certificate, protocols ...string) *config.DownstreamTLS {
	chain, key := testbed.PEM(t, cert)
	return &config.DownstreamTLS{TLS: config.TLS{
		MinVersion: config.TLS12, MaxVersion: config.TLS13, Protocols: protocols,
		Certificates: []config.Certificate{{Chain: config.Source{Inline: chain}, Key: config.Source{Inline: key}}},
	}}
}

// asking has a listener's settings ask for certificates of an authority.
func asking(d *config.DownstreamTLS, a *testbed.Authority) *config.DownstreamTLS {
	d.Verify, d.RequireClient = &config.Verification{CA: config.Source{Inline: a.PEM()}, MaxDepth: -1}, true
	return d
}

// tlsWeb is a listener with a chain that speaks HTTP over TLS and leads to a back end which tells how the request came.
func tlsWeb(t *testing.T, d *config.DownstreamTLS) (*config.Listener, map[string]*config.Cluster) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.Protocol = config.ProtocolAuto
	l.Chains = []*config.FilterChain{{HTTP: l.HTTP, TLS: d}}
	l.HTTP = nil
	return l, clusters(cluster("web", server(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"))
	})))
}

// over returns a client of the proxy, whatever host it is asked for.
func (p *testProxy) over(cfg *tls.Config, http2 bool) *http.Client {
	transport := &http.Transport{
		TLSClientConfig: cfg, ForceAttemptHTTP2: http2,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", p.addr.String())
		},
	}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// fetch has a client get a page.
func (p *testProxy) fetch(c *http.Client) error {
	resp, err := c.Get("https://web.mesh.internal/")
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return err
}

// TestTLSIsTerminated: by ALPN a client speaks HTTP/1 or HTTP/2, and the back end is told that it came over TLS.
func TestTLSIsTerminated(t *testing.T) {
	a := testbed.NewAuthority(t)
	l, cl := tlsWeb(t, settings(t, a.Leaf("web.mesh.internal"), "h2", "http/1.1"))
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: cl}, oneLoop)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, two := range []bool{false, true} {
			client := p.over(&tls.Config{RootCAs: a.Pool(), MaxVersion: version}, two)
			for range 3 {
				resp, err := client.Get("https://web.mesh.internal/")
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := map[bool]int{true: 2, false: 1}[two]; string(body) != "https" || resp.ProtoMajor != want || resp.TLS.Version != version {
					t.Errorf("%q by %s, %x", body, resp.Proto, resp.TLS.Version)
				}
			}
			client.CloseIdleConnections()
		}
	}
	p.waitStat(p.listenerStat("ssl.handshake"), "4")
	p.waitStat(p.listenerStat("ssl.no_certificate"), "4")
	if got := p.raw(closing); strings.HasPrefix(got, "HTTP/") {
		t.Errorf("in plaintext: %q", got)
	}
	p.waitStat(p.listenerStat("ssl.connection_error"), "1")
	if err := p.fetch(p.over(&tls.Config{RootCAs: a.Pool(), MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, false)); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
	p.waitStat(p.listenerStat("downstream_cx_active"), "0")
}

// TestClientsAreAskedForCertificates: and what is wrong with one is counted.
func TestClientsAreAskedForCertificates(t *testing.T) {
	a := testbed.NewAuthority(t)
	d := asking(settings(t, a.Leaf("web.mesh.internal")), a)
	d.Verify.Names = []config.SANMatch{{Type: config.SANDNS, Match: config.TextMatch{How: config.TextSuffix, Text: ".clients"}}}
	l, cl := tlsWeb(t, d)
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: cl}, oneLoop)
	for _, c := range []struct {
		certs   []tls.Certificate
		counted string
	}{
		{[]tls.Certificate{a.Leaf("one.clients")}, "ssl.handshake"},
		{nil, "ssl.fail_verify_no_cert"},
		{[]tls.Certificate{a.Leaf("one.others")}, "ssl.fail_verify_san"},
		{[]tls.Certificate{testbed.NewAuthority(t).Leaf("one.clients")}, "ssl.fail_verify_error"},
	} {
		cfg := &tls.Config{RootCAs: a.Pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c.certs == nil {
				return &tls.Certificate{}, nil
			}
			return &c.certs[0], nil
		}}
		if err := p.fetch(p.over(cfg, false)); (err == nil) != (c.counted == "ssl.handshake") {
			t.Errorf("%s: %v", c.counted, err)
		}
		p.waitStat(p.listenerStat(c.counted), "1")
	}
}

// TestCertificatesAreSwappedUnderTraffic: not a request fails, connections stay, and new ones see the new certificate.
func TestCertificatesAreSwappedUnderTraffic(t *testing.T) {
	a := testbed.NewAuthority(t)
	dir := t.TempDir()
	chain, key := testbed.WritePair(t, dir, "web", a.Leaf("web.mesh.internal", "first"))
	d := &config.DownstreamTLS{TLS: config.TLS{MinVersion: config.TLS12, MaxVersion: config.TLS13, Certificates: []config.Certificate{{Chain: config.Source{File: chain}, Key: config.Source{File: key}}}}}
	l, cl := tlsWeb(t, d)
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: cl}, oneLoop)
	trusted := &tls.Config{RootCAs: a.Pool()}
	stays := p.over(trusted, false)
	get := func(c *http.Client) string {
		t.Helper()
		resp, err := c.Get("https://web.mesh.internal/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.TLS.PeerCertificates[0].DNSNames[1]
	}
	if name := get(stays); name != "first" {
		t.Fatal(name)
	}
	nextChain, nextKey := testbed.WritePair(t, t.TempDir(), "web", a.Leaf("web.mesh.internal", "second"))
	for from, to := range map[string]string{nextKey: key, nextChain: chain} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	seen := ""
	for deadline := time.Now().Add(10 * time.Second); seen != "second" && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if name := get(stays); name != "first" {
			t.Fatalf("the connection that was open shows %q", name)
		}
		fresh := p.over(trusted, false)
		seen = get(fresh)
		fresh.CloseIdleConnections()
	}
	if seen != "second" {
		t.Error("the second certificate did not come")
	}
	if name := get(stays); name != "first" {
		t.Errorf("the connection that was open shows %q", name)
	}
}

// TestTCPOverTLS: bytes and both ends' ends pass, also many of them.
func TestTCPOverTLS(t *testing.T) {
	a := testbed.NewAuthority(t)
	echo := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.Copy(conn, r)
		_ = conn.(*net.TCPConn).CloseWrite()
	})
	c := tcpChain("echo", config.ChainMatch{})
	c.TLS = settings(t, a.Leaf("db"))
	l := &config.Listener{Name: "db", Addresses: []netip.AddrPort{freeAddr(t)}, Chains: []*config.FilterChain{c}}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("echo", echo))}, oneLoop)
	conn := tls.Client(p.dial(), &tls.Config{RootCAs: a.Pool(), ServerName: "db"})
	sent := strings.Repeat("0123456789abcdef", 1<<17)
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, sent)
		done <- errors.Join(err, conn.CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err != nil || string(got) != sent {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
}

// TestCVEClass16_StalledHandshakesEnd: who stops within a handshake loses the connection and keeps nobody else waiting (CVE-2026-22045).
func TestCVEClass16_StalledHandshakesEnd(t *testing.T) {
	a := testbed.NewAuthority(t)
	l, cl := tlsWeb(t, settings(t, a.Leaf("web.mesh.internal")))
	l.Chains[0].ConnectTimeout = 1500 * time.Millisecond
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: cl}, oneLoop)
	var stalled []net.Conn
	for i := range 60 {
		conn := p.dial()
		if i%2 == 0 { // half of them with the beginning of a ClientHello
			if _, err := io.WriteString(conn, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"); err != nil {
				t.Fatal(err)
			}
		}
		stalled = append(stalled, conn)
	}
	if err := p.fetch(p.over(&tls.Config{RootCAs: a.Pool()}, false)); err != nil {
		t.Error(err)
	}
	for _, conn := range stalled {
		closedUnanswered(t, conn)
	}
	p.waitStat(p.listenerStat("downstream_cx_transport_socket_connect_timeout"), "60")
}

// TestCVEClass17_ChainsKeepTheirOwnRules: a session of a chain that asks for nothing opens none that asks for a certificate, even if both make their
// tickets with the same key, and the version of HTTP changes nothing about it (CVE-2022-23632).
func TestCVEClass17_ChainsKeepTheirOwnRules(t *testing.T) {
	a := testbed.NewAuthority(t)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(strings.Repeat("k", 80)), 0o600); err != nil {
		t.Fatal(err)
	}
	cert := a.Leaf("strict.example", "lax.example", "other.example")
	lax, strict := settings(t, cert, "h2", "http/1.1"), asking(settings(t, cert, "h2", "http/1.1"), a)
	lax.TicketKeys, strict.TicketKeys = []config.Source{{File: keys}}, []config.Source{{File: keys}}
	web := httpConfig(freeAddr(t), vhost("*", "web"))
	web.HTTP.Protocol = config.ProtocolAuto
	l := &config.Listener{
		Name: "both", Addresses: web.Addresses, Filters: config.Filters{Timeout: 10 * time.Second},
		Chains: []*config.FilterChain{
			{HTTP: web.HTTP, TLS: strict, Match: config.ChainMatch{ServerNames: []string{"strict.example"}}},
			{HTTP: web.HTTP, TLS: lax, Match: config.ChainMatch{ServerNames: []string{"lax.example"}}},
		},
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(http.ResponseWriter, *http.Request) {})))}, oneLoop)
	// One cache entry for all names, as of a client that means harm.
	sessions := oneSession{tls.NewLRUClientSessionCache(1)}
	greet := func(name string, certs ...tls.Certificate) (resumed bool, err error) {
		for _, alpn := range [][]string{{"h2"}, {"http/1.1"}, nil} {
			conn := tls.Client(p.dial(), &tls.Config{ServerName: name, RootCAs: a.Pool(), ClientSessionCache: sessions, Certificates: certs, NextProtos: alpn})
			if err = conn.Handshake(); err == nil {
				_, _ = io.WriteString(conn, "x")
				if alpn == nil || alpn[0] == "http/1.1" {
					_, _ = io.WriteString(conn, strings.ReplaceAll(closing, "web.mesh.internal", name))
				}
				if _, err = conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
					err = nil
				}
				resumed = resumed || conn.ConnectionState().DidResume
			}
			conn.Close()
			if err != nil {
				return resumed, err
			}
		}
		return resumed, nil
	}
	if resumed, err := greet("lax.example"); err != nil || !resumed {
		t.Errorf("the lax chain: resumed %v, %v", resumed, err)
	}
	if resumed, err := greet("strict.example"); err == nil {
		t.Errorf("the strict chain without a certificate: resumed %v", resumed)
	}
	if _, err := greet("strict.example", a.Leaf("client")); err != nil {
		t.Errorf("the strict chain with one: %v", err)
	}
	if _, err := greet("other.example"); err == nil {
		t.Error("a name without a chain was served")
	}
	p.waitStat(p.listenerStat("no_filter_chain_match"), "1")
}

// oneSession keeps one session, whatever it is for.
type oneSession struct{ tls.ClientSessionCache }

func (s oneSession) Get(string) (*tls.ClientSessionState, bool)  { return s.ClientSessionCache.Get("") }
func (s oneSession) Put(_ string, state *tls.ClientSessionState) { s.ClientSessionCache.Put("", state) }

// TestAccessLogTellsOfTLS: of requests, of bytes, and of TLS that is passed on, in the forms that a stock Envoy has.
func TestAccessLogTellsOfTLS(t *testing.T) {
	a := testbed.NewAuthority(t)
	logs := []config.AccessLog{{Path: "/dev/stdout", Format: &config.LogFormat{Text: "%FILTER_CHAIN_NAME% %REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_DNS_SAN% %REQ(:SCHEME)%\n"}}}
	web := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	web.HTTP.AccessLogs = logs
	named := func(name string) config.ChainMatch { return config.ChainMatch{ServerNames: []string{name}} }
	bytes, passed := tcpChain("bytes", named("bytes")), tcpChain("passed", named("passed"))
	bytes.TLS, bytes.TCP.AccessLogs, passed.TCP.AccessLogs = settings(t, a.Leaf("bytes")), logs, logs
	l := &config.Listener{
		Name: "x", Addresses: web.Addresses, Filters: config.Filters{Timeout: 10 * time.Second},
		Chains: []*config.FilterChain{{Name: "web", Match: named("web.mesh.internal"), HTTP: web.HTTP, TLS: asking(settings(t, a.Leaf("web.mesh.internal")), a)}, bytes, passed},
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(
		cluster("web", server(t, func(http.ResponseWriter, *http.Request) {})),
		cluster("bytes", rawBackend(t, func(net.Conn, *bufio.Reader) {})),
		cluster("passed", tlsBackend(t, "passed", &tls.Config{Certificates: []tls.Certificate{a.Leaf("passed")}})),
	)}, oneLoop)
	web12 := p.over(&tls.Config{RootCAs: a.Pool(), MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}, Certificates: []tls.Certificate{a.Leaf("client")}}, false)
	if err := p.fetch(web12); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bytes", "passed"} {
		conn := tls.Client(p.dial(), &tls.Config{RootCAs: a.Pool(), ServerName: name})
		_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1))
		conn.Close()
	}
	want := []string{
		"web web.mesh.internal TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305 CN=client client https\n", "bytes bytes TLSv1.3 TLS_AES_128_GCM_SHA256 - - -\n", "passed passed - - - - -\n",
	}
	got := ""
	for range 500 {
		if got = p.log.String(); strings.Count(got, "\n") == len(want) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, line := range want {
		if !strings.Contains(got, line) {
			t.Errorf("%q is not in %q", line, got)
		}
	}
}
