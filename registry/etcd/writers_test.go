package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/etcd"
)

// TestTransactionIsOneChange has etcd's own package replace an endpoint by another in one transaction, again and again:
// no view may be without both, or with both.
func TestTransactionIsOneChange(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	client := server.Client()
	manager, err := endpoints.NewManager(client, "/services/greeter")
	if err != nil {
		t.Fatal(err)
	}
	lease, err := client.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(i int) string { return fmt.Sprintf("10.0.0.%d:50051", i) }
	key := func(i int) string { return "/services/greeter/" + addr(i) }
	if err := manager.AddEndpoint(t.Context(), key(1), endpoints.Endpoint{Addr: addr(1)}, clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	w := watch(t, etcd.Config{Endpoints: []string{server.Address}, Layout: "grpc", Prefix: "/services/"})
	w.sees(t, "the first", exactly("default/greeter "+addr(1)))
	w.promise(func(v registry.View) bool { return len(names(v)) == 1 })
	const last = 200
	for i := 2; i <= last; i++ {
		if err := manager.Update(t.Context(), []*endpoints.UpdateWithOpts{
			endpoints.NewDeleteUpdateOpts(key(i - 1)),
			endpoints.NewAddUpdateOpts(key(i), endpoints.Endpoint{Addr: addr(i)}, clientv3.WithLease(lease.ID)),
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.sees(t, "the last", exactly("default/greeter "+addr(last)))
}

// TestLeaseEndsUnseen has an instance leave, and others come and go, while the adapter is cut off.
func TestLeaseEndsUnseen(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	client := server.Client()
	lease, err := client.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), servicesPrefix+"web/mortal", endpoint1, clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	write(t, server, servicesPrefix+"web/1", endpoint1)
	link := testbed.NewLink(t, hostOf(server))
	w := watch(t, etcd.Config{Endpoints: []string{link.Address}})
	w.sees(t, "both", exactly("default/web 1", "default/web mortal"))
	w.promise(holds("default/web 1"))
	link.Cut()
	w.fails(t, "cut off", "connection")
	if _, err := client.Revoke(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	write(t, server, servicesPrefix+"web/short", endpoint1)
	if _, err := client.Delete(t.Context(), servicesPrefix+"web/short"); err != nil {
		t.Fatal(err)
	}
	write(t, server, servicesPrefix+"web/2", endpoint1)
	link.Heal()
	w.sees(t, "what is left", exactly("default/web 1", "default/web 2"))
}

// TestEmptyPrefixIsTold begins below a prefix without a key: there is no error to be had, but a hint.
func TestEmptyPrefixIsTold(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	write(t, server, servicesPrefix+"web/1", endpoint1)
	for prefix, want := range map[string]int{strings.TrimPrefix(servicesPrefix, "/"): 1, servicesPrefix: 0} {
		var log bytes.Buffer
		r, err := etcd.New(etcd.Config{Endpoints: []string{server.Address}, Prefix: prefix}, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		views := 0
		_ = r.Watch(ctx, func(registry.View) { views++; cancel() })
		if got := strings.Count(log.String(), "set prefix to where they are"); got != want || views != 1 {
			t.Errorf("prefix %s: %d views, log %q, want %d warnings", prefix, views, log.String(), want)
		}
	}
}
