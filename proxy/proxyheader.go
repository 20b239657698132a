package proxy

import "net/netip"

// Ends are what the host is told of the client's connection.
func (x *exchange) Ends() (client, proxy netip.AddrPort) {
	if via := x.d.via; via != nil && via.local.IsValid() {
		return x.d.peer, via.local
	}
	return x.d.peer, x.d.LocalAddr()
}

// Ends are what the host is told of the client's connection.
func (s *stream) Ends() (client, proxy netip.AddrPort) {
	if s.via != nil && s.via.local.IsValid() {
		return s.peer, s.via.local
	}
	return s.peer, s.LocalAddr()
}
