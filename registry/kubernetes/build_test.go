package kubernetes

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/hostmesh/hostmesh/registry"
)

// made makes a service of YAML, as the store does of objects.
func made(t *testing.T, service string, parts map[string]string) (*registry.Service, []registry.Problem) {
	t.Helper()
	var s core.Service
	if err := yaml.UnmarshalStrict([]byte(service), &s); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*slice)
	for name, text := range parts {
		var o discovery.EndpointSlice
		if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		all[name] = convertSlice(&o)
	}
	nodes := map[string]registry.Locality{"n1": {Region: "r1", Zone: "z1"}, "n2": {Region: "r1", Zone: "z2"}}
	return build(types.NamespacedName{Namespace: "shop", Name: "web"}, convertService(&s), all, nodes)
}

func endpoint(id, addr string, change func(*registry.Endpoint)) *registry.Endpoint {
	e := &registry.Endpoint{
		ID: id, Addr: netip.MustParseAddr(addr), Weight: 1, Health: registry.Healthy, Ports: []registry.EndpointPort{{Name: "http", Number: 8080}},
	}
	if change != nil {
		change(e)
	}
	return e
}

const httpService = `{spec: {ports: [{name: http, port: 80}]}}`

// TestBuild tells what becomes of Services and EndpointSlices.
func TestBuild(t *testing.T) {
	for name, test := range map[string]struct {
		service   string // httpService if ""
		slices    map[string]string
		ports     []registry.Port // name http, number 80 if nil
		endpoints []*registry.Endpoint
		problems  []string // their objects
	}{
		"nothing yet": {},
		"of a pod": {
			slices: map[string]string{"a": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [
				{addresses: [10.0.0.1], conditions: {ready: true}, nodeName: n1, zone: z9, hostname: h, targetRef: {kind: Pod, name: web-1}}]}`},
			endpoints: []*registry.Endpoint{endpoint("web-1", "10.0.0.1", func(e *registry.Endpoint) {
				e.Host, e.Locality = "n1", registry.Locality{Region: "r1", Zone: "z9"}
			})},
		},
		"the node's zone": {
			slices: map[string]string{"a": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [
				{addresses: [10.0.0.1], conditions: {ready: true}, nodeName: n2}]}`},
			endpoints: []*registry.Endpoint{endpoint("10.0.0.1", "10.0.0.1", func(e *registry.Endpoint) {
				e.Host, e.Locality = "n2", registry.Locality{Region: "r1", Zone: "z2"}
			})},
		},
		"protocols": {
			service: `{spec: {ports: [{name: a, port: 1, appProtocol: kubernetes.io/h2c}, {name: b, port: 2, appProtocol: kubernetes.io/ws},
				{name: c, port: 3, appProtocol: HTTPS}, {name: d, port: 4, appProtocol: grpc}, {name: e, port: 5, appProtocol: example.com/x},
				{name: f, port: 6, protocol: UDP, appProtocol: http}, {name: g, port: 7, appProtocol: http}, {name: h, port: 8, appProtocol: tcp},
				{name: i, port: 9, appProtocol: kubernetes.io/wss}, {name: j, port: 10}]}}`,
			slices: map[string]string{"a": `{addressType: IPv4, ports: [{name: j, port: 1, appProtocol: http}], endpoints: []}`},
			ports: []registry.Port{
				{Name: "a", Number: 1, Protocol: registry.HTTP2},
				{Name: "b", Number: 2, Protocol: registry.HTTP},
				{Name: "c", Number: 3, Protocol: registry.TLS},
				{Name: "d", Number: 4, Protocol: registry.GRPC},
				{Name: "e", Number: 5},
				{Name: "f", Number: 6, Protocol: registry.UDP},
				{Name: "g", Number: 7, Protocol: registry.HTTP},
				{Name: "h", Number: 8, Protocol: registry.TCP},
				{Name: "i", Number: 9, Protocol: registry.TLS},
				{Name: "j", Number: 10, Protocol: registry.HTTP},
			},
		},
		"sctp is a problem, its neighbours stay": {
			service:  `{spec: {ports: [{name: http, port: 80}, {name: sip, port: 81, protocol: SCTP}]}}`,
			problems: []string{"services/shop/web"},
		},
		"named target ports differ": {
			slices: map[string]string{
				"a": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}`,
				"b": `{addressType: IPv4, ports: [{name: http, port: 9090}], endpoints: [{addresses: [10.0.0.2], conditions: {ready: true}}]}`,
			},
			endpoints: []*registry.Endpoint{
				endpoint("10.0.0.1", "10.0.0.1", nil),
				endpoint("10.0.0.2", "10.0.0.2", func(e *registry.Endpoint) { e.Ports[0].Number = 9090 }),
			},
		},
		"a port without a number is the Service's": {
			slices:    map[string]string{"a": `{addressType: IPv4, ports: [{name: http}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}`},
			endpoints: []*registry.Endpoint{endpoint("10.0.0.1", "10.0.0.1", func(e *registry.Endpoint) { e.Ports[0].Number = 80 })},
		},
		"no port of the Service": {
			slices:    map[string]string{"a": `{addressType: IPv4, ports: [{name: http, port: 1, protocol: UDP}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}`},
			endpoints: []*registry.Endpoint{endpoint("10.0.0.1", "10.0.0.1", func(e *registry.Endpoint) { e.Ports = nil })},
			problems:  []string{"endpointslices/shop/a"},
		},
		"headless without ports": {
			service:   `{spec: {clusterIP: None}}`,
			slices:    map[string]string{"a": `{addressType: IPv4, ports: [], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}`},
			ports:     []registry.Port{},
			endpoints: []*registry.Endpoint{endpoint("10.0.0.1", "10.0.0.1", func(e *registry.Endpoint) { e.Ports = nil })},
		},
		"one instance in two slices": {
			service: `{spec: {ports: [{name: http, port: 80}, {name: metrics, port: 81}]}}`,
			slices: map[string]string{
				"a": `{addressType: IPv4, ports: [{name: metrics, port: 9100}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {name: p}}]}`,
				"b": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: false}, targetRef: {name: p}}]}`,
			},
			ports: []registry.Port{{Name: "http", Number: 80}, {Name: "metrics", Number: 81}},
			endpoints: []*registry.Endpoint{endpoint("p", "10.0.0.1", func(e *registry.Endpoint) {
				e.Ports = append(e.Ports, registry.EndpointPort{Name: "metrics", Number: 9100})
				e.Health = registry.Unhealthy
			})},
		},
		"two instances with one name": {
			slices: map[string]string{"a": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [
				{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {name: p}}, {addresses: [10.0.0.2], conditions: {ready: true}, targetRef: {name: p}}]}`},
			endpoints: []*registry.Endpoint{endpoint("p", "10.0.0.1", nil), endpoint("p/10.0.0.2", "10.0.0.2", nil)},
		},
		"both families: the primary one, and who has no other": {
			service: `{spec: {ipFamilies: [IPv6, IPv4], ports: [{name: http, port: 80}]}}`,
			slices: map[string]string{
				"a": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [
					{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {name: p}}, {addresses: [10.0.0.2], conditions: {ready: true}, targetRef: {name: q}}]}`,
				"b": `{addressType: IPv6, ports: [{name: http, port: 8080}], endpoints: [{addresses: ["fd00::1"], conditions: {ready: true}, targetRef: {name: p}}]}`,
			},
			endpoints: []*registry.Endpoint{endpoint("p", "fd00::1", nil), endpoint("q", "10.0.0.2", nil)},
		},
		"host names": {
			slices: map[string]string{
				"a": `{addressType: FQDN, ports: [{name: http, port: 8080}], endpoints: [{addresses: [a.example]}]}`,
				"b": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}`,
			},
			endpoints: []*registry.Endpoint{endpoint("10.0.0.1", "10.0.0.1", nil)},
			problems:  []string{"endpointslices/shop/a"},
		},
		"made for another life of the Service": {
			service: `{metadata: {uid: u2}, spec: {ports: [{name: http, port: 80}]}}`,
			slices: map[string]string{
				"a": `{metadata: {labels: {kubernetes.io/service-name: web}, ownerReferences: [{apiVersion: v1, kind: Service, name: web, uid: u1}]},
					addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]}`,
				"b": `{metadata: {labels: {kubernetes.io/service-name: web}, ownerReferences: [{apiVersion: v1, kind: Service, name: web, uid: u2}]},
					addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.0.0.2], conditions: {ready: true}}]}`,
				"c": `{metadata: {labels: {kubernetes.io/service-name: web}, ownerReferences: [{apiVersion: v1, kind: Endpoints, name: web, uid: u3}]},
					addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.0.0.3], conditions: {ready: true}}]}`,
			},
			endpoints: []*registry.Endpoint{endpoint("10.0.0.2", "10.0.0.2", nil), endpoint("10.0.0.3", "10.0.0.3", nil)},
			problems:  []string{"endpointslices/shop/a"},
		},
		"bad addresses leave their neighbours": {
			slices: map[string]string{"a": `{addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: []}, {addresses: [nonsense]},
				{addresses: ["fd00::1"]}, {addresses: [0.0.0.0]}, {addresses: [224.0.0.1]}, {addresses: [10.0.0.1], conditions: {ready: true}}]}`},
			endpoints: []*registry.Endpoint{endpoint("10.0.0.1", "10.0.0.1", nil)},
			problems: []string{
				"endpointslices/shop/a", "endpointslices/shop/a", "endpointslices/shop/a", "endpointslices/shop/a", "endpointslices/shop/a",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.service == "" {
				test.service = httpService
			}
			if test.ports == nil {
				test.ports = []registry.Port{{Name: "http", Number: 80}}
			}
			got, problems := made(t, test.service, test.slices)
			want := &registry.Service{Name: registry.Name{Namespace: "shop", Name: "web"}, Ports: test.ports, Endpoints: test.endpoints}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var objects []string
			for _, p := range problems {
				objects = append(objects, p.Object)
			}
			if diff := cmp.Diff(test.problems, objects); diff != "" {
				t.Errorf("problems (-want +got):\n%s\n%v", diff, problems)
			}
			if err := (registry.View{Services: []*registry.Service{got}}).Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExternalName(t *testing.T) {
	slices := map[string]string{"a": `{addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [10.0.0.1]}]}`}
	got, problems := made(t, `{spec: {type: ExternalName, externalName: DB.example., ports: [{port: 80}]}}`, slices)
	if got == nil || len(problems) != 0 || got.ExternalName != "db.example" || len(got.Endpoints)+len(got.Ports) != 0 {
		t.Errorf("got %+v, %v, want an external name alone", got, problems)
	}
	for _, name := range []string{"192.0.2.1", "2001:db8::1", "a..b", "-", ""} {
		got, problems := made(t, `{spec: {type: ExternalName, externalName: "`+name+`"}}`, nil)
		if got != nil || len(problems) != 1 || problems[0].Object != "services/shop/web" || problems[0].Kind != "type" {
			t.Errorf("%q: got %v, %v, want no service and a problem", name, got, problems)
		}
	}
}

func TestHealth(t *testing.T) {
	yes, no := new(true), new(false)
	for _, test := range []struct {
		ready, serving, terminating *bool
		want                        registry.Health
	}{
		{nil, nil, nil, registry.Unknown},
		{nil, no, nil, registry.Unhealthy},
		{nil, nil, yes, registry.Draining},
		{nil, no, yes, registry.Unhealthy},
		{yes, yes, no, registry.Healthy},
		{yes, nil, nil, registry.Healthy},
		{yes, no, yes, registry.Healthy}, // publishNotReadyAddresses
		{no, no, no, registry.Unhealthy},
		{no, nil, nil, registry.Unhealthy},
		{no, nil, yes, registry.Unhealthy},
		{no, yes, no, registry.Unhealthy},
		{no, yes, yes, registry.Draining},
		{no, no, yes, registry.Unhealthy},
	} {
		got := health(discovery.EndpointConditions{Ready: test.ready, Serving: test.serving, Terminating: test.terminating})
		if got != test.want {
			t.Errorf("ready %v, serving %v, terminating %v: got %v, want %v", said(test.ready), said(test.serving), said(test.terminating), got, test.want)
		}
	}
}

func said(b *bool) any {
	if b == nil {
		return nil
	}
	return *b
}

// FuzzBuild takes whatever the API may hold, and more: what comes of it is always a valid view.
func FuzzBuild(f *testing.F) {
	service := core.Service{Spec: core.ServiceSpec{Ports: []core.ServicePort{{Name: "http", Port: 80, AppProtocol: new("http")}}, IPFamilies: []core.IPFamily{"IPv6"}}}
	part := discovery.EndpointSlice{
		AddressType: "IPv4", Ports: []discovery.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
		Endpoints: []discovery.Endpoint{
			{Addresses: []string{"10.0.0.1"}, TargetRef: &core.ObjectReference{Name: "p"}},
			{Addresses: []string{"10.0.0.2"}, TargetRef: &core.ObjectReference{Name: "p"}, Hostname: new("h"), Zone: new("z")},
		},
	}
	s, err := service.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	p, err := part.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s, p, p)
	f.Fuzz(func(t *testing.T, serviceBytes, oneBytes, otherBytes []byte) {
		var service core.Service
		var one, other discovery.EndpointSlice
		if service.Unmarshal(serviceBytes) != nil || one.Unmarshal(oneBytes) != nil || other.Unmarshal(otherBytes) != nil {
			return
		}
		parts := map[string]*slice{"one": convertSlice(&one), "other": convertSlice(&other)}
		got, _ := build(types.NamespacedName{Namespace: "default", Name: "web"}, convertService(&service), parts, nil)
		if got == nil {
			return
		}
		if err := (registry.View{Services: []*registry.Service{got}}).Validate(); err != nil {
			t.Fatal(err)
		}
		again, _ := build(types.NamespacedName{Namespace: "default", Name: "web"}, convertService(&service), parts, nil)
		if diff := cmp.Diff(got, again, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
			t.Fatalf("the same objects make another service:\n%s", diff)
		}
	})
}
