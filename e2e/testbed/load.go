package testbed

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"
)

// loadNodes is how many nodes LoadConsul spreads the endpoints over at most: with 100,000 of them 20 each. For each change of an
// instance Consul walks its node's checks, so far fewer nodes than a site has would make it slow.
const loadNodes = 5000

// LoadConsul registers services svc-0000, svc-0001, … with that many endpoints each, spread over nodes, every
// endpoint with a passing check, port 8080, meta version and address from 10.0.0.0/8. It uses Consul's transactions,
// several at a time, so a thousand services of ten endpoints take seconds. It may be called again to add more.
func LoadConsul(ctx context.Context, client *api.Client, services, endpoints int) error {
	if err := loadTxn(ctx, client, loadNodeOps(min(loadNodes, services*endpoints))); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	const limit = 64 // operations that Consul takes in one transaction
	var ops api.TxnOps
	for s := range services {
		for e := range endpoints {
			ops = append(ops, LoadedEndpoint(s, e, endpoints)...)
			if len(ops) == limit {
				batch := ops
				group.Go(func() error { return loadTxn(ctx, client, batch) })
				ops = nil
			}
		}
	}
	if len(ops) > 0 {
		group.Go(func() error { return loadTxn(ctx, client, ops) })
	}
	return group.Wait()
}

// LoadedServiceName returns the name that LoadConsul, LoadEtcd, LoadZooKeeper and LoadKubernetes give to their service
// of that number.
func LoadedServiceName(service int) string { return fmt.Sprintf("svc-%04d", service) }

// LoadedEndpoint returns the two operations, the instance and its check, that LoadConsul registers for that endpoint
// of that service when each service has so many endpoints.
func LoadedEndpoint(service, endpoint, endpoints int) api.TxnOps {
	number := service*endpoints + endpoint
	name := LoadedServiceName(service)
	id, node := fmt.Sprintf("%s-%d", name, endpoint), loadNodeName(number%loadNodes)
	return api.TxnOps{
		{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: node, Service: api.AgentService{
			ID: id, Service: name, Port: 8080, Address: loadedAddress(number),
			Tags: []string{"v1", "protocol=http"}, Meta: map[string]string{"version": "v1"},
			Weights: api.AgentWeights{Passing: 1, Warning: 1},
		}}},
		{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{
			Node: node, CheckID: "check:" + id, Name: "loaded", Status: api.HealthPassing, ServiceID: id, ServiceName: name,
		}}},
	}
}

// loadedAddress returns the address of the endpoint of that number, counted over all services.
func loadedAddress(number int) string {
	return fmt.Sprintf("10.%d.%d.%d", 1+number>>16, number>>8&0xff, number&0xff)
}

func loadNodeName(i int) string { return fmt.Sprintf("node-%03d", i) }

func loadNodeOps(nodes int) api.TxnOps {
	var ops api.TxnOps
	for i := range nodes {
		ops = append(ops, &api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{
			ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), Node: loadNodeName(i), Address: fmt.Sprintf("10.0.%d.%d", i>>8, i&0xff),
		}}})
	}
	return ops
}

// loadTxn applies operations in as many transactions as Consul's limit of 64 asks for.
func loadTxn(ctx context.Context, client *api.Client, ops api.TxnOps) error {
	for len(ops) > 0 {
		n := min(len(ops), 64)
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		ok, response, _, err := client.Txn().Txn(ops[:n], (&api.QueryOptions{}).WithContext(ctx))
		cancel()
		if err != nil {
			return fmt.Errorf("load consul: %w", err)
		}
		if !ok {
			return fmt.Errorf("load consul: transaction refused: %v", response.Errors)
		}
		ops = ops[n:]
	}
	return nil
}
