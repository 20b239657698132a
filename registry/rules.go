package registry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Rules say how the views of the sources make one service. The zero Rules are the union of all.
type Rules struct {
	Default  Rule
	Services map[Name]Rule
}

// Rule is one of: union (the zero Rule), prefer, failover, weights. At most one field is set.
//
// Endpoints are joined over all sources first; one that several sources report is active if the rule takes any of them.
// Endpoints that a rule keeps traffic from stay known: they are in Service.Standby.
//
// A rule also says whose word on ports, labels and the rest goes first: the named sources in their order (for weights
// the configured one, so that nothing but shares moves when weights do), then the others in their configured order.
type Rule struct {
	// Prefer takes the endpoints of the first of these sources that has any; sources not named come last, in their
	// configured order.
	Prefer []string
	// Failover takes the endpoints of the first of these sources that has one that is serving; if none has, of the first
	// that has any. Sources not named come last, in their configured order.
	Failover []string
	// Weights shares the traffic between sources, whatever the number of their endpoints: a source's share goes to its
	// endpoints that serve, by their own weights. A source of weight 0, or not named, gets nothing. The share of a source
	// without a serving endpoint goes to the others that have a share; it never goes to a source that has none.
	Weights map[string]uint32
}

// Check reports everything in r that makes no sense for a Catalog of these sources, by its path below r
// ("services[default/orders].prefer[1]").
func (r Rules) Check(sources []string, report func(path, got, want string)) {
	r.Default.check("default", sources, report)
	for _, name := range slices.SortedFunc(maps.Keys(r.Services), Name.Compare) {
		path := fmt.Sprintf("services[%s]", name)
		if !isLabel(name.Namespace) || !isLabel(name.Name) {
			report(path, fmt.Sprintf("%.200q", name), "namespace/name of RFC 1123 labels")
		}
		r.Services[name].check(path, sources, report)
	}
}

func (r Rule) check(path string, sources []string, report func(path, got, want string)) {
	var set []string
	for name, there := range map[string]bool{"prefer": len(r.Prefer) > 0, "failover": len(r.Failover) > 0, "weights": len(r.Weights) > 0} {
		if there {
			set = append(set, name)
		}
	}
	if slices.Sort(set); len(set) > 1 {
		report(path, strings.Join(set, " and "), "one of prefer, failover, weights")
	}
	known := func(path, source string) {
		if !slices.Contains(sources, source) {
			report(path, fmt.Sprintf("%.200q", source), "one of "+strings.Join(sources, ", "))
		}
	}
	list := func(path string, named []string) {
		for i, source := range named {
			at := fmt.Sprintf("%s[%d]", path, i)
			if known(at, source); slices.Contains(named[:i], source) {
				report(at, fmt.Sprintf("%.200q", source), "each source once")
			}
		}
	}
	list(path+".prefer", r.Prefer)
	list(path+".failover", r.Failover)
	some := false
	for _, source := range sortedKeys(r.Weights) {
		known(fmt.Sprintf("%s.weights[%.200s]", path, source), source)
		some = some || r.Weights[source] > 0
	}
	if len(r.Weights) > 0 && !some {
		report(path+".weights", "0 for all", "a weight above 0 for one source at least")
	}
}

// check returns all that Check reports.
func (r Rules) check(sources []string) error {
	var errs []error
	r.Check(sources, func(path, got, want string) {
		errs = append(errs, fmt.Errorf("merge.%s: got %s, want %s", path, got, want))
	})
	return errors.Join(errs...)
}

// SetRules replaces the rules. The Snapshot follows at once; services whose rule is the same keep their pointer.
// Rules that make no sense are refused, and the old ones stay. It may be called from any goroutine.
func (c *Catalog) SetRules(r Rules) error {
	names := make([]string, len(c.sources))
	for i, s := range c.sources {
		names[i] = s.Name
	}
	if err := r.check(names); err != nil {
		return fmt.Errorf("set rules: %w", err)
	}
	r = r.clone()
	c.mu.Lock()
	c.nextRules = &r
	c.mu.Unlock()
	notify(c.wake)
	return nil
}

// takeRules returns what SetRules left since the last call, or nil.
func (c *Catalog) takeRules() *Rules {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.nextRules
	c.nextRules = nil
	return r
}

// of returns the rule of a service.
func (r Rules) of(name Name) Rule {
	if rule, ok := r.Services[name]; ok {
		return rule
	}
	return r.Default
}

// clone returns a copy that shares nothing with r, whose owner may change it.
func (r Rules) clone() Rules {
	c := Rules{Default: r.Default.clone(), Services: make(map[Name]Rule, len(r.Services))}
	for name, rule := range r.Services {
		c.Services[name] = rule.clone()
	}
	return c
}

func (r Rule) clone() Rule {
	return Rule{Prefer: slices.Clone(r.Prefer), Failover: slices.Clone(r.Failover), Weights: maps.Clone(r.Weights)}
}

func (r Rule) equal(o Rule) bool {
	return slices.Equal(r.Prefer, o.Prefer) && slices.Equal(r.Failover, o.Failover) && maps.Equal(r.Weights, o.Weights)
}
