package proxy

import "net/netip"

// Ends are what the host is told of the client's connection.
func (x *exchange) Ends() (client, proxy netip.AddrPort) {
	if via := x.c.via; via != nil && via.local.IsValid() {
		return x.c.peer, via.local
	}
	return x.c.peer, x.c.LocalAddr()
}

// Ends are what the host is told of the client's connection.
func (s *stream) Ends() (client, proxy netip.AddrPort) {
	if s.via != nil && s.via.local.IsValid() {
		return s.peer, s.via.local
	}
	return s.peer, s.LocalAddr()
}
