package tlsfile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/internal/tlsfile"
)

// pair makes a certificate of a number and its key, in PEM.
func pair(t *testing.T, number int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(number)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// replace puts a file in another's place, as who renews certificates does.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestPairFollowsItsFiles(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert1, key1 := pair(t, 1)
	replace(t, certFile, cert1)
	if _, err := tlsfile.LoadPair(certFile, keyFile, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), keyFile) {
		t.Errorf("without a key: %v, want its path", err)
	}
	replace(t, keyFile, key1)
	p, err := tlsfile.LoadPair(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	number := func() int64 {
		cert, err := p.Certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber.Int64()
	}
	cert2, key2 := pair(t, 2)
	for _, step := range []struct {
		name string
		do   func()
		want int64
	}{
		{"as read", func() {}, 1},
		{"half is replaced", func() { replace(t, certFile, cert2) }, 1},
		{"both are", func() { replace(t, keyFile, key2) }, 2},
		{"torn", func() { replace(t, certFile, cert2[:len(cert2)/2]) }, 2},
		{"away", func() { _ = os.Remove(certFile) }, 2},
		{"back", func() { replace(t, certFile, cert2) }, 2},
		{"the first again", func() { replace(t, certFile, cert1); replace(t, keyFile, key1) }, 1},
	} {
		step.do()
		for range 2 {
			if got := number(); got != step.want {
				t.Errorf("%s: certificate %d, want %d", step.name, got, step.want)
			}
		}
	}
}
