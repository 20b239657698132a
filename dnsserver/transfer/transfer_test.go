package transfer_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
	"github.com/hostmesh/hostmesh/dnsserver/tsig"
	"github.com/hostmesh/hostmesh/internal/watch"
)

const secret = "0123456789abcdef0123456789abcdef"

func mustName(s string) dnsserver.Name {
	name, err := dnsserver.ParseName(s)
	if err != nil {
		panic(err)
	}
	return name
}

// primary is a server whose zone is changed by the test.
type primary struct {
	t      testing.TB
	zones  *watch.Value[[]*dnsserver.Zone]
	copies *transfer.Primary
	addr   netip.AddrPort
	keys   *dnssec.Keys // nil: the zone is not signed
	key    *tsig.Key
	random *rand.Rand
}

// startPrimary starts one, with port 0 on a free port.
func startPrimary(t testing.TB, signed bool, listen string, serial uint32, secondaries ...transfer.Secondary) *primary {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p := &primary{t: t, zones: new(watch.Value[[]*dnsserver.Zone]), random: rand.New(rand.NewPCG(1, 2))}
	var err error
	if p.key, err = tsig.NewKey("transfer.example.", "hmac-sha256", []byte(secret)); err != nil {
		t.Fatal(err)
	}
	apex := dnsserver.Apex{
		Origin: "mesh.internal", Serial: serial, TTL: 60, NegativeTTL: 1,
		NameServers: []dnsserver.NameServer{{Name: "ns.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
	}
	if signed {
		if p.keys, err = dnssec.OpenKeys(t.TempDir(), "mesh.internal", dnssec.Policy{TTL: time.Hour, Propagation: -time.Hour, ParentTTL: time.Hour}, log); err != nil {
			t.Fatal(err)
		}
		apex.Signer = dnssec.NewSigner(p.keys.Ring, 0)
	}
	branches := map[string]*dnsserver.Branch{}
	for i := range 20 {
		key := fmt.Sprintf("s%d", i)
		branches[key] = p.branch(key)
	}
	p.zones.Set([]*dnsserver.Zone{dnsserver.NewZone(apex, branches)})
	for i := range secondaries {
		if secondaries[i].Key != nil {
			secondaries[i].Key = p.key
		}
	}
	p.copies = transfer.New(transfer.Options{Zones: p.zones.Get, Renumber: func() { p.change(nil) }, Secondaries: secondaries, Log: log})
	s := dnsserver.New(dnsserver.Options{Addrs: []string{listen}, Zones: p.zones.Load, Log: log, Keys: []*tsig.Key{p.key}, Copies: p.copies})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	p.addr = s.Addrs()[0]
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- p.copies.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; <-done })
	return p
}

// branch is a service with some endpoints and ports, another each time.
func (p *primary) branch(key string) *dnsserver.Branch {
	names := map[string][]dnsserver.Set{}
	var addrs []netip.Addr
	srv := dnsserver.Set{Type: dns.TypeSRV, TTL: 5}
	for range 1 + p.random.IntN(40) {
		addr := netip.AddrFrom4([4]byte{192, 0, byte(p.random.IntN(3)), byte(p.random.IntN(256))})
		label := strings.ReplaceAll(addr.String(), ".", "-")
		addrs = append(addrs, addr)
		names[label+"."+key+".default"] = dnsserver.Addresses(5, []netip.Addr{addr}, nil)
		srv.Data = append(srv.Data, dnsserver.ServiceData(0, 1, 80, mustName(label+"."+key+".default.mesh.internal")))
	}
	names[key+".default"] = append(dnsserver.Addresses(5, addrs, nil), srv)
	names["_http._tcp."+key+".default"] = []dnsserver.Set{{Type: srv.Type, TTL: srv.TTL, Data: slices.Clone(srv.Data)}}
	return dnsserver.NewBranch(mustName("mesh.internal"), 0, names)
}

func (p *primary) zone() *dnsserver.Zone { return p.zones.Load()[0] }

// change serves a zone with some branches changed, nil for none.
func (p *primary) change(changed map[string]*dnsserver.Branch) *dnsserver.Zone {
	next := p.zone().Next(p.zone().Serial()+1, changed)
	p.zones.Set([]*dnsserver.Zone{next})
	return next
}

