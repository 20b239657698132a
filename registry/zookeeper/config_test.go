package zookeeper_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/registry/zookeeper"
)

func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```yaml\n")
	block, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("README.md has no example")
	}
	var file struct {
		Registries []struct {
			Name      string            `yaml:"name"`
			ZooKeeper *zookeeper.Config `yaml:"zookeeper"`
		} `yaml:"registries"`
	}
	if err := yamlpos.Decode("README.md", []byte(block), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Registries) != 2 {
		t.Fatalf("%d registries, want 2", len(file.Registries))
	}
	want := &zookeeper.Config{
		Servers: []string{"zk1.example.com:2181", "zk2.example.com:2181", "zk3.example.com:2181"}, Layout: "curator", Root: "/services",
		Username: "mesh", PasswordFile: "/run/credentials/mesh-control.service/zookeeper-password",
	}
	if d := cmp.Diff(want, file.Registries[0].ZooKeeper); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, r := range file.Registries {
		if _, err := zookeeper.New(*r.ZooKeeper, nil); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*zookeeper.Config)
		want   string // the path that is reported, "" for none
	}{
		"good":               {func(*zookeeper.Config) {}, ""},
		"no servers":         {func(c *zookeeper.Config) { c.Servers = nil }, "servers"},
		"a server twice":     {func(c *zookeeper.Config) { c.Servers = append(c.Servers, c.Servers[0]) }, "servers[1]"},
		"no port":            {func(c *zookeeper.Config) { c.Servers[0] = "zk1" }, "servers[0]"},
		"port 0":             {func(c *zookeeper.Config) { c.Servers[0] = "zk1:0" }, "servers[0]"},
		"a chroot":           {func(c *zookeeper.Config) { c.Servers[0] = "zk1:2181/mesh" }, "servers[0]"},
		"unknown layout":     {func(c *zookeeper.Config) { c.Layout = "eureka" }, "layout"},
		"nerve without root": {func(c *zookeeper.Config) { c.Layout = "nerve" }, "root"},
		"serverset, no root": {func(c *zookeeper.Config) { c.Layout = "serverset" }, "root"},
		"dubbo without root": {func(c *zookeeper.Config) { c.Layout = "dubbo" }, ""},
		"relative root":      {func(c *zookeeper.Config) { c.Root = "services" }, "root"},
		"root is all":        {func(c *zookeeper.Config) { c.Root = "/" }, "root"},
		"root with dots":     {func(c *zookeeper.Config) { c.Root = "/a/../b" }, "root"},
		"root with control":  {func(c *zookeeper.Config) { c.Root = "/a\x01" }, "root"},
		"bad glob":           {func(c *zookeeper.Config) { c.Exclude = []string{"["} }, "exclude[0]"},
		"absolute glob":      {func(c *zookeeper.Config) { c.Exclude = []string{"/web"} }, "exclude[0]"},
		"user alone":         {func(c *zookeeper.Config) { c.Username = "mesh" }, "passwordFile"},
		"password alone":     {func(c *zookeeper.Config) { c.PasswordFile = "/p" }, "username"},
		"user with colon":    {func(c *zookeeper.Config) { c.Username, c.PasswordFile = "a:b", "/p" }, "username"},
		"relative file":      {func(c *zookeeper.Config) { c.CAFile = "ca.pem" }, "caFile"},
		"half a certificate": {func(c *zookeeper.Config) { c.CertFile = "/c.pem" }, "certFile"},
		"short session":      {func(c *zookeeper.Config) { c.SessionTimeout = time.Millisecond }, "sessionTimeout"},
		"bad namespace":      {func(c *zookeeper.Config) { c.Namespace = "A" }, "namespace"},
		"reserved namespace": {func(c *zookeeper.Config) { c.Namespace = "host" }, "namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			c := zookeeper.Config{Servers: []string{"zk1:2181"}}
			test.change(&c)
			got := ""
			c.Check(func(path, _, _ string) { got += path })
			if got != test.want {
				t.Errorf("reported %q, want %q", got, test.want)
			}
			if _, err := zookeeper.New(c, nil); (err == nil) != (test.want == "") {
				t.Errorf("New: %v", err)
			}
		})
	}
}
