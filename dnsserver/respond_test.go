package dnsserver

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// reference answers as the message library reads and writes: slowly, and so that everybody can see that it is right. It is
// what the server's own code is compared with. It knows records of every order.
func reference(zone *Zone, message []byte) (answer *dns.Msg, due bool) {
	if len(message) < headerBytes || message[2]&0x80 != 0 {
		return nil, false
	}
	var asked dns.Msg
	reply := &dns.Msg{}
	unread := asked.Unpack(message)
	reply.Id, reply.Response = uint16(message[0])<<8|uint16(message[1]), true
	reply.Opcode, reply.RecursionDesired, reply.CheckingDisabled = int(message[2]>>3)&0xf, message[2]&1 != 0, message[3]&0x10 != 0
	records := 0
	for at := 6; at < headerBytes; at += 2 {
		records += int(message[at])<<8 | int(message[at+1])
	}
	var opt *dns.OPT
	switch {
	case reply.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
		return reply, true
	case unread == nil && wantsCookie(&asked, message):
		opt := asked.IsEdns0()
		switch cookie := opt.Option[slices.IndexFunc(opt.Option, isCookie)].(*dns.EDNS0_COOKIE).Cookie; {
		case opt.Version() != 0:
			reply.Rcode = dns.RcodeBadVers
		case len(cookie) > 2*clientCookie: // nobody guesses ours
			reply.Rcode = dns.RcodeBadCookie
		}
		return reply, true
	case unread != nil, len(asked.Question) != 1, message[4] != 0 || message[5] != 1, records > maxRecords, !plain(message):
		reply.Rcode = dns.RcodeFormatError
		return reply, true
	}
	reply.Question = asked.Question
	for _, rr := range asked.Extra {
		if o, ok := rr.(*dns.OPT); ok || rr.Header().Rrtype == dns.TypeOPT {
			if !ok || opt != nil || rr.Header().Name != "." || !strict(o) {
				reply.Rcode = dns.RcodeFormatError
				return reply, true
			}
			opt = o
		}
	}
	if opt != nil && opt.Version() != 0 {
		reply.Rcode = dns.RcodeBadVers
		return reply, true
	}
	referenceAnswer(reply, zone)
	return reply, true
}

// wantsCookie says whether a query has no question and an OPT record with a cookie alone (RFC 7873 §5.4).
func wantsCookie(asked *dns.Msg, message []byte) bool {
	opt := asked.IsEdns0()
	return bytes.Equal(message[4:headerBytes], []byte{0, 0, 0, 0, 0, 0, 0, 1}) && opt != nil && message[headerBytes] == 0 && strict(opt) && slices.ContainsFunc(opt.Option, isCookie)
}

func isCookie(o dns.EDNS0) bool { return o.Option() == dns.EDNS0COOKIE }

// plain says whether the question's name is without pointers and whole, with type and class: the library reads on where they
// are missing.
func plain(message []byte) bool {
	at := headerBytes
	for at < len(message) && message[at] != 0 {
		if message[at] > maxLabelBytes {
			return false
		}
		at += 1 + int(message[at])
	}
	return at+5 <= len(message)
}

// strict has what RFC 7873 §5.2.2 and RFC 7871 §6 refuse and the library takes.
func strict(opt *dns.OPT) bool {
	for _, o := range opt.Option {
		switch o := o.(type) {
		case *dns.EDNS0_COOKIE:
			if n := len(o.Cookie) / 2; n != 8 && (n < 16 || n > 40) {
				return false
			}
		case *dns.EDNS0_SUBNET:
			return false // compared elsewhere: the library forgets how the address was written
		}
	}
	return true
}

