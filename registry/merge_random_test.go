package registry

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMergeByStepsIsMergeAtOnce changes random views of three sources, and the rules, step by step: what the merger keeps
// must be what a fresh one makes of the same views and rules, valid, without a place in two endpoints, without a lost
// one, divided as the rules say; and a service that nothing happened to keeps its pointer.
func TestMergeByStepsIsMergeAtOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c"}
	steps := newMerger(names, Rules{})
	views := make([][]*Service, len(names))
	var rules Rules
	var last []*Service
	for step := range 4000 {
		if i := random.IntN(len(names) + 1); i < len(names) {
			views[i] = randomView(random)
			if err := (View{Services: views[i]}).Validate(); err != nil {
				t.Fatalf("view of the test: %v", err)
			}
			steps.set(i, views[i])
		} else {
			rules = randomRules(random)
			steps.setRules(rules)
		}
		got, _ := steps.merge()
		fresh := newMerger(names, rules)
		for i, v := range views {
			fresh.set(i, v)
		}
		want, _ := fresh.merge()
		if !slices.EqualFunc(want, got, (*Service).equal) {
			t.Fatalf("step %d (-at once +by steps):\n%s", step, cmp.Diff(want, got, compareValues))
		}
		if err := (View{Services: got}).Validate(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		for _, s := range got {
			if at, ok := slices.BinarySearchFunc(last, s.Name, compareName); ok && last[at] != s && last[at].equal(s) {
				t.Fatalf("step %d: %s has another pointer and says the same", step, s.Name)
			}
			checkPlaces(t, names, views, s)
			checkHealth(t, views, s)
			checkRule(t, names, views, rules.of(s.Name), s)
		}
		last = got
	}
}

// randomRules returns rules for the services of randomView.
func randomRules(random *rand.Rand) Rules {
	rule := func() Rule {
		order := []string{"a", "b", "c"}
		random.Shuffle(3, func(i, j int) { order[i], order[j] = order[j], order[i] })
		order = order[:1+random.IntN(3)]
		switch random.IntN(4) {
		case 0:
			return Rule{Prefer: order}
		case 1:
			return Rule{Failover: order}
		case 2:
			shares := map[string]uint32{order[0]: 1 + random.Uint32N(100)}
			for _, source := range order[1:] {
				shares[source] = random.Uint32N(3) * 7
			}
			return Rule{Weights: shares}
		}
		return Rule{}
	}
	return Rules{Default: rule(), Services: map[Name]Rule{{DefaultNamespace, "api"}: rule(), {DefaultNamespace, "db"}: rule()}}
}

// checkRule divides the endpoints of s as the words of the rule say, with no regard to speed.
func checkRule(t *testing.T, names []string, views [][]*Service, rule Rule, s *Service) {
	t.Helper()
	all := slices.Concat(s.Endpoints, s.Standby)
	known := func(*Endpoint) bool { return true }
	serves := func(e *Endpoint) bool { return e.Health.Serving() }
	sure := func(e *Endpoint) bool { return serves(e) && e.Doubt == nil }
	has := func(source string, kind func(*Endpoint) bool) bool {
		return slices.ContainsFunc(all, func(e *Endpoint) bool { return slices.Contains(e.Sources, source) && kind(e) })
	}
	inOrder := func(named []string) []string {
		order := slices.Clone(named)
		for _, name := range names {
			if !slices.Contains(order, name) {
				order = append(order, name)
			}
		}
		return order
	}
	firstOf := func(order []string, kinds ...func(*Endpoint) bool) []string {
		for _, kind := range kinds {
			for _, source := range order {
				if has(source, kind) {
					return []string{source}
				}
			}
		}
		return nil
	}
	chosen := names
	switch {
	case rule.Prefer != nil:
		chosen = firstOf(inOrder(rule.Prefer), known)
	case rule.Failover != nil:
		chosen = firstOf(inOrder(rule.Failover), sure, serves, known)
	case rule.Weights != nil:
		chosen = slices.DeleteFunc(slices.Clone(names), func(source string) bool { return rule.Weights[source] == 0 })
	}
	for _, e := range all {
		active := slices.Contains(s.Endpoints, e)
		if want := slices.ContainsFunc(e.Sources, func(source string) bool { return slices.Contains(chosen, source) }); active != want {
			t.Fatalf("%s of %v under %+v: active is %v, want %v", e.ID, e.Sources, rule, active, want)
		}
	}
	if rule.Weights != nil {
		checkShares(t, names, views, rule, s)
	}
}

// checkShares wants of each serving endpoint the part of the traffic that the shares of its sources give it.
func checkShares(t *testing.T, names []string, views [][]*Service, rule Rule, s *Service) {
	t.Helper()
	own := func(source string, e *Endpoint) float64 { // the weight that a source gives what has become e
		for _, v := range views[slices.Index(names, source)] {
			for _, mine := range v.Endpoints {
				for p := range places(mine) {
					if v.Name == s.Name && slices.Contains(slices.Collect(places(e)), p) {
						return float64(mine.Weight)
					}
				}
			}
		}
		return 0
	}
	part := make(map[*Endpoint]float64)
	var shares, weights float64
	for _, source := range names {
		var total float64
		for _, e := range s.Endpoints {
			if e.Health.Serving() {
				total += own(source, e)
			}
		}
		if total == 0 {
			continue
		}
		shares += float64(rule.Weights[source])
		for _, e := range s.Endpoints {
			if e.Health.Serving() {
				part[e] += float64(rule.Weights[source]) * own(source, e) / total
			}
		}
	}
	for e := range part {
		weights += float64(e.Weight)
	}
	for e := range part {
		if got, want := float64(e.Weight)/weights, part[e]/shares; math.Abs(got-want) > 1e-9 {
			t.Fatalf("%s of %v under %+v gets %v, want %v", e.ID, e.Sources, rule, got, want)
		}
	}
}

