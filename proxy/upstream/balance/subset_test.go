package balance_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// labelled is a host with labels.
func labelled(i int, labels config.Labels) *config.Endpoint {
	e := host(i, 1)
	e.Labels = labels
	return e
}

// members are the numbers of the hosts of a plan.
func members(p *balance.Plan) []int {
	var out []int
	if p != nil {
		for _, e := range p.Hosts {
			out = append(out, int(e.Addr.IP.Addr().As4()[3]))
		}
	}
	return out
}

// reach is where requests with some labels may go: the hosts of each choice.
func reach(p *balance.Plan, want config.Labels) [][]int {
	var out [][]int
	for _, c := range p.Choices(want) {
		if c.Name == "" {
			out = append(out, members(p))
		} else {
			out = append(out, members(p.Subset(c.Name)))
		}
	}
	return out
}

func TestSubsetsAreFoundByLabels(t *testing.T) {
	c := hashing(config.RoundRobin,
		labelled(1, `{"stage":"prod","version":"1"}`), labelled(2, `{"stage":"prod","version":2}`), labelled(3, `{"stage":["dev","test"],"version":"1"}`), labelled(4, ""))
	c.Subsets = &config.Subsets{
		Selectors: []config.Selector{
			{Keys: []string{"stage"}},
			{Keys: []string{"stage", "version"}, Fallback: config.FallbackKeys, FallbackKeys: []string{"stage"}},
			{Keys: []string{"version"}, Fallback: config.FallbackNone},
			{Keys: []string{"x"}, Fallback: config.FallbackAny},
			{Keys: []string{"y"}, Fallback: config.FallbackDefault},
		},
		Fallback: config.FallbackDefault, Default: `{"stage":"test"}`, ListAsAny: true, PanicAny: true,
	}
	p := balance.New(c, nil, time.Time{})
	all, standard := []int{1, 2, 3, 4}, []int{3}
	for want, hosts := range map[config.Labels][][]int{
		"":                               {standard, all},
		`{"stage":"prod"}`:               {{1, 2}},
		`{"stage":"dev"}`:                {{3}},
		`{"stage":"prod","version":2}`:   {{2}},
		`{"stage":"prod","version":"2"}`: {{1, 2}},
		`{"stage":"none","version":"2"}`: {standard, all},
		`{"version":"1"}`:                {{1, 3}},
		`{"version":"9"}`:                nil,
		`{"x":1}`:                        {all},
		`{"y":1}`:                        {standard},
		`{"z":1}`:                        {standard, all},
		`nonsense`:                       {standard, all},
	} {
		if diff := cmp.Diff(hosts, reach(p, want)); diff != "" {
			t.Errorf("%s:\n%s", want, diff)
		}
	}
}

func TestSubsetsOfOneHostIgnoreItsHealth(t *testing.T) {
	sick := labelled(2, `{"id":"b"}`)
	sick.Health, sick.Priority = config.Unhealthy, 3
	c := hashing(config.RoundRobin, labelled(1, `{"id":"a"}`), sick, labelled(3, `{"id":"a"}`))
	c.PanicThreshold = 0
	c.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"id"}, Single: true}}}
	p := balance.New(c, nil, time.Time{})
	for want, number := range map[config.Labels]int{`{"id":"a"}`: 1, `{"id":"b"}`: 2} {
		l := newLoop(p.Subset(want).Config(), 1)
		if got := l.pick(); got != number {
			t.Errorf("%s: got %d, want %d", want, got, number)
		}
	}
	if got := figures(p)["lb_subsets_single_host_per_subset_duplicate"]; got != 1 {
		t.Errorf("duplicates: %d", got)
	}
}

func figures(p *balance.Plan) map[string]uint64 {
	out := map[string]uint64{}
	for _, g := range p.Gauges() {
		out[g.Name] = g.Value
	}
	return out
}

func TestSubsetsComeAndGo(t *testing.T) {
	c := hashing(config.RoundRobin, labelled(1, `{"v":1}`), labelled(2, `{"v":2}`))
	c.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"v"}}}}
	p := balance.New(c, nil, time.Time{})
	next := *c
	next.Endpoints = []*config.Endpoint{labelled(2, `{"v":2}`), labelled(3, `{"v":3}`)}
	p = balance.New(&next, p, time.Time{})
	got := figures(p)
	if got["lb_subsets_active"] != 2 || got["lb_subsets_created"] != 3 || got["lb_subsets_removed"] != 1 {
		t.Errorf("got %v", got)
	}
	if p.Subset(`{"v":1}`) != nil || len(p.Choices(`{"v":1}`)) != 0 {
		t.Error("a subset without hosts is still there")
	}
}

