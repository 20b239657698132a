package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// secondaryServer is a real one that is configured as docs/dns.md says.
type secondaryServer struct {
	block, program string
	primary        func(block, port string) string // with the primary at that port of the host
	config         func(block, dir string, port int) string
	argv           []string
	at, configFile string
}

func secondaryServers() []*secondaryServer {
	return []*secondaryServer{
		{
			block: "nsd", program: "nsd", argv: []string{"-d", "-c"},
			primary: func(block, port string) string {
				return strings.Replace(block, "request-xfr: 192.0.2.53", "request-xfr: 127.0.0.1@"+port, 1)
			},
			config: func(block, dir string, port int) string {
				more := fmt.Sprintf("\n    ip-address: 127.0.0.1@%d\n    username: \"\"\n    chroot: \"\"\n    zonesdir: %q\n    database: \"\"\n    pidfile: \"%s/pid\"\n    xfrdfile: \"%s/xfrd\"\n    xfrdir: %q\n    zonelistfile: \"%s/list\"\n", port, dir, dir, dir, dir, dir)
				return strings.Replace(block, "server:", "server:"+more, 1) + "    provide-xfr: 127.0.0.1 NOKEY\nremote-control:\n    control-enable: no\n"
			},
		},
		{
			block: "knot", program: "knotd", argv: []string{"-c"},
			primary: func(block, port string) string {
				return strings.Replace(block, "address: 192.0.2.53", "address: 127.0.0.1@"+port, 1)
			},
			config: func(block, dir string, port int) string {
				block = strings.Replace(block, "acl:\n", "acl:\n  - id: anybody\n    address: 127.0.0.1\n    action: transfer\n", 1)
				return fmt.Sprintf("server:\n    listen: 127.0.0.1@%d\n    rundir: %s\ndatabase:\n    storage: %s\nlog:\n  - target: stderr\n    any: info\n", port, dir, dir) +
					strings.Replace(block, "acl: mesh", "acl: [mesh, anybody]\n    storage: "+dir, 1)
			},
		},
		{
			block: "named secondary", program: "named", argv: []string{"-g", "-c"},
			primary: func(block, port string) string {
				return strings.Replace(block, "192.0.2.53 key", "127.0.0.1 port "+port+" key", 1)
			},
			config: func(block, dir string, port int) string {
				return fmt.Sprintf("options { directory %q; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; }; pid-file none; session-keyfile none; recursion no; dnssec-validation no; notify no; allow-transfer { 127.0.0.1; }; };\ncontrols { };\n", dir, port) + block
			},
		},
	}
}

// holds are the lines of a server's zone.
func holds(at string) (lines []string, serial uint32, err error) {
	records, err := (&dns.Transfer{DialTimeout: time.Second, ReadTimeout: 5 * time.Second}).In(new(dns.Msg).SetAxfr("mesh.internal."), at)
	if err != nil {
		return nil, 0, err
	}
	for e := range records {
		if e.Error != nil {
			err = e.Error
		}
		for _, r := range e.RR {
			if soa, ok := r.(*dns.SOA); ok {
				serial = soa.Serial
			}
			lines = append(lines, r.String())
		}
	}
	slices.Sort(lines)
	return lines, serial, err
}

// program is where a server is that may be in no user's path.
func program(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return "/usr/sbin/" + name
}

// transferSecret writes the secret of a key.
func (p parts) transferSecret(t testing.TB) (secret string) {
	t.Helper()
	secret = base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	path := filepath.Join(p.dir, "secret")
	writeFile(t, path, secret)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return secret
}

// configureDNS adds fields to dns: of control.yaml.
func (p parts) configureDNS(t testing.TB, fields string) {
	t.Helper()
	file, err := os.ReadFile(p.controlFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.controlFile, strings.Replace(string(file), "dns: {", "dns: {"+fields, 1))
}

// told wants each of so many secondaries to have confirmed a NOTIFY of the serial that is served.
func (p parts) told(secondaries int) error {
	_, serial, err := holds(p.dns)
	if err != nil {
		return err
	}
	var status struct {
		Secondaries []struct {
			Secondary, Error string
			Notified         uint32
		}
	}
	if err := fetchJSON(p.api, "/api/v1/dns", &status); err != nil {
		return err
	}
	n := 0
	for _, s := range status.Secondaries {
		if s.Error == "" && s.Notified == serial {
			n++
		}
	}
	if n != secondaries {
		return fmt.Errorf("%+v, want %d that were told of %d", status.Secondaries, secondaries, serial)
	}
	return nil
}

