package dnsserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

const copySecret = "0123456789abcdef0123456789abcdef"

// plainCopies copies a zone as it is.
type plainCopies struct{ copied chan string }

// Copy implements Copies.
func (plainCopies) Copy(_ context.Context, zone *Zone, _ *uint32) (Copy, error) {
	return Copy{Serial: zone.Serial(), Records: func(yield func(Record) bool) {
		soa := Record{Owner: zone.Origin(), Type: dns.TypeSOA, TTL: 60, Data: zone.soa}
		if !yield(soa) {
			return
		}
		for name, s := range zone.All() {
			for _, data := range s.Data {
				if s.Type != dns.TypeSOA && !yield(Record{Owner: name, Type: s.Type, TTL: s.TTL, Data: data}) {
					return
				}
			}
		}
		yield(soa)
	}}, nil
}

// Copied implements Copies.
func (c plainCopies) Copied(_ Name, _ uint32, client netip.Addr, key string) {
	c.copied <- client.String() + " " + key
}

func copyKey(t testing.TB) *tsig.Key {
	t.Helper()
	key, err := tsig.NewKey("transfer.example.", "hmac-sha256", []byte(copySecret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func copyQuery(t testing.TB, m *dns.Msg, secret string, at int64) []byte {
	t.Helper()
	packed, err := m.Pack()
	if secret != "" {
		m.SetTsig("transfer.example.", dns.HmacSHA256, 300, at)
		packed, _, err = dns.TsigGenerate(m, base64.StdEncoding.EncodeToString([]byte(secret)), "", false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// TestWhoMayCopy shows that zones are copied to the host itself and to who signs with a key, by transports that are made for it.
func TestWhoMayCopy(t *testing.T) {
	zone := smallZone()
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), Keys: []*tsig.Key{copyKey(t)}, Copies: plainCopies{}})
	axfr := func(name string) *dns.Msg { return new(dns.Msg).SetAxfr(name).SetEdns0(1232, false) }
	ixfr := func() *dns.Msg {
		return new(dns.Msg).SetIxfr("mesh.internal.", 1, "ns.mesh.internal.", "hostmaster.mesh.internal.")
	}
	bare := new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeIXFR)
	const remote, local, wanted = "192.0.2.60", "127.0.0.1", -1
	for _, c := range []struct {
		name   string
		query  *dns.Msg
		client string
		by     transport
		secret string
		late   int64 // seconds
		want   int   // the rcode, or that it is copied
		ede    string
	}{
		{"the host itself", axfr("mesh.internal."), local, tcp, "", 0, wanted, ""},
		{"the host itself, IPv6", axfr("Mesh.Internal."), "::1", tcp, "", 0, wanted, ""},
		{"changes", ixfr(), local, tcp, "", 0, wanted, ""},
		{"another host", axfr("mesh.internal."), remote, tcp, "", 0, dns.RcodeRefused, "TSIG key"},
		{"another host with a key", axfr("mesh.internal."), remote, tcp, copySecret, 0, wanted, ""},
		{"another host with a key over TLS", axfr("mesh.internal."), remote, overTLS, copySecret, 0, wanted, ""},
		{"a wrong key", axfr("mesh.internal."), remote, tcp, copySecret + "x", 0, dns.RcodeNotAuth, ""},
		{"a wrong key on the host", axfr("mesh.internal."), local, tcp, copySecret + "x", 0, dns.RcodeNotAuth, ""},
		{"a query of an hour ago", axfr("mesh.internal."), remote, tcp, copySecret, -3600, dns.RcodeNotAuth, ""},
		{"over HTTPS", axfr("mesh.internal."), local, overHTTPS, "", 0, dns.RcodeRefused, "TCP and TLS"},
		{"over UDP", axfr("mesh.internal."), local, udp, "", 0, dns.RcodeRefused, "TCP and TLS"},
		{"changes over UDP", ixfr(), local, udp, "", 0, dns.RcodeSuccess, ""},
		{"changes over UDP, another host", ixfr(), remote, udp, "", 0, dns.RcodeRefused, ""},
		{"a name in the zone", axfr("web.default.mesh.internal."), local, tcp, "", 0, dns.RcodeNotAuth, ""},
		{"another zone", axfr("example.org."), local, tcp, "", 0, dns.RcodeNotAuth, ""},
		{"changes since nothing", bare, local, tcp, "", 0, dns.RcodeFormatError, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newResponder(s, c.by)
			r.query.client, r.tlsVersion = netip.MustParseAddr(c.client), 0x0304
			answer := r.respond(copyQuery(t, c.query.Copy(), c.secret, int64(r.now)+c.late), nil)
			if (r.wanted != nil) != (c.want == wanted) {
				t.Fatalf("copied: %v, %x", r.wanted != nil, answer)
			}
			if r.wanted != nil {
				return
			}
			var m dns.Msg
			if err := m.Unpack(answer); err != nil || m.Rcode != c.want || !strings.Contains(m.String(), c.ede) {
				t.Errorf("%v, %v, want %s %q", err, &m, dns.RcodeToString[c.want], c.ede)
			}
			if c.want == dns.RcodeSuccess && (len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != dns.TypeSOA) {
				t.Errorf("%v, want the SOA alone", m.Answer)
			}
		})
	}
	r := newResponder(s, overTLS)
	r.query.client, r.tlsVersion = netip.MustParseAddr(local), 0x0303
	if r.respond(copyQuery(t, axfr("mesh.internal."), "", 0), nil); r.wanted != nil || r.rcode != dns.RcodeRefused {
		t.Error("a zone is copied over TLS 1.2")
	}
}

// startCopies runs a server that copies.
func startCopies(t *testing.T, zone *Zone) (addr string, s *Server, copies plainCopies) {
	t.Helper()
	copies = plainCopies{make(chan string, 100)}
	s = New(Options{Addrs: []string{"127.0.0.1:0"}, Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), Keys: []*tsig.Key{copyKey(t)}, Copies: copies})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s.Addrs()[0].String(), s, copies
}

