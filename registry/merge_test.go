package registry

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compareValues = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}

func endpoint(id, at string, change ...func(*Endpoint)) *Endpoint {
	ap := netip.MustParseAddrPort(at)
	e := &Endpoint{ID: id, Addr: ap.Addr(), Ports: []EndpointPort{{Number: ap.Port()}}, Weight: 1}
	for _, c := range change {
		c(e)
	}
	return e
}

func health(h Health) func(*Endpoint) { return func(e *Endpoint) { e.Health = h } }
func doubt(reason string) func(*Endpoint) {
	return func(e *Endpoint) { e.Doubt = &Doubt{Reason: reason} }
}
func weight(w uint32) func(*Endpoint)     { return func(e *Endpoint) { e.Weight = w } }
func sources(s ...string) func(*Endpoint) { return func(e *Endpoint) { e.Sources = s } }
func port(name string) func(*Endpoint)    { return func(e *Endpoint) { e.Ports[0].Name = name } }
func labels(kv ...string) func(*Endpoint) {
	return func(e *Endpoint) {
		e.Labels = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			e.Labels[kv[i]] = kv[i+1]
		}
	}
}

var webName = Name{Namespace: DefaultNamespace, Name: "web"}

func web(ports []Port, endpoints ...*Endpoint) *Service {
	return &Service{Name: webName, Ports: ports, Endpoints: endpoints}
}

// mergeOf merges what sources a, b, c … say of one service; nil for a source that does not know it.
func mergeOf(t *testing.T, claims ...*Service) *Service {
	t.Helper()
	names := make([]string, len(claims))
	for i := range claims {
		names[i] = string(rune('a' + i))
	}
	m := newMerger(names, Rules{})
	for i, s := range claims {
		if s != nil {
			v := View{Services: []*Service{s}}
			if err := v.Validate(); err != nil {
				t.Fatalf("claim %d of the test: %v", i, err)
			}
			m.set(i, v.Services)
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

func TestMergeEndpoints(t *testing.T) {
	http := []Port{{Protocol: HTTP}}
	pair := []Port{{Name: "admin", Protocol: HTTP}, {Name: "main", Protocol: HTTP}}
	admin := func(id string, change ...func(*Endpoint)) *Endpoint {
		e := endpoint(id, "10.0.0.1:8081", change...)
		e.Ports[0].Name = "admin"
		return e
	}
	two := func(id string, main uint16, change ...func(*Endpoint)) *Endpoint {
		e := admin(id, change...)
		e.Ports = append(e.Ports, EndpointPort{"main", main})
		return e
	}
	for _, c := range []struct {
		name   string
		claims []*Service
		want   []*Endpoint
	}{
		{
			"one source",
			[]*Service{web(http, endpoint("w1", "10.0.0.1:80", health(Healthy)))},
			[]*Endpoint{endpoint("w1", "10.0.0.1:80", health(Healthy), sources("a"))},
		},
		{
			"union",
			[]*Service{web(http, endpoint("w2", "10.0.0.2:80")), web(http, endpoint("w1", "10.0.0.1:80"))},
			[]*Endpoint{endpoint("w1", "10.0.0.1:80", sources("b")), endpoint("w2", "10.0.0.2:80", sources("a"))},
		},
		{
			"one place is one endpoint, with the first ID",
			[]*Service{web(http, endpoint("x", "10.0.0.1:80")), nil, web(http, endpoint("w", "10.0.0.1:80"))},
			[]*Endpoint{endpoint("x", "10.0.0.1:80", sources("a", "c"))},
		},
		{
			"one source has two with a port of both",
			[]*Service{web(pair, two("m1", 31000), two("m2", 31001))},
			[]*Endpoint{two("m1", 31000, sources("a")), two("m2", 31001, sources("a"))},
		},
		{
			"and another the same two",
			[]*Service{web(pair, two("m1", 31000), two("m2", 31001)), web(pair, two("x1", 31001), two("x2", 31000))},
			[]*Endpoint{two("m1", 31000, sources("a", "b")), two("m2", 31001, sources("a", "b"))},
		},
		{
			"and another the second",
			[]*Service{web(pair, two("m1", 31000), two("m2", 31001)), web(pair, two("x2", 31001))},
			[]*Endpoint{two("m1", 31000, sources("a")), two("m2", 31001, sources("a", "b"))},
		},
		{
			"and another, before it, the port of both alone",
			[]*Service{web(pair, admin("x")), web(pair, two("m1", 31000), two("m2", 31001))},
			[]*Endpoint{two("m2", 31001, sources("b")), two("x", 31000, sources("a", "b"))},
		},
		{
			"one source has one of two ports twice",
			[]*Service{web(pair, two("m1", 31000), admin("m2"))},
			[]*Endpoint{two("m1", 31000, sources("a"))},
		},
		{
			"two ports are two endpoints",
			[]*Service{web(http, endpoint("w1", "10.0.0.1:80")), web(http, endpoint("w2", "10.0.0.1:81"))},
			[]*Endpoint{endpoint("w1", "10.0.0.1:80", sources("a")), endpoint("w2", "10.0.0.1:81", sources("b"))},
		},
		{
			"IDs stay unique",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80")), web(http, endpoint("w", "10.0.0.2:80")), web(http, endpoint("w@b", "10.0.0.3:80"))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", sources("a")), endpoint("w@b", "10.0.0.3:80", sources("c")), endpoint("w@b.2", "10.0.0.2:80", sources("b"))},
		},
		{
			"the same twice from one source",
			[]*Service{web(http, endpoint("w1", "10.0.0.1:80", health(Healthy)), endpoint("w2", "10.0.0.1:80", health(Unhealthy)))},
			[]*Endpoint{endpoint("w1", "10.0.0.1:80", health(Unhealthy), sources("a"))},
		},
		{
			"a doubted word on health does not count where another source is sure",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", health(Unhealthy), doubt("x"))), web(http, endpoint("w", "10.0.0.1:80", health(Healthy)))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", health(Healthy), sources("a", "b"))},
		},
		{
			"where all are doubted it does",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", health(Unhealthy), doubt("x"))), web(http, endpoint("w", "10.0.0.1:80", health(Healthy), doubt("y")))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", health(Unhealthy), doubt("x"), sources("a", "b"))},
		},
		{
			"draining before unhealthy",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", health(Draining))), web(http, endpoint("w", "10.0.0.1:80", health(Unhealthy)))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", health(Draining), sources("a", "b"))},
		},
		{
			"unhealthy before healthy",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", health(Healthy))), web(http, endpoint("w", "10.0.0.1:80", health(Unhealthy)))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", health(Unhealthy), sources("a", "b"))},
		},
		{
			"presence is no check",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", health(Unknown))), web(http, endpoint("w", "10.0.0.1:80", health(Unhealthy)))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", health(Unhealthy), sources("a", "b"))},
		},
		{
			"healthy before unknown",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", health(Unknown))), web(http, endpoint("w", "10.0.0.1:80", health(Healthy)))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", health(Healthy), sources("a", "b"))},
		},
		{
			"labels are united, weight is the first one's",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", labels("v", "1"), weight(3))), web(http, endpoint("w", "10.0.0.1:80", labels("v", "2", "team", "x"), weight(5)))},
			[]*Endpoint{endpoint("w", "10.0.0.1:80", labels("v", "1", "team", "x"), weight(3), sources("a", "b"))},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := fmt.Sprintf("%+v", derefAll(c.claims))
			got := mergeOf(t, c.claims...)
			if d := cmp.Diff(c.want, got.Endpoints, compareValues); d != "" {
				t.Errorf("endpoints (-want +got):\n%s", d)
			}
			if after := fmt.Sprintf("%+v", derefAll(c.claims)); after != before {
				t.Errorf("the merge changed its input:\n%s\n%s", before, after)
			}
		})
	}
}

