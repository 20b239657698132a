package kubernetes

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// Config says which cluster to read, and how. The zero Config is good inside of a pod.
type Config struct {
	// Kubeconfig is the path of a kubeconfig file; the pod's own service account if empty. It is read at each Watch.
	Kubeconfig string `yaml:"kubeconfig"`
	// Context is the context of that file; its current one if empty.
	Context string `yaml:"context"`
	// Namespaces are what is read, each with a watch of its own, so that a Role in each is enough; all if empty.
	Namespaces []string `yaml:"namespaces"`
	// LabelSelector chooses Services, as in kubectl's -l; all if empty.
	LabelSelector string `yaml:"labelSelector"`
	// Nodes says whether regions and zones are read from the labels of Nodes: NodesAuto if empty.
	Nodes NodesMode `yaml:"nodes"`
}

// NodesMode says whether Nodes are read.
type NodesMode string

// The modes.
const (
	NodesAuto  NodesMode = "auto"  // if we may; a refusal is a Problem
	NodesTrue  NodesMode = "true"  // a refusal fails Watch
	NodesFalse NodesMode = "false" // zones are those that EndpointSlices tell, regions are not known
)

var labelPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Check reports each mistake in cfg by the path of its field, what was got and what is wanted. It reads no file.
func (cfg Config) Check(report func(path, got, want string)) {
	if cfg.Kubeconfig != "" && !filepath.IsAbs(cfg.Kubeconfig) {
		report("kubeconfig", quote(cfg.Kubeconfig), "an absolute path")
	}
	if cfg.Context != "" && cfg.Kubeconfig == "" {
		report("context", quote(cfg.Context), "kubeconfig with it, as contexts are in that file")
	}
	for i, name := range cfg.Namespaces {
		if !labelPattern.MatchString(name) || slices.Contains(cfg.Namespaces[:i], name) {
			report(fmt.Sprintf("namespaces[%d]", i), quote(name), "the name of a namespace that is not there twice")
		}
	}
	if _, err := labels.Parse(cfg.LabelSelector); err != nil {
		report("labelSelector", quote(cfg.LabelSelector), "a selector as kubectl's -l takes it, such as app=web,tier!=cache")
	}
	switch cfg.Nodes {
	case "", NodesAuto, NodesTrue, NodesFalse:
	default:
		report("nodes", quote(string(cfg.Nodes)), "true, false or auto")
	}
}

func quote(s string) string { return fmt.Sprintf("%.100q", s) }