// TestSubsetsAreBounded: labels come from wherever endpoints come from; what is too much is left out, told, and soon done with.
func TestSubsetsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(*config.Cluster)
		label func(i int) config.Labels
		most  uint64
	}{
		{"by hosts", func(*config.Cluster) {}, func(i int) config.Labels { return config.Labels(fmt.Sprintf(`{"a":%d}`, i)) }, 4096},
		{"by tables", func(c *config.Cluster) { c.Policy, c.MaglevSize = config.Maglev, 65537 }, func(i int) config.Labels { return config.Labels(fmt.Sprintf(`{"a":%d}`, i)) }, 255},
		{"by lists", func(c *config.Cluster) { c.Subsets.ListAsAny, c.Endpoints = true, c.Endpoints[:3] }, func(int) config.Labels {
			return `{"a":[1,2,3,4,5,6,7,8],"b":[1,2,3,4,5,6,7,8],"c":[1,2,3,4,5,6,7,8],"d":[1,2,3,4,5,6,7,8],"e":[1,2,3,4,5,6,7,8],"f":[1,2,3,4,5,6,7,8]}`
		}, 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := hashing(config.RoundRobin)
			for i := range 5000 {
				e := labelled(0, c.label(i))
				e.Addr.IP = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80)
				cl.Endpoints = append(cl.Endpoints, e)
			}
			cl.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"a"}}}}
			if c.name == "by lists" {
				cl.Subsets.Selectors[0].Keys = []string{"a", "b", "c", "d", "e", "f"}
			}
			c.set(cl)
			got := figures(balance.New(cl, nil, time.Time{}))
			if got["lb_subsets_active"] != c.most || got["lb_subsets_beyond_limit"] == 0 {
				t.Errorf("%d subsets, %d hosts left out", got["lb_subsets_active"], got["lb_subsets_beyond_limit"])
			}
		})
	}
}

func TestLocalityWeightsOfSubsets(t *testing.T) {
	at := func(i int, zone string, weight uint32, labels config.Labels) *config.Endpoint {
		e := labelled(i, labels)
		e.Locality.Zone, e.LocalityWeight = zone, weight
		return e
	}
	const yes, no config.Labels = `{"v":1}`, `{"v":2}`
	for _, c := range []struct {
		name           string
		weights, scale bool
		want           map[int]float64
	}{
		{"not aware", false, false, map[int]float64{1: 1. / 3, 2: 1. / 3, 3: 1. / 3}},
		{"aware", true, false, map[int]float64{1: .6, 2: .2, 3: .2}},
		{"scaled", true, true, map[int]float64{1: .3 / .7, 2: .2 / .7, 3: .2 / .7}},
	} {
		cl := hashing(config.RoundRobin, at(1, "a", 60, yes), at(4, "a", 60, no), at(2, "b", 40, yes), at(3, "b", 40, yes))
		cl.LocalityWeighted = true
		cl.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"v"}}}, LocalityWeights: c.weights, ScaleLocality: c.scale}
		got := newLoop(balance.New(cl, nil, time.Time{}).Subset(yes).Config(), 3).shares(1000)
		if !near(got, c.want, .01) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestSlowStartIsTheHosts: a host that is in another subset now is as far in its slow start as it is; one that is new is at its
// beginning.
func TestSlowStartIsTheHosts(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := hashing(config.RoundRobin, labelled(1, `{"v":1}`), labelled(2, `{"v":2}`))
	c.SlowStart = &config.SlowStart{Window: time.Minute, Aggression: 1}
	c.Subsets = &config.Subsets{Selectors: []config.Selector{{Keys: []string{"v"}}}}
	old := balance.New(c, nil, now)
	next := *c
	next.Endpoints = []*config.Endpoint{labelled(1, `{"v":2}`), labelled(2, `{"v":2}`), labelled(3, `{"v":2}`)}
	now = now.Add(time.Minute)
	p := balance.New(&next, old, now).Subset(`{"v":2}`)
	l := newLoop(p.Config(), 1)
	states := []*balance.State{{}, {}, {}}
	l.Use(p, states, now)
	got := map[int]float64{}
	l.Tick(now.Add(6 * time.Second))
	for range 2100 {
		i, _ := l.Pick(balance.Key{}, 0)
		got[l.number(i)] += 1. / 2100
	}
	if want := map[int]float64{1: 1 / 2.1, 2: 1 / 2.1, 3: .1 / 2.1}; !near(got, want, .01) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// FuzzSubsets: whatever labels hosts have and routes want, a request gets hosts of the cluster.
func FuzzSubsets(f *testing.F) {
	f.Add(`{"a":1,"b":["x","y"]}`, `{"a":1}`, `{"b":"x"}`, true)
	f.Add(`{"fallback_list":[{"a":1}],"a":2}`, `[]`, `{`, false)
	f.Fuzz(func(t *testing.T, one, other, want string, lists bool) {
		c := hashing(config.RoundRobin, labelled(1, config.Labels(one)), labelled(2, config.Labels(other)))
		c.Subsets = &config.Subsets{
			Selectors: []config.Selector{{Keys: []string{"a"}}, {Keys: []string{"a", "b"}, Fallback: config.FallbackKeys, FallbackKeys: []string{"b"}}, {Keys: []string{"b"}, Single: true}},
			Fallback:  config.FallbackDefault, Default: config.Labels(other), ListAsAny: lists, FallbackList: true, RedundantKeys: lists, PanicAny: true,
		}
		p := balance.New(c, nil, time.Time{})
		for _, choice := range p.Choices(config.Labels(want)) {
			s := p
			if choice.Name != "" {
				s = p.Subset(choice.Name)
			}
			if s != nil && newLoop(s.Config(), 1).pick() == 0 {
				t.Errorf("no host of %d", len(s.Hosts))
			}
		}
	})
}
