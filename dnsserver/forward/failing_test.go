package forward_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
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
