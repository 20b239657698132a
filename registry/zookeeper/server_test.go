package zookeeper_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/zookeeper"
)

const (
	patience = 30 * time.Second
	good     = `{"name":"web","id":"1","address":"10.0.0.1","port":80}`
)

// plant creates nodes, each with the data that follows it, and those above them without data.
func plant(t *testing.T, conn *zk.Conn, acl []zk.ACL, pathsAndData ...string) {
	t.Helper()
	for i := 0; i < len(pathsAndData); i += 2 {
		path := pathsAndData[i]
		for at := 1; at < len(path); at++ {
			if path[at] != '/' {
				continue
			}
			if _, err := conn.Create(path[:at], nil, 0, acl); err != nil && !errors.Is(err, zk.ErrNodeExists) {
				t.Fatalf("create %s: %v", path[:at], err)
			}
		}
		if _, err := conn.Create(path, []byte(pathsAndData[i+1]), 0, acl); err != nil {
			t.Fatalf("create %s: %v", path, err)
		}
	}
}

// watching is a Watch that runs until the test ends.
type watching struct {
	views chan registry.View
	ended chan error
}

func watch(t *testing.T, cfg zookeeper.Config) *watching {
	t.Helper()
	r, err := zookeeper.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &watching{make(chan registry.View, 1000), make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- r.Watch(ctx, func(v registry.View) { w.views <- v })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// await returns the first view that fits.
func (w *watching) await(t *testing.T, what string, fits func(registry.View) bool) registry.View {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case v := <-w.views:
			if fits(v) {
				return v
			}
		case err := <-w.ended:
			t.Fatalf("%s: Watch ended with %v", what, err)
		case <-timeout:
			t.Fatalf("%s: not seen", what)
		}
	}
}

// failure returns the error that Watch ends with.
func (w *watching) failure(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(patience):
		t.Fatal("Watch goes on")
		return nil
	}
}

