package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// tlsBackend is a server of TLS that answers its name and, after a line, that line.
func tlsBackend(t testing.TB, name string, cfg *tls.Config) string {
	return rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
		c := tls.Server(conn, cfg)
		if c.Handshake() != nil {
			return
		}
		fmt.Fprintf(c, "%s for %s\n", name, c.ConnectionState().ServerName)
		line, _ := bufio.NewReader(c).ReadString('\n')
		_, _ = io.WriteString(c, line)
	})
}

// tcpChain is a chain that passes on what matches.
func tcpChain(to string, m config.ChainMatch) *config.FilterChain {
	return &config.FilterChain{Name: to, Match: m, TCP: &config.TCP{StatPrefix: to, Clusters: []config.WeightedCluster{{Name: to, Weight: 1}}, IdleTimeout: time.Minute}}
}

// pieces sends what is written in pieces, each a segment of its own, and first puts the first record into records of so many bytes.
type pieces struct {
	net.Conn
	records, segments int
	began             bool
}

func (p *pieces) Write(data []byte) (int, error) {
	send := data
	if !p.began && p.records > 0 {
		send = nil
		for content := data[5:]; len(content) > 0; {
			n := min(p.records, len(content))
			send = binary.BigEndian.AppendUint16(append(send, 22, 3, 1), uint16(n))
			send = append(send, content[:n]...)
			content = content[n:]
		}
	}
	p.began = true
	for len(send) > 0 {
		n := len(send)
		if p.segments > 0 {
			n = min(n, p.segments)
		}
		if _, err := p.Conn.Write(send[:n]); err != nil {
			return 0, err
		}
		send = send[n:]
	}
	return len(data), nil
}

// sniProxy has chains for strict.example, *.example and, with rest, for everything else.
func sniProxy(t *testing.T, a *testbed.Authority, rest bool) *testProxy {
	cert := a.Leaf("a.example")
	names := config.TransportTLS
	l := &config.Listener{
		Name: "sni", Addresses: []netip.AddrPort{freeAddr(t)}, Filters: config.Filters{Timeout: 10 * time.Second},
		Chains: []*config.FilterChain{
			tcpChain("strict", config.ChainMatch{ServerNames: []string{"strict.example"}}),
			tcpChain("wild", config.ChainMatch{ServerNames: []string{".example"}, Transport: names}),
		},
	}
	if rest {
		l.Otherwise = tcpChain("rest", config.ChainMatch{})
	}
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(
		cluster("strict", tlsBackend(t, "strict", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})),
		cluster("wild", tlsBackend(t, "wild", &tls.Config{Certificates: []tls.Certificate{cert}})),
		cluster("rest", tlsBackend(t, "rest", &tls.Config{Certificates: []tls.Certificate{cert}})),
	)}, oneLoop)
}

