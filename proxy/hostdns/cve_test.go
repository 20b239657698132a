package hostdns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Whatever a program of the host asks, nothing else than services of the mesh's domain is asked of the control plane, and nothing is
// answered that it did not say (CVE-2026-33489).
func TestCVEClass29_NamesAreAskedForAsTheyAre(t *testing.T) {
	b := newBed(t)
	web := listener("web.default.mesh.internal", "127.64.0.1", 80)
	web.PortLabels = map[uint16]string{80: "_http._tcp"}
	b.bound.Set(map[netip.AddrPort]error{web.Addresses[0]: nil})
	b.config.Set(&config.Config{Listeners: []*config.Listener{web}})
	refused, unknown := "REFUSED", "SERVFAIL"
	var asked sync.WaitGroup
	for name, want := range map[string]string{
		"evilmesh.internal.": refused, "web.default.evilmesh.internal.": refused, `web\.default.mesh.internal.`: unknown, `web.default\.mesh.internal.`: refused,
		"mesh.internal.evil.": refused, ".": refused, "internal.": refused, "*.mesh.internal.": unknown, "*.default.mesh.internal.": unknown,
		`outbound|80||web\.default.mesh.internal.`: unknown, `\000.mesh.internal.`: unknown, `web\000.mesh.internal.`: unknown,
		strings.Repeat("a", 63) + ".mesh.internal.": unknown, `_http._tcp.web\.default.mesh.internal.`: unknown,
		"_._tcp.web.mesh.internal.": "NXDOMAIN", "web.host.mesh.internal.": unknown, "host.mesh.internal.": unknown, `ho\115t.mesh.internal.`: unknown,
	} {
		asked.Go(func() { // each is waited for
			if got := b.ask(t, name, dns.TypeSRV); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		})
	}
	asked.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, service := range b.wanted {
		name, below := strings.CutSuffix(service, ".mesh.internal")
		if parts := strings.Split(name, "."); !below || len(parts) != 2 || parts[1] == "host" || slices.Contains(parts, "") {
			t.Errorf("the control plane is asked for %q", service)
		}
	}
	if len(b.wanted) < 5 {
		t.Errorf("it is asked for %q", b.wanted)
	}
	if got := b.Services(); !slices.Equal(got, []string{web.Name}) {
		t.Errorf("answered are %q", got)
	}
}

// A flood of names that nobody knows, over UDP and without reading answers, keeps nobody waiting who asks for what is known, and leaves
// nothing in the zone (CVE-2025-68151).
func TestCVEClass29_FloodsOfUnknownNamesHoldNobodyUp(t *testing.T) {
	b := newBed(t)
	web := listener("web.default.mesh.internal", "127.64.0.1", 80)
	b.bound.Set(map[netip.AddrPort]error{web.Addresses[0]: nil})
	b.config.Set(&config.Config{Listeners: []*config.Listener{web}})
	at := b.server.Load().Addrs()[0].String()
	conn, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	known := func() error { // what the kernel drops is asked again, as any client does
		var err error
		for range 5 {
			var m *dns.Msg
			if m, _, err = new(dns.Client).Exchange(new(dns.Msg).SetQuestion("web.mesh.internal.", dns.TypeA), at); err == nil {
				if len(m.Answer) != 1 {
					err = fmt.Errorf("answered %v", m)
				}
				return err
			}
		}
		return err
	}
	for i := range 5000 {
		packed, err := new(dns.Msg).SetQuestion(fmt.Sprintf("random-%d.mesh.internal.", i), dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(packed)
		if i%500 == 499 {
			if err := known(); err != nil {
				t.Fatalf("after %d names: %v", i+1, err)
			}
		}
	}
	b.mu.Lock()
	wanted := len(b.wanted)
	b.mu.Unlock()
	if panics := b.server.Load().Stats().Panics; wanted == 0 || panics != 0 {
		t.Errorf("%d names were asked for, %d panics", wanted, panics)
	}
	if got := b.Services(); !slices.Equal(got, []string{web.Name}) {
		t.Errorf("answered are %d names", len(got))
	}
}

// A service that is another name for itself, or for one that is, ends the answer (CVE-2026-26018); a name that cannot be one is none.
func TestCVEClass29_AliasesEnd(t *testing.T) {
	b := newBed(t)
	alias := func(name, target string) *config.Cluster {
		return &config.Cluster{Name: name + ".default.mesh.internal", Assigned: true, DNS: &config.DNS{Names: []config.DNSName{{Host: target}}}}
	}
	clusters := map[string]*config.Cluster{}
	for _, c := range []*config.Cluster{
		alias("self", "self.mesh.internal"), alias("one", "two.mesh.internal"), alias("two", "one.default.mesh.internal"),
		alias("odd", "a..b"), alias("long", strings.Repeat("a", 64)), alias("nul", "a\x00b.example"),
	} {
		clusters[c.Name] = c
	}
	b.config.Set(&config.Config{Clusters: clusters})
	for name, most := range map[string]int{"self": 9, "one": 9, "two": 9, "odd": 0, "long": 0, "nul": 1} {
		for _, network := range []string{"udp", "tcp"} {
			client := dns.Client{Net: network, Timeout: 10 * time.Second}
			answer, _, err := client.Exchange(new(dns.Msg).SetQuestion(name+".mesh.internal.", dns.TypeA), b.server.Load().Addrs()[0].String())
			if err != nil || answer.Rcode != dns.RcodeSuccess || len(answer.Answer) > most || len(answer.Answer) == 0 && most > 0 {
				t.Errorf("%s over %s: %v, %v", name, network, err, answer)
			}
		}
	}
}
