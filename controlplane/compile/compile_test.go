package compile_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/registry"
)

var update = flag.Bool("update", false, "rewrite testdata from what is compiled now")

func name(s string) registry.Name { return registry.Name{Namespace: "default", Name: s} }

func endpoint(id, addr string, health registry.Health, zone string, ports ...registry.EndpointPort) *registry.Endpoint {
	return &registry.Endpoint{
		ID: id, Addr: netip.MustParseAddr(addr), Ports: ports, Weight: 1, Health: health,
		Locality: registry.Locality{Region: "eu", Zone: zone},
	}
}

// house has one service of each sort.
func house() *registry.Snapshot {
	web := &registry.Service{
		Name:  name("web"),
		Ports: []registry.Port{{Name: "admin", Number: 9090, Protocol: registry.HTTP}, {Name: "http", Number: 80, Protocol: registry.HTTP}},
		Endpoints: []*registry.Endpoint{
			endpoint("a", "10.0.0.1", registry.Healthy, "b", registry.EndpointPort{Name: "admin", Number: 9001}, registry.EndpointPort{Name: "http", Number: 8080}),
			endpoint("b", "10.0.0.2", registry.Unhealthy, "a", registry.EndpointPort{Name: "http", Number: 8080}),
			endpoint("c", "2001:db8::1", registry.Draining, "a", registry.EndpointPort{Name: "http", Number: 8080}),
			endpoint("d", "10.0.0.3", registry.Unknown, "a", registry.EndpointPort{Name: "http", Number: 8080}),
		},
	}
	db := &registry.Service{
		Name:      registry.Name{Namespace: "data", Name: "db"},
		Ports:     []registry.Port{{Name: "metrics", Number: 9187, Protocol: registry.HTTP}, {Name: "sql", Number: 5432}, {Name: "stats", Number: 5433, Protocol: registry.TCP}, {Name: "syslog", Number: 514, Protocol: registry.UDP}},
		Endpoints: []*registry.Endpoint{endpoint("a", "10.0.1.1", registry.Unhealthy, "a", registry.EndpointPort{Name: "sql", Number: 5432})},
	}
	rpc := &registry.Service{
		Name:      name("rpc"),
		Ports:     []registry.Port{{Name: "", Number: 50051, Protocol: registry.GRPC}},
		Endpoints: []*registry.Endpoint{endpoint("a", "10.0.2.1", registry.Healthy, "a", registry.EndpointPort{Number: 50051})},
	}
	return &registry.Snapshot{Number: 1_800_000_000, Services: []*registry.Service{db, rpc, web}}
}

func nodeClass(t *testing.T, kind string, metadata map[string]any) compile.Class {
	t.Helper()
	fields, err := structpb.NewStruct(metadata)
	if err != nil {
		t.Fatal(err)
	}
	node, err := compile.ParseNode(&corev3.Node{Id: "n", UserAgentName: kind, Metadata: fields})
	if err != nil {
		t.Fatal(err)
	}
	return node.Class()
}

// resourceNames are the names of every resource that the services of s have.
func resourceNames(s *registry.Snapshot) map[compile.Type][]string {
	names := map[compile.Type][]string{compile.Listener: {"outbound"}, compile.Route: {"outbound"}}
	for _, svc := range s.Services {
		fqdn := svc.Name.Name + "." + svc.Name.Namespace + ".mesh.internal"
		forms := []string{fqdn}
		if svc.Name.Namespace == "default" {
			forms = append(forms, svc.Name.Name+".mesh.internal")
		}
		names[compile.Listener] = append(names[compile.Listener], forms...)
		names[compile.Cluster], names[compile.Endpoint] = append(names[compile.Cluster], fqdn), append(names[compile.Endpoint], fqdn)
		for _, p := range svc.Ports {
			cluster := fmt.Sprintf("outbound|%d||%s", p.Number, fqdn)
			names[compile.Cluster] = append(names[compile.Cluster], cluster)
			names[compile.Endpoint] = append(names[compile.Endpoint], cluster)
			names[compile.Route] = append(names[compile.Route], fmt.Sprintf("%s:%d", fqdn, p.Number))
			for _, form := range forms {
				names[compile.Listener] = append(names[compile.Listener], fmt.Sprintf("%s:%d", form, p.Number))
			}
		}
	}
	return names
}

// everything returns all resources that a class can get, by type.
func everything(r *compile.Resources, s *registry.Snapshot) []*compile.Resource {
	var all []*compile.Resource
	names := resourceNames(s)
	for t := range compile.Type(compile.Types) {
		for _, n := range names[t] {
			if res := r.Get(t, n); res != nil {
				all = append(all, res)
			}
		}
	}
	return all
}

