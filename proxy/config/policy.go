package config

import "time"

// RequestPolicy is what a listener does to requests and connections beyond Envoy's defaults. The zero value is those defaults.
type RequestPolicy struct {
	Via                   string        // added to the via fields of requests and responses
	SkipXFFAppend         bool          // x-forwarded-for is passed on as it came
	Slashes               Slashes       // what is done about a path with %2F or %5C
	MergeSlashes          bool          // "//" in a path becomes "/"
	Underscores           Underscores   // what is done about field names with an underscore
	MaxStreamDuration     time.Duration // of a request and its response; 0: no limit
	MaxConnectionDuration time.Duration // then a connection ends with its present request; 0: no limit
	MaxConnectionRequests uint32        // a connection ends with this request; 0: no limit
	KeepRequestID         bool          // an x-request-id from outside is passed on even where the peer is the client itself
	ClientCert            ClientCert    // what is done about x-forwarded-client-cert
}

// ClientCert is a way to treat x-forwarded-client-cert, which tells hosts who the client is.
type ClientCert uint8

// The ways, by Envoy's names of forward_client_cert_details.
const (
	ClientCertDrop    ClientCert = iota // SANITIZE
	ClientCertForward                   // FORWARD_ONLY: as it came, from clients that have shown a certificate; else it is dropped
	ClientCertAlways                    // ALWAYS_FORWARD_ONLY: as it came, from anybody
)

// Slashes is a way to treat paths with escaped slashes and backslashes.
type Slashes uint8

// The ways, by Envoy's names of path_with_escaped_slashes_action.
const (
	SlashesKeep     Slashes = iota // KEEP_UNCHANGED; a path that has another route when they are decoded is refused all the same
	SlashesReject                  // REJECT_REQUEST: 400
	SlashesRedirect                // UNESCAPE_AND_REDIRECT: 307 to the path with slashes
	SlashesForward                 // UNESCAPE_AND_FORWARD
)

// Underscores is a way to treat request fields whose names have an underscore.
type Underscores uint8

// The ways, by Envoy's names of headers_with_underscores_action.
const (
	UnderscoresAllow  Underscores = iota // but never those that disguise a name on which the proxy depends
	UnderscoresReject                    // 400
	UnderscoresDrop
)
