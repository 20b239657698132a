package forward

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// AD of an upstream counts only where nobody can change it on its way.
func TestWhoseWordOfSignaturesCounts(t *testing.T) {
	f := New(Options{CacheBytes: 1 << 16, MaxTTL: time.Hour})
	k := key{name: "\x03www\x07example\x00", qtype: dns.TypeA}
	for _, c := range []struct {
		addr string
		tls  *tls.Config
		want bool
	}{{"127.0.0.1:53", nil, true}, {"[::1]:53", nil, true}, {"192.0.2.1:53", nil, false}, {"10.0.0.1:53", nil, false}, {"192.0.2.1:853", &tls.Config{MinVersion: tls.VersionTLS12}, true}} {
		u := newUpstream(Upstream{Addr: netip.MustParseAddrPort(c.addr), TLS: c.tls}, nil, nil, nil)
		m := &dns.Msg{Answer: []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "www.example.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 1}}}}
		m.AuthenticatedData = true
		e, err := f.entry(k, m, u.trusted)
		if err != nil || e.authentic != c.want || e.at(e.stored).Authentic != c.want {
			t.Errorf("%s: %+v, %v", c.addr, e, err)
		}
	}
}

// Names get back the case that they had before the question's was made up, and keep it elsewhere.
func TestSettle(t *testing.T) {
	var got []string
	m := &dns.Msg{}
	for _, text := range []string{
		"wWw.eXAmple.Org. 60 IN CNAME Host.eXAmple.Org.", "Host.eXAmple.Org. 60 IN CNAME My-Printer.Example.Org.", "Host.Org. 60 IN MX 1 MX.Org.",
		"aeXAmple.Org. 60 IN SRV 0 0 1 eXAmple.Org.", "Org. 60 IN SOA Ns.eXAmple.Org. Host.Net. 1 2 3 4 5", "X. 60 IN PTR eXAmple.Org.",
	} {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	settle(m, "wWw.eXAmple.Org.")
	for _, rr := range m.Answer {
		got = append(got, rr.Header().Name+rr.String()[len(rr.Header().String()):])
	}
	want := []string{
		"www.example.org.Host.example.org.", "Host.example.org.My-Printer.Example.org.", "Host.org.1 MX.org.",
		"aeXAmple.org.0 0 1 example.org.", "org.Ns.example.org. Host.Net. 1 2 3 4 5", "X.example.org.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type panicking struct{}

func (panicking) Show(dnsserver.Exchange) { panic("a bug") }

// A panic at an upstream's answer ends that question.
func TestAPanicEndsAQuestionOnly(t *testing.T) {
	f := New(Options{
		Upstreams: []Upstream{{Addr: netip.MustParseAddrPort("127.0.0.1:1"), Timeout: time.Second}}, CacheBytes: 1 << 16, Log: slog.New(slog.DiscardHandler), Tap: panicking{},
	})
	for _, name := range []dnsserver.Name{"\x01a\x00", "\x01b\x00"} {
		if said := f.Ask(context.Background(), dnsserver.Question{Name: name, Type: dns.TypeA}); said.Rcode != dns.RcodeServerFailure || said.Failure == nil {
			t.Errorf("%+v", said)
		}
	}
	if n := f.Stats().InFlight; n != 0 {
		t.Errorf("%d are under way", n)
	}
}
