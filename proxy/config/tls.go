package config

// The versions of TLS, by their numbers in the protocol.
const (
	TLS12 uint16 = 0x0303
	TLS13 uint16 = 0x0304
)

// TLS is what both ends of a connection can be told.
type TLS struct {
	Certificates []Certificate // one's own; of several the first that the peer can use
	Verify       *Verification // nil: the peer's certificate is not asked for
	MinVersion   uint16
	MaxVersion   uint16
	CipherSuites []uint16 // of TLS 1.2, by their numbers; nil: all that are secure
	Curves       []uint16 // by their numbers, the preferred first; nil: crypto/tls's own
	Protocols    []string // of ALPN, the preferred first
}

// DownstreamTLS is how a listener speaks TLS (Envoy's DownstreamTlsContext). It has a certificate at least.
type DownstreamTLS struct {
	TLS
	RequireClient bool     // a client without a certificate is refused; Verify is set
	RequireSNI    bool     // so is one that names no server
	NoTickets     bool     // sessions are not resumed
	TicketKeys    []Source // of 80 bytes each; the first makes tickets. nil: keys of the process, changed every day
	HideCAs       bool     // clients are not told whose certificates are wanted
}

// UpstreamTLS is how a cluster's endpoints are spoken to (Envoy's UpstreamTlsContext). Verify is set.
type UpstreamTLS struct {
	TLS
	ServerName     string // SNI; empty: none
	HostServerName bool   // SNI is the endpoint's Hostname, where it has one
	VerifyName     bool   // the certificate is for the SNI
	MaxSessions    int    // how many endpoints have their last session kept, to be resumed; few are taken as some. 0: none
}

// Certificate is a chain of certificates and its private key, in PEM.
type Certificate struct {
	Chain, Key Source
}

// Verification is what a peer's certificate must be.
type Verification struct {
	CA       Source // whose certificates are trusted, in PEM
	SystemCA bool   // or those that the system trusts
	// Names: one of them must match one of the certificate's subject alternative names; nil: any name will do.
	Names []SANMatch
	// SPKIs and Hashes are SHA-256 of the public key and of the certificate: one of all must be the leaf's; nil: any.
	SPKIs, Hashes [][32]byte
	MaxDepth      int // intermediate certificates between the leaf and the trusted one; less than 0: any number
}

// SANType is a kind of subject alternative name.
type SANType uint8

// The kinds. SANAny is every one of the others.
const (
	SANAny SANType = iota
	SANDNS
	SANURI
	SANIP
	SANEmail
)

// SANMatch compares a subject alternative name.
type SANMatch struct {
	Type  SANType
	Match TextMatch
}

// TextMatch compares a text.
type TextMatch struct {
	How        TextHow
	Text       string // in lower case with IgnoreCase
	IgnoreCase bool
}

// TextHow is a way to compare texts.
type TextHow uint8

// The ways.
const (
	TextExact TextHow = iota
	TextPrefix
	TextSuffix
	TextContains
	TextRegexp // all of it matches, in the syntax of RE2; the expression compiles
)

// Source is where a text comes from: from a file, or it stands in the configuration. It never prints the text, which may be a
// private key.
type Source struct {
	File   string
	Inline string
}

// IsZero reports whether there is no text.
func (s Source) IsZero() bool { return s == Source{} }

// String tells the file.
func (s Source) String() string {
	switch {
	case s.File != "":
		return s.File
	case s.Inline != "":
		return "inline"
	}
	return "nothing"
}

// GoString is String: no way of printing tells more.
func (s Source) GoString() string { return s.String() }

// MarshalText is String.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// SocketMatch has endpoints that are marked so spoken to in another way than the cluster's other ones.
type SocketMatch struct {
	Name string
	Mark Marks        // all that it has, the endpoint has
	TLS  *UpstreamTLS // nil: plaintext
}

// EndpointTLS is how an endpoint of the cluster is spoken to: nil is plaintext. The first of SocketMatches that matches
// counts.
func (c *Cluster) EndpointTLS(e *Endpoint) *UpstreamTLS {
	for i := range c.SocketMatches {
		if m := &c.SocketMatches[i]; e.SocketMark.All(m.Mark) {
			return m.TLS
		}
	}
	return c.TLS
}
