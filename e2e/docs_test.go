package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// block is a fenced block of a document: its info string says how it is run.
type block struct {
	place, info, text string
}

// documents whose blocks are run here; an adapter's README is run by the adapter's own tests.
func blocks(t testing.TB) []block {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../bench/*.md", "../e2e/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	fence := regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")
	var all []block
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range fence.FindAllSubmatchIndex(data, -1) {
			line := 1 + strings.Count(string(data[:at[0]]), "\n")
			all = append(all, block{place: strings.TrimPrefix(file, "../") + ":" + strconv.Itoa(line), info: string(data[at[2]:at[3]]), text: string(data[at[4]:at[5]])})
		}
	}
	return all
}

func TestDocsConfigurationBlocksAreRight(t *testing.T) {
	checked := 0
	for _, b := range blocks(t) {
		language, name, _ := strings.Cut(b.info, " ")
		switch {
		case language != "yaml":
		case name == "":
			t.Errorf("%s: a yaml block without a file name is run by no test", b.place)
		default:
			path := filepath.Join(t.TempDir(), name)
			writeFile(t, path, b.text)
			if out, code := run(t, bin(t, "mesh"), "check", path); code != 0 {
				t.Errorf("%s: %s", b.place, out)
			}
			checked++
		}
	}
	if checked < 4 {
		t.Errorf("%d configuration blocks were checked, want README's 4 at least", checked)
	}
}

func TestDocsCommandsOfAMeshWorkDigPort80(t *testing.T) {
	m := startMesh(t)
	port := regexp.MustCompile(`\b(8053|15000|15001|15014)\b`)
	tried := 0
	for _, b := range blocks(t) {
		switch b.info {
		case "", "yaml control.yaml", "yaml proxy.yaml", "unbound", "named", "zone", "nsd", "knot", "named secondary", "unbound host", "dnsmasq", "sh host":
		case "sh dev":
			for line := range strings.Lines(b.text) {
				command := port.ReplaceAllStringFunc(strings.TrimSpace(line), func(p string) string {
					n, _ := strconv.Atoi(p)
					return strconv.Itoa(n + m.offset)
				})
				if command == "" {
					continue
				}
				cmd := exec.Command("sh", "-c", command)
				cmd.Dir, cmd.Env = "..", append(os.Environ(), "MESH_SERVER="+m.api)
				out, err := cmd.CombinedOutput()
				if err != nil || strings.TrimSpace(string(out)) == "" {
					t.Errorf("%s: %s: %v: %q", b.place, command, err, out)
				}
				tried++
			}
		case "sh build":
			for line := range strings.Lines(b.text) {
				cmd := exec.Command("sh", "-c", strings.Replace(strings.TrimSpace(line), "make ", "make -n ", 1))
				cmd.Dir = ".."
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v: %s", b.place, line, err, out)
				}
				tried++
			}
		default:
			if !strings.HasPrefix(b.info, "yaml ") && b.info != "text" && b.info != "json" {
				t.Errorf("%s: a block of %q is run by no test", b.place, b.info)
			}
		}
	}
	if tried < 10 {
		t.Errorf("%d commands were tried, want README's 10 at least", tried)
	}
}
