package certificate_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/certificate"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// upstreamOf is a cluster of one endpoint.
func upstreamOf(t *config.UpstreamTLS) (*config.Cluster, *config.Endpoint) {
	e := &config.Endpoint{Addr: config.Address{IP: netip.MustParseAddrPort("10.0.0.1:443")}, Hostname: "Web.test"}
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
		other.Addr.IP = netip.MustParseAddrPort("10.0.0.2:443")
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

// TestVersionsTellConfigurationsApart: whoever keeps a connection learns by its version when it would be made in another way.
func TestVersionsTellConfigurationsApart(t *testing.T) {
	a := testbed.NewAuthority(t)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	mustWrite(t, ca, a.PEM())
	settings := &config.UpstreamTLS{ServerName: "x", HostServerName: true, TLS: config.TLS{MinVersion: config.TLS12, MaxVersion: config.TLS13, Verify: &config.Verification{CA: file(ca), MaxDepth: -1}}}
	cluster, e := upstreamOf(settings)
	s, _ := newStore(t, &config.Config{Clusters: map[string]*config.Cluster{"c": cluster}})
	version := func(e *config.Endpoint, use certificate.Use) certificate.Version {
		cfg, v := s.ClientVersion(cluster, e, use)
		if cfg == nil {
			t.Fatal("no configuration")
		}
		return v
	}
	first := version(e, certificate.ForHTTP1)
	if again := version(e, certificate.ForHTTP1); again != first {
		t.Error("it changed without a reason")
	}
	renamed := *e
	renamed.Hostname = "db.test"
	if version(&renamed, certificate.ForHTTP1) == first || version(e, certificate.ForHTTP2) == first {
		t.Error("another name, or another use, is no other version")
	}
	mustWrite(t, ca, testbed.NewAuthority(t).PEM())
	within(t, "another version", func() bool { return version(e, certificate.ForHTTP1) != first })
	cluster.TLS = nil
	if cfg, v := s.ClientVersion(cluster, e, certificate.ForHTTP1); cfg != nil || v != (certificate.Version{}) || v == first {
		t.Errorf("plaintext: %v, %v", cfg, v)
	}
}