func referenceAnswer(reply *dns.Msg, zone *Zone) {
	q := reply.Question[0]
	name, err := ParseName(q.Name)
	if q.Qclass == dns.ClassINET && (q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR) {
		reply.Rcode = dns.RcodeNotAuth
		if name == zone.origin {
			reply.Rcode = dns.RcodeRefused
		}
		return
	}
	if err != nil || q.Qclass != dns.ClassINET || !dns.IsSubDomain(zone.origin.String(), q.Name) {
		reply.Rcode = dns.RcodeRefused
		return
	}
	switch q.Qtype {
	case dns.TypeOPT, dns.TypeNone, dns.TypeNXNAME:
		reply.Rcode = dns.RcodeFormatError
		return
	case dns.TypeANY:
	default:
		if q.Qtype >= dns.TypeTKEY && q.Qtype < dns.TypeANY {
			reply.Rcode = dns.RcodeNotImplemented
			return
		}
	}
	reply.Authoritative = true
	exists := name == zone.origin
	var sets []*Set
	for b := range zone.all() {
		for at, n := range b.nodes {
			exists = exists || at == name
			if at == name && len(sets) == 0 {
				sets = n.sets
			}
		}
	}
	for _, s := range sets {
		switch {
		case s.Type == q.Qtype:
			for _, data := range s.Data {
				reply.Answer = append(reply.Answer, unpacked(q.Name, s, data))
			}
		case q.Qtype == dns.TypeANY && len(reply.Answer) == 0:
			reply.Answer = []dns.RR{&dns.HINFO{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeHINFO, Class: 1, Ttl: s.TTL}, Cpu: "RFC8482"}}
		}
	}
	if len(reply.Answer) == 0 {
		soa := unpacked(zone.origin.String(), zone.Set(zone.origin, dns.TypeSOA), zone.soa)
		soa.Header().Ttl = min(soa.Header().Ttl, soa.(*dns.SOA).Minttl)
		reply.Ns = append(reply.Ns, soa)
	}
	if !exists {
		reply.Rcode = dns.RcodeNameError
	}
}

func unpacked(owner string, set *Set, data []byte) dns.RR {
	header := dns.RR_Header{Name: owner, Rrtype: set.Type, Class: 1, Ttl: set.TTL, Rdlength: uint16(len(data))}
	rr, _, err := dns.UnpackRRWithHeader(header, data, 0)
	if err != nil {
		panic(err)
	}
	return rr
}

// lines writes records in a fixed order. The question's name may stand in pieces in SOA: its case is not compared there.
func lines(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, strings.ToLower(rr.String()))
		}
	}
	slices.Sort(out)
	return out
}

// compare wants an answer to be the reference's, of which records may be left out with TC set.
func compare(zone *Zone, message, answer []byte, by transport) error {
	want, due := reference(zone, message)
	if (answer != nil) != due {
		return fmt.Errorf("an answer of %d bytes, due: %v", len(answer), due)
	}
	if !due {
		return nil
	}
	var got dns.Msg
	if err := got.Unpack(answer); err != nil {
		return fmt.Errorf("the answer %x cannot be read: %w", answer, err)
	}
	if isSigned(message) {
		if got.Rcode != dns.RcodeNotAuth && got.Rcode != dns.RcodeFormatError || len(got.Answer)+len(got.Ns) > 0 {
			return fmt.Errorf("who signs with a key that nobody knows is answered %v", &got)
		}
		return nil
	}
	most := dns.MinMsgSize
	if got.IsEdns0() != nil {
		most = maxUDPPayload
	}
	if by == udp && len(answer) > most {
		return fmt.Errorf("%d bytes over UDP, want at most %d", len(answer), most)
	}
	truncated := got.Truncated
	got.Truncated = false
	if fmt.Sprint(got.MsgHdr) != fmt.Sprint(want.MsgHdr) {
		return fmt.Errorf("got %v\nwant %v", got.MsgHdr, want.MsgHdr)
	}
	if fmt.Sprint(got.Question) != fmt.Sprint(want.Question) && want.Rcode != dns.RcodeFormatError {
		return fmt.Errorf("question %v, want %v", got.Question, want.Question)
	}
	for i, section := range [...][2][]dns.RR{{got.Answer, want.Answer}, {got.Ns, want.Ns}} {
		g, w := lines(section[0]), lines(section[1])
		if truncated {
			w = slices.DeleteFunc(w, func(line string) bool { return !slices.Contains(g, line) })
		}
		if !slices.Equal(g, w) {
			return fmt.Errorf("section %d: got %q\nwant %q", i, g, w)
		}
	}
	for _, rr := range got.Extra { // each belongs to a target
		if rr.Header().Rrtype != dns.TypeOPT && !slices.ContainsFunc(got.Answer, func(a dns.RR) bool {
			return strings.HasSuffix(a.String(), " "+rr.Header().Name) || strings.HasSuffix(a.String(), "\t"+rr.Header().Name)
		}) {
			return fmt.Errorf("%v belongs to no target", rr)
		}
	}
	return nil
}

