// Package tlsfile makes TLS configurations from the files that an operator names.
package tlsfile

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// Files say whom a client trusts and who it is. The zero Files trust the system's authorities and show no certificate.
type Files struct {
	CA        string // PEM certificates that sign the server's; the system's if empty
	Cert, Key string // the client's certificate and key, both or neither
	Server    string // what the server's certificate must be for, if it is not the host that is dialled
}

// Config reads the authority's certificates now and the client's at each handshake, so that it may be renewed. The
// server is always verified, and TLS 1.2 is the least that is spoken.
func (f Files) Config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.Server}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA file %s: no certificate in it", f.CA)
		}
	}
	if f.Cert != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
			if err != nil {
				return nil, fmt.Errorf("read client certificate: %w", err)
			}
			return &cert, nil
		}
	}
	return config, nil
}
