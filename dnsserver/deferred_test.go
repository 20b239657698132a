package dnsserver

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

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

// TestACopyIsAloneOnItsConnection: what waits there is answered before it, not within.
func TestACopyIsAloneOnItsConnection(t *testing.T) {
	zone := smallZone()
	asked, release := make(chan struct{}), make(chan struct{})
	s := New(Options{
		Addrs: []string{"127.0.0.1:0"}, Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), Copies: plainCopies{make(chan string, 1)},
		Await: func(context.Context, string) error {
			close(asked)
			<-release
			return nil
		},
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	conn, err := dns.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	slow, copied := new(dns.Msg).SetQuestion("none.mesh.internal.", dns.TypeA), new(dns.Msg).SetAxfr("mesh.internal.")
	slow.Id, copied.Id = 1, 2
	for _, m := range []*dns.Msg{slow, copied} {
		if err := conn.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	<-asked
	time.Sleep(50 * time.Millisecond) // for a copy that does not wait
	close(release)
	for want := range uint16(2) {
		if m, err := conn.ReadMsg(); err != nil || m.Id != want+1 {
			t.Errorf("got %v, %v; want answer %d", m, err, want+1)
		}
	}
}
