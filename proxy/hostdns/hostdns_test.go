package hostdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// bed is a resolver whose surroundings are set by hand: what the control plane says, what is bound, what is withheld.
type bed struct {
	*Resolver
	config *watch.Value[*config.Config]
	bound  *watch.Value[map[netip.AddrPort]error]

	mu           sync.Mutex
	wanted, kept []string          // guarded by mu
	withheld     map[string]string // guarded by mu
}

func (b *bed) Want(services ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = append(b.wanted, services...)
}

func (b *bed) Unknown(string) string { return "the control plane is away" }

func (b *bed) Withheld(service string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.withheld[service]
}

func (b *bed) Keep(service string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = append(b.kept, service)
}

// newBed returns one that answers.
func newBed(t *testing.T) *bed {
	t.Helper()
	b := stillBed(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	for b.server.Load() == nil {
		runtime.Gosched()
	}
	return b
}

// stillBed returns one that does not run.
func stillBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{config: watch.New(&config.Config{}), bound: watch.New(map[netip.AddrPort]error{}), withheld: map[string]string{}}
	var err error
	b.Resolver, err = New(Options{
		Domain: "mesh.internal", Addr: netip.MustParseAddrPort("127.0.0.1:0"), Config: b.config, Bound: b.bound, Control: b, Places: b, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask returns an answer in short: the rcode, each record's data, the explanation.
func (b *bed) ask(t *testing.T, name string, rtype uint16) string {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, rtype)
	m.SetEdns0(1232, false)
	answer, _, err := new(dns.Client).Exchange(m, b.server.Load().Addrs()[0].String())
	if err != nil {
		t.Error(err)
		return ""
	}
	says := []string{dns.RcodeToString[answer.Rcode]}
	if _, ok := first(answer.Ns).(*dns.SOA); ok != (len(answer.Answer) == 0 && answer.Authoritative) || len(answer.Ns) > 1 {
		t.Errorf("%s %s: the authority section is %v", name, dns.TypeToString[rtype], answer.Ns) // RFC 2308 §2
	}
	var data []string
	for _, rr := range answer.Answer {
		data = append(data, fmt.Sprint(rr.Header().Ttl, " ", strings.TrimPrefix(rr.String(), rr.Header().String())))
	}
	slices.Sort(data) // their order is by chance
	says = append(says, data...)
	for _, o := range answer.IsEdns0().Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			says = append(says, fmt.Sprintf("EDE %d %s", e.InfoCode, e.ExtraText))
		}
	}
	return strings.Join(says, "; ")
}

func first(records []dns.RR) dns.RR {
	if len(records) == 0 {
		return nil
	}
	return records[0]
}

func listener(name, addr string, ports ...uint16) *config.Listener {
	l := &config.Listener{Name: name}
	for _, p := range ports {
		l.Addresses = append(l.Addresses, netip.AddrPortFrom(netip.MustParseAddr(addr), p))
	}
	return l
}

func cluster(name string, health config.Health, addrs ...string) *config.Cluster {
	c := &config.Cluster{Name: name, Assigned: true}
	for _, a := range addrs {
		c.Endpoints = append(c.Endpoints, &config.Endpoint{Addr: config.Address{IP: netip.MustParseAddrPort(a)}, Health: health})
	}
	return c
}

