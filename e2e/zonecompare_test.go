package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// comparedServices are in the zone that is compared: all kinds of names and records that a registry of files can have.
func comparedServices() string {
	var b strings.Builder
	add := func(service, ports string, endpoints ...string) {
		fmt.Fprintf(&b, "service: %s\n%s\nendpoints:\n", service, ports)
		for _, e := range endpoints {
			fmt.Fprintf(&b, "  - %s\n", e)
		}
		b.WriteString("---\n")
	}
	many := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("{address: 10.9.%d.%d, port: 80}", i/200, i%200+1))
		}
		return all
	}
	const http, label = "port: 80\nprotocol: http", 63
	add("web", http, "{address: 10.1.0.1, port: 8080, weight: 3}", `{address: "2001:db8::1", port: 8081}`, "{address: 10.1.0.2, port: 8080}")
	add("data/db", "ports: [{name: sql, port: 5432}, {name: metrics, port: 9187, protocol: http}]", "{address: 10.1.0.3}", "{address: 10.1.0.4, health: unhealthy}")
	add("secure", "ports: [{name: https, port: 443, protocol: tls}, {name: https-admin, port: 8443, protocol: tls}]", "{address: 10.1.0.5}")
	add("calls", "port: 9000\nprotocol: grpc", "{address: 10.1.0.6, port: 9000}")
	add("data/clock", "ports: [{name: ntp, port: 123, protocol: udp}]", "{address: 10.1.0.7}", "{address: 10.1.0.8, health: draining}")
	add("large", http, many(60)...)
	add("medium", http, many(24)...)
	add(strings.Repeat("n", label)+"/"+strings.Repeat("s", label), "ports: [{name: "+strings.Repeat("p", 62)+", port: 80, protocol: http}]", "{address: 10.1.0.9}")
	return strings.TrimSuffix(b.String(), "---\n")
}

// shape is how something is asked.
type shape struct {
	name         string
	qtype, class uint16
	do           bool
	size         uint16 // of EDNS, 0 for none
	tcp          bool
	opcode       int
	version      uint8 // of EDNS
	flags        bool  // RD, AD and CD
}

func (s shape) String() string {
	how := "UDP"
	if s.tcp {
		how = "TCP"
	}
	return fmt.Sprintf("%s %s %s do=%v edns=%d version=%d opcode=%d flags=%v %s", s.name, dns.Class(s.class), dns.Type(s.qtype), s.do, s.size, s.version, s.opcode, s.flags, how)
}

func (s shape) ask(at string) (m *dns.Msg, err error) {
	q := new(dns.Msg).SetQuestion(s.name, s.qtype)
	q.Question[0].Qclass, q.Opcode = s.class, s.opcode
	q.RecursionDesired, q.AuthenticatedData, q.CheckingDisabled = s.flags, s.flags, s.flags
	if s.size > 0 {
		q.SetEdns0(s.size, s.do)
		q.IsEdns0().SetVersion(s.version)
	}
	client := dns.Client{Net: "udp", Timeout: 5 * time.Second, UDPSize: dns.MaxMsgSize}
	if s.tcp {
		client.Net = "tcp"
	}
	const attempts = 3 // what is lost is lost by the kernel
	for range attempts {
		if m, _, err = client.Exchange(q, at); err == nil {
			break
		}
	}
	return m, err
}

