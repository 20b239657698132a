package dnsserver_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// testZone has services web (two addresses, SRV), big (many), void (none) and a deep name.
func testZone() *dnsserver.Zone {
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
	service := func(weight, port uint16, target string) []byte {
		return dnsserver.ServiceData(0, weight, port, mustName(target))
	}
	srv := func() dnsserver.Set {
		return dnsserver.Set{Type: dns.TypeSRV, TTL: 5, Data: [][]byte{
			service(1, 8080, "a.web.default.mesh.internal."), service(3, 8081, "b.web.default.mesh.internal."),
		}}
	}
	var many []netip.Addr
	bigSRV := dnsserver.Set{Type: dns.TypeSRV, TTL: 5}
	big := map[string][]dnsserver.Set{}
	for i := range 300 {
		addr := netip.AddrFrom4([4]byte{198, 51, byte(i / 250), byte(i % 250)})
		many = append(many, addr)
		name := fmt.Sprintf("endpoint-%d.big.default", i)
		big[name] = dnsserver.Addresses(5, []netip.Addr{addr}, nil)
		bigSRV.Data = append(bigSRV.Data, service(1, 80, name+".mesh.internal."))
	}
	big["big.default"] = append(dnsserver.Addresses(5, many, nil), bigSRV)
	origin := mustName("mesh.internal")
	return dnsserver.NewZone(dnsserver.Apex{
		Origin: "Mesh.internal", Serial: 77, TTL: 60, NegativeTTL: 1,
		NameServers: []dnsserver.NameServer{
			{Name: "ns.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}},
			{Name: "ns.elsewhere.example."},
		},
	}, map[string]*dnsserver.Branch{
		"web": dnsserver.NewBranch(origin, 0, map[string][]dnsserver.Set{
			"web.default":            append(dnsserver.Addresses(5, addrs, nil), srv()),
			"_http._tcp.web.default": {srv()},
			"a.web.default":          dnsserver.Addresses(5, addrs[:1], nil),
			"b.web.default":          dnsserver.Addresses(5, addrs[1:2], nil),
		}),
		"big":  dnsserver.NewBranch(origin, 0, big),
		"void": dnsserver.NewBranch(origin, 0, map[string][]dnsserver.Set{"void.default": nil}),
		"ns":   dnsserver.NewBranch(origin, 0, map[string][]dnsserver.Set{"ns": dnsserver.Addresses(5, addrs, nil)}),
	})
}

func mustName(s string) dnsserver.Name {
	name, err := dnsserver.ParseName(s)
	if err != nil {
		panic(err)
	}
	return name
}

func only(zone *dnsserver.Zone) func() []*dnsserver.Zone {
	return func() []*dnsserver.Zone { return []*dnsserver.Zone{zone} }
}

// serve runs a server and returns its address.
func serve(t *testing.T, zones func() []*dnsserver.Zone, addr string) (*dnsserver.Server, netip.AddrPort) {
	t.Helper()
	s := dnsserver.New(dnsserver.Options{Addrs: []string{addr}, Zones: zones, Log: slog.New(slog.DiscardHandler)})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v, want context.Canceled", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not return within 10 s of its context's end")
		}
	})
	return s, s.Addrs()[0]
}

func ask(t *testing.T, network string, server netip.AddrPort, m *dns.Msg) *dns.Msg {
	t.Helper()
	client := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
	r, _, err := client.Exchange(m, server.String())
	if err != nil {
		t.Fatalf("query %v over %s: %v", m.Question, network, err)
	}
	return r
}

func question(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.RecursionDesired = false
	return m
}

// section writes records in a fixed order.
func section(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, strings.Join(strings.Fields(rr.String()), " "))
		}
	}
	slices.Sort(out)
	return out
}

const soa = "mesh.internal. 1 IN SOA ns.mesh.internal. hostmaster.mesh.internal. 77 30 10 604800 1"

