package registry

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func inDoubt(e *Endpoint) { e.Doubt = &Doubt{Since: time.Unix(1, 0), Reason: "left"} }

// ruled merges what sources a, b, c … say of one service under a rule.
func ruled(t *testing.T, rule Rule, claims ...*Service) *Service {
	t.Helper()
	names := make([]string, len(claims))
	for i := range claims {
		names[i] = string(rune('a' + i))
	}
	rules := Rules{Services: map[Name]Rule{webName: rule}}
	if err := rules.check(names); err != nil {
		t.Fatal(err)
	}
	m := newMerger(names, rules)
	for i, s := range claims {
		if s != nil {
			m.set(i, viewOf(t, s).Services)
		}
	}
	services, _ := m.merge()
	if len(services) != 1 {
		t.Fatalf("%d services, want one", len(services))
	}
	if err := (View{Services: services}).Validate(); err != nil {
		t.Errorf("the merged service is not valid: %v", err)
	}
	return services[0]
}

// shown is an endpoint in short: "id*weight(sources)", with its health if it does not serve and "?" for doubt.
func shown(endpoints []*Endpoint) string {
	var all []string
	for _, e := range endpoints {
		s := fmt.Sprintf("%s*%d(%s)", e.ID, e.Weight, strings.Join(e.Sources, ","))
		if !e.Health.Serving() {
			s += e.Health.String()
		}
		if e.Doubt != nil {
			s += "?"
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestRules(t *testing.T) {
	http := []Port{{Protocol: HTTP}}
	at := func(id string, n int, change ...func(*Endpoint)) *Endpoint {
		return endpoint(id, fmt.Sprintf("10.0.0.%d:80", n), change...)
	}
	bad, gone := health(Unhealthy), health(Draining)
	for _, c := range []struct {
		name            string
		rule            Rule
		claims          []*Service
		active, standby string
	}{
		{"union", Rule{}, []*Service{web(http, at("1", 1)), web(http, at("2", 2))}, "1*1(a) 2*1(b)", ""},

		{"prefer: the first", Rule{Prefer: []string{"b", "a"}}, []*Service{web(http, at("1", 1)), web(http, at("2", 2))}, "2*1(b)", "1*1(a)"},
		{"prefer: the first that has any", Rule{Prefer: []string{"b", "a"}}, []*Service{web(http, at("1", 1)), web(http)}, "1*1(a)", ""},
		{"prefer: any is enough", Rule{Prefer: []string{"a", "b"}}, []*Service{web(http, at("1", 1, bad)), web(http, at("2", 2))}, "1*1(a)unhealthy", "2*1(b)"},
		{"prefer: not named comes last, as configured", Rule{Prefer: []string{"c"}}, []*Service{web(http, at("1", 1)), web(http, at("2", 2)), nil}, "1*1(a)", "2*1(b)"},
		{"prefer: an endpoint of both is active", Rule{Prefer: []string{"a"}}, []*Service{web(http, at("1", 1)), web(http, at("0", 1), at("2", 2))}, "1*1(a,b)", "2*1(b)"},
		{"prefer: the ID stays that of the first configured", Rule{Prefer: []string{"b"}}, []*Service{web(http, at("1", 1)), web(http, at("0", 1), at("2", 2))}, "1*1(a,b) 2*1(b)", ""},
		{"prefer: all doubted counts", Rule{Prefer: []string{"a", "b"}}, []*Service{web(http, at("1", 1, inDoubt)), web(http, at("2", 2))}, "1*1(a)?", "2*1(b)"},
		{"prefer: nobody has any", Rule{Prefer: []string{"a", "b"}}, []*Service{web(http), web(http)}, "", ""},

		{"failover: the first that serves", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1, bad), at("3", 3, gone)), web(http, at("2", 2))}, "2*1(b)", "1*1(a)unhealthy 3*1(a)draining"},
		{"failover: one is enough", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1, bad), at("3", 3)), web(http, at("2", 2))}, "1*1(a)unhealthy 3*1(a)", "2*1(b)"},
		{"failover: none serves, the first that has any", Rule{Failover: []string{"b", "a"}}, []*Service{web(http, at("1", 1, bad)), web(http, at("2", 2, gone))}, "2*1(b)draining", "1*1(a)unhealthy"},
		{"failover: none serves, the first is empty", Rule{Failover: []string{"b", "a"}}, []*Service{web(http, at("1", 1, bad)), web(http)}, "1*1(a)unhealthy", ""},
		{"failover: to one that is not named", Rule{Failover: []string{"a"}}, []*Service{web(http, at("1", 1, bad)), web(http, at("2", 2))}, "2*1(b)", "1*1(a)unhealthy"},
		{"failover: by the health that all give together", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1)), web(http, at("1", 1, gone), at("2", 2))}, "1*1(a,b)draining 2*1(b)", ""},
		{"failover: away from one of which all is doubted", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1, inDoubt)), web(http, at("2", 2))}, "2*1(b)", "1*1(a)?"},
		{"failover: one that is not doubted is enough", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1, inDoubt), at("3", 3)), web(http, at("2", 2))}, "1*1(a)? 3*1(a)", "2*1(b)"},
		{"failover: one that is not doubted and does not serve is none", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1, inDoubt), at("3", 3, bad)), web(http, at("2", 2))}, "2*1(b)", "1*1(a)? 3*1(a)unhealthy"},
		{"failover: doubted before what does not serve", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1, bad)), web(http, at("2", 2, inDoubt))}, "2*1(b)?", "1*1(a)unhealthy"},
		{"failover: all are doubted, the first", Rule{Failover: []string{"a", "b"}}, []*Service{web(http, at("1", 1, inDoubt)), web(http, at("2", 2, inDoubt))}, "1*1(a)?", "2*1(b)?"},

		{"doubt: one source does not", Rule{}, []*Service{web(http, at("1", 1, inDoubt)), web(http, at("1", 1))}, "1*1(a,b)", ""},
		{"doubt: all do", Rule{}, []*Service{web(http, at("1", 1, inDoubt)), web(http, at("1", 1, inDoubt))}, "1*1(a,b)?", ""},

		{"weights: whatever the number of endpoints", Rule{Weights: map[string]uint32{"a": 90, "b": 10}}, []*Service{web(http, at("1", 1)), web(http, at("2", 2), at("3", 3))}, "1*18(a) 2*1(b) 3*1(b)", ""},
		{"weights: by their own weights", Rule{Weights: map[string]uint32{"a": 1, "b": 1}}, []*Service{web(http, at("1", 1, weight(30)), at("2", 2, weight(10))), web(http, at("3", 3, weight(7)))}, "1*3(a) 2*1(a) 3*4(b)", ""},
		{"weights: one of both gets both", Rule{Weights: map[string]uint32{"a": 3, "b": 1}}, []*Service{web(http, at("1", 1), at("2", 2)), web(http, at("0", 2), at("3", 3))}, "1*3(a) 2*4(a,b) 3*1(b)", ""},
		{"weights: 0 and not named stand by", Rule{Weights: map[string]uint32{"a": 7, "b": 0}}, []*Service{web(http, at("1", 1), at("2", 2)), web(http, at("0", 2), at("3", 3, weight(5))), web(http, at("4", 4))}, "1*1(a) 2*1(a,b)", "3*5(b) 4*1(c)"},
		{"weights: the share of one that does not serve goes to the others", Rule{Weights: map[string]uint32{"a": 90, "b": 10}}, []*Service{web(http, at("1", 1, bad)), web(http, at("2", 2), at("3", 3))}, "1*18(a)unhealthy 2*1(b) 3*1(b)", ""},
		{"weights: never to one without a share", Rule{Weights: map[string]uint32{"a": 1, "b": 0}}, []*Service{web(http, at("1", 1, bad)), web(http, at("2", 2))}, "1*1(a)unhealthy", "2*1(b)"},
		{"weights: one that does not serve takes nothing from its siblings", Rule{Weights: map[string]uint32{"a": 1, "b": 1}}, []*Service{web(http, at("1", 1, bad), at("2", 2)), web(http, at("3", 3))}, "1*1(a)unhealthy 2*1(a) 3*1(b)", ""},
		{"weights: a source without endpoints", Rule{Weights: map[string]uint32{"a": 90, "b": 10}}, []*Service{web(http), web(http, at("2", 2, weight(4)))}, "2*1(b)", ""},
		{"weights: the only source has no share", Rule{Weights: map[string]uint32{"b": 10}}, []*Service{web(http, at("1", 1)), nil}, "", "1*1(a)"},
		{"weights: great ones that have a small ratio", Rule{Weights: map[string]uint32{"a": 3_000_000_000, "b": 1_000_000_000}}, []*Service{web(http, at("1", 1)), web(http, at("2", 2), at("3", 3), at("4", 4))}, "1*9(a) 2*1(b) 3*1(b) 4*1(b)", ""},
		{"weights: the greatest", Rule{Weights: map[string]uint32{"a": math.MaxUint32, "b": math.MaxUint32}}, []*Service{web(http, at("1", 1, weight(math.MaxUint32)), at("2", 2, bad, weight(math.MaxUint32))), web(http, at("3", 3, weight(1)))}, "1*1(a) 2*1(a)unhealthy 3*1(b)", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ruled(t, c.rule, c.claims...)
			if got := shown(s.Endpoints); got != c.active {
				t.Errorf("active  %s\nwant    %s", got, c.active)
			}
			if got := shown(s.Standby); got != c.standby {
				t.Errorf("standby %s\nwant    %s", got, c.standby)
			}
		})
	}
}