func TestAnswers(t *testing.T) {
	b := newBed(t)
	empty := cluster("empty.default.mesh.internal", config.Healthy)
	web, db, named := listener("web.default.mesh.internal", "127.64.0.1", 80, 81), listener("db.data.mesh.internal", "127.64.0.2", 5432), listener("named.default.mesh.internal", "127.64.0.3", 90)
	ntp := cluster("ntp.default.mesh.internal", config.Healthy, "10.0.0.1:123", "10.0.0.2:123", "10.0.0.1:124", "[2001:db8::1]:123")
	ntp.Endpoints = append(ntp.Endpoints, cluster("", config.Unhealthy, "10.0.0.9:123").Endpoints...)
	sick := cluster("sick.default.mesh.internal", config.Unhealthy, "10.0.0.9:123")
	web.PortLabels = map[uint16]string{80: "_http._tcp", 81: "_admin._tcp", 99: "_other._tcp"}
	b.mu.Lock()
	b.withheld["shop.default.mesh.internal"] = "port 8080 is not bound for it"
	b.mu.Unlock()
	b.bound.Set(map[netip.AddrPort]error{web.Addresses[0]: nil, web.Addresses[1]: nil, db.Addresses[0]: nil, named.Addresses[0]: errors.New("address in use")})
	b.config.Set(&config.Config{
		Listeners: []*config.Listener{db, named, listener("ntp.default.mesh.internal", "127.64.0.9", 123), web},
		Clusters:  map[string]*config.Cluster{ntp.Name: ntp, sick.Name: sick, empty.Name: empty, "alias.default.mesh.internal": {Name: "alias.default.mesh.internal", Assigned: true, DNS: &config.DNS{Names: []config.DNSName{{Host: "www.example.com"}}}}, "late.default.mesh.internal": {Name: "late.default.mesh.internal"}},
		Absent:    map[string]bool{"gone.default.mesh.internal": true, "data.default.mesh.internal": true},
	})
	const before, after = "SERVFAIL; EDE 21 mesh hosts answer names of services; ", " are answered by the DNS of mesh control"
	for _, c := range []struct {
		name  string
		rtype uint16
		want  string
	}{
		{"web.mesh.internal.", dns.TypeA, "NOERROR; 30 127.64.0.1"},
		{"wEb.Default.mesh.internal.", dns.TypeA, "NOERROR; 30 127.64.0.1"},
		{"web.mesh.internal.", dns.TypeAAAA, "NOERROR"},
		{"web.mesh.internal.", dns.TypeHTTPS, "NOERROR"},
		{"web.mesh.internal.", dns.TypeSRV, "NOERROR; 30 0 0 80 web.mesh.internal.; 30 0 0 81 web.mesh.internal."},
		{"db.data.mesh.internal.", dns.TypeA, "NOERROR; 30 127.64.0.2"},
		{"data.mesh.internal.", dns.TypeA, "NOERROR"}, // the namespace
		{"default.mesh.internal.", dns.TypeA, "SERVFAIL; EDE 14 default.default.mesh.internal: the control plane is away"},
		{"named.mesh.internal.", dns.TypeA, "SERVFAIL; EDE 0 named.default.mesh.internal: address in use"},
		{"shop.mesh.internal.", dns.TypeA, "SERVFAIL; EDE 0 shop.default.mesh.internal: port 8080 is not bound for it"},
		{"ntp.mesh.internal.", dns.TypeA, "NOERROR; 5 10.0.0.1; 5 10.0.0.2"},
		{"ntp.mesh.internal.", dns.TypeAAAA, "NOERROR; 5 2001:db8::1"},
		{"sick.mesh.internal.", dns.TypeA, "NOERROR; 5 10.0.0.9"},
		{"alias.mesh.internal.", dns.TypeA, "NOERROR; 5 www.example.com."},
		{"gone.mesh.internal.", dns.TypeA, "NXDOMAIN"},
		{"unknown.mesh.internal.", dns.TypeA, "SERVFAIL; EDE 14 unknown.default.mesh.internal: the control plane is away"},
		{"late.mesh.internal.", dns.TypeA, "SERVFAIL; EDE 14 late.default.mesh.internal: the control plane is away"},
		{"_http._tcp.web.mesh.internal.", dns.TypeSRV, "NOERROR; 30 0 0 80 web.mesh.internal."},
		{"_ADMIN._tcp.Web.default.mesh.internal.", dns.TypeSRV, "NOERROR; 30 0 0 81 web.default.mesh.internal."},
		{"_http._tcp.web.mesh.internal.", dns.TypeA, "NOERROR"},
		{"_tcp.web.mesh.internal.", dns.TypeSRV, "NOERROR"},
		{"_sql._tcp.web.mesh.internal.", dns.TypeSRV, "NXDOMAIN"},
		{"_other._tcp.web.mesh.internal.", dns.TypeSRV, "NXDOMAIN"}, // it does not listen there
		{"_http._udp.web.mesh.internal.", dns.TypeSRV, "NXDOMAIN"},
		{"_http._tcp.gone.mesh.internal.", dns.TypeSRV, "NXDOMAIN"},
		{"_http._tcp.alias.mesh.internal.", dns.TypeSRV, "NXDOMAIN"},
		{"_http._tcp.unknown.mesh.internal.", dns.TypeSRV, "SERVFAIL; EDE 14 unknown.default.mesh.internal: the control plane is away"},
		{"_sql._tcp.db.data.mesh.internal.", dns.TypeSRV, before + "ports without names in the configuration" + after},
		{"_ntp._udp.ntp.mesh.internal.", dns.TypeSRV, before + "ports of services that no proxy stands for" + after},
		{"_mesh-control._tcp.mesh.internal.", dns.TypeSRV, before + "endpoints and hosts" + after},
		{"empty.mesh.internal.", dns.TypeA, "NOERROR"},
		{"empty.mesh.internal.", dns.TypeSRV, "NOERROR"},
		{"h1.host.mesh.internal.", dns.TypeA, before + "endpoints and hosts" + after},
		{"e.web.default.mesh.internal.", dns.TypeA, before + "endpoints and hosts" + after},
		{`we\.b.mesh.internal.`, dns.TypeA, `SERVFAIL; EDE 14 we\.b.mesh.internal: the control plane is away`},
		{"localhost.host.mesh.internal.", dns.TypeA, "NOERROR; 30 127.0.0.1"},
		{"example.com.", dns.TypeA, "REFUSED; EDE 20 "},
	} {
		if got := b.ask(t, c.name, c.rtype); got != c.want {
			t.Errorf("%s %s: got %s, want %s", c.name, dns.TypeToString[c.rtype], got, c.want)
		}
	}
	if got := b.Services(); !slices.Equal(got, []string{"alias.default.mesh.internal", "db.data.mesh.internal", "empty.default.mesh.internal", "ntp.default.mesh.internal", "sick.default.mesh.internal", "web.default.mesh.internal"}) {
		t.Errorf("answers %q", got)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.kept)
	if diff := cmp.Diff([]string{"alias.default.mesh.internal", "empty.default.mesh.internal", "ntp.default.mesh.internal", "sick.default.mesh.internal"}, slices.Compact(b.kept)); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

// TestChanges: an answer waits until its address is bound, follows its service, and ends with it.
func TestChanges(t *testing.T) {
	b := newBed(t)
	web := listener("web.default.mesh.internal", "127.64.0.1", 80)
	with := func(l ...*config.Listener) { b.config.Set(&config.Config{Listeners: l}) }
	answered := make(chan string, 1)
	go func() { answered <- b.ask(t, "web.mesh.internal.", dns.TypeA) }()
	for wanted := false; !wanted; {
		b.mu.Lock()
		wanted = slices.Equal(b.wanted, []string{"web.default.mesh.internal"})
		b.mu.Unlock()
		runtime.Gosched()
	}
	with(web)
	b.bound.Set(map[netip.AddrPort]error{web.Addresses[0]: nil})
	if got := <-answered; got != "NOERROR; 30 127.64.0.1" {
		t.Errorf("got %s", got)
	}
	until := func(service string, ok func(answer) bool) {
		t.Helper()
		for done := false; !done; {
			b.Resolver.mu.Lock()
			done = ok(b.answered[service])
			b.Resolver.mu.Unlock()
			runtime.Gosched()
		}
	}
	// Another pointer with the same addresses is answered on; other addresses have to be bound first.
	again := listener("web.default.mesh.internal", "127.64.0.1", 80)
	with(again)
	until(web.Name, func(a answer) bool { return a.listener == again })
	moved := listener("web.default.mesh.internal", "127.64.0.2", 80)
	with(moved)
	until(web.Name, func(a answer) bool { return a.listener == nil })
	if got := b.ask(t, "web.mesh.internal.", dns.TypeA); got != "SERVFAIL; EDE 14 web.default.mesh.internal: its address is not bound yet" {
		t.Errorf("got %s", got)
	}
	b.bound.Set(map[netip.AddrPort]error{moved.Addresses[0]: nil})
	if got := b.ask(t, "web.mesh.internal.", dns.TypeA); got != "NOERROR; 30 127.64.0.2" {
		t.Errorf("got %s", got)
	}
	// Its endpoints stand for it from the moment that it has a cluster of its name.
	c := cluster(web.Name, config.Healthy, "10.0.0.1:1")
	b.config.Set(&config.Config{Listeners: []*config.Listener{moved}, Clusters: map[string]*config.Cluster{web.Name: c}})
	until(web.Name, func(a answer) bool { return a.cluster == c })
	if got := b.ask(t, "web.mesh.internal.", dns.TypeA); got != "NOERROR; 5 10.0.0.1" {
		t.Errorf("got %s", got)
	}
	b.config.Set(&config.Config{Absent: map[string]bool{web.Name: true}})
	until(web.Name, func(a answer) bool { return a.branch == nil })
	if got := b.ask(t, "web.mesh.internal.", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("got %s", got)
	}
	if got := b.Stats(); got["NXDOMAIN"] != 1 || got["SERVFAIL"] != 1 {
		t.Errorf("counted %v", got)
	}
}

// offer has the configuration tell of so many services, all of them bound.
func (b *bed) offer(n int) {
	cfg, bound := &config.Config{}, map[netip.AddrPort]error{}
	for i := range n {
		l := listener(fmt.Sprintf("s%05d.default.mesh.internal", i), netip.AddrFrom4([4]byte{127, 64, byte(i >> 8), byte(i)}).String(), 80)
		cfg.Listeners = append(cfg.Listeners, l)
		bound[l.Addresses[0]] = nil
	}
	b.bound.Set(bound)
	b.config.Set(cfg)
}

// TestTheZoneFollows has services come, change and go in any order: the zone is the one that is made of what is answered alone.
func TestTheZoneFollows(t *testing.T) {
	b := stillBed(t)
	bare := b.zone.Load()
	random := rand.New(rand.NewPCG(1, 2))
	bound := map[netip.AddrPort]error{}
	for round := range 300 {
		cfg := &config.Config{Clusters: map[string]*config.Cluster{}}
		for i := range 20 {
			name := fmt.Sprintf("s%02d.n%d.mesh.internal", i, i%3)
			switch random.IntN(4) {
			case 0:
				l := listener(name, fmt.Sprintf("127.64.%d.%d", random.IntN(2), i), 80)
				cfg.Listeners, bound[l.Addresses[0]] = append(cfg.Listeners, l), nil
			case 1:
				cfg.Clusters[name] = cluster(name, config.Healthy, fmt.Sprintf("10.0.0.%d:80", random.IntN(250)))
			}
		}
		slices.SortFunc(cfg.Listeners, func(a, b *config.Listener) int { return strings.Compare(a.Name, b.Name) })
		b.bound.Set(maps.Clone(bound))
		b.config.Set(cfg)
		b.drop(cfg)
		for i := range 20 {
			if name := fmt.Sprintf("s%02d.n%d.mesh.internal", i, i%3); random.IntN(2) == 0 {
				if _, err := b.try(name); err != nil {
					t.Fatal(err)
				}
			}
		}
		branches := map[string]*dnsserver.Branch{}
		for service, a := range b.answered {
			branches[service] = a.branch
		}
		if diff := dnsserver.Diff(bare.Next(1, branches), b.zone.Load()); len(diff) > 0 {
			t.Fatalf("round %d: %v differs at %d names", round, diff[0].Name, len(diff))
		}
	}
}

// BenchmarkNewService is what one more service costs who answers so many: it is asked for the first time.
func BenchmarkNewService(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			bed := stillBed(b)
			bed.offer(n)
			cfg := bed.config.Load()
			for _, l := range cfg.Listeners {
				if _, err := bed.try(l.Name); err != nil {
					b.Fatal(err)
				}
			}
			last := cfg.Listeners[n-1].Name
			without := &config.Config{Listeners: cfg.Listeners[:n-1]}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				bed.drop(without)
				b.StartTimer()
				if done, err := bed.try(last); !done || err != nil {
					b.Fatal(done, err)
				}
			}
		})
	}
}

func TestAnAddressThatIsTakenIsWaitedFor(t *testing.T) {
	first := newBed(t)
	at := first.server.Load().Addrs()[0]
	second, err := New(Options{
		Domain: "mesh.internal", Addr: at, Config: first.config, Bound: first.bound, Control: first, Places: first, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := New(Options{Domain: strings.Repeat("a", 64)}); err == nil {
		t.Error("took a domain that cannot be")
	}
}
