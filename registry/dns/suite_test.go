package dns_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/dns"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

// cannot is what DNS has no notion of.
var cannot = map[registrytest.Case]string{
	registrytest.Labels:       "DNS has no labels; those of the configuration do not change (TestNames has them)",
	registrytest.HealthChange: "DNS knows no health: what does not live is taken out of it",
	registrytest.LeaderKilled: "resolvers have no leader; TestOneResolverOfTwo has one of them killed",
	registrytest.HistoryLost:  "there is no history: each answer is the whole truth about its name",
	registrytest.Garbage:      "DNS has no checksum: an address with a flipped bit is another address (TestResolverTakesOnlyTheAnswerToItsQuestion has what can be seen)",
}

// TestSuite runs the suite of all adapters on a real BIND, with SRV names: by UDP, and by TCP over a link that fails.
func TestSuite(t *testing.T) {
	t.Run("udp", func(t *testing.T) {
		without := map[registrytest.Case]string{}
		for c, why := range cannot {
			without[c] = why
		}
		for _, c := range []registrytest.Case{registrytest.Partition, registrytest.SlowAnswers, registrytest.Truncated} {
			without[c] = "the link is one for TCP; the same over TCP has it"
		}
		runSuite(t, "udp", registrytest.LargeServices, without)
	})
	// Each question takes a connection, and the link another: there are not ports enough for ten thousand.
	t.Run("tcp", func(t *testing.T) { runSuite(t, "tcp", 300, cannot) })
}

func runSuite(t *testing.T, network string, large int, cannot map[registrytest.Case]string) {
	registrytest.Run(t, registrytest.Harness{
		Settle:   20 * time.Second,
		Services: large,
		Cannot:   cannot,
		New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
			server := testbed.StartNamed(t)
			address, link := server.Address, (*testbed.Link)(nil)
			if network == "tcp" {
				link = testbed.NewLink(t, server.Address)
				address = "tcp://" + link.Address
			}
			r, err := dns.New(config(t, address, large), nil)
			if err != nil {
				t.Fatal(err)
			}
			d := &driver{server}
			return r, registrytest.Driver{
				Put: d.put, Delete: d.delete, PutAll: d.putAll,
				Down:   func(*testing.T) { server.Kill() },
				Up:     func(*testing.T) { server.Start(); server.AwaitReady() },
				Deny:   func(t *testing.T) { d.permit(t, testbed.NamedWriter+";", miekg.RcodeRefused) },
				Allow:  func(t *testing.T) { d.permit(t, "127.0.0.0/8;", miekg.RcodeSuccess) },
				Faults: faults(server, link),
			}
		},
	})
}

// config names the services of the case: DNS has no list of them. Those that nobody puts have no records.
func config(t *testing.T, resolver string, large int) dns.Config {
	cfg := dns.Config{Resolvers: []string{resolver}, MinTTL: 100 * time.Millisecond, MaxTTL: 200 * time.Millisecond}
	names := registrytest.Names()
	if strings.HasSuffix(t.Name(), "/"+string(registrytest.Large)) {
		names = nil
		for i := range large {
			names = append(names, fmt.Sprintf("large-%05d", i))
		}
		cfg.MinTTL, cfg.MaxTTL, cfg.Interval = 0, 0, 3*time.Second
	}
	for i, name := range names {
		s := dns.Service{Name: name, SRV: srvName(name)}
		if i%2 == 0 {
			s.Family = dns.IPv4
		}
		cfg.Services = append(cfg.Services, s)
	}
	return cfg
}

func faults(server *testbed.Named, link *testbed.Link) map[registrytest.Fault]registrytest.Injection {
	all := map[registrytest.Fault]registrytest.Injection{
		registrytest.ServerKilled: {
			Begin: func(*testing.T) { server.Kill() },
			End:   func(*testing.T) { server.Start(); server.AwaitReady() },
		},
		registrytest.ServerPaused: {
			Begin: func(*testing.T) { server.Pause() },
			End:   func(*testing.T) { server.Continue() },
		},
	}
	if link == nil {
		return all
	}
	heal := func(*testing.T) { link.Heal() }
	all[registrytest.Partition] = registrytest.Injection{Begin: func(*testing.T) { link.Hold() }, End: heal, Writable: true}
	all[registrytest.SlowAnswers] = registrytest.Injection{Begin: func(*testing.T) { link.Slow(3 * time.Second) }, End: heal, Writable: true}
	all[registrytest.Truncated] = registrytest.Injection{Begin: func(*testing.T) { link.Truncate(40) }, End: heal, Writable: true}
	return all
}

// driver changes the zone: a service is a set of SRV records, each address has a target of its own.
type driver struct{ server *testbed.Named }

