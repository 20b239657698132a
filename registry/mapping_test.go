package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func named(full string, endpoints ...*Endpoint) *Service {
	namespace, name := splitName(full)
	return &Service{Name: Name{namespace, name}, Ports: []Port{{}}, Endpoints: endpoints}
}

func spelt(s *Service, original string) *Service { s.Original = original; return s }

func viewOf(t *testing.T, services ...*Service) View {
	t.Helper()
	v := View{Services: services}
	if err := v.Validate(); err != nil {
		t.Fatalf("view of the test: %v", err)
	}
	return v
}

func mapperOf(t *testing.T, m Mapping) *mapper {
	t.Helper()
	p, err := newMapper(m, "a")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// outline tells a view in a few words: name, original, ports, endpoints with labels, conflicts.
func outline(v View) []string {
	var lines []string
	for _, s := range v.Services {
		line := s.Name.String()
		if s.Original != "" {
			line += " (" + s.Original + ")"
		}
		for _, p := range s.Ports {
			if p != (Port{}) {
				line += fmt.Sprintf(" %s:%d/%s", p.Name, p.Number, p.Protocol)
			}
		}
		for _, e := range s.Endpoints {
			line += " " + e.ID
			for _, k := range sortedKeys(e.Labels) {
				line += "," + k + "=" + e.Labels[k]
			}
		}
		for _, c := range s.Conflicts {
			line += "; " + c.Text
		}
		lines = append(lines, line)
	}
	for _, p := range v.Problems {
		lines = append(lines, p.Object+": "+p.Reason)
	}
	return lines
}

func TestMapping(t *testing.T) {
	view := viewOf(
		t,
		spelt(named("default/com-acme-orders", endpoint("o", "10.0.0.1:80")), "com.acme.Orders"),
		named("default/web", endpoint("w", "10.0.0.2:80", labels("v", "1")), endpoint("w2", "10.0.0.3:80")),
		named("prod/orders", endpoint("p", "10.0.1.1:80")),
		named("prod/web", endpoint("pw", "10.0.1.2:80")),
		named("staging/orders", endpoint("s", "10.0.2.1:80")),
	)
	for _, c := range []struct {
		name    string
		mapping Mapping
		want    []string
	}{
		{
			"include by name, by spelling, by namespace",
			Mapping{Include: []string{"w?b", "com.acme.*", "staging/*"}},
			[]string{"default/com-acme-orders (com.acme.Orders) o", "default/web w,v=1 w2", "prod/web pw", "staging/orders s"},
		},
		{"exclude goes before", Mapping{Include: []string{"*"}, Exclude: []string{"prod/*", "*orders"}}, []string{"default/web w,v=1 w2"}},
		{"the star does not match a slash", Mapping{Include: []string{"*orders"}, Exclude: []string{"p*s"}}, []string{
			"default/com-acme-orders (com.acme.Orders) o", "prod/orders p", "staging/orders s",
		}},
		{
			"rename: the full name before the spelling before the name",
			Mapping{Include: []string{"*orders"}, Rename: map[string]string{"orders": "jobs", "prod/orders": "live", "com.acme.Orders": "shop/orders", "com-acme-orders": "never"}},
			[]string{"prod/live (prod/orders) p", "shop/orders (com.acme.Orders) o", "staging/jobs (staging/orders) s"},
		},
		{
			"namespaces",
			Mapping{Exclude: []string{"web"}, Namespaces: map[string]string{"prod": "live", "*": "rest"}},
			[]string{"live/orders (prod/orders) p", "rest/com-acme-orders (com.acme.Orders) o", "rest/orders (staging/orders) s"},
		},
		{
			"rename and namespaces",
			Mapping{Include: []string{"staging/*", "prod/orders"}, Namespaces: map[string]string{"*": "x"}, Rename: map[string]string{"staging/orders": "jobs", "prod/orders": "y/orders"}},
			[]string{"x/jobs (staging/orders) s", "y/orders (prod/orders) p"},
		},
		{
			"a clash of namespaces keeps the one that has the name",
			Mapping{Include: []string{"web", "orders"}, Namespaces: map[string]string{"*": "default"}},
			[]string{
				`default/orders (prod/orders) p; name default/orders: "prod/orders" is taken, "staging/orders" is left out`,
				`default/web w,v=1 w2; name default/web: "default/web" is taken, "prod/web" is left out`,
			},
		},
		{
			"services renamed to one are one",
			Mapping{Include: []string{"*orders"}, Rename: map[string]string{"com.acme.Orders": "prod/orders", "staging/orders": "prod/orders"}},
			[]string{"prod/orders o p s"},
		},
		{
			"ports: the longest glob is taken",
			Mapping{Include: []string{"orders", "prod/web"}, Ports: map[string]PortMapping{"*": {Protocol: HTTP}, "prod/*": {Number: 8080, Protocol: GRPC}, "prod/web": {Number: 81}}},
			[]string{"prod/orders :8080/grpc p", "prod/web :81/ pw", "staging/orders :0/http s"},
		},
		{
			"a port that is not there is told",
			Mapping{Include: []string{"prod/web"}, Ports: map[string]PortMapping{"*": {Port: "admin", Number: 1}}},
			[]string{"prod/web pw", `prod/web: mapping.ports[*]: got ports [""], want port "admin" among them`},
		},
		{"labels", Mapping{Include: []string{"default/web"}, Labels: map[string]string{"v": "2", "dc": "x"}}, []string{"default/web w,dc=x,v=2 w2,dc=x,v=2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := outline(view)
			p := mapperOf(t, c.mapping)
			got := p.apply(view)
			if err := got.Validate(); err != nil {
				t.Errorf("the mapped view: %v", err)
			}
			if d := cmp.Diff(c.want, outline(got)); d != "" {
				t.Errorf("mapped (-want +got):\n%s", d)
			}
			if d := cmp.Diff(before, outline(view)); d != "" {
				t.Errorf("the mapping changed its input:\n%s", d)
			}
			for i, s := range p.apply(View{Services: append([]*Service(nil), view.Services...)}).Services {
				if s != got.Services[i] {
					t.Errorf("%s: another pointer for the same", s.Name)
				}
			}
		})
	}
}

func TestMappingUnitesWithinItsSource(t *testing.T) {
	one := named("default/a", endpoint("x", "10.0.0.1:80", weight(2)), endpoint("y", "10.0.0.2:80"))
	two := named("default/b", endpoint("x", "10.0.0.3:80"), endpoint("z", "10.0.0.1:80"))
	one.Ports[0].Protocol, two.Ports[0].Protocol = HTTP, GRPC
	p := mapperOf(t, Mapping{Rename: map[string]string{"b": "a"}})
	got := p.apply(viewOf(t, one, two)).Services
	want := &Service{
		Name: one.Name, Ports: []Port{{Protocol: HTTP}},
		Endpoints: []*Endpoint{endpoint("x", "10.0.0.1:80", weight(2)), endpoint("x@default/b", "10.0.0.3:80"), endpoint("y", "10.0.0.2:80")},
		Conflicts: []Conflict{
			{What: "weight", Sides: []Side{{"default/a", "2"}, {"default/b", "1"}}, Endpoints: []string{"x"}, Text: `weight: default/a says "2", default/b says "1"; taken from default/a (x)`},
			{What: "port protocol", Sides: []Side{{"default/a", "http"}, {"default/b", "grpc"}}, Text: `port protocol: default/a says "http", default/b says "grpc"; taken from default/a`},
		},
	}
	if d := cmp.Diff([]*Service{want}, got, compareValues); d != "" {
		t.Errorf("united (-want +got):\n%s", d)
	}
	other := named("default/b", endpoint("x", "10.0.0.3:80"))
	if next := p.apply(viewOf(t, one, other)).Services; len(next) != 1 || next[0] == got[0] || len(next[0].Endpoints) != 3 {
		t.Errorf("after a member changed: %v", next)
	}
	if next := p.apply(viewOf(t, one)).Services; len(next) != 1 || next[0] != one || len(p.members) != 1 {
		t.Errorf("after a member left: %v, want the other under its own pointer", next)
	}
}

// TestMappingKeepsPointers wants a new service where one changed, the same elsewhere, and nothing kept of what is gone.
func TestMappingKeepsPointers(t *testing.T) {
	p := mapperOf(t, Mapping{Labels: map[string]string{"dc": "x"}, Exclude: []string{"s0003"}})
	view := numbered(10, 2)
	first := p.apply(View{Services: view})
	next := append([]*Service(nil), view...)
	next[5] = numbered(6, 3)[5]
	next = append(next[:7], next[8:]...)
	second := p.apply(View{Services: next})
	if len(first.Services) != 9 || len(second.Services) != 8 || len(p.to) != 9 || len(p.from) != 9 {
		t.Fatalf("%d and %d services, %d kept, want 9, 8 and those of the last view", len(first.Services), len(second.Services), len(p.to))
	}
	for i, s := range second.Services {
		at := i
		if i >= 6 {
			at++
		}
		if same := s == first.Services[at]; same != (s.Name.Name != "s0005") {
			t.Errorf("%s: same pointer %v", s.Name, same)
		}
	}
	none := mapperOf(t, Mapping{})
	if v := (View{Services: view}); &none.apply(v).Services[0] != &v.Services[0] {
		t.Error("no mapping made another view")
	}
	all := mapperOf(t, Mapping{Include: []string{"*"}})
	if got := all.apply(View{Services: view}).Services; got[3] != view[3] {
		t.Error("a filter that takes a service as it is gave it another pointer")
	}
}

// TestMappingByStepsIsMappingAtOnce changes a view step by step: what the mapper keeps must be what a fresh one makes of the
// same view, valid, and what nothing happened to keeps its pointer.
func TestMappingByStepsIsMappingAtOnce(t *testing.T) {
	mapping := Mapping{
		Exclude: []string{"hidden"}, Namespaces: map[string]string{"*": "x", "b": "y"},
		Rename: map[string]string{"a/one": "y/two", "c/one": "y/two", "two": "z/one", "b/three": "x/one"}, Ports: map[string]PortMapping{"three": {Port: "none", Number: 1}},
	}
	random := rand.New(rand.NewPCG(3, 4))
	steps := mapperOf(t, mapping)
	var view []*Service
	var last View
	for step := range 3000 {
		next := slices.Clone(view)
		touched := make(map[Name]bool)
		for range 1 + random.IntN(3) {
			from := Name{[]string{"a", "b", "c", "default"}[random.IntN(4)], []string{"hidden", "one", "two", "three"}[random.IntN(4)]}
			at, found := slices.BinarySearchFunc(next, from, compareName)
			var made []*Service
			if random.IntN(3) > 0 {
				s := &Service{Name: from, Ports: []Port{{}}, Endpoints: []*Endpoint{endpoint(fmt.Sprint("e", random.IntN(3)), fmt.Sprintf("10.0.0.%d:80", 1+random.IntN(3)))}}
				made = []*Service{s}
			}
			next = slices.Replace(next, at, at+map[bool]int{true: 1}[found], made...)
			to, _ := mapping.name(&Service{Name: from})
			touched[to] = true
		}
		view = next
		got, want := steps.apply(View{Services: view}), mapperOf(t, mapping).apply(View{Services: view})
		if !slices.EqualFunc(want.Services, got.Services, (*Service).equal) || !slices.Equal(want.Problems, got.Problems) {
			t.Fatalf("step %d (-at once +by steps):\n%s", step, cmp.Diff(want, got, compareValues))
		}
		if err := got.Validate(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		for _, s := range got.Services {
			if at, ok := slices.BinarySearchFunc(last.Services, s.Name, compareName); ok && last.Services[at] != s && !touched[s.Name] {
				t.Fatalf("step %d: nothing happened to %s, and it has another pointer", step, s.Name)
			}
		}
		last = got
	}
}

func TestMappingMistakesAreToldByPlace(t *testing.T) {
	_, err := newMapper(Mapping{
		Include: []string{"ok", "["}, Exclude: []string{""},
		Rename:     map[string]string{"a": "Web", "b": "a/b/c", "": "x", "c": "/x", "fine": "shop/fine"},
		Namespaces: map[string]string{"A": "x", "*": "no dots."},
		Ports:      map[string]PortMapping{"a[": {Number: 1}, "web": {}, "api": {Protocol: "HTTP"}},
		Labels:     map[string]string{"": "x", "k": "a\nb"},
	}, "dc1")
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		`map services of source "dc1": mapping.include[1]: got "[", want a glob such as "team-*" or "shop/*"`,
		`mapping.exclude[0]: got "", want a glob such as "team-*" or "shop/*"`,
		`mapping.rename[]: got "", want a service of the registry`,
		`mapping.rename[a]: got "Web", want name or namespace/name of RFC 1123 labels`,
		`mapping.rename[b]: got "a/b/c", want name or namespace/name of RFC 1123 labels`,
		`mapping.rename[c]: got "/x", want name or namespace/name of RFC 1123 labels`,
		`mapping.namespaces[*]: got "no dots.", want a namespace, an RFC 1123 label`,
		`mapping.namespaces[A]: got "A", want a namespace, an RFC 1123 label, or "*"`,
		`mapping.ports[a[]: got "a[", want a glob such as "team-*" or "shop/*"`,
		`mapping.ports[api].protocol: got "HTTP", want tcp, udp, http, http2, grpc or tls`,
		`mapping.ports[web]: got neither number nor protocol, want a number from 1 to 65535, a protocol, or both`,
		`mapping.labels[]: got "x", want a key of 1 to 200 bytes, and no control characters`,
		`mapping.labels[k]: got "a\nb", want a key of 1 to 200 bytes, and no control characters`,
	}
	if d := cmp.Diff(want, strings.Split(err.Error(), "\n")); d != "" {
		t.Errorf("mistakes (-want +got):\n%s", d)
	}
}

// FuzzMapping maps services of hostile names by hostile mappings: what passes the check makes valid views, and the same
// of the same.
func FuzzMapping(f *testing.F) {
	f.Add("com.acme.Orders", "Orders", "com.*", "orders", "shop/orders", "*", "k", "v")
	f.Add("Web\x00", "web", "*", "web", "web", "default", "", "")
	f.Add("../a", "A/b", "[^a]", "*", "a", "b", "\xff", "☃")
	f.Fuzz(func(t *testing.T, one, two, glob, from, to, namespace, key, value string) {
		m := Mapping{
			Exclude: []string{glob}, Rename: map[string]string{from: to, one: to}, Namespaces: map[string]string{"*": namespace},
			Ports: map[string]PortMapping{from: {Number: 1, Port: key}}, Labels: map[string]string{key: value},
		}
		p, err := newMapper(m, "a")
		if err != nil {
			m = Mapping{Exclude: m.Exclude}
			if p, err = newMapper(m, "a"); err != nil {
				return
			}
		}
		a := NewAssembly()
		for i, service := range []string{one, two, from, "orders"} {
			for j, in := range []string{"", two} {
				k := fmt.Sprint(i, j)
				a.Set(k, Entry{Namespace: in, Service: service, Ports: []Port{{Name: key}}, Endpoint: endpoint(k, "10.0.0.1:80", port(key))})
			}
		}
		view := a.View()
		if err := view.Validate(); err != nil {
			t.Fatalf("assembled: %v", err)
		}
		got := p.apply(view)
		if err := got.Validate(); err != nil {
			t.Fatalf("mapped: %v", err)
		}
		again := p.apply(View{Services: append([]*Service(nil), view.Services...)})
		if !cmp.Equal(got.Services, again.Services, cmp.Comparer(func(a, b *Service) bool { return a == b }), cmpopts.EquateEmpty()) {
			t.Fatal("the same view mapped to other pointers")
		}
		fresh, err := newMapper(m, "a")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(outline(got), outline(fresh.apply(view))); d != "" {
			t.Fatalf("another mapper made another view:\n%s", d)
		}
	})
}
