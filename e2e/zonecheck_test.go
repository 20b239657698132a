package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// delegated is a domain that a local root and a parent delegate to mesh control and to NSD, each with an address of its own, on port 53. The
// addresses are such as anybody on the Internet may have, for checkers want that; they are in a namespace.
type delegated struct {
	parts
	dir, hints, ds string
}

const (
	delegatedRoot, delegatedParent = "45.76.1.1", "45.76.2.1"
	delegatedMesh, delegatedNSD    = "45.77.3.1", "45.78.4.1"
)

func startDelegated(t *testing.T) delegated {
	t.Helper()
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	writeFile(t, filepath.Join(static, "all.yaml"), comparedServices())
	secret := p.transferSecret(t)
	local := strings.NewReplacer("192.0.2.53", delegatedMesh, "192.0.2.60", delegatedNSD, "mesh.internal", "mesh.example")
	p.configureDNS(t, fmt.Sprintf("nameServers: [{name: ns1.mesh.example, addresses: [%s]}, {name: ns2.mesh.example, addresses: [%s]}], mailbox: hostmaster@mail.example, provenance: true, "+
		"keys: [{name: transfer.example.org, secretFile: %s/secret}], secondaries: [{address: %s, key: transfer.example.org}], ", delegatedMesh, delegatedNSD, p.dir, delegatedNSD))
	file, err := os.ReadFile(p.controlFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.controlFile, "domain: mesh.example\n"+strings.Replace(string(file), p.dns, delegatedMesh+":53", 1))
	p.startControl(t)
	nsd, dir := secondaryServers()[0], shortDir(t)
	config := nsd.config(strings.ReplaceAll(local.Replace(docsBlock(t, nsd.block)), "PUT-THE-SECRET-HERE", secret), dir, 53)
	config = strings.Replace(config, "ip-address: 127.0.0.1@53", "ip-address: "+delegatedNSD+"@53", 1)
	writeFile(t, filepath.Join(dir, "config"), config)
	start(t, nsd.program, append(append([]string{program(nsd.program)}, nsd.argv...), filepath.Join(dir, "config"))...)
	d := delegated{parts: p, dir: shortDir(t)}
	eventually(t, 30*time.Second, "the DS is known", func() error {
		out, code := run(t, bin(t, "mesh"), "dns", "ds", "--server", p.api)
		if d.ds = out; code != 0 {
			return fmt.Errorf("exit %d, %s", code, out)
		}
		return nil
	})
	parent := delegation(t, local.Replace(docsBlock(t, "zone")), d.ds)
	d.startAncestors(t, strings.ReplaceAll(parent, "mesh.example.org", "mesh.example"))
	for _, at := range []string{delegatedRoot, delegatedParent, delegatedMesh, delegatedNSD} {
		eventually(t, time.Minute, at+" answers", func() error {
			name := map[string]string{delegatedRoot: ".", delegatedParent: "example."}[at]
			if name == "" {
				name = "mesh.example."
			}
			out, err := runQuiet("dig", "@"+at, "+tries=1", "+time=2", "+short", name, "SOA")
			if err == nil && strings.TrimSpace(out) == "" {
				err = fmt.Errorf("no SOA of %s", name)
			}
			return err
		})
	}
	return d
}

// startAncestors runs BIND with the root and the parent, which it signs.
func (d *delegated) startAncestors(t *testing.T, delegation string) {
	t.Helper()
	soa := func(primary string) string {
		return "$TTL 3600\n@ IN SOA " + primary + " hostmaster.example. 1 14400 3600 604800 3600\n"
	}
	root := "@ IN NS ns.root-servers.example.\nns.root-servers.example. IN A " + delegatedRoot + "\n"
	writeFile(t, filepath.Join(d.dir, "root"), soa("ns.root-servers.example.")+root+"example. IN NS ns.example.\nns.example. IN A "+delegatedParent+"\n"+
		"1.3.77.45.in-addr.arpa. IN PTR ns1.mesh.example.\n1.4.78.45.in-addr.arpa. IN PTR ns2.mesh.example.\n")
	writeFile(t, filepath.Join(d.dir, "example"), soa("ns.example.")+"@ IN NS ns.example.\nmail.example. IN MX 10 mail.example.\nmail.example. IN A "+delegatedParent+"\nns.example. IN A "+delegatedParent+
		"\nns.root-servers.example. IN A "+delegatedRoot+"\n"+delegation)
	d.hints = filepath.Join(d.dir, "hints")
	writeFile(t, d.hints, ". 3600000 NS ns.root-servers.example.\nns.root-servers.example. 3600000 A "+delegatedRoot+"\n")
	writeFile(t, filepath.Join(d.dir, "config"), fmt.Sprintf("options { directory %q; key-directory %q; listen-on { %s; %s; }; listen-on-v6 { none; }; pid-file none; session-keyfile none; recursion no; dnssec-validation no; notify no; };\ncontrols { };\n"+
		"zone \".\" { type primary; file \"root\"; };\nzone \"example\" { type primary; file \"example\"; dnssec-policy default; inline-signing yes; };\n", d.dir, d.dir, delegatedRoot, delegatedParent))
	start(t, "named", program("named"), "-g", "-c", filepath.Join(d.dir, "config"))
}

