package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// loadTimeout bounds each request of a loader; it is generous for a loaded machine.
const loadTimeout = 60 * time.Second

// LoadEtcd puts services svc-0000, svc-0001, … with that many endpoints each below prefix, in Hostmesh's own layout
// and as LoadedEtcdEndpoint says, of version v1 and without leases. It may be called again to add more.
func LoadEtcd(ctx context.Context, client *clientv3.Client, prefix string, services, endpoints int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	const limit = 128 // operations that etcd takes in one transaction
	var ops []clientv3.Op
	commit := func() {
		batch := ops
		ops = nil
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, loadTimeout)
			defer cancel()
			if _, err := client.Txn(ctx).Then(batch...).Commit(); err != nil {
				return fmt.Errorf("load etcd: %w", err)
			}
			return nil
		})
	}
	for s := range services {
		for e := range endpoints {
			key, value := LoadedEtcdEndpoint(prefix, s, e, endpoints, "v1")
			if ops = append(ops, clientv3.OpPut(key, value)); len(ops) == limit {
				commit()
			}
		}
	}
	if len(ops) > 0 {
		commit()
	}
	return group.Wait()
}

// LoadedEtcdEndpoint returns the key and the value of that endpoint of that service when each service has so many
// endpoints: port 8080, an address from 10.0.0.0/8 and a label with the version. Putting another version changes it.
func LoadedEtcdEndpoint(prefix string, service, endpoint, endpoints int, version string) (key, value string) {
	name := LoadedServiceName(service)
	data, err := json.Marshal(map[string]any{
		"address": loadedAddress(service*endpoints + endpoint), "port": 8080, "protocol": "http",
		"labels": map[string]string{"version": version},
	})
	if err != nil {
		panic(err) // of strings and numbers: cannot be
	}
	return fmt.Sprintf("%s%s/%s-%d", prefix, name, name, endpoint), string(data)
}