func TestRulesSayWhoseWordGoesFirst(t *testing.T) {
	say := func(number, at uint16, label string) *Service {
		s := web([]Port{{Number: number, Protocol: HTTP}}, endpoint("w", fmt.Sprintf("10.0.0.%d:%d", at, at)))
		s.Labels = map[string]string{"team": label}
		return s
	}
	for _, c := range []struct {
		name   string
		rule   Rule
		number uint16
		label  string
	}{
		{"union", Rule{}, 1, "a"},
		{"prefer", Rule{Prefer: []string{"c", "b"}}, 3, "c"},
		{"failover", Rule{Failover: []string{"b"}}, 2, "b"},
		{"weights: the configured order of those named", Rule{Weights: map[string]uint32{"c": 99, "b": 0}}, 2, "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ruled(t, c.rule, say(1, 11, "a"), say(2, 12, "b"), say(3, 13, "c"))
			if s.Ports[0].Number != c.number || s.Labels["team"] != c.label {
				t.Errorf("port %d, label %s, want %d, %s", s.Ports[0].Number, s.Labels["team"], c.number, c.label)
			}
			// Nobody declares the number: what callers dial must not depend on where the traffic is.
			for _, health := range []Health{Healthy, Unhealthy} {
				one, two, three := say(0, 11, "a"), say(0, 12, "b"), say(0, 13, "c")
				one.Endpoints[0].Health, two.Endpoints[0].Health, three.Endpoints[0].Health = health, health, Healthy
				want := uint16(10 + c.number)
				if !c.rule.orders() {
					want = 80
				}
				if got := ruled(t, c.rule, one, two, three).Ports[0].Number; got != want {
					t.Errorf("derived number %d while the first are %s, want %d", got, health, want)
				}
			}
		})
	}
}