// TestZonemasterFindsNoErrorNamespaceSecondariesZoneCheckers has a zone checker follow a delegation from a root of our own to mesh control and a
// secondary: what it warns of is what docs/dns.md has. drill follows the same, and checks the signatures on the way.
func TestZonemasterFindsNoErrorNamespaceSecondariesZoneCheckers(t *testing.T) {
	if testbed.InNamespace(t, delegatedRoot, delegatedParent, delegatedMesh, delegatedNSD) {
		return
	}
	d := startDelegated(t)
	out, err := runQuiet("zonemaster-cli", "--json", "--no-ipv6", "--hints", d.hints, "--level", "INFO", "mesh.example")
	if err != nil {
		t.Fatalf("zonemaster-cli: %v\n%s", err, tail(out, 2000))
	}
	var found []struct {
		Level, Tag, Testcase string
		Args                 map[string]any
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatalf("zonemaster-cli: %v\n%s", err, tail(out, 2000))
	}
	doc, err := os.ReadFile("../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, f := range found {
		tests[f.Testcase] = true
		switch {
		case f.Level == "INFO", f.Level == "NOTICE" && strings.HasPrefix(f.Tag, "NO_IPV6"): // of which there is none here
		case (f.Level == "NOTICE" || f.Level == "WARNING") && strings.Contains(string(doc), "`"+f.Tag+"`"):
		default:
			t.Errorf("%s: %s %s %v", f.Level, f.Testcase, f.Tag, f.Args)
		}
	}
	for _, test := range []string{"ADDRESS01", "BASIC02", "CONSISTENCY01", "DELEGATION05", "DNSSEC05", "DNSSEC10", "NAMESERVER02", "SYNTAX01", "ZONE05"} {
		if !tests[test] {
			t.Errorf("zonemaster-cli says nothing of %s, only of %v", test, slices.Sorted(maps.Keys(tests)))
		}
	}
	// What finds nothing would find something.
	out, _ = runQuiet("zonemaster-cli", "--no-ipv6", "--raw", "--hints", d.hints, "--test", "DNSSEC", "--ds", "12345,13,2,"+strings.Repeat("01", 32), "mesh.example")
	if !strings.Contains(out, "ERROR") {
		t.Errorf("zonemaster-cli finds no error with another DS:\n%s", out)
	}
	for _, name := range []string{"web.mesh.example", "_http._tcp.web.mesh.example"} {
		out, code := run(t, "drill", "-r", d.hints, "-T", name, "SRV")
		if code != 0 || !strings.Contains(out, "mesh.example.\t3600\tIN\tNS\tns1.mesh.example.") || !strings.Contains(out, name+".\t5\tIN\tSRV\t0 3 8080 ") {
			t.Errorf("drill -T %s: exit %d\n%s", name, code, out)
		}
	}
}

// TestZoneCheckersLoadACopySecondariesZoneCheckers has checkers of files read a copy of the signed zone: its records, its signatures and its chain of
// denials are in order, and a copy that was changed is not.
func TestZoneCheckersLoadACopySecondariesZoneCheckers(t *testing.T) {
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	writeFile(t, filepath.Join(static, "all.yaml"), comparedServices())
	p.configureDNS(t, "nameServers: [{name: ns1.mesh.internal, addresses: [192.0.2.53]}], provenance: true, ")
	p.startControl(t)
	eventually(t, 30*time.Second, "the zone is served", func() error { _, _, err := holds(p.dns); return err })
	copied, err := runQuiet("dig", "@127.0.0.1", "-p", strings.TrimPrefix(p.dns, "127.0.0.1:"), "+onesoa", "mesh.internal", "AXFR")
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(copied, "\tA\t10.1.0.1\n", "\tA\t10.1.0.66\n", 1)
	if broken == copied {
		t.Fatalf("the copy has no 10.1.0.1:\n%s", tail(copied, 1000))
	}
	file := filepath.Join(p.dir, "copy")
	for _, c := range []struct {
		argv       []string
		signatures bool // it verifies them
	}{
		{[]string{"named-checkzone", "-i", "full", "-k", "fail", "-m", "fail", "-n", "fail", "-S", "fail", "mesh.internal", file}, false},
		{[]string{"kzonecheck", "-v", "-o", "mesh.internal", file}, true},
		{[]string{"ldns-verify-zone", file}, true},
	} {
		for _, zone := range []string{copied, broken} {
			writeFile(t, file, zone)
			out, code := run(t, append([]string{program(c.argv[0])}, c.argv[1:]...)...)
			if good := zone == copied || !c.signatures; (code == 0) != good {
				t.Errorf("%v of a copy that is in order %v: exit %d\n%s", c.argv, zone == copied, code, tail(out, 2000))
			}
		}
	}
}
