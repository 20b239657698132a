package cli

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/hostdns"
)

// away is a control plane that is not there.
type away struct{}

func (away) Want(...string)         {}
func (away) Unknown(string) string  { return "the control plane is away" }
func (away) Withheld(string) string { return "" }
func (away) Keep(string)            {}

// answerNames runs the resolver of a mesh host, which knows web and that missing is not there.
func answerNames(t *testing.T) {
	t.Helper()
	web := netip.MustParseAddrPort("127.64.0.1:80")
	r, err := hostdns.New(hostdns.Options{
		Domain: "mesh.internal", Addr: hostdns.DefaultAddr(), Control: away{}, Places: away{}, Log: slog.New(slog.DiscardHandler),
		Config: watch.New(&config.Config{
			Listeners: []*config.Listener{{Name: "web.default.mesh.internal", Addresses: []netip.AddrPort{web}}},
			Absent:    map[string]bool{"missing.default.mesh.internal": true},
		}),
		Bound: watch.New(map[netip.AddrPort]error{web: nil}),
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r.Run)
}

func run(t *testing.T, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// answerOthers runs a server at 127.0.0.1 for a zone that is none of mesh-proxy's.
func answerOthers(t *testing.T) {
	t.Helper()
	zone := dnsserver.NewZone(dnsserver.Apex{Origin: "mesh.internal", NameServers: []dnsserver.NameServer{{Name: "ns.example.com"}}, TTL: 5}, nil)
	s := dnsserver.New(dnsserver.Options{
		Addrs: []string{"127.0.0.1:53"}, Log: slog.New(slog.DiscardHandler), Zones: func() []*dnsserver.Zone { return []*dnsserver.Zone{zone} },
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
}

// TestDoctor tells for each thing that is wrong what to do about it.
func TestDoctor(t *testing.T) {
	if testbed.InNamespace(t) {
		return
	}
	dir := t.TempDir()
	proxyFile, resolvConf := filepath.Join(dir, "proxy.yaml"), filepath.Join(dir, "resolv.conf")
	examine := func(proxy, resolv, name string) map[string]finding {
		for path, text := range map[string]string{proxyFile: proxy, resolvConf: resolv} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d := &doctor{proxyFile: proxyFile, resolvConf: resolvConf, stub: netip.MustParseAddrPort("127.0.0.53:53"), steers: func(context.Context) bool { return false }}
		d.examine(t.Context(), name)
		found := map[string]finding{}
		for _, f := range d.found {
			found[f.Step] = f
		}
		return found
	}
	const resolved, none = "nameserver 127.0.0.53\n", ""
	check := func(what, proxy, resolv, name, step string, ok bool, text string) {
		t.Helper()
		f, told := examine(proxy, resolv, name)[step]
		if !told || f.OK != ok || !strings.Contains(f.Says+" "+f.Fix, text) || !ok && f.Fix == "" {
			t.Errorf("%s: %s: got %+v, want ok %v and %q", what, step, f, ok, text)
		}
	}
	check("no dns", "node: {id: x}\n", resolved, "", "proxy.yaml", false, "dns: {}")
	check("a mistake", "dns: {domain: A}\n", resolved, "", "proxy.yaml", false, "mesh check")
	check("no proxy", "dns: {}\n", resolved, "", "mesh-proxy", false, "systemctl status mesh-proxy")
	answerNames(t)
	answerOthers(t)
	check("a proxy", "dns: {}\n", resolved, "", "mesh-proxy", true, "127.15.0.53:53")
	check("no resolved", "dns: {}\n", resolved, "", "resolver", false, "mesh-resolve.service")
	check("no server", "dns: {}\n", none, "", "resolv.conf", false, "stub-resolv.conf")
	check("ours alone", "dns: {}\n", "nameserver 127.15.0.53\n", "", "resolv.conf", false, "that domain only")
	check("another server", "dns: {}\n", "nameserver 127.0.0.1\n", "", "resolver", false, "ns.example.com.")
	check("another domain", "dns: {domain: other.internal}\n", resolved, "", "mesh-proxy", false, "REFUSED")
	for _, c := range []struct {
		name, step string
		ok         bool
		text       string
	}{
		{"web", "web.mesh.internal", true, "127.64.0.1"},
		{"web.default.mesh.internal.", "web.default.mesh.internal", true, "127.64.0.1"},
		{"missing", "missing.mesh.internal", false, "mesh get services"},
		{"other", "other.mesh.internal", false, "the control plane is away"},
	} {
		check(c.name, "dns: {}\n", resolved, c.name, c.step, c.ok, c.text)
	}
	for _, output := range []string{"table", "json"} {
		out, err := meshDNS(t, "doctor", "web", "--config", proxyFile, "--resolv-conf", resolvConf, "-o", output)
		if err == nil || !strings.Contains(out, "mesh-resolve.service") {
			t.Errorf("%s: %v\n%s", output, err, out)
		}
	}
}