// comparedNames are asked for, with every type that means something there and some that do not.
func comparedNames() map[string][]uint16 {
	usual := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeMX, dns.TypeANY, dns.TypeCNAME, dns.TypeNS, dns.TypeSOA, dns.TypeSVCB, dns.TypeHTTPS, dns.TypeDS, 65280}
	long := strings.Repeat("n", 63) + "." + strings.Repeat("s", 63)
	few := []uint16{dns.TypeA, dns.TypeSRV, dns.TypeTXT}
	return map[string][]uint16{
		"web.mesh.internal.":                                                 usual,
		"WEB.Default.mEsh.internal.":                                         few,
		"web.default.mesh.internal.":                                         usual,
		"_http._tcp.web.mesh.internal.":                                      usual,
		"_tcp.web.mesh.internal.":                                            usual, // an empty non-terminal
		"10-1-0-1.web.default.mesh.internal.":                                few,
		"2001-0db8-0000-0000-0000-0000-0000-0001.web.default.mesh.internal.": {dns.TypeAAAA, dns.TypeA},
		"db.data.mesh.internal.":                                             usual,
		"_sql._tcp.db.data.mesh.internal.":                                   few,
		"10-1-0-4.db.data.mesh.internal.":                                    few, // it does not serve
		"secure.mesh.internal.":                                              {dns.TypeHTTPS, dns.TypeSVCB, dns.TypeA},
		"_8443._https.secure.mesh.internal.":                                 {dns.TypeHTTPS, dns.TypeA},
		"_grpc._tcp.calls.mesh.internal.":                                    {dns.TypeSVCB, dns.TypeSRV},
		"_ntp._udp.clock.data.mesh.internal.":                                few,
		"clock.data.mesh.internal.":                                          few,
		"large.mesh.internal.":                                               {dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeANY},
		"medium.mesh.internal.":                                              {dns.TypeA, dns.TypeSRV, dns.TypeANY},
		long + ".mesh.internal.":                                             few,
		"_" + strings.Repeat("p", 62) + "._tcp." + long + ".mesh.internal.":  few,
		"data.mesh.internal.":                                                usual, // a namespace
		"default.mesh.internal.":                                             few,
		"nobody.mesh.internal.":                                              usual,
		"NoBody.Mesh.Internal.":                                              few,
		"a.b.c.nobody.mesh.internal.":                                        few,
		"below.10-1-0-1.web.default.mesh.internal.":                          few,
		"*.mesh.internal.":                                                   few,
		"*.web.mesh.internal.":                                               few,
		`we\.b.mesh.internal.`:                                               few,
		`\000.mesh.internal.`:                                                few,
		strings.Repeat("x", 63) + "." + strings.Repeat("y", 63) + "." + strings.Repeat("z", 63) + ".mesh.internal.": few,
		"mesh.internal.":                    append(usual, dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY, dns.TypeNSEC, dns.TypeRRSIG, dns.TypeNSEC3PARAM),
		"ns1.mesh.internal.":                few,
		"control.mesh.internal.":            few,
		"_mesh-control._tcp.mesh.internal.": few,
		"_tcp.mesh.internal.":               few,
		"host.mesh.internal.":               few,
		"1.0.1.10.in-addr.arpa.":            {dns.TypePTR, dns.TypeA, dns.TypeANY},
		"99.0.1.10.in-addr.arpa.":           {dns.TypePTR, dns.TypeA},
		"0.1.10.in-addr.arpa.":              {dns.TypePTR, dns.TypeSOA, dns.TypeNS, dns.TypeDNSKEY},
		"1.10.in-addr.arpa.":                {dns.TypePTR, dns.TypeSOA},
		"internal.":                         {dns.TypeSOA, dns.TypeNS, dns.TypeDS},
		"evilmesh.internal.":                few,
		"example.com.":                      few,
		".":                                 {dns.TypeNS, dns.TypeSOA},
	}
}

// comparedShapes are the ways in which all of that is asked.
func comparedShapes() (all []shape) {
	ways := []shape{{}, {size: 1232}, {size: 512, do: true}, {size: 4096, do: true}, {size: 1232, do: true, tcp: true}, {tcp: true}}
	names := comparedNames()
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range names {
			if !yield(name) {
				return
			}
		}
	}) {
		for _, qtype := range names[name] {
			for _, w := range ways {
				w.name, w.qtype, w.class = name, qtype, dns.ClassINET
				all = append(all, w)
			}
		}
	}
	odd := func(change func(*shape)) {
		for _, w := range ways[:3] {
			w.name, w.qtype, w.class = "web.mesh.internal.", dns.TypeA, dns.ClassINET
			change(&w)
			all = append(all, w)
		}
	}
	for _, class := range []uint16{dns.ClassCHAOS, dns.ClassHESIOD, dns.ClassANY, dns.ClassNONE, 2, 4097} {
		odd(func(s *shape) { s.class = class })
	}
	for _, qtype := range []uint16{dns.TypeMAILA, dns.TypeMAILB, dns.TypeTKEY, dns.TypeTSIG, dns.TypeOPT, 0, dns.TypeNXNAME, dns.TypeAXFR, 65535} {
		odd(func(s *shape) { s.qtype = qtype })
	}
	for _, opcode := range []int{dns.OpcodeIQuery, dns.OpcodeStatus, dns.OpcodeUpdate, 6, 15} {
		odd(func(s *shape) { s.opcode = opcode })
	}
	odd(func(s *shape) { s.version = 1 })
	odd(func(s *shape) { s.flags = true })
	return all
}