func srvName(service string) string { return "_http._tcp." + service + "." + testbed.NamedZone }

func records(s *registry.Service) []string {
	var lines []string
	for _, e := range s.Endpoints {
		target := "a-" + strings.ReplaceAll(e.Addr.String(), ".", "-") + "." + testbed.NamedZone
		lines = append(lines,
			fmt.Sprintf("add %s 1 SRV 10 %d %d %s", srvName(s.Name.Name), e.Weight, e.Ports[0].Number, target),
			fmt.Sprintf("add %s 1 A %s", target, e.Addr))
	}
	return lines
}

func (d *driver) put(t *testing.T, s *registry.Service) {
	t.Helper()
	d.server.Update(t, append([]string{"delete " + srvName(s.Name.Name) + " SRV"}, records(s)...)...)
}

func (d *driver) delete(t *testing.T, name registry.Name) {
	t.Helper()
	d.server.Update(t, "delete "+srvName(name.Name))
}

// putAll is for an empty zone.
func (d *driver) putAll(t *testing.T, services []*registry.Service) {
	t.Helper()
	var lines []string
	for _, s := range services {
		lines = append(lines, records(s)...)
	}
	d.server.Update(t, lines...)
}

// permit changes whom BIND answers, in the configuration that its command line names, and waits until it does so.
func (d *driver) permit(t *testing.T, whom string, rcode int) {
	t.Helper()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.server.PID()))
	if err != nil {
		t.Fatal(err)
	}
	args := bytes.Split(bytes.TrimRight(line, "\x00"), []byte{0})
	path := string(args[len(args)-1])
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), "allow-query {")
	_, after, ended := strings.Cut(rest, "}")
	if !ok || !ended {
		t.Fatalf("%s has no allow-query:\n%s", path, text)
	}
	if err := os.WriteFile(path, []byte(before+"allow-query { "+whom+" }"+after), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(d.server.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m, err := miekg.Exchange(new(miekg.Msg).SetQuestion(testbed.NamedZone, miekg.TypeSOA), d.server.Address)
		if err == nil && m.Rcode == rcode {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("named does not answer %s: %v %v", miekg.RcodeToString[rcode], m, err)
		}
	}
}

