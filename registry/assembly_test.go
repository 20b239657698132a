package registry_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostmesh/hostmesh/registry"
)

func entry(service, id, addr string) registry.Entry {
	return registry.Entry{
		Service: service, Ports: []registry.Port{{Protocol: registry.HTTP}},
		Endpoint: &registry.Endpoint{
			ID: id, Addr: netip.MustParseAddr(addr), Ports: []registry.EndpointPort{{Number: 8080}}, Weight: 1,
		},
	}
}

func TestAssemblyGroupsEntriesAndKeepsPointers(t *testing.T) {
	a := registry.NewAssembly()
	a.Set("/web/1", entry("web", "1", "10.0.0.1"))
	a.Set("/web/2", entry("web", "2", "10.0.0.2"))
	a.Set("/api/1", entry("com.acme.Api", "1", "10.0.0.3"))
	a.Set("/empty", registry.Entry{Service: "empty", Namespace: "Shop"})
	first := a.View()
	if err := first.Validate(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range first.Services {
		names = append(names, s.Name.String()+" "+s.Original)
	}
	if d := cmp.Diff([]string{"default/com-acme-api com.acme.Api", "default/web ", "shop/empty Shop/empty"}, names); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
	a.Set("/web/1", entry("web", "1", "10.0.0.1"))
	a.Delete("/api/1")
	second := a.View()
	if len(second.Services) != 2 || second.Services[0] != first.Services[1] || len(first.Services) != 3 {
		t.Errorf("after a service left: %v, want web under its pointer, and the first view as it was", second.Services)
	}
	a.Set("/web/2", entry("api", "2", "10.0.0.2")) // an entry may move to another service
	third := a.View()
	if len(third.Services) != 3 || len(third.Services[0].Endpoints) != 1 || len(third.Services[1].Endpoints) != 1 {
		t.Errorf("after an entry moved: %v", third.Services)
	}
}

func TestAssemblyKeepsTheLastGoodWord(t *testing.T) {
	a := registry.NewAssembly()
	a.Set("k", entry("web", "1", "10.0.0.1"))
	a.Set("sibling", entry("web", "2", "10.0.0.2"))
	good := a.View()
	bad := entry("web", "1", "0.0.0.0")
	a.Set("k", bad)
	a.Reject("other", "got junk")
	a.RejectAs("syntax", "syntax", "got more junk")
	a.Note("target", registry.Problem{Kind: "unanswered", Reason: "got nothing", Stale: true})
	v := a.View()
	if v.Services[0] != good.Services[0] {
		t.Error("a bad entry changed the service")
	}
	want := []registry.Problem{
		{Object: "k", Kind: "entry", Reason: `endpoint "1": address 0.0.0.0: want one that leads to one host from everywhere`, Stale: true},
		{Object: "other", Reason: "got junk"},
		{Object: "syntax", Kind: "syntax", Reason: "got more junk"},
		{Object: "target", Kind: "unanswered", Reason: "got nothing", Stale: true},
	}
	if d := cmp.Diff(want, v.Problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
	if keys := a.Keys(); len(keys) != 5 {
		t.Errorf("keys %v, want all five", keys)
	}
	a.Delete("k")
	a.Delete("target")
	a.Delete("syntax")
	a.Set("other", entry("web", "3", "10.0.0.3"))
	if v := a.View(); len(v.Problems) != 0 || len(v.Services[0].Endpoints) != 2 {
		t.Errorf("%v with problems %v, want two endpoints and none", v.Services[0], v.Problems)
	}
	a.Set("nameless", registry.Entry{Service: "..."})
	if v := a.View(); len(v.Problems) != 1 || len(v.Services) != 1 {
		t.Errorf("%v, want the nameless entry told and left out", v)
	}
}

func TestAssemblyTellsWhatEntriesSayDifferently(t *testing.T) {
	a := registry.NewAssembly()
	one, two, three := entry("web", "1", "10.0.0.1"), entry("web", "1", "10.0.0.2"), entry("Web", "3", "10.0.0.3")
	one.Labels, two.Labels = map[string]string{"v": "1"}, map[string]string{"v": "2"}
	two.Ports = []registry.Port{{Protocol: registry.GRPC}}
	a.Set("1", one)
	a.Set("2", two)
	a.Set("3", three)
	s := a.View().Services[0]
	if len(s.Endpoints) != 1 || s.Labels["v"] != "1" || s.Ports[0].Protocol != registry.HTTP {
		t.Errorf("%+v, want the first entry's word", s)
	}
	var what []string
	for _, c := range s.Conflicts {
		what = append(what, c.What)
	}
	if d := cmp.Diff([]string{"port protocol", "label", "endpoint ID", "name"}, what); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
}

// One entry does not turn what a service's port is for the others, whatever its key.
func TestAssemblyTakesWhatMostEntriesSayOfAPort(t *testing.T) {
	say := func(ports ...registry.Port) registry.Entry {
		e := entry("web", "", "10.0.0.1")
		e.Ports, e.Endpoint = ports, nil
		return e
	}
	admin := registry.Port{Name: "admin", Number: 9, Protocol: registry.TCP}
	for _, c := range []struct {
		name    string
		entries []registry.Entry
		want    []registry.Port
		says    [2]string // of the first conflict
	}{
		{"one of three", []registry.Entry{say(registry.Port{Protocol: registry.GRPC}), say(registry.Port{Protocol: registry.HTTP}), say(registry.Port{Protocol: registry.HTTP})}, []registry.Port{{Protocol: registry.HTTP}}, [2]string{"http", "grpc"}},
		{"who says nothing has no vote", []registry.Entry{say(registry.Port{}), say(registry.Port{}), say(registry.Port{Protocol: registry.HTTP})}, []registry.Port{{Protocol: registry.HTTP}}, [2]string{}},
		{"as many, the first", []registry.Entry{say(registry.Port{Protocol: registry.HTTP}), say(registry.Port{Protocol: registry.GRPC})}, []registry.Port{{Protocol: registry.HTTP}}, [2]string{"http", "grpc"}},
		{"numbers and protocols apart", []registry.Entry{
			say(admin, registry.Port{Name: "x", Number: 1, Protocol: registry.HTTP}), say(registry.Port{Name: "x", Number: 2, Protocol: registry.HTTP}),
			say(registry.Port{Name: "x", Number: 2, Protocol: registry.GRPC}), say(registry.Port{Name: "x", Protocol: registry.GRPC}), say(registry.Port{Name: "x", Protocol: registry.GRPC}),
		}, []registry.Port{admin, {Name: "x", Number: 2, Protocol: registry.GRPC}}, [2]string{"2", "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := registry.NewAssembly()
			for i, e := range c.entries {
				a.Set(fmt.Sprint(i), e)
			}
			s := a.View().Services[0]
			if d := cmp.Diff(c.want, s.Ports); d != "" {
				t.Errorf("ports (-want +got):\n%s", d)
			}
			if c.says == [2]string{} {
				if len(s.Conflicts) > 0 {
					t.Errorf("conflicts %v, want none", s.Conflicts)
				}
				return
			}
			if sides := s.Conflicts[0].Sides; sides[0].Says != c.says[0] || sides[1].Says != c.says[1] {
				t.Errorf("the conflict is %v, want %v", s.Conflicts[0], c.says)
			}
		})
	}
}

// TestAssemblyByStepsIsAssemblyAtOnce sets and deletes at random: every view is what a fresh Assembly makes of the same
// entries, and services whose entries did not change keep their pointer.
func TestAssemblyByStepsIsAssemblyAtOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	steps := registry.NewAssembly()
	truth := make(map[string]registry.Entry)
	var last registry.View
	for step := range 3000 {
		touched := make(map[string]bool)
		for range random.IntN(4) {
			key := fmt.Sprint("k", random.IntN(30))
			if old, ok := truth[key]; ok {
				touched[strings.ToLower(old.Service)] = true
			}
			if random.IntN(3) == 0 {
				steps.Delete(key)
				delete(truth, key)
				continue
			}
			e := entry([]string{"a", "b", "C", "c"}[random.IntN(4)], key, "10.0.0.1")
			e.Labels = map[string]string{"v": fmt.Sprint(random.IntN(2))}
			truth[key] = e
			own := e
			own.Endpoint = new(*e.Endpoint)
			steps.Set(key, own)
			touched[strings.ToLower(e.Service)] = true
		}
		got := steps.View()
		fresh := registry.NewAssembly()
		for key, e := range truth {
			fresh.Set(key, e)
		}
		if d := cmp.Diff(fresh.View(), got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("step %d (-at once +by steps):\n%s", step, d)
		}
		for _, s := range last.Services {
			if !touched[s.Name.Name] && !slices.Contains(got.Services, s) {
				t.Fatalf("step %d: %s has another pointer, nothing of it changed", step, s.Name)
			}
		}
		last = got
	}
}

func TestAssemblyBoundsConflicts(t *testing.T) {
	a := registry.NewAssembly()
	for i := range 1000 {
		e := entry("web", fmt.Sprint(i), "10.0.0.1")
		e.Labels = map[string]string{"v": fmt.Sprint(i)}
		a.Set(fmt.Sprintf("%04d", i), e)
	}
	s := a.View().Services[0]
	if n := len(s.Conflicts); n != 65 || len(s.Endpoints) != 1000 {
		t.Fatalf("%d conflicts, %d endpoints, want 64 and one for the rest, and all endpoints", n, len(s.Endpoints))
	}
	if d := cmp.Diff(registry.Conflict{What: "more", More: 935, Text: "and 935 more conflicts"}, s.Conflicts[64]); d != "" {
		t.Errorf("the last conflict (-want +got):\n%s", d)
	}
}
