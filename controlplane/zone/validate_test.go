package zone_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// validator is another implementation that trusts one key of the zone. It returns what it says of a name and a type.
type validator struct {
	tool, positive, negative string
	ask                      func(ctx context.Context, anchor dnssec.KeyStatus, server netip.AddrPort, dir, name, qtype string) *exec.Cmd
}

func validators() []validator {
	return []validator{
		{"delv", "; fully validated", "; negative response, fully validated", delv},
		{"unbound-host", "(secure)", "(secure)", unboundHost},
	}
}

func delv(ctx context.Context, anchor dnssec.KeyStatus, server netip.AddrPort, dir, name, qtype string) *exec.Cmd {
	file := filepath.Join(dir, "anchors")
	_ = os.WriteFile(file, []byte("trust-anchors { "+anchor.BINDAnchor()+" };\n"), 0o600)
	return exec.CommandContext(ctx, "delv", "@"+server.Addr().String(), "-p", strconv.Itoa(int(server.Port())), "-a", file, "+root=mesh.internal", name, qtype)
}

func unboundHost(ctx context.Context, anchor dnssec.KeyStatus, server netip.AddrPort, dir, name, qtype string) *exec.Cmd {
	file := filepath.Join(dir, "unbound.conf")
	_ = os.WriteFile(file, fmt.Appendf(nil, "server:\n do-not-query-localhost: no\n %s\n local-zone: \"internal.\" transparent\nstub-zone:\n name: mesh.internal\n stub-addr: %s@%d\n",
		anchor.UnboundAnchor(), server.Addr(), server.Port()), 0o600)
	return exec.CommandContext(ctx, "unbound-host", "-C", file, "-v", "-t", qtype, name)
}

func active(t *testing.T, keys *dnssec.Keys, role dnssec.Role, state dnssec.State) dnssec.KeyStatus {
	t.Helper()
	for _, k := range keys.Status() {
		if k.Role == role && k.State == state {
			return k
		}
	}
	t.Fatalf("no %s that is %s: %+v", role, state, keys.Status())
	return dnssec.KeyStatus{}
}

// TestValidatorsBelieve shows that other implementations follow the chain from a trust anchor to every kind of answer, at
// each step of rollovers of both kinds of keys.
func TestValidatorsBelieve(t *testing.T) {
	// With these no step of a rollover waits, but a retired key stays for as long as there may be signatures by it.
	policy := dnssec.Policy{TTL: time.Hour, Propagation: -time.Hour, ParentTTL: time.Hour}
	keys, err := dnssec.OpenKeys(t.TempDir(), "mesh.internal", policy, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server := serveZone(t, zone.New(zone.Options{
		Domain: "mesh.internal", NameServers: []dnsserver.NameServer{{Name: "ns.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
		Signer: dnssec.NewSigner(keys.Ring, 0),
	}).Build(snapshot()))
	believed := func(step string, anchor dnssec.KeyStatus) {
		for _, v := range validators() {
			for _, c := range []struct {
				name, qtype, want string
			}{
				{"web.mesh.internal", "A", "192.0.2.1"},
				{"WEB.default.mesh.internal", "AAAA", "2001:db8::1"},
				{"_http._tcp.web.mesh.internal", "SRV", "192-0-2-1.web.default.mesh.internal"},
				{"big.mesh.internal", "A", "198.51.100."},
				{"mesh.internal", "SOA", "4242"},
				{"mesh.internal", "NS", "ns.mesh.internal"},
				{"mesh.internal", "DNSKEY", "257 3 13"},
				{"mesh.internal", "CDS", strconv.Itoa(int(anchor.Tag)) + " 13 2"},
				{"192-0-2-2.web.default.mesh.internal", "A", "192.0.2.2"},
				{"alias.shop.mesh.internal", "A", "192.0.2.1"},
				{"alias.shop.mesh.internal", "CNAME", "web.default.mesh.internal"},
				{"_http._tcp.orders.shop.mesh.internal", "TYPE64", "8"},
				{"alias.shop.mesh.internal", "TXT", "web.default.mesh.internal"}, // of which there is none
				{"nobody.mesh.internal", "A", ""},
				{"x.web.mesh.internal", "SRV", ""},
				{"web.mesh.internal", "TXT", ""},
				{"shop.mesh.internal", "A", ""},
				{"mesh.internal", "A", ""},
			} {
				want := []string{v.positive, c.want}
				if c.want == "" {
					want[0] = v.negative
				}
				if c.qtype == "CDS" && strings.HasPrefix(step, "old") {
					want[1] = "13 2"
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				out, err := v.ask(ctx, anchor, server, t.TempDir(), c.name, c.qtype).CombinedOutput()
				cancel()
				if err != nil || slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(string(out), w) }) {
					t.Errorf("%s: %s of %s %s: %v, want %q in\n%s", step, v.tool, c.name, c.qtype, err, want, out)
				}
			}
		}
	}
	first := active(t, keys, dnssec.KSK, dnssec.Active)
	believed("at the start", first)
	zsk := active(t, keys, dnssec.ZSK, dnssec.Active)
	if err := keys.Roll(dnssec.ZSK); err != nil {
		t.Fatal(err)
	}
	if now := active(t, keys, dnssec.ZSK, dnssec.Active); now.Tag == zsk.Tag {
		t.Fatal("the ZSK was not replaced")
	}
	believed("after the ZSK's rollover", first)
	if err := keys.Roll(dnssec.KSK); err != nil {
		t.Fatal(err)
	}
	second := active(t, keys, dnssec.KSK, dnssec.Ready)
	believed("old anchor while the KSK rolls", first)
	believed("new anchor while the KSK rolls", second)
	if err := keys.DSSeen(second.Tag); err != nil {
		t.Fatal(err)
	}
	believed("old anchor after the KSK's rollover", first)
	believed("new anchor after the KSK's rollover", second)
}