// greeting is the first line that a TLS client reads behind the proxy.
func (p *testProxy) greeting(cfg *tls.Config, records, segments int) (string, error) {
	conn := tls.Client(&pieces{Conn: p.dial(), records: records, segments: segments}, cfg)
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// TestCVEClass17_ServerNamesAreReadHoweverTheyCome: a ClientHello in fragments, or with another case, never reaches the chain for those that name
// nobody, which may ask for less (CVE-2026-32305, CVE-2026-53622).
func TestCVEClass17_ServerNamesAreReadHoweverTheyCome(t *testing.T) {
	a := testbed.NewAuthority(t)
	p := sniProxy(t, a, true)
	for _, c := range []struct{ name, want string }{
		{"strict.example", "strict for strict.example"},
		{"STRICT.Example", "strict for STRICT.Example"},
		{"other.example", "wild for other.example"},
		{"deep.other.example", "wild for deep.other.example"},
		{"example", "rest for example"},
		{"strict.example.test", "rest for strict.example.test"},
		{"", "rest for"},
	} {
		for _, cut := range []struct{ records, segments int }{{0, 0}, {0, 1}, {1, 0}, {100, 7}} {
			cfg := &tls.Config{ServerName: c.name, InsecureSkipVerify: true, Certificates: []tls.Certificate{a.Leaf("client")}}
			got, err := p.greeting(cfg, cut.records, cut.segments)
			if err != nil || got != c.want {
				t.Errorf("%q in records of %d and segments of %d: %q, %v, want %q", c.name, cut.records, cut.segments, got, err, c.want)
			}
		}
	}
	if got, err := p.greeting(&tls.Config{ServerName: "strict.example", InsecureSkipVerify: true}, 1, 1); err == nil {
		t.Errorf("without a certificate: %q", got)
	}
	p.waitStat("tls_inspector.sni_not_found", "4")
	p.waitStat(p.listenerStat("no_filter_chain_match"), "0")
}

// TestCVEClass17_WhatNamesNobodyRightlyIsClosed: neither a broken ClientHello nor one without a chain is served by another.
func TestCVEClass17_WhatNamesNobodyRightlyIsClosed(t *testing.T) {
	p := sniProxy(t, testbed.NewAuthority(t), false)
	for _, name := range []string{"", "strict.example.test", "xexample"} {
		if got, err := p.greeting(&tls.Config{ServerName: name, InsecureSkipVerify: true}, 0, 0); err == nil {
			t.Errorf("%q: %q", name, got)
		}
	}
	p.waitStat(p.listenerStat("no_filter_chain_match"), "3")
	p.waitStat(p.listenerStat("downstream_cx_total"), "0")

	broken := sniProxy(t, testbed.NewAuthority(t), true)
	for _, text := range []string{
		"\x16\x03\x01\x00\x00",                                     // an empty record
		"\x16\x03\x01\x00\x05\x02\x00\x00\x01x",                    // no ClientHello
		"\x16\x03\x01\x40\x00\x01\x00\xff\xff",                     // one that is too large
		"\x16\x03\x01\x00\x04\x01\x00\x10\x00\x17\x03\x03\x00\x01", // another record within
	} {
		conn := broken.dial()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		closedUnanswered(t, conn)
	}
	broken.waitStat("tls_inspector.client_hello_refused", "4")
	broken.waitStat(broken.listenerStat("downstream_listener_filter_error"), "4")
	broken.waitStat(broken.listenerStat("downstream_cx_total"), "0")
}

// TestCVEClass16_StalledClientHellosEnd: neither silence nor half a ClientHello holds a connection (CVE-2026-22045), and with
// continue_on_listener_filters_timeout only silence is gone on with.
func TestCVEClass16_StalledClientHellosEnd(t *testing.T) {
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(conn, "hello\n")
		_, _ = io.Copy(io.Discard, r)
	})
	for _, goOn := range []bool{false, true} {
		l := &config.Listener{
			Name: "x", Addresses: []netip.AddrPort{freeAddr(t)}, Filters: config.Filters{Timeout: 300 * time.Millisecond, ContinueOnTimeout: goOn},
			Chains: []*config.FilterChain{tcpChain("name", config.ChainMatch{ServerNames: []string{"a"}}), tcpChain("rest", config.ChainMatch{})},
		}
		p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("rest", backend), cluster("name", backend))}, oneLoop)
		for _, text := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01\x00\x01"} {
			conn := p.dial()
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			if goOn && text == "" {
				if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
					t.Errorf("a silent client: %q, %v", line, err)
				}
				continue
			}
			closedUnanswered(t, conn)
		}
		p.waitStat(p.listenerStat("downstream_pre_cx_timeout"), "3")
		conn := p.dial()
		if _, err := io.WriteString(conn, "\x16\x03"); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		closedUnanswered(t, conn)
		p.waitStat(p.listenerStat("downstream_listener_filter_remote_close"), "1")
		p.waitStat(p.listenerStat("downstream_pre_cx_active"), "0")
	}
}

