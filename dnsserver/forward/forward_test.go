package forward_test

import (
	"context"
	"crypto/tls"
	"fmt"
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
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// tap keeps what it is shown.
type tap struct {
	mu  sync.Mutex
	all []dnsserver.Exchange // guarded by mu
}

func (p *tap) Show(e dnsserver.Exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, e)
}

func (p *tap) queries(t *testing.T) (all []*dns.Msg) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.all {
		m := new(dns.Msg)
		if err := m.Unpack(e.Query); err != nil || e.Kind != dnsserver.FromUpstream {
			t.Errorf("kind %d, %v", e.Kind, err)
		}
		all = append(all, m)
	}
	return all
}

func TestOtherNamesAreForwardedResolvers(t *testing.T) {
	seen := &tap{}
	u := startUnbound(t, "", "")
	b := newBed(t, func(o *forward.Options, _ *dnsserver.Options) { o.Tap = seen }, plain(u.addr))
	soa := "; ns example.org. SOA"
	for _, c := range []struct {
		name, network string
		qtype         uint16
		want          string
	}{
		{"www.example.org.", "udp", dns.TypeA, "ra NOERROR; www.example.org. 300 IN A 198.51.100.1; www.example.org. 300 IN A 198.51.100.2"},
		{"wWw.Example.org.", "udp", dns.TypeA, "ra NOERROR; wWw.Example.org. 300 IN A 198.51.100.1; wWw.Example.org. 300 IN A 198.51.100.2"},
		{"www.example.org.", "tcp", dns.TypeA, "ra NOERROR; www.example.org. 300 IN A 198.51.100.1; www.example.org. 300 IN A 198.51.100.2"},
		{"alias.example.org.", "udp", dns.TypeCNAME, "ra NOERROR; alias.example.org. 300 IN CNAME www.example.org."},
		{`$odd\@x.example.org.`, "udp", dns.TypeA, `ra NOERROR; $odd\@x.example.org. 300 IN A 198.51.100.4`},
		{"www.example.org.", "udp", dns.TypeAAAA, "ra NOERROR" + soa},
		{"none.example.org.", "udp", dns.TypeA, "ra NXDOMAIN" + soa},
		{"none.example.org.", "tcp", dns.TypeA, "ra NXDOMAIN" + soa},
		{"large.example.org.", "udp", dns.TypeTXT, "tc ra NOERROR"},
		{"web.mesh.internal.", "udp", dns.TypeA, "aa ra NOERROR; web.mesh.internal. 5 IN A 192.0.2.1"},
		{"leak.mesh.internal.", "udp", dns.TypeA, "aa ra NXDOMAIN; ns mesh.internal. SOA"},
		{"x.test.", "udp", dns.TypeA, "ra NXDOMAIN; ns test. SOA"},
		{"a.localhost.", "udp", dns.TypeA, "ra NOERROR; a.localhost. 10800 IN A 127.0.0.1"},
		{"1.0.0.127.in-addr.arpa.", "udp", dns.TypePTR, "ra NOERROR; 1.0.0.127.in-addr.arpa. 10800 IN PTR localhost."},
	} {
		got := short(b.ask(t, c.network, question(c.name, c.qtype)))
		if got = strings.ReplaceAll(got, " 299 IN ", " 300 IN "); got != c.want { // a second may have passed
			t.Errorf("%s %s over %s:\n got %s\nwant %s", c.name, dns.TypeToString[c.qtype], c.network, got, c.want)
		}
	}
	if m := b.ask(t, "tcp", question("large.example.org.", dns.TypeTXT)); len(m.Answer) != 20 || m.Truncated {
		t.Errorf("%d records over TCP, truncated %v", len(m.Answer), m.Truncated)
	}
	for _, q := range seen.queries(t) {
		if strings.HasSuffix(strings.ToLower(q.Question[0].Name), "mesh.internal.") || strings.HasSuffix(strings.ToLower(q.Question[0].Name), "test.") {
			t.Errorf("%v has left", q.Question)
		}
	}
	// Each was asked for once, the large one over TCP too.
	if s := b.Stats(); len(seen.queries(t)) != 6+1 || s.Misses != 6 || s.Hits != 4 || s.Upstreams[0].Answers != 6 || s.Local != 3 {
		t.Errorf("%d queries, counted %+v", len(seen.queries(t)), s)
	}

	m := question("www.example.org.", dns.TypeA)
	m.RecursionDesired = false
	if got := short(b.ask(t, "udp", m)); got != "ra REFUSED; EDE 20" {
		t.Errorf("without RD: %s", got)
	}
	for _, qtype := range []uint16{dns.TypeTKEY, dns.TypeAXFR} {
		if m := b.ask(t, "tcp", question("example.org.", qtype)); m.Rcode == dns.RcodeSuccess {
			t.Errorf("%v", m)
		}
	}
}

