package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// serve answers questions by UDP and TCP on one port.
func serve(t *testing.T, answer func(w dns.ResponseWriter, q *dns.Msg)) netip.AddrPort {
	t.Helper()
	for range 20 {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", packets.LocalAddr().String())
		if err != nil {
			packets.Close()
			continue // somebody else has that port by TCP
		}
		for _, s := range []*dns.Server{{PacketConn: packets}, {Listener: listener}} {
			s.Handler = dns.HandlerFunc(answer)
			started, done := make(chan struct{}), make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			go func() { defer close(done); _ = s.ActivateAndServe() }()
			<-started
			t.Cleanup(func() { _ = s.Shutdown(); <-done })
		}
		return netip.MustParseAddrPort(packets.LocalAddr().String())
	}
	t.Fatal("no port is free by UDP and TCP")
	return netip.AddrPort{}
}

// rrs makes records of a zone file's lines.
func rrs(t testing.TB, lines ...string) []dns.RR {
	t.Helper()
	var out []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rr)
	}
	return out
}

// zone answers as an authoritative server that has these lines; it notes the questions.
type zone struct {
	mu    sync.Mutex
	lines []dns.RR
	asked []string // "A web.example. udp"
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	question := q.Question[0]
	z.asked = append(z.asked, dns.TypeToString[question.Qtype]+" "+question.Name+" "+w.RemoteAddr().Network())
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	there := false
	for _, rr := range z.lines {
		if strings.EqualFold(rr.Header().Name, question.Name) {
			there = true
			if rr.Header().Rrtype == question.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	if !there {
		m.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(m)
}

func (z *zone) questions() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.asked)
}

func lookupOf(servers ...netip.AddrPort) *config.DNSLookup {
	return &config.DNSLookup{Family: config.DNSV4Only, Servers: servers, AsIs: true, Timeout: 500 * time.Millisecond, Tries: 1, UDPBytes: 1232}
}

// nowhere is a finder of a system that has no files.
func nowhere(t *testing.T) *finder {
	return newFinder(filepath.Join(t.TempDir(), "resolv.conf"), filepath.Join(t.TempDir(), "hosts"))
}

func found(a answer, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	var words []string
	for _, addr := range a.addrs {
		words = append(words, addr.String())
	}
	return strings.Join(append(words, a.ttl.String()), " ")
}

func TestFamilies(t *testing.T) {
	z := &zone{lines: rrs(
		t, "both.example. 9 A 192.0.2.1", "both.example. 7 AAAA 2001:db8::1", "four.example. 9 A 192.0.2.1", "six.example. 7 AAAA 2001:db8::1",
	)}
	server := serve(t, z.ServeDNS)
	for _, c := range []struct {
		family                config.DNSFamily
		both, four, six, none string
	}{
		{config.DNSV4Only, "192.0.2.1 9s", "192.0.2.1 9s", "0s", "0s"},
		{config.DNSV6Only, "2001:db8::1 7s", "0s", "2001:db8::1 7s", "0s"},
		{config.DNSAuto, "2001:db8::1 7s", "192.0.2.1 9s", "2001:db8::1 7s", "0s"},
		{config.DNSV4Preferred, "192.0.2.1 9s", "192.0.2.1 9s", "2001:db8::1 7s", "0s"},
		{config.DNSAll, "2001:db8::1 192.0.2.1 7s", "192.0.2.1 9s", "2001:db8::1 7s", "0s"},
	} {
		f, l := nowhere(t), lookupOf(server)
		l.Family = c.family
		for host, want := range map[string]string{"both.example": c.both, "four.example": c.four, "six.example": c.six, "none.example": c.none} {
			if got := found(f.find(t.Context(), l, host)); got != want {
				t.Errorf("family %d of %s: got %s, want %s", c.family, host, got, want)
			}
		}
	}
}

// TestOneFamilyFails: the other is used, and it is told that something is missing.
func TestOneFamilyFails(t *testing.T) {
	server := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		if q.Question[0].Qtype == dns.TypeAAAA {
			m.Rcode = dns.RcodeServerFailure
		} else {
			m.Answer = rrs(t, q.Question[0].Name+" 9 A 192.0.2.1")
		}
		_ = w.WriteMsg(m)
	})
	for _, family := range []config.DNSFamily{config.DNSAuto, config.DNSAll} {
		l := lookupOf(server)
		l.Family = family
		a, err := nowhere(t).find(t.Context(), l, "web.example")
		if err != nil || len(a.addrs) != 1 || a.no4 != nil || a.no6 == nil {
			t.Errorf("family %d: got %+v, %v", family, a, err)
		}
	}
}

