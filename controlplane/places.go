package controlplane

import (
	"net/netip"
	"slices"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// Place says where the clients of a subnet are.
type Place struct {
	Subnet netip.Prefix
	dnsserver.Locality
}

// places finds where a client is: the longest subnet that has it decides.
type places struct {
	known   map[netip.Prefix]known
	lengths [2][]int // of subnets, of IPv4 and of IPv6, the longest first
}

// known is what is known of a subnet's clients. bits are those of an address that decide: more than the subnet has where
// smaller ones lie within it.
type known struct {
	where dnsserver.Locality
	bits  int
}

func newPlaces(all []Place) *places {
	p := &places{known: make(map[netip.Prefix]known, len(all))}
	for _, one := range all {
		subnet := one.Subnet.Masked()
		bits := subnet.Bits()
		for _, other := range all {
			if other.Subnet.Bits() > subnet.Bits() && subnet.Overlaps(other.Subnet) {
				bits = max(bits, other.Subnet.Bits())
			}
		}
		p.known[subnet] = known{one.Locality, bits}
		family := &p.lengths[family(subnet.Addr())]
		if !slices.Contains(*family, subnet.Bits()) {
			*family = append(*family, subnet.Bits())
		}
	}
	for _, lengths := range p.lengths {
		slices.SortFunc(lengths, func(a, b int) int { return b - a })
	}
	return p
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// locate implements dnsserver.Options.Locality.
func (p *places) locate(client netip.Addr) (where dnsserver.Locality, bits int, ok bool) {
	lengths := p.lengths[family(client)]
	for _, length := range lengths {
		subnet, err := client.Prefix(length)
		if err != nil {
			continue
		}
		if found, ok := p.known[subnet]; ok {
			return found.where, found.bits, true
		}
	}
	if len(lengths) > 0 {
		bits = lengths[0]
	}
	return where, bits, false
}
