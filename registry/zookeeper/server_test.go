package zookeeper_test

import (
	"context"
	"errors"
	"net"
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
	plant(t, conn, world, "/curator/web/1", good, "/nerve/web/services/i_0000000001", `{"host":"10.0.0.1","port":80}`,
		"/flat/web/i_0000000001", `{"host":"10.0.0.1","port":80}`, "/sets/web/member_0000000001", `{"serviceEndpoint":{"host":"10.0.0.1","port":80}}`,
		"/dubbo/com.acme.Orders/providers/dubbo%3A%2F%2F10.0.0.1%3A1%2Fx", "")
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
		"nerve as curator":     {plain, func(c *zookeeper.Config) { c.Root = "/flat" }, "looks like layout nerve", false},
		"serverset as nerve":   {plain, func(c *zookeeper.Config) { c.Root, c.Layout = "/sets", "nerve" }, "looks like layout serverset", false},
		"serverset as curator": {plain, func(c *zookeeper.Config) { c.Root = "/sets" }, "looks like layout serverset", false},
		"dubbo as curator":     {plain, func(c *zookeeper.Config) { c.Root = "/dubbo" }, "looks like layout dubbo", false},
		"curator as nerve":     {plain, func(c *zookeeper.Config) { c.Root, c.Layout = "/curator", "nerve" }, "looks like layout curator", false},
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

// A node that cannot be read is told and skipped, its siblings stay, and so does its last good word. Who goes with its
// session goes from the view; who comes back is there again.
func TestTree(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	conn := server.Client()
	world := zk.WorldACL(zk.PermAll)
	plant(t, conn, world, "/services/web/1", good, "/services/web/bad", "junk", "/services/web/named", `{"address":"web-1.example.com","port":80}`,
		"/services/web/null", "")
	w := watch(t, zookeeper.Config{Servers: []string{server.Address}, Namespace: "shop"})
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
}
