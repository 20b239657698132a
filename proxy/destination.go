package proxy

import (
	"net/netip"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// original is where a connection was going before it was redirected here; nil if it was going here.
func original(fd int, peer netip.AddrPort) *proxied {
	to := loop.OriginalDst(fd)
	if !to.IsValid() || to == loop.LocalAddr(fd) {
		return nil
	}
	return &proxied{direct: peer, local: to}
}

// destination is where the request goes in a cluster that goes by its connection's original destination. A client that names
// none, or nonsense, in the field for it goes to where its connection was going. It is called while the head is in memory.
func (x *exchange) destination(rules *config.OriginalDst) netip.AddrPort {
	if rules.Header != "" {
		value, found := x.match.Host, 0
		if rules.Header != ":authority" {
			value, found = x.req.Next(rules.Header, 0)
		}
		if found >= 0 {
			if len(value) <= maxAddrPort {
				if at, err := netip.ParseAddrPort(string(value)); err == nil && at.Addr().Zone() == "" {
					return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
				}
			}
			x.cluster.Stats.Count[upstream.DestinationInvalid]++
		}
	}
	return x.d.via.destination()
}

// maxAddrPort is the longest text of an IPv6 address with a port.
const maxAddrPort = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")

// destination is where the connection was going, invalid if that was the proxy itself. v may be nil.
func (v *proxied) destination() netip.AddrPort {
	if v == nil {
		return netip.AddrPort{}
	}
	return v.local
}