// TestAliasesThatLeadElsewhereResolvers: what our zone's aliases lead to is answered with them, all of it or nothing.
func TestAliasesThatLeadElsewhereResolvers(t *testing.T) {
	b := newBed(t, nil, plain(startUnbound(t, "", "").addr))
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name  string
			qtype uint16
			want  string
		}{
			{"out.mesh.internal.", dns.TypeA, "aa ra NOERROR; out.mesh.internal. 5 IN CNAME www.example.org.; www.example.org. 300 IN A 198.51.100.1; www.example.org. 300 IN A 198.51.100.2"},
			{"out.mesh.internal.", dns.TypeCNAME, "aa ra NOERROR; out.mesh.internal. 5 IN CNAME www.example.org."},
			{"out.mesh.internal.", dns.TypeAAAA, "aa ra NOERROR; out.mesh.internal. 5 IN CNAME www.example.org.; ns example.org. SOA"},
			{"lost.mesh.internal.", dns.TypeA, "aa ra NXDOMAIN; lost.mesh.internal. 5 IN CNAME none.example.org.; ns example.org. SOA"},
			{"down.mesh.internal.", dns.TypeA, "ra SERVFAIL; EDE 0"},
			{"long.mesh.internal.", dns.TypeTXT, "aa tc ra NOERROR"},
		} {
			m := b.ask(t, network, question(c.name, c.qtype))
			got := strings.ReplaceAll(short(m), " 299 IN ", " 300 IN ")
			if c.qtype == dns.TypeTXT && network == "tcp" {
				got, c.want = fmt.Sprint(len(m.Answer)), "21"
			}
			if got != c.want {
				t.Errorf("%s %s over %s:\n got %s\nwant %s", c.name, dns.TypeToString[c.qtype], network, got, c.want)
			}
		}
	}
	m := question("out.mesh.internal.", dns.TypeA)
	m.RecursionDesired = false
	if got := short(b.ask(t, "udp", m)); got != "aa ra NOERROR; out.mesh.internal. 5 IN CNAME www.example.org." {
		t.Errorf("without RD: %s", got)
	}
}

// TestASlowUpstreamLetsOldAnswersOut: who has an old answer is not kept waiting, and the new one is there when it has come.
func TestASlowUpstreamLetsOldAnswersOut(t *testing.T) {
	var slow atomic.Bool
	var late atomic.Int32
	release := make(chan struct{})
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		if !slow.Load() {
			send(conn, from, reply(q, q.Question[0].Name+" 1 IN A 198.51.100.1"))
			return
		}
		late.Add(1)
		go func() {
			<-release
			send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.2"))
		}()
	})
	up := plain(upstream)
	up.Timeout = 10 * time.Second
	b := newBed(t, nil, up)
	b.ask(t, "udp", question("www.example.org.", dns.TypeA))
	slow.Store(true)
	within(t, "what is old is answered", func() bool {
		return strings.HasPrefix(short(b.ask(t, "udp", question("www.example.org.", dns.TypeA))), "ra NOERROR; www.example.org. 30 IN A 198.51.100.1; EDE 3")
	})
	time.Sleep(500 * time.Millisecond) // whoever would have waited for the question's end sees that end by now
	if n := b.Stats().InFlight; n != 1 {
		t.Errorf("%d questions are under way when what is old is answered, want 1", n)
	}
	close(release)
	within(t, "the new answer is there", func() bool {
		return strings.Contains(short(b.ask(t, "udp", question("www.example.org.", dns.TypeA))), "198.51.100.2")
	})
	if late.Load() != 1 {
		t.Errorf("it was asked %d times", late.Load())
	}
}

