package forward_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/forward"
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// within fails the test when something is not so soon.
func within(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func name(text string) dnsserver.Name {
	n, err := dnsserver.ParseName(text)
	if err != nil {
		panic(err)
	}
	return n
}

// site is what Unbound says of the world.
var site = `
    local-zone: "example.org." static
    local-data: "example.org. 600 SOA ns.example.org. host.example.org. 1 2 3 4 60"
    local-data: "www.example.org. 300 A 198.51.100.1"
    local-data: "www.example.org. 300 A 198.51.100.2"
    local-data: "alias.example.org. 300 CNAME www.example.org."
    local-data: "short.example.org. 1 A 198.51.100.3"
    local-data: '$odd\@x.example.org. 300 A 198.51.100.4'
    local-zone: "broken." refuse
    local-data: "leak.mesh.internal. 300 A 203.0.113.66"
` + strings.Repeat(`    local-data: 'large.example.org. 300 TXT "NUMBER `+strings.Repeat("x", 200)+"\"'\n", 20)

// unbound is one that runs.
type unbound struct {
	addr netip.AddrPort
	cmd  *exec.Cmd
	argv []string
}

// startUnbound starts one that answers from its configuration alone, over TLS too, if there is a pair.
func startUnbound(t *testing.T, cert, key string) *unbound {
	t.Helper()
	dir, port := t.TempDir(), testbed.FreePort(t)
	config := fmt.Sprintf("server:\n    interface: 127.0.0.1@%d\n    chroot: \"\"\n    username: \"\"\n    directory: %q\n    pidfile: \"\"\n    use-syslog: no\n    module-config: \"iterator\"\n    minimal-responses: no\n    ip-ratelimit: 0\n    do-ip6: no\n    edns-buffer-size: 1232\n    max-udp-size: 1232\n", port, dir)
	if cert != "" {
		config += fmt.Sprintf("    tls-service-pem: %q\n    tls-service-key: %q\n    tls-port: %d\n", cert, key, port)
	}
	data := site
	for i := 0; strings.Contains(data, "NUMBER"); i++ {
		data = strings.Replace(data, "NUMBER", fmt.Sprint(i), 1)
	}
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(config+data+"remote-control:\n    control-enable: no\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("unbound")
	if err != nil {
		program = "/usr/sbin/unbound"
	}
	u := &unbound{addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), argv: []string{program, "-d", "-c", file}}
	u.start(t)
	t.Cleanup(u.kill)
	return u
}

func (u *unbound) start(t *testing.T) {
	t.Helper()
	u.cmd = exec.Command(u.argv[0], u.argv[1:]...)
	if err := u.cmd.Start(); err != nil {
		t.Fatalf("%v (e2e/setup.sh installs it)", err)
	}
	within(t, "Unbound listens", func() bool {
		conn, err := net.Dial("tcp", u.addr.String())
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

func (u *unbound) kill() {
	_ = u.cmd.Process.Kill()
	_ = u.cmd.Wait()
}

// bed is a server that forwards.
type bed struct {
	*forward.Forwarder
	addr netip.AddrPort
}

func alias(to string) dnsserver.Set {
	return dnsserver.Set{Type: dns.TypeCNAME, TTL: 5, Data: [][]byte{[]byte(name(to))}}
}

// newBed runs one with these upstreams; change may change what else is configured.
func newBed(t *testing.T, change func(*forward.Options, *dnsserver.Options), upstreams ...forward.Upstream) *bed {
	t.Helper()
	o := forward.Options{
		Upstreams: upstreams, Own: []dnsserver.Name{name("mesh.internal")}, CacheBytes: 1 << 20, MaxTTL: time.Hour, NegativeTTL: time.Hour, Stale: time.Hour,
		Log: slog.New(slog.DiscardHandler),
	}
	zone := dnsserver.NewZone(dnsserver.Apex{
		Origin: "mesh.internal", Serial: 1, TTL: 60, NegativeTTL: 1, NameServers: []dnsserver.NameServer{{Name: "ns.example."}},
	}, map[string]*dnsserver.Branch{"web": dnsserver.NewBranch(name("mesh.internal"), 0, map[string][]dnsserver.Set{
		"web":  dnsserver.Addresses(5, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil),
		"out":  {alias("www.example.org")},
		"lost": {alias("none.example.org")},
		"long": {alias("large.example.org")},
		"down": {alias("x.broken")},
	})})
	so := dnsserver.Options{
		Addrs: []string{"127.0.0.1:0"}, Zones: func() []*dnsserver.Zone { return []*dnsserver.Zone{zone} }, Log: o.Log,
		ForwardFor: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	if change != nil {
		change(&o, &so)
	}
	f := forward.New(o)
	so.Forward = f
	s := dnsserver.New(so)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.Run(ctx) }()
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		}
	})
	return &bed{f, s.Addrs()[0]}
}

func plain(addr netip.AddrPort) forward.Upstream {
	return forward.Upstream{Addr: addr, Timeout: 2 * time.Second}
}

func question(text string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(text, qtype).SetEdns0(1232, false)
}

func (b *bed) ask(t *testing.T, network string, q *dns.Msg) *dns.Msg {
	t.Helper()
	m, _, err := (&dns.Client{Net: network, Timeout: 20 * time.Second, UDPSize: 1232}).Exchange(q, b.addr.String())
	if err != nil {
		t.Fatalf("%v over %s: %v", q.Question, network, err)
	}
	return m
}

// short is an answer in short: flags, rcode, each record's owner, TTL and data, who is responsible, explanation.
func short(m *dns.Msg) string {
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{m.Authoritative, "aa "}, {m.Truncated, "tc "}, {m.RecursionAvailable, "ra "}, {m.AuthenticatedData, "ad "}, {m.CheckingDisabled, "cd "}} {
		if f.set {
			flags += f.name
		}
	}
	says := []string{flags + dns.RcodeToString[m.Rcode]}
	var data []string
	for _, rr := range m.Answer {
		data = append(data, strings.Join(strings.Fields(rr.String()), " "))
	}
	slices.Sort(data)
	says = append(says, data...)
	for _, rr := range m.Ns {
		says = append(says, "ns "+rr.Header().Name+" "+dns.TypeToString[rr.Header().Rrtype])
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				says = append(says, fmt.Sprintf("EDE %d", e.InfoCode))
			}
		}
	}
	return strings.Join(says, "; ")
}

// hostile is an upstream of ours over UDP that answers as it is told to.
func hostile(t *testing.T, answer func(conn *net.UDPConn, from netip.AddrPort, q *dns.Msg)) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(b[:n]) == nil {
				answer(conn, from, q)
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func send(conn *net.UDPConn, to netip.AddrPort, m *dns.Msg) {
	packed, err := m.Pack()
	if err != nil {
		panic(err)
	}
	_, _ = conn.WriteToUDPAddrPort(packed, to)
}

// reply answers a query with records.
func reply(q *dns.Msg, records ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}
