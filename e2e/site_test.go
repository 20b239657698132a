package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// site is what an operator has before the mesh: services in four registries, each a real server.
type site struct {
	consul *testbed.Consul
	etcd   *testbed.Etcd
	zk     *testbed.ZooKeeper
	kube   *testbed.Kubernetes
}

// startSite starts the four servers side by side. It belongs into a network namespace: Kubernetes takes no endpoint on
// a loopback address.
func startSite(t *testing.T) *site {
	t.Helper()
	return &site{
		consul: testbed.StartConsul(t, testbed.ConsulOptions{Persist: true})[0],
		etcd:   testbed.StartEtcd(t, testbed.EtcdOptions{})[0],
		zk:     testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0],
		kube:   testbed.StartKubernetes(t, testbed.KubernetesOptions{}),
	}
}

// registries is the part of control.yaml that names the four, and what else the test wants of the file.
func (s *site) registries(t *testing.T) string {
	t.Helper()
	kubeconfig := s.kube.Kubeconfig(t, "", s.kube.AdminToken)
	return fmt.Sprintf(`  - {name: dc1, consul: {address: %q}}
  - {name: core, etcd: {endpoints: [%q]}}
  - {name: legacy, zookeeper: {servers: [%q], layout: curator, root: /services}}
  - {name: k8s, kubernetes: {kubeconfig: %q}}
`, s.consul.Address, s.etcd.Address, s.zk.Address, kubeconfig)
}

// demoAt starts an instance of a service and returns where it listens.
func demoAt(t testing.TB, service, version, addr string) netip.AddrPort {
	t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(testbed.FreePort(t)))
	start(t, service+" "+version, bin(t, "mesh"), "demo", service, "--version", version, "--listen", at.String())
	return at
}

// inConsul registers an instance, with labels of the form key=value.
func (s *site) inConsul(t testing.TB, service, id string, at netip.AddrPort, labels ...string) {
	t.Helper()
	registration := &api.CatalogRegistration{
		Node: "test-host", Address: "127.0.0.1",
		Service: &api.AgentService{ID: id, Service: service, Address: at.Addr().String(), Port: int(at.Port()), Meta: overHTTP(labels)},
	}
	eventually(t, 30*time.Second, "Consul takes a registration", func() error {
		_, err := s.consul.Client().Catalog().Register(registration, nil)
		return err
	})
}

// overHTTP are labels of the form key=value, and the protocol.
func overHTTP(labels []string) map[string]string {
	all := map[string]string{"protocol": "http"}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		all[key] = value
	}
	return all
}

func (s *site) inEtcd(t testing.TB, service, id string, at netip.AddrPort) {
	t.Helper()
	value, err := json.Marshal(map[string]any{"address": at.Addr(), "port": at.Port(), "protocol": "http"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "etcd takes a registration", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := s.etcd.Client().Put(ctx, "/hostmesh/services/default/"+service+"/"+id, string(value))
		return err
	})
}

// inZooKeeper registers an instance, with labels of the form key=value.
func (s *site) inZooKeeper(t testing.TB, service, id string, at netip.AddrPort, labels ...string) {
	t.Helper()
	value, err := json.Marshal(map[string]any{
		"name": service, "id": id, "address": at.Addr(), "port": at.Port(), "serviceType": "STATIC", "payload": overHTTP(labels),
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := s.zk.Client()
	eventually(t, 30*time.Second, "ZooKeeper takes a registration", func() error {
		path := ""
		for _, part := range []string{"services", service, id} {
			path += "/" + part
			data := []byte(nil)
			if part == id {
				data = value
			}
			if _, err := conn.Create(path, data, 0, zk.WorldACL(zk.PermAll)); err != nil && !errors.Is(err, zk.ErrNodeExists) {
				return err
			}
		}
		return nil
	})
}

// inKubernetes makes a Service and its only EndpointSlice be exactly that.
func (s *site) inKubernetes(t testing.TB, service string, at ...netip.AddrPort) {
	t.Helper()
	client, err := kubernetes.NewForConfig(s.kube.Config())
	if err != nil {
		t.Fatal(err)
	}
	http, name, ready := "http", "http", true
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: service}, Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: name, Port: 80, AppProtocol: &http}},
		},
	}
	for i, a := range at {
		// An instance has a port of its own here, so it has a slice of its own.
		port, slice := int32(a.Port()), fmt.Sprintf("%s-%d", service, i)
		object := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: slice, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{a.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}
		eventually(t, 30*time.Second, "Kubernetes takes a registration", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if _, err := client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
			if _, err := client.DiscoveryV1().EndpointSlices("default").Create(ctx, object, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
			return nil
		})
	}
}

// startPair starts the control plane and a proxy of p and waits until the registries have spoken.
func (p parts) startPair(t testing.TB) (control, proxy *process) {
	t.Helper()
	control, proxy = p.startControl(t), p.startProxy(t)
	eventually(t, 60*time.Second, "every registry has spoken", func() error {
		_, err := fetch(p.api, "", "/readyz")
		return err
	})
	return control, proxy
}

// endpoints returns what the control plane knows of a service, by address.
func (p parts) endpoints(service string) (map[string]controlplane.ServiceEndpoint, error) {
	var all controlplane.Endpoints
	if err := fetchJSON(p.api, "/api/v1/endpoints?service="+service, &all); err != nil {
		return nil, err
	}
	by := map[string]controlplane.ServiceEndpoint{}
	for _, e := range all.Endpoints {
		for _, port := range e.Ports {
			by[netip.AddrPortFrom(e.Addr, port.Number).String()] = e
		}
	}
	return by, nil
}

// mesh asks with the command line, as an operator does.
func (p parts) mesh(t testing.TB, args ...string) string {
	t.Helper()
	out, code := run(t, append([]string{bin(t, "mesh"), "--server", p.api}, args...)...)
	if code != 0 {
		t.Fatalf("mesh %v: exit %d\n%s", args, code, out)
	}
	return out
}

// rewrite changes control.yaml of p.
func (p parts) rewrite(t testing.TB, registries, more string) {
	t.Helper()
	writeFile(t, p.controlFile, fmt.Sprintf("state: %s\nlisten: {xds: [%q], http: %q}\ndns: {listen: [%q]}\n%sregistries:\n%s",
		filepath.Join(p.dir, "control"), p.xds, p.api, p.dns, more, registries))
}