// TestWeightsKeepShares gives random weights to random endpoints: each source's share must be kept within 0.5 %, and the
// sum must fit.
func TestWeightsKeepShares(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for round := range 300 {
		rule := Rule{Weights: map[string]uint32{"a": 1 + random.Uint32N(100), "b": 1 + random.Uint32N(100), "c": random.Uint32N(3)}}
		claims := make([]*Service, 3)
		n := 0
		for i := range claims {
			claims[i] = web([]Port{{Protocol: HTTP}})
			for range 1 + random.IntN([]int{5, 50, 300}[round%3]) {
				n++
				most := []uint32{1, 100, 1 << 20}[random.IntN(3)]
				claims[i].Endpoints = append(claims[i].Endpoints, endpoint(fmt.Sprintf("%05d", n), fmt.Sprintf("10.0.%d.%d:80", n/250, n%250), weight(1+random.Uint32N(most))))
			}
		}
		s := ruled(t, rule, claims...)
		got, sum, want := map[string]uint64{}, uint64(0), uint64(0)
		for _, e := range s.Endpoints {
			got[e.Sources[0]] += uint64(e.Weight)
			sum += uint64(e.Weight)
		}
		for _, w := range rule.Weights {
			want += uint64(w)
		}
		if sum > math.MaxUint32 {
			t.Fatalf("round %d: the weights sum up to %d", round, sum)
		}
		for source, w := range rule.Weights {
			is, should := float64(got[source])/float64(sum), float64(w)/float64(want)
			if math.Abs(is-should) > 0.005 {
				t.Errorf("round %d: source %s has %.4f of the traffic, want %.4f", round, source, is, should)
			}
		}
	}
}

