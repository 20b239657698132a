package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

var updateTranscripts = flag.Bool("update", false, "rewrite testdata from what is answered now")

// plainer replaces what differs from run to run.
type plainer struct {
	found *regexp.Regexp
	with  string
}

func plainers() []plainer {
	return []plainer{
		{regexp.MustCompile(`(?m)^; <<>>.*\n|^;; (Query time|WHEN|SERVER|From|Received|Time|MSG SIZE).*\n|^;; global options.*\n`), ""},
		{regexp.MustCompile(`\bid: \d+`), "id: ID"},
		{regexp.MustCompile(`COOKIE: [0-9A-Fa-f]+`), "COOKIE: BYTES"},
		{regexp.MustCompile(`(RRSIG\s+\S+ 13 \d+ \d+) \d{14} \d{14} \d+ (\S+) .*`), "$1 UNTIL SINCE TAG $2 SIGNATURE"},
		{regexp.MustCompile(`(DNSKEY\s+\d+ 3 13) [A-Za-z0-9+/= ]+`), "$1 KEY "},
		{regexp.MustCompile(`(key id = |keytag: )\d+`), "${1}TAG"},
		{regexp.MustCompile(`(CDS\s+)\d+ 13 2 [0-9A-Fa-f ]+`), "$1 TAG 13 2 DIGEST"},
		{regexp.MustCompile(`(hostmaster\.mesh\.internal\. )\d+`), "${1}SERIAL"},
		{regexp.MustCompile(`(TLS session \(TLS1\.3\)|HTTP session \(HTTP/2-\w+\)).*`), "$1"},
	}
}

// normal is a program's output without what differs from run to run, the records of a set in their order.
func normal(out string) string {
	for _, p := range plainers() {
		out = p.found.ReplaceAllString(out, p.with)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	for from := 0; from < len(lines); from++ {
		to := from
		for to < len(lines) && lines[to] != "" && !strings.HasPrefix(lines[to], ";;") {
			to++
		}
		slices.Sort(lines[from:to])
		from = max(from, to)
	}
	return strings.Join(lines, "\n") + "\n"
}

// TestTranscriptsDigKdigValidatorsDrill asks with dig, kdig, delv and drill, by every transport, what they can ask, and compares all that they print
// with testdata/transcripts.txt: a command after "$ ", then its output.
func TestTranscriptsDigKdigValidatorsDrill(t *testing.T) {
	words := startTranscripts(t)
	file := "testdata/transcripts.txt"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var anew strings.Builder
	commands := 0
	for _, section := range strings.Split("\n"+string(data), "\n$ ")[1:] {
		command, want, _ := strings.Cut(section, "\n")
		cmd := exec.Command("sh", "-c", words.Replace(command))
		cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin")
		out, err := cmd.CombinedOutput()
		got := normal(string(out))
		if err != nil {
			got += err.Error() + "\n"
		}
		if diff := cmp.Diff(strings.TrimSpace(want), strings.TrimSpace(got)); diff != "" && !*updateTranscripts {
			t.Errorf("%s (-want +got):\n%s", command, diff)
		}
		fmt.Fprintf(&anew, "$ %s\n%s\n", command, got)
		commands++
	}
	if commands < 30 {
		t.Errorf("%d commands, want all", commands)
	}
	if *updateTranscripts {
		writeFile(t, file, strings.TrimSpace(anew.String())+"\n")
	}
}

// startTranscripts runs mesh control with all that it can serve, and returns what commands' words stand for.
func startTranscripts(t *testing.T) *strings.Replacer {
	t.Helper()
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	writeFile(t, filepath.Join(static, "all.yaml"), comparedServices())
	secret := p.transferSecret(t)
	authority := testbed.NewAuthority(t)
	writeFile(t, filepath.Join(p.dir, "ca.pem"), authority.PEM())
	cert, key := testbed.WritePair(t, p.dir, "dns", authority.Leaf("ns1.mesh.internal"))
	tlsPort, httpsPort := testbed.FreePort(t), testbed.FreePort(t)
	p.configureDNS(t, fmt.Sprintf("tls: [\"127.0.0.1:%d\"], https: [\"127.0.0.1:%d\"], certFile: %s, keyFile: %s, nsid: ns1, reverse: [10.1.0.0/24], "+
		"keys: [{name: transfer.example.org, secretFile: %s/secret}], nameServers: [{name: ns1.mesh.internal, addresses: [127.0.0.1]}], ", tlsPort, httpsPort, cert, key, p.dir))
	p.startControl(t)
	eventually(t, 30*time.Second, "the zone is served", func() error { _, _, err := holds(p.dns); return err })
	mesh := func(args ...string) string {
		out, code := run(t, append(append([]string{bin(t, "mesh"), "dns", "ds"}, args...), "--server", p.api)...)
		if code != 0 {
			t.Fatal(out)
		}
		return out
	}
	writeFile(t, filepath.Join(p.dir, "anchors"), "trust-anchors { "+mesh("--for", "bind")+" };\n")
	writeFile(t, filepath.Join(p.dir, "ds"), mesh())
	port := strings.TrimPrefix(p.dns, "127.0.0.1:")
	return strings.NewReplacer("@MESH-TLS", fmt.Sprintf("@127.0.0.1 -p %d +tls-ca=%s/ca.pem +tls-hostname=ns1.mesh.internal +tls", tlsPort, p.dir),
		"@MESH-HTTPS", fmt.Sprintf("@127.0.0.1 -p %d +tls-ca=%s/ca.pem +tls-hostname=ns1.mesh.internal", httpsPort, p.dir),
		"ANCHORS", filepath.Join(p.dir, "anchors"), "DSFILE", filepath.Join(p.dir, "ds"), "@MESH", "@127.0.0.1 -p "+port, "SECRET", "hmac-sha256:transfer.example.org:"+secret)
}
