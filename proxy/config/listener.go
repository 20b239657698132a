package config

import "time"

// ProxyProtocol says that connections of a listener begin with a header that tells whose they are.
type ProxyProtocol struct {
	Optional bool          // a connection without the header is served too, as its peer's own
	Timeout  time.Duration // for the header to arrive; 0: none
}
