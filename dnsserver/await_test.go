package dnsserver_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// waiting is a zone whose names come when they are asked for.
type waiting struct {
	origin dnsserver.Name
	zone   atomic.Pointer[dnsserver.Zone]
	ready  chan struct{} // what is not "slow" comes at once
	asked  atomic.Int64
}

func (w *waiting) hold(names ...string) {
	branches := map[string]*dnsserver.Branch{}
	for _, name := range names {
		sets := dnsserver.Addresses(30, []netip.Addr{netip.MustParseAddr("127.64.1.1")}, nil)
		branches[name] = dnsserver.NewBranch(w.origin, 0, map[string][]dnsserver.Set{name: sets})
	}
	w.zone.Store(dnsserver.NewZone(dnsserver.Apex{Origin: "mesh.test", NameServers: []dnsserver.NameServer{{Name: "ns.mesh.test"}}, TTL: 30, NegativeTTL: 1}, branches))
}

func (w *waiting) await(ctx context.Context, name string) error {
	w.asked.Add(1)
	switch name {
	case "slow.mesh.test.":
		select {
		case <-w.ready:
			w.hold("slow")
		case <-ctx.Done():
			return &dnsserver.Failure{Code: dns.ExtendedErrorCodeNotReady, Text: "nobody told"}
		}
	case "broken.mesh.test.":
		return errors.New("it is broken")
	}
	return nil
}

func TestAwait(t *testing.T) {
	origin, err := dnsserver.ParseName("mesh.test")
	if err != nil {
		t.Fatal(err)
	}
	w := &waiting{origin: origin, ready: make(chan struct{})}
	w.hold("web")
	s := dnsserver.New(dnsserver.Options{
		Addrs: []string{"127.0.0.1:0", "[::1]:0", ":0"}, Log: slog.New(slog.DiscardHandler), Await: w.await,
		Zones: func() []*dnsserver.Zone { return []*dnsserver.Zone{w.zone.Load()} },
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()

	addrs := s.Addrs()
	addrs[2] = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), addrs[2].Port()) // the answer comes from there
	for _, at := range addrs[:3] {
		for _, network := range []string{"udp", "tcp"} {
			for _, c := range []struct {
				name  string
				rcode int
				n     int
				why   string
			}{
				{"web.mesh.test.", dns.RcodeSuccess, 1, ""},
				{"WEB.mesh.test.", dns.RcodeSuccess, 1, ""},
				{"other.mesh.test.", dns.RcodeNameError, 0, ""},
				{"broken.mesh.test.", dns.RcodeServerFailure, 0, "it is broken"},
				{"elsewhere.test.", dns.RcodeRefused, 0, ""},
			} {
				m := inquire(t, network, at, c.name)
				if m.Rcode != c.rcode || len(m.Answer) != c.n || c.why != "" && explained(m) != c.why {
					t.Errorf("%s over %s: %v, want %s, %d records and %q", c.name, network, m, dns.RcodeToString[c.rcode], c.n, c.why)
				}
			}
		}
	}
	if n := w.asked.Load(); n != 12 {
		t.Errorf("asked %d times, want only for what is not there", n)
	}
	if m := inquire(t, "udp", addrs[0], "slow.mesh.test."); m.Rcode != dns.RcodeServerFailure || explained(m) != "nobody told" {
		t.Errorf("got %v for what is not told in time", m)
	}
	answered := make(chan *dns.Msg, 1)
	before := w.asked.Load()
	go func() { answered <- inquire(t, "udp", addrs[0], "slow.mesh.test.") }()
	for w.asked.Load() == before {
		time.Sleep(time.Millisecond)
	}
	if m := inquire(t, "udp", addrs[0], "web.mesh.test."); len(m.Answer) != 1 {
		t.Errorf("others wait: %v", m)
	}
	close(w.ready)
	if m := <-answered; m == nil || len(m.Answer) != 1 {
		t.Errorf("got %v for what was told in time", m)
	}
}

func inquire(t *testing.T, network string, at netip.AddrPort, name string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.SetEdns0(1232, false)
	answer, _, err := (&dns.Client{Net: network, Timeout: 10 * time.Second}).Exchange(m, at.String())
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return new(dns.Msg)
	}
	return answer
}

func explained(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return ""
}
