package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/go-zookeeper/zk"
	"golang.org/x/sync/errgroup"
)

// LoadZooKeeper creates services svc-0000, svc-0001, … with that many endpoints each below root ("/services"), in
// Curator's layout and as LoadedZooKeeperEndpoint says, of version v1. The nodes are persistent, so that they stay when
// conn is closed. None of the services may be there yet.
func LoadZooKeeper(ctx context.Context, conn *zk.Conn, root string, services, endpoints int) error {
	if err := createZooKeeperPath(conn, root); err != nil {
		return fmt.Errorf("load zookeeper: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	const limit = 500 // operations in one transaction, far below the megabyte that ZooKeeper takes
	var ops []any
	commit := func() {
		batch := ops
		ops = nil
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if _, err := conn.Multi(batch...); err != nil {
				return fmt.Errorf("load zookeeper: %w", err)
			}
			return nil
		})
	}
	for s := range services {
		if len(ops)+1+endpoints > limit && len(ops) > 0 {
			commit() // a service is created in one transaction with its endpoints
		}
		ops = append(ops, createOp(path.Join(root, LoadedServiceName(s)), nil))
		for e := range endpoints {
			ops = append(ops, createOp(LoadedZooKeeperEndpoint(root, s, e, endpoints, "v1")))
		}
	}
	commit()
	return group.Wait()
}

// LoadedZooKeeperEndpoint returns the path and the data of that endpoint of that service when each service has so many
// endpoints: port 8080, an address from 10.0.0.0/8 and a payload with the version. Setting another version changes it.
func LoadedZooKeeperEndpoint(root string, service, endpoint, endpoints int, version string) (node string, data []byte) {
	name := LoadedServiceName(service)
	id := fmt.Sprintf("%s-%d", name, endpoint)
	data, err := json.Marshal(map[string]any{
		"name": name, "id": id, "address": loadedAddress(service*endpoints + endpoint), "port": 8080, "sslPort": nil,
		"payload": map[string]string{"version": version}, "registrationTimeUTC": 1700000000000,
		"serviceType": "DYNAMIC", "uriSpec": nil, "enabled": true,
	})
	if err != nil {
		panic(err) // of strings and numbers: cannot be
	}
	return path.Join(root, name, id), data
}

func createOp(node string, data []byte) *zk.CreateRequest {
	return &zk.CreateRequest{Path: node, Data: data, Acl: zk.WorldACL(zk.PermAll), Flags: zk.FlagPersistent}
}

// createZooKeeperPath creates node and those above it where they are not there.
func createZooKeeperPath(conn *zk.Conn, node string) error {
	created := ""
	for name := range strings.SplitSeq(strings.Trim(node, "/"), "/") {
		created += "/" + name
		_, err := conn.Create(created, nil, zk.FlagPersistent, zk.WorldACL(zk.PermAll))
		if err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return fmt.Errorf("create %s: %w", created, err)
		}
	}
	return nil
}
