package forward_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/forward"
)

// TestUpstreamsThatDoNotResolve: of one that refers to others the next is asked.
func TestUpstreamsThatDoNotResolve(t *testing.T) {
	first := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		m := reply(q)
		switch label, _, _ := strings.Cut(strings.ToLower(q.Question[0].Name), "."); label {
		case "referral":
			m.Ns = reply(q, "example.org. 60 IN NS ns.example.org.").Answer
		case "norecursion":
			m.RecursionAvailable = false
		case "authority":
			m.RecursionAvailable, m.Authoritative = false, true
		case "soa":
			m.RecursionAvailable = false
			m.Ns = reply(q, "example.org. 60 IN NS ns.example.org.", "example.org. 60 IN SOA a. b. 1 2 3 4 5").Answer
		}
		send(conn, from, m)
	})
	second := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1"))
	})
	b, alone := newBed(t, nil, plain(first), plain(second)), newBed(t, nil, plain(first))
	for label, next := range map[string]bool{"referral": true, "norecursion": true, "authority": false, "soa": false, "nodata": false} {
		q := question(label+".example.org.", dns.TypeA)
		if m := b.ask(t, "udp", q); m.Rcode != dns.RcodeSuccess || len(m.Answer) == 1 != next {
			t.Errorf("%s: %s, want the next asked: %v", label, short(m), next)
		}
		if m := alone.ask(t, "udp", q); m.Rcode == dns.RcodeServerFailure != next {
			t.Errorf("%s, with no other to ask: %s", label, short(m))
		}
	}
}

// TestUpstreamsWithoutEDNS: those that do not know it are asked without (RFC 6891 §6.2.2).
func TestUpstreamsWithoutEDNS(t *testing.T) {
	for what, refuse := range map[string]func(q *dns.Msg) *dns.Msg{
		"FORMERR":                      func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeFormatError) },
		"FORMERR without the question": func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcodeFormatError(q) },
		"NOTIMP":                       func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented) },
	} {
		old := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
			if q.IsEdns0() != nil {
				m := refuse(q)
				m.Id = q.Id
				send(conn, from, m)
				return
			}
			send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1"))
		})
		b := newBed(t, nil, plain(old))
		if got := short(b.ask(t, "udp", question("www.example.org.", dns.TypeA))); got != "ra NOERROR; www.example.org. 60 IN A 198.51.100.1" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// TestRunEndsWhileQuestionsBegin: what begins meanwhile is ended, or refused; the race detector judges.
func TestRunEndsWhileQuestionsBegin(t *testing.T) {
	for range 100 {
		f := forward.New(forward.Options{Upstreams: []forward.Upstream{plain(netip.MustParseAddrPort("127.0.0.1:1"))}, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		var asking sync.WaitGroup
		for i := range 4 {
			asking.Go(func() {
				f.Ask(context.Background(), dnsserver.Question{Name: name(fmt.Sprintf("n%d.example.org", i)), Type: dns.TypeA, Asker: netip.MustParseAddr("127.0.0.1")})
			})
		}
		asking.Go(cancel)
		if err := f.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("Run: %v", err)
		}
		if n := f.Stats().InFlight; n != 0 {
			t.Fatalf("%d questions are under way after Run", n)
		}
		asking.Wait()
	}
}

// partly is an upstream that says nothing of names that begin with "bad", and keeps which it was asked for.
type partly struct {
	addr  netip.AddrPort
	deaf  atomic.Bool // it says nothing at all
	mu    sync.Mutex
	asked map[string]int // guarded by mu
}

func startPartly(t *testing.T, address string) *partly {
	t.Helper()
	p := &partly{asked: map[string]int{}}
	p.addr = hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		asked := strings.ToLower(q.Question[0].Name)
		p.mu.Lock()
		p.asked[asked]++
		p.mu.Unlock()
		if !p.deaf.Load() && !strings.HasPrefix(asked, "bad") {
			send(conn, from, reply(q, q.Question[0].Name+" 60 IN A "+address))
		}
	})
	return p
}

func (p *partly) names() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

