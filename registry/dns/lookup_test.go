package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/internal/dnsask"
	"github.com/hostmesh/hostmesh/registry"
)

// zone answers from text, for what only depends on answers; the suite runs on a real server.
type zone struct {
	mu    sync.Mutex
	rrs   []dns.RR
	soa   []dns.RR
	fail  map[string]error // by name
	asked map[string]int   // by "TYPE name"
}

func newZone(t testing.TB, text string) *zone {
	z := &zone{fail: make(map[string]error), asked: make(map[string]int)}
	z.set(t, text)
	return z
}

func (z *zone) set(t testing.TB, text string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	m := message(t, 0, text)
	z.rrs, z.soa = m.Answer, m.Ns
}

func (z *zone) broken(name string, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.fail[name] = err
}

func (z *zone) count(question string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[question]
}

func (z *zone) records(_ context.Context, name string, qtype uint16) (records, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked[dns.TypeToString[qtype]+" "+name]++
	if err := errors.Join(z.fail[name], z.fail["*"]); err != nil {
		return records{}, err
	}
	m := &dns.Msg{Answer: z.rrs, Ns: z.soa}
	m.Authoritative = true
	return read(m, name, qtype)
}

func describe(f *found) []string {
	var got []string
	for _, e := range f.endpoints {
		got = append(got, fmt.Sprintf("%s *%d", e.ID, e.Weight))
	}
	for object, p := range f.problems {
		got = append(got, "! "+object+": "+p.Reason)
	}
	slices.Sort(got)
	return got
}