func smallZone() *Zone { return NewZone(smallApex(), smallBranches(mustParse("mesh.internal"))) }

func smallApex() Apex {
	return Apex{Origin: "mesh.internal", Serial: 1, TTL: 60, NegativeTTL: 1, NameServers: []NameServer{
		{Name: "ns.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}, {Name: "ns.elsewhere"},
	}}
}

func smallBranches(origin Name) map[string]*Branch {
	addr := netip.MustParseAddr("192.0.2.1")
	return map[string]*Branch{
		"web": NewBranch(origin, 0, map[string][]Set{
			"web.default": append(Addresses(5, []netip.Addr{addr, addr.Next()}, nil), Set{Type: dns.TypeSRV, TTL: 5, Data: [][]byte{
				ServiceData(0, 1, 80, mustParse("a.web.default.mesh.internal")), ServiceData(0, 1, 81, mustParse("a.web.default.mesh.internal")),
				ServiceData(0, 1, 80, mustParse("far.default.mesh.internal")), ServiceData(0, 1, 80, mustParse("elsewhere.example")),
			}}),
			"a.web.default":          Addresses(5, []netip.Addr{addr}, nil),
			"_http._tcp.web.default": Addresses(5, []netip.Addr{addr}, nil),
		}),
		"far": NewBranch(origin, 0, map[string][]Set{
			"far.default": Addresses(5, []netip.Addr{addr, netip.MustParseAddr("2001:db8::1")}, nil),
			`a\.b`:        {{Type: dns.TypeTXT, TTL: 5, Data: [][]byte{append([]byte{255}, make([]byte, 255)...), append([]byte{254}, make([]byte, 254)...), []byte("\x01x")}}},
		}),
	}
}

func newResponder(s *Server, by transport) *responder {
	r := &responder{server: s, counts: s.shards[by], zones: s.opts.Zones(), now: 1_800_000_000}
	r.query.by, r.query.client = by, netip.MustParseAddr("192.0.2.99")
	return r
}

func FuzzRespond(f *testing.F) {
	zone := smallZone()
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), NSID: "here"})
	for _, name := range []string{"Web.default.mesh.internal.", "_tcp.web.default.mesh.internal.", "mesh.internal.", "example.org.", `a\.b.mesh.internal.`, "n.mesh.internal."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeANY, dns.TypeNS, dns.TypeSOA, dns.TypeOPT, dns.TypeTXT} {
			m := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(512, true)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
			for range 2 {
				packed, err := m.Pack()
				if err != nil {
					f.Fatal(err)
				}
				f.Add(packed)
				m.Extra = nil
				if qtype == dns.TypeTXT {
					m.Extra = []dns.RR{&dns.TSIG{Hdr: dns.RR_Header{Name: "key.", Rrtype: dns.TypeTSIG, Class: 255}, Algorithm: "hmac-sha256."}}
				}
			}
		}
	}
	for _, cookie := range []string{"0102030405060708", "010203040506070801000000000000000102030405060708"} {
		m := new(dns.Msg).SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		for by := range transports {
			r := newResponder(s, by)
			answer := r.respond(message, nil)
			if n := s.panics.Load(); n != 0 {
				t.Fatalf("%d panics at %x", n, message)
			}
			if hasSubnet(message) || emptyOption(message) {
				continue
			}
			if err := compare(zone, message, answer, by); err != nil {
				t.Fatalf("%x over %s: %v", message, by, err)
			}
		}
	})
}

