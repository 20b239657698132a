package gossip

import (
	"os"
	"regexp"
	"testing"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
)

func TestReadme(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("no example")
	}
	for _, b := range blocks {
		var doc struct {
			Registries []struct {
				Name   string  `yaml:"name"`
				Gossip *Config `yaml:"gossip"`
			} `yaml:"registries"`
		}
		if err := yamlpos.Decode("README.md", b[1], &doc); err != nil {
			t.Errorf("%v\n%s", err, b[1])
			continue
		}
		for _, r := range doc.Registries {
			if r.Gossip == nil || !r.Gossip.Bind.IsValid() || r.Gossip.Reap == 0 {
				t.Errorf("registry %s: %+v, want gossip with its defaults", r.Name, r.Gossip)
			}
		}
	}
}