func TestResolve(t *testing.T) {
	host := Service{Name: "w", Host: "w.example", Port: 80}
	srv := Service{Name: "w", SRV: "_http._tcp.w.example"}
	for _, c := range []struct {
		name    string
		service Service
		text    string
		want    []string
		ttl     time.Duration
		err     string
	}{
		{"both families", host, "w.example. 9 A 192.0.2.1\nw.example. 7 AAAA 2001:db8::1", []string{"192.0.2.1:80 *1", "[2001:db8::1]:80 *1"}, 7 * time.Second, ""},
		{"one family", Service{Name: "w", Host: "w.example", Port: 80, Family: IPv6}, "w.example. 9 A 192.0.2.1\nw.example. 7 AAAA 2001:db8::1", []string{"[2001:db8::1]:80 *1"}, 7 * time.Second, ""},
		{"a bad address hides nobody", host, "w.example. 9 A 0.0.0.0\nw.example. 9 A 192.0.2.1", []string{"! 0.0.0.0: got an unspecified address, which is whoever calls, want one of a host", "192.0.2.1:80 *1"}, 0, ""},
		{"nobody", host, "", nil, 0, ""},
		{
			"weights and ports", srv, "_http._tcp.w.example. 9 SRV 1 7 81 a.example.\n_http._tcp.w.example. 9 SRV 1 0 82 b.example.\na.example. 9 A 192.0.2.1\nb.example. 9 A 192.0.2.2",
			[]string{"192.0.2.1:81 *7", "192.0.2.2:82 *1"},
			0, "",
		},
		{
			"the lowest priority only", srv, "_http._tcp.w.example. 9 SRV 20 1 81 a.example.\n_http._tcp.w.example. 9 SRV 10 1 81 b.example.\na.example. 9 A 192.0.2.1\nb.example. 9 A 192.0.2.2",
			[]string{"192.0.2.2:81 *1"},
			0, "",
		},
		{
			"the lowest priority that has an address", srv, "_http._tcp.w.example. 9 SRV 20 1 81 a.example.\n_http._tcp.w.example. 9 SRV 10 1 81 b.example.\na.example. 9 A 192.0.2.1",
			[]string{"192.0.2.1:81 *1"},
			0, "",
		},
		{
			"a weight is divided among a target's addresses", srv, "_http._tcp.w.example. 9 SRV 1 1 81 a.example.\n_http._tcp.w.example. 9 SRV 1 1 81 b.example.\na.example. 9 A 192.0.2.1\na.example. 9 AAAA 2001:db8::1\nb.example. 9 A 192.0.2.2",
			[]string{"192.0.2.1:81 *30", "192.0.2.2:81 *60", "[2001:db8::1]:81 *30"},
			0, "",
		},
		{
			"all have two addresses", srv, "_http._tcp.w.example. 9 SRV 1 3 81 a.example.\n_http._tcp.w.example. 9 SRV 1 5 81 b.example.\na.example. 9 A 192.0.2.1\na.example. 9 AAAA 2001:db8::1\nb.example. 9 A 192.0.2.2\nb.example. 9 A 192.0.2.3",
			[]string{"192.0.2.1:81 *3", "192.0.2.2:81 *5", "192.0.2.3:81 *5", "[2001:db8::1]:81 *3"},
			0, "",
		},
		{
			"two targets, one place", srv, "_http._tcp.w.example. 9 SRV 1 3 81 a.example.\n_http._tcp.w.example. 9 SRV 1 5 81 b.example.\na.example. 9 A 192.0.2.1\nb.example. 9 A 192.0.2.1",
			[]string{"192.0.2.1:81 *8"},
			0, "",
		},
		{
			"a target on two ports", srv, "_http._tcp.w.example. 9 SRV 1 3 81 a.example.\n_http._tcp.w.example. 9 SRV 1 5 82 A.example.\na.example. 9 A 192.0.2.1",
			[]string{"192.0.2.1:81 *3", "192.0.2.1:82 *5"},
			0, "",
		},
		{"decidedly not there", srv, "_http._tcp.w.example. 9 SRV 0 0 0 .", nil, 9 * time.Second, ""},
		{
			"port 0", srv, "_http._tcp.w.example. 9 SRV 0 0 0 a.example.\n_http._tcp.w.example. 9 SRV 0 0 81 b.example.\nb.example. 9 A 192.0.2.2",
			[]string{"! a.example.: got port 0, want the port where it listens", "192.0.2.2:81 *1"},
			0, "",
		},
		{"a target behind an alias", srv, "_http._tcp.w.example. 9 SRV 0 0 81 b.example.\nb.example. 9 CNAME c.example.\nc.example. 3 A 192.0.2.2", []string{"192.0.2.2:81 *1"}, 0, ""},
		{
			"a target that comes later is asked for when its absence is over", srv,
			"_http._tcp.w.example. 300 SRV 0 0 81 a.example.\n_http._tcp.w.example. 300 SRV 0 0 81 late.example.\na.example. 300 A 192.0.2.1\nauthority\nexample. 60 SOA ns.example. hm.example. 1 1 1 1 20",
			[]string{"192.0.2.1:81 *1"},
			20 * time.Second, "",
		},
		{
			"a target of one family lives as long as that", srv,
			"_http._tcp.w.example. 300 SRV 0 0 81 a.example.\na.example. 200 A 192.0.2.1\nauthority\nexample. 60 SOA ns.example. hm.example. 1 1 1 1 20",
			[]string{"192.0.2.1:81 *1"},
			200 * time.Second, "",
		},
		{"too many targets", srv, many(maxTargets + 1), nil, 0, "want at most 1024"},
		{"too many endpoints", host, manyAddresses(maxEndpoints + 1), nil, 0, "want at most 4096"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := (&lookup{ask: newZone(t, c.text)}).resolve(t.Context(), newName(c.service, "default"), nil)
			if c.err != "" || err != nil {
				if c.err == "" || err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got error %v, want %q", err, c.err)
				}
				return
			}
			if diff := cmp.Diff(c.want, describe(f)); diff != "" {
				t.Error(diff)
			}
			if c.ttl != 0 && f.ttl != c.ttl {
				t.Errorf("ttl %s, want %s", f.ttl, c.ttl)
			}
		})
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "_http._tcp.w.example. 9 SRV 1 1 81 t%d.example.\n", i)
	}
	return b.String()
}

func manyAddresses(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "w.example. 9 A 10.0.%d.%d\n", i/256, i%256)
	}
	return b.String()
}

