package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// docsBlock returns the only block of a kind in docs/dns.md.
func docsBlock(t *testing.T, kind string) string {
	t.Helper()
	var found []block
	for _, b := range blocks(t) {
		if b.info == kind && strings.HasPrefix(b.place, "docs/dns.md") {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d blocks of %q in docs/dns.md, want 1", len(found), kind)
	}
	return found[0].text
}

// resolver is a real one that is configured as docs/dns.md says.
type resolver struct {
	block, audience, program string
	anchor                   *regexp.Regexp // its line in the block, which mesh dns ds prints
	config                   func(block, dir string, port int) string
	argv                     func(config string) []string
}

func resolvers() []resolver {
	return []resolver{
		{
			"unbound", "unbound", "unbound", regexp.MustCompile(`trust-anchor: .*\n`),
			func(block, dir string, port int) string {
				return block + fmt.Sprintf("server:\n    interface: 127.0.0.1@%d\n    chroot: \"\"\n    username: \"\"\n    pidfile: \"%s/pid\"\n    use-syslog: no\n    root-hints: \"\"\nremote-control:\n    control-enable: no\n", port, dir)
			},
			func(config string) []string { return []string{"unbound", "-d", "-c", config} },
		},
		{
			"named", "bind", "named", regexp.MustCompile(`mesh\.internal static-ds .*\n`),
			func(block, dir string, port int) string {
				return fmt.Sprintf("options { directory %q; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; }; pid-file none; session-keyfile none; recursion yes; dnssec-validation yes; };\ncontrols { };\n", dir, port) + block
			},
			func(config string) []string { return []string{"named", "-f", "-c", config} },
		},
	}
}

// TestDocsResolversValidate runs the resolvers as docs/dns.md has them, with the trust anchor that mesh dns ds prints: they say
// that every answer is authentic, and with another anchor that none is.
func TestDocsResolversValidate(t *testing.T) {
	m := startMesh(t)
	for _, r := range resolvers() {
		t.Run(r.program, func(t *testing.T) {
			program, err := exec.LookPath(r.program)
			if err != nil {
				program = "/usr/sbin/" + r.program
			}
			anchor, code := run(t, bin(t, "mesh"), "dns", "ds", "--for", r.audience, "--server", m.api)
			if code != 0 {
				t.Fatal(anchor)
			}
			text := strings.ReplaceAll(docsBlock(t, r.block), "8053", strings.TrimPrefix(m.dns, "127.0.0.1:"))
			for _, own := range []bool{true, false} {
				dir, port := shortDir(t), testbed.FreePort(t)
				configured := text
				if own {
					configured = r.anchor.ReplaceAllString(text, anchor)
				}
				config := filepath.Join(dir, "config")
				writeFile(t, config, r.config(configured, dir, port))
				argv := r.argv(config)
				p := start(t, r.program, append([]string{program}, argv[1:]...)...)
				asked := func(name, qtype string) *dns.Msg {
					t.Helper()
					q := new(dns.Msg).SetQuestion(name, dns.StringToType[qtype]).SetEdns0(1232, true)
					var answer *dns.Msg
					eventually(t, 30*time.Second, r.program+" answers", func() error {
						client := dns.Client{Timeout: 2 * time.Second}
						var err error
						answer, _, err = client.Exchange(q, fmt.Sprintf("127.0.0.1:%d", port))
						return err
					})
					return answer
				}
				for _, c := range []struct{ name, qtype string }{
					{"web.mesh.internal.", "A"}, {"_http._tcp.web.mesh.internal.", "SRV"}, {"web.mesh.internal.", "MX"}, {"nobody.mesh.internal.", "A"}, {"mesh.internal.", "SOA"},
				} {
					answer := asked(c.name, c.qtype)
					if authentic := answer.AuthenticatedData && (answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeNameError); authentic != own || !own && answer.Rcode != dns.RcodeServerFailure {
						t.Errorf("its own anchor %v: %s %s: %v\n%s", own, c.name, c.qtype, answer, tail(p.text(), 2000))
					}
				}
				p.stop(10 * time.Second)
			}
		})
	}
}

// TestDocsDelegation reads the records for the parent zone as a server would.
func TestDocsDelegation(t *testing.T) {
	parser := dns.NewZoneParser(strings.NewReader(docsBlock(t, "zone")), "example.org.", "")
	var types []string
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		types = append(types, dns.TypeToString[rr.Header().Rrtype])
	}
	if err := parser.Err(); err != nil || strings.Join(types, " ") != "NS NS A A DS" {
		t.Errorf("records %v, %v", types, err)
	}
}

// TestDocsNameEveryField shows that docs/dns.md has every field that control.yaml takes below dns, and no other.
func TestDocsNameEveryField(t *testing.T) {
	source, err := os.ReadFile("../cmd/mesh/dnsfile.go")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(source), "type dnsSection struct {")
	section, _, _ = strings.Cut(section, "\n}")
	doc, err := os.ReadFile("../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "| field of `dns` |")
	table, _, _ = strings.Cut(table, "\n\n")
	var first strings.Builder // the first column
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		first.WriteString(cell)
	}
	fields := regexp.MustCompile("yaml:\"(\\w+)").FindAllStringSubmatch(section, -1)
	documented := regexp.MustCompile("`(\\w+)`").FindAllString(first.String(), -1)
	for _, f := range fields {
		if !strings.Contains(first.String(), "`"+f[1]+"`") {
			t.Errorf("docs/dns.md has no %s", f[1])
		}
	}
	if len(documented) != len(fields) || len(fields) < 15 {
		t.Errorf("docs/dns.md has %d fields, dnsfile.go %d", len(documented), len(fields))
	}
}
