package controlplane

import (
	"net/netip"
	"testing"

	"github.com/hostmesh/hostmesh/dnsserver"
)

func TestPlaces(t *testing.T) {
	place := func(subnet, region, zone string) Place {
		return Place{netip.MustParsePrefix(subnet), dnsserver.Locality{Region: region, Zone: zone}}
	}
	p := newPlaces([]Place{place("10.0.0.0/8", "eu", ""), place("10.1.0.0/16", "eu", "a"), place("10.1.7.0/24", "us", ""), place("192.0.2.0/24", "eu", "b"), place("2001:db8::/32", "eu", "c")})
	for _, c := range []struct {
		client, region, zone string
		bits                 int
		known                bool
	}{
		{"10.9.9.9", "eu", "", 24, true},
		{"10.1.2.3", "eu", "a", 24, true},
		{"10.1.7.3", "us", "", 24, true},
		{"192.0.2.9", "eu", "b", 24, true},
		{"203.0.113.1", "", "", 24, false},
		{"2001:db8::1", "eu", "c", 32, true},
		{"2001:db9::1", "", "", 32, false},
		{"fe80::1%eth0", "", "", 32, false},
	} {
		where, bits, known := p.locate(netip.MustParseAddr(c.client))
		if where != (dnsserver.Locality{Region: c.region, Zone: c.zone}) || bits != c.bits || known != c.known {
			t.Errorf("%s is in %v for %d bits, known %v; want %v", c.client, where, bits, known, c)
		}
	}
	if n := testing.AllocsPerRun(100, func() { p.locate(netip.MustParseAddr("10.1.7.3")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
