package consul_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/registry/consul"
)

// block returns what README.md has in its first block of that language.
func block(t *testing.T, language string) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```"+language+"\n")
	text, _, ended := strings.Cut(rest, "```")
	if !ok || !ended {
		t.Fatalf("README.md has no block of %s", language)
	}
	return text
}

// TestREADME runs the example and holds the policy that the suite runs with to the one that is told.
func TestREADME(t *testing.T) {
	var file struct {
		Registries []struct {
			Name   string        `yaml:"name"`
			Consul consul.Config `yaml:"consul"`
		} `yaml:"registries"`
	}
	if err := yamlpos.Decode("README.md", []byte(block(t, "yaml")), &file); err != nil {
		t.Fatal(err)
	}
	want := consul.Config{
		Address: "https://127.0.0.1:8501", CAFile: "/etc/hostmesh/consul-ca.pem",
		TokenFile: "/run/credentials/mesh-control.service/consul-token",
	}
	if diff := cmp.Diff(want, file.Registries[0].Consul); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := consul.New(file.Registries[0].Consul, nil); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(minimalRules), strings.TrimSpace(block(t, "hcl"))); diff != "" {
		t.Errorf("the suite runs with another policy than README.md gives (-tests +README):\n%s", diff)
	}
}

func TestCheck(t *testing.T) {
	good := consul.Config{Address: "127.0.0.1:8500"}
	no := false
	for name, test := range map[string]struct {
		change func(*consul.Config)
		want   []string
	}{
		"least":       {func(*consul.Config) {}, nil},
		"ipv6":        {func(c *consul.Config) { c.Address = "https://[::1]:8501" }, nil},
		"unix":        {func(c *consul.Config) { c.Address = "unix:///run/consul.sock" }, nil},
		"everything":  {func(c *consul.Config) { *c = full(&no) }, nil},
		"no address":  {func(c *consul.Config) { c.Address = "" }, []string{"address"}},
		"no port":     {func(c *consul.Config) { c.Address = "127.0.0.1" }, []string{"address"}},
		"bad port":    {func(c *consul.Config) { c.Address = "127.0.0.1:99999" }, []string{"address"}},
		"scheme":      {func(c *consul.Config) { c.Address = "ftp://127.0.0.1:1" }, []string{"address"}},
		"path":        {func(c *consul.Config) { c.Address = "http://127.0.0.1:1/v1" }, []string{"address"}},
		"user":        {func(c *consul.Config) { c.Address = "http://u:p@127.0.0.1:1" }, []string{"address"}},
		"ca on http":  {func(c *consul.Config) { c.CAFile = "/ca" }, []string{"address"}},
		"half a pair": {func(c *consul.Config) { c.Address, c.KeyFile = "https://h:1", "/key" }, []string{"certFile"}},
		"relative":    {func(c *consul.Config) { c.TokenFile = "token" }, []string{"tokenFile"}},
		"all at once": {func(c *consul.Config) {
			*c = consul.Config{
				Datacenters: []string{"dc1", "dc1"}, Services: []string{"", "a/../b"}, Namespace: "No",
				MaxStale: -1, WaitTime: time.Hour, MaxConnections: 1,
			}
		}, []string{"address", "datacenters[1]", "services[0]", "services[1]", "namespace", "maxStale", "waitTime", "maxConnections"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			test.change(&cfg)
			var got []string
			cfg.Check(func(path, value, want string) {
				if value == "" || want == "" {
					t.Errorf("%s: got %q, want %q: one is not told", path, value, want)
				}
				got = append(got, path)
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, err := consul.New(cfg, nil); (err != nil) != (len(got) > 0) {
				t.Errorf("New: %v", err)
			}
		})
	}
}

func full(stale *bool) consul.Config {
	return consul.Config{
		Address: "https://consul.example:8501", TokenFile: "/t", CAFile: "/ca", CertFile: "/c", KeyFile: "/k", ServerName: "server.dc1.consul",
		Datacenters: []string{"dc1", "dc2"}, Services: []string{"web", "team/web"}, Tags: []string{"mesh"}, Meta: map[string]string{"env": "prod"},
		Namespace: "shop", TaggedAddress: "wan", Stale: stale, MaxStale: time.Second, WaitTime: time.Minute, MaxConnections: 64,
	}
}