func TestRulesMistakesAreToldByPlace(t *testing.T) {
	orders := Name{DefaultNamespace, "orders"}
	err := Rules{
		Default: Rule{Prefer: []string{"dc1"}, Weights: map[string]uint32{"dc1": 0}},
		Services: map[Name]Rule{
			orders:          {Prefer: []string{"dc1", "dc9"}},
			{"shop", "Web"}: {Failover: []string{"legacy", "dc1", "legacy"}},
			{"shop", "api"}: {Weights: map[string]uint32{"dc1": 1, "x": 2}},
		},
	}.check([]string{"dc1", "legacy"})
	want := []string{
		`merge.default: got prefer and weights, want one of prefer, failover, weights`,
		`merge.default.weights: got 0 for all, want a weight above 0 for one source at least`,
		`merge.services[default/orders].prefer[1]: got "dc9", want one of dc1, legacy`,
		`merge.services[shop/Web]: got "shop/Web", want namespace/name of RFC 1123 labels`,
		`merge.services[shop/Web].failover[2]: got "legacy", want each source once`,
		`merge.services[shop/api].weights[x]: got "x", want one of dc1, legacy`,
	}
	if d := cmp.Diff(want, strings.Split(fmt.Sprint(err), "\n")); d != "" {
		t.Errorf("mistakes (-want +got):\n%s", d)
	}
	if _, err := NewCatalog(nil, Options{Rules: Rules{Default: Rule{Prefer: []string{"dc1"}}}}); err == nil || !strings.Contains(err.Error(), "merge.default.prefer[0]") {
		t.Errorf("NewCatalog: %v, want the place of the mistake", err)
	}
}

// TestRulesChangeTouchesOnlyTheirServices moves traffic by weights and wants every other service under its pointer.
func TestRulesChangeTouchesOnlyTheirServices(t *testing.T) {
	orders := Name{DefaultNamespace, "s0007"}
	rules := func(a, b uint32) Rules {
		return Rules{Services: map[Name]Rule{orders: {Weights: map[string]uint32{"a": a, "b": b}}}}
	}
	m := newMerger([]string{"a", "b"}, Rules{})
	m.set(0, numbered(20, 3))
	other := numbered(10, 3)
	for _, s := range other {
		for _, e := range s.Endpoints {
			e.Ports = []EndpointPort{{Number: 9090}}
		}
	}
	m.set(1, other)
	last, _ := m.merge()
	for _, c := range []struct {
		a, b           uint32
		active, stands int
	}{{90, 10, 6, 0}, {50, 50, 6, 0}, {0, 100, 3, 3}, {50, 50, 6, 0}, {1, 0, 3, 3}} {
		m.setRules(rules(c.a, c.b))
		next, changed := m.merge()
		if !changed {
			t.Fatalf("%d/%d changed nothing", c.a, c.b)
		}
		for i := range next {
			if (next[i] == last[i]) != (next[i].Name != orders) {
				t.Errorf("%d/%d: %s same pointer: %v", c.a, c.b, next[i].Name, next[i] == last[i])
			}
		}
		if s := next[7]; len(s.Endpoints) != c.active || len(s.Standby) != c.stands {
			t.Errorf("%d/%d: %s and %s", c.a, c.b, shown(s.Endpoints), shown(s.Standby))
		}
		last = next
	}
	m.setRules(rules(1, 0))
	if _, changed := m.merge(); changed {
		t.Error("the same rules made a change")
	}
	m.setRules(rules(7, 0)) // the same traffic
	if _, changed := m.merge(); changed {
		t.Error("rules that make the same of everything made a change")
	}
}

