package main

import (
	"fmt"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// mergeSection says how registries make one service: by default, and for services by their names.
type mergeSection struct {
	Default  ruleSection            `yaml:"default"`
	Services map[string]ruleSection `yaml:"services"`
}

// ruleSection is one of: the word union, prefer, failover, weights.
type ruleSection struct {
	Prefer   []string          `yaml:"prefer"`
	Failover []string          `yaml:"failover"`
	Weights  map[string]uint32 `yaml:"weights"`
}

// UnmarshalText takes the only rule that is a word.
func (r *ruleSection) UnmarshalText(text []byte) error {
	if string(text) != "union" {
		return fmt.Errorf("union, {prefer: [A, B]}, {failover: [A, B]} or {weights: {A: 90, B: 10}}")
	}
	*r = ruleSection{}
	return nil
}

func (r ruleSection) rule() registry.Rule {
	return registry.Rule{Prefer: r.Prefer, Failover: r.Failover, Weights: r.Weights}
}

func (m mergeSection) rules() registry.Rules {
	rules := registry.Rules{Default: m.Default.rule(), Services: make(map[registry.Name]registry.Rule, len(m.Services))}
	for name, rule := range m.Services {
		rules.Services[serviceName(name)] = rule.rule()
	}
	return rules
}

// serviceName reads "namespace/name", or a name in the default namespace.
func serviceName(text string) registry.Name {
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		return registry.Name{Namespace: namespace, Name: name}
	}
	return registry.Name{Namespace: registry.DefaultNamespace, Name: text}
}