// startWithReverse runs a secondary as docs/dns.md has it, with a zone of PTR records too.
func (s *secondaryServer) startWithReverse(t *testing.T, port, secret string) {
	t.Helper()
	own, dir := testbed.FreePort(t), shortDir(t)
	s.at = fmt.Sprintf("127.0.0.1:%d", own)
	block := strings.ReplaceAll(s.primary(docsBlock(t, s.block), port), "192.0.2.53", "127.0.0.1")
	before, zone, _ := strings.Cut(block, "zone:\n")
	reverse := strings.Replace(zone, "mesh.internal", "0.1.10.in-addr.arpa", 1)
	if s.block == "nsd" { // what config appends is for the last
		block = before + "zone:\n" + reverse + "zone:\n" + zone
	} else { // what it replaces for the first
		block += strings.Replace(reverse, "acl: mesh", "acl: mesh\n    storage: "+dir, 1)
	}
	config := s.config(strings.ReplaceAll(block, "PUT-THE-SECRET-HERE", secret), dir, own)
	writeFile(t, filepath.Join(dir, "config"), config)
	start(t, s.program, append(append([]string{program(s.program)}, s.argv...), filepath.Join(dir, "config"))...)
}

// TestDocsTheWholeZoneIsAsNSDAndKnotHaveItSecondaries asks mesh control, and NSD and Knot that hold its zone, everything in every way:
// the answers are equal, section by section, or differ as docs/dns.md says, and in nothing else.
func TestDocsTheWholeZoneIsAsNSDAndKnotHaveItSecondaries(t *testing.T) {
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	writeFile(t, filepath.Join(static, "all.yaml"), comparedServices())
	secret := p.transferSecret(t)
	p.configureDNS(t, fmt.Sprintf("keys: [{name: transfer.example.org, secretFile: %s/secret}], provenance: true, reverse: [10.1.0.0/24], ttl: 7s, apexTTL: 90s, negativeTTL: 3s, "+
		"nameServers: [{name: ns1.mesh.internal, addresses: [127.0.0.1]}, {name: ns2.example.org}], control: [{name: control.mesh.internal, addresses: [127.0.0.1]}], ", p.dir))
	p.startControl(t)
	eventually(t, 30*time.Second, "the zone is served", func() error { _, _, err := holds(p.dns); return err })
	shapes, documented := comparedShapes(), documentedDifferences(t)
	if len(shapes) < 200 {
		t.Fatalf("%d shapes", len(shapes))
	}
	for _, s := range secondaryServers()[:2] {
		t.Run(s.program, func(t *testing.T) {
			s.startWithReverse(t, strings.TrimPrefix(p.dns, "127.0.0.1:"), secret)
			eventually(t, time.Minute, s.program+" holds the zones", func() error {
				want, _, err := holds(p.dns)
				if err != nil {
					return err
				}
				got, _, err := holds(s.at)
				if err == nil && !slices.Equal(got, want) {
					err = fmt.Errorf("%d records, want %d", len(got), len(want))
				}
				if m, asked := (shape{name: "0.1.10.in-addr.arpa.", qtype: dns.TypeSOA, class: dns.ClassINET}).ask(s.at); err == nil && (asked != nil || len(m.Answer) != 1) {
					err = fmt.Errorf("no zone of addresses yet: %v", asked)
				}
				return err
			})
			used := compareAnswers(t, shapes, p.dns, s)
			for _, d := range documented {
				if (used[d.name] > 0) != d.of(s.program) {
					t.Errorf("%q: docs/dns.md says of %s %q, found %d times", d.name, s.program, d.says[s.program], used[d.name])
				}
				delete(used, d.name)
			}
			for name := range used {
				t.Errorf("docs/dns.md does not have %q", name)
			}
			t.Logf("%d ways to ask", len(shapes))
		})
	}
}

// compareAnswers returns how often each allowed difference was met; another one fails the test.
func compareAnswers(t *testing.T, shapes []shape, ours string, s *secondaryServer) (used map[string]int) {
	t.Helper()
	used = map[string]int{}
	differ := 0
	for _, q := range shapes {
		a, err := q.ask(ours)
		if err != nil {
			t.Fatalf("%s: ask mesh control: %v", q, err)
		}
		if asked := (dns.Question{Name: q.name, Qtype: q.qtype, Qclass: q.class}); q.opcode == dns.OpcodeQuery && (len(a.Question) != 1 || a.Question[0] != asked) {
			t.Errorf("%s: the question came back as %v", q, a.Question)
		}
		b, err := q.ask(s.at)
		if err != nil {
			t.Fatalf("%s: ask %s: %v", q, s.program, err)
		}
		got, want := read(a), read(b)
		for _, d := range differences() {
			before := got.String() + want.String()
			if got.String() == want.String() {
				break
			}
			if d.mend(q, got, want); got.String()+want.String() != before {
				used[d.name]++
			}
		}
		if got.String() != want.String() {
			if differ++; differ <= 10 {
				t.Errorf("%s: mesh control says\n%v%s says\n%v", q, got, s.program, want)
			}
		}
	}
	if differ > 0 {
		t.Errorf("%d of %d answers differ otherwise than docs/dns.md says", differ, len(shapes))
	}
	return used
}
