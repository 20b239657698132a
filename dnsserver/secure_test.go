package dnsserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// certificate makes one that signs itself, for 127.0.0.1 and ns.mesh.internal.
func certificate(t *testing.T) (cert tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test"}, DNSNames: []string{"ns.mesh.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// serveSecure runs a server with DNS over TLS and over HTTPS, and returns clients' settings that trust it.
func serveSecure(t *testing.T) (overTLS, overHTTPS netip.AddrPort, config *tls.Config, file string) {
	t.Helper()
	cert, file := certificate(t)
	zone := testZone()
	s := dnsserver.New(dnsserver.Options{
		TLS: []string{"127.0.0.1:0"}, HTTPS: []string{"127.0.0.1:0"}, Zones: only(zone), Log: slog.New(slog.DiscardHandler),
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	pool := x509.NewCertPool()
	data, _ := os.ReadFile(file)
	pool.AppendCertsFromPEM(data)
	return s.TLSAddrs()[0], s.HTTPSAddrs()[0], &tls.Config{RootCAs: pool}, file
}

func TestKdigOverTLSAndHTTPS(t *testing.T) {
	overTLS, overHTTPS, _, file := serveSecure(t)
	for _, c := range []struct {
		name   string
		server netip.AddrPort
		args   string
		want   []string
	}{
		{"TLS, padded", overTLS, "+tls +tls-ca=FILE +tls-hostname=ns.mesh.internal +padding", []string{"TLS session (TLS1.3)", "192.0.2.1", "PADDING", "Received 468 B"}},
		{"TLS by the address, keepalive", overTLS, "+tls +tls-ca=FILE +tls-hostname=127.0.0.1 +ednsopt=11", []string{"192.0.2.1", "Option (11): 0064"}},
		{"HTTPS by POST", overHTTPS, "+https +tls-ca=FILE +tls-hostname=ns.mesh.internal +padding", []string{"HTTP session (HTTP/2-POST)", "192.0.2.1", "status: 200", "Received 468 B"}},
		{"HTTPS by GET", overHTTPS, "+https +https-get +tls-ca=FILE +tls-hostname=ns.mesh.internal", []string{"HTTP session (HTTP/2-GET)", "192.0.2.1", "status: 200"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"@" + c.server.Addr().String(), "-p", strconv.Itoa(int(c.server.Port())), "+retry=0", "+timeout=10"},
				strings.Fields(strings.ReplaceAll(c.args, "FILE", file)+" web.default.mesh.internal A")...)
			out, err := exec.CommandContext(t.Context(), "kdig", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

func TestPipeliningOverTLS(t *testing.T) {
	overTLS, _, config, _ := serveSecure(t)
	config.ServerName, config.NextProtos = "ns.mesh.internal", []string{"dot"}
	conn, err := tls.Dial("tcp", overTLS.String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().NegotiatedProtocol; got != "dot" {
		t.Errorf("the protocol is %q", got)
	}
	c := &dns.Conn{Conn: conn}
	for id := range uint16(50) {
		m := question("web.default.mesh.internal.", dns.TypeA)
		m.Id = id
		if err := c.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for id := range uint16(50) {
		if m, err := c.ReadMsg(); err != nil || m.Id != id || len(m.Answer) == 0 {
			t.Fatalf("%d: %v, %v", id, m, err)
		}
	}
}

func TestHTTPS(t *testing.T) {
	_, server, config, _ := serveSecure(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	pack := func(name string, qtype uint16) []byte {
		packed, err := question(name, qtype).Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	web, nobody := pack("web.default.mesh.internal.", dns.TypeA), pack("nobody.mesh.internal.", dns.TypeA)
	outside, soa := pack("example.org.", dns.TypeA), pack("mesh.internal.", dns.TypeSOA)
	reply := bytes.Clone(web)
	reply[2] |= 0x80
	text := base64.RawURLEncoding.EncodeToString
	const kind = "application/dns-message"
	for _, c := range []struct {
		name, method, path, kind string
		body                     []byte
		status                   int
		cache                    string
		rcode                    int
	}{
		{"POST", "POST", "/dns-query", kind, web, 200, "max-age=5", dns.RcodeSuccess},
		{"GET", "GET", "/dns-query?dns=" + text(web), "", nil, 200, "max-age=5", dns.RcodeSuccess},
		{"a larger TTL", "GET", "/dns-query?dns=" + text(soa), "", nil, 200, "max-age=60", dns.RcodeSuccess},
		{"none is remembered as long as its SOA says", "POST", "/dns-query", kind, nobody, 200, "max-age=1", dns.RcodeNameError},
		{"a refusal is not kept", "POST", "/dns-query", kind, outside, 200, "no-store", dns.RcodeRefused},
		{"a message that is broken", "POST", "/dns-query", kind, web[:20], 200, "no-store", dns.RcodeFormatError},
		{"a message that is no query", "POST", "/dns-query", kind, reply, 400, "", -1},
		{"no message", "POST", "/dns-query", kind, nil, 400, "", -1},
		{"another content", "POST", "/dns-query", "text/plain", web, 415, "", -1},
		{"a large message", "POST", "/dns-query", kind, make([]byte, 4097), 413, "", -1},
		{"a large GET", "GET", "/dns-query?dns=" + strings.Repeat("A", 6000), "", nil, 414, "", -1},
		{"GET without a message", "GET", "/dns-query", "", nil, 400, "", -1},
		{"GET with padding", "GET", "/dns-query?dns=AAA=", "", nil, 400, "", -1},
		{"another method", "PUT", "/dns-query", kind, web, 405, "", -1},
		{"another path", "POST", "/", kind, web, 404, "", -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "https://"+server.String()+c.path, bytes.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.kind != "" {
				req.Header.Set("Content-Type", c.kind)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || resp.Header.Get("Cache-Control") != c.cache || resp.ProtoMajor != 2 {
				t.Errorf("%s, %s, cache %q, want %d, %q: %q", resp.Proto, resp.Status, resp.Header.Get("Cache-Control"), c.status, c.cache, body)
			}
			if c.status == 405 && resp.Header.Get("Allow") != "GET, POST" {
				t.Errorf("allowed is %q", resp.Header.Get("Allow"))
			}
			if c.rcode < 0 {
				return
			}
			var m dns.Msg
			if err := m.Unpack(body); err != nil || m.Rcode != c.rcode || resp.Header.Get("Content-Type") != kind {
				t.Errorf("%v, %v, %q", err, m, resp.Header.Get("Content-Type"))
			}
		})
	}
}

func TestSecureListenersWantACertificate(t *testing.T) {
	for _, o := range []dnsserver.Options{{TLS: []string{"127.0.0.1:0"}}, {HTTPS: []string{"127.0.0.1:0"}}} {
		if err := dnsserver.New(o).Listen(); err == nil || !strings.Contains(err.Error(), "no certificate") {
			t.Errorf("Listen: %v", err)
		}
	}
}

// Who begins no handshake, or asks nothing after it, is let go.
func TestCVEClass16_SilentTLSConnectionsEnd(t *testing.T) {
	t.Parallel()
	overTLS, overHTTPS, config, _ := serveSecure(t)
	config.ServerName = "ns.mesh.internal"
	for _, c := range []struct {
		name   string
		server netip.AddrPort
		secure bool
	}{{"TLS, no handshake", overTLS, false}, {"TLS, no query", overTLS, true}, {"HTTPS, no handshake", overHTTPS, false}, {"HTTPS, no request", overHTTPS, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var conn net.Conn
			var err error
			if c.secure {
				conn, err = tls.Dial("tcp", c.server.String(), config.Clone())
			} else {
				conn, err = net.Dial("tcp", c.server.String())
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("it is open after a minute")
			}
		})
	}
}