// once returns the first view of cfg.
func once(t *testing.T, cfg dns.Config) registry.View {
	t.Helper()
	r, err := dns.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var view registry.View
	err = r.Watch(ctx, func(v registry.View) {
		if ctx.Err() == nil {
			view = v
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := view.Validate(); err != nil {
		t.Fatal(err)
	}
	return view
}

func service(t *testing.T, v registry.View, namespace, name string) *registry.Service {
	t.Helper()
	for _, s := range v.Services {
		if s.Name == (registry.Name{Namespace: namespace, Name: name}) {
			return s
		}
	}
	t.Fatalf("no service %s/%s", namespace, name)
	return nil
}

func ids(s *registry.Service) string {
	var all []string
	for _, e := range s.Endpoints {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

// TestNames reads each kind of name from a real server.
func TestNames(t *testing.T) {
	server := testbed.StartNamed(t)
	big := make([]string, 0, 100)
	for i := range 100 { // as many as BIND takes, and more than fits in a datagram
		big = append(big, fmt.Sprintf("add big.test.example. 1 A 10.0.0.%d", i+1))
	}
	server.Update(t, append(big,
		"add web.test.example. 1 A 127.20.0.2", "add web.test.example. 1 A 127.20.0.1", "add web.test.example. 1 AAAA 2001:db8::1",
		"add www.test.example. 1 CNAME web.test.example.",
		"add void.test.example. 1 TXT nothing",
		"add bad.test.example. 1 A 0.0.0.0", "add bad.test.example. 1 A 127.20.0.9",
		"add _grpc._tcp.srv.test.example. 1 SRV 10 3 81 web.test.example.",
		"add _grpc._tcp.srv.test.example. 1 SRV 20 3 82 big.test.example.",
	)...)
	view := once(t, dns.Config{
		Resolvers: []string{server.Address}, Namespace: "legacy",
		Services: []dns.Service{
			{Name: "web", Host: "web.test.example", Port: 80, Labels: map[string]string{"tier": "a"}, Protocol: registry.HTTP, PortName: "http", ServicePort: 8080},
			{Name: "shop/www", Host: "WWW.test.example.", Port: 80, Family: dns.IPv4},
			{Name: "six", Host: "www.test.example", Port: 80, Family: dns.IPv6},
			{Name: "void", Host: "void.test.example", Port: 80},
			{Name: "none", Host: "none.test.example", Port: 80},
			{Name: "bad", Host: "bad.test.example", Port: 80},
			{Name: "big", Host: "big.test.example", Port: 80, Family: dns.IPv4},
			{Name: "srv", SRV: "_grpc._tcp.srv.test.example"},
			{Name: "both", Host: "none.test.example", Port: 81},
			{Name: "both", SRV: "_grpc._tcp.srv.test.example"},
		},
	})
	for _, c := range []struct{ namespace, name, want string }{
		{"legacy", "web", "127.20.0.1:80 127.20.0.2:80 [2001:db8::1]:80"},
		{"shop", "www", "127.20.0.1:80 127.20.0.2:80"},
		{"legacy", "six", "[2001:db8::1]:80"},
		{"legacy", "void", ""},
		{"legacy", "none", ""},
		{"legacy", "bad", "127.20.0.9:80"},
		{"legacy", "srv", "127.20.0.1:81 127.20.0.2:81 [2001:db8::1]:81"},
		{"legacy", "both", "127.20.0.1:81 127.20.0.2:81 [2001:db8::1]:81"},
	} {
		if got := ids(service(t, view, c.namespace, c.name)); got != c.want {
			t.Errorf("%s/%s: got %q, want %q", c.namespace, c.name, got, c.want)
		}
	}
	if n := len(service(t, view, "legacy", "big").Endpoints); n != 100 {
		t.Errorf("big has %d endpoints, want the 100 that come by TCP", n)
	}
	web := service(t, view, "legacy", "web")
	if web.Ports[0] != (registry.Port{Name: "http", Number: 8080, Protocol: registry.HTTP}) || web.Endpoints[0].Labels["tier"] != "a" || web.Endpoints[0].Addr != netip.MustParseAddr("127.20.0.1") {
		t.Errorf("web is %+v, its first endpoint %+v", web, web.Endpoints[0])
	}
	if srv := service(t, view, "legacy", "srv"); srv.Ports[0].Protocol != registry.GRPC || srv.Endpoints[0].Weight != 3 {
		t.Errorf("srv is %+v, its first endpoint %+v", srv, srv.Endpoints[0])
	}
	if len(view.Problems) != 1 || view.Problems[0].Object != "legacy/bad at bad.test.example.:80 0.0.0.0" {
		t.Errorf("problems: %v", view.Problems)
	}
}

// TestOneResolverOfTwo kills the resolver that answers; the other goes on, and nothing is told.
func TestOneResolverOfTwo(t *testing.T) {
	first, second := testbed.StartNamed(t), testbed.StartNamed(t)
	for _, s := range []*testbed.Named{first, second} {
		s.Update(t, "add web.test.example. 1 A 127.20.0.1")
	}
	r, err := dns.New(dns.Config{
		Resolvers: []string{first.Address, second.Address}, MinTTL: 100 * time.Millisecond, MaxTTL: 100 * time.Millisecond,
		Services: []dns.Service{{Name: "web", Host: "web.test.example", Port: 80}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	views, ended := make(chan registry.View, 100), make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func(v registry.View) { views <- v }) }()
	t.Cleanup(func() { cancel(); <-ended })
	await := func(want string) {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			select {
			case v := <-views:
				if len(v.Problems) > 0 {
					t.Errorf("told: %v", v.Problems)
				}
				if ids(service(t, v, "default", "web")) == want {
					return
				}
			case err := <-ended:
				ended <- err
				t.Fatal(err)
			case <-timeout:
				t.Fatalf("not seen: %s", want)
			}
		}
	}
	await("127.20.0.1:80")
	first.Kill()
	second.Update(t, "add web.test.example. 1 A 127.20.0.2")
	await("127.20.0.1:80 127.20.0.2:80")
	first.Start()
	first.AwaitReady()
	first.Update(t, "delete web.test.example. A", "add web.test.example. 1 A 127.20.0.3")
	second.Kill()
	await("127.20.0.3:80")
}

// TestWrongResolverIsTold: what is no resolver, one that does not serve us, and none at all.
func TestWrongResolverIsTold(t *testing.T) {
	server := testbed.StartNamed(t)
	link := testbed.NewLink(t, server.Address)
	link.Cut()
	for _, c := range []struct {
		name, resolver, host, want string
		permission                 bool
	}{
		{"nobody there", "tcp://" + link.Address, "web.test.example", "connection refused", false},
		{"nobody there by UDP", link.Address, "web.test.example", "connection refused", false},
		{"a zone that it does not serve", server.Address, "www.example.com", "REFUSED", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := dns.New(dns.Config{Resolvers: []string{c.resolver}, Services: []dns.Service{{Name: "web", Host: c.host, Port: 80}}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = r.Watch(t.Context(), func(v registry.View) { t.Errorf("published %v", v) })
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, registry.ErrPermission) != c.permission {
				t.Errorf("got %v, want %q and permission %t", err, c.want, c.permission)
			}
			t.Log(err)
		})
	}
}