func TestAnswers(t *testing.T) {
	zone := testZone()
	_, server := serve(t, only(zone), "127.0.0.1:0")
	srv := []string{
		"NAME 5 IN SRV 0 1 8080 a.web.default.mesh.internal.",
		"NAME 5 IN SRV 0 3 8081 b.web.default.mesh.internal.",
	}
	srvExtra := []string{"a.web.default.mesh.internal. 5 IN A 192.0.2.1", "b.web.default.mesh.internal. 5 IN A 192.0.2.2"}
	for _, c := range []struct {
		name   string
		qtype  uint16
		rcode  int
		answer []string
		extra  []string
	}{
		{"web.default.mesh.internal.", dns.TypeA, 0, []string{"NAME 5 IN A 192.0.2.1", "NAME 5 IN A 192.0.2.2"}, nil},
		{"wEb.DEFAULT.mesh.Internal.", dns.TypeA, 0, []string{"NAME 5 IN A 192.0.2.1", "NAME 5 IN A 192.0.2.2"}, nil},
		{"web.default.mesh.internal.", dns.TypeAAAA, 0, []string{"NAME 5 IN AAAA 2001:db8::1"}, nil},
		{"web.default.mesh.internal.", dns.TypeSRV, 0, srv, srvExtra},
		{"_http._tcp.web.default.mesh.internal.", dns.TypeSRV, 0, srv, srvExtra},
		{"web.default.mesh.internal.", dns.TypeANY, 0, []string{`NAME 5 IN HINFO "RFC8482" ""`}, nil},
		{"web.default.mesh.internal.", dns.TypeTXT, 0, nil, nil},
		{"a.web.default.mesh.internal.", dns.TypeA, 0, []string{"NAME 5 IN A 192.0.2.1"}, nil},
		{"a.web.default.mesh.internal.", dns.TypeAAAA, 0, nil, nil},
		{"_http._tcp.web.default.mesh.internal.", dns.TypeA, 0, nil, nil},
		{"_tcp.web.default.mesh.internal.", dns.TypeSRV, 0, nil, nil}, // an empty non-terminal
		{"default.mesh.internal.", dns.TypeANY, 0, nil, nil},          // another
		{"void.default.mesh.internal.", dns.TypeA, 0, nil, nil},
		{"nobody.default.mesh.internal.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"c.web.default.mesh.internal.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"x.a.web.default.mesh.internal.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"_udp.web.default.mesh.internal.", dns.TypeSRV, dns.RcodeNameError, nil, nil},
		{"nobody.mesh.internal.", dns.TypeANY, dns.RcodeNameError, nil, nil},
		{`web\.default.mesh.internal.`, dns.TypeA, dns.RcodeNameError, nil, nil},
		{"mesh.internal.", dns.TypeSOA, 0, []string{strings.Replace(soa, "mesh.internal. 1 IN", "NAME 60 IN", 1)}, nil},
		{
			"mesh.internal.", dns.TypeNS, 0,
			[]string{"NAME 60 IN NS ns.elsewhere.example.", "NAME 60 IN NS ns.mesh.internal."},
			[]string{"ns.mesh.internal. 60 IN A 192.0.2.53", "ns.mesh.internal. 60 IN AAAA 2001:db8::53"},
		},
		{"mesh.internal.", dns.TypeA, 0, nil, nil},
		{"mesh.internal.", dns.TypeANY, 0, []string{`NAME 60 IN HINFO "RFC8482" ""`}, nil},
		{"ns.mesh.internal.", dns.TypeA, 0, []string{"NAME 60 IN A 192.0.2.53"}, nil}, // not the branch of that name
		{"web.default.mesh.internal.", dns.TypeSOA, 0, nil, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(fmt.Sprintf("%s %s %s", network, dns.TypeToString[c.qtype], c.name), func(t *testing.T) {
				m := question(c.name, c.qtype)
				m.RecursionDesired = network == "udp"
				r := ask(t, network, server, m)
				if r.Rcode != c.rcode || !r.Authoritative || r.RecursionAvailable || r.RecursionDesired != m.RecursionDesired || r.Truncated {
					t.Errorf("header %+v, want rcode %s, AA, RD as asked, no RA, no TC", r.MsgHdr, dns.RcodeToString[c.rcode])
				}
				if len(r.Question) != 1 || r.Question[0] != m.Question[0] {
					t.Errorf("question %v, want it back as it was: %v", r.Question, m.Question)
				}
				want := slices.Clone(c.answer)
				for i := range want {
					want[i] = strings.Replace(want[i], "NAME", c.name, 1)
				}
				if diff := cmp.Diff(want, section(r.Answer)); diff != "" {
					t.Errorf("answer: %s", diff)
				}
				if diff := cmp.Diff(c.extra, section(r.Extra)); diff != "" {
					t.Errorf("additional: %s", diff)
				}
				var authority []string
				if c.answer == nil {
					authority = []string{soa}
				}
				if diff := cmp.Diff(authority, section(r.Ns)); diff != "" {
					t.Errorf("authority: %s", diff)
				}
				if r.IsEdns0() != nil {
					t.Error("OPT although the query had none")
				}
			})
		}
	}
}

func TestRefusals(t *testing.T) {
	zone := testZone()
	_, server := serve(t, only(zone), "127.0.0.1:0")
	for _, c := range []struct {
		name  string
		query *dns.Msg
		edit  func(*dns.Msg)
		rcode int
	}{
		{"outside the zone", question("example.org.", dns.TypeA), nil, dns.RcodeRefused},
		{"the parent", question("internal.", dns.TypeNS), nil, dns.RcodeRefused},
		{"a name that ends alike", question("xmesh.internal.", dns.TypeA), nil, dns.RcodeRefused},
		{"a dot within a label", question(`web\.mesh.internal.`, dns.TypeA), nil, dns.RcodeRefused},
		{"CHAOS", question("version.bind.", dns.TypeTXT), func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"CHAOS in the zone", question("web.default.mesh.internal.", dns.TypeA), func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"transfer", question("mesh.internal.", dns.TypeIXFR), nil, dns.RcodeRefused},
		{"two questions", question("mesh.internal.", dns.TypeSOA), func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"no question", question("mesh.internal.", dns.TypeSOA), func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		{"OPT as a type", question("mesh.internal.", dns.TypeOPT), nil, dns.RcodeFormatError},
		{"update", question("mesh.internal.", dns.TypeSOA), func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"notify", question("mesh.internal.", dns.TypeSOA), func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		{"EDNS version 1", question("web.default.mesh.internal.", dns.TypeA).SetEdns0(1232, true), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		{"two OPT", question("mesh.internal.", dns.TypeSOA).SetEdns0(1232, false), func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }, dns.RcodeFormatError},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.edit != nil {
				c.edit(c.query)
			}
			packed, err := c.query.Pack()
			if err != nil {
				t.Fatal(err)
			}
			r := exchangeRaw(t, server, packed)
			if r.Rcode != c.rcode || r.Authoritative || len(r.Answer) != 0 || len(r.Ns) != 0 || r.Opcode != c.query.Opcode || r.Id != c.query.Id {
				t.Errorf("got %v\nwant rcode %s, no AA, no records", r, dns.RcodeToString[c.rcode])
			}
		})
	}
}

// exchangeRaw sends bytes over UDP and unpacks what comes back.
func exchangeRaw(t *testing.T, server netip.AddrPort, packed []byte) *dns.Msg {
	t.Helper()
	conn, err := net.Dial("udp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(packed); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65535)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	var r dns.Msg
	if err := r.Unpack(buf[:n]); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestSizes(t *testing.T) {
	zone := testZone()
	_, server := serve(t, only(zone), "127.0.0.1:0")
	const name = "big.default.mesh.internal."
	for _, c := range []struct {
		name      string
		network   string
		qtype     uint16
		size      uint16 // 0: no EDNS
		truncated bool
		most      int // bytes
		answers   [2]int
	}{
		{"A without EDNS", "udp", dns.TypeA, 0, true, 512, [2]int{0, 0}},
		{"A with EDNS", "udp", dns.TypeA, 4096, false, 1232, [2]int{30, 30}},
		{"A, a size that is too small to be", "udp", dns.TypeA, 100, true, 512, [2]int{0, 0}},
		{"A, TCP", "tcp", dns.TypeA, 0, false, 65535, [2]int{300, 300}},
		{"SRV, large payload", "udp", dns.TypeSRV, 65535, true, 1232, [2]int{0, 0}},
		{"SRV, TCP", "tcp", dns.TypeSRV, 1232, false, 65535, [2]int{300, 300}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := question(name, c.qtype)
			if c.size != 0 {
				m.SetEdns0(c.size, true)
			}
			r := ask(t, c.network, server, m)
			r.Compress = true
			if r.Truncated != c.truncated || r.Len() > c.most || len(r.Answer) < c.answers[0] || len(r.Answer) > c.answers[1] {
				t.Errorf("TC %v, %d bytes, %d answers; want TC %v, at most %d bytes, %v answers", r.Truncated, r.Len(), len(r.Answer), c.truncated, c.most, c.answers)
			}
			opt := r.IsEdns0()
			if (opt != nil) != (c.size != 0) || opt != nil && (opt.UDPSize() != 1232 || !opt.Do() || opt.Version() != 0) {
				t.Errorf("OPT is %v", opt)
			}
		})
	}
	t.Run("every address appears", func(t *testing.T) {
		seen, first := map[string]bool{}, map[string]bool{}
		for range 400 {
			r := ask(t, "udp", server, question(name, dns.TypeA).SetEdns0(1232, false))
			first[r.Answer[0].(*dns.A).A.String()] = true
			for _, rr := range r.Answer {
				seen[rr.(*dns.A).A.String()] = true
			}
		}
		if len(seen) != 300 || len(first) < 50 {
			t.Errorf("%d of 300 addresses appeared, %d of them as the first", len(seen), len(first))
		}
	})
}

func TestExtendedErrors(t *testing.T) {
	_, server := serve(t, func() []*dnsserver.Zone { return nil }, "127.0.0.1:0")
	r := ask(t, "udp", server, question("web.default.mesh.internal.", dns.TypeA).SetEdns0(1232, false))
	if r.Rcode != dns.RcodeServerFailure || !strings.Contains(r.String(), "EDE: 14") {
		t.Errorf("got %v, want SERVFAIL and not ready", r)
	}
	r = ask(t, "udp", server, question("web.default.mesh.internal.", dns.TypeA))
	if r.Rcode != dns.RcodeServerFailure || len(r.Extra) != 0 {
		t.Errorf("got %v, want SERVFAIL alone", r)
	}
}

func TestPipeliningOverTCP(t *testing.T) {
	zone := testZone()
	s, server := serve(t, only(zone), "127.0.0.1:0")
	conn, err := net.Dial("tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const n = 500
	var all []byte
	for i := range n {
		m := question("web.default.mesh.internal.", dns.TypeA)
		m.Id = uint16(i)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE})
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(packed))), packed...)
	}
	go func() { _, _ = conn.Write(all) }()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		var size uint16
		if err := binary.Read(conn, binary.BigEndian, &size); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		buf := make([]byte, size)
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
		var r dns.Msg
		if err := r.Unpack(buf); err != nil || int(r.Id) != i || len(r.Answer) != 2 {
			t.Fatalf("answer %d is %v (%v)", i, &r, err)
		}
		if !strings.Contains(r.String(), "TCP KEEPALIVE") && len(r.IsEdns0().Option) != 1 {
			t.Fatalf("no keep-alive in %v", &r)
		}
	}
	if got := s.Stats().Queries; len(got) != 1 || got[0] != (dnsserver.QueryCount{Zone: "mesh.internal.", Transport: "tcp", Type: "A", Rcode: "NOERROR", Count: n}) {
		t.Errorf("counted %v", got)
	}
}