func TestConflicts(t *testing.T) {
	say := func(number uint16, protocol Protocol, team, original string, e *Endpoint) *Service {
		return &Service{Name: webName, Original: original, Ports: []Port{{Number: number, Protocol: protocol}}, Labels: map[string]string{"team": team}, Endpoints: []*Endpoint{e}}
	}
	zone := func(z string) func(*Endpoint) { return func(e *Endpoint) { e.Locality.Zone = z } }
	one := say(80, HTTP, "x", "Web", endpoint("w", "10.0.0.1:80", weight(2), zone("z1"), labels("v", "1")))
	two := say(0, "", "x", "", endpoint("v", "10.0.0.1:80", weight(2), labels("v", "1")))
	three := say(81, GRPC, "y", "WEB", endpoint("u", "10.0.0.1:80", zone("z2"), labels("v", "2")))
	three.Conflicts = []Conflict{{What: "label", Object: "k", Sides: []Side{{"/k1", "1"}, {"", "2"}}, Text: `label k: "1" is taken`}}
	own := mergeOf(t, one, two, three).Conflicts
	want := []Conflict{
		{What: "label", Object: "team", Sides: []Side{{"a", "x"}, {"b", "x"}, {"c", "y"}}, Text: `label "team": a says "x", b says "x", c says "y"; taken from a`},
		{What: "original name", Sides: []Side{{"a", "Web"}, {"c", "WEB"}}, Text: `original name: a says "Web", c says "WEB"; taken from a`},
		{What: "label", Object: "v", Sides: []Side{{"a", "1"}, {"b", "1"}, {"c", "2"}}, Endpoints: []string{"w"}, Text: `label "v": a says "1", b says "1", c says "2"; taken from a (w)`},
		{What: "weight", Sides: []Side{{"a", "2"}, {"b", "2"}, {"c", "1"}}, Endpoints: []string{"w"}, Text: `weight: a says "2", b says "2", c says "1"; taken from a (w)`},
		{What: "locality", Sides: []Side{{"a", "/z1/"}, {"c", "/z2/"}}, Endpoints: []string{"w"}, Text: `locality: a says "/z1/", c says "/z2/"; taken from a (w)`},
		{What: "port number", Sides: []Side{{"a", "80"}, {"c", "81"}}, Text: `port number: a says "80", c says "81"; taken from a`},
		{What: "port protocol", Sides: []Side{{"a", "http"}, {"c", "grpc"}}, Text: `port protocol: a says "http", c says "grpc"; taken from a`},
		{What: "label", Object: "k", Sides: []Side{{"c//k1", "1"}, {"c", "2"}}, Text: `c: label k: "1" is taken`},
	}
	if d := cmp.Diff(want, own); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	preferred := ruled(t, Rule{Prefer: []string{"c"}}, one, two, three)
	for _, c := range preferred.Conflicts[:len(want)-1] {
		if c.Sides[0].Source != "c" {
			t.Errorf("%v, want the side that is taken first", c)
		}
	}
	if e := preferred.Endpoints[0]; e.ID != "w" || e.Weight != 1 || e.Labels["v"] != "2" || e.Locality.Zone != "z2" {
		t.Errorf("endpoint %+v, want the word of c and the ID of a", e)
	}
}

