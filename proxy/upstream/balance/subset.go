package balance

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Bounds of what labels, which the control plane sets freely, can make of a cluster. What is beyond makes no subset and is
// counted; a request for it takes the cluster's fallback.
const (
	maxSubsets      = 4096
	maxTableEntries = 16 << 20 // of all subsets together
)

// fallbackList is the label of a route that has others to be tried, one after the other.
const fallbackList = "fallback_list"

// subsets are the plans of parts of a cluster's hosts.
type subsets struct {
	byLabels   map[config.Labels]*Plan
	standard   *Plan // of config.FallbackDefault; nil: no host has those labels, or none is asked for
	created    uint64
	removed    uint64
	duplicates uint64 // hosts that are not used because another one has the same value
	beyond     uint64 // hosts that are in no subset because there are too many
}

// standardName is what the default subset is known by: no labels have that form.
const standardName config.Labels = "default"

// labelMap is Labels, taken apart: canonical JSON by name.
type labelMap map[string]json.RawMessage

func parseLabels(l config.Labels) labelMap {
	if l == "" {
		return nil
	}
	var out labelMap
	_ = json.Unmarshal([]byte(l), &out) // what is no object has no labels
	return out
}

// labels puts the values of keys, which are sorted, into their canonical form; "" if one is missing.
func (m labelMap) labels(keys []string) config.Labels {
	var b strings.Builder
	for i, key := range keys {
		value, ok := m[key]
		if !ok {
			return ""
		}
		b.WriteByte("{,"[min(i, 1)])
		name, _ := json.Marshal(key)
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	if b.Len() == 0 {
		return ""
	}
	return config.Labels(b.String() + "}")
}

func (m labelMap) keys() []string {
	out := make([]string, 0, len(m))
	for key := range m {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// part is a subset in the making.
type part struct {
	hosts  []*config.Endpoint
	single bool
}

// divideSubsets makes the plans of the subsets.
func (p *Plan) divideSubsets(old *Plan, now time.Time) {
	rules, s := p.config.Subsets, &subsets{byLabels: map[config.Labels]*Plan{}}
	parts, order := map[config.Labels]*part{}, []config.Labels(nil)
	most := p.mostSubsets()
	var standard []*config.Endpoint
	want := parseLabels(rules.Default)
	for _, e := range p.Hosts {
		has := parseLabels(e.Labels)
		if rules.Fallback == config.FallbackDefault || slices.ContainsFunc(rules.Selectors, func(l config.Selector) bool { return l.Fallback == config.FallbackDefault }) {
			if has.match(want, rules.ListAsAny) {
				standard = append(standard, e)
			}
		}
		for i := range rules.Selectors {
			selector := &rules.Selectors[i]
			for _, labels := range has.combinations(selector.Keys, rules.ListAsAny, most) {
				at := parts[labels]
				switch {
				case at == nil && len(parts) >= most:
					s.beyond++
					continue
				case at == nil:
					at = &part{single: selector.Single}
					parts[labels] = at
					order = append(order, labels)
				case slices.Contains(at.hosts, e): // by another selector of the same keys
					continue
				case at.single:
					s.duplicates++
					continue
				}
				at.hosts = append(at.hosts, e)
			}
		}
	}
	var before subsets
	if old != nil && old.subsets != nil {
		before = *old.subsets
	}
	s.created, s.removed = before.created, before.removed
	since := p.sinceByAddr()
	for _, labels := range order {
		was := before.byLabels[labels]
		if was == nil {
			s.created++
		}
		s.byLabels[labels] = p.subset(parts[labels], was, now)
		s.byLabels[labels].startAs(p, since)
	}
	for labels := range before.byLabels {
		if s.byLabels[labels] == nil {
			s.removed++
		}
	}
	if len(standard) > 0 {
		s.standard = p.subset(&part{hosts: standard}, before.standard, now)
		s.standard.startAs(p, since)
	}
	p.subsets = s
}

// mostSubsets is how many subsets the cluster may have.
func (p *Plan) mostSubsets() int {
	size := 0
	switch params := paramsOf(p.config); p.config.Policy {
	case config.Maglev:
		size = int(params.maglev)
	case config.RingHash:
		size = int(params.ring.Min)
	}
	return min(maxSubsets, maxTableEntries/max(size, 1))
}

// match reports whether all of want is there.
func (m labelMap) match(want labelMap, listAsAny bool) bool {
	for key, value := range want {
		has, ok := m[key]
		if !ok || string(has) != string(value) && !(listAsAny && slices.ContainsFunc(elements(has), func(e json.RawMessage) bool { return string(e) == string(value) })) {
			return false
		}
	}
	return true
}

// elements are the values of a list; nil for anything else.
func elements(value json.RawMessage) []json.RawMessage {
	if len(value) == 0 || value[0] != '[' {
		return nil
	}
	var list []json.RawMessage
	_ = json.Unmarshal(value, &list)
	return list
}

// combinations are the labels of the subsets that keys give to one host: several if it has lists that count as any of their
// values. There are no more than most and one.
func (m labelMap) combinations(keys []string, listAsAny bool, most int) []config.Labels {
	all := []labelMap{{}}
	for _, key := range keys {
		value, ok := m[key]
		if !ok {
			return nil
		}
		values := []json.RawMessage{value}
		if listAsAny && len(value) > 0 && value[0] == '[' {
			values = elements(value)
		}
		var next []labelMap
		for _, one := range all {
			for _, v := range values {
				if len(next) > most {
					break
				}
				own := labelMap{key: v}
				for k, w := range one {
					own[k] = w
				}
				next = append(next, own)
			}
		}
		all = next
	}
	out := make([]config.Labels, 0, len(all))
	for _, one := range all {
		if l := one.labels(keys); l != "" && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	return out
}

// subset makes the plan of some hosts.
func (p *Plan) subset(some *part, old *Plan, now time.Time) *Plan {
	c, rules := *p.config, p.config.Subsets
	c.Subsets, c.Endpoints = nil, some.hosts
	c.LocalityWeighted = c.LocalityWeighted && rules.LocalityWeights
	switch {
	case some.single:
		own := *some.hosts[0]
		own.Health, own.LocalityWeight = config.Healthy, 1
		c.Endpoints = []*config.Endpoint{&own}
	case c.LocalityWeighted && rules.ScaleLocality:
		c.Endpoints = p.scaled(some.hosts)
	}
	return New(&c, old, now)
}

// scaled returns hosts with weights of their localities in proportion to how many of a locality's hosts they are.
func (p *Plan) scaled(hosts []*config.Endpoint) []*config.Endpoint {
	all, some := map[place]int{}, map[place]int{}
	for _, e := range p.Hosts {
		all[place{e.Priority, e.Locality}]++
	}
	for _, e := range hosts {
		some[place{e.Priority, e.Locality}]++
	}
	out := make([]*config.Endpoint, 0, len(hosts))
	for _, e := range hosts {
		own, at := *e, place{e.Priority, e.Locality}
		own.LocalityWeight = uint32(math.Round(float64(e.LocalityWeight) * float64(some[at]) / float64(all[at])))
		out = append(out, &own)
	}
	return out
}

// Subset returns the plan of a subset by its name, which is of a Choice; nil when there is no such subset any more.
func (p *Plan) Subset(name config.Labels) *Plan {
	switch {
	case p.subsets == nil:
		return nil
	case name == standardName:
		return p.subsets.standard
	}
	return p.subsets.byLabels[name]
}

// How tells why a subset is used.
type How uint8

// The reasons.
const (
	BySelector       How = iota // it is what was asked for
	ByFallback                  // the cluster's
	ByPanic                     // the fallback has no host
	ByOthersFallback            // a selector's
)

// Choice is a set of hosts that a request may use.
type Choice struct {
	Name config.Labels // of the subset; empty: all hosts of the cluster
	How  How
}

// Choices are where a request that wants labels goes: the first that has a host. It is not for every request.
func (p *Plan) Choices(want config.Labels) []Choice {
	if p.subsets == nil {
		return []Choice{{}}
	}
	labels, rules := parseLabels(want), p.config.Subsets
	if !rules.FallbackList {
		return p.choices(nil, labels)
	}
	list := elements(labels[fallbackList])
	delete(labels, fallbackList)
	if len(list) == 0 { // or it is no list
		return p.choices(nil, labels)
	}
	var out []Choice
	for _, more := range list {
		merged := labelMap{}
		for key, value := range labels {
			merged[key] = value
		}
		for key, value := range parseLabels(config.Labels(more)) {
			merged[key] = value
		}
		out = p.choices(out, merged)
	}
	return out
}

// choices appends where a request goes that wants these labels.
func (p *Plan) choices(out []Choice, want labelMap) []Choice {
	rules := p.config.Subsets
	keys := want.keys()
	if rules.RedundantKeys {
		keys = p.needed(keys)
	}
	if len(keys) > 0 {
		if name := want.labels(keys); p.subsets.byLabels[name] != nil {
			return append(out, Choice{name, BySelector})
		}
		at := slices.IndexFunc(rules.Selectors, func(s config.Selector) bool { return slices.Equal(s.Keys, keys) && s.Fallback != config.FallbackUnset })
		if at >= 0 {
			switch s := &rules.Selectors[at]; s.Fallback {
			case config.FallbackAny:
				return append(out, Choice{"", ByOthersFallback})
			case config.FallbackDefault:
				return append(out, Choice{standardName, ByOthersFallback})
			case config.FallbackKeys:
				fewer := labelMap{}
				for _, key := range s.FallbackKeys {
					fewer[key] = want[key]
				}
				return p.choices(out, fewer)
			}
			return out
		}
	}
	switch rules.Fallback {
	case config.FallbackAny:
		out = append(out, Choice{"", ByFallback})
	case config.FallbackDefault:
		out = append(out, Choice{standardName, ByFallback})
	default:
		return out
	}
	if rules.PanicAny {
		out = append(out, Choice{"", ByPanic})
	}
	return out
}

// needed returns the keys of the selector that has most of them, all among keys; keys, when there is none.
func (p *Plan) needed(keys []string) []string {
	var best []string
	for i := range p.config.Subsets.Selectors {
		own := p.config.Subsets.Selectors[i].Keys
		if len(own) > len(best) && !slices.ContainsFunc(own, func(k string) bool { return !slices.Contains(keys, k) }) {
			best = own
		}
	}
	if best == nil {
		return keys
	}
	return best
}

// gauges are the figures of the subsets.
func (s *subsets) gauges() []Gauge {
	return []Gauge{
		{Name: "lb_subsets_active", Value: uint64(len(s.byLabels))},
		{Name: "lb_subsets_created", Value: s.created, Counter: true},
		{Name: "lb_subsets_removed", Value: s.removed, Counter: true},
		{Name: "lb_subsets_single_host_per_subset_duplicate", Value: s.duplicates},
		{Name: "lb_subsets_beyond_limit", Value: s.beyond},
	}
}
