package etcd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/etcd"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

const servicesPrefix = "/hostmesh/services/"

// TestSuiteAuth runs the suite over a plaintext connection, with the role that README.md gives and no more.
func TestSuiteAuth(t *testing.T) {
	server := testbed.StartEtcd(t, testbed.EtcdOptions{Auth: true})[0]
	addUser(t, server.Client(), "hostmesh", "the password", servicesPrefix)
	registrytest.Run(t, registrytest.Harness{
		New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
			link := testbed.NewLink(t, hostOf(server))
			cfg := etcd.Config{Endpoints: []string{link.Address}, Username: "hostmesh", PasswordFile: secretFile(t, "the password")}
			d := newDriver(t, server)
			driver := d.driver(server)
			driver.Faults = singleFaults(server, link, d)
			delete(driver.Faults, registrytest.Garbage)
			driver.Deny = func(t *testing.T) { revoke(t, d.client, "hostmesh", servicesPrefix) }
			driver.Allow = func(t *testing.T) { grant(t, d.client, "hostmesh", servicesPrefix) }
			return newRegistry(t, cfg), driver
		},
		Cannot: map[registrytest.Case]string{
			registrytest.LeaderKilled: "one server has no other to lead; TestSuiteCluster has",
			registrytest.Garbage:      "without TLS nothing tells a damaged byte of a value from a good one; TestSuiteTLS does",
		},
	})
}

// TestSuiteTLS runs it over TLS with a client certificate.
func TestSuiteTLS(t *testing.T) {
	server := testbed.StartEtcd(t, testbed.EtcdOptions{Mode: testbed.EtcdTLS})[0]
	registrytest.Run(t, registrytest.Harness{
		New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
			link := testbed.NewLink(t, hostOf(server))
			cfg := tlsConfig(server)
			cfg.Endpoints = []string{"https://" + link.Address}
			d := newDriver(t, server)
			driver := d.driver(server)
			driver.Faults = singleFaults(server, link, d)
			return newRegistry(t, cfg), driver
		},
		Cannot: map[registrytest.Case]string{
			registrytest.LeaderKilled:   "one server has no other to lead; TestSuiteCluster has",
			registrytest.PermissionLost: "this server has no users; TestSuiteAuth has",
		},
	})
}

// TestSuiteCluster runs it with all members of a cluster as endpoints.
func TestSuiteCluster(t *testing.T) {
	servers := testbed.StartEtcd(t, testbed.EtcdOptions{Mode: testbed.EtcdCluster})
	elsewhere := "the members have no link; TestSuiteTLS and TestSuiteAuth have"
	registrytest.Run(t, registrytest.Harness{
		New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
			cfg := etcd.Config{}
			for _, s := range servers {
				cfg.Endpoints = append(cfg.Endpoints, s.Address)
			}
			driver := newDriver(t, servers...).driver(servers...)
			var leader *testbed.Etcd
			driver.Faults = map[registrytest.Fault]registrytest.Injection{
				registrytest.ServerKilled: {
					Begin: func(*testing.T) { servers[0].Kill() }, // the one that is read first
					End:   func(*testing.T) { servers[0].Start(); servers[0].AwaitReady() },
					// After a failure another is read.
					Blameless: true,
				},
				registrytest.LeaderKilled: {
					Begin: func(t *testing.T) { leader = leaderOf(t, servers); leader.Kill() },
					End: func(*testing.T) {
						if leader != nil { // Begin found one
							leader.Start()
							leader.AwaitReady()
						}
					},
					// The member that is read may be another, and the election short.
					Blameless: true,
				},
				registrytest.ServerPaused: {
					Begin: func(*testing.T) { servers[0].Pause() },
					End:   func(*testing.T) { servers[0].Continue(); servers[0].AwaitReady() },

					Blameless: true,
				},
			}
			return newRegistry(t, cfg), driver
		},
		Cannot: map[registrytest.Case]string{
			registrytest.PermissionLost: "these servers have no users; TestSuiteAuth has",
			registrytest.Partition:      elsewhere, registrytest.SlowAnswers: elsewhere, registrytest.Truncated: elsewhere,
			registrytest.Garbage: elsewhere, registrytest.HistoryLost: elsewhere,
			registrytest.Large: "TestSuiteTLS and TestSuiteAuth show it",
		},
	})
}