// largeZone is more than sockets hold.
func largeZone() *Zone {
	branches := map[string]*Branch{}
	for i := range 400 {
		var data [][]byte
		for j := range 200 {
			data = append(data, TextData(strings.Repeat("x", 200), string(rune('a'+j%26)), string(binary.BigEndian.AppendUint32(nil, uint32(i*1000+j)))))
		}
		key := string(binary.BigEndian.AppendUint32(nil, uint32(i)))
		branches[key] = NewBranch(mustParse("mesh.internal"), 0, map[string][]Set{"n" + strings.Repeat("y", i%40) + string(rune('a'+i%26)): {{Type: dns.TypeTXT, TTL: 5, Data: data}}})
	}
	return NewZone(smallApex(), branches)
}

// TestACopyThatNobodyTakes shows that who does not take his copy holds nobody up, has a bounded number of them, and that each ends.
func TestACopyThatNobodyTakes(t *testing.T) {
	zone := largeZone()
	addr, s, _ := startCopies(t, zone)
	query := copyQuery(t, new(dns.Msg).SetAxfr("mesh.internal."), "", 0)
	for range maxSourceCopies {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(append([]byte{0, byte(len(query))}, query...))
		if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil { // it has begun
			t.Fatal(err)
		}
	}
	client := dns.Client{Net: "tcp", Timeout: 5 * time.Second}
	if m, _, err := client.Exchange(new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeSOA), addr); err != nil || len(m.Answer) != 1 {
		t.Errorf("others are answered %v, %v", m, err)
	}
	records, err := new(dns.Transfer).In(new(dns.Msg).SetAxfr("mesh.internal."), addr)
	if err == nil {
		for e := range records {
			err = errors.Join(err, e.Error)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "bad xfr rcode: 5") {
		t.Errorf("one more than a source may have: %v", err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		s.underWay.mu.Lock()
		left := s.underWay.all + len(s.underWay.sources)
		s.underWay.mu.Unlock()
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d are still under way", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestACopyThatIsTakenInDrops shows that a client gets a copy that it takes slowly, not one that it takes too slowly though never still, and
// that the end of the server is the end of either.
func TestACopyThatIsTakenInDrops(t *testing.T) {
	zone := largeZone()
	query := copyQuery(t, new(dns.Msg).SetAxfr("mesh.internal."), "", 0)
	for _, c := range []struct {
		name  string
		every time.Duration // for a kilobyte
		stop  time.Duration // when the server ends
		want  error
	}{
		{"slowly", 60 * time.Millisecond, 24 * time.Hour, nil},
		{"too slowly", 80 * time.Millisecond, 24 * time.Hour, os.ErrDeadlineExceeded},
		{"slowly, to the end of the server", 60 * time.Millisecond, time.Second, os.ErrDeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), Copies: plainCopies{make(chan string, 1)}})
				r := newResponder(s, tcp)
				r.query.client = netip.MustParseAddr("127.0.0.1")
				if r.respond(query, nil); r.wanted == nil {
					t.Fatal("no copy")
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.stop)
				defer cancel()
				client, server := net.Pipe()
				began, ended := time.Now(), make(chan error, 1)
				go func() {
					err := s.serveCopy(ctx, server, bufio.NewWriter(server), r)
					_ = server.Close()
					ended <- err
				}()
				for drop := make([]byte, 1<<10); ; time.Sleep(c.every) {
					if _, err := io.ReadFull(client, drop); err != nil {
						break
					}
				}
				if err := <-ended; !errors.Is(err, c.want) {
					t.Errorf("after %v: %v, want %v", time.Since(began), err, c.want)
				}
				if took := time.Since(began); c.stop == time.Second && took > 2*time.Second {
					t.Errorf("it ended %v after it began, want it to end with the server", took)
				}
			})
		})
	}
}

