package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestDocsHostRecipesNamespaceDig runs resolvers with what docs/dns-host.md has for them: they send the mesh's names to mesh-proxy.
func TestDocsHostRecipesNamespaceDig(t *testing.T) {
	if testbed.InNamespace(t, "10.77.0.1") {
		return
	}
	h := newNameHost(t, "")
	h.add(t, "web", 80)
	h.startPair(t)
	web := strings.TrimSpace(h.has(t, "127.", "+short", "web.mesh.internal"))
	for _, c := range []struct {
		info, around string // what else such a file has
		command      []string
	}{
		{"unbound host", "server:\n    interface: 127.0.0.1\n    username: \"\"\n    chroot: \"\"\n    directory: \"/\"\n    pidfile: \"\"\n    use-syslog: no\n    module-config: \"iterator\"\n", []string{"unbound", "-d", "-c"}},
		{"dnsmasq", "no-resolv\nno-hosts\nlisten-address=127.0.0.1\n", []string{"dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file=", "-C"}},
	} {
		t.Run(c.info, func(t *testing.T) {
			file, found := filepath.Join(t.TempDir(), "conf"), 0
			for _, b := range blocks(t) {
				if b.info == c.info {
					writeFile(t, file, c.around+b.text)
					found++
				}
			}
			if found != 1 {
				t.Fatalf("%d blocks in the documents", found)
			}
			p := start(t, c.info, append(c.command, file)...)
			defer p.kill()
			for _, name := range []string{"web.mesh.internal", "WEB.default.mesh.internal"} {
				h.has(t, web, "@127.0.0.1", "+recurse", "+short", name)
			}
			h.has(t, "NXDOMAIN", "@127.0.0.1", "+recurse", "missing.mesh.internal")
		})
	}
}