func TestMistakesAreTold(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{Mode: testbed.ZooKeeperTLS})[0]
	conn := server.Client()
	world := zk.WorldACL(zk.PermAll)
	plant(t, conn, world, "/curator/web/1", good)
	if err := conn.AddAuth("digest", []byte("apps:apps-password")); err != nil {
		t.Fatal(err)
	}
	plant(t, conn, minimalACL(), "/closed/web/1", good)
	if _, err := conn.Create("/curator/web/ephemeral", []byte(good), zk.FlagEphemeral, world); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	certs := server.Certs
	other := testbed.NewCerts(t)
	plain := zookeeper.Config{Servers: []string{server.Address}}
	secure := zookeeper.Config{
		Servers: []string{server.TLSAddress}, CAFile: certs.CAFile, CertFile: certs.ClientCertFile, KeyFile: certs.ClientKeyFile,
	}
	for name, test := range map[string]struct {
		base   zookeeper.Config
		change func(*zookeeper.Config)
		want   string
		denied bool
	}{
		"nobody listens":        {plain, func(c *zookeeper.Config) { c.Servers = []string{closed.Addr().String()} }, "connection refused", false},
		"no such host":          {plain, func(c *zookeeper.Config) { c.Servers = []string{"zk.invalid:2181"} }, "zk.invalid", false},
		"no such root":          {plain, func(c *zookeeper.Config) { c.Root = "/nowhere" }, "read /nowhere: there is no such node: see root", false},
		"the TLS port in clear": {plain, func(c *zookeeper.Config) { c.Servers = []string{server.TLSAddress} }, "the port wants TLS", false},
		"TLS to the plain port": {secure, func(c *zookeeper.Config) { c.Servers = []string{server.Address} }, "is this the port without TLS?", false},
		"another authority":     {secure, func(c *zookeeper.Config) { c.CAFile = other.CAFile }, "see caFile", false},
		"another name":          {secure, func(c *zookeeper.Config) { c.ServerName = "zk.example.com" }, "see caFile and serverName", false},
		"no client certificate": {secure, func(c *zookeeper.Config) { c.CertFile, c.KeyFile = "", "" }, "see certFile", false},
		"no CA file":            {secure, func(c *zookeeper.Config) { c.CAFile = "/nowhere/ca.pem" }, "read CA file", false},
		"no password file":      {plain, func(c *zookeeper.Config) { c.Username, c.PasswordFile = "mesh", "/nowhere/password" }, "read password", false},
		"no credentials":        {plain, func(c *zookeeper.Config) { c.Root = "/closed" }, "set username and passwordFile", true},
		"a wrong password": {plain, func(c *zookeeper.Config) {
			c.Root, c.Username, c.PasswordFile = "/closed", "mesh", passwordFile(t, "guess")
		}, "see that passwordFile is right", true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := test.base
			test.change(&cfg)
			err := watch(t, cfg).failure(t)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if errors.Is(err, registry.ErrPermission) != test.denied {
				t.Errorf("%v: it is ErrPermission: %t, want %t", err, !test.denied, test.denied)
			}
			if err != nil && strings.Contains(err.Error(), "guess") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestMinimalPermission(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	conn := server.Client()
	plant(t, conn, zk.WorldACL(zk.PermAll), "/world/web/1", good)
	if err := conn.AddAuth("digest", []byte("apps:apps-password")); err != nil {
		t.Fatal(err)
	}
	plant(t, conn, minimalACL(), "/digest/web/1", good, "/digest/secret/1", good)
	read := append(zk.WorldACL(zk.PermRead), zk.DigestACL(zk.PermAll, "apps", "apps-password")...)
	for _, path := range []string{"/world", "/world/web", "/world/web/1"} {
		if _, err := conn.SetACL(path, read, -1); err != nil {
			t.Fatal(err)
		}
	}
	one := func(v registry.View) bool { return len(v.Services) > 0 && len(v.Problems) == 0 }
	watch(t, zookeeper.Config{Servers: []string{server.Address}, Root: "/world"}).await(t, "world:anyone:r", one)
	cfg := zookeeper.Config{
		Servers: []string{server.Address}, Root: "/digest", Username: "mesh", PasswordFile: passwordFile(t, "mesh-password"),
	}
	w := watch(t, cfg)
	w.await(t, "digest:mesh:r", one)

	// A permission that is lost on one node, of which ZooKeeper tells nobody.
	if _, err := conn.SetACL("/digest/secret/1", withoutMesh(), -1); err != nil {
		t.Fatal(err)
	}
	if err := w.failure(t); !errors.Is(err, registry.ErrPermission) || !strings.Contains(err.Error(), "/digest/secret/1") {
		t.Errorf("got %v, want ErrPermission for the node", err)
	}
	cfg.Exclude = []string{"secret"}
	v := watch(t, cfg).await(t, "the rest", one)
	if len(v.Services) != 1 || v.Services[0].Name.Name != "web" {
		t.Errorf("got %v, want web alone", v.Services)
	}
}

// Each layout is told from each tree that another one wrote, also when the tree is written after Watch began.
func TestWrongLayoutIsTold(t *testing.T) {
	conn := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})
	server, client := conn[0], conn[0].Client()
	trees := []struct{ name, layout, below, data string }{
		{"curator", "curator", "orders/o1", `{"name":"orders","id":"o1","address":"10.0.0.1","port":80,"payload":null}`},
		{"smartstack", "nerve", "orders/services/i_0000000001", `{"host":"10.0.0.1","port":80}`},
		{"nerve", "nerve", "orders/i_0000000001", `{"host":"10.0.0.1","port":80}`},
		{"encoded", "nerve", "orders/base64_40_eyJob3N0IjoiMTI3LjAuMC4xIiwicG9ydCI6MX0=_0000000001", ""},
		{"serverset", "serverset", "orders/member_0000000001", `{"serviceEndpoint":{"host":"10.0.0.1","port":80},"status":"ALIVE"}`},
		{"aurora", "serverset", "role/prod/orders/member_0000000001", `{"serviceEndpoint":{"host":"10.0.0.1","port":80},"status":"ALIVE"}`},
		{"dubbo", "dubbo", "com.acme.Orders/providers/dubbo%3A%2F%2F10.0.0.1%3A20880%2Fcom.acme.Orders", ""},
	}
	for _, tree := range trees {
		for _, layout := range []string{"curator", "nerve", "serverset", "dubbo"} {
			if layout == tree.layout {
				continue
			}
			for _, late := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s as %s late=%t", tree.name, layout, late), func(t *testing.T) {
					root := fmt.Sprintf("/%s-%s-%t", tree.name, layout, late)
					cfg := zookeeper.Config{Servers: []string{server.Address}, Layout: layout, Root: root}
					world := zk.WorldACL(zk.PermAll)
					var w *watching
					if late {
						plant(t, client, world, root, "")
						w = watch(t, cfg)
						w.await(t, "the empty root", func(v registry.View) bool { return len(v.Services) == 0 })
						plant(t, client, world, root+"/"+tree.below, tree.data)
					} else {
						plant(t, client, world, root+"/"+tree.below, tree.data)
						w = watch(t, cfg)
					}
					if err := w.failure(t); err == nil || !strings.Contains(err.Error(), "looks like layout "+tree.layout+": see layout") {
						t.Errorf("got %v, want that it looks like layout %s", err, tree.layout)
					}
				})
			}
		}
	}
}

