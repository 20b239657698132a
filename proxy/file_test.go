package proxy

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

var compareAddr = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.yaml")
	text := `
node: {id: web-1, cluster: shop, locality: {region: eu, zone: a, subZone: r1}}
control: 127.0.0.1:15010
admin: 127.0.0.1:25000
outbound: 127.0.0.1:25001
upstreams: [web, shop/orders]
services: /srv/services.d
gossip: {bind: "127.0.0.1:7946", join: ["127.0.0.1:7947"]}
state: /srv/state
accessLog: /var/log/mesh.log
drainTime: 3s
loops: 2
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Node:    FileNode{ID: "web-1", Cluster: "shop", Locality: FileLocality{"eu", "a", "r1"}},
		Control: "127.0.0.1:15010", Admin: netip.MustParseAddrPort("127.0.0.1:25000"), Outbound: netip.MustParseAddrPort("127.0.0.1:25001"),
		Upstreams: []string{"web", "shop/orders"}, Services: "/srv/services.d",
		Gossip: &gossip.Config{Bind: netip.MustParseAddrPort("127.0.0.1:7946"), Join: []string{"127.0.0.1:7947"}},
		State:  "/srv/state", AccessLog: "/var/log/mesh.log", DrainTime: 3 * time.Second, Loops: 2,
	}
	if diff := cmp.Diff(want, f, compareAddr); diff != "" {
		t.Error(diff)
	}
	b := f.Bootstrap()
	wantNode := xds.Node{
		ID: "web-1", Cluster: "shop", Locality: config.Locality{Region: "eu", Zone: "a", SubZone: "r1"},
		Metadata: map[string]any{"outbound": "127.0.0.1:25001", "upstreams": []any{"web", "shop/orders"}},
	}
	if diff := cmp.Diff(wantNode, b.Node); diff != "" || b.Control != f.Control || b.Admin != f.Admin {
		t.Errorf("got bootstrap %+v\n%s", b, diff)
	}
	if _, err := xds.New(xds.Options{Bootstrap: b}); err != nil {
		t.Errorf("the bootstrap is not taken: %v", err)
	}
}

func TestReadFileDefaults(t *testing.T) {
	f, err := ParseFile("proxy.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Node: FileNode{ID: strings.ToLower(host)}, Control: "unix:/run/hostmesh/xds.sock", AdminSocket: "/run/hostmesh/admin.sock",
		Admin: netip.MustParseAddrPort("127.0.0.1:15000"), Outbound: netip.MustParseAddrPort("127.0.0.1:15001"),
		Services: "/etc/hostmesh/services.d", State: "/var/lib/hostmesh", DrainTime: 10 * time.Second,
	}
	if diff := cmp.Diff(want, f, compareAddr); diff != "" {
		t.Error(diff)
	}
}

func TestReadFileTellsAllMistakesAtOnce(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"structure", "node: {idd: x}\nloops: many\nnope: 1\n", []string{
			"p.yaml:1: node.idd: got ", "p.yaml:2: loops: got ", "p.yaml:3: nope: got ",
		}},
		{"values", `node: {id: "-x"}
control: 10.0.0.1:15010
admin: 0.0.0.0:15000
outbound: 10.0.0.1:15001
upstreams: [web, "a/b/c", Web]
services: services.d
state: s
accessLog: log
loops: 65
`, []string{
			`p.yaml:1: node.id: got "-x", want a host name`,
			`p.yaml:2: control: got "10.0.0.1:15010", want unix:/path or a loopback address`,
			`p.yaml:3: admin: got 0.0.0.0:15000, want a loopback address`,
			`p.yaml:4: outbound: got 10.0.0.1:15001, want a loopback address`,
			`p.yaml:5: upstreams[1]: got "a/b/c", want name, namespace/name or *`,
			`p.yaml:5: upstreams[2]: got "Web", want`,
			`p.yaml:6: services: got "services.d", want an absolute path`,
			`p.yaml:7: state: got "s", want an absolute path`,
			`p.yaml:8: accessLog: got "log", want an absolute path or off`,
			`p.yaml:9: loops: got 65, want 0 to 64`,
		}},
		{"dns", "dns:\n  domain: Mesh.internal.\n  listen: 127.64.0.53:53\n", []string{
			`p.yaml:2: dns.domain: got "Mesh.internal.", want a domain in lower case`,
			`p.yaml:3: dns.listen: got 127.64.0.53:53, want a loopback address and port, such as 127.15.0.53:53, not in 127.64.0.0/10`,
		}},
		{"dns elsewhere", "dns: {listen: \"10.0.0.1:53\"}\n", []string{`p.yaml:1: dns.listen: got 10.0.0.1:53, want a loopback address`}},
		{"gossip", "gossip: {bind: \"10.0.0.1:7946\"}\n", []string{"p.yaml:1: gossip.keyFile: got nothing, want a file with a key"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseFile("p.yaml", []byte(c.text))
			if err == nil {
				t.Fatal("got no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("got %d mistakes, want %d:\n%v", len(lines), len(c.want), err)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("got %q, want %q", lines[i], want)
				}
			}
		})
	}
}
