package testbed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates for tests.
type Authority struct {
	Cert *x509.Certificate
	t    testing.TB
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a certificate authority of its own.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t}
	return a.Under(&x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}})
}

// Under makes an authority that a has signed, or, if a is new, that signs itself.
func (a *Authority) Under(template *x509.Certificate) *Authority {
	a.t.Helper()
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	made := a.Sign(template)
	return &Authority{Cert: made.Leaf, key: made.PrivateKey.(*ecdsa.PrivateKey), t: a.t}
}

// Sign makes a certificate of a template, valid for 30 days if the template says nothing about it.
func (a *Authority) Sign(template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if template.SerialNumber == nil {
		if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
			a.t.Fatal(err)
		}
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour+time.Hour)
	}
	parent, signer := a.Cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// Leaf makes a certificate for names that is good for both ends of a connection.
func (a *Authority) Leaf(names ...string) tls.Certificate {
	a.t.Helper()
	return a.Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// Pool holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// PEM is the authority's certificate.
func (a *Authority) PEM() string { return encode("CERTIFICATE", a.Cert.Raw) }

func encode(kind string, raw []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}))
}

// PEM returns a certificate, with those behind it, and its key.
func PEM(t testing.TB, cert tls.Certificate) (chain, key string) {
	t.Helper()
	for _, raw := range cert.Certificate {
		chain += encode("CERTIFICATE", raw)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return chain, encode("PRIVATE KEY", raw)
}

// WritePair writes a certificate and its key into a directory, as name.crt and name.key.
func WritePair(t testing.TB, dir, name string, cert tls.Certificate) (chain, key string) {
	t.Helper()
	chain, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	c, k := PEM(t, cert)
	for path, text := range map[string]string{chain: c, key: k} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return chain, key
}
