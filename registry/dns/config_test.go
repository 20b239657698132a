package dns

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
)

// example returns the configuration that README.md shows.
func example(t *testing.T) Config {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```yaml\n")
	text, _, ended := strings.Cut(rest, "```")
	if !ok || !ended {
		t.Fatal("README.md has no block of yaml")
	}
	var file struct {
		Registries []struct {
			Name string `yaml:"name"`
			DNS  Config `yaml:"dns"`
		} `yaml:"registries"`
	}
	if err := yamlpos.Decode("README.md", []byte(text), &file); err != nil {
		t.Fatal(err)
	}
	return file.Registries[0].DNS
}

func TestCheck(t *testing.T) {
	good := Config{Services: []Service{{Name: "web", Host: "web.example.com", Port: 80}}}
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"least":  {func(*Config) {}, nil},
		"README": {func(c *Config) { *c = example(t) }, nil},
		"resolvers": {func(c *Config) {
			c.Resolvers = []string{"10.0.0.1", "10.0.0.1:5353", "tcp://10.0.0.1", "[2001:db8::1]:53", "2001:db8::1", "udp://dns.internal:53", "fe80::1%eth0"}
		}, nil},
		"no resolvers": {func(c *Config) {
			c.Resolvers = []string{"", "10.0.0.1:0", "10.0.0.1:x", "https://10.0.0.1/dns-query", "a b", "user@host"}
		}, []string{"resolvers[0]", "resolvers[1]", "resolvers[2]", "resolvers[3]", "resolvers[4]", "resolvers[5]"}},
		"both":     {func(c *Config) { c.Resolvers, c.ResolvConf = []string{"10.0.0.1"}, "/etc/resolv.conf" }, []string{"resolvConf"}},
		"relative": {func(c *Config) { c.ResolvConf = "resolv.conf" }, []string{"resolvConf"}},
		"union":    {func(c *Config) { c.Services = append(c.Services, Service{Name: "web", SRV: "_http._tcp.example.com"}) }, nil},
		"twice": {func(c *Config) {
			c.Services = append(c.Services, Service{Name: "default/web", Host: "WEB.example.com.", Port: 80})
		}, []string{"services[1]"}},
		"two ports": {func(c *Config) {
			c.Services = append(c.Services, Service{Name: "web", Host: "web.example.com", Port: 81})
		}, nil},
		"times": {
			func(c *Config) { c.MinTTL, c.MaxTTL, c.Timeout = time.Millisecond, 48*time.Hour, time.Minute },
			[]string{"minTTL", "maxTTL", "timeout"},
		},
		"interval and TTL":   {func(c *Config) { c.Interval, c.MinTTL = time.Second, time.Second }, []string{"interval"}},
		"least over largest": {func(c *Config) { c.MinTTL, c.MaxTTL = 2*time.Minute, time.Minute }, []string{"minTTL"}},
		"long least":         {func(c *Config) { c.MinTTL = time.Hour }, nil},
		"namespaces":         {func(c *Config) { c.Namespace = "host" }, []string{"namespace"}},
		"nothing":            {func(c *Config) { *c = Config{Namespace: "No"} }, []string{"namespace", "services"}},
		"names": {func(c *Config) {
			c.Services = []Service{
				{Name: "Web", Host: "a.example", Port: 1},
				{Name: "a/b/c", Host: "b.example", Port: 1},
				{Name: "host/b", Host: "c.example", Port: 1},
				{Name: "d", Host: "192.0.2.1", Port: 1},
				{Name: "e", Host: "a b", Port: 1},
				{Name: "f", SRV: "bücher.example"},
				{Name: "g", SRV: strings.Repeat("a", 64)},
			}
		}, []string{"services[0].name", "services[1].name", "services[2].name", "services[3].host", "services[4].host", "services[5].srv", "services[6].srv"}},
		"service": {func(c *Config) {
			c.Services = []Service{
				{Name: "a"},
				{Name: "b", Host: "b.example", SRV: "b.example"},
				{Name: "c", Host: "c.example"},
				{Name: "d", SRV: "d.example", Port: 1},
				{Name: "e", SRV: "e.example", Family: "ipv5", Protocol: "smtp", PortName: "No"},
			}
		}, []string{"services[0].host", "services[1].host", "services[2].port", "services[3].port", "services[4].family", "services[4].protocol", "services[4].portName"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			var got []string
			cfg.Check(func(path, value, want string) {
				if value == "" || want == "" {
					t.Errorf("%s: got %q, want %q: one is not told", path, value, want)
				}
				got = append(got, path)
			})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, err := New(cfg, nil); (err != nil) != (len(got) > 0) {
				t.Errorf("New: %v", err)
			}
		})
	}
}
