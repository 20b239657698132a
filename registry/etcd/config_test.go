package etcd_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/etcd"
)

// blocks returns what README.md has in its blocks of that language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		all = append(all, strings.TrimSpace(m[1]))
	}
	return all
}

func TestREADMEConfiguration(t *testing.T) {
	t.Parallel()
	var file struct {
		Registries []struct {
			Name string      `yaml:"name"`
			Etcd etcd.Config `yaml:"etcd"`
		} `yaml:"registries"`
	}
	if err := yamlpos.Decode("README.md", []byte(blocks(t, "yaml")[0]), &file); err != nil {
		t.Fatal(err)
	}
	want := etcd.Config{
		Endpoints: []string{"https://etcd-1:2379", "https://etcd-2:2379", "https://etcd-3:2379"}, CAFile: "/etc/hostmesh/etcd-ca.pem",
		Username: "hostmesh", PasswordFile: "/run/credentials/mesh-control.service/etcd-password",
	}
	if diff := cmp.Diff(want, file.Registries[0].Etcd); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := etcd.New(file.Registries[0].Etcd, nil); err != nil {
		t.Error(err)
	}
}

// TestREADMELayouts does what README.md tells, on a real server with the role that it gives.
func TestREADMELayouts(t *testing.T) {
	t.Parallel()
	shell, values := blocks(t, "sh"), blocks(t, "json")
	put := regexp.MustCompile(`etcdctl put --lease=\$LEASE (\S+) '(.*)'`).FindStringSubmatch(shell[0])
	role := regexp.MustCompile(`grant-permission hostmesh read --prefix (\S+)`).FindStringSubmatch(shell[1])
	if put == nil || role == nil || len(values) != 2 {
		t.Fatal("README.md does not have its examples where they were")
	}
	server := testbed.StartEtcd(t, testbed.EtcdOptions{Auth: true})[0]
	client := server.Client()
	addUser(t, client, "hostmesh", password, role[1])
	grant(t, client, "hostmesh", "/services/")
	grant(t, client, "hostmesh", "/skydns/local/skydns/")
	lease, err := client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), put[1], put[2], clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	write(t, server, "/services/shop/web/10.0.0.1:50051", values[0])
	write(t, server, "/skydns/local/skydns/web/1", values[1])
	write(t, server, "/skydns/local/skydns/east/api/1", values[1])
	write(t, server, "/skydns/local/other/web/1", values[1])

	user := etcd.Config{Endpoints: []string{server.Address}, Username: "hostmesh", PasswordFile: secretFile(t, password)}
	with := func(change func(*etcd.Config)) etcd.Config { c := user; change(&c); return c }
	hostmesh := watch(t, user)
	v := hostmesh.sees(t, "layout hostmesh", exactly("shop/web web-1"))
	if e := v.Services[0].Endpoints[0]; e.Port("") != 8080 || e.Labels["version"] != "v1" || v.Services[0].Ports[0].Protocol != registry.HTTP {
		t.Errorf("got %+v", e)
	}
	v = watch(t, with(func(c *etcd.Config) { c.Layout, c.Prefix = "grpc", "/services/" })).sees(t, "layout grpc", exactly("default/shop-web 10.0.0.1:50051"))
	if e := v.Services[0].Endpoints[0]; e.Weight != 3 || e.Labels["zone"] != "eu-1" {
		t.Errorf("got %+v", e)
	}
	v = watch(t, with(func(c *etcd.Config) { c.Layout, c.Domain = "skydns", "skydns.local." })).sees(t, "layout skydns", exactly("default/api-east 1", "default/web 1"))
	if e := v.Services[0].Endpoints[0]; e.Weight != 5 || e.Labels["priority"] != "10" {
		t.Errorf("got %+v", e)
	}
	if _, err := client.Revoke(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	hostmesh.sees(t, "the end of the lease", exactly())
	wrong := watch(t, with(func(c *etcd.Config) { c.Prefix = "/services/" }))
	wrong.fails(t, "the wrong layout", "set layout: grpc")
	if wrong.published() > 0 {
		t.Error("a view was published")
	}
}

