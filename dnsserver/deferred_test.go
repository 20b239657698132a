package dnsserver

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// TestWhatIsDeferredIsCountedOnce: a query over UDP that has to wait is one to the limiter.
func TestWhatIsDeferredIsCountedOnce(t *testing.T) {
	zone := smallZone()
	const rate = 5
	s := New(Options{
		Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), RateLimit: rate,
		Await: func(context.Context, string) error { return nil },
	})
	s.life = t.Context()
	r := newResponder(s, udp)
	packed, err := new(dns.Msg).SetQuestion("none.mesh.internal.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for i := range rate {
		if answer := r.respond(packed, nil); answer != nil || !r.deferred {
			t.Fatalf("query %d: answered % x, want it deferred", i, answer)
		}
		var m dns.Msg
		if err := m.Unpack(r.patiently().respond(packed, nil)); err != nil || m.Rcode != dns.RcodeNameError || m.Truncated {
			t.Errorf("query %d: %v, %v", i, err, &m)
		}
	}
	if r.respond(packed, nil); r.deferred || s.Stats().Limited != 1 {
		t.Errorf("one more than the rate allows is not held back: %+v", s.Stats())
	}
}

// TestNetworksHoldAddressesOfEveryLink: an address that came with the link that it is of is in its network.
func TestNetworksHoldAddressesOfEveryLink(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}
	for addr, want := range map[string]bool{"10.1.2.3": true, "11.1.2.3": false, "fe80::1": true, "fe80::1%eth0": true, "2001:db8::1": false} {
		if got := within(networks, netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}
