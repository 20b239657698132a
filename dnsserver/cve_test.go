package dnsserver_test

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Hostile messages end nothing, get a small answer or none, and are never answered when they are answers themselves: two
// servers would talk for ever (CVE-2026-46600, CVE-2026-26018, CVE-2025-68151).
func TestCVEClass29_HostileMessages(t *testing.T) {
	zone := testZone()
	s, server := serve(t, only(zone), "127.0.0.1:0")
	header := func(flags, qd, an, ns, ar uint16) []byte {
		b := binary.BigEndian.AppendUint16(nil, 0x1234)
		for _, v := range []uint16{flags, qd, an, ns, ar} {
			b = binary.BigEndian.AppendUint16(b, v)
		}
		return b
	}
	asked := append([]byte("\x03web\x07default\x04mesh\x08internal\x00"), 0, 1, 0, 1)
	record := func(rtype uint16, data string) string {
		b := binary.BigEndian.AppendUint16([]byte{0xc0, 12}, rtype)
		b = append(b, 0, 1, 0, 0, 0, 5)
		b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
		return string(b) + data
	}
	const silent = -1
	for _, c := range []struct {
		name    string
		message []byte
		rcode   int
	}{
		{"a response", append(header(0x8000, 1, 0, 0, 0), asked...), silent},
		{"half a header", header(0, 1, 0, 0, 0)[:7], silent},
		{"a name that points to itself", append(header(0, 1, 0, 0, 0), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"names that point to each other", append(header(0, 1, 0, 0, 0), 1, 'a', 0xc0, 16, 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"a pointer beyond", append(header(0, 1, 0, 0, 0), 0xff, 0xff, 0, 1, 0, 1), dns.RcodeFormatError},
		{"a reserved label", append(header(0, 1, 0, 0, 0), 0x80, 'a', 0, 0, 1, 0, 1), dns.RcodeFormatError},
		{"a name too long", append(append(header(0, 1, 0, 0, 0), strings.Repeat("\x3f"+strings.Repeat("a", 63), 5)...), 0, 0, 1, 0, 1), dns.RcodeFormatError},
		{"no question", header(0, 0, 0, 0, 0), dns.RcodeFormatError},
		{"two questions", append(header(0, 2, 0, 0, 0), append(asked, asked...)...), dns.RcodeFormatError},
		{"counts of records that are not there", append(header(0, 1, 65535, 65535, 65535), asked...), dns.RcodeFormatError},
		{"SVCB cut off", append(append(header(0, 1, 0, 0, 1), asked...), record(64, "\x00\x01\x00\x00\x05\xff\xff")...), dns.RcodeFormatError},
		{"SVCB with keys out of order", append(append(header(0, 1, 0, 0, 1), asked...), record(64, "\x00\x01\x00\x00\x03\x00\x02\x00\x50\x00\x01\x00\x00")...), dns.RcodeFormatError},
		{"SVCB without data", append(append(header(0, 1, 0, 0, 1), asked...), record(65, "")...), silent - 1},
		{"two OPT", append(append(header(0, 1, 0, 0, 2), asked...), "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"...), dns.RcodeFormatError},
		{"AXFR of what is no zone", append(append(header(0, 1, 0, 0, 0), asked[:len(asked)-4]...), 0, 252, 0, 1), dns.RcodeNotAuth},
		{"AXFR over UDP", append(header(0, 1, 0, 0, 0), "\x04mesh\x08internal\x00\x00\xfc\x00\x01"...), dns.RcodeRefused},
	} {
		conn, err := net.Dial("udp", server.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(c.message)
		wait := 5 * time.Second
		if c.rcode == silent {
			wait = 100 * time.Millisecond
		}
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		answer := make([]byte, 4096)
		n, err := conn.Read(answer)
		switch {
		case c.rcode == silent && err == nil:
			t.Errorf("%s is answered", c.name)
		case c.rcode >= 0 && (err != nil || int(answer[3]&0xf) != c.rcode):
			t.Errorf("%s: rcode %d, %v, want %d", c.name, answer[3]&0xf, err, c.rcode)
		case c.rcode >= 0 && n > len(c.message):
			t.Errorf("%s: %d bytes answered for %d", c.name, n, len(c.message))
		}
	}
	if n := s.Stats().Panics; n != 0 {
		t.Errorf("%d messages made the server panic", n)
	}
	if r := ask(t, "udp", server, question("web.default.mesh.internal.", dns.TypeA)); len(r.Answer) != 2 {
		t.Errorf("after it: %v", r)
	}
}

// A name is in the zone by its labels, not by its letters (CVE-2026-33489), and only this server's own zone is answered for.
func TestCVEClass29_ZoneIsMatchedByLabels(t *testing.T) {
	zone := testZone()
	_, server := serve(t, only(zone), "127.0.0.1:0")
	for name, want := range map[string]int{
		"web.default.mesh.internal.": dns.RcodeSuccess, "WEB.default.MESH.internal.": dns.RcodeSuccess,
		"evilmesh.internal.": dns.RcodeRefused, "web.default.evilmesh.internal.": dns.RcodeRefused, `web.default\.mesh.internal.`: dns.RcodeRefused,
		"internal.": dns.RcodeRefused, ".": dns.RcodeRefused, "mesh.internal.evil.": dns.RcodeRefused, `x\.mesh.internal.`: dns.RcodeRefused,
		`web\.default.mesh.internal.`: dns.RcodeNameError, `web.default.mesh\.internal.`: dns.RcodeRefused,
	} {
		for _, network := range []string{"udp", "tcp"} {
			if r := ask(t, network, server, question(name, dns.TypeA)); r.Rcode != want {
				t.Errorf("%s over %s: %s, want %s", name, network, dns.RcodeToString[r.Rcode], dns.RcodeToString[want])
			}
		}
	}
}

// What is asked makes no new metric (CVE-2025-43915).
func TestCVEClass30_QueriesMakeNoMetrics(t *testing.T) {
	zone := testZone()
	s, server := serve(t, only(zone), "127.0.0.1:0")
	conn, err := dns.Dial("tcp", server.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for qtype := range 400 {
		for _, name := range []string{"web.default.mesh.internal.", "x.mesh.internal.", "elsewhere."} {
			if err := conn.WriteMsg(question(name, uint16(qtype))); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.ReadMsg(); err != nil {
				t.Fatal(err)
			}
		}
	}
	counts := s.Stats().Queries
	if len(counts) > 90 { // a type has at most three: two zones' rcodes, and REFUSED
		t.Errorf("%d figures after 1,200 different queries", len(counts))
	}
	var other uint64
	for _, c := range counts {
		if c.Type == "other" {
			other += c.Count
		}
	}
	if other < 1000 {
		t.Errorf("%d queries of other types were counted, want those of 390 types and three names", other)
	}
}