// TestNamesThatNobodyAnswersAreNotTheUpstreamsFault: it takes several names that get no answer, and nothing else that does, until another
// is asked first.
func TestNamesThatNobodyAnswersAreNotTheUpstreamsFault(t *testing.T) {
	first := startPartly(t, "198.51.100.1")
	second := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.2"))
	})
	up := plain(first.addr)
	up.Timeout = time.Second
	b := newBed(t, nil, up, plain(second))
	var i atomic.Int32
	from := func(label string, qtype uint16) string {
		m := b.ask(t, "tcp", question(fmt.Sprintf("%s%d.example.org.", label, i.Add(1)), qtype))
		if len(m.Answer) != 1 {
			return short(m)
		}
		return m.Answer[0].(*dns.A).A.String()
	}
	firstIs := func(what string, up bool) {
		t.Helper()
		if got := b.Stats().Upstreams[0].Error; got == "" != up {
			t.Errorf("%s: the first is down because of %q, want it up: %v", what, got, up)
		}
		want := map[bool]string{true: "198.51.100.1", false: "198.51.100.2"}[up]
		if got := from("good", dns.TypeA); got != want {
			t.Errorf("%s: %s answers, want %s", what, got, want)
		}
	}
	firstIs("at first", true)
	var asking sync.WaitGroup
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypeHTTPS} {
		asking.Go(func() { b.ask(t, "tcp", question("bad.example.org.", qtype)) })
	}
	asking.Wait()
	firstIs("after one name, six times", true)
	for range 3 {
		asking.Go(func() { from("bad", dns.TypeA) })
		within(t, "it is asked", func() bool { return b.Stats().InFlight > 0 })
	}
	for b.Stats().InFlight > 0 {
		if got := from("good", dns.TypeA); got != "198.51.100.1" {
			t.Errorf("%s answers while some names get no answer", got)
		}
	}
	asking.Wait()
	firstIs("after three names, others between them", true)

	for range 3 {
		asking.Go(func() { from("bad", dns.TypeA) })
	}
	asking.Wait()
	firstIs("after three names and no others", false)
	within(t, "it is asked first again", func() bool { return from("good", dns.TypeA) == "198.51.100.1" })

	first.deaf.Store(true)
	for range 3 {
		asking.Go(func() { from("good", dns.TypeA) })
	}
	asking.Wait()
	time.Sleep(1100 * time.Millisecond) // until it may be tried
	before := first.names()
	for range 20 {
		asking.Go(func() {
			if got := from("good", dns.TypeA); got != "198.51.100.2" {
				t.Errorf("%s answers instead of the one that is up", got)
			}
		})
	}
	asking.Wait()
	within(t, "it is tried", func() bool { return first.names() > before })
	if n := first.names() - before; n != 1 {
		t.Errorf("%d names are asked of one that is down, want one to see whether it still is", n)
	}
}

// TestWhatIsOldStandsInWhereNobodyCanTell, without a word of signatures, and each name is asked for again after a while only (RFC 8767).
func TestWhatIsOldStandsInWhereNobodyCanTell(t *testing.T) {
	var late atomic.Bool
	var mu sync.Mutex
	asked := map[string]int{}
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		m := reply(q, q.Question[0].Name+" 1 IN A 198.51.100.1")
		m.AuthenticatedData = true
		label, _, _ := strings.Cut(strings.ToLower(q.Question[0].Name), ".")
		if late.Load() {
			mu.Lock()
			asked[label]++
			mu.Unlock()
			switch label {
			case "bogus":
				m = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).SetEdns0(1232, false)
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus}}
			case "refused":
				m = new(dns.Msg).SetRcode(q, dns.RcodeRefused).SetEdns0(1232, false)
			case "failing":
				m = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).SetEdns0(1232, false)
			case "silent":
				return
			}
		}
		send(conn, from, m)
	})
	b := newBed(t, nil, plain(upstream))
	ask := func(label string) string {
		q := question(label+".example.org.", dns.TypeA)
		q.AuthenticatedData = true
		return short(b.ask(t, "udp", q))
	}
	want := map[string]string{
		"bogus": "ra SERVFAIL; EDE 6", "refused": "ra SERVFAIL; EDE 0",
		"failing": "ra NOERROR; failing.example.org. 30 IN A 198.51.100.1; EDE 3", "silent": "ra NOERROR; silent.example.org. 30 IN A 198.51.100.1; EDE 3",
	}
	for label := range want {
		if got := ask(label); got != "ra ad NOERROR; "+label+".example.org. 1 IN A 198.51.100.1" {
			t.Fatalf("%s at first: %s", label, got)
		}
	}
	late.Store(true)
	time.Sleep(1100 * time.Millisecond) // for the TTL to pass
	for label, want := range want {
		if got := ask(label); got != want {
			t.Errorf("%s: %s, want %s", label, got, want)
		}
	}
	within(t, "the question that gets no answer has ended", func() bool { return b.Stats().InFlight == 0 })
	mu.Lock()
	before := maps.Clone(asked)
	mu.Unlock()
	for i := range 5 {
		if got := ask(fmt.Sprintf("other%d", i)); !strings.HasPrefix(got, "ra ad NOERROR") {
			t.Errorf("other names: %s", got)
		}
		for _, label := range []string{"failing", "silent"} {
			if got := ask(label); got != want[label] {
				t.Errorf("%s, again: %s", label, got)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, label := range []string{"failing", "silent"} {
		if asked[label] != before[label] {
			t.Errorf("%s was asked for %d times more within a second, want none for 30 s", label, asked[label]-before[label])
		}
	}
}

// TestAnswersWithoutTCPAreNotTheUpstreamsEnd: one whose large answers cannot be had is asked for others.
func TestAnswersWithoutTCPAreNotTheUpstreamsEnd(t *testing.T) {
	first := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) { // nobody listens at its port of TCP
		m := reply(q)
		if m.Truncated = strings.HasPrefix(strings.ToLower(q.Question[0].Name), "large"); !m.Truncated {
			m = reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1")
		}
		send(conn, from, m)
	})
	second := startPartly(t, "198.51.100.2")
	b := newBed(t, nil, plain(first), plain(second.addr))
	for _, c := range []struct{ name, want string }{{"large.example.org.", "198.51.100.2"}, {"small.example.org.", "198.51.100.1"}} {
		if got := short(b.ask(t, "udp", question(c.name, dns.TypeA))); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if s := b.Stats().Upstreams[0]; s.Error != "" || s.Failures != 1 {
		t.Errorf("%+v", s)
	}
}
