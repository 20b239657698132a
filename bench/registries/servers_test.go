package registries

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8s "k8s.io/client-go/kubernetes"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
	"github.com/hostmesh/hostmesh/registry/etcd"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
	"github.com/hostmesh/hostmesh/registry/zookeeper"
)

// Each adapter has its default settings; the server is one, alone.

func BenchmarkConsul(b *testing.B) {
	// Not -dev, which indents its JSON for people.
	s := testbed.StartConsul(b, testbed.ConsulOptions{Mode: testbed.ConsulTLS, Persist: true})[0]
	client := s.Client()
	if err := testbed.LoadConsul(context.Background(), client, services, endpoints); err != nil {
		b.Fatal(err)
	}
	r, err := consul.New(consul.Config{Address: s.Address, CAFile: s.Certs.CAFile}, nil)
	measure(b, err, server{
		registry: r, witness: startWitness(b, s.Address, s.Certs.CAFile),
		section: fmt.Sprintf("  - {name: dc1, consul: {address: %q, caFile: %q}}\n", s.Address, s.Certs.CAFile),
		change: func(ctx context.Context, marks map[int]int) error {
			var ops api.TxnOps
			for service, mark := range marks {
				op := testbed.LoadedEndpoint(service, 0, endpoints)[0]
				op.Service.Service.Meta = map[string]string{"version": fmt.Sprint(mark)}
				ops = append(ops, op)
			}
			ok, resp, _, err := client.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
			if err == nil && !ok {
				err = errors.New(resp.Errors[0].What)
			}
			return err
		},
	})
}

func BenchmarkEtcd(b *testing.B) {
	const prefix = "/hostmesh/services/"
	s := testbed.StartEtcd(b, testbed.EtcdOptions{})[0]
	client := s.Client()
	if err := testbed.LoadEtcd(context.Background(), client, prefix, services, endpoints); err != nil {
		b.Fatal(err)
	}
	r, err := etcd.New(etcd.Config{Endpoints: []string{s.Address}}, nil)
	measure(b, err, server{
		registry: r,
		section:  fmt.Sprintf("  - {name: core, etcd: {endpoints: [%q]}}\n", s.Address),
		change: func(ctx context.Context, marks map[int]int) error {
			var ops []clientv3.Op
			for service, mark := range marks {
				ops = append(ops, clientv3.OpPut(testbed.LoadedEtcdEndpoint(prefix, service, 0, endpoints, fmt.Sprint(mark))))
			}
			_, err := client.Txn(ctx).Then(ops...).Commit()
			return err
		},
	})
}

func BenchmarkZooKeeper(b *testing.B) {
	const root = "/services"
	s := testbed.StartZooKeeper(b, testbed.ZooKeeperOptions{})[0]
	conn := s.Client()
	if err := testbed.LoadZooKeeper(context.Background(), conn, root, services, endpoints); err != nil {
		b.Fatal(err)
	}
	r, err := zookeeper.New(zookeeper.Config{Servers: []string{s.Address}}, nil)
	measure(b, err, server{
		registry: r,
		section:  fmt.Sprintf("  - {name: legacy, zookeeper: {servers: [%q]}}\n", s.Address),
		change: func(_ context.Context, marks map[int]int) error {
			var ops []any
			for service, mark := range marks {
				node, data := testbed.LoadedZooKeeperEndpoint(root, service, 0, endpoints, fmt.Sprint(mark))
				ops = append(ops, &zk.SetDataRequest{Path: node, Data: data, Version: -1})
			}
			_, err := conn.Multi(ops...)
			return err
		},
	})
}

func BenchmarkKubernetes(b *testing.B) {
	s := testbed.StartKubernetes(b, testbed.KubernetesOptions{})
	if err := testbed.LoadKubernetes(context.Background(), s.Config(), registry.DefaultNamespace, services, endpoints); err != nil {
		b.Fatal(err)
	}
	client, err := k8s.NewForConfig(s.Config())
	if err != nil {
		b.Fatal(err)
	}
	kubeconfig := s.Kubeconfig(b, "", s.AdminToken)
	r, err := kubernetes.New(kubernetes.Config{Kubeconfig: kubeconfig}, nil)
	measure(b, err, server{
		registry: r,
		section:  fmt.Sprintf("  - {name: k8s, kubernetes: {kubeconfig: %q}}\n", kubeconfig),
		change: func(ctx context.Context, marks map[int]int) error {
			for service, mark := range marks {
				slice := testbed.LoadedEndpointSlice(registry.DefaultNamespace, service, endpoints)
				port := int32(mark)
				slice.Ports[0].Port = &port
				if _, err := client.DiscoveryV1().EndpointSlices(registry.DefaultNamespace).Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