// TestDocsSecondariesHoldTheZone runs NSD, Knot and BIND as docs/dns.md has them, with the key of control.yaml: they hold the zone that mesh control
// serves, signed, while services come and go, after a restart of mesh control, and what they answer is validated.
func TestDocsSecondariesHoldTheZone(t *testing.T) {
	p, static := newOrders(t)
	secret := p.transferSecret(t)
	port := strings.TrimPrefix(p.dns, "127.0.0.1:")
	servers := secondaryServers()
	var known []string
	for _, s := range servers {
		own, dir := testbed.FreePort(t), shortDir(t)
		s.at = fmt.Sprintf("127.0.0.1:%d", own)
		block := strings.ReplaceAll(s.primary(docsBlock(t, s.block), port), "192.0.2.53", "127.0.0.1")
		writeFile(t, filepath.Join(dir, "config"), s.config(strings.ReplaceAll(block, "PUT-THE-SECRET-HERE", secret), dir, own))
		s.configFile = filepath.Join(dir, "config")
		known = append(known, fmt.Sprintf("{address: %q, key: transfer.example.org}", s.at))
	}
	p.configureDNS(t, fmt.Sprintf("keys: [{name: transfer.example.org, secretFile: %s/secret}], secondaries: [%s], ", p.dir, strings.Join(known, ", ")))
	control := p.startControl(t)
	for _, s := range servers { // BIND that finds no primary when it starts takes a minute to ask again
		start(t, s.program, append(append([]string{program(s.program)}, s.argv...), s.configFile)...)
	}
	held := func(service string, there bool) {
		t.Helper()
		for _, s := range servers {
			eventually(t, 2*time.Minute, s.program+" holds the zone", func() error {
				want, serial, err := holds(p.dns) // what is healthy may still change
				if err != nil {
					return err
				}
				if found := strings.Contains(strings.Join(want, "\n"), "\n"+service+".mesh.internal."); found != there {
					return fmt.Errorf("%s is served: %v", service, found)
				}
				got, has, err := holds(s.at)
				if err == nil && (has != serial || !slices.Equal(got, want)) {
					err = fmt.Errorf("it has %d with %d records, want %d with %d", has, len(got), serial, len(want))
				}
				return err
			})
		}
		eventually(t, 30*time.Second, "all are told: by the refresh of 30 s they would come to hold it too", func() error { return p.told(len(servers)) })
		status, code := run(t, bin(t, "mesh"), "dns", "status", "--server", p.api)
		if code != 0 || strings.Count(status, "transfer.example.org.") != len(servers) {
			t.Errorf("mesh dns status: exit %d, %s", code, status)
		}
	}
	held("orders", true)
	for i := range 5 {
		service := fmt.Sprintf("more%d", i)
		addDemo(t, static, service)
		held(service, true)
		if i == 4 { // of one at a time nobody doubts that it is meant
			if err := os.Remove(filepath.Join(static, service+".yaml")); err != nil {
				t.Fatal(err)
			}
			held(service, false)
		}
	}
	_, before, _ := holds(p.dns)
	control.stop(20 * time.Second)
	if _, has, err := holds(servers[2].at); err != nil || has != before {
		t.Errorf("without mesh control %s has %d, %v, want %d", servers[2].program, has, err, before)
	}
	p.startControl(t)
	addDemo(t, static, "last")
	held("last", true)
	anchor, code := run(t, bin(t, "mesh"), "dns", "ds", "--for", "bind", "--server", p.api)
	if code != 0 {
		t.Fatal(anchor)
	}
	anchors := filepath.Join(p.dir, "anchors")
	writeFile(t, anchors, "trust-anchors { "+anchor+" };\n")
	for _, s := range servers {
		for _, c := range []struct{ name, qtype, want string }{
			{"orders.mesh.internal", "A", "; fully validated"},
			{"_http._tcp.last.mesh.internal", "SRV", "; fully validated"},
			{"mesh.internal", "SOA", "; fully validated"},
			{"nobody.mesh.internal", "A", "; negative response, fully validated"},
			{"orders.mesh.internal", "MX", "; negative response, fully validated"},
		} {
			out, err := runQuiet("delv", "@127.0.0.1", "-p", strings.TrimPrefix(s.at, "127.0.0.1:"), "-a", anchors, "+root=mesh.internal", c.name, c.qtype)
			if err != nil || !strings.Contains(out, c.want) {
				t.Errorf("%s: delv of %s %s: %v\n%s", s.program, c.name, c.qtype, err, out)
			}
		}
	}
}

