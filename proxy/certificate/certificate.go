// Package certificate makes the TLS settings of a configuration usable: it reads their certificates, keys and authorities, watches
// the files and keeps what crypto/tls is to work with up to date.
//
// A connection keeps what its handshake agreed on: a changed file means new handshakes only. What cannot be used, a pair of which
// only one half has been replaced or a file that is half written, leaves the last good one in place, and is said in the
// log and counted. As long as there never was a good one, handshakes fail.
//
// Nothing here prints a private key.
package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	// poll is how often files are looked at that tell nothing, such as those of a network's file system, and retry
	// how often when something is missing or wrong.
	poll  = 10 * time.Second
	retry = time.Second
	// settle is waited for after a change: the files of a pair are replaced one after the other.
	settle = 50 * time.Millisecond
)

// Stats are what the Store has counted.
type Stats struct {
	UpdateSuccess  uint64 // files that changed and were taken
	UpdateRejected uint64 // files that changed and cannot be used
	// DaysUntilFirstExpiry is of the certificate, one's own or an authority's, that expires first; 0 when it has.
	DaysUntilFirstExpiry uint64
	Certificates         int
}

// Store holds what the TLS settings in use refer to. All methods are safe for concurrent use; Client and the configurations
// that it gave take no locks.
type Store struct {
	log    *slog.Logger
	system func() (*x509.CertPool, error)

	clients atomic.Pointer[map[*config.UpstreamTLS]*client]

	mu       sync.Mutex
	texts    map[string]*text                  // guarded by mu; files by their path
	pairs    map[config.Certificate]*pair      // guarded by mu
	pools    map[trust]*pool                   // guarded by mu
	servers  map[*config.DownstreamTLS]*server // guarded by mu
	previous []*config.Config                  // guarded by mu; they may still be in use
	stats    Stats                             // guarded by mu
	changed  chan struct{}                     // one slot: other directories are to be watched
}

// trust names authorities.
type trust struct {
	ca     config.Source
	system bool
}

// New returns an empty Store.
func New(log *slog.Logger) *Store {
	s := &Store{
		log: log, system: x509.SystemCertPool, texts: map[string]*text{}, pairs: map[config.Certificate]*pair{}, pools: map[trust]*pool{},
		servers: map[*config.DownstreamTLS]*server{}, changed: make(chan struct{}, 1),
	}
	s.clients.Store(&map[*config.UpstreamTLS]*client{})
	return s
}

// Take reads what configurations refer to. It is called before anybody uses them; what the ones before refer to stays,
// everything else is forgotten.
func (s *Store) Take(all ...*config.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	servers, clients := map[*config.DownstreamTLS]*server{}, map[*config.UpstreamTLS]*client{}
	known := *s.clients.Load()
	add := func(t *config.UpstreamTLS) {
		switch {
		case t == nil || clients[t] != nil:
		case known[t] != nil:
			clients[t] = known[t]
		default:
			clients[t] = s.newClient(t)
		}
	}
	for _, c := range append(s.previous, all...) {
		for _, l := range c.Listeners {
			for chain := range l.Each() {
				if chain.TLS != nil {
					servers[chain.TLS] = s.server(chain.TLS)
				}
			}
		}
		for _, cluster := range c.Clusters {
			add(cluster.TLS)
			for i := range cluster.SocketMatches {
				add(cluster.SocketMatches[i].TLS)
			}
		}
	}
	s.previous, s.servers = all, servers
	s.clients.Store(&clients)
	s.sweep(servers, clients)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Server returns the configuration of a listener's chain. It stays the same as long as the settings do, and works with the
// files as they are at each handshake.
func (s *Store) Server(t *config.DownstreamTLS) *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server(t).outer
}

// server returns what is kept for settings; mu is held.
func (s *Store) server(t *config.DownstreamTLS) *server {
	if known := s.servers[t]; known != nil {
		return known
	}
	made := s.newServer(t)
	s.servers[t] = made
	return made
}