// churn changes some services: new ones, others, gone ones.
func (p *primary) churn() *dnsserver.Zone {
	changed := map[string]*dnsserver.Branch{}
	for range 1 + p.random.IntN(3) {
		key := fmt.Sprintf("s%d", p.random.IntN(30))
		changed[key] = nil
		if p.random.IntN(3) > 0 {
			changed[key] = p.branch(key)
		}
	}
	return p.change(changed)
}

// axfr returns a whole zone, its SOA once.
func (p *primary) axfr(signed bool) (records []dns.RR) {
	p.t.Helper()
	q := new(dns.Msg).SetAxfr("mesh.internal.")
	tr := dns.Transfer{DialTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	if signed {
		q.SetTsig(p.key.Name(), dns.HmacSHA256, 300, time.Now().Unix())
		tr.TsigSecret = map[string]string{p.key.Name(): base64.StdEncoding.EncodeToString([]byte(secret))}
	}
	envelopes, err := tr.In(q, p.addr.String())
	if err != nil {
		p.t.Fatal(err)
	}
	var all []dns.RR
	for e := range envelopes {
		if e.Error != nil {
			p.t.Fatal(e.Error)
		}
		all = append(all, e.RR...)
	}
	first, last := all[0], all[len(all)-1]
	if first.Header().Rrtype != dns.TypeSOA || first.String() != last.String() {
		p.t.Fatalf("it begins with %s and ends with %s", first, last)
	}
	return all[:len(all)-1]
}

// ixfr returns what has changed since a serial, as it comes. The message library has no client for serials that wrap.
func (p *primary) ixfr(since uint32) (all []dns.RR) {
	p.t.Helper()
	conn, err := dns.DialTimeout("tcp", p.addr.String(), 5*time.Second)
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.WriteMsg(new(dns.Msg).SetIxfr("mesh.internal.", since, "ns.mesh.internal.", "hostmaster.mesh.internal.")); err != nil {
		p.t.Fatal(err)
	}
	for {
		m, err := conn.ReadMsg()
		if err != nil {
			p.t.Fatal(err)
		}
		if m.Rcode != dns.RcodeSuccess {
			p.t.Fatal(m)
		}
		all = append(all, m.Answer...)
		ends := 0
		for _, r := range all {
			if r.String() == all[0].String() {
				ends++
			}
		}
		if ends == 3 || len(all) == 1 || ends == 2 && all[1].Header().Rrtype != dns.TypeSOA {
			return all
		}
	}
}

func lines(records []dns.RR) []string {
	out := make([]string, 0, len(records))
	for _, r := range records {
		out = append(out, r.String())
	}
	slices.Sort(out)
	return out
}

// held is a zone as a secondary holds it.
type held map[string]dns.RR

// apply does what an incremental transfer says, strictly.
func (h held) apply(t *testing.T, all []dns.RR) {
	t.Helper()
	var soa *dns.SOA
	removing := false
	for _, r := range all[1 : len(all)-1] {
		if s, ok := r.(*dns.SOA); ok {
			soa = s
			removing = !removing
		}
		_, there := h[r.String()]
		if there != removing {
			t.Fatalf("%s: there %v, removed %v", r, there, removing)
		}
		if removing {
			delete(h, r.String())
		} else {
			h[r.String()] = r
		}
	}
	if soa.String() != all[0].String() || soa.String() != all[len(all)-1].String() {
		t.Fatalf("it begins with %s and ends with %s", all[0], all[len(all)-1])
	}
}

// TestTransfers shows that what is copied whole, and what is copied by changes, is the zone, over many changes.
func TestTransfers(t *testing.T) {
	for _, signed := range []bool{false, true} {
		t.Run(fmt.Sprintf("signed %v", signed), func(t *testing.T) {
			p := startPrimary(t, signed, "127.0.0.1:0", 4_294_967_280) // the serial wraps
			h := held{}
			for _, r := range p.axfr(true) {
				h[r.String()] = r
			}
			for range 60 {
				before := p.zone().Serial()
				zone := p.churn()
				h.apply(t, p.ixfr(before))
				whole := p.axfr(false)
				var got []dns.RR
				for _, r := range h {
					got = append(got, r)
				}
				if diff := cmp.Diff(lines(whole), lines(got)); diff != "" {
					t.Fatalf("the changes lead elsewhere than the whole zone: %s", diff)
				}
				if diff := cmp.Diff(served(zone), unsigned(whole)); diff != "" {
					t.Fatalf("another zone is copied than is served: %s", diff)
				}
			}
			if signed {
				p.judge(t, p.axfr(true))
			}
		})
	}
}

// served are the records that the server answers with.
func served(zone *dnsserver.Zone) []string {
	var all []dns.RR
	for name, s := range zone.All() {
		for _, data := range s.Data {
			wire := append([]byte(name), byte(s.Type>>8), byte(s.Type), 0, 1, 0, 0, byte(s.TTL>>8), byte(s.TTL), byte(len(data)>>8), byte(len(data)))
			rr, _, err := dns.UnpackRR(append(wire, data...), 0)
			if err != nil {
				panic(err)
			}
			all = append(all, rr)
		}
	}
	return lines(all)
}

// unsigned are the lines of records without those of DNSSEC.
func unsigned(records []dns.RR) []string {
	return lines(slices.DeleteFunc(slices.Clone(records), func(r dns.RR) bool {
		switch r.Header().Rrtype {
		case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY:
			return true
		}
		return false
	}))
}

// judge verifies every signature, that every set has one, and that the chain of NSEC records goes around the zone once.
func (p *primary) judge(t *testing.T, records []dns.RR) {
	t.Helper()
	type place struct {
		name  string
		rtype uint16
	}
	sets, sigs := map[place][]dns.RR{}, map[place][]*dns.RRSIG{}
	keys, types := map[uint16]*dns.DNSKEY{}, map[string][]uint16{}
	for _, r := range records {
		h := r.Header()
		if sig, ok := r.(*dns.RRSIG); ok {
			at := place{h.Name, sig.TypeCovered}
			sigs[at] = append(sigs[at], sig)
			continue
		}
		if key, ok := r.(*dns.DNSKEY); ok {
			keys[key.KeyTag()] = key
		}
		at := place{h.Name, h.Rrtype}
		if sets[at] == nil {
			types[h.Name] = append(types[h.Name], h.Rrtype)
		}
		sets[at] = append(sets[at], r)
	}
	for at, set := range sets {
		if len(sigs[at]) == 0 {
			t.Errorf("%v is not signed", at)
		}
		for _, sig := range sigs[at] {
			if key := keys[sig.KeyTag]; key == nil || sig.Verify(key, set) != nil || !sig.ValidityPeriod(time.Now().Add(28*24*time.Hour)) {
				t.Errorf("%v: %v is not by a key, or not for long", at, sig)
			}
		}
	}
	for at := range sigs {
		if sets[at] == nil {
			t.Errorf("a signature of %v, which there is not", at)
		}
	}
	name := "mesh.internal."
	for seen := 0; ; seen++ {
		nsec := sets[place{name, dns.TypeNSEC}]
		if len(nsec) != 1 || seen > len(types) {
			t.Fatalf("the chain breaks at %s: %v", name, nsec)
		}
		link := nsec[0].(*dns.NSEC)
		want := append(slices.Clone(types[name]), dns.TypeRRSIG)
		slices.Sort(want)
		if !slices.Equal(link.TypeBitMap, want) {
			t.Errorf("%v, want the types %v", link, want)
		}
		if link.NextDomain == "mesh.internal." {
			if seen+1 != len(types) {
				t.Errorf("the chain has %d names, the zone %d", seen+1, len(types))
			}
			return
		}
		if name != "mesh.internal." && dnssecLess(link.NextDomain, name) {
			t.Errorf("the chain goes back from %s to %s", name, link.NextDomain)
		}
		name = link.NextDomain
	}
}

func dnssecLess(a, b string) bool {
	return string(dnssec.SortKey(nil, []byte(mustName(a)))) < string(dnssec.SortKey(nil, []byte(mustName(b))))
}