func derefAll(claims []*Service) (all []any) {
	for _, s := range claims {
		if s != nil {
			all = append(all, *s)
			for _, e := range s.Endpoints {
				all = append(all, *e)
			}
		}
	}
	return all
}

func TestMergePorts(t *testing.T) {
	one := func(p Port) []Port { return []Port{p} }
	for _, c := range []struct {
		name   string
		claims []*Service
		want   []Port
	}{
		{"declared", []*Service{web(one(Port{Number: 8000, Protocol: HTTP}), endpoint("w", "10.0.0.1:8080"))}, one(Port{Number: 8000, Protocol: HTTP})},
		{"shared by all endpoints", []*Service{web(one(Port{Protocol: HTTP}), endpoint("w1", "10.0.0.1:8080"), endpoint("w2", "10.0.0.2:8080"))}, one(Port{Number: 8080, Protocol: HTTP})},
		{"not shared, HTTP", []*Service{web(one(Port{Protocol: HTTP}), endpoint("w1", "10.0.0.1:8080"), endpoint("w2", "10.0.0.2:8081"))}, one(Port{Number: 80, Protocol: HTTP})},
		{"not shared, TCP", []*Service{web(one(Port{}), endpoint("w1", "10.0.0.1:8080"), endpoint("w2", "10.0.0.2:8081"))}, one(Port{Protocol: TCP})},
		{"nobody serves it", []*Service{web(one(Port{}))}, one(Port{Protocol: TCP})},
		{"not shared by two sources", []*Service{web(one(Port{Protocol: TCP}), endpoint("w1", "10.0.0.1:1")), web(one(Port{Protocol: TCP}), endpoint("w2", "10.0.0.1:2"))}, one(Port{Protocol: TCP})},
		{"the declaration of another source", []*Service{web(one(Port{}), endpoint("w", "10.0.0.1:1")), web(one(Port{Number: 90, Protocol: GRPC}))}, one(Port{Number: 90, Protocol: GRPC})},
		{"declarations differ, the first wins", []*Service{web(one(Port{Number: 90, Protocol: TCP})), web(one(Port{Number: 91, Protocol: HTTP}))}, one(Port{Number: 90, Protocol: TCP})},
		{
			"protocol by name",
			[]*Service{web([]Port{{Name: "grpc-api", Number: 1}, {Name: "https", Number: 2}, {Name: "mysql", Number: 3}, {Name: "udp-x", Number: 3}})},
			[]Port{{"grpc-api", 1, GRPC}, {"https", 2, TLS}, {"mysql", 3, TCP}, {"udp-x", 3, UDP}},
		},
		{"unnamed is the other's only port", []*Service{web(one(Port{}), endpoint("w", "10.0.0.1:1")), web(one(Port{Name: "http"}), endpoint("w", "10.0.0.2:1", port("http")))}, one(Port{"http", 1, HTTP})},
		{"unnamed is the other's port of that number", []*Service{
			web(one(Port{}), endpoint("w", "10.0.0.1:9")),
			web([]Port{{Name: "admin", Number: 8}, {Name: "http", Number: 9}}),
		}, []Port{{"admin", 8, TCP}, {"http", 9, HTTP}}},
		{"unnamed is none of the other's", []*Service{
			web(one(Port{}), endpoint("w", "10.0.0.1:7")),
			web([]Port{{Name: "admin", Number: 8}, {Name: "http", Number: 9}}),
		}, []Port{{"", 7, TCP}, {"admin", 8, TCP}, {"http", 9, HTTP}}},
		{"two ports of one number", []*Service{web([]Port{{Name: "http-a"}, {Name: "http-b", Number: 80}}, endpoint("w", "10.0.0.1:80", port("http-a")))}, []Port{{"http-a", 0, HTTP}, {"http-b", 80, HTTP}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, mergeOf(t, c.claims...).Ports); d != "" {
				t.Errorf("ports (-want +got):\n%s", d)
			}
		})
	}
}