// TestNamingOfEtcd reads what etcd's own package writes.
func TestNamingOfEtcd(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	manager, err := endpoints.NewManager(server.Client(), "services/greeter")
	if err != nil {
		t.Fatal(err)
	}
	add := func(addr string, metadata any) {
		t.Helper()
		if err := manager.AddEndpoint(t.Context(), "services/greeter/"+addr, endpoints.Endpoint{Addr: addr, Metadata: metadata}); err != nil {
			t.Fatal(err)
		}
	}
	add("10.0.0.1:50051", nil)
	w := watch(t, etcd.Config{Endpoints: []string{server.Address}, Layout: "grpc", Prefix: "services/"})
	w.sees(t, "one", exactly("default/greeter 10.0.0.1:50051"))
	add("10.0.0.2:50051", map[string]any{"zone": "a", "weight": 4})
	v := w.sees(t, "both", exactly("default/greeter 10.0.0.1:50051", "default/greeter 10.0.0.2:50051"))
	if e := v.Services[0].Endpoints[1]; e.Weight != 4 || e.Labels["zone"] != "a" || e.Port("") != 50051 || v.Services[0].Ports[0].Protocol != registry.GRPC {
		t.Errorf("got %+v", e)
	}
	if err := manager.DeleteEndpoint(t.Context(), "services/greeter/10.0.0.1:50051"); err != nil {
		t.Fatal(err)
	}
	w.sees(t, "the second", exactly("default/greeter 10.0.0.2:50051"))
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*etcd.Config)
		want   []string
	}{
		"least":      {func(*etcd.Config) {}, nil},
		"several":    {func(c *etcd.Config) { c.Endpoints = []string{"http://[::1]:1", "https://h:2/", "h:3"} }, nil},
		"everything": {func(c *etcd.Config) { *c = everything() }, nil},
		"skydns":     {func(c *etcd.Config) { c.Layout, c.Domain = "skydns", "Skydns.local." }, nil},
		"none":       {func(c *etcd.Config) { c.Endpoints = nil }, []string{"endpoints"}},
		"addresses": {func(c *etcd.Config) {
			c.Endpoints = []string{"h", "ftp://h:1", "http://h:0", "http://h:1/v3", "http://u:p@h:1", "", ":1"}
		}, []string{"endpoints[0]", "endpoints[1]", "endpoints[2]", "endpoints[3]", "endpoints[4]", "endpoints[5]", "endpoints[6]"}},
		"twice":          {func(c *etcd.Config) { c.Endpoints = []string{"h:1", "http://h:1"} }, []string{"endpoints[1]"}},
		"ca on http":     {func(c *etcd.Config) { c.Endpoints, c.CAFile = []string{"h:1", "http://h:2"}, "/ca" }, []string{"endpoints[1]"}},
		"layout":         {func(c *etcd.Config) { c.Layout = "consul" }, []string{"layout"}},
		"grpc":           {func(c *etcd.Config) { c.Layout = "grpc" }, []string{"prefix"}},
		"prefix":         {func(c *etcd.Config) { c.Prefix = "/services" }, []string{"prefix"}},
		"no domain":      {func(c *etcd.Config) { c.Layout = "skydns" }, []string{"domain"}},
		"bad domain":     {func(c *etcd.Config) { c.Layout, c.Domain = "skydns", "a/b" }, []string{"domain"}},
		"needless":       {func(c *etcd.Config) { c.Domain = "a.b" }, []string{"domain"}},
		"half a user":    {func(c *etcd.Config) { c.Username = "u" }, []string{"username"}},
		"half a pair":    {func(c *etcd.Config) { c.Endpoints, c.KeyFile = []string{"https://h:1"}, "/key" }, []string{"certFile"}},
		"relative":       {func(c *etcd.Config) { c.Username, c.PasswordFile = "u", "password" }, []string{"passwordFile"}},
		"namespace":      {func(c *etcd.Config) { c.Namespace = "No" }, []string{"namespace"}},
		"host namespace": {func(c *etcd.Config) { c.Namespace = "host" }, []string{"namespace"}},
		"times": {func(c *etcd.Config) { c.DialTimeout, c.KeepAliveTime, c.KeepAliveTimeout = -1, time.Hour, 1 }, []string{
			"dialTimeout", "keepAliveTime", "keepAliveTimeout",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := etcd.Config{Endpoints: []string{"127.0.0.1:2379"}}
			test.change(&cfg)
			var got []string
			cfg.Check(func(path, value, want string) {
				if value == "" || want == "" || strings.Contains(value, "u:p") {
					t.Errorf("%s: got %q, want %q", path, value, want)
				}
				got = append(got, path)
			})
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if _, err := etcd.New(cfg, nil); (err != nil) != (len(got) > 0) {
				t.Errorf("New: %v", err)
			}
		})
	}
}

func everything() etcd.Config {
	return etcd.Config{
		Endpoints: []string{"https://etcd.example:2379"}, Layout: "hostmesh", Prefix: "/mesh/", Namespace: "shop", Username: "u", PasswordFile: "/p",
		CAFile: "/ca", CertFile: "/c", KeyFile: "/k", ServerName: "etcd", DialTimeout: time.Second, KeepAliveTime: time.Second, KeepAliveTimeout: time.Second,
	}
}
