package kubernetes_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
)

// block returns what README.md has in its first block that is marked so.
func block(t *testing.T, mark string) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```"+mark+"\n")
	text, _, ended := strings.Cut(rest, "```")
	if !ok || !ended {
		t.Fatalf("README.md has no block of %s", mark)
	}
	return text
}

// readmeConfig is the example of README.md.
func readmeConfig(t *testing.T) kubernetes.Config {
	t.Helper()
	var file struct {
		Registries []struct {
			Name       string            `yaml:"name"`
			Kubernetes kubernetes.Config `yaml:"kubernetes"`
		} `yaml:"registries"`
	}
	if err := yamlpos.Decode("README.md", []byte(block(t, "yaml")), &file); err != nil {
		t.Fatal(err)
	}
	return file.Registries[0].Kubernetes
}

func TestREADME(t *testing.T) {
	want := kubernetes.Config{
		Kubeconfig: "/etc/hostmesh/kubeconfig", Namespaces: []string{"shop", "payments"}, LabelSelector: "mesh=yes", Nodes: kubernetes.NodesFalse,
	}
	got := readmeConfig(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := kubernetes.New(got, nil); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  kubernetes.Config
		want []string
	}{
		"least":      {kubernetes.Config{}, nil},
		"everything": {kubernetes.Config{Kubeconfig: "/k", Context: "c", Namespaces: []string{"a", "b"}, LabelSelector: "a in (b,c),!d", Nodes: "auto"}, nil},
		"all at once": {kubernetes.Config{
			Kubeconfig: "k", Namespaces: []string{"a", "a", "No", ""}, LabelSelector: "a=b=c", Nodes: "yes",
		}, []string{"kubeconfig", "namespaces[1]", "namespaces[2]", "namespaces[3]", "labelSelector", "nodes"}},
		"context of no file": {kubernetes.Config{Context: "c"}, []string{"context"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			test.cfg.Check(func(path, value, want string) {
				if value == "" || want == "" {
					t.Errorf("%s: got %q, want %q: one is not told", path, value, want)
				}
				got = append(got, path)
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if _, err := kubernetes.New(test.cfg, nil); (err != nil) != (len(got) > 0) {
				t.Errorf("New: %v", err)
			}
		})
	}
}
