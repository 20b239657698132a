package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
	"github.com/hostmesh/hostmesh/registry"
)

// none is a registry that has nothing and says so.
type none struct{}

func (none) Watch(ctx context.Context, publish func(registry.View)) error {
	publish(registry.View{})
	<-ctx.Done()
	return ctx.Err()
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serveDNS runs a control plane with a zone and returns where its API and its DNS are.
func serveDNS(t *testing.T, keys string) (api, names string) {
	t.Helper()
	catalog, err := registry.NewCatalog([]registry.Source{{Name: "none", Kind: "none", Registry: none{}}}, registry.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	api, names = free(t), free(t)
	server, err := controlplane.New(controlplane.Options{
		Domain: "mesh.internal", Catalog: catalog, HTTP: api, Log: slog.New(slog.DiscardHandler), DNS: controlplane.DNS{Listen: []string{names}, Keys: keys},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- catalog.Run(ctx) }()
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended; <-ended })
	<-catalog.Settled()
	return api, names
}

func meshDNS(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := DNSCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestDNSKeysAreRolled goes through what an operator does for a rollover of each kind.
func TestDNSKeysAreRolled(t *testing.T) {
	api, names := serveDNS(t, t.TempDir())
	run := func(want string, args ...string) []string {
		t.Helper()
		out, err := meshDNS(t, append(args, "--server", api)...)
		found := regexp.MustCompile(`^` + want + `$`).FindStringSubmatch(out)
		if err != nil || found == nil {
			t.Fatalf("mesh dns %s: %v, got\n%swant\n%s", strings.Join(args, " "), err, out, want)
		}
		return found[1:]
	}
	const head = `ZONE +SERIAL +KEY +TAG +STATE +FOR +WAITS FOR\n`
	key := func(role, tag, state, waits string) string {
		return `mesh\.internal\. +[\d-]+ +` + role + ` +` + tag + ` +` + state + ` +0s +` + waits + ` *\n`
	}
	tags := run(head+key("ksk", `(\d+)`, "active", "-")+key("zsk", `(\d+)`, "active", "-")+`\nserved over UDP and TCP at `+regexp.QuoteMeta(names)+`\n`, "status")
	run(`mesh\.internal\. IN DS `+tags[0]+` 13 2 [0-9A-F]{64}\n`, "ds")
	run(`mesh\.internal\. IN DS `+tags[0]+` 13 2 [0-9A-F]{64}\n`, "ds", "Mesh.internal")
	run(`trust-anchor: "mesh\.internal\. IN DS `+tags[0]+` 13 2 [0-9A-F]{64}"\n`, "ds", "--for", "unbound")
	run(`mesh\.internal static-ds `+tags[0]+` 13 2 "[0-9A-F]{64}";\n`, "ds", "--for", "bind")
	run(`(?s)\[\n.*"role": "ksk".*"ds": "`+tags[0]+` 13 2 [0-9A-F]{64}".*\]\n`, "ds", "-o", "json")
	run(`(?s)number: \d+\nlisten:\n.*  - zone: mesh\.internal\.\n.*      - zone: mesh\.internal\.\n        tag: `+tags[0]+`\n.*`, "status", "-o", "yaml")
	run(head+key("ksk", tags[0], "active", "-")+key("zsk", tags[1], "active", "-")+key("zsk", `\d+`, "published", "every resolver to know it"), "roll", "zsk")
	run(head+key("ksk", tags[0], "active", "-")+key("ksk", `\d+`, "published", "every resolver to know it")+
		key("zsk", tags[1], "active", "-")+key("zsk", `\d+`, "published", "every resolver to know it"), "roll", "ksk", "--zone", "mesh.internal")
	for _, c := range []struct{ args, want string }{
		{"roll ksk", "one rollover at a time; mesh dns status shows the keys"},
		{"roll csk", `roll "csk": want ksk or zsk`},
		{"roll zsk --zone example.org", "no zone example.org. is signed here; mesh dns status lists them"},
		{"ds-seen " + tags[0], "is active, want one that is ready"},
		{"ds-seen seventeen", `got "seventeen", want a key's number`},
		{"ds-seen 99999", `got "99999", want a key's number`},
		{"ds example.org", "find the DS of example.org.: no zone of that name is signed"},
		{"ds --for knot", `read --for "knot": want zone, unbound or bind`},
	} {
		if out, err := meshDNS(t, append(strings.Fields(c.args), "--server", api)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("mesh dns %s: %v, want %q; it said %q", c.args, err, c.want, out)
		}
	}
}

func TestDNSZoneThatIsNotSigned(t *testing.T) {
	api, names := serveDNS(t, "")
	var out string
	var err error
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out, "not signed") && time.Now().Before(deadline); {
		out, err = meshDNS(t, "status", "--server", api) // the zone comes a moment after the catalog is settled
	}
	want := fmt.Sprintf(`^ZONE +SERIAL +KEY +TAG +STATE +FOR +WAITS FOR\nmesh\.internal\. +\d+ +not signed +- +- +- +- *\n\nserved over UDP and TCP at %s\n$`, regexp.QuoteMeta(names))
	if err != nil || !regexp.MustCompile(want).MatchString(out) {
		t.Errorf("%v, got\n%swant\n%s", err, out, want)
	}
	if _, err := meshDNS(t, "ds", "--server", api); err == nil || !strings.Contains(err.Error(), "no zone is signed (dns.signed in control.yaml)") {
		t.Errorf("mesh dns ds: %v", err)
	}
}

// TestSecondariesAreShown shows what an operator sees of secondaries: what they have, and why one cannot be told.
func TestSecondariesAreShown(t *testing.T) {
	var out strings.Builder
	showDNS(&out, controlplane.DNSStatus{Secondaries: []transfer.Status{
		{Zone: "mesh.internal.", Secondary: netip.MustParseAddrPort("192.0.2.60:53"), Key: "transfer.example.", Serial: 41, Notified: 42},
		{Zone: "mesh.internal.", Secondary: netip.MustParseAddrPort("[2001:db8::60]:53"), Failures: 3, Error: "notify [2001:db8::60]:53: it answered REFUSED\x1b"},
	}})
	lines := strings.Split(out.String(), "\n")
	for _, want := range []string{
		`SECONDARY\tZONE\tKEY\tHAS SERIAL\tTOLD OF\tLAST ATTEMPT`,
		`192\.0\.2\.60:53\tmesh\.internal\.\ttransfer\.example\.\t41\t42\tok`,
		`\[2001:db8::60\]:53\tmesh\.internal\.\t-\t-\t-\tnotify .* it answered REFUSED[^\x1b]*`,
	} {
		if !slices.ContainsFunc(lines, regexp.MustCompile("^"+want+"$").MatchString) {
			t.Errorf("no line %q in\n%s", want, out.String())
		}
	}
}

// TestForwardingAndLogAreShown shows what an operator sees of upstreams and of the query log.
func TestForwardingAndLogAreShown(t *testing.T) {
	var out strings.Builder
	showDNS(&out, controlplane.DNSStatus{
		Forward: &controlplane.ForwardStatus{
			Upstreams: []controlplane.UpstreamStatus{
				{Address: netip.MustParseAddrPort("192.0.2.1:853"), TLS: true, Answers: 7}, {Address: netip.MustParseAddrPort("192.0.2.2:53"), Failures: 3, Error: "no answer within 2s\x1b"},
			}, Hits: 5, Misses: 8, Stale: 1, Entries: 6, Bytes: 4000, Loops: 2,
		},
		QueryLog: &controlplane.QueryLogStatus{Written: 9, Dropped: 4, Error: "connect: no such file\x1b"},
	})
	for _, want := range []string{
		"UPSTREAM\tOVER\tANSWERS\tFAILURES\tSTATE\n192.0.2.1:853\tTLS\t7\t0\tok\n192.0.2.2:53\tUDP and TCP\t0\t3\tno answer within 2s",
		"forwarded: 5 from the cache, 8 asked, 1 old ones as no upstream answered; the cache has 6 answers, 4000 bytes\n  2 queries came back to us",
		"query log: 9 written, 4 dropped\n  nothing is written now: connect: no such file",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("what is printed is not made printable")
	}
}
