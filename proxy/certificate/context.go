package certificate

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// leastSessions is how many endpoints of a cluster have their last session kept at least, if any is.
const leastSessions = 32

// common is what settings of both ends refer to.
type common struct {
	pairs []*pair
	pool  *pool // nil: no authorities are asked for
	rules *rules
}

func (s *Store) common(t *config.TLS) common {
	c := common{pool: s.pool(t.Verify), rules: newRules(t.Verify)}
	for _, from := range t.Certificates {
		c.pairs = append(c.pairs, s.pair(from))
		if from.Key.File != "" && openToAll(from.Key.File) {
			s.log.Warn("everybody on this host may read a private key", "file", from.Key.File)
		}
	}
	return c
}

// base makes a configuration with what is there now.
func (c *common) base(t *config.TLS) *tls.Config {
	out := &tls.Config{
		MinVersion: t.MinVersion, MaxVersion: t.MaxVersion, CipherSuites: t.CipherSuites, NextProtos: t.Protocols,
		DynamicRecordSizingDisabled: true, // many bytes are few records
	}
	for _, curve := range t.Curves {
		out.CurvePreferences = append(out.CurvePreferences, tls.CurveID(curve))
	}
	for _, p := range c.pairs {
		if cert := p.current.Load(); cert != nil {
			out.Certificates = append(out.Certificates, *cert)
		}
	}
	return out
}

// roots are the present authorities; nil: there are none yet.
func (c *common) roots() *x509.CertPool {
	if c.pool == nil {
		return nil
	}
	return c.pool.current.Load()
}

// server is what a listener's settings came to.
type server struct {
	common
	store   *Store
	from    *config.DownstreamTLS
	outer   *tls.Config // the same for ever; it holds the keys of session tickets
	current atomic.Pointer[tls.Config]
}

var (
	errNoCertificate = errors.New("no certificate can be used")
	errNoAuthority   = errors.New("no authorities for clients can be used")
	errNoSNI         = errors.New("client names no server")
)

func (s *Store) newServer(t *config.DownstreamTLS) *server {
	made := &server{common: s.common(&t.TLS), store: s, from: t}
	made.outer = &tls.Config{MinVersion: t.MinVersion, GetConfigForClient: made.forClient, SessionTicketsDisabled: t.NoTickets, DynamicRecordSizingDisabled: true}
	made.rebuild()
	return made
}

// forClient is crypto/tls's question how to serve a client.
func (t *server) forClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	cfg := t.current.Load()
	switch {
	case len(cfg.Certificates) == 0:
		return nil, errNoCertificate
	case t.pool != nil && cfg.ClientCAs == nil: // to crypto/tls that would be the system's
		return nil, errNoAuthority
	case t.from.RequireSNI && hello.ServerName == "":
		return nil, errNoSNI
	}
	return cfg, nil
}

// rebuild takes what there is now for the handshakes to come; the Store's mu is held.
func (t *server) rebuild() {
	cfg := t.base(&t.from.TLS)
	cfg.SessionTicketsDisabled = t.from.NoTickets
	if r := t.rules; r != nil {
		cfg.ClientCAs = t.roots()
		switch {
		case t.pool == nil && t.from.RequireClient:
			cfg.ClientAuth = tls.RequireAnyClientCert // the rules have pins
		case t.pool == nil:
			cfg.ClientAuth = tls.RequestClientCert
		case t.from.RequireClient:
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
		default:
			cfg.ClientAuth = tls.VerifyClientCertIfGiven
		}
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil // crypto/tls has refused that where it may not be
			}
			if err := r.check(cs.PeerCertificates[0], cs.VerifiedChains); err != nil {
				return fmt.Errorf("verify client: %w", err)
			}
			return nil
		}
	}
	if t.from.HideCAs && cfg.ClientCAs != nil {
		t.hideCAs(cfg)
	}
	t.current.Store(cfg)
	t.takeTicketKeys()
}