// Client returns the configuration for a connection to an endpoint, nil if that is plaintext. use is what the connection is for.
func (s *Store) Client(c *config.Cluster, e *config.Endpoint, use Use) *tls.Config {
	cfg, _ := s.ClientVersion(c, e, use)
	return cfg
}

// Version tells configurations for connections apart: those that have the same do the same.
type Version struct {
	made *tls.Config // what is there now
	name string
	use  Use
}

// ClientVersion is Client for somebody who keeps a connection until it would be made in another way.
func (s *Store) ClientVersion(c *config.Cluster, e *config.Endpoint, use Use) (*tls.Config, Version) {
	t := c.EndpointTLS(e)
	if t == nil {
		return nil, Version{}
	}
	known := (*s.clients.Load())[t]
	if known == nil { // nobody took the configuration
		s.mu.Lock()
		known = s.newClient(t)
		s.mu.Unlock()
	}
	made := known.current.Load()
	cfg := known.config(made, e, use)
	return cfg, Version{made: made, name: cfg.ServerName, use: use}
}

// Stats returns what was counted.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	first := time.Time{}
	note := func(at time.Time) {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	for _, p := range s.pairs {
		if cert := p.current.Load(); cert != nil {
			note(cert.Leaf.NotAfter)
			out.Certificates++
		}
	}
	for _, p := range s.pools {
		if p.current.Load() != nil {
			note(p.expires)
		}
	}
	out.DaysUntilFirstExpiry = math.MaxUint32 // as Envoy, without any certificate
	if !first.IsZero() {
		out.DaysUntilFirstExpiry = uint64(max(0, time.Until(first)/(24*time.Hour)))
	}
	return out
}

// Run watches the files until ctx ends.
func (s *Store) Run(ctx context.Context) {
	w := newWatcher(s.log)
	defer w.close()
	for {
		dirs, wrong := s.look()
		w.watch(dirs)
		wait := poll
		if wrong {
			wait = retry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.changed:
		case <-w.events():
			timer.Reset(settle)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			w.skip()
		}
		timer.Stop()
	}
}

// look reads the files again and makes what depends on those that changed. It returns the directories to watch, and whether
// something is missing or wrong.
func (s *Store) look() (dirs map[string]bool, wrong bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs = map[string]bool{}
	dirty := false
	for _, f := range s.texts {
		dirty = f.read() || dirty
		f.directories(dirs)
	}
	for _, p := range s.pairs {
		dirty = p.update(s) || dirty
		wrong = wrong || p.wrong != ""
	}
	for _, p := range s.pools {
		dirty = p.update(s) || dirty
		wrong = wrong || p.wrong != ""
	}
	if dirty {
		for _, t := range s.servers {
			t.rebuild()
		}
		for _, t := range *s.clients.Load() {
			t.rebuild()
		}
	}
	return dirs, wrong
}

// sweep forgets what no settings refer to; mu is held.
func (s *Store) sweep(servers map[*config.DownstreamTLS]*server, clients map[*config.UpstreamTLS]*client) {
	pairs, pools, texts := map[config.Certificate]bool{}, map[trust]bool{}, map[string]bool{}
	mark := func(c *common) {
		for _, p := range c.pairs {
			pairs[p.from] = true
			texts[p.from.Chain.File], texts[p.from.Key.File] = true, true
		}
		if c.pool != nil {
			pools[c.pool.from] = true
			texts[c.pool.from.ca.File] = true
		}
	}
	for _, t := range servers {
		mark(&t.common)
		for _, k := range t.from.TicketKeys {
			texts[k.File] = true
		}
	}
	for _, t := range clients {
		mark(&t.common)
	}
	for k := range s.pairs {
		if !pairs[k] {
			delete(s.pairs, k)
		}
	}
	for k := range s.pools {
		if !pools[k] {
			delete(s.pools, k)
		}
	}
	for path := range s.texts {
		if !texts[path] {
			delete(s.texts, path)
		}
	}
}