// TestMessagesOfACopy shows that messages are bounded, that each is signed, that names are compressed and say what they did, and that what comes
// after the copy on its connection is answered.
func TestMessagesOfACopy(t *testing.T) {
	zone := largeZone()
	addr, _, copies := startCopies(t, zone)
	conn, err := dns.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	query := copyQuery(t, new(dns.Msg).SetAxfr("MESH.internal.").SetEdns0(1232, false), copySecret, time.Now().Unix())
	var asked dns.Msg
	if err := asked.Unpack(query); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(query); err != nil {
		t.Fatal(err)
	}
	mac, records, messages, size := asked.IsTsig().MAC, 0, 0, 0
	for soas := 0; soas < 2; messages++ {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, err := conn.ReadMsgHeader(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > copyBytes+300 {
			t.Errorf("a message of %d bytes", len(b))
		}
		size += len(b)
		if err := dns.TsigVerify(bytes.Clone(b), base64.StdEncoding.EncodeToString([]byte(copySecret)), mac, messages > 0); err != nil {
			t.Fatalf("message %d: %v", messages, err)
		}
		var m dns.Msg
		if err := m.Unpack(b); err != nil || m.Rcode != 0 || !m.Authoritative || m.Id != asked.Id {
			t.Fatalf("message %d: %v, %v", messages, err, m.MsgHdr)
		}
		if first := messages == 0; (len(m.Question) == 1) != first || (m.IsEdns0() != nil) != first {
			t.Errorf("message %d: question %v, EDNS %v, want them in the first", messages, m.Question, m.IsEdns0())
		}
		for _, rr := range m.Answer {
			name := mustParse(rr.Header().Name)
			if rr.Header().Rrtype == dns.TypeSOA {
				soas++
			} else if zone.Set(name, rr.Header().Rrtype) == nil {
				t.Fatalf("%v is not in the zone", rr)
			}
			records++
		}
		mac = m.IsTsig().MAC
	}
	if records < 399*200 || messages < 3 {
		t.Errorf("%d records in %d messages", records, messages)
	}
	if got := <-copies.copied; got != "127.0.0.1 transfer.example." {
		t.Errorf("told that %q has it", got)
	}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeNS)); err != nil {
		t.Fatal(err)
	}
	if m, err := conn.ReadMsg(); err != nil || len(m.Answer) != 2 {
		t.Errorf("afterwards: %v, %v", m, err)
	}
}

// FuzzCopyRequests shows that no message is answered with a copy but a query for one by who may have it.
func FuzzCopyRequests(f *testing.F) {
	zone := smallZone()
	key := copyKey(f)
	s := New(Options{Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler), Keys: []*tsig.Key{key}, Copies: plainCopies{}})
	now := int64(newResponder(s, tcp).now)
	for _, secret := range []string{"", copySecret, copySecret + "x"} {
		for _, m := range []*dns.Msg{
			new(dns.Msg).SetAxfr("mesh.internal."), new(dns.Msg).SetAxfr("mesh.internal.").SetEdns0(1232, true),
			new(dns.Msg).SetIxfr("mesh.internal.", 1, ".", "."), new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeIXFR), new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeSOA),
		} {
			f.Add(copyQuery(f, m, secret, now))
		}
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		for by := range transports {
			for _, client := range []string{"192.0.2.60", "127.0.0.1"} {
				r := newResponder(s, by)
				r.query.client, r.tlsVersion = netip.MustParseAddr(client), 0x0304
				answer := r.respond(message, nil)
				if n := s.panics.Load(); n != 0 {
					t.Fatalf("%d panics at %x", n, message)
				}
				if r.wanted == nil {
					if answer != nil && len(answer) > 4*len(message)+1500 {
						t.Errorf("%d bytes answer %x", len(answer), message)
					}
					continue
				}
				var m dns.Msg
				if err := m.Unpack(message); err != nil || m.Opcode != dns.OpcodeQuery || m.Question[0].Qtype != dns.TypeAXFR && m.Question[0].Qtype != dns.TypeIXFR || by == udp || by == overHTTPS {
					t.Fatalf("%x over %s wants a copy: %v", message, by, err)
				}
				err := dns.TsigVerify(bytes.Clone(message), base64.StdEncoding.EncodeToString([]byte(copySecret)), "", false)
				if client != "127.0.0.1" && err != nil && !errors.Is(err, dns.ErrTime) {
					t.Fatalf("%s gets a copy by %x: %v", client, message, err)
				}
			}
		}
	})
}

// TestNamesOfACopy shows that a compressed name is the name, also where labels hold what looks like other labels.
func TestNamesOfACopy(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		p := &packer{r: &responder{b: make([]byte, headerBytes)}}
		for len(p.r.b) < 1000 {
			name := "\x00"
			for range random.IntN(6) {
				label := make([]byte, 1+random.IntN(3))
				for i := range label {
					label[i] = "\x01\x02\x03ab"[random.IntN(5)]
				}
				name = string(byte(len(label))) + string(label) + name
			}
			at := len(p.r.b)
			p.owner(Name(name))
			got, end, err := dns.UnpackDomainName(p.r.b, at)
			if err != nil || end != len(p.r.b) || mustParse(got) != Name(name) {
				t.Fatalf("%q became %s, %v, in %q", name, got, err, p.r.b)
			}
		}
	}
}