// hideCAs has clients not told whose certificates are wanted: crypto/tls tells what is in ClientCAs, so they are verified here.
func (t *server) hideCAs(cfg *tls.Config) {
	roots, rules := cfg.ClientCAs, t.rules
	required := t.from.RequireClient
	if cfg.ClientAuth = tls.RequestClientCert; required {
		cfg.ClientAuth = tls.RequireAnyClientCert
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		for _, c := range cs.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		chains, err := cs.PeerCertificates[0].Verify(options)
		if err != nil {
			return fmt.Errorf("verify client: %w: %w", ErrChain, err)
		}
		if err := rules.check(cs.PeerCertificates[0], chains); err != nil {
			return fmt.Errorf("verify client: %w", err)
		}
		return nil
	}
}

// takeTicketKeys gives the outer configuration the keys that the settings name. One that cannot be read leaves the keys as they were.
func (t *server) takeTicketKeys() {
	var keys [][32]byte
	for _, from := range t.from.TicketKeys {
		data, err := t.store.read(from)
		if err == nil && len(data) != 80 {
			err = fmt.Errorf("%d bytes, want 80", len(data))
		}
		if err != nil {
			t.store.log.Warn("cannot use session ticket key", "file", from, "err", err)
			return
		}
		keys = append(keys, sha256.Sum256(data))
	}
	if len(keys) > 0 {
		t.outer.SetSessionTicketKeys(keys)
	}
}

// Use is what a connection to an endpoint is for.
type Use uint8

// The uses. What is negotiated by ALPN depends on it, unless the cluster's settings name the protocols.
const (
	ForBytes Use = iota
	ForHTTP1
	ForHTTP2
	ForHTTP // either version, the server decides
	uses
)

var useProtocols = [uses][]string{ForHTTP1: {"http/1.1"}, ForHTTP2: {"h2"}, ForHTTP: {"h2", "http/1.1"}}

// client is what a cluster's settings came to.
type client struct {
	common
	from     *config.UpstreamTLS
	sessions tls.ClientSessionCache // nil: none is kept
	current  atomic.Pointer[tls.Config]
}

func (s *Store) newClient(t *config.UpstreamTLS) *client {
	made := &client{common: s.common(&t.TLS), from: t}
	if t.MaxSessions > 0 {
		made.sessions = tls.NewLRUClientSessionCache(max(t.MaxSessions, leastSessions))
	}
	made.rebuild()
	return made
}

// rebuild takes what there is now for the handshakes to come; the Store's mu is held.
func (t *client) rebuild() {
	cfg := t.base(&t.from.TLS)
	cfg.InsecureSkipVerify = true // but for VerifyConnection, which verifies every handshake
	if len(t.pairs) > 0 && len(cfg.Certificates) == 0 {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, errNoCertificate }
	}
	t.current.Store(cfg)
}

// config makes the configuration for a connection of made, which is current.
func (t *client) config(made *tls.Config, e *config.Endpoint, use Use) *tls.Config {
	cfg := made.Clone()
	cfg.ServerName = t.from.ServerName
	if t.from.HostServerName && e.Hostname != "" {
		cfg.ServerName = strings.ToLower(e.Hostname)
	}
	if cfg.NextProtos == nil {
		cfg.NextProtos = useProtocols[use]
	}
	if t.sessions != nil {
		cfg.ClientSessionCache = &sessions{t.sessions, e.Addr.String() + " " + cfg.ServerName}
	}
	name := ""
	if t.from.VerifyName {
		name = cfg.ServerName
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if t.from.VerifyName && name == "" {
			return fmt.Errorf("verify server: %w: it has no name", ErrChain)
		}
		return t.rules.verifyServer(&cs, t.roots(), t.pool != nil, name)
	}
	return cfg
}

// sessions are those of one endpoint under one name. crypto/tls's own key is the name alone.
type sessions struct {
	all tls.ClientSessionCache
	key string
}

func (s *sessions) Get(string) (*tls.ClientSessionState, bool) { return s.all.Get(s.key) }

func (s *sessions) Put(_ string, state *tls.ClientSessionState) { s.all.Put(s.key, state) }
