package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/registry"
)

// mergeSection says how registries make one service: by default, and for services by their names.
type mergeSection struct {
	Default  rule            `yaml:"default"`
	Services map[string]rule `yaml:"services"`
}

// rule is one of: the word union, prefer, failover, weights.
type rule struct {
	Prefer   []string          `yaml:"prefer"`
	Failover []string          `yaml:"failover"`
	Weights  map[string]uint32 `yaml:"weights"`
}

// UnmarshalText takes the only rule that is a word.
func (r *rule) UnmarshalText(text []byte) error {
	if string(text) != "union" {
		return errors.New("union, prefer: [A], failover: [A] or weights: {A: 9, B: 1}")
	}
	*r = rule{}
	return nil
}

func (r rule) rule() registry.Rule {
	return registry.Rule{Prefer: r.Prefer, Failover: r.Failover, Weights: r.Weights}
}

func (m mergeSection) rules() registry.Rules {
	rules := registry.Rules{Default: m.Default.rule(), Services: make(map[registry.Name]registry.Rule, len(m.Services))}
	for name, rule := range m.Services {
		rules.Services[serviceName(name)] = rule.rule()
	}
	return rules
}

// check reports what makes no sense, by its path in the file. A service that is written in two ways has one rule, and
// nobody knows which.
func (m mergeSection) check(sources []string, report func(path, got, want string)) {
	written := make(map[registry.Name]string, len(m.Services))
	for _, key := range slices.Sorted(maps.Keys(m.Services)) {
		name := serviceName(key)
		if other, twice := written[name]; twice {
			report(yamlpos.Key("services", key), "a second rule for "+name.String(), fmt.Sprintf("one; %s is the same service", other))
			continue
		}
		written[name] = key
	}
	m.rules().Check(sources, func(at, got, want string) {
		for name, key := range written {
			if rest, found := strings.CutPrefix(at, fmt.Sprintf("services[%s]", name)); found {
				at = yamlpos.Key("services", key) + rest
				break
			}
		}
		if rule, source, found := strings.Cut(at, ".weights["); found {
			at = yamlpos.Key(rule+".weights", strings.TrimSuffix(source, "]"))
		}
		report(at, got, want)
	})
}

// serviceName reads "namespace/name", or a name in the default namespace.
func serviceName(text string) registry.Name {
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		return registry.Name{Namespace: namespace, Name: name}
	}
	return registry.Name{Namespace: registry.DefaultNamespace, Name: text}
}
