package forward_test

import (
	"fmt"
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

// What is no answer to the very question, from the very server, is not taken (CVE-2023-30464, GHSA-gv9j-4w24-q7vx); of what is one only
// what belongs to the question.
func TestCVEClass29_ForwardTakesNoForgedAnswers(t *testing.T) {
	const bad = " 60 IN A 203.0.113.66"
	var change sync.Mutex
	forge := ""
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		change.Lock()
		defer change.Unlock()
		asked := q.Question[0].Name
		m := reply(q, asked+bad)
		switch forge {
		case "number":
			for i := range 50 {
				m.Id = q.Id + 1 + uint16(i)
				send(conn, from, m)
			}
		case "name":
			m.Question[0].Name = "other.example.org."
			send(conn, from, m)
		case "type":
			m.Question[0].Qtype = dns.TypeAAAA
			send(conn, from, m)
		case "no question":
			m.Question = nil
			send(conn, from, m)
		case "query":
			m.Response = false
			send(conn, from, m)
		case "port":
			other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				panic(err)
			}
			defer other.Close()
			send(other, from, m)
		case "cut off":
			packed, _ := m.Pack()
			_, _ = conn.WriteToUDPAddrPort(packed[:len(packed)-3], from)
		case "ours":
			send(conn, from, reply(q, asked+" 60 IN CNAME web.mesh.internal.", "web.mesh.internal."+bad, "x.mesh.internal. 60 IN A 198.51.100.1"))
			return
		case "others":
			good := reply(q, asked+" 60 IN CNAME b.example.net.", "b.example.net. 60 IN A 198.51.100.1", "bank.example."+bad, "web.mesh.internal."+bad)
			good.Ns = reply(q, "example.org. 60 IN NS evil.example.", "bank.example. 60 IN SOA a. b. 1 2 3 4 5").Answer
			good.Extra = reply(q, "bank.example."+bad).Answer
			send(conn, from, good)
			return
		}
		send(conn, from, reply(q, asked+" 60 IN A 198.51.100.1"))
	})
	b := newBed(t, nil, plain(upstream))
	for _, kind := range []string{"number", "name", "type", "no question", "query", "port", "cut off", "ours", "others"} {
		change.Lock()
		forge = kind
		change.Unlock()
		m := b.ask(t, "udp", question(strings.ReplaceAll(kind, " ", "-")+"x.example.org.", dns.TypeA))
		if got := short(m); strings.Contains(got, "203.0.113.66") || strings.Contains(got, "198.51.100.1") == (kind == "ours") || len(m.Ns) != 0 {
			t.Errorf("%s: %s", kind, got)
		}
		if kind == "others" && len(m.Answer) != 2 {
			t.Errorf("%s: %s", kind, short(m))
		}
	}
	change.Lock()
	forge = ""
	change.Unlock()
	if m := b.ask(t, "udp", question("bank.example.", dns.TypeA)); strings.Contains(short(m), "203.0.113.66") {
		t.Errorf("it was kept: %s", short(m))
	}
}

// An answer whose name has not the case of the question is asked for over TCP, where nobody can forge it.
func TestCVEClass29_ForwardChecksTheCaseOfNames(t *testing.T) {
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		m := reply(q, q.Question[0].Name+" 60 IN A 203.0.113.66")
		m.Question[0].Name = strings.ToLower(q.Question[0].Name)
		send(conn, from, m)
	})
	tcp, err := net.Listen("tcp", upstream.String())
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: tcp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1"))
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	b := newBed(t, nil, plain(upstream))
	if got := short(b.ask(t, "udp", question("a-name-of-many-letters.example.org.", dns.TypeA))); !strings.Contains(got, "198.51.100.1") {
		t.Errorf("got %s", got)
	}
}

// Numbers, ports and the case of names cannot be told from those before (GHSA-gv9j-4w24-q7vx).
func TestCVEClass29_ForwardCannotBeGuessed(t *testing.T) {
	var mu sync.Mutex
	ids, ports, cases := map[uint16]bool{}, map[uint16]bool{}, map[string]bool{}
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		mu.Lock()
		ids[q.Id], ports[from.Port()], cases[q.Question[0].Name[strings.IndexByte(q.Question[0].Name, '.'):]] = true, true, true
		mu.Unlock()
		send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1"))
	})
	b := newBed(t, nil, plain(upstream))
	const n = 200
	for i := range n {
		b.ask(t, "udp", question(fmt.Sprintf("%d.letters-letters.example.org.", i), dns.TypeA))
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < n*9/10 || len(ports) < n*9/10 || len(cases) < n*9/10 {
		t.Errorf("of %d: %d numbers, %d ports, %d cases", n, len(ids), len(ports), len(cases))
	}
}

// A server that is its own upstream says so at once, instead of asking itself for ever (CVE-2026-26018).
func TestCVEClass29_ForwardLoopsEnd(t *testing.T) {
	var b *bed
	at := netip.MustParseAddrPort("127.0.0.1:0")
	// The port is known by a server that is there for that alone.
	probe, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	at = probe.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = probe.Close()
	b = newBed(t, func(_ *forward.Options, o *dnsserver.Options) { o.Addrs = []string{at.String()} }, plain(at))
	start := time.Now()
	m := b.ask(t, "udp", question("www.example.org.", dns.TypeA))
	if s := b.Stats(); m.Rcode != dns.RcodeServerFailure || s.Loops != 1 || s.Upstreams[0].Answers != 1 {
		t.Errorf("after %v: %s, %+v", time.Since(start), short(m), s)
	}
}

// Who is not on the list gets nothing, also of what is known, and is told (CVE-2025-68151 is what open resolvers are used for).
func TestCVEClass29_ForwardIsNoOpenResolver(t *testing.T) {
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1"))
	})
	b := newBed(t, func(_ *forward.Options, o *dnsserver.Options) {
		o.ForwardFor = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	}, plain(upstream))
	from := func(source string) string {
		client := &dns.Client{Timeout: 10 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}}
		m, _, err := client.Exchange(question("www.example.org.", dns.TypeA), b.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		return short(m)
	}
	for _, c := range []struct{ source, want string }{
		{"127.0.0.1", "REFUSED; EDE 18"},
		{"127.0.0.2", "ra NOERROR; www.example.org. 60 IN A 198.51.100.1"},
		{"127.0.0.1", "REFUSED; EDE 18"},
	} {
		if got := strings.Replace(from(c.source), " 59 IN", " 60 IN", 1); got != c.want {
			t.Errorf("from %s: %s, want %s", c.source, got, c.want)
		}
	}
	if s := b.Stats(); s.Upstreams[0].Answers != 1 {
		t.Errorf("%+v", s)
	}
}

// One source has so many queries waiting, and no more (CVE-2025-68151).
func TestCVEClass29_ForwardBoundsEachSource(t *testing.T) {
	upstream := hostile(t, func(*net.UDPConn, netip.AddrPort, *dns.Msg) {}) // says nothing
	b := newBed(t, nil, plain(upstream))
	var waiting sync.WaitGroup
	ask := func(i int, source string) {
		waiting.Go(func() {
			b.Ask(t.Context(), dnsserver.Question{Name: name(fmt.Sprintf("n%d.example.org", i)), Type: dns.TypeA, Asker: netip.MustParseAddr(source)})
		})
	}
	for i := range 300 {
		ask(i, "192.0.2.1")
	}
	within(t, "what is beyond is refused", func() bool { return b.Stats().Refused == 200 })
	ask(1000, "192.0.2.2")
	within(t, "others are not", func() bool { return b.Stats().InFlight == 101 })
	waiting.Wait()
}
