package config

// ProxyProtocol says that connections of a listener begin with a header that tells whose they are.
type ProxyProtocol struct {
	Optional bool // a connection without the header is served too, as its peer's own
}