func TestGolden(t *testing.T) {
	snapshot := house()
	common := compile.Update(nil, snapshot, compile.Options{})
	for _, c := range []struct {
		file  string
		class compile.Class
	}{
		{"proxy.json", nodeClass(t, "mesh-proxy", map[string]any{"upstreams": []any{"web", "data/db", "*"}})},
		{"grpc.json", nodeClass(t, "gRPC Go", nil)},
	} {
		t.Run(c.file, func(t *testing.T) {
			var got bytes.Buffer
			for _, r := range everything(compile.ForClass(nil, common, c.class), snapshot) {
				got.Write(readable(t, r))
			}
			path := filepath.Join("testdata", c.file)
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("resources differ from %s (run with -update to accept, -want +got):\n%s", path, diff)
			}
		})
	}
}

// readable is r in JSON with stable white space.
func readable(t *testing.T, r *compile.Resource) []byte {
	t.Helper()
	m, err := r.Message()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "// %s %s %s\n", r.TypeURL, r.Name, r.Version)
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	enc := json.NewEncoder(&out)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(tree); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// validate calls ValidateAll on m and on every message that is packed into an Any within it.
func validate(t *testing.T, where string, m proto.Message) {
	t.Helper()
	if err := m.(interface{ ValidateAll() error }).ValidateAll(); err != nil {
		t.Errorf("%s: %v", where, err)
	}
	var walk func(protoreflect.Message)
	walk = func(pm protoreflect.Message) {
		if packed, ok := pm.Interface().(*anypb.Any); ok {
			inner, err := packed.UnmarshalNew()
			if err != nil {
				t.Errorf("%s: %v", where, err)
				return
			}
			validate(t, where+" "+packed.TypeUrl, inner)
			return
		}
		pm.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case fd.IsMap():
				if fd.MapValue().Message() != nil {
					v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { walk(v.Message()); return true })
				}
			case fd.IsList() && fd.Message() != nil:
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
			case fd.Message() != nil:
				walk(v.Message())
			}
			return true
		})
	}
	walk(m.ProtoReflect())
}

func TestEveryResourceIsValid(t *testing.T) {
	snapshot := house()
	hostile := &registry.Service{
		Name:  name("zz-hostile"),
		Ports: []registry.Port{{Name: "a", Number: 1, Protocol: "no such protocol"}, {Name: "b", Number: 1, Protocol: registry.HTTP}, {Name: "c"}},
		Endpoints: []*registry.Endpoint{
			{ID: "no address", Ports: []registry.EndpointPort{{Name: "a", Number: 1}}},
			{ID: "no port", Addr: netip.MustParseAddr("10.0.0.1")},
			{ID: "invalid UTF-8", Addr: netip.MustParseAddr("10.0.0.2"), Ports: []registry.EndpointPort{{Name: "a", Number: 1}}, Locality: registry.Locality{Zone: "\xff"}},
			{ID: "heavy", Addr: netip.MustParseAddr("10.0.0.3"), Ports: []registry.EndpointPort{{Name: "a", Number: 1}}, Weight: 1<<32 - 1},
			{ID: "heavy too", Addr: netip.MustParseAddr("10.0.0.4"), Ports: []registry.EndpointPort{{Name: "a", Number: 1}}, Weight: 1<<32 - 1},
		},
	}
	snapshot.Services = append(snapshot.Services, hostile, &registry.Service{Name: name("zz-nothing")})
	common := compile.Update(nil, snapshot, compile.Options{})
	for _, kind := range []string{"envoy", "gRPC Go"} {
		r := compile.ForClass(nil, common, nodeClass(t, kind, nil))
		all := everything(r, snapshot)
		if len(all) < 20 {
			t.Fatalf("%s: only %d resources", kind, len(all))
		}
		for _, res := range all {
			m, err := res.Message()
			if err != nil {
				t.Fatal(err)
			}
			validate(t, kind+" "+res.Name, m)
		}
	}
}

func TestEqualInputGivesEqualBytes(t *testing.T) {
	class := nodeClass(t, "mesh-proxy", nil)
	first := everything(compile.ForClass(nil, compile.Update(nil, house(), compile.Options{}), class), house())
	// Another process, another history: the services came one by one.
	var common *compile.Common
	var resources *compile.Resources
	whole := house()
	for i := range whole.Services {
		common = compile.Update(common, &registry.Snapshot{Number: uint64(i), Services: whole.Services[:i+1]}, compile.Options{})
		resources = compile.ForClass(resources, common, class)
	}
	second := everything(resources, whole)
	if len(first) != len(second) {
		t.Fatalf("%d and %d resources", len(first), len(second))
	}
	for i := range first {
		if !bytes.Equal(first[i].Body, second[i].Body) || first[i].Version != second[i].Version {
			t.Errorf("%s differs", first[i].Name)
		}
	}
}

