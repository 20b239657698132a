package accesslog

// TLS is what is told of a client's handshake, in Envoy's forms.
type TLS struct {
	Version, Cipher     string
	ServerName          string // that the client asked for, also of a connection that is passed on as it is
	Subject, Issuer     string // of the client's certificate
	Serial, Fingerprint string
	URIs, DNSNames      string // joined by commas
}

// tls makes a writer of a part of a Record's TLS.
func tls(part func(*TLS) string) writer {
	return func(_ *op, dst []byte, r *Record) ([]byte, valueKind) {
		if r.TLS == nil {
			return dst, missing
		}
		return str(dst, part(r.TLS))
	}
}