func TestMergeTellsConflicts(t *testing.T) {
	http := []Port{{Protocol: HTTP}}
	for _, c := range []struct {
		name   string
		claims []*Service
		want   []string
	}{
		{"none", []*Service{web(http, endpoint("w", "10.0.0.1:80")), web(http, endpoint("v", "10.0.0.1:80"))}, nil},
		{
			"port",
			[]*Service{web([]Port{{Number: 1, Protocol: TCP}}), web([]Port{{Number: 2, Protocol: HTTP}})},
			[]string{`port number: a says "1", b says "2"; taken from a`, `port protocol: a says "tcp", b says "http"; taken from a`},
		},
		{
			"TCP number",
			[]*Service{web([]Port{{}}, endpoint("w1", "10.0.0.1:1")), web([]Port{{}}, endpoint("w2", "10.0.0.1:2"))},
			[]string{`port "" (tcp): nobody declares its number, and endpoint w1 of a has 1, w2 of b has 2`},
		},
		{
			"labels and weight, once for all endpoints",
			[]*Service{
				web(http, endpoint("w1", "10.0.0.1:80", labels("v", "1"), weight(2)), endpoint("w2", "10.0.0.2:80", labels("v", "1"))),
				web(http, endpoint("w1", "10.0.0.1:80", labels("v", "2")), endpoint("w2", "10.0.0.2:80", labels("v", "2"))),
			},
			[]string{`label "v": a says "1", b says "2"; taken from a (w1 and 1 more)`, `weight: a says "2", b says "1"; taken from a (w1)`},
		},
		{
			"a third source disagrees with the second",
			[]*Service{web(http, endpoint("w", "10.0.0.1:80", labels("x", "1"))), web(http, endpoint("w", "10.0.0.1:80", labels("v", "1"))), web(http, endpoint("w", "10.0.0.1:80", labels("v", "2")))},
			[]string{`label "v": b says "1", c says "2"; taken from b (w)`},
		},
		{"one source, one place twice", []*Service{web(http, endpoint("w1", "10.0.0.1:80"), endpoint("w2", "10.0.0.1:80"))}, []string{"a reports two endpoints at one place, w1 and w2 (w1)"}},
		{
			"a source's own",
			[]*Service{{Name: webName, Original: "Web", Conflicts: []Conflict{{Text: "WEB is left out"}}}, {Name: webName, Original: "WEB"}},
			[]string{`original name: a says "Web", b says "WEB"; taken from a`, "a: WEB is left out"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, texts(mergeOf(t, c.claims...).Conflicts), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("conflicts (-want +got):\n%s", d)
			}
		})
	}
}

