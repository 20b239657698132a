package config

// ProxyProtocol says that connections of a listener begin with a header that tells whose they are.
type ProxyProtocol struct {
	Optional bool // a connection without the header is served too, as its peer's own
}

// Pipe is a unix socket to listen on.
type Pipe struct {
	Path string // absolute, or a name that begins with @ in the abstract namespace
	Mode uint32 // of the file; 0: as the process makes files
}

// ProxyHeader says that connections to a cluster's endpoints begin with a PROXY header, which tells whose they are. A
// connection is used for requests of that client's connection only.
type ProxyHeader struct {
	Version int        // 1 or 2
	TLVs    []ProxyTLV // that are added with version 2
}

// ProxyTLV is an extension of a PROXY header.
type ProxyTLV struct {
	Type  byte
	Value string // bytes
}