// TestRunEndsWithOpenConnections shows that an idle client does not hold the server up.
func TestRunEndsWithOpenConnections(t *testing.T) {
	zone := testZone()
	_, server := serve(t, only(zone), "127.0.0.1:0") // its cleanup judges
	conn, err := net.Dial("tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
}

// TestAnswerComesFromTheAddressAsked asks a server on all addresses by one that the system would not choose.
func TestAnswerComesFromTheAddressAsked(t *testing.T) {
	zone := testZone()
	s, _ := serve(t, only(zone), ":0")
	port := s.Addrs()[0].Port()
	targets := []string{fmt.Sprintf("127.0.0.7:%d", port)}
	if len(s.Addrs()) > 1 {
		targets = append(targets, fmt.Sprintf("[::1]:%d", s.Addrs()[1].Port()))
	}
	for _, target := range targets {
		// A connected socket takes answers from its peer alone.
		if r := ask(t, "udp", netip.MustParseAddrPort(target), question("mesh.internal.", dns.TypeSOA)); len(r.Answer) != 1 {
			t.Errorf("%s: %v", target, r)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	for _, addr := range []string{"localhost:53", "127.0.0.1", ":x", "192.0.2.1:0"} {
		s := dnsserver.New(dnsserver.Options{Addrs: []string{"127.0.0.1:0", addr}, Log: slog.New(slog.DiscardHandler)})
		if err := s.Listen(); err == nil || !strings.Contains(err.Error(), addr) {
			t.Errorf("Listen on %s: %v, want an error that names it", addr, err)
		}
	}
}