// TestCVEClass29_OnlyTheAnswerToTheQuestionCounts: nobody who guesses answers for the resolver.
func TestCVEClass29_OnlyTheAnswerToTheQuestionCounts(t *testing.T) {
	reply := func(q *dns.Msg, address string) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		m.Answer = rrs(t, q.Question[0].Name+" 9 A "+address)
		return m
	}
	for _, c := range []struct {
		name string
		tcp  bool
		bad  func(w dns.ResponseWriter, q *dns.Msg)
		want string
	}{
		{"other ID", false, func(w dns.ResponseWriter, q *dns.Msg) { m := reply(q, "192.0.2.66"); m.Id++; _ = w.WriteMsg(m) }, "192.0.2.1 9s"},
		{"other name", false, func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.66")
			m.Question[0].Name = "evil.example."
			_ = w.WriteMsg(m)
		}, "192.0.2.1 9s"},
		{"other type", false, func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.66")
			m.Question[0].Qtype = dns.TypeAAAA
			_ = w.WriteMsg(m)
		}, "192.0.2.1 9s"},
		{"a question", false, func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.66")
			m.Response = false
			_ = w.WriteMsg(m)
		}, "192.0.2.1 9s"},
		{"garbage", false, func(w dns.ResponseWriter, q *dns.Msg) { _, _ = w.Write([]byte(strings.Repeat("\xff", 100))) }, "192.0.2.1 9s"},
		{"too short", false, func(w dns.ResponseWriter, q *dns.Msg) { _, _ = w.Write([]byte{1, 2}) }, "192.0.2.1 9s"},
		{"records of another name", false, func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.7")
			m.Answer = append(m.Answer, rrs(t, "evil.example. 9 A 192.0.2.66")...)
			_ = w.WriteMsg(m)
		}, "192.0.2.7 9s"},
		{"other ID by TCP", true, func(w dns.ResponseWriter, q *dns.Msg) { m := reply(q, "192.0.2.66"); m.Id++; _ = w.WriteMsg(m) }, "another question"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := lookupOf(serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
				c.bad(w, q.Copy())
				_ = w.WriteMsg(reply(q, "192.0.2.1"))
			}))
			l.TCP = c.tcp
			if got := found(nowhere(t).find(t.Context(), l, "w.example")); !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestFallBacks(t *testing.T) {
	isUDP := func(w dns.ResponseWriter) bool { return w.RemoteAddr().Network() == "udp" }
	whole := func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		m.Answer = rrs(t, q.Question[0].Name+" 9 A 192.0.2.1")
		_ = w.WriteMsg(m)
	}
	code := func(code int) func(dns.ResponseWriter, *dns.Msg) {
		return func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, code)) }
	}
	for _, c := range []struct {
		name   string
		answer func(w dns.ResponseWriter, q *dns.Msg)
		want   string
	}{
		{"truncated by UDP, whole by TCP", func(w dns.ResponseWriter, q *dns.Msg) {
			if isUDP(w) {
				m := new(dns.Msg).SetReply(q)
				m.Truncated = true
				_ = w.WriteMsg(m)
				return
			}
			whole(w, q)
		}, "192.0.2.1 9s"},
		{"truncated by TCP too", func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			_ = w.WriteMsg(m)
		}, "truncated by TCP too"},
		{"no EDNS", func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() != nil {
				code(dns.RcodeFormatError)(w, q)
				return
			}
			whole(w, q)
		}, "192.0.2.1 9s"},
		{"silence", func(w dns.ResponseWriter, q *dns.Msg) {}, "no answer within 500ms"},
		{"refused", code(dns.RcodeRefused), "REFUSED"},
		{"servfail", code(dns.RcodeServerFailure), "SERVFAIL"},
		{"endless aliases", func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Answer = rrs(t, q.Question[0].Name+" 9 CNAME a"+q.Question[0].Name)
			_ = w.WriteMsg(m)
		}, "more than 8 aliases"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := found(nowhere(t).find(t.Context(), lookupOf(serve(t, c.answer)), "w.example")); !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestServersInTurn: each is asked until one answers; where they rotate, another one begins each time.
