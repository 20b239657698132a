package certificate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/certificate"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// log is a log that can be read while it is written.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newStore makes a Store that watches.
func newStore(t *testing.T, cfg *config.Config) (*certificate.Store, *log) {
	t.Helper()
	l := &log{}
	s := certificate.New(slog.New(slog.NewTextHandler(l, nil)))
	s.Take(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { cancel(); run.Wait() })
	return s, l
}

func file(path string) config.Source { return config.Source{File: path} }

func both(chain, key string) config.TLS {
	return config.TLS{MinVersion: config.TLS12, MaxVersion: config.TLS13, Certificates: []config.Certificate{{Chain: file(chain), Key: file(key)}}}
}

func inline(t *testing.T, cert tls.Certificate) config.TLS {
	chain, key := testbed.PEM(t, cert)
	return config.TLS{MinVersion: config.TLS12, MaxVersion: config.TLS13, Certificates: []config.Certificate{{Chain: config.Source{Inline: chain}, Key: config.Source{Inline: key}}}}
}

func downstream(t *config.DownstreamTLS) *config.Config {
	return &config.Config{Listeners: []*config.Listener{{Chains: []*config.FilterChain{{TLS: t}}}}}
}

// shake shakes hands over a loopback connection and passes a byte each way, so that both ends know how it ended.
func shake(t *testing.T, server, client *tls.Config) (down, up tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var both sync.WaitGroup
	both.Go(func() {
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if serverErr = conn.Handshake(); serverErr == nil {
			_, _ = conn.Write([]byte("x"))
			_, _ = io.ReadFull(conn, make([]byte, 1))
		}
		down = conn.ConnectionState()
	})
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if clientErr = conn.Handshake(); clientErr == nil {
		if _, clientErr = io.ReadFull(conn, make([]byte, 1)); clientErr == nil {
			_, clientErr = conn.Write([]byte("x"))
		}
	}
	up = conn.ConnectionState()
	conn.Close()
	both.Wait()
	return down, up, serverErr, clientErr
}

// within waits until something holds.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s did not come", what)
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCertificateIsSwapped: new handshakes get the new certificate, and a torn or mismatched write leaves the old one.
func TestCertificateIsSwapped(t *testing.T) {
	a := testbed.NewAuthority(t)
	dir := t.TempDir()
	chain, key := testbed.WritePair(t, dir, "a", a.Leaf("one"))
	settings := &config.DownstreamTLS{TLS: both(chain, key)}
	s, l := newStore(t, downstream(settings))
	server := s.Server(settings)
	trusted := &tls.Config{RootCAs: a.Pool()}
	serves := func(name string) bool {
		c := trusted.Clone()
		c.ServerName = name
		_, _, _, err := shake(t, server, c)
		return err == nil
	}
	if !serves("one") {
		t.Fatal("the first certificate is not served")
	}
	two, twoKey := testbed.PEM(t, a.Leaf("two"))
	mustWrite(t, chain, two) // and the key is still the old one
	within(t, "the word about the mismatch", func() bool { return s.Stats().UpdateRejected == 1 })
	if !serves("one") {
		t.Error("a mismatched pair took the certificate away")
	}
	mustWrite(t, key, twoKey[:len(twoKey)/2])
	within(t, "the word about the torn key", func() bool { return s.Stats().UpdateRejected == 2 })
	if !serves("one") {
		t.Error("a torn key took the certificate away")
	}
	mustWrite(t, key, twoKey)
	within(t, "the second certificate", func() bool { return serves("two") })

	// As an orchestrator does it: a directory behind a link is replaced by another one.
	real := t.TempDir()
	for i, name := range []string{"three", "four"} {
		sub := filepath.Join(real, name)
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		testbed.WritePair(t, sub, "a", a.Leaf(name))
		next := filepath.Join(real, fmt.Sprint("next", i))
		if err := os.Symlink(sub, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(real, "now")); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			settings = &config.DownstreamTLS{TLS: both(filepath.Join(real, "now", "a.crt"), filepath.Join(real, "now", "a.key"))}
			s.Take(downstream(settings))
			server = s.Server(settings)
		}
		within(t, "certificate "+name, func() bool { return serves(name) })
	}
	if text := l.String(); !strings.Contains(text, "the last good one stays") || strings.Contains(text, "PRIVATE") {
		t.Error(text)
	}
	if n := s.Stats().DaysUntilFirstExpiry; n != 30 {
		t.Errorf("%d days until the first expires, want 30", n)
	}
}

