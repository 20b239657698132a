package kubernetes_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
)

// watching is a Watch that runs until the test ends, and the last view of it.
type watching struct {
	changed chan struct{}

	mu   sync.Mutex
	view registry.View // guarded by mu
}

func watch(t *testing.T, cfg kubernetes.Config) *watching {
	t.Helper()
	r, err := kubernetes.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &watching{changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.Watch(ctx, func(v registry.View) {
			if err := v.Validate(); err != nil {
				t.Errorf("a view that does not validate: %v", err)
			}
			w.mu.Lock()
			w.view = v
			w.mu.Unlock()
			select {
			case w.changed <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		early := ctx.Err() == nil && len(ended) > 0
		cancel()
		if err := <-ended; early {
			t.Errorf("Watch ended: %v", err)
		}
	})
	return w
}

// await waits until a namespace reads as want.
func (w *watching) await(t *testing.T, namespace, want string) {
	t.Helper()
	for timeout := time.After(patience); ; {
		w.mu.Lock()
		got := text(w.view, namespace)
		w.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-w.changed:
		case <-timeout:
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// text is one line for each service of a namespace, each endpoint and each object with a problem.
func text(v registry.View, namespace string) string {
	var lines []string
	for _, s := range v.Services {
		if s.Name.Namespace != namespace {
			continue
		}
		line := s.Name.Name
		for _, p := range s.Ports {
			line += fmt.Sprintf(" %s:%d/%s", p.Name, p.Number, p.Protocol)
		}
		if s.ExternalName != "" {
			line += " = " + s.ExternalName
		}
		lines = append(lines, line)
		for _, e := range s.Endpoints {
			line := fmt.Sprintf("  %s %s %s", e.ID, e.Addr, e.Health)
			for _, p := range e.Ports {
				line += fmt.Sprintf(" %s:%d", p.Name, p.Number)
			}
			if e.Host+e.Locality.Region+e.Locality.Zone != "" {
				line += fmt.Sprintf(" on %s in %s/%s", e.Host, e.Locality.Region, e.Locality.Zone)
			}
			lines = append(lines, line)
		}
	}
	for _, p := range v.Problems {
		if strings.Contains(p.Object, "/"+namespace+"/") {
			lines = append(lines, "! "+p.Object+" "+p.Kind)
		}
	}
	return strings.Join(lines, "\n")
}

// parse reads an object; its kind is told by what it has.
func parse(t *testing.T, namespace, text string) object {
	t.Helper()
	text = "metadata: {" + strings.Replace(text, "|", "}\n", 1)
	var o object
	switch {
	case strings.Contains(text, "\naddressType:"):
		o = &discovery.EndpointSlice{TypeMeta: meta.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}}
	case strings.Contains(text, "\nspec:"):
		o = &core.Service{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Service"}}
	default:
		o = &core.Node{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Node"}}
	}
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if _, ok := o.(*core.Node); !ok {
		o.SetNamespace(namespace)
	}
	return o
}

// of is the metadata of a slice of service web.
const of = `labels: {kubernetes.io/service-name: web}`

// TestObjects writes objects of all sorts to an API server that checks them, step by step, and tells what becomes of them.
func TestObjects(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	a := newAdmin(t, server.Config())
	w := watch(t, kubernetes.Config{Kubeconfig: server.Kubeconfig(t, "", server.AdminToken), LabelSelector: "mesh!=no"})
	type step struct {
		put, remove []string // an object: its metadata, a bar, the rest
		want        string
	}
	for i, test := range []struct {
		name  string
		steps []step
	}{
		{"slices before their Service, written by hand", []step{
			{put: []string{`name: web-1, ` + of + `|addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}]`}},
			{put: []string{`name: web|spec: {ports: [{name: http, port: 80, appProtocol: kubernetes.io/h2c}]}`}, want: `web http:80/http2
  10.1.0.1 10.1.0.1 unknown http:8080`},
			{remove: []string{`name: web|spec: {}`}},
			{put: []string{`name: web|spec: {ports: [{name: http, port: 81, appProtocol: https}]}`}, want: `web http:81/tls
  10.1.0.1 10.1.0.1 unknown http:8080`},
		}},
		{"a slice that goes to another Service, and to none", []step{
			{put: []string{
				`name: web|spec: {clusterIP: None, ports: [{port: 80}]}`, `name: other|spec: {clusterIP: None, ports: [{port: 81}]}`,
				`name: x, ` + of + "|addressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.1.0.1], conditions: {ready: true}}]",
			}, want: "other :81/\nweb :80/\n  10.1.0.1 10.1.0.1 healthy :8080"},
			{put: []string{
				"name: x, labels: {kubernetes.io/service-name: other}|addressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.1.0.1], conditions: {ready: true}}]",
			}, want: "other :81/\n  10.1.0.1 10.1.0.1 healthy :8080\nweb :80/"},
			{put: []string{"name: x|addressType: IPv4\nports: [{port: 8080}]\nendpoints: [{addresses: [10.1.0.1]}]"}, want: "other :81/\nweb :80/"},
		}},
		{"an instance that moves from slice to slice, drains and goes", []step{
			{put: []string{
				`name: web|spec: {clusterIP: None, ports: [{name: http, port: 80}, {name: metrics, port: 81}]}`,
				"name: a, " + of + `|addressType: IPv4
ports: [{name: http, port: 8080}, {name: metrics, port: 9100}]
endpoints: [{addresses: [10.1.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: p}}, {addresses: [10.1.0.2], conditions: {ready: true}, targetRef: {kind: Pod, name: q}}]`,
			}, want: "web http:80/ metrics:81/\n  p 10.1.0.1 healthy http:8080 metrics:9100\n  q 10.1.0.2 healthy http:8080 metrics:9100"},
			{
				put: []string{"name: b, " + of + `|addressType: IPv4
ports: [{name: http, port: 9090}]
endpoints: [{addresses: [10.1.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: p}}, {addresses: [10.1.0.3], conditions: {ready: false}, targetRef: {kind: Pod, name: r}}]`},
				want: "web http:80/ metrics:81/\n  p 10.1.0.1 healthy http:8080 metrics:9100\n  q 10.1.0.2 healthy http:8080 metrics:9100\n  r 10.1.0.3 unhealthy http:9090",
			},
			{
				put: []string{"name: a, " + of + `|addressType: IPv4
ports: [{name: http, port: 8080}, {name: metrics, port: 9100}]
endpoints: [{addresses: [10.1.0.2], conditions: {ready: false, serving: true, terminating: true}, targetRef: {kind: Pod, name: q}}]`},
				want: "web http:80/ metrics:81/\n  p 10.1.0.1 healthy http:9090\n  q 10.1.0.2 draining http:8080 metrics:9100\n  r 10.1.0.3 unhealthy http:9090",
			},
			{remove: []string{"name: a|addressType: IPv4"}, want: "web http:80/ metrics:81/\n  p 10.1.0.1 healthy http:9090\n  r 10.1.0.3 unhealthy http:9090"},
		}},
		{"both families", []step{{put: []string{
			`name: web|spec: {clusterIP: None, ports: [{name: http, port: 80}]}`,
			"name: a, " + of + "|addressType: IPv6\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [\"fd00::1\"], targetRef: {name: p}}, {addresses: [\"fd00::2\"], targetRef: {name: q}}]",
			"name: b, " + of + "|addressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.1.0.1], targetRef: {name: p}}]",
			"name: c, " + of + "|addressType: FQDN\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [a.example]}]",
		}, want: "web http:80/\n  p 10.1.0.1 unknown http:8080\n  q fd00::2 unknown http:8080\n! endpointslices/NS/c type"}}},
		{"no ports", []step{
			{put: []string{
				`name: web|spec: {clusterIP: None, selector: {app: web}}`,
				"name: a, " + of + "|addressType: IPv4\nports: []\nendpoints: [{addresses: [10.1.0.1]}]",
			}, want: "web\n  10.1.0.1 10.1.0.1 unknown"},
			{put: []string{`name: web|spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}`}, want: "web :80/\n  10.1.0.1 10.1.0.1 unknown"},
			{put: []string{"name: a, " + of + "|addressType: IPv4\nports: [{}]\nendpoints: [{addresses: [10.1.0.1]}]"}, want: "web :80/\n  10.1.0.1 10.1.0.1 unknown :80"},
			{put: []string{"name: a, " + of + "|addressType: IPv4\nports: [{name: x, port: 1}]\nendpoints: [{addresses: [10.1.0.1]}]"}, want: "web :80/\n  10.1.0.1 10.1.0.1 unknown\n! endpointslices/NS/a port"},
		}},
		{"an ExternalName becomes a Service, and back", []step{
			{put: []string{`name: web|spec: {type: ExternalName, externalName: db.example}`}, want: "web = db.example"},
			{put: []string{`name: web|spec: {type: ClusterIP, clusterIP: None, ports: [{port: 80, appProtocol: example.com/own}]}`}, want: "web :80/"},
			{put: []string{`name: web|spec: {type: ExternalName, externalName: db.example}`}, want: "web = db.example"},
		}},
		{"what matches no more leaves", []step{
			{put: []string{`name: web|spec: {clusterIP: None, ports: [{port: 80}]}`, `name: x|spec: {clusterIP: None, ports: [{port: 80}]}`}, want: "web :80/\nx :80/"},
			{put: []string{`name: web, labels: {mesh: "no"}|spec: {clusterIP: None, ports: [{port: 80}]}`}, want: "x :80/"},
			{put: []string{`name: web, labels: {mesh: "yes"}|spec: {clusterIP: None, ports: [{port: 80}]}`}, want: "web :80/\nx :80/"},
		}},
		{"nodes that come later, and move", []step{
			{put: []string{
				`name: web|spec: {clusterIP: None, ports: [{port: 80}]}`,
				"name: a, " + of + `|addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1], nodeName: n1, zone: z9, hints: {forZones: [{name: z8}]}}, {addresses: [10.1.0.2], nodeName: n2}]`,
			}, want: "web :80/\n  10.1.0.1 10.1.0.1 unknown :8080 on n1 in /z9\n  10.1.0.2 10.1.0.2 unknown :8080 on n2 in /"},
			{put: []string{"name: n1, labels: {topology.kubernetes.io/region: r1}|", "name: n2|"}, want: "web :80/\n  10.1.0.1 10.1.0.1 unknown :8080 on n1 in r1/z9\n  10.1.0.2 10.1.0.2 unknown :8080 on n2 in /"},
			{put: []string{"name: n2, labels: {topology.kubernetes.io/region: r2, topology.kubernetes.io/zone: z2}|"}, want: "web :80/\n  10.1.0.1 10.1.0.1 unknown :8080 on n1 in r1/z9\n  10.1.0.2 10.1.0.2 unknown :8080 on n2 in r2/z2"},
			{remove: []string{"name: n1|"}, want: "web :80/\n  10.1.0.1 10.1.0.1 unknown :8080 on n1 in /z9\n  10.1.0.2 10.1.0.2 unknown :8080 on n2 in r2/z2"},
		}},
		{"instances with the names of others", []step{{put: []string{
			`name: web|spec: {clusterIP: None, ports: [{port: 80}]}`,
			"name: a, " + of + `|addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.9], targetRef: {name: p/10.1.0.2}}, {addresses: [10.1.0.1], targetRef: {name: p}}, {addresses: [10.1.0.2], targetRef: {name: p}}]`,
		}, want: "web :80/\n  p 10.1.0.1 unknown :8080\n  p/10.1.0.2 10.1.0.9 unknown :8080\n  p/10.1.0.2/10.1.0.2 10.1.0.2 unknown :8080"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			namespace := fmt.Sprintf("ns-%d", i)
			a.mustPut(t, &core.Namespace{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: meta.ObjectMeta{Name: namespace}})
			for _, s := range test.steps {
				for _, text := range s.put {
					a.mustPut(t, parse(t, namespace, text))
				}
				for _, text := range s.remove {
					a.remove(t, parse(t, namespace, text))
				}
				w.await(t, namespace, strings.ReplaceAll(s.want, "NS", namespace))
			}
		})
	}
}

// TestLargeObjects reads a Service with much about it that no view needs, and the largest slices that there are.
func TestLargeObjects(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	a := newAdmin(t, server.Config())
	w := watch(t, kubernetes.Config{Kubeconfig: server.Kubeconfig(t, "", server.AdminToken), Namespaces: []string{"default"}})
	a.mustPut(t, serviceObject("default", "web", func(s *core.Service) { s.Annotations = map[string]string{"a": strings.Repeat("x", 250<<10)} }))
	want := []string{"kubernetes https:443/", "web :80/"}
	for i := range 3 {
		var addrs []string
		for j := range 1000 {
			addr := fmt.Sprintf("10.77.%d.%d", 4*i+j/250, j%250+1)
			addrs = append(addrs, addr)
			want = append(want, fmt.Sprintf("  web-%s %s healthy :8080", addr, addr))
		}
		a.mustPut(t, sliceObject("default", "web", fmt.Sprintf("web-%d", i), 8080, addrs...))
	}
	slices.Sort(want[2:])
	w.await(t, "default", strings.Join(want, "\n"))
}
