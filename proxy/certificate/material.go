package certificate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// pair is a certificate with its key. All but current belongs to who holds the Store's mu.
type pair struct {
	from    config.Certificate
	current atomic.Pointer[tls.Certificate] // the last good one
	chain   []byte                          // that was looked at last, good or not
	key     []byte
	good    bool
	wrong   string // why it cannot be used
}

// pair returns the pair that settings name; mu is held.
func (s *Store) pair(from config.Certificate) *pair {
	p := s.pairs[from]
	if p == nil {
		p = &pair{from: from}
		s.pairs[from] = p
		p.update(s)
	}
	return p
}

// update takes the files as they are. It reports whether there is another certificate than before.
func (p *pair) update(s *Store) bool {
	chain, err := s.read(p.from.Chain)
	var key []byte
	if err == nil {
		key, err = s.read(p.from.Key)
	}
	if err == nil && p.key != nil && bytes.Equal(chain, p.chain) && bytes.Equal(key, p.key) {
		if p.good {
			p.wrong = "" // it could not be read for a while
		}
		return false
	}
	var cert tls.Certificate
	if err == nil {
		p.chain, p.key = chain, key
		cert, err = parsePair(chain, key)
		p.good = err == nil
	}
	if err != nil {
		s.refuse(&p.wrong, p.current.Load() != nil, fmt.Errorf("use certificate %s with key %s: %w", p.from.Chain, p.from.Key, err))
		return false
	}
	s.accept(&p.wrong, p.current.Load() != nil, "certificate", p.from.Chain)
	p.current.Store(&cert)
	return true
}

// parsePair makes a certificate of PEM. Its errors show nothing of the key.
func parsePair(chain, key []byte) (tls.Certificate, error) {
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return cert, err
	}
	if cert.Leaf == nil {
		cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	}
	return cert, err
}

// pool are authorities. All but current belongs to who holds the Store's mu.
type pool struct {
	from    trust
	current atomic.Pointer[x509.CertPool] // the last good one
	expires time.Time                     // the first of them
	text    []byte
	good    bool
	wrong   string
}

// pool returns the authorities that settings name, nil for none; mu is held.
func (s *Store) pool(v *config.Verification) *pool {
	if v == nil || v.CA.IsZero() && !v.SystemCA {
		return nil
	}
	from := trust{v.CA, v.SystemCA}
	p := s.pools[from]
	if p == nil {
		p = &pool{from: from}
		s.pools[from] = p
		p.update(s)
	}
	return p
}

// update takes the file as it is. It reports whether there are other authorities than before.
func (p *pool) update(s *Store) bool {
	if p.from.system {
		return p.takeSystem(s)
	}
	text, err := s.read(p.from.ca)
	if err == nil && p.text != nil && bytes.Equal(text, p.text) {
		if p.good {
			p.wrong = ""
		}
		return false
	}
	var made *x509.CertPool
	var expires time.Time
	if err == nil {
		p.text = text
		made, expires, err = parsePool(text)
		p.good = err == nil
	}
	if err != nil {
		s.refuse(&p.wrong, p.current.Load() != nil, fmt.Errorf("use authorities %s: %w", p.from.ca, err))
		return false
	}
	s.accept(&p.wrong, p.current.Load() != nil, "authorities", p.from.ca)
	p.expires = expires
	p.current.Store(made)
	return true
}

// takeSystem takes the system's authorities, once.
func (p *pool) takeSystem(s *Store) bool {
	if p.current.Load() != nil {
		return false
	}
	made, err := s.system()
	if err != nil {
		s.refuse(&p.wrong, false, fmt.Errorf("use the system's authorities: %w", err))
		return false
	}
	p.wrong = ""
	p.current.Store(made)
	return true
}

// parsePool reads certificates in PEM, every one of them.
func parsePool(text []byte) (*x509.CertPool, time.Time, error) {
	pool, first := x509.NewCertPool(), time.Time{}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, first, err
		}
		pool.AddCert(cert)
		if first.IsZero() || cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	if first.IsZero() {
		return nil, first, errors.New("no certificate in it")
	}
	return pool, first, nil
}

// refuse notes why something cannot be used, and says so once.
func (s *Store) refuse(wrong *string, had bool, err error) {
	if *wrong == err.Error() {
		return
	}
	*wrong = err.Error()
	s.stats.UpdateRejected++
	if had {
		s.log.Warn("cannot use changed file, the last good one stays", "err", err)
	} else {
		s.log.Error("cannot use file, handshakes fail", "err", err)
	}
}

// accept notes that something was taken.
func (s *Store) accept(wrong *string, had bool, what string, from config.Source) {
	*wrong = ""
	s.stats.UpdateSuccess++
	if had {
		s.log.Info("took changed file", "what", what, "file", from)
	}
}
