package e2e

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func parseFloat(t testing.TB, s string) uint64 {
	t.Helper()
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(f)
}

func TestConfigMistakesAreToldAllAtOnce(t *testing.T) {
	dir := shortDir(t)
	control := filepath.Join(dir, "control.yaml")
	writeFile(t, control, `domain: Mesh.Internal.
listen: {htp: "127.0.0.1:0"}
registries:
  - name: a
    consul: {address: 17}
  - name: a
  - file: {path: /etc/static.d}
`)
	proxy := filepath.Join(dir, "proxy.yaml")
	writeFile(t, proxy, "control: 192.0.2.1:15010\nadmin: nowhere\nupstream: [web]\n")
	for _, c := range []struct {
		name string
		argv []string
		want []string
	}{
		{"mesh control", []string{bin(t, "mesh"), "control", "--config", control}, []string{control + ":2: listen.htp", control + ":7: registries[2].name"}},
		{"mesh check", []string{bin(t, "mesh"), "check", control, proxy}, []string{control + ":2: listen.htp", proxy + ":3: upstream"}},
		{"mesh-proxy", []string{bin(t, "mesh-proxy"), "--config", proxy}, []string{proxy + ":3: upstream"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := run(t, c.argv...)
			if code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
			if strings.Contains(out, "listening") {
				t.Errorf("it started something:\n%s", out)
			}
		})
	}
}