// checkHealth wants the worst word of those that are sure of an endpoint, of all if nobody is.
func checkHealth(t *testing.T, views [][]*Service, s *Service) {
	t.Helper()
	for _, e := range slices.Concat(s.Endpoints, s.Standby) {
		var sure, all []Health
		for _, own := range slices.Concat(views...) {
			for _, said := range own.Endpoints {
				if own.Name != s.Name || !slices.ContainsFunc(slices.Collect(places(said)), e.isAt) {
					continue
				}
				if all = append(all, said.Health); said.Doubt == nil {
					sure = append(sure, said.Health)
				}
			}
		}
		if doubted := len(sure) == 0; doubted != (e.Doubt != nil) {
			t.Fatalf("%s: %s has doubt %v, want doubted %v", s.Name, e.ID, e.Doubt, doubted)
		} else if doubted {
			sure = all
		}
		if want := slices.Max(sure); e.Health != want {
			t.Fatalf("%s: %s is %s, want %s", s.Name, e.ID, e.Health, want)
		}
	}
}

// checkPlaces wants each place that a source reports in exactly one endpoint, which names the source.
func checkPlaces(t *testing.T, names []string, views [][]*Service, s *Service) {
	t.Helper()
	at := make(map[place]*Endpoint)
	for _, e := range slices.Concat(s.Endpoints, s.Standby) {
		for p := range places(e) {
			if at[p] != nil && at[p] != e {
				t.Fatalf("%s: %v is in %s and %s", s.Name, p, at[p].ID, e.ID)
			}
			at[p] = e
		}
	}
	for i, view := range views {
		for _, own := range view {
			if own.Name != s.Name {
				continue
			}
			for _, e := range own.Endpoints {
				for p := range places(e) {
					if in := at[p]; in == nil || !slices.Contains(in.Sources, names[i]) {
						t.Fatalf("%s: %v of %s is in %+v", s.Name, p, names[i], in)
					}
				}
			}
		}
	}
}

// TestSharedPortsAtRandom has one or two sources report endpoints of one address with ports of few numbers. No report is
// lost, and what a source reports twice is one. Of two reports alone, those of two sources are one if they share a place;
// those of one source are it only if one of them has no place of its own.
func TestSharedPortsAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	names := []string{"a", "b"}
	for round := range 3000 {
		claims := make([]claim, 1+random.IntN(2))
		for i := range claims {
			s := &Service{Name: webName}
			for id := range 1 + random.IntN(4) {
				e := &Endpoint{ID: string(rune('k' + id)), Addr: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Weight: 1}
				for number := range 4 {
					if random.IntN(2) == 0 {
						e.Ports = append(e.Ports, EndpointPort{string(rune('a' + number)), uint16(8000 + number)})
					}
				}
				s.Endpoints = append(s.Endpoints, e)
			}
			claims[i] = claim{names[i], i, s}
		}
		reports := groupReports(claims)
		n := 0
		for _, c := range claims {
			n += len(c.service.Endpoints)
		}
		if len(reports) != n || !slices.IsSortedFunc(reports, func(x, y report) int { return x.group - y.group }) {
			t.Fatalf("round %d: %d reports of %d endpoints, by group: %+v", round, len(reports), n, reports)
		}
		for i, r := range reports {
			for _, o := range reports[:i] {
				switch together := r.group == o.group; {
				case !together && r.source == o.source && slices.Equal(r.endpoint.Ports, o.endpoint.Ports):
					t.Fatalf("round %d: %v twice, and are two", round, r.endpoint.Ports)
				case !together && len(reports) == 2 && !disjoint(r.endpoint, o.endpoint) && (r.source != o.source || sameEndpoint(r.endpoint, o.endpoint)):
					t.Fatalf("round %d: %v and %v, and are two", round, r.endpoint.Ports, o.endpoint.Ports)
				case together && len(reports) == 2 && (disjoint(r.endpoint, o.endpoint) || r.source == o.source && !sameEndpoint(r.endpoint, o.endpoint)):
					t.Fatalf("round %d: %v and %v, and are one", round, r.endpoint.Ports, o.endpoint.Ports)
				}
			}
		}
	}
}

// disjoint reports whether two endpoints share no place.
func disjoint(a, b *Endpoint) bool {
	for p := range places(a) {
		if b.isAt(p) {
			return false
		}
	}
	return true
}

// randomView returns a small view in which much clashes.
func randomView(random *rand.Rand) []*Service {
	var view []*Service
	for _, name := range []string{"api", "db", "web"} {
		if random.IntN(4) == 0 {
			continue
		}
		s := &Service{Name: Name{DefaultNamespace, name}, Ports: []Port{{"admin", 90, HTTP}, {"main", uint16(80 + random.IntN(2)), TCP}}}
		for id := range random.IntN(4) {
			e := &Endpoint{
				ID: string(rune('k' + id)), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(3))}),
				Weight: uint32(1 + random.IntN(2)), Health: Health(random.IntN(4)), Labels: map[string]string{"v": string(rune('0' + random.IntN(3)))},
			}
			if random.IntN(2) == 0 {
				e.Ports = append(e.Ports, EndpointPort{"admin", 9000})
			}
			if random.IntN(3) == 0 {
				e.Doubt = &Doubt{Reason: "x"}
			}
			if e.Ports == nil || random.IntN(2) == 0 {
				e.Ports = append(e.Ports, EndpointPort{"main", 8000})
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		view = append(view, s)
	}
	return view
}