// singleFaults are the faults of one server that is reached over a link.
func singleFaults(server *testbed.Etcd, link *testbed.Link, d *driver) map[registrytest.Fault]registrytest.Injection {
	overLink := func(begin func()) registrytest.Injection {
		return registrytest.Injection{
			Begin: func(*testing.T) { begin() }, End: func(*testing.T) { link.Heal() }, Writable: true,
		}
	}
	return map[registrytest.Fault]registrytest.Injection{
		registrytest.ServerKilled: {
			Begin: func(*testing.T) { server.Kill() },
			End:   func(*testing.T) { server.Start(); server.AwaitReady() },
		},
		registrytest.ServerPaused: {
			Begin: func(*testing.T) { server.Pause() },
			End:   func(*testing.T) { server.Continue(); server.AwaitReady() },
		},
		registrytest.Partition:   overLink(link.Hold),
		registrytest.SlowAnswers: overLink(func() { link.Slow(4 * time.Second) }),
		registrytest.Truncated:   overLink(func() { link.Truncate(500) }),
		registrytest.Garbage:     overLink(link.Garble),
		registrytest.HistoryLost: {
			Begin: func(*testing.T) { link.Cut() },
			End: func(t *testing.T) {
				d.compact(t)
				link.Heal()
			},
			Writable: true,
		},
	}
}