// TestWhatIsBogusIsNobodysElse: an upstream that says that signatures are wrong is believed; of one that fails otherwise the next is asked.
func TestWhatIsBogusIsNobodysElse(t *testing.T) {
	var code atomic.Uint32
	first := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		m := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: uint16(code.Load()), ExtraText: "because"}}
		send(conn, from, m)
	})
	second := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1"))
	})
	b := newBed(t, nil, plain(first), plain(second))
	for c, want := range map[uint16]string{
		dns.ExtendedErrorCodeDNSBogus: "ra SERVFAIL; EDE 6", dns.ExtendedErrorCodeSignatureExpired: "ra SERVFAIL; EDE 7", dns.ExtendedErrorCodeNetworkError: "198.51.100.1", dns.ExtendedErrorCodeOther: "198.51.100.1",
	} {
		code.Store(uint32(c))
		if got := short(b.ask(t, "udp", question(fmt.Sprintf("code%d.example.org.", c), dns.TypeA))); !strings.Contains(got, want) {
			t.Errorf("code %d: %s, want %s", c, got, want)
		}
	}
	if s := b.Stats(); s.Upstreams[0].Error != "" || s.Upstreams[0].Answers != 4 {
		t.Errorf("%+v", s.Upstreams)
	}
}

// TestWhatIsBetweenUsAndClientsStays: the upstream sees flags, and nothing else of what a client has said.
func TestWhatIsBetweenUsAndClientsStays(t *testing.T) {
	seen := make(chan *dns.Msg, 10)
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		seen <- q
		m := reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1")
		m.AuthenticatedData = true
		send(conn, from, m)
	})
	b := newBed(t, nil, plain(upstream))
	for i, c := range []struct{ do, ad, cd bool }{{}, {do: true}, {ad: true}, {cd: true}, {do: true, cd: true}} {
		m := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, c.do)
		m.AuthenticatedData, m.CheckingDisabled = c.ad, c.cd
		m.IsEdns0().Option = []dns.EDNS0{
			&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(203, 0, 113, 0)},
			&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")},
		}
		got := b.ask(t, "udp", m)
		if got.AuthenticatedData != (c.do || c.ad) || got.CheckingDisabled != c.cd || got.IsEdns0().Do() != c.do {
			t.Errorf("%+v: %s", c, short(got))
		}
		if i == 2 {
			continue // that is known by now
		}
		q := <-seen
		if opt := q.IsEdns0(); opt == nil || opt.Do() != c.do || len(opt.Option) != 0 || q.CheckingDisabled != c.cd || !q.RecursionDesired || !q.AuthenticatedData {
			t.Errorf("%+v: the upstream saw %v", c, q)
		}
	}
}

func TestUpstreamsDieAndComeBackResolvers(t *testing.T) {
	one, two := startUnbound(t, "", ""), startUnbound(t, "", "")
	b := newBed(t, nil, plain(one.addr), plain(two.addr))
	good := func(text string) bool {
		return b.ask(t, "udp", question(text, dns.TypeA)).Rcode == dns.RcodeSuccess
	}
	if !good("short.example.org.") || b.Stats().Upstreams[0].Answers != 1 {
		t.Fatalf("%+v", b.Stats())
	}
	one.kill()
	if !good("www.example.org.") {
		t.Error("the second is not asked")
	}
	if s := b.Stats(); s.Upstreams[0].Error == "" || s.Upstreams[1].Error != "" || s.Upstreams[1].Answers != 1 {
		t.Errorf("%+v", s)
	}
	two.kill()
	within(t, "what is old is answered", func() bool {
		m := b.ask(t, "udp", question("short.example.org.", dns.TypeA))
		return short(m) == "ra NOERROR; short.example.org. 30 IN A 198.51.100.3; EDE 3"
	})
	for range 3 {
		if got := short(b.ask(t, "udp", question("short.example.org.", dns.TypeA))); got != "ra NOERROR; short.example.org. 30 IN A 198.51.100.3; EDE 3" {
			t.Errorf("what is old, again: %s", got)
		}
	}
	if got := short(b.ask(t, "udp", question("www.example.org.", dns.TypeA))); !strings.Contains(got, "198.51.100.1") || strings.Contains(got, "EDE") {
		t.Errorf("what is not old: %s", got)
	}
	if got := short(b.ask(t, "udp", question("alias.example.org.", dns.TypeCNAME))); got != "ra SERVFAIL; EDE 22" {
		t.Errorf("what is not known: %s", got)
	}
	one.start(t)
	within(t, "the first is asked again", func() bool { return good("alias.example.org.") && b.Stats().Upstreams[0].Error == "" })
	within(t, "what was old is new", func() bool {
		return strings.Contains(short(b.ask(t, "udp", question("short.example.org.", dns.TypeA))), " 1 IN A")
	})
}

