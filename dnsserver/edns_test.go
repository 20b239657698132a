package dnsserver

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSipHash has the first of the vectors of SipHash's authors: key 00…0f, message 00, 01, ….
func TestSipHash(t *testing.T) {
	key := [16]byte(unhex(t, "000102030405060708090a0b0c0d0e0f"))
	for n, want := range map[int]string{0: "310e0edd47db6f72", 1: "fd67dc93c539f874", 7: "37d1018bf50002ab", 8: "6224939a79f5f593", 15: "e545be4961ca29a1"} {
		message := unhex(t, "000102030405060708090a0b0c0d0e0f")[:n]
		if got := binary.LittleEndian.AppendUint64(nil, sipHash(&key, message)); hex.EncodeToString(got) != want {
			t.Errorf("%d bytes: %x, want %s", n, got, want)
		}
	}
}

// TestCookiesOfRFC9018 has the vectors of its appendix A: other servers with our secret make the same cookies.
func TestCookiesOfRFC9018(t *testing.T) {
	const secret, next, last = "e5e973e5a6b2a43f48e7dc849e37bfcf", "445536bcd2513298075a5d379663c962", "dd3bdf9344b678b185a6f5cb60fca715"
	const v6 = "2001:db8:220:1:59de:d0f4:8769:82b8"
	for _, c := range []struct {
		name, secret, client, cookie, want string
		now                                uint32
	}{
		{"A.1, a new cookie", secret, "198.51.100.100", "2464c4abcf10c957", "2464c4abcf10c957 010000005cf79f111f8130c3eee29480", 1559731985},
		{"A.1, a minute later", secret, "198.51.100.100", "2464c4abcf10c957 010000005cf79f111f8130c3eee29480", "2464c4abcf10c957 010000005cf79f111f8130c3eee29480", 1559732045},
		{"A.2, one that is old", secret, "198.51.100.100", "2464c4abcf10c957 010000005cf79f111f8130c3eee29480", "2464c4abcf10c957 010000005cf7a871d4a564a1442aca77", 1559734385},
		{"A.3, reserved bits in one too old", secret, "203.0.113.203", "fc93fc62807ddb86 01abcdef5cf78f71a314227b6679ebf5", "fc93fc62807ddb86 010000005cf7a9acf73a7810aca2381e", 1559734700},
		{"A.3, when it was made", secret, "203.0.113.203", "fc93fc62807ddb86 01abcdef5cf78f71a314227b6679ebf5", "fc93fc62807ddb86 01abcdef5cf78f71a314227b6679ebf5", 1559727985},
		{"A.4, IPv6", last, v6, "22681ab97d52c298", "22681ab97d52c298 010000005cf7c57926556bd0934c72f8", 1559741817},
		{"A.4, the secret has changed", next, v6, "22681ab97d52c298 010000005cf7c57926556bd0934c72f8", "22681ab97d52c298 010000005cf7c609a6bb79d16625507a", 1559741961},
	} {
		var jar cookies
		jar.secrets.Store(&secrets{since: c.now, current: [16]byte(unhex(t, c.secret)), earlier: [16]byte(unhex(t, last))})
		got := jar.appendTo(nil, unhex(t, c.cookie), netip.MustParseAddr(c.client), c.now)
		if diff := cmp.Diff(unhex(t, c.want), got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestCookieSecretsChange shows how long a cookie is good, and for whom.
func TestCookieSecretsChange(t *testing.T) {
	var jar cookies
	client, now := netip.MustParseAddr("192.0.2.1"), uint32(1_800_000_000)
	jar.at(now - secretChanges + 1)
	cookie := jar.appendTo(nil, make([]byte, clientCookie), client, now)
	for _, c := range []struct {
		name        string
		client      string
		now         uint32
		good, fresh bool
	}{
		{"at once", "192.0.2.1", now, true, true},
		{"somebody else", "192.0.2.2", now, false, false},
		{"the clock went back", "192.0.2.1", now - cookieFuture, true, true},
		{"from the future", "192.0.2.1", now - cookieFuture - 1, false, false},
		{"after the secret has changed", "192.0.2.1", now + 1, true, false},
		{"at its age", "192.0.2.1", now + cookieAge, true, false},
		{"too old", "192.0.2.1", now + cookieAge + 1, false, false},
	} {
		if good, fresh := jar.check(cookie, netip.MustParseAddr(c.client), c.now); good != c.good || fresh != c.fresh {
			t.Errorf("%s: good %v, fresh %v, want %v, %v", c.name, good, fresh, c.good, c.fresh)
		}
	}
}

// TestCookieWithoutAQuestion is RFC 7873 §5.4: a client fetches our cookie, and asks whether it is good still.
func TestCookieWithoutAQuestion(t *testing.T) {
	s := testServer(func(*Options) {})
	ask := func(client, cookie string) *dns.Msg {
		r := newResponder(s, udp)
		r.query.client = netip.MustParseAddr(client)
		m := new(dns.Msg).SetEdns0(1232, false)
		m.Id = 7
		if cookie != "" {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
		}
		return exchange(t, r, m)
	}
	cookieOf := func(m *dns.Msg) string {
		if opt := m.IsEdns0(); opt != nil && len(opt.Option) == 1 && len(m.Question)+len(m.Answer)+len(m.Ns) == 0 && m.Id == 7 {
			if cookie, ok := opt.Option[0].(*dns.EDNS0_COOKIE); ok {
				return cookie.Cookie
			}
		}
		return fmt.Sprintf("not alone: %v", m)
	}
	const mine, another = "0102030405060708", "192.0.2.2"
	got := ask("192.0.2.1", mine)
	ours := cookieOf(got)
	if got.Rcode != dns.RcodeSuccess || len(ours) != 2*(clientCookie+serverCookie) || !strings.HasPrefix(ours, mine) {
		t.Errorf("got %v, want our cookie after theirs", got)
	}
	if again := ask("192.0.2.1", ours); again.Rcode != dns.RcodeSuccess || cookieOf(again) != ours {
		t.Errorf("our cookie is answered %v, want the same", again)
	}
	if stolen := ask(another, ours); stolen.Rcode != dns.RcodeBadCookie || cookieOf(stolen) == ours || !strings.HasPrefix(cookieOf(stolen), mine) {
		t.Errorf("another's cookie is answered %v, want BADCOOKIE with one of their own", stolen)
	}
	if without := ask(another, ""); without.Rcode != dns.RcodeFormatError || len(without.IsEdns0().Option) > 0 {
		t.Errorf("neither question nor cookie is answered %v, want FORMERR", without)
	}
}

// testServer has a small zone and no sockets.
func testServer(edit func(*Options)) *Server {
	zone := smallZone()
	o := Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler)}
	edit(&o)
	return New(o)
}

// exchange asks without a network.
func exchange(t *testing.T, r *responder, m *dns.Msg) *dns.Msg {
	t.Helper()
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer := r.respond(packed, nil)
	if answer == nil {
		return nil
	}
	var out dns.Msg
	if err := out.Unpack(answer); err != nil {
		t.Fatal(err)
	}
	return &out
}

// TestSourcesAreBounded shows the bound of a source over UDP, that it is its network's, and who is excepted.
func TestSourcesAreBounded(t *testing.T) {
	s := testServer(func(o *Options) { o.RateLimit = 10 })
	ask := func(client string, cookie string) (whole, short, none int) {
		r := newResponder(s, udp)
		r.query.client = netip.MustParseAddr(client)
		for range 30 {
			m := new(dns.Msg).SetQuestion("web.default.mesh.internal.", dns.TypeA).SetEdns0(1232, false)
			if cookie != "" {
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
			}
			switch a := exchange(t, r, m); {
			case a == nil:
				none++
			case a.Truncated && len(a.Answer) == 0:
				short++
			default:
				whole++
			}
		}
		return whole, short, none
	}
	good := hex.EncodeToString(s.cookies.appendTo(nil, make([]byte, clientCookie), netip.MustParseAddr("192.0.2.9"), 1_800_000_000))
	for _, c := range []struct {
		name, client, cookie string
		want                 [3]int
	}{
		{"a source", "192.0.2.1", "", [3]int{10, 10, 10}},
		{"its neighbour", "192.0.2.2", "", [3]int{0, 15, 15}},
		{"its neighbour with our cookie", "192.0.2.9", good, [3]int{30, 0, 0}},
		{"somebody with another's cookie", "192.0.2.8", good, [3]int{0, 15, 15}},
		{"the host itself", "127.0.0.1", "", [3]int{30, 0, 0}},
		{"IPv6", "2001:db8::1", "", [3]int{10, 10, 10}},
		{"the same /56", "2001:db8:0:ff::1", "", [3]int{0, 15, 15}},
		{"another /56", "2001:db8:0:100::1", "", [3]int{10, 10, 10}},
	} {
		whole, short, none := ask(c.client, c.cookie)
		if got := [3]int{whole, short, none}; got != c.want {
			t.Errorf("%s: whole, truncated, none: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestErrorsAreBounded shows that what cannot be answered counts as what can, and is never answered with more than was asked.
func TestErrorsAreBounded(t *testing.T) {
	s := testServer(func(o *Options) { o.RateLimit, o.NSID = 10, strings.Repeat("x", 200) })
	ask := func(edit func(*dns.Msg)) []byte {
		m := new(dns.Msg).SetQuestion("web.default.mesh.internal.", dns.TypeA).SetEdns0(1232, true)
		edit(m)
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	short := &dns.EDNS0_LOCAL{Code: dns.EDNS0COOKIE, Data: []byte("abc")}
	for i, c := range []struct {
		name    string
		message []byte
		rcode   int
		opt     bool
	}{
		{"an opcode", ask(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented, false},
		{"no question", ask(func(m *dns.Msg) { m.Question, m.Extra = nil, nil }), dns.RcodeFormatError, false},
		{"a cookie that is none after NSID", ask(func(m *dns.Msg) { m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}, short} }), dns.RcodeFormatError, true},
		{"two OPT records", ask(func(m *dns.Msg) {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{Code: dns.EDNS0NSID}}
			m.Extra = append(m.Extra, m.Extra[0])
		}), dns.RcodeFormatError, true},
	} {
		var whole, short, none int
		for range 30 {
			r := newResponder(s, udp)
			r.query.client = netip.AddrFrom4([4]byte{198, 51, byte(i), 1})
			answer := r.respond(c.message, nil)
			var m dns.Msg
			switch err := m.Unpack(answer); {
			case answer == nil:
				none++
				continue
			case err != nil || len(answer) > len(c.message):
				t.Errorf("%s: %v, %d bytes for %d", c.name, err, len(answer), len(c.message))
			case m.Truncated:
				short++
				continue
			case m.Rcode == c.rcode:
				whole++
			}
			if opt := m.IsEdns0(); (opt != nil) != c.opt || opt != nil && (len(opt.Option) > 0 || opt.Version() != 0) {
				t.Errorf("%s: OPT is %v, wanted: %v, without options", c.name, opt, c.opt)
			}
		}
		if got := [3]int{whole, short, none}; got != [3]int{10, 10, 10} {
			t.Errorf("%s: whole, truncated, none: %v, want ten of each", c.name, got)
		}
	}
}

func TestPadding(t *testing.T) {
	s := testServer(func(*Options) {})
	for by := range transports {
		m := new(dns.Msg).SetQuestion("web.default.mesh.internal.", dns.TypeA).SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{}}
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		n := len(newResponder(s, by).respond(packed, nil))
		if padded := n == paddingBlock; padded != (by >= overTLS) {
			t.Errorf("%d bytes over %s", n, by)
		}
	}
}

// TestNearestFirst shows the order by the client's place, or by its subnet if who tells is trusted.
func TestNearestFirst(t *testing.T) {
	places := map[string]Locality{"192.0.2": {"eu", "a", ""}, "198.51.100": {"eu", "b", ""}, "203.0.113": {"us", "a", ""}}
	origin := mustParse("mesh.internal")
	set := Set{Type: dns.TypeA, TTL: 5, Order: &Order{}}
	large := Set{Type: dns.TypeA, TTL: 5, Order: &Order{}}
	for i := range 40 {
		for prefix, place := range places {
			data := netip.MustParseAddr(prefix + ".1").As4()
			if data[3] = byte(i); i == 0 {
				set.Data, set.Order.Localities = append(set.Data, data[:]), append(set.Order.Localities, place)
			}
			large.Data, large.Order.Localities = append(large.Data, data[:]), append(large.Order.Localities, place)
		}
	}
	zone := NewZone(Apex{Origin: "mesh.internal", NameServers: []NameServer{{Name: "ns.mesh.internal"}}},
		map[string]*Branch{"web": NewBranch(origin, 0, map[string][]Set{"web": {set}, "large": {large}, "alike": Addresses(5, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil)})})
	s := New(Options{
		Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), SubnetFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Locality: func(client netip.Addr) (Locality, int, bool) {
			a := client.String()
			place, known := places[a[:strings.LastIndexByte(a, '.')]]
			return place, 24, known
		},
	})
	for _, c := range []struct {
		name, client, subnet string
		want                 []string // the beginnings of addresses, in their order
		scope                int      // -1: no subnet in the answer
	}{
		{"by address", "192.0.2.7", "", []string{"192.", "198.", "203."}, -1},
		{"by address, another", "198.51.100.7", "", []string{"198.", "192.", "203."}, -1},
		{"by subnet", "10.0.0.1", "203.0.113.0", []string{"203."}, 24},
		{"by subnet of nobody we know, near whom others may be known", "10.0.0.1", "233.252.0.0", nil, 24},
		{"who tells is not trusted", "192.0.2.7", "203.0.113.0", []string{"192.", "198.", "203."}, -1},
	} {
		ask := func(name string) (answer *dns.Msg, scope int) {
			r := newResponder(s, udp)
			r.query.client = netip.MustParseAddr(c.client)
			m := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(1232, false)
			if c.subnet != "" {
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: netip.MustParseAddr(c.subnet).AsSlice()}}
			}
			answer, scope = exchange(t, r, m), -1
			for _, o := range answer.IsEdns0().Option {
				if o, ok := o.(*dns.EDNS0_SUBNET); ok {
					scope = int(o.SourceScope)
					if o.Family != 1 || o.SourceNetmask != 24 || o.Address.String() != c.subnet {
						t.Errorf("%s: %s comes back as %v", c.name, c.subnet, o)
					}
				}
			}
			return answer, scope
		}
		for _, name := range []string{"alike.mesh.internal.", "nobody.mesh.internal.", "example.org."} {
			if _, scope := ask(name); scope != min(c.scope, 0) {
				t.Errorf("%s: %s, which is the same everywhere, has scope %d, want %d", c.name, name, scope, min(c.scope, 0))
			}
		}
		for _, name := range []string{"web.mesh.internal.", "large.mesh.internal."} {
			a, scope := ask(name)
			for i, rr := range a.Answer {
				at := i
				if name[0] == 'l' {
					at = 0 // all of one window are of the nearest place
				}
				if at < len(c.want) && !strings.HasPrefix(rr.(*dns.A).A.String(), c.want[at]) {
					t.Errorf("%s: answer %d for %s is %s, want %s", c.name, i, name, rr.(*dns.A).A, c.want[at])
				}
			}
			if scope != c.scope || len(a.Answer) < 3 {
				t.Errorf("%s: %s has %d answers, scope %d, want %d", c.name, name, len(a.Answer), scope, c.scope)
			}
		}
	}
}

// TestFirstByWeight draws the first record often and wants each as often as its weight says.
func TestFirstByWeight(t *testing.T) {
	weights := []uint32{1, 2, 7, 0}
	var addrs []netip.Addr
	for i := range weights {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	set := Addresses(5, addrs, &Order{Weights: weights})[0]
	set.prepare()
	const draws = 20_000
	counts := make([]int, len(weights))
	for range draws {
		counts[set.choose().first()]++
	}
	for i, weight := range weights {
		if want := draws * int(weight) / 10; counts[i] < want*9/10 || counts[i] > want*11/10 {
			t.Errorf("the one of weight %d is first %d times, want about %d", weight, counts[i], want)
		}
	}
}