// TestDocsDelegationIsFollowedSecondariesPort53 delegates a domain to mesh control and a secondary as docs/dns.md says, in a parent zone that BIND
// signs: a resolver that trusts the parent alone follows the delegation, validates what it gets, and does so without mesh control.
func TestDocsDelegationIsFollowedSecondariesPort53(t *testing.T) {
	const primary, secondary = "127.53.0.1", "127.53.0.2"
	local := strings.NewReplacer("192.0.2.53", primary, "192.0.2.60", secondary, "mesh.internal", "mesh.example.org")
	p, _ := newOrders(t)
	secret := p.transferSecret(t)
	p.configureDNS(t, fmt.Sprintf("nameServers: [{name: ns1.mesh.example.org, addresses: [%s]}, {name: ns2.mesh.example.org, addresses: [%s]}], "+
		"keys: [{name: transfer.example.org, secretFile: %s/secret}], secondaries: [{address: %s, key: transfer.example.org}], ", primary, secondary, p.dir, secondary))
	file, err := os.ReadFile(p.controlFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.controlFile, "domain: mesh.example.org\n"+strings.Replace(string(file), p.dns, primary+":53", 1))
	control := p.startControl(t)

	nsd, dir := secondaryServers()[0], shortDir(t)
	config := nsd.config(strings.ReplaceAll(local.Replace(docsBlock(t, nsd.block)), "PUT-THE-SECRET-HERE", secret), dir, 53)
	writeFile(t, filepath.Join(dir, "config"), strings.Replace(config, "ip-address: 127.0.0.1@53", "ip-address: "+secondary+"@53", 1))
	start(t, nsd.program, append(append([]string{program(nsd.program)}, nsd.argv...), filepath.Join(dir, "config"))...)

	ds, code := "", 0
	eventually(t, 30*time.Second, "the DS is known", func() error {
		if ds, code = run(t, bin(t, "mesh"), "dns", "ds", "--server", p.api); code != 0 {
			return fmt.Errorf("exit %d, %s", code, ds)
		}
		return nil
	})
	parent, anchor := startParent(t, delegation(t, local.Replace(docsBlock(t, "zone")), ds))
	resolver, dir := fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t)), shortDir(t)
	writeFile(t, filepath.Join(dir, "config"), fmt.Sprintf("server:\n    interface: %s\n    chroot: \"\"\n    username: \"\"\n    pidfile: \"%s/pid\"\n    use-syslog: no\n    root-hints: \"\"\n    do-not-query-localhost: no\n    trust-anchor: %q\n"+
		"stub-zone:\n    name: example.org\n    stub-addr: %s\nremote-control:\n    control-enable: no\n", strings.Replace(resolver, ":", "@", 1), dir, anchor, strings.Replace(parent, ":", "@", 1)))
	start(t, "unbound", program("unbound"), "-d", "-c", filepath.Join(dir, "config"))
	believed := func(name string, qtype uint16, records bool) {
		t.Helper()
		eventually(t, 30*time.Second, name+" is validated", func() error {
			client := dns.Client{Timeout: 5 * time.Second}
			m, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, true), resolver)
			if err == nil && (!m.AuthenticatedData || (len(m.Answer) > 0) != records) {
				err = fmt.Errorf("answered %v", m)
			}
			return err
		})
	}
	believed("orders.mesh.example.org.", dns.TypeA, true)
	believed("nobody.mesh.example.org.", dns.TypeA, false)
	eventually(t, 30*time.Second, "the secondary has it", func() error {
		status, code := run(t, bin(t, "mesh"), "dns", "status", "--server", p.api)
		if code != 0 || !strings.Contains(status, secondary+":53") || strings.Contains(status, "refused") {
			return fmt.Errorf("exit %d, %s", code, status)
		}
		client := dns.Client{Timeout: time.Second}
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion("orders.mesh.example.org.", dns.TypeA), secondary+":53")
		if err == nil && len(m.Answer) != 1 {
			err = fmt.Errorf("answered %v", m)
		}
		return err
	})
	control.stop(20 * time.Second)
	believed("_http._tcp.orders.mesh.example.org.", dns.TypeSRV, true)
	believed("nowhere.mesh.example.org.", dns.TypeA, false)
}

// delegation is the block with the DS that there is.
func delegation(t *testing.T, block, ds string) string {
	t.Helper()
	before, _, found := strings.Cut(block, "mesh.example.org.      3600 IN DS")
	if !found {
		t.Fatalf("no DS in %s", block)
	}
	return before + ds
}

// startParent runs BIND with example.org, which it signs, and returns where, and its DS.
func startParent(t *testing.T, delegation string) (at, anchor string) {
	t.Helper()
	dir, port := shortDir(t), testbed.FreePort(t)
	writeFile(t, filepath.Join(dir, "zone"), "$TTL 300\nexample.org. IN SOA ns.example.org. hostmaster.example.org. 1 3600 600 86400 60\nexample.org. IN NS ns.example.org.\nns.example.org. IN A 127.0.0.1\n"+delegation)
	writeFile(t, filepath.Join(dir, "config"), fmt.Sprintf("options { directory %q; key-directory %q; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; }; pid-file none; session-keyfile none; recursion no; dnssec-validation no; notify no; };\ncontrols { };\n"+
		"zone \"example.org\" { type primary; file \"zone\"; dnssec-policy default; inline-signing yes; };\n", dir, dir, port))
	start(t, "named", program("named"), "-g", "-c", filepath.Join(dir, "config"))
	at = fmt.Sprintf("127.0.0.1:%d", port)
	eventually(t, 30*time.Second, "the parent is signed", func() error {
		client := dns.Client{Timeout: time.Second}
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeDNSKEY), at)
		if err != nil {
			return err
		}
		for _, r := range m.Answer {
			if key, ok := r.(*dns.DNSKEY); ok && key.Flags&dns.SEP != 0 {
				anchor = strings.ReplaceAll(key.ToDS(dns.SHA256).String(), "\t", " ")
				return nil
			}
		}
		return fmt.Errorf("answered %v", m)
	})
	return at, anchor
}