func TestOverTLSResolvers(t *testing.T) {
	authority := testbed.NewAuthority(t)
	cert, key := testbed.WritePair(t, t.TempDir(), "unbound", authority.Leaf("dns.example.org"))
	u := startUnbound(t, cert, key)
	over := func(config *tls.Config) *bed {
		up := plain(u.addr)
		config.MinVersion = tls.VersionTLS12
		up.TLS = config
		return newBed(t, nil, up)
	}
	b := over(&tls.Config{RootCAs: authority.Pool(), ServerName: "dns.example.org"})
	for i, text := range []string{"www.example.org.", "short.example.org.", "alias.example.org."} {
		if m := b.ask(t, "udp", question(text, dns.TypeA)); m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
			t.Errorf("%d: %s", i, short(m))
		}
	}
	if m := b.ask(t, "tcp", question("large.example.org.", dns.TypeTXT)); len(m.Answer) != 20 {
		t.Errorf("%d records", len(m.Answer))
	}
	u.kill()
	u.start(t) // the connection that was kept has ended
	if m := b.ask(t, "udp", question("www.example.org.", dns.TypeTXT)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("after a restart: %s", short(m))
	}
	for what, config := range map[string]*tls.Config{
		"another name": {RootCAs: authority.Pool(), ServerName: "dns.example.com"}, "another authority": {RootCAs: testbed.NewAuthority(t).Pool(), ServerName: "dns.example.org"},
	} {
		b := over(config)
		if got := short(b.ask(t, "udp", question("www.example.org.", dns.TypeA))); got != "ra SERVFAIL; EDE 22" || !strings.Contains(b.Stats().Upstreams[0].Error, "certificate") {
			t.Errorf("%s: %s, %+v", what, got, b.Stats().Upstreams)
		}
	}
}

