package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"github.com/hostmesh/hostmesh/registry"
)

// LoopbackAddr returns the loopback address by which a service is reached on every host. It depends on the name alone
// and never changes: with h the first 8 bytes of SHA-256("<namespace>/<name>") as a big-endian number and
// n = h mod (16384 × 254), it is 127.64.0.0 + 256 × (n div 254) + (n mod 254) + 1. So it lies in 127.64.0.0/10, and
// its last octet is neither 0 nor 255.
func LoopbackAddr(name registry.Name) netip.Addr {
	const networks, hosts = 1 << 14, 254
	sum := sha256.Sum256([]byte(name.String()))
	n := binary.BigEndian.Uint64(sum[:8]) % (networks * hosts)
	network, host := n/hosts, n%hosts
	return netip.AddrFrom4([4]byte{127, 64 + byte(network>>8), byte(network), byte(host) + 1})
}
