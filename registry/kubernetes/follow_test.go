package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typed "k8s.io/client-go/kubernetes"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// writer creates and deletes Services.
func writer(t *testing.T, server *testbed.Kubernetes) (create, remove func(name string) (version string)) {
	t.Helper()
	client, err := typed.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	services := client.CoreV1().Services(registry.DefaultNamespace)
	create = func(name string) string {
		t.Helper()
		o := &core.Service{ObjectMeta: meta.ObjectMeta{Name: name}, Spec: core.ServiceSpec{ClusterIP: core.ClusterIPNone, Ports: []core.ServicePort{{Port: 80}}}}
		made, err := services.Create(t.Context(), o, meta.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made.ResourceVersion
	}
	remove = func(name string) string {
		t.Helper()
		if err := services.Delete(t.Context(), name, meta.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	return create, remove
}

func connected(t *testing.T, server *testbed.Kubernetes) *client {
	t.Helper()
	c, err := connect(t.Context(), Config{Kubeconfig: server.Kubeconfig(t, "", server.AdminToken)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.transport.close)
	return c
}

// awaitServices waits until the store holds exactly those Services of namespace default, but for the server's own.
func awaitServices(t *testing.T, s *store, ended <-chan error, names ...string) {
	t.Helper()
	want := map[types.NamespacedName]bool{{Namespace: "default", Name: "kubernetes"}: true}
	for _, name := range names {
		want[types.NamespacedName{Namespace: "default", Name: name}] = true
	}
	timeout := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		odd := ""
		for name := range want {
			if s.services[name] == nil {
				odd += fmt.Sprintf(" no %s", name)
			}
		}
		for name := range s.services {
			if !want[name] {
				odd += fmt.Sprintf(" still %s", name)
			}
		}
		s.mu.Unlock()
		if odd == "" {
			return
		}
		select {
		case <-s.changed:
		case err := <-ended:
			t.Fatalf("ended with %v, while waiting:%s", err, odd)
		case <-timeout:
			t.Fatalf("still:%s", odd)
		}
	}
}

// TestGone goes on from a version that the server has forgotten: what was deleted meanwhile leaves, what is new comes,
// and nothing vanishes in between.
func TestGone(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	create, remove := writer(t, server)
	create("stays")
	version := create("goes")
	remove("goes")
	create("comes")
	server.LoseHistory(t)
	s := newStore()
	f := (&Registry{}).services(connected(t, server), s, "").(*feed[*service])
	known := batch[*service]{{Namespace: "default", Name: "stays"}: {}, {Namespace: "default", Name: "goes"}: {}}
	f.replace(known)
	if err := f.watch(t.Context(), &version); !errors.Is(err, errGone) {
		t.Fatalf("got %v from version %s, want gone", err, version)
	}
	if len(s.services) != 2 {
		t.Fatalf("got %d Services after 410 Gone, want what was known", len(s.services))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.follow(ctx, version) }()
	awaitServices(t, s, ended, "stays", "comes")
	create("later")
	awaitServices(t, s, ended, "stays", "comes", "later")
	cancel()
	<-ended
}

// TestLagging has a Service deleted and made again while the news of its slices lag behind, and then the other way
// round: what was made for the one is never shown as the other's.
func TestLagging(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	client, err := typed.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	s, r := newStore(), &Registry{}
	c := connected(t, server)
	services := func() { readOnce(t, s, r.services(c, s, "")) }
	slices := func() { readOnce(t, s, r.slices(c, s, "")) }
	for i, step := range []struct {
		addr  string
		reads [2]func()
		want  [2]string
	}{
		{"10.0.0.1", [2]func(){services, slices}, [2]string{"", "10.0.0.1"}},
		{"10.0.0.2", [2]func(){services, slices}, [2]string{"", "10.0.0.2"}},
		{"10.0.0.3", [2]func(){slices, services}, [2]string{"", "10.0.0.3"}},
	} {
		makeAnew(t, client, step.addr)
		for k, read := range step.reads {
			read()
			if got := addresses(s, "web"); got != step.want[k] {
				t.Errorf("step %d: got %q after read %d, want %q", i, got, k, step.want[k])
			}
		}
	}
}

// makeAnew deletes Service web and its slice, if they are there, and makes them as the controller does.
func makeAnew(t *testing.T, client *typed.Clientset, addr string) {
	t.Helper()
	services, slices := client.CoreV1().Services("default"), client.DiscoveryV1().EndpointSlices("default")
	if err := slices.Delete(t.Context(), "web", meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if err := services.Delete(t.Context(), "web", meta.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	service := &core.Service{ObjectMeta: meta.ObjectMeta{Name: "web"}, Spec: core.ServiceSpec{ClusterIP: core.ClusterIPNone, Ports: []core.ServicePort{{Port: 80}}}}
	owner, err := services.Create(t.Context(), service, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slice := &discovery.EndpointSlice{
		ObjectMeta: meta.ObjectMeta{
			Name: "web", Labels: map[string]string{discovery.LabelServiceName: "web"},
			OwnerReferences: []meta.OwnerReference{*meta.NewControllerRef(owner, core.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: discovery.AddressTypeIPv4, Endpoints: []discovery.Endpoint{{Addresses: []string{addr}}},
	}
	if _, err := slices.Create(t.Context(), slice, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// readOnce has a feed read everything there is, and go no further.
func readOnce(t *testing.T, s *store, f follower) {
	t.Helper()
	s.update(func() { s.waiting[f.name()] = struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	for timeout := time.After(20 * time.Second); ; {
		s.mu.Lock()
		_, waits := s.waiting[f.name()]
		s.mu.Unlock()
		if !waits {
			break
		}
		select {
		case <-s.changed:
		case err := <-ended:
			t.Fatal(err)
		case <-timeout:
			t.Fatalf("still waiting for %s", f.name())
		}
	}
	cancel()
	<-ended
}

// addresses are those of a service in the store's view.
func addresses(s *store, name string) string {
	var all []string
	view, _ := s.next()
	for _, service := range view.Services {
		if service.Name.Name != name {
			continue
		}
		for _, e := range service.Endpoints {
			all = append(all, e.Addr.String())
		}
	}
	return strings.Join(all, " ")
}

// TestPages reads from a server that does not stream what there is, more than a page.
func TestPages(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{Args: []string{"--feature-gates=WatchList=false"}})
	create, remove := writer(t, server)
	var names []string
	for i := range pageSize + 20 {
		names = append(names, fmt.Sprintf("s%d", i))
		create(names[i])
	}
	s := newStore()
	f := (&Registry{}).services(connected(t, server), s, "")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	awaitServices(t, s, ended, names...)
	remove(names[0])
	create("later")
	awaitServices(t, s, ended, append(names[1:], "later")...)
	cancel()
	<-ended
}

// TestGoneBetweenPages has the server forget the version of a list in the middle of it: it is told as a failure, of which
// the half that was read changes nothing, and the next time everything comes.
func TestGoneBetweenPages(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{Args: []string{"--feature-gates=WatchList=false"}})
	create, _ := writer(t, server)
	names := []string{"stays"}
	for i := range pageSize {
		names = append(names, fmt.Sprintf("s%d", i))
	}
	for _, name := range names {
		create(name)
	}
	s := newStore()
	f := (&Registry{}).services(connected(t, server), s, "").(*feed[*service])
	f.replace(batch[*service]{{Namespace: "default", Name: "stays"}: {}})
	convert, forget := f.convert, sync.OnceFunc(func() { create("later"); server.LoseHistory(t) })
	f.convert = func(o runtime.Object) (*service, error) { forget(); return convert(o) }
	if _, err := f.readPages(t.Context()); !apierrors.IsResourceExpired(err) {
		t.Fatalf("got %v, want that the continuation has expired", err)
	}
	if len(s.services) != 1 {
		t.Fatalf("got %d Services of a list that broke off, want what was known", len(s.services))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	awaitServices(t, s, ended, append(names, "later")...)
	cancel()
	<-ended
}

// TestWatchEnds has the server end the watch: it goes on where it was.
func TestWatchEnds(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	create, _ := writer(t, server)
	s := newStore()
	f := (&Registry{}).services(connected(t, server), s, "").(*feed[*service])
	f.watchTime = 2 * time.Second
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("s%d", i))
		create(names[i])
		awaitServices(t, s, ended, names...)
		time.Sleep(500 * time.Millisecond)
	}
	cancel()
	<-ended
}

// TestBookmarks has a watch of a namespace where nothing happens while others change: bookmarks move its version on, so
// that it is resumed from one that the server remembers.
func TestBookmarks(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	client, err := typed.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	quiet := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: "quiet"}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), quiet, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	version := func(text string) uint64 {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	create, _ := writer(t, server)
	s := newStore()
	f := (&Registry{}).services(connected(t, server), s, "quiet").(*feed[*service])
	f.replace(batch[*service]{})
	f.watchTime = 4 * time.Second // the server sends a bookmark two seconds before it ends a watch
	at, watched := create("before"), make(chan error, 1)
	elsewhere := create("elsewhere")
	go func() { watched <- f.watch(t.Context(), &at) }()
	for i := 0; len(watched) == 0; i++ { // of what was before the watch there is no bookmark
		create(fmt.Sprintf("elsewhere-%d", i))
		time.Sleep(200 * time.Millisecond)
	}
	if err := <-watched; !errors.Is(err, errEnded) {
		t.Fatalf("got %v, want the watch ended by the server", err)
	}
	if version(at) < version(elsewhere) {
		t.Fatalf("the watch of a quiet namespace goes on from version %s, want that of a bookmark, %s or later", at, elsewhere)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.follow(ctx, at) }()
	o := &core.Service{ObjectMeta: meta.ObjectMeta{Name: "later"}, Spec: core.ServiceSpec{ClusterIP: core.ClusterIPNone, Ports: []core.ServicePort{{Port: 80}}}}
	if _, err := client.CoreV1().Services("quiet").Create(t.Context(), o, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for timeout := time.After(20 * time.Second); ; {
		s.mu.Lock()
		found := s.services[types.NamespacedName{Namespace: "quiet", Name: "later"}] != nil
		s.mu.Unlock()
		if found {
			break
		}
		select {
		case <-s.changed:
		case err := <-ended:
			t.Fatal(err)
		case <-timeout:
			t.Fatal("what came after the bookmark was not seen")
		}
	}
	cancel()
	<-ended
}