// TestLocalNamesAsUnboundResolvers compares what is answered for names that are not asked for with what Unbound answers.
func TestLocalNamesAsUnboundResolvers(t *testing.T) {
	u := startUnbound(t, "", "")
	b := newBed(t, nil, plain(u.addr))
	for _, domain := range forward.LocalDomains() {
		switch domain.String() {
		case "resolver.arpa.", "service.arpa.": // later than some Unbounds
			continue
		}
		for _, text := range []string{domain.String(), "a." + domain.String()} {
			q := question(text, dns.TypeMX)
			want, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(q, u.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			if got := b.ask(t, "udp", q); got.Rcode != want.Rcode || len(got.Ns) != 1 || len(want.Ns) != 1 || got.Ns[0].String() != want.Ns[0].String() {
				t.Errorf("%s: %s %v, Unbound %s %v", text, short(got), got.Ns, short(want), want.Ns)
			}
		}
	}
	if s := b.Stats(); s.Upstreams[0].Answers != 0 {
		t.Errorf("asked %d times", s.Upstreams[0].Answers)
	}
	passing := newBed(t, func(o *forward.Options, _ *dnsserver.Options) { o.PassOn = []dnsserver.Name{name("10.in-addr.arpa")} }, plain(u.addr))
	if m := passing.ask(t, "udp", question("1.10.in-addr.arpa.", dns.TypePTR)); m.Rcode != dns.RcodeNameError || passing.Stats().Upstreams[0].Answers != 1 {
		t.Errorf("%s, %+v", short(m), passing.Stats())
	}
}

// TestOneQuestionIsAskedOnce: many clients wait for one query, and one that leaves takes nothing from the others.
func TestOneQuestionIsAskedOnce(t *testing.T) {
	var asked atomic.Int32
	gate, first := make(chan struct{}), make(chan struct{}, 100)
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		asked.Add(1)
		first <- struct{}{}
		go func() {
			<-gate
			send(conn, from, reply(q, q.Question[0].Name+" 60 IN A 198.51.100.1"))
		}()
	})
	up := plain(upstream)
	up.Timeout = 20 * time.Second
	b := newBed(t, nil, up)
	q := dnsserver.Question{Name: name("www.example.org"), Type: dns.TypeA, Asker: netip.MustParseAddr("192.0.2.1")}
	leaves, cancel := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if said := b.Ask(leaves, q); said.Rcode != dns.RcodeServerFailure {
			t.Errorf("who has left got %+v", said)
		}
	})
	<-first
	for range 50 {
		waiting.Go(func() {
			if said := b.Ask(context.Background(), q); said.Rcode != dns.RcodeSuccess || said.Answers != 1 {
				t.Errorf("got %+v", said)
			}
		})
	}
	within(t, "all wait", func() bool { return b.Stats().Misses == 51 })
	cancel()
	close(gate)
	waiting.Wait()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// TestCacheIsBounded: whatever is asked, its memory is not more than it may be; what was used last stays.
func TestCacheIsBounded(t *testing.T) {
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		send(conn, from, reply(q, q.Question[0].Name+" 60 IN TXT "+strings.Repeat("x", 200)))
	})
	const most = 50_000
	b := newBed(t, func(o *forward.Options, _ *dnsserver.Options) { o.CacheBytes = most }, plain(upstream))
	for i := range 500 {
		b.ask(t, "udp", question(fmt.Sprintf("n%d.example.org.", i), dns.TypeTXT))
		b.ask(t, "udp", question("n0.example.org.", dns.TypeTXT))
		if s := b.Stats(); s.Size > most || s.Entries > most/400 {
			t.Fatalf("after %d: %+v", i, s)
		}
	}
	if s := b.Stats(); s.Size < most/2 || s.Misses != 500 || s.Hits != 500 {
		t.Errorf("%+v", s)
	}
}

// TestTTLs: how long what is kept.
func TestTTLs(t *testing.T) {
	upstream := hostile(t, func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg) {
		m := reply(q)
		label, _, _ := strings.Cut(strings.ToLower(q.Question[0].Name), ".")
		add := func(section *[]dns.RR, text string) { *section = append(*section, reply(q, text).Answer...) }
		switch label {
		case "nodata":
			add(&m.Ns, "example.org. 900 IN SOA a. b. 1 2 3 4 50")
		case "nosoa":
		case "longnodata":
			add(&m.Ns, "example.org. 9000 IN SOA a. b. 1 2 3 4 9000")
		default:
			add(&m.Answer, q.Question[0].Name+" "+label+" IN A 198.51.100.1")
		}
		send(conn, from, m)
	})
	b := newBed(t, func(o *forward.Options, _ *dnsserver.Options) {
		o.MinTTL, o.MaxTTL, o.NegativeTTL = 10*time.Second, 1000*time.Second, 100*time.Second
	}, plain(upstream))
	for label, want := range map[string]uint32{"5": 10, "500": 500, "5000": 1000, "4294967295": 10, "nodata": 50, "longnodata": 100, "nosoa": 0} {
		misses := b.Stats().Misses
		var m *dns.Msg
		for range 2 {
			m = b.ask(t, "tcp", question(label+".example.org.", dns.TypeA))
		}
		got := uint32(0)
		for _, rr := range append(m.Answer, m.Ns...) {
			got = rr.Header().Ttl
		}
		if got != want && got+1 != want || b.Stats().Misses != misses+map[bool]uint64{true: 2, false: 1}[label == "nosoa"] {
			t.Errorf("%s: %d s, want %d; %d missed", label, got, want, b.Stats().Misses-misses)
		}
	}
}