// TestTargetThatFails keeps the addresses that it had, tells it, and takes what the others say.
func TestTargetThatFails(t *testing.T) {
	z := newZone(t, "_http._tcp.w.example. 9 SRV 1 1 81 a.example.\n_http._tcp.w.example. 9 SRV 1 1 81 b.example.\na.example. 9 A 192.0.2.1\nb.example. 9 A 192.0.2.2")
	look, n := &lookup{ask: z}, newName(Service{Name: "w", SRV: "_http._tcp.w.example"}, "default")
	first, err := look.resolve(t.Context(), n, nil)
	if err != nil {
		t.Fatal(err)
	}
	z.broken("a.example.", refusal(dns.RcodeServerFailure))
	z.set(t, "_http._tcp.w.example. 9 SRV 1 1 81 a.example.\n_http._tcp.w.example. 9 SRV 1 1 81 b.example.\nb.example. 9 A 192.0.2.3")
	second, err := look.resolve(t.Context(), n, first.known())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"! a.example.: SERVFAIL", "192.0.2.1:81 *1", "192.0.2.3:81 *1"}, describe(second)); diff != "" || !second.broken || !second.problems["a.example."].Stale {
		t.Errorf("broken is %t\n%s", second.broken, diff)
	}
	z.broken("b.example.", refusal(dns.RcodeServerFailure))
	if f, err := look.resolve(t.Context(), n, second.known()); err == nil {
		t.Errorf("all targets fail, and it says %v", describe(f))
	}
}

// TestAdditionalSection is used for a family that it has, and proves nothing about one that it has not.
func TestAdditionalSection(t *testing.T) {
	extra := message(t, 0, "additional\na.example. 5 A 192.0.2.1\nA.example. 4 A 192.0.2.2\nb.example. 5 A 192.0.2.9\na.example. 5 CH A 192.0.2.8").Extra
	z := newZone(t, "a.example. 9 A 192.0.2.7\na.example. 9 AAAA 2001:db8::1")
	got, err := (&lookup{ask: z}).addresses(t.Context(), "a.example.", []Family{IPv4, IPv6}, extra)
	if err != nil {
		t.Fatal(err)
	}
	if a := fmt.Sprint(got[IPv4].good, got[IPv4].ttl, got[IPv6].good); a != "[192.0.2.1 192.0.2.2] 4 [2001:db8::1]" {
		t.Error(a)
	}
	if z.count("A a.example.") != 0 || z.count("AAAA a.example.") != 1 {
		t.Errorf("asked %v", z.asked)
	}
}

func TestProtocolOfSRVName(t *testing.T) {
	for srv, want := range map[string]registry.Protocol{
		"_http._tcp.w.example": registry.HTTP, "_grpc._tcp.w.example": registry.GRPC, "_https._tcp.w.example": registry.TLS,
		"_dns._udp.w.example": registry.UDP, "_pg._tcp.w.example": "", "web.service.consul": "", "a.b": "",
	} {
		if got := newName(Service{Name: "w", SRV: srv}, "default").ports[0].Protocol; got != want {
			t.Errorf("%s: got %q, want %q", srv, got, want)
		}
	}
}

// FuzzAnswer reads any message as an answer to each kind of question: whatever it is, what is made of it may stand in a View.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"w.example. 9 A 192.0.2.1\nw.example. 7 AAAA 2001:db8::1", "w.example. 9 SRV 1 7 81 w.example.\nadditional\nw.example. 9 A 192.0.2.1",
		"w.example. 9 CNAME v.example.\nv.example. 9 A 0.0.0.0", "authority\nexample. 60 SOA a. b. 1 1 1 1 7", "w.example. 9 SRV 1 0 0 .",
	} {
		data, err := message(f, 0, text).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := new(dns.Msg)
		if m.Unpack(data) != nil {
			return
		}
		_ = dnsask.Answers(m, new(dns.Msg).SetQuestion("w.example.", dns.TypeA))
		for _, s := range []Service{{Name: "w", Host: "w.example", Port: 80}, {Name: "w", SRV: "w.example"}} {
			n := newName(s, "default")
			found, err := (&lookup{ask: fixed{m}}).resolve(t.Context(), n, nil)
			if err != nil {
				continue
			}
			made := registry.NewAssembly()
			for _, e := range found.endpoints {
				made.Set(e.ID, n.entry(e))
			}
			if v := made.View(); len(v.Problems) > 0 || v.Validate() != nil {
				t.Errorf("%v: %v", v.Problems, v.Validate())
			}
		}
	})
}

// fixed says the same to every question.
type fixed struct{ m *dns.Msg }

func (f fixed) records(_ context.Context, name string, qtype uint16) (records, error) {
	return read(f.m, name, qtype)
}