func TestMergeKeepsPortOfAnEmptiedService(t *testing.T) {
	m := newMerger([]string{"a"}, Rules{})
	m.set(0, []*Service{web([]Port{{Protocol: HTTP}}, endpoint("w", "10.0.0.1:8080"))})
	m.merge()
	m.set(0, []*Service{web([]Port{{Protocol: HTTP}})})
	services, changed := m.merge()
	if !changed || services[0].Ports[0].Number != 8080 {
		t.Errorf("changed %v, ports %v: want the number 8080 that the last endpoint had", changed, services[0].Ports)
	}
}

// numbered returns services s0000, s0001 … with endpoints each.
func numbered(services, endpoints int) []*Service {
	view := make([]*Service, services)
	for i := range view {
		s := &Service{Name: Name{DefaultNamespace, fmt.Sprintf("s%04d", i)}, Ports: []Port{{Protocol: HTTP}}}
		for j := range endpoints {
			s.Endpoints = append(s.Endpoints, &Endpoint{
				ID: fmt.Sprintf("s%04d-%02d", i, j), Addr: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)}),
				Ports: []EndpointPort{{Number: 8080}}, Labels: map[string]string{"version": "v1"}, Weight: 1, Health: Healthy,
			})
		}
		view[i] = s
	}
	return view
}

func TestMergeKeepsPointersOfWhatDidNotChange(t *testing.T) {
	m := newMerger([]string{"a", "b"}, Rules{})
	m.set(0, numbered(20, 3))
	m.set(1, numbered(10, 4))
	first, _ := m.merge()
	if len(first) != 20 {
		t.Fatalf("%d services, want 20", len(first))
	}

	m.set(0, numbered(20, 3)) // all pointers are new, nothing changed
	if again, changed := m.merge(); changed || &again[0] != &first[0] {
		t.Error("equal services under new pointers made a change")
	}

	next := numbered(20, 3)
	next[7].Endpoints[0].Health = Unhealthy
	next = append(next[:3], next[4:]...)
	m.set(0, next)
	second, changed := m.merge()
	if !changed || len(second) != 20 {
		t.Fatalf("changed %v, %d services, want all 20 (s0003 is still in b)", changed, len(second))
	}
	for i := range second {
		same := second[i] == first[i]
		if want := i != 7 && i != 3; same != want {
			t.Errorf("service %s: same pointer %v, want %v", second[i].Name, same, want)
		}
	}

	m.set(1, nil)
	if third, _ := m.merge(); len(third) != 19 || third[3].Name.Name != "s0004" {
		t.Errorf("%d services, third %s: want s0003 gone with its last source", len(third), third[3].Name)
	}

	// A change that the merge does not show makes no snapshot.
	other := numbered(20, 3)
	other = append(other[:3], other[4:]...)
	other[6].Endpoints[0].Health = Unhealthy
	other[0].Endpoints[0].Sources = []string{"set by nobody"}
	m.set(0, other)
	if _, changed := m.merge(); changed {
		t.Error("a view that merges to the same made a change")
	}
}

// TestEqualLooksAtEveryField changes each field of Service and Endpoint in turn.
func TestEqualLooksAtEveryField(t *testing.T) {
	fill := func(v reflect.Value) {
		switch v.Interface().(type) {
		case netip.Addr:
			v.Set(reflect.ValueOf(netip.MustParseAddr("10.9.9.9")))
			return
		case []*Endpoint:
			v.Set(reflect.ValueOf([]*Endpoint{{}}))
			return
		case *Doubt:
			v.Set(reflect.ValueOf(&Doubt{Reason: "x"}))
			return
		case *Unreachable:
			v.Set(reflect.ValueOf(&Unreachable{Reason: "x"}))
			return
		}
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Struct:
			v.Field(0).SetString("x")
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		case reflect.Map:
			v.Set(reflect.ValueOf(map[string]string{"x": "y"}))
		case reflect.Uint8, reflect.Uint32:
			v.SetUint(2)
		default:
			t.Fatalf("field of type %s: teach this test", v.Type())
		}
	}
	for i := range reflect.TypeFor[Service]().NumField() {
		var s Service
		fill(reflect.ValueOf(&s).Elem().Field(i))
		if s.equal(&Service{}) {
			t.Errorf("equal does not see Service.%s", reflect.TypeFor[Service]().Field(i).Name)
		}
	}
	for i := range reflect.TypeFor[Endpoint]().NumField() {
		var e Endpoint
		fill(reflect.ValueOf(&e).Elem().Field(i))
		if e.equal(&Endpoint{}) {
			t.Errorf("equal does not see Endpoint.%s", reflect.TypeFor[Endpoint]().Field(i).Name)
		}
	}
}

func texts(conflicts []Conflict) []string {
	var all []string
	for _, c := range conflicts {
		all = append(all, c.Text)
	}
	return all
}