// A root that is not there is told; the Catalog has its services soon after the first registration, and keeps them when
// the root is deleted whole and made again.
func TestRootComesLater(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	conn := server.Client()
	r, err := zookeeper.New(zookeeper.Config{Servers: []string{server.Address}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	catalog := run(t, r)
	eventually(t, "the missing root is told", func() bool {
		return strings.Contains(catalog.Sources()[0].Error, "/services: there is no such node")
	})
	plant(t, conn, zk.WorldACL(zk.PermAll), "/services/web/1", good)
	began := time.Now()
	eventually(t, "the service", func() bool { s, _ := catalog.Current(); return len(s.Services) == 1 })
	t.Logf("the service is there %s after it was registered", time.Since(began))
}

// One address that provides two versions of an interface is one endpoint of the Catalog, and a conflict tells of it.
func TestDubboVersions(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	const provider = "/dubbo/com.acme.Orders/providers/dubbo%3A%2F%2F10.0.0.1%3A20880%2Fcom.acme.Orders%3Fversion%3D"
	plant(t, server.Client(), zk.WorldACL(zk.PermAll), provider+"1.0", "", provider+"2.0", "")
	r, err := zookeeper.New(zookeeper.Config{Servers: []string{server.Address}, Layout: "dubbo"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	catalog := run(t, r)
	eventually(t, "the service", func() bool { s, _ := catalog.Current(); return len(s.Services) == 1 })
	snapshot, _ := catalog.Current()
	s := snapshot.Services[0]
	if len(s.Endpoints) != 1 || s.Endpoints[0].Labels["version"] != "1.0" {
		t.Errorf("got endpoints %+v, want one of version 1.0", s.Endpoints)
	}
	if !slices.ContainsFunc(s.Conflicts, func(c registry.Conflict) bool { return strings.Contains(c.Text, "version=2.0") }) {
		t.Errorf("got conflicts %v, want one that names version 2.0", s.Conflicts)
	}
	t.Logf("conflicts: %v", s.Conflicts)
}

// run has a Catalog run a registry until the test ends.
func run(t *testing.T, r registry.Registry) *registry.Catalog {
	t.Helper()
	catalog, err := registry.NewCatalog([]registry.Source{{Name: "zk", Kind: "zookeeper", Registry: r}}, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = catalog.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return catalog
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": not seen")
		}
	}
}

// Nodes that are too large together come one by one, and one that is too large hides no other.
func TestLargeNodes(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	conn := server.Client()
	junk := strings.Repeat("x", 1_000_000)
	for i := range 40 {
		plant(t, conn, zk.WorldACL(zk.PermAll), fmt.Sprintf("/services/web/%d", i), junk, fmt.Sprintf("/services/web/good-%d", i), good)
	}
	v := watch(t, zookeeper.Config{Servers: []string{server.Address}}).await(t, "a view", func(registry.View) bool { return true })
	if len(v.Services) != 1 || len(v.Services[0].Endpoints) != 40 || len(v.Problems) != 40 || v.Problems[0].Kind != "size" {
		t.Errorf("got %d services and %d problems, want one of 40 endpoints, and 40 of kind size", len(v.Services), len(v.Problems))
	}
}

// A node that cannot be read is told and skipped, its siblings stay, and so does its last good word. Who goes with its
// session goes from the view; who comes back is there again.
func TestTree(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	for name, address := range map[string]string{"new server": server.Address, "old server": oldServer(t, server.Address)} {
		t.Run(name, func(t *testing.T) { testTree(t, server, address) })
	}
}

func testTree(t *testing.T, server *testbed.ZooKeeper, address string) {
	conn := server.Client()
	world := zk.WorldACL(zk.PermAll)
	plant(t, conn, world, "/services/web/1", good, "/services/web/bad", "junk", "/services/web/named", `{"address":"web-1.example.com","port":80}`,
		"/services/web/null", "")
	w := watch(t, zookeeper.Config{Servers: []string{address}, Namespace: "shop"})
	endpoints := func(n, problems int) func(registry.View) bool {
		return func(v registry.View) bool {
			have := 0
			for _, s := range v.Services {
				have += len(s.Endpoints)
			}
			return have == n && len(v.Problems) == problems
		}
	}
	v := w.await(t, "one good, three bad", endpoints(1, 3))
	if got := v.Services[0].Name.String(); got != "shop/web" {
		t.Errorf("got %s, want shop/web", got)
	}
	if p := v.Problems[0]; p.Object != "/services/web/bad" || !strings.Contains(p.Reason, `got "junk"`) {
		t.Errorf("got problem %+v", p)
	}
	kinds := ""
	for _, p := range v.Problems {
		kinds += p.Kind + " "
	}
	if kinds != "syntax address syntax " {
		t.Errorf("got problems of kinds %s", kinds)
	}
	set := func(path, data string) {
		t.Helper()
		if _, err := conn.Set(path, []byte(data), -1); err != nil {
			t.Fatal(err)
		}
	}
	set("/services/web/bad", good)
	w.await(t, "the bad one mended", endpoints(2, 2))
	set("/services/web/1", "junk")
	w.await(t, "the good one broken: its last word stays", endpoints(2, 3))
	if _, err := conn.Multi(&zk.DeleteRequest{Path: "/services/web/1", Version: -1}, &zk.CreateRequest{Path: "/services/web/1", Data: []byte("junk"), Acl: world}); err != nil {
		t.Fatal(err)
	}
	w.await(t, "another broken one in its place: whose last word it was is gone", endpoints(1, 3))
	if err := conn.Delete("/services/web/1", -1); err != nil {
		t.Fatal(err)
	}
	w.await(t, "the broken one gone", endpoints(1, 2))

	short, _, err := zk.Connect([]string{server.Address}, 2*time.Second, zk.WithLogger(silent{}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := short.Create("/services/web/ephemeral", []byte(good), zk.FlagEphemeral, world); err != nil {
		t.Fatal(err)
	}
	w.await(t, "the ephemeral one", endpoints(2, 2))
	short.Close()
	w.await(t, "the ephemeral one gone", endpoints(1, 2))

	for _, p := range []string{"/services/web/bad", "/services/web/named", "/services/web/null", "/services/web", "/services"} {
		if err := conn.Delete(p, -1); err != nil {
			t.Fatal(err)
		}
	}
	w.await(t, "an empty tree", endpoints(0, 0))
	plant(t, conn, world, "/services/api/1", good)
	w.await(t, "the tree again", endpoints(1, 0))
	for _, p := range []string{"/services/api/1", "/services/api", "/services"} {
		if err := conn.Delete(p, -1); err != nil {
			t.Fatal(err)
		}
	}
}