func TestServersInTurn(t *testing.T) {
	fails := serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	a, b := &zone{lines: rrs(t, "w.example. 9 A 192.0.2.1")}, &zone{lines: rrs(t, "w.example. 9 A 192.0.2.2")}
	atA, atB := serve(t, a.ServeDNS), serve(t, b.ServeDNS)
	f, l := nowhere(t), lookupOf(fails, atA, atB)
	for range 3 {
		if got := found(f.find(t.Context(), l, "w.example")); got != "192.0.2.1 9s" {
			t.Errorf("got %s", got)
		}
	}
	l = lookupOf(atA, atB)
	l.Rotate = true
	seen := map[string]int{}
	for range 4 {
		seen[found(f.find(t.Context(), l, "w.example"))]++
	}
	if diff := cmp.Diff(map[string]int{"192.0.2.1 9s": 2, "192.0.2.2 9s": 2}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestTriesAreCounted(t *testing.T) {
	z := &zone{}
	l := lookupOf(serve(t, func(w dns.ResponseWriter, q *dns.Msg) {
		z.mu.Lock()
		defer z.mu.Unlock()
		z.asked = append(z.asked, q.Question[0].Name)
	}))
	l.Timeout, l.Tries = 20*time.Millisecond, 3
	if _, err := nowhere(t).find(t.Context(), l, "w.example"); err == nil {
		t.Fatal("got an answer of nobody")
	}
	if n := len(z.questions()); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
}

func TestAbandonedLookupEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := lookupOf(serve(t, func(w dns.ResponseWriter, q *dns.Msg) { cancel() }))
	l.Timeout = time.Hour
	if _, err := nowhere(t).find(ctx, l, "w.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestSystemFiles: resolv.conf says who is asked and what may be added to a name, the hosts file what is not asked for.
func TestSystemFiles(t *testing.T) {
	dir := t.TempDir()
	resolvConf, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	z := &zone{lines: rrs(t, "web.b.example. 9 A 192.0.2.1", "web. 9 A 192.0.2.2")}
	l := lookupOf(serve(t, z.ServeDNS))
	l.AsIs = false
	write(resolvConf, "nameserver 192.0.2.53\nnameserver ::1\nsearch a.example b.example\noptions ndots:1\n")
	write(hosts, "127.0.0.5 Box box.example # mine\n::5 box\nnonsense\n0.0.0.0 blocked\n")
	f := newFinder(resolvConf, hosts)
	for _, c := range []struct {
		host   string
		family config.DNSFamily
		want   string
	}{
		{"box", config.DNSV4Only, "127.0.0.5 0s"},
		{"box", config.DNSAll, "::5 127.0.0.5 0s"},
		{"box.example.", config.DNSAuto, "127.0.0.5 0s"},
		{"box.example", config.DNSV6Only, "0s"}, // it is known, and has none
		{"localhost", config.DNSV4Only, "127.0.0.1 0s"},
		{"a.localhost", config.DNSAuto, "::1 0s"},
		{"10.0.0.1", config.DNSAuto, "10.0.0.1 0s"},
		{"::ffff:10.0.0.1", config.DNSAuto, "10.0.0.1 0s"},
		{"web", config.DNSV4Only, "192.0.2.1 9s"},
		{"web.", config.DNSV4Only, "192.0.2.2 9s"},
		{"blocked", config.DNSV4Only, "0s"},
	} {
		l.Family = c.family
		if got := found(f.find(t.Context(), l, c.host)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.host, got, c.want)
		}
	}
	want := []string{"A web.a.example. udp", "A web.b.example. udp", "A web. udp", "A blocked.a.example. udp", "A blocked.b.example. udp", "A blocked. udp"}
	if diff := cmp.Diff(want, z.questions()); diff != "" {
		t.Error(diff)
	}

	servers := func(l *config.DNSLookup) string {
		f.system.looked = time.Time{}
		var words []string
		for _, s := range f.system.now().servers(l) {
			words = append(words, s.String())
		}
		return strings.Join(words, " ")
	}
	own := netip.MustParseAddrPort("192.0.2.99:53")
	if got := servers(&config.DNSLookup{}); got != "192.0.2.53:53 [::1]:53" {
		t.Errorf("got %s", got)
	}
	if got := servers(&config.DNSLookup{Servers: []netip.AddrPort{own}}); got != "192.0.2.99:53" {
		t.Errorf("with servers of its own: got %s", got)
	}
	if got := servers(&config.DNSLookup{Servers: []netip.AddrPort{own}, Fallback: true}); got != "192.0.2.53:53 [::1]:53" {
		t.Errorf("with servers to fall back on: got %s", got)
	}
	write(resolvConf, "")
	if got := servers(&config.DNSLookup{}); got != "192.0.2.53:53 [::1]:53" {
		t.Errorf("while it is rewritten: got %s", got)
	}
	write(resolvConf, "nameserver 192.0.2.54\n")
	if got := servers(&config.DNSLookup{}); got != "192.0.2.54:53" {
		t.Errorf("changed: got %s", got)
	}
	if got := nowhere(t).system.now().servers(&config.DNSLookup{Servers: []netip.AddrPort{own}, Fallback: true}); len(got) != 1 || got[0] != own {
		t.Errorf("without the file: got %v", got)
	}
	if got := nowhere(t).system.now().servers(&config.DNSLookup{}); len(got) != 1 || got[0].String() != "127.0.0.1:53" {
		t.Errorf("without any: got %v", got)
	}
}