// emptyOption reports whether the other parser may refuse a message for an option that it wants more of: ZONEVERSION, which is empty
// in a query (RFC 9660 section 2), and Report-Channel, which means nothing to a server (RFC 9567 section 6.1).
func emptyOption(message []byte) bool {
	return new(dns.Msg).Unpack(message) != nil &&
		(bytes.Contains(message, []byte{0, dns.EDNS0ZONEVERSION, 0, 0}) || bytes.Contains(message, []byte{0, dns.EDNS0REPORTING, 0, 0}))
}

// isSigned reports whether there is a TSIG record, wherever.
func isSigned(message []byte) bool {
	var m dns.Msg
	return m.Unpack(message) == nil && m.Opcode == dns.OpcodeQuery && slices.ContainsFunc(m.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeTSIG })
}

func hasSubnet(message []byte) bool {
	var m dns.Msg
	if m.Unpack(message) != nil || m.IsEdns0() == nil {
		return false
	}
	return slices.ContainsFunc(m.IsEdns0().Option, func(o dns.EDNS0) bool { return o.Option() == dns.EDNS0SUBNET })
}

// TestNoAllocation shows that what is common costs no memory.
func TestNoAllocation(t *testing.T) {
	zone := smallZone()
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), NSID: "here", RateLimit: 1 << 30})
	for _, c := range []struct {
		name  string
		qtype uint16
	}{
		{"web.default.mesh.internal.", dns.TypeA},
		{"Web.default.mesh.internal.", dns.TypeSRV},
		{"web.default.mesh.internal.", dns.TypeAAAA},
		{"nobody.default.mesh.internal.", dns.TypeA},
		{"mesh.internal.", dns.TypeNS},
		{"mesh.internal.", dns.TypeSOA},
		{"example.org.", dns.TypeA},
	} {
		for _, options := range [][]dns.EDNS0{nil, {}, {&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}, {&dns.EDNS0_NSID{Code: dns.EDNS0NSID}, &dns.EDNS0_PADDING{Padding: make([]byte, 20)}}} {
			m := new(dns.Msg).SetQuestion(c.name, c.qtype)
			if options != nil {
				m.SetEdns0(1232, true)
				m.IsEdns0().Option = options
			}
			packed, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			for _, by := range []transport{udp, tcp, overTLS} {
				r := newResponder(s, by)
				buf := make([]byte, 0, maxUDPPayload)
				if r.respond(packed, buf) == nil {
					t.Fatal("no answer")
				}
				if n := testing.AllocsPerRun(100, func() { r.respond(packed, buf) }); n != 0 {
					t.Errorf("%s %s over %s with %v: %v allocations", c.name, dns.TypeToString[c.qtype], by, options, n)
				}
			}
		}
	}
}

func BenchmarkRespond(b *testing.B) {
	zone := smallZone()
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler)})
	for _, c := range []struct {
		name  string
		qtype uint16
	}{{"web.default.mesh.internal.", dns.TypeA}, {"web.default.mesh.internal.", dns.TypeSRV}, {"nobody.default.mesh.internal.", dns.TypeA}} {
		b.Run(c.name+dns.TypeToString[c.qtype], func(b *testing.B) {
			packed, _ := new(dns.Msg).SetQuestion(c.name, c.qtype).SetEdns0(1232, true).Pack()
			r := newResponder(s, udp)
			buf := make([]byte, 0, maxUDPPayload)
			b.ReportAllocs()
			for b.Loop() {
				r.respond(packed, buf)
			}
		})
	}
}
