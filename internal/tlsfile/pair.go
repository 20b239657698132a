package tlsfile

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// Pair is a server's certificate and key as its files have them: who changes the files changes what new handshakes get. What
// cannot be used, such as a pair of which one half is replaced, leaves the last good one in place. It is safe for concurrent use.
type Pair struct {
	cert, key string
	log       *slog.Logger

	mu   sync.Mutex
	seen [2]os.FileInfo   // guarded by mu; of what was tried last
	good *tls.Certificate // guarded by mu
}

// LoadPair reads the PEM files of a certificate, with those between it and its authority, and of its key.
func LoadPair(cert, key string, log *slog.Logger) (*Pair, error) {
	p := &Pair{cert: cert, key: key, log: log}
	p.seen, _ = p.look()
	if err := p.load(); err != nil {
		return nil, err
	}
	return p, nil
}

// Certificate returns what the files hold now, for tls.Config.GetCertificate.
func (p *Pair) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now, changed := p.look(); changed {
		p.seen = now
		if err := p.load(); err != nil {
			p.log.Error("certificate not taken, the one before stays", "error", err)
		} else {
			p.log.Info("certificate read again", "file", p.cert)
		}
	}
	return p.good, nil
}

// look reports whether a file has changed. One that is away for a moment has not.
func (p *Pair) look() (now [2]os.FileInfo, changed bool) {
	for i, path := range [...]string{p.cert, p.key} {
		info, err := os.Stat(path)
		if err != nil {
			return p.seen, false
		}
		was := p.seen[i]
		now[i] = info
		changed = changed || was == nil || !os.SameFile(was, info) || was.Size() != info.Size() || !was.ModTime().Equal(info.ModTime())
	}
	return now, changed
}

func (p *Pair) load() error {
	cert, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return fmt.Errorf("read certificate %s and key %s: %w", p.cert, p.key, err)
	}
	p.good = &cert
	return nil
}
