package kubernetes_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

// admin writes objects of any kind to an API server.
type admin struct{ client *rest.RESTClient }

func newAdmin(t *testing.T, config *rest.Config) admin {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{core.AddToScheme, discovery.AddToScheme, rbac.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return admin{client}
}

// object is any object of the API with its kind in it.
type object interface {
	runtime.Object
	meta.Object
}

func path(o object) string {
	kinds := map[string]string{
		"Namespace": "namespaces", "Service": "services", "EndpointSlice": "endpointslices", "Node": "nodes",
		"Role": "roles", "RoleBinding": "rolebindings", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
	}
	kind := o.GetObjectKind().GroupVersionKind()
	at := "/apis/" + kind.GroupVersion().String()
	if kind.Group == "" {
		at = "/api/" + kind.Version
	}
	if ns := o.GetNamespace(); ns != "" {
		at += "/namespaces/" + ns
	}
	return at + "/" + kinds[kind.Kind]
}

// put makes the object be so, and returns the server's uid of it.
func (a admin) put(ctx context.Context, o object) (types.UID, error) {
	result := a.client.Put().AbsPath(path(o), o.GetName()).Body(o).Do(ctx)
	if apierrors.IsNotFound(result.Error()) {
		result = a.client.Post().AbsPath(path(o)).Body(o).Do(ctx)
	}
	made, err := result.Get()
	if err != nil {
		return "", err
	}
	return made.(meta.Object).GetUID(), nil
}

func (a admin) mustPut(t *testing.T, objects ...object) {
	t.Helper()
	for _, o := range objects {
		if _, err := a.put(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// remove deletes the object if it is there.
func (a admin) remove(t *testing.T, o object) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second) // it is used by t.Cleanup too
	defer cancel()
	if err := a.client.Delete().AbsPath(path(o), o.GetName()).Do(ctx).Error(); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

func serviceObject(namespace, name string, change func(*core.Service)) *core.Service {
	o := &core.Service{
		TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       core.ServiceSpec{ClusterIP: core.ClusterIPNone, Ports: []core.ServicePort{{Port: 80}}},
	}
	if change != nil {
		change(o)
	}
	return o
}

// sliceObject has an endpoint, of a pod, for each address.
func sliceObject(namespace, service, name string, port int32, addrs ...string) *discovery.EndpointSlice {
	o := &discovery.EndpointSlice{
		TypeMeta: meta.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: meta.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{discovery.LabelServiceName: service},
		},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: new(""), Port: new(port), Protocol: new(core.ProtocolTCP)}},
	}
	for _, a := range addrs {
		o.Endpoints = append(o.Endpoints, discovery.Endpoint{
			Addresses: []string{a}, Conditions: discovery.EndpointConditions{Ready: new(true)},
			TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: namespace, Name: service + "-" + a},
		})
	}
	return o
}

// driver writes what the suite asks for: a Service and one EndpointSlice.
type driver struct {
	admin

	mu       sync.Mutex
	services map[registry.Name]*registry.Service
}

func (d *driver) put(t *testing.T, s *registry.Service) {
	t.Helper()
	if err := d.write(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
}

func (d *driver) write(ctx context.Context, s *registry.Service, health map[netip.Addr]registry.Health) error {
	d.mu.Lock()
	d.services[s.Name] = s
	d.mu.Unlock()
	service := serviceObject(s.Name.Namespace, s.Name.Name, func(o *core.Service) {
		if len(s.Endpoints) > 0 {
			o.Labels = s.Endpoints[0].Labels
		}
		o.Spec.Ports[0].AppProtocol = new(string(s.Ports[0].Protocol))
	})
	slice := sliceObject(s.Name.Namespace, s.Name.Name, s.Name.Name, 0)
	for _, e := range s.Endpoints {
		slice.Ports[0].Port = new(int32(e.Ports[0].Number))
		slice.Endpoints = append(slice.Endpoints, discovery.Endpoint{
			Addresses: []string{e.Addr.String()}, Conditions: discovery.EndpointConditions{Ready: new(health[e.Addr] != registry.Unhealthy)},
			TargetRef: &core.ObjectReference{Kind: "Pod", Namespace: s.Name.Namespace, Name: e.ID},
		})
	}
	uid, err := d.admin.put(ctx, service)
	if err != nil {
		return err
	}
	service.UID = uid
	slice.OwnerReferences = []meta.OwnerReference{*meta.NewControllerRef(service, service.GroupVersionKind())} // as the controller does
	_, err = d.admin.put(ctx, slice)
	return err
}

func (d *driver) putAll(t *testing.T, services []*registry.Service) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	for _, s := range services {
		group.Go(func() error { return d.write(ctx, s, nil) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (d *driver) setHealth(t *testing.T, name registry.Name, addr netip.Addr, health registry.Health) {
	t.Helper()
	if err := d.write(t.Context(), d.services[name], map[netip.Addr]registry.Health{addr: health}); err != nil {
		t.Fatal(err)
	}
}

func (d *driver) delete(t *testing.T, name registry.Name) {
	t.Helper()
	d.remove(t, sliceObject(name.Namespace, name.Name, name.Name, 0))
	d.remove(t, serviceObject(name.Namespace, name.Name, nil))
	d.mu.Lock()
	delete(d.services, name)
	d.mu.Unlock()
}

// clear removes everything that was put; what is many goes in one request for each kind.
func (d *driver) clear(t *testing.T) {
	t.Helper()
	if len(d.services) > 100 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
		defer cancel()
		for _, o := range []object{sliceObject(registry.DefaultNamespace, "", "", 0), serviceObject(registry.DefaultNamespace, "", nil)} {
			if err := d.client.Delete().AbsPath(path(o)).Do(ctx).Error(); err != nil {
				t.Fatal(fmt.Errorf("delete all: %w", err))
			}
		}
		return
	}
	for name := range d.services {
		d.delete(t, name)
	}
}