// TestMissingFilesAppear: without a certificate handshakes fail, and are served as soon as it is there, also when its directory was not.
func TestMissingFilesAppear(t *testing.T) {
	a := testbed.NewAuthority(t)
	dir := filepath.Join(t.TempDir(), "later")
	settings := &config.DownstreamTLS{TLS: both(filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"))}
	settings.Verify = &config.Verification{CA: file(filepath.Join(dir, "ca.crt")), MaxDepth: -1}
	s, l := newStore(t, downstream(settings))
	client := &tls.Config{RootCAs: a.Pool(), ServerName: "web"}
	if _, _, err, _ := shake(t, s.Server(settings), client); err == nil {
		t.Error("served without a certificate")
	}
	if !strings.Contains(l.String(), "handshakes fail") {
		t.Error(l.String())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	testbed.WritePair(t, dir, "a", a.Leaf("web"))
	within(t, "the certificate", func() bool { return s.Stats().UpdateSuccess == 1 })
	if _, _, err, _ := shake(t, s.Server(settings), client); err == nil {
		t.Error("served without the authorities of clients")
	}
	mustWrite(t, filepath.Join(dir, "ca.crt"), a.PEM())
	within(t, "the authorities", func() bool { _, _, _, err := shake(t, s.Server(settings), client); return err == nil })
}

// TestClientsAreVerified: the chain, what a certificate is for, its time, names, pins and depth.
func TestClientsAreVerified(t *testing.T) {
	a, other := testbed.NewAuthority(t), testbed.NewAuthority(t)
	under := a.Under(&x509.Certificate{})
	client := func(change func(*x509.Certificate)) tls.Certificate {
		template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if change != nil {
			change(template)
		}
		return a.Sign(template)
	}
	uri := func(text string) func(*x509.Certificate) {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
	}
	name := func(kind config.SANType, how config.TextHow, text string) config.Verification {
		return config.Verification{Names: []config.SANMatch{{Type: kind, Match: config.TextMatch{How: how, Text: text}}}, MaxDepth: -1}
	}
	deep := under.Sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	deep.Certificate = append(deep.Certificate, under.Cert.Raw)
	plain := client(nil)
	any := config.Verification{MaxDepth: -1}
	for _, c := range []struct {
		what     string
		verify   config.Verification
		cert     *tls.Certificate
		optional bool
		ok       bool
	}{
		{"a right one", any, &plain, false, true},
		{"none", any, nil, false, false},
		{"none where that may be", any, nil, true, true},
		{"a stranger's", any, ptr(other.Leaf("x")), false, false},
		{"a stranger's where none is needed", any, ptr(other.Leaf("x")), true, false},
		{"a server's", any, ptr(client(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), false, false},
		{"an expired one", any, ptr(client(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		})), false, false},
		{"one of the future", any, ptr(client(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		})), false, false},
		{"an intermediate", any, &deep, false, true},
		{"too many", config.Verification{}, &deep, false, false},
		{"just enough", config.Verification{MaxDepth: 1}, &deep, false, true},
		{"the name", name(config.SANURI, config.TextExact, "spiffe://mesh/web"), ptr(client(uri("spiffe://mesh/web"))), false, true},
		{"another name", name(config.SANURI, config.TextExact, "spiffe://mesh/web"), ptr(client(uri("spiffe://mesh/web2"))), false, false},
		{"another name's case", name(config.SANURI, config.TextExact, "spiffe://mesh/web"), ptr(client(uri("spiffe://mesh/Web"))), false, false},
		{"a name of another type", name(config.SANDNS, config.TextPrefix, "spiffe"), ptr(client(uri("spiffe://mesh/web"))), false, false},
		{"a prefix", name(config.SANURI, config.TextPrefix, "spiffe://mesh/"), ptr(client(uri("spiffe://mesh/web"))), false, true},
		{"an expression", name(config.SANAny, config.TextRegexp, "spiffe://(mesh|a)/web"), ptr(client(uri("spiffe://mesh/web"))), false, true},
		{"a part of an expression", name(config.SANAny, config.TextRegexp, "spiffe://mesh|x"), ptr(client(uri("spiffe://mesh/web"))), false, false},
		{"a wildcard", name(config.SANDNS, config.TextExact, "a.mesh.test"), ptr(client(func(c *x509.Certificate) { c.DNSNames = []string{"*.Mesh.test"} })), false, true},
		{"below a wildcard", name(config.SANDNS, config.TextExact, "a.b.mesh.test"), ptr(client(func(c *x509.Certificate) { c.DNSNames = []string{"*.mesh.test"} })), false, false},
		{"a wildcard of everything", name(config.SANDNS, config.TextExact, "mesh.test"), ptr(client(func(c *x509.Certificate) { c.DNSNames = []string{"*.test"} })), false, false},
		{"the common name alone", name(config.SANDNS, config.TextExact, "a.test"), ptr(client(func(c *x509.Certificate) { c.Subject.CommonName = "a.test" })), false, false},
		{"an address", name(config.SANIP, config.TextExact, "10.0.0.1"), ptr(client(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} })), false, true},
		{"mail", name(config.SANEmail, config.TextSuffix, "@mesh"), ptr(client(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@mesh"} })), false, true},
		{"a pin", config.Verification{MaxDepth: -1, Hashes: [][32]byte{{1}, sha256.Sum256(plain.Leaf.Raw)}}, &plain, false, true},
		{"a pinned key", config.Verification{MaxDepth: -1, Hashes: [][32]byte{{1}}, SPKIs: [][32]byte{sha256.Sum256(plain.Leaf.RawSubjectPublicKeyInfo)}}, &plain, false, true},
		{"another pin", config.Verification{MaxDepth: -1, Hashes: [][32]byte{{1}}}, &plain, false, false},
	} {
		for _, hidden := range []bool{false, true} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				verify := c.verify
				verify.CA = config.Source{Inline: a.PEM()}
				settings := &config.DownstreamTLS{TLS: inline(t, a.Leaf("server")), RequireClient: !c.optional, HideCAs: hidden}
				settings.Verify = &verify
				s := certificate.New(slog.New(slog.DiscardHandler))
				s.Take(downstream(settings))
				cfg := &tls.Config{RootCAs: a.Pool(), ServerName: "server", MaxVersion: version, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if c.cert == nil {
						return &tls.Certificate{}, nil
					}
					return c.cert, nil
				}}
				_, _, serverErr, clientErr := shake(t, s.Server(settings), cfg)
				if (serverErr == nil) != c.ok || (clientErr == nil) != c.ok {
					t.Errorf("%s (hidden %v, version %x): %v, %v", c.what, hidden, version, serverErr, clientErr)
				}
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

// upstreamOf is a cluster of one endpoint.
func upstreamOf(t *config.UpstreamTLS) (*config.Cluster, *config.Endpoint) {
	e := &config.Endpoint{Addr: netip.MustParseAddrPort("10.0.0.1:443"), Hostname: "Web.test"}
	return &config.Cluster{Name: "c", TLS: t, Endpoints: []*config.Endpoint{e}}, e
}

// TestCVEClass19_ServersAreVerified: no server is taken that the settings do not mean.
func TestCVEClass19_ServersAreVerified(t *testing.T) {
	a, other := testbed.NewAuthority(t), testbed.NewAuthority(t)
	right := a.Leaf("web.test")
	clientOnly := a.Sign(&x509.Certificate{DNSNames: []string{"web.test"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	ca := config.Source{Inline: a.PEM()}
	for _, c := range []struct {
		what string
		t    config.UpstreamTLS
		v    config.Verification
		cert tls.Certificate
		want error
		sni  string
	}{
		{"any name", config.UpstreamTLS{}, config.Verification{CA: ca}, right, nil, ""},
		{"a stranger's", config.UpstreamTLS{}, config.Verification{CA: ca}, other.Leaf("web.test"), certificate.ErrChain, ""},
		{"a client's", config.UpstreamTLS{}, config.Verification{CA: ca}, clientOnly, certificate.ErrChain, ""},
		{"no usable authority", config.UpstreamTLS{}, config.Verification{CA: config.Source{Inline: "junk"}}, right, certificate.ErrChain, ""},
		{"its SNI", config.UpstreamTLS{ServerName: "web.test", VerifyName: true}, config.Verification{CA: ca}, right, nil, "web.test"},
		{"its host name", config.UpstreamTLS{ServerName: "x", HostServerName: true, VerifyName: true}, config.Verification{CA: ca}, right, nil, "web.test"},
		{"another SNI", config.UpstreamTLS{ServerName: "db.test", VerifyName: true}, config.Verification{CA: ca}, right, certificate.ErrChain, "db.test"},
		{"an SNI that is not verified", config.UpstreamTLS{ServerName: "outbound_.80_._.db"}, config.Verification{CA: ca}, right, nil, "outbound_.80_._.db"},
		{"no SNI to verify", config.UpstreamTLS{VerifyName: true}, config.Verification{CA: ca}, right, certificate.ErrChain, ""},
		{"a name", config.UpstreamTLS{}, config.Verification{CA: ca, Names: []config.SANMatch{{Type: config.SANDNS, Match: config.TextMatch{Text: "db.test"}}}}, right, certificate.ErrNames, ""},
		{"a pin alone", config.UpstreamTLS{}, config.Verification{Hashes: [][32]byte{sha256.Sum256(right.Leaf.Raw)}}, right, nil, ""},
		{"another's pin alone", config.UpstreamTLS{}, config.Verification{Hashes: [][32]byte{{}}}, right, certificate.ErrPins, ""},
	} {
		for _, version := range []uint16{config.TLS12, config.TLS13} {
			settings := c.t
			settings.MinVersion, settings.MaxVersion = config.TLS12, version
			verify := c.v
			verify.MaxDepth = -1
			settings.Verify = &verify
			s := certificate.New(slog.New(slog.DiscardHandler))
			cluster, e := upstreamOf(&settings)
			s.Take(&config.Config{Clusters: map[string]*config.Cluster{"c": cluster}})
			down, _, _, err := shake(t, &tls.Config{Certificates: []tls.Certificate{c.cert}}, s.Client(cluster, e, certificate.ForBytes))
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || err == nil && down.ServerName != c.sni {
				t.Errorf("%s, version %x: SNI %q, %v, want %v", c.what, version, down.ServerName, err, c.want)
			}
		}
	}
}

// TestSessionsAreResumed: of each endpoint, and only as long as its certificate is still taken; both ends verify again.
func TestSessionsAreResumed(t *testing.T) {
	a := testbed.NewAuthority(t)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	mustWrite(t, ca, a.PEM())
	for _, hidden := range []bool{false, true} {
		down := &config.DownstreamTLS{TLS: inline(t, a.Leaf("web.test")), RequireClient: true, HideCAs: hidden}
		down.Verify = &config.Verification{CA: file(ca), MaxDepth: -1}
		up := &config.UpstreamTLS{TLS: inline(t, a.Leaf("client")), MaxSessions: 1}
		up.Verify = &config.Verification{CA: config.Source{Inline: a.PEM()}, MaxDepth: -1}
		cfg := downstream(down)
		cluster, e := upstreamOf(up)
		cfg.Clusters = map[string]*config.Cluster{"c": cluster}
		s, _ := newStore(t, cfg)
		other := *e
		other.Addr = netip.MustParseAddrPort("10.0.0.2:443")
		for i, c := range []struct {
			e       *config.Endpoint
			resumed bool
		}{{e, false}, {e, true}, {&other, false}, {&other, true}, {e, true}} {
			state, _, serverErr, err := shake(t, s.Server(down), s.Client(cluster, c.e, certificate.ForHTTP1))
			if err != nil || serverErr != nil || state.DidResume != c.resumed {
				t.Errorf("%d: resumed %v, %v, %v", i, state.DidResume, serverErr, err)
			}
		}
		// The client's authority is trusted no more: its session is not either.
		before := s.Stats().UpdateSuccess
		mustWrite(t, ca, testbed.NewAuthority(t).PEM())
		within(t, "the other authority", func() bool { return s.Stats().UpdateSuccess > before })
		within(t, "the end of the session", func() bool {
			_, _, serverErr, _ := shake(t, s.Server(down), s.Client(cluster, e, certificate.ForHTTP1))
			return serverErr != nil
		})
		mustWrite(t, ca, a.PEM())
	}
	none := &config.DownstreamTLS{TLS: inline(t, a.Leaf("web.test")), NoTickets: true}
	cluster, e := upstreamOf(&config.UpstreamTLS{TLS: config.TLS{MinVersion: config.TLS12, MaxVersion: config.TLS13, Verify: &config.Verification{CA: config.Source{Inline: a.PEM()}, MaxDepth: -1}}, MaxSessions: 1})
	s, _ := newStore(t, downstream(none))
	for range 2 {
		if state, _, _, err := shake(t, s.Server(none), s.Client(cluster, e, certificate.ForBytes)); err != nil || state.DidResume {
			t.Errorf("without tickets: resumed %v, %v", state.DidResume, err)
		}
	}
}

// TestTicketKeysAreShared: two proxies with the same keys take each other's tickets, also when the key is the second by now.
func TestTicketKeysAreShared(t *testing.T) {
	a := testbed.NewAuthority(t)
	cert := inline(t, a.Leaf("web.test"))
	first, second := filepath.Join(t.TempDir(), "1"), filepath.Join(t.TempDir(), "2")
	mustWrite(t, first, strings.Repeat("1", 80))
	mustWrite(t, second, strings.Repeat("2", 80))
	one := &config.DownstreamTLS{TLS: cert, TicketKeys: []config.Source{file(first)}}
	two := &config.DownstreamTLS{TLS: cert, TicketKeys: []config.Source{file(second), file(first)}}
	client := &tls.Config{RootCAs: a.Pool(), ServerName: "web.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for i, settings := range []*config.DownstreamTLS{one, one, two} {
		s, _ := newStore(t, downstream(settings))
		if state, _, _, err := shake(t, s.Server(settings), client); err != nil || state.DidResume != (i > 0) {
			t.Errorf("%d: resumed %v, %v", i, state.DidResume, err)
		}
	}
}

// TestProtocols: what is negotiated by ALPN is the settings' or what the connection is for.
func TestProtocols(t *testing.T) {
	a := testbed.NewAuthority(t)
	server := &tls.Config{Certificates: []tls.Certificate{a.Leaf("web.test")}, NextProtos: []string{"x", "h2", "http/1.1"}}
	for _, c := range []struct {
		names []string
		use   certificate.Use
		want  string
	}{
		{nil, certificate.ForBytes, ""},
		{nil, certificate.ForHTTP1, "http/1.1"},
		{nil, certificate.ForHTTP2, "h2"},
		{nil, certificate.ForHTTP, "h2"},
		{[]string{"x"}, certificate.ForHTTP, "x"},
	} {
		settings := &config.UpstreamTLS{TLS: config.TLS{MinVersion: config.TLS12, MaxVersion: config.TLS13, Protocols: c.names, Verify: &config.Verification{CA: config.Source{Inline: a.PEM()}, MaxDepth: -1}}}
		s := certificate.New(slog.New(slog.DiscardHandler))
		cluster, e := upstreamOf(settings)
		s.Take(&config.Config{Clusters: map[string]*config.Cluster{"c": cluster}})
		if _, state, _, err := shake(t, server, s.Client(cluster, e, c.use)); err != nil || state.NegotiatedProtocol != c.want {
			t.Errorf("%v for %d: %q, %v", c.names, c.use, state.NegotiatedProtocol, err)
		}
	}
}

// TestWhatIsNotUsedIsForgotten: only the configuration and the one before it count.
func TestWhatIsNotUsedIsForgotten(t *testing.T) {
	a := testbed.NewAuthority(t)
	s := certificate.New(slog.New(slog.DiscardHandler))
	for range 10 {
		s.Take(downstream(&config.DownstreamTLS{TLS: inline(t, a.Leaf("x"))}))
		if n := s.Stats().Certificates; n > 2 {
			t.Fatalf("%d certificates are kept", n)
		}
	}
}

// TestCVEClass27_KeysAreNotShown: no log line has a part of a key, and one that everybody may read is told.
func TestCVEClass27_KeysAreNotShown(t *testing.T) {
	a := testbed.NewAuthority(t)
	chain, key := testbed.WritePair(t, t.TempDir(), "a", a.Leaf("x"))
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	_, text := testbed.PEM(t, a.Leaf("y"))
	broken := strings.Replace(text, "M", "!", 1)
	other := &config.DownstreamTLS{TLS: config.TLS{MinVersion: config.TLS12, Certificates: []config.Certificate{{Chain: file(chain), Key: config.Source{Inline: broken}}}}}
	cfg := downstream(&config.DownstreamTLS{TLS: both(chain, key)})
	cfg.Listeners = append(cfg.Listeners, downstream(other).Listeners...)
	_, l := newStore(t, cfg)
	lines := strings.Split(text, "\n")
	if got := l.String(); !strings.Contains(got, "everybody on this host may read a private key") || !strings.Contains(got, key) || strings.Contains(got, lines[1][10:30]) || strings.Contains(got, lines[2]) {
		t.Error(got)
	}
}
