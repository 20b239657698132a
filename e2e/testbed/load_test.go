package testbed_test

import (
	"path"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// More than one transaction of each server holds, and the last of them not full.
const loadServices, loadEndpoints = 301, 3

func TestLoadEtcd(t *testing.T) {
	t.Parallel()
	client := testbed.StartEtcd(t, testbed.EtcdOptions{})[0].Client()
	const prefix = "/hostmesh/services/"
	for range 2 { // again adds nothing
		if err := testbed.LoadEtcd(t.Context(), client, prefix, loadServices, loadEndpoints); err != nil {
			t.Fatal(err)
		}
		got, err := client.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil || got.Count != loadServices*loadEndpoints {
			t.Fatalf("got %v, %v, want %d keys", got, err, loadServices*loadEndpoints)
		}
	}
	key, value := testbed.LoadedEtcdEndpoint(prefix, loadServices-1, loadEndpoints-1, loadEndpoints, "v1")
	wantEtcd(t, client, key, value)
	if _, changed := testbed.LoadedEtcdEndpoint(prefix, loadServices-1, loadEndpoints-1, loadEndpoints, "v2"); changed == value {
		t.Error("another version is the same value")
	}
}

func TestLoadZooKeeper(t *testing.T) {
	t.Parallel()
	z := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	conn := z.Client()
	const root = "/site/services"
	if err := testbed.LoadZooKeeper(t.Context(), conn, root, loadServices, loadEndpoints); err != nil {
		t.Fatal(err)
	}
	services, _, err := conn.Children(root)
	if err != nil || len(services) != loadServices {
		t.Fatalf("got %d services, %v, want %d", len(services), err, loadServices)
	}
	for _, name := range services {
		if ids, _, err := conn.Children(path.Join(root, name)); err != nil || len(ids) != loadEndpoints {
			t.Fatalf("%s: got %v, %v, want %d endpoints", name, ids, err, loadEndpoints)
		}
	}
	node, data := testbed.LoadedZooKeeperEndpoint(root, loadServices-1, loadEndpoints-1, loadEndpoints, "v1")
	wantZooKeeper(t, z, node, string(data))
	if err := testbed.LoadZooKeeper(t.Context(), conn, root, 1, 1); err == nil {
		t.Error("a second load of the same services said nothing")
	}
}

func TestLoadKubernetes(t *testing.T) {
	t.Parallel()
	k := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	if err := testbed.LoadKubernetes(t.Context(), k.Config(), "shop", loadServices, loadEndpoints); err != nil {
		t.Fatal(err)
	}
	client := clientOf(t, k.Config())
	services, err := client.CoreV1().Services("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(services.Items) != loadServices {
		t.Fatalf("got %d services, %v, want %d", len(services.Items), err, loadServices)
	}
	slices, err := client.DiscoveryV1().EndpointSlices("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(slices.Items) != loadServices {
		t.Fatalf("got %d slices, %v, want %d", len(slices.Items), err, loadServices)
	}
	changed := testbed.LoadedEndpointSlice("shop", loadServices-1, loadEndpoints)
	if !strings.HasPrefix(changed.Endpoints[loadEndpoints-1].Addresses[0], "10.") {
		t.Errorf("got address %s, want one of 10.0.0.0/8", changed.Endpoints[loadEndpoints-1].Addresses[0])
	}
	changed.Endpoints = changed.Endpoints[:1]
	if _, err := client.DiscoveryV1().EndpointSlices("shop").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}