// TestProtocolsShareAPort: TLS, HTTP and other bytes on one port, also behind a PROXY header.
func TestProtocolsShareAPort(t *testing.T) {
	a := testbed.NewAuthority(t)
	echo := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		line, _ := r.ReadString('\n')
		_, _ = io.WriteString(conn, "echo "+line)
	})
	web := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l := &config.Listener{
		Name: "all", Addresses: web.Addresses, ProxyProtocol: &config.ProxyProtocol{Optional: true}, Filters: config.Filters{Timeout: 10 * time.Second, InspectHTTP: true},
		Chains: []*config.FilterChain{
			{Match: config.ChainMatch{Transport: config.TransportPlain, Protocols: []string{"http/1.1", "http/1.0"}}, HTTP: web.HTTP},
			tcpChain("tls", config.ChainMatch{Transport: config.TransportTLS}),
			tcpChain("far", config.ChainMatch{Transport: config.TransportPlain, Destinations: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}),
			tcpChain("echo", config.ChainMatch{Transport: config.TransportPlain}),
		},
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(
		cluster("web", server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "web") })),
		cluster("tls", tlsBackend(t, "tls", &tls.Config{Certificates: []tls.Certificate{a.Leaf("a")}})), cluster("echo", echo),
	)}, oneLoop)
	for _, header := range []string{"", "PROXY TCP4 192.0.2.1 203.0.113.1 56324 443\r\n"} {
		if got := p.raw(header + closing); !strings.HasSuffix(got, "\r\n\r\nweb") {
			t.Errorf("%q", got)
		}
		if got := p.raw(header + "any line\n"); got != "echo any line\n" {
			t.Errorf("%q", got)
		}
		conn := p.dial()
		if _, err := io.WriteString(conn, header); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(tls.Client(conn, &tls.Config{InsecureSkipVerify: true})).ReadString('\n'); line != "tls for \n" {
			t.Errorf("%q, %v", line, err)
		}
	}
	// The destination of the header counts: its chain's cluster is not there.
	conn := p.dial()
	if _, err := io.WriteString(conn, proxyLine+"x\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v", got, err)
	}
	p.waitStat("tcp.far.downstream_cx_no_route", "1")
	p.waitStat("http_inspector.http11_found", "2")
	p.waitStat("http_inspector.http_not_found", "3")
}

// TestChainsChange: a chain that stays keeps its connections, also when what it does changes; those of one that left end when the time for that
// is over.
func TestChainsChange(t *testing.T) {
	a := testbed.NewAuthority(t)
	cert := &tls.Config{Certificates: []tls.Certificate{a.Leaf("a")}}
	cl := clusters(cluster("one", tlsBackend(t, "one", cert)), cluster("two", tlsBackend(t, "two", cert)))
	addr := freeAddr(t)
	listener := func(chains ...*config.FilterChain) []*config.Listener {
		return []*config.Listener{{Name: "x", Addresses: []netip.AddrPort{addr}, Filters: config.Filters{Timeout: 10 * time.Second}, Chains: chains}}
	}
	chain := func(to, name string) *config.FilterChain {
		return tcpChain(to, config.ChainMatch{ServerNames: []string{name}})
	}
	p := start(t, &config.Config{Listeners: listener(chain("one", "stays"), chain("one", "leaves")), Clusters: cl}, func(o *proxy.Options) { o.Loops, o.ListenerDrainTime = 1, 500*time.Millisecond })
	open := func(name, want string) *tls.Conn {
		t.Helper()
		conn := tls.Client(p.dial(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if line, err := readLine(conn); err != nil || line != want+" for "+name+"\n" {
			t.Fatalf("%s: %q, %v", name, line, err)
		}
		return conn
	}
	stays, leaves := open("stays", "one"), open("leaves", "one")
	p.config.Set(&config.Config{Version: "2", Listeners: listener(chain("two", "stays"), chain("two", "new")), Clusters: cl})
	p.waitStat(p.listenerStat("downstream_cx_active"), "1")
	if n, err := leaves.Read(make([]byte, 1)); err == nil {
		t.Errorf("the connection of the chain that left: %d bytes", n)
	}
	open("stays", "two")
	open("new", "two")
	if _, err := io.WriteString(stays, "still there\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := readLine(stays); line != "still there\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// readLine reads a line without reading on.
func readLine(r io.Reader) (string, error) {
	var line bytes.Buffer
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return line.String(), err
		}
		line.WriteByte(b[0])
		if b[0] == '\n' {
			return line.String(), nil
		}
	}
}