func TestConflictsOfPorts(t *testing.T) {
	for _, c := range []struct {
		name   string
		claims []*Service
		want   Conflict
	}{
		{
			"no number",
			[]*Service{web([]Port{{}}, endpoint("w1", "10.0.0.1:1"), endpoint("w2", "10.0.0.2:3")), web([]Port{{}}, endpoint("w3", "10.0.0.3:2"))},
			Conflict{What: "no number", Sides: []Side{{"a", "1, 3"}, {"b", "2"}}, Text: `port "" (tcp): nobody declares its number, and endpoint w1 of a has 1, w2 of a has 3`},
		},
		{
			"shared number",
			[]*Service{web([]Port{{Name: "x", Number: 80}}), web([]Port{{Name: "y", Number: 80}})},
			Conflict{What: "shared number", Object: "y", Sides: []Side{{"a", `port "x"`}, {"b", `port "y"`}}, Text: `port "y" would have number 80 like port "x"; it has none`},
		},
		{
			"unnamed port",
			[]*Service{web([]Port{{}}), web([]Port{{Name: "x", Number: 80}, {Name: "y", Number: 81}})},
			Conflict{What: "unnamed port", Sides: []Side{{"a", `""`}, {"b", `"x", "y"`}}, Text: `port "" of a is none of the named ports of b`},
		},
		{
			"place",
			[]*Service{web([]Port{{Number: 1}}, endpoint("w1", "10.0.0.1:80"), endpoint("w2", "10.0.0.1:80"))},
			Conflict{What: "place", Sides: []Side{{"a", "w1"}, {"a", "w2"}}, Endpoints: []string{"w1"}, Text: "a reports two endpoints at one place, w1 and w2 (w1)"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff([]Conflict{c.want}, mergeOf(t, c.claims...).Conflicts, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("conflicts (-want +got):\n%s", d)
			}
		})
	}
}

// TestConflictsAreBounded has two sources disagree on everything there is.
func TestConflictsAreBounded(t *testing.T) {
	disagree := func(value string) *Service {
		s := web([]Port{{Number: 80, Protocol: HTTP}})
		s.Labels = map[string]string{}
		for i := range 100 {
			s.Labels[fmt.Sprintf("%03d", i)] = value
			s.Endpoints = append(s.Endpoints, endpoint(fmt.Sprintf("%03d", i), fmt.Sprintf("10.0.0.%d:80", i+1), labels("v", value)))
			s.Conflicts = append(s.Conflicts, Conflict{What: "name", Object: fmt.Sprint(i), Text: fmt.Sprint(i)})
		}
		return s
	}
	got := mergeOf(t, disagree("1"), disagree(strings.Repeat("☃", 1000))).Conflicts
	if len(got) != 65 || got[64].More != 100+1+200-64 {
		t.Fatalf("%d conflicts, the last %+v, want 64 and one for the other 237", len(got), got[len(got)-1])
	}
	for _, c := range got {
		if len(c.Text) > 2000 {
			t.Errorf("a text of %d bytes", len(c.Text))
		}
	}
	few := disagree("2")
	few.Labels, few.Conflicts = nil, nil
	got = mergeOf(t, few, disagree("1")).Conflicts
	if c := got[0]; c.What != "label" || len(c.Endpoints) != 8 || c.More != 92 || !strings.HasSuffix(c.Text, "(000 and 99 more)") {
		t.Errorf("%+v, want 8 of the 100 endpoints listed, the others counted", c)
	}
	if !slices.Equal(got[0].Endpoints, []string{"000", "001", "002", "003", "004", "005", "006", "007"}) {
		t.Errorf("endpoints %v, want the first 8", got[0].Endpoints)
	}
}
