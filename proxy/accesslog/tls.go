package accesslog

// TLS is what is told of a handshake, in Envoy's forms.
type TLS struct {
	Version, Cipher     string
	ServerName          string // that the client asked for, also of a connection that is passed on as it is
	Subject, Issuer     string // of the peer's certificate
	Serial, Fingerprint string
	URIs, DNSNames      string // joined by commas
}

// downstreamTLS makes a writer of a part of what a Record has of the client's handshake.
func downstreamTLS(part func(*TLS) string) writer {
	return func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return r.TLS.append(dst, part) }
}

// upstreamTLS makes one of the handshake with the upstream.
func upstreamTLS(part func(*TLS) string) writer {
	return func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return r.UpstreamTLS.append(dst, part) }
}

func (t *TLS) append(dst []byte, part func(*TLS) string) ([]byte, valueKind) {
	if t == nil {
		return dst, missing
	}
	return str(dst, part(t))
}
