package zone_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/registry"
)

// How long something may be remembered is configured. Nothing that a registry says of an entry, such as its ID, becomes a TTL
// (CVE-2025-58063), nor is it a record or a name of its own, whatever it is called (CVE-2026-46600).
func TestCVEClass29_TTLsAreConfigured(t *testing.T) {
	snap := &registry.Snapshot{Number: 9}
	for i, odd := range []string{"7587883129467341000", "4294967295", "-1", "0", strings.Repeat("9", 300), "a\x00b", "é.\\.com", "x. 86400 IN A 192.0.2.66", "\xff\xfe"} {
		snap.Services = append(snap.Services, &registry.Service{
			Name: registry.Name{Namespace: "default", Name: fmt.Sprint("s", i)}, Labels: map[string]string{"ttl": odd},
			Ports: []registry.Port{{Name: odd, Number: 80, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{{
				ID: odd, Addr: netip.MustParseAddr("192.0.2.1"), Ports: []registry.EndpointPort{{Name: odd, Number: 80}}, Weight: 1, Host: odd,
				Labels: map[string]string{"ttl": odd}, Sources: []string{odd},
			}},
		}, &registry.Service{Name: registry.Name{Namespace: "odd", Name: fmt.Sprint("s", i)}, ExternalName: odd})
	}
	z := zone.New(zone.Options{TTL: 7, ApexTTL: 61, NegativeTTL: 3, Provenance: true}).Build(snap)
	services := 0
	for _, line := range records(t, z) {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Errorf("%q is not read back: %v", line, err)
			continue
		}
		h := rr.Header()
		want := uint32(7)
		switch h.Rrtype {
		case dns.TypeSOA, dns.TypeNS:
			want = 61
		default:
			services++
		}
		if h.Ttl != want || !dns.IsSubDomain("mesh.internal.", h.Name) {
			t.Errorf("%s, want a TTL of %d, below the domain", line, want)
		}
		if a, ok := rr.(*dns.A); ok && a.A.String() != "192.0.2.1" {
			t.Errorf("%s is an address that nobody has", line)
		}
	}
	if services < 9*5 {
		t.Errorf("%d records, want those of 9 services at least", services)
	}
}