// withEndpoint returns s with the health of one endpoint changed; everything else keeps its pointer.
func withHealth(s *registry.Snapshot, svc, ep int, health registry.Health) *registry.Snapshot {
	changed := *s.Services[svc]
	changed.Endpoints = slices.Clone(changed.Endpoints)
	e := *changed.Endpoints[ep]
	e.Health = health
	changed.Endpoints[ep] = &e
	next := &registry.Snapshot{Number: s.Number + 1, Services: slices.Clone(s.Services)}
	next.Services[svc] = &changed
	return next
}

func TestOnlyWhatChangedIsNamed(t *testing.T) {
	class := nodeClass(t, "mesh-proxy", nil)
	web := "outbound|80||web.default.mesh.internal"
	type changes map[compile.Type][]string
	added := &registry.Service{Name: name("api"), Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
	for _, c := range []struct {
		name string
		edit func(s *registry.Snapshot) *registry.Snapshot
		want changes
	}{
		{"nothing", func(s *registry.Snapshot) *registry.Snapshot { return s }, changes{}},
		{"an endpoint's health", func(s *registry.Snapshot) *registry.Snapshot { return withHealth(s, 2, 3, registry.Unhealthy) }, changes{compile.Endpoint: {web}}},
		{"a new pointer that says the same", func(s *registry.Snapshot) *registry.Snapshot { return withHealth(s, 2, 0, registry.Healthy) }, changes{}},
		{"a doubt", func(s *registry.Snapshot) *registry.Snapshot {
			next := withHealth(s, 2, 0, registry.Healthy)
			next.Services[2].Endpoints[0].Doubt = &registry.Doubt{Since: time.Unix(1, 0), Reason: "it left"}
			return next
		}, changes{}},
		{"a service more", func(s *registry.Snapshot) *registry.Snapshot {
			return &registry.Snapshot{Number: s.Number + 1, Services: append([]*registry.Service{added}, s.Services...)}
		}, nil},
		{"a service less", func(s *registry.Snapshot) *registry.Snapshot {
			return &registry.Snapshot{Number: s.Number + 1, Services: s.Services[:2]}
		}, changes{
			compile.Cluster:  {web, "outbound|9090||web.default.mesh.internal"},
			compile.Endpoint: {web, "outbound|9090||web.default.mesh.internal"},
			compile.Listener: {"web.default.mesh.internal"},
			compile.Route:    {"web.default.mesh.internal:80", "web.default.mesh.internal:9090", "outbound"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := house()
			if c.want == nil {
				s.Services = slices.Clone(s.Services)
				c.want = changes{
					compile.Cluster:  {"outbound|80||api.default.mesh.internal"},
					compile.Endpoint: {"outbound|80||api.default.mesh.internal"},
					compile.Listener: {"api.default.mesh.internal"},
					compile.Route:    {"api.default.mesh.internal:80", "outbound"},
				}
				slices.SortFunc(s.Services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
			}
			before := compile.Update(nil, s, compile.Options{})
			next := c.edit(s)
			slices.SortFunc(next.Services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
			after := compile.Update(before, next, compile.Options{})
			old := compile.ForClass(nil, before, class)
			now := compile.ForClass(old, after, class)
			for typ := range compile.Type(compile.Types) {
				got, ok := now.Changed(old, typ)
				if !ok {
					t.Fatal("the next state does not follow the one before")
				}
				if diff := cmp.Diff(c.want[typ], got); diff != "" && len(got)+len(c.want[typ]) > 0 {
					t.Errorf("%s changed (-want +got):\n%s", typ, diff)
				}
			}
			// What is named and nothing else has another pointer.
			for _, r := range everything(old, s) {
				typ, _ := compile.ParseType(r.TypeURL)
				same := now.Get(typ, r.Name) == r
				if named := slices.Contains(c.want[typ], r.Name); same == named {
					t.Errorf("%s %s: same pointer %v, named as changed %v", typ, r.Name, same, named)
				}
			}
		})
	}
}

func TestChangedKnowsItsPredecessor(t *testing.T) {
	class := nodeClass(t, "mesh-proxy", nil)
	first := compile.Update(nil, house(), compile.Options{})
	second := compile.Update(first, house(), compile.Options{})
	third := compile.Update(second, house(), compile.Options{})
	a := compile.ForClass(nil, first, class)
	b := compile.ForClass(a, second, class)
	c := compile.ForClass(b, third, class)
	if _, ok := c.Changed(a, compile.Cluster); ok {
		t.Error("a state pretends to know the way from one before its predecessor")
	}
	if _, ok := c.Changed(b, compile.Cluster); !ok {
		t.Error("a state does not know the way from its predecessor")
	}
}
