package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// certificates are files of one authority: a server's and a client's certificate, P-256.
type certificates struct {
	CA             string
	Server, Client certificate
}

// certificate is a certificate, its key, and both in one file, which is what HAProxy reads.
type certificate struct{ Chain, Key, Both string }

func newCertificates(dir string) (*certificates, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	c := &certificates{CA: filepath.Join(dir, "ca.pem")}
	if err := writePEM(c.CA, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return nil, err
	}
	for i, what := range []struct {
		to    *certificate
		name  string
		usage x509.ExtKeyUsage
	}{
		{&c.Server, "server", x509.ExtKeyUsageServerAuth},
		{&c.Client, "client", x509.ExtKeyUsageClientAuth},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: authority}, DNSNames: []string{authority},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{what.usage},
		}
		chain, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
		if err != nil {
			return nil, err
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		*what.to = certificate{filepath.Join(dir, what.name+".pem"), filepath.Join(dir, what.name+".key"), filepath.Join(dir, what.name+"-both.pem")}
		chainPEM, keyPEM := &pem.Block{Type: "CERTIFICATE", Bytes: chain}, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}
		if err := errors.Join(writePEM(what.to.Chain, chainPEM), writePEM(what.to.Key, keyPEM), writePEM(what.to.Both, chainPEM, keyPEM)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func writePEM(file string, blocks ...*pem.Block) error {
	var b []byte
	for _, block := range blocks {
		b = append(b, pem.EncodeToMemory(block)...)
	}
	return os.WriteFile(file, b, 0o600)
}

// clientTLS is how the generator's clients speak: TLS 1.3, the one key exchange that all peers have, no resumption. They trust the
// authority.
func (c *certificates) clientTLS() (*tls.Config, error) {
	b, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read %s: no certificate", c.CA)
	}
	return &tls.Config{
		RootCAs: roots, ServerName: authority, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"http/1.1"},
	}, nil
}

// checkTLS makes sure that all peers encrypt alike.
func checkTLS(c *tls.Conn) error {
	s := c.ConnectionState()
	if s.Version != tls.VersionTLS13 || s.CipherSuite != tls.TLS_AES_128_GCM_SHA256 || s.DidResume {
		return fmt.Errorf("proxy agreed to %s with %s (resumed: %v), want a full handshake of TLS 1.3 with TLS_AES_128_GCM_SHA256",
			tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.DidResume)
	}
	return nil
}

// wire is the socket below a tls.Conn. While l is nil it blocks; then its Read answers later when there is nothing, which crypto/tls
// takes as temporary, and its Write hands over to the load.
type wire struct {
	fd      int
	l       *load
	e       *end
	drained bool // the last read took all there was
}

// later is the net.Error of a socket that has nothing to read.
type later struct{}

func (later) Error() string   { return "nothing to read" }
func (later) Timeout() bool   { return true }
func (later) Temporary() bool { return true }

func (w *wire) Read(p []byte) (int, error) {
	if w.drained {
		w.drained = false
		return 0, later{}
	}
	n, err := w.read(p)
	switch {
	case err == unix.EAGAIN && w.l != nil:
		return 0, later{}
	case err != nil:
		return 0, fmt.Errorf("read from proxy: %w", err)
	case n == 0:
		return 0, io.EOF
	}
	w.drained = w.l != nil && n < len(p)
	return n, nil
}

func (w *wire) read(p []byte) (int, error) {
	if w.l != nil {
		return rawRead(w.fd, p)
	}
	for {
		if n, err := unix.Read(w.fd, p); err != unix.EINTR {
			return n, err
		}
	}
}

func (w *wire) Write(p []byte) (int, error) {
	if w.l != nil {
		return len(p), w.l.write(w.e, p)
	}
	for sent := 0; sent < len(p); {
		n, err := unix.Write(w.fd, p[sent:])
		if err != nil && err != unix.EINTR {
			return sent, fmt.Errorf("write to proxy: %w", err)
		}
		sent += max(n, 0)
	}
	return len(p), nil
}

func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// shakeHands makes a blocking connection one of TLS.
func (l *load) shakeHands(e *end) error {
	e.wire = &wire{fd: e.fd, e: e}
	e.tls = tls.Client(e.wire, l.tls)
	if err := e.tls.Handshake(); err != nil {
		return fmt.Errorf("shake hands: %w", err)
	}
	e.wire.l = l
	return checkTLS(e.tls)
}

// readTLS reads all there is.
func (l *load) readTLS(e *end) error {
	for l.ends[e.fd] == e {
		n, err := e.tls.Read(l.scratch)
		if _, nothing := err.(later); nothing {
			return nil
		}
		if err != nil {
			return fmt.Errorf("proxy ended a client's connection: %w", err)
		}
		if err := e.take(l, e, l.scratch[:n]); err != nil {
			return err
		}
	}
	return nil
}
