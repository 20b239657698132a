package forward

import (
	"log/slog"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// FuzzAnswer: whatever an upstream says, what is kept of it is a message that can be read, of the question's records alone.
func FuzzAnswer(f *testing.F) {
	q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
	for _, records := range [][]string{
		{"www.example.org. 60 IN A 192.0.2.1"},
		{"www.example.org. 60 IN CNAME a.example.net.", "a.example.net. 1 IN A 192.0.2.1", "b.example.net. 1 IN A 192.0.2.2"},
		{"org. 60 IN DNAME net.", "www.example.org. 0 IN CNAME www.example.net.", "www.example.net. 4294967295 IN A 192.0.2.1"},
	} {
		m := new(dns.Msg).SetReply(q)
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		soa, _ := dns.NewRR("example.org. 60 IN SOA a. b. 1 2 3 4 5")
		m.Ns = []dns.RR{soa}
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, true)
		f.Add(packed, false)
	}
	forwarder := New(Options{CacheBytes: 1 << 16, MaxTTL: time.Hour, NegativeTTL: time.Minute, Own: []dnsserver.Name{"\x04mesh\x00"}, Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, packed []byte, dnssec bool) {
		m := new(dns.Msg)
		if m.Unpack(packed) != nil {
			return
		}
		name, err := dnsserver.ParseName("www.example.org")
		if err != nil {
			t.Fatal(err)
		}
		k := key{name: name, qtype: dns.TypeA, dnssec: dnssec}
		e, err := forwarder.entry(k, m, true)
		if err != nil {
			return
		}
		forwarder.cache.put(k, e)
		for _, said := range []dnsserver.Forwarded{e.at(e.stored), e.at(e.stored.Add(24 * time.Hour)), e.old()} {
			head := &dns.Msg{Question: []dns.Question{{Name: "wWw.example.org.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}}
			whole, err := head.Pack()
			if err != nil {
				t.Fatal(err)
			}
			whole[7], whole[6], whole[9], whole[8] = byte(said.Answers), byte(said.Answers>>8), byte(said.Authority), byte(said.Authority>>8)
			whole = append(whole, said.Records...)
			again := new(dns.Msg)
			if err := again.Unpack(whole); err != nil {
				t.Fatalf("%v in %q of %q", err, whole, packed)
			}
			for _, rr := range append(again.Answer, again.Ns...) {
				if h := rr.Header(); h.Ttl > 3600 || h.Rrtype == dns.TypeOPT || forwarder.local.own(h.Name) {
					t.Errorf("kept %v", rr)
				}
			}
		}
		if _, bytes := forwarder.cache.size(); bytes > 1<<16 {
			t.Errorf("the cache has %d bytes", bytes)
		}
	})
}
