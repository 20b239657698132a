package config

import (
	"cmp"
	"net/netip"
	"strings"
)

// Address is where somebody listens: an IP address with a port, or a unix socket. Equal addresses are one socket. It is a net.Addr.
type Address struct {
	IP   netip.AddrPort // of TCP
	Path string         // of a unix socket, and IP is not set; a name that begins with @ is in the abstract namespace
}

// IsUnix reports whether it is that of a unix socket.
func (a Address) IsUnix() bool { return a.Path != "" }

// Network is "tcp" or "unix".
func (a Address) Network() string {
	if a.IsUnix() {
		return "unix"
	}
	return "tcp"
}

// String is the path as it is, or the IP address with its port.
func (a Address) String() string {
	if a.IsUnix() {
		return a.Path
	}
	return a.IP.String()
}

// Compare orders addresses.
func (a Address) Compare(b Address) int {
	return cmp.Or(a.IP.Compare(b.IP), strings.Compare(a.Path, b.Path))
}