func newRegistry(t *testing.T, cfg etcd.Config) *etcd.Registry {
	t.Helper()
	r, err := etcd.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func hostOf(server *testbed.Etcd) string {
	_, host, _ := strings.Cut(server.Address, "://")
	return host
}

func tlsConfig(server *testbed.Etcd) etcd.Config {
	return etcd.Config{
		Endpoints: []string{server.Address}, CAFile: server.Certs.CAFile,
		CertFile: server.Certs.ClientCertFile, KeyFile: server.Certs.ClientKeyFile,
	}
}

func leaderOf(t *testing.T, servers []*testbed.Etcd) *testbed.Etcd {
	t.Helper()
	for range 100 {
		for _, s := range servers {
			if s.IsLeader() {
				return s
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("no member leads")
	return nil
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// addUser makes a user with a role of its name that may read the prefix and nothing else.
func addUser(t *testing.T, client *clientv3.Client, name, password, prefix string) {
	t.Helper()
	_, err := client.UserAdd(t.Context(), name, password)
	if err == nil {
		_, err = client.RoleAdd(t.Context(), name)
	}
	if err == nil {
		_, err = client.UserGrantRole(t.Context(), name, name)
	}
	if err != nil {
		t.Fatal(err)
	}
	grant(t, client, name, prefix)
}

func grant(t *testing.T, client *clientv3.Client, role, prefix string) {
	t.Helper()
	read := clientv3.PermissionType(clientv3.PermRead)
	if _, err := client.RoleGrantPermission(t.Context(), role, prefix, clientv3.GetPrefixRangeEnd(prefix), read); err != nil {
		t.Fatal(err)
	}
}

func revoke(t *testing.T, client *clientv3.Client, role, prefix string) {
	t.Helper()
	if _, err := client.RoleRevokePermission(t.Context(), role, prefix, clientv3.GetPrefixRangeEnd(prefix)); err != nil {
		t.Fatal(err)
	}
}

// driver writes services in layout hostmesh. It holds no state, so that services may be put in parallel.
type driver struct {
	client *clientv3.Client
}

// newDriver returns a driver of the servers, without a service of the suite in them.
func newDriver(t *testing.T, servers ...*testbed.Etcd) *driver {
	t.Helper()
	d := &driver{client: servers[0].Client()}
	if len(servers) > 1 {
		client, err := clientv3.New(clientv3.Config{Endpoints: addresses(servers), Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		d.client = client
	}
	clean := func() {
		d.retry(t, func(ctx context.Context) error {
			_, err := d.client.Delete(ctx, servicesPrefix, clientv3.WithPrefix())
			return err
		})
	}
	clean()
	return d
}

func addresses(servers []*testbed.Etcd) (all []string) {
	for _, s := range servers {
		all = append(all, s.Address)
	}
	return all
}

func (d *driver) driver(servers ...*testbed.Etcd) registrytest.Driver {
	return registrytest.Driver{
		Put: d.put, PutAll: d.putAll, Delete: d.delete, SetHealth: d.setHealth,
		Down: func(*testing.T) {
			for _, s := range servers {
				s.Kill()
			}
		},
		Up: func(*testing.T) {
			for _, s := range servers {
				s.Start()
			}
			for _, s := range servers {
				s.AwaitReady()
			}
		},
	}
}

// retry writes again what a server that is just back, or has lost its leader, refuses.
func (d *driver) retry(t *testing.T, write func(context.Context) error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = write(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatal(err)
}

func keyOf(name registry.Name, id string) string {
	return servicesPrefix + name.Namespace + "/" + name.Name + "/" + id
}

// valueOf writes an endpoint as README.md tells it.
func valueOf(s *registry.Service, e *registry.Endpoint) string {
	data, err := json.Marshal(map[string]any{
		"address": e.Addr, "port": e.Ports[0].Number, "protocol": s.Ports[0].Protocol, "labels": e.Labels,
		"weight": e.Weight, "health": e.Health,
	})
	if err != nil {
		panic(err)
	}
	return string(data)
}

func (d *driver) put(t *testing.T, s *registry.Service) {
	t.Helper()
	d.retry(t, func(ctx context.Context) error {
		wanted := make(map[string]bool)
		var ops []clientv3.Op
		for _, e := range s.Endpoints {
			key := keyOf(s.Name, e.ID)
			wanted[key] = true
			ops = append(ops, clientv3.OpPut(key, valueOf(s, e)))
		}
		have, err := d.client.Get(ctx, keyOf(s.Name, ""), clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		for _, kv := range have.Kvs {
			if key := string(kv.Key); !wanted[key] {
				ops = append(ops, clientv3.OpDelete(key))
			}
		}
		_, err = d.client.Txn(ctx).Then(ops...).Commit()
		return err
	})
}

// putAll puts services that were not there before, in as few and as large transactions as etcd takes.
func (d *driver) putAll(t *testing.T, services []*registry.Service) {
	t.Helper()
	const most = 128
	writers := new(errgroup.Group)
	writers.SetLimit(16)
	var ops []clientv3.Op
	flush := func() {
		txn := ops
		ops = nil
		writers.Go(func() error {
			_, err := d.client.Txn(t.Context()).Then(txn...).Commit()
			return err
		})
	}
	for _, s := range services {
		for _, e := range s.Endpoints {
			if ops = append(ops, clientv3.OpPut(keyOf(s.Name, e.ID), valueOf(s, e))); len(ops) == most {
				flush()
			}
		}
	}
	flush()
	if err := writers.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (d *driver) delete(t *testing.T, name registry.Name) {
	t.Helper()
	d.retry(t, func(ctx context.Context) error {
		_, err := d.client.Delete(ctx, keyOf(name, ""), clientv3.WithPrefix())
		return err
	})
}

func (d *driver) setHealth(t *testing.T, name registry.Name, addr netip.Addr, health registry.Health) {
	t.Helper()
	d.retry(t, func(ctx context.Context) error {
		have, err := d.client.Get(ctx, keyOf(name, ""), clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range have.Kvs {
			var value map[string]any
			if err := json.Unmarshal(kv.Value, &value); err != nil {
				return err
			}
			if value["address"] != addr.String() {
				continue
			}
			value["health"] = health
			data, err := json.Marshal(value)
			if err != nil {
				return err
			}
			_, err = d.client.Put(ctx, string(kv.Key), string(data))
			return err
		}
		return fmt.Errorf("no endpoint %s of %s", addr, name)
	})
}

// compact has etcd forget all history.
func (d *driver) compact(t *testing.T) {
	t.Helper()
	d.retry(t, func(ctx context.Context) error {
		now, err := d.client.Put(ctx, "/elsewhere", "")
		if err != nil {
			return err
		}
		_, err = d.client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
		return err
	})
}
