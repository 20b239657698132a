package consul_test

import (
	"fmt"
	"hash/crc32"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

// TestSuite runs the suite of all adapters: with a query for each service over HTTPS, with the bounded re-reads that
// plain HTTP asks for (eight connections are too few for a query each as soon as there is a service), and on a cluster.
func TestSuite(t *testing.T) {
	for name, mode := range map[string]testbed.ConsulMode{"https": testbed.ConsulTLS, "http": testbed.ConsulACL, "cluster": testbed.ConsulCluster} {
		t.Run(name, func(t *testing.T) {
			cluster := testbed.StartConsul(t, testbed.ConsulOptions{Mode: mode, ACL: true, Persist: true})
			s := &suite{cluster: cluster, connections: map[string]int{"http": 8}[name]}
			if name != "https" { // there pings tell that the server hangs
				s.wait = time.Second
			}
			h := registrytest.Harness{New: s.start, Settle: 20 * time.Second, Cannot: map[registrytest.Case]string{}, Parallel: 4}
			if len(cluster) == 1 {
				h.Cannot[registrytest.LeaderKilled] = "a single server is always its own leader; the cluster has it"
			}
			if name != "https" {
				h.Cannot[registrytest.Garbage] = "plain HTTP has no checksum: an address with a flipped bit is another address (TestNonsense has what can be seen)"
				h.Services = 100 // as README.md says, thousands are for HTTPS
			}
			registrytest.Run(t, h)
		})
	}
}

// suite is one kind of Consul that the cases share.
type suite struct {
	cluster     []*testbed.Consul
	connections int
	wait        time.Duration
	cases       int
}

// start makes the Registry and the Driver of one case. The adapter reads the first server, over a link that can fail.
func (s *suite) start(t *testing.T) (registry.Registry, registrytest.Driver) {
	s.cases++
	server := s.cluster[0]
	scheme, address, _ := strings.Cut(server.Address, "://")
	link := testbed.NewLink(t, address)
	token := newToken(t, server.Client(), fmt.Sprintf("suite-%d", s.cases), minimalRules)
	r, err := consul.New(consul.Config{
		Address: scheme + "://" + link.Address, CAFile: server.Certs.CAFile, TokenFile: tokenFile(t, token.SecretID),
		MaxConnections: s.connections, WaitTime: s.wait,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{client: server.Client(), put: make(map[string]map[string]bool), nodes: make(map[int]bool)}
	t.Cleanup(func() { d.clean(t) })
	return r, registrytest.Driver{
		Put: d.putService, PutAll: d.putAll, Delete: d.delete, SetHealth: d.setHealth,
		Down:   func(*testing.T) { server.Kill() },
		Up:     func(*testing.T) { server.Start(); s.ready(t) },
		Deny:   func(t *testing.T) { setRules(t, server.Client(), token, `service_prefix "" { policy = "read" }`) },
		Allow:  func(t *testing.T) { setRules(t, server.Client(), token, minimalRules) },
		Faults: s.faults(t, link),
	}
}

// ready waits until the first server answers for the whole cluster.
func (s *suite) ready(t *testing.T) {
	t.Helper()
	s.cluster[0].AwaitLeader()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, _, err := s.cluster[0].Client().Catalog().Services(&api.QueryOptions{RequireConsistent: true})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// minimalRules is the policy that README.md gives.
const minimalRules = `
service_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
`

// newToken makes a token with a policy of its own.
func newToken(t *testing.T, client *api.Client, name, rules string) *api.ACLToken {
	t.Helper()
	policy, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// setRules changes the policy that newToken made.
func setRules(t *testing.T, client *api.Client, token *api.ACLToken, rules string) {
	t.Helper()
	link := token.Policies[0]
	if _, _, err := client.ACL().PolicyUpdate(&api.ACLPolicy{ID: link.ID, Name: link.Name, Rules: rules}, nil); err != nil {
		t.Fatal(err)
	}
}

func tokenFile(t *testing.T, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// driver registers what the suite asks for, each endpoint with a check, all of a service on one of a few nodes.
type driver struct {
	client *api.Client

	mu    sync.Mutex
	put   map[string]map[string]bool // guarded by mu; by service: the IDs that are registered
	nodes map[int]bool               // guarded by mu: that were registered
}

// suiteNodes is enough for 10,000 services to be as few on each as on a site's hosts: Consul walks a node's checks for
// each of its instances.
const suiteNodes = 1000

// nodeOf returns the number of the node on which a service is.
func nodeOf(service string) int { return int(crc32.ChecksumIEEE([]byte(service)) % suiteNodes) }

func nodeName(number int) string { return fmt.Sprintf("suite-node-%d", number) }

// nodeOp makes sure that a node is there.
func nodeOp(number int) *api.TxnOp {
	return &api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{
		ID: fmt.Sprintf("00000000-0000-4000-8000-%012d", number+1), Node: nodeName(number), Address: "127.20.0.1",
	}}}
}

// putService changes the service in one transaction.
func (d *driver) putService(t *testing.T, s *registry.Service) {
	t.Helper()
	ops, ids := registration(s)
	d.mu.Lock()
	for id := range d.put[s.Name.Name] {
		if !ids[id] {
			ops = append(ops, deregistration(s.Name.Name, id))
		}
	}
	d.put[s.Name.Name] = ids
	d.mu.Unlock()
	d.apply(t, s.Name.Name, ops)
}

// registration returns what makes the service, and the IDs of its instances.
func registration(s *registry.Service) (ops api.TxnOps, ids map[string]bool) {
	ids = make(map[string]bool)
	for _, e := range s.Endpoints {
		id := s.Name.Name + "-" + e.Addr.String()
		ids[id] = true
		meta := maps.Clone(e.Labels)
		if meta == nil {
			meta = make(map[string]string)
		}
		meta["protocol"] = string(s.Ports[0].Protocol)
		ops = append(ops,
			&api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: nodeName(nodeOf(s.Name.Name)), Service: api.AgentService{
				ID: id, Service: s.Name.Name, Address: e.Addr.String(), Port: int(e.Ports[0].Number), Meta: meta,
				Weights: api.AgentWeights{Passing: int(e.Weight), Warning: 1},
			}}},
			checkOp(s.Name.Name, id, api.HealthPassing))
	}
	return ops, ids
}

func deregistration(service, id string) *api.TxnOp {
	return &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceDelete, Node: nodeName(nodeOf(service)), Service: api.AgentService{ID: id, Service: service}}}
}

func checkOp(service, id, status string) *api.TxnOp {
	return &api.TxnOp{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{
		Node: nodeName(nodeOf(service)), CheckID: "check:" + id, Name: "suite", Status: status, ServiceID: id, ServiceName: service,
	}}}
}

// apply runs the operations about one service in as few transactions as Consul allows, with its node.
func (d *driver) apply(t *testing.T, service string, ops api.TxnOps) {
	t.Helper()
	d.mu.Lock()
	d.nodes[nodeOf(service)] = true
	d.mu.Unlock()
	for part := range slices.Chunk(ops, 62) { // an instance and its check together
		d.transact(t, append(api.TxnOps{nodeOp(nodeOf(service))}, part...))
	}
}

// transact tries until there is a leader: right after an election writes may still fail. All of it may be repeated.
func (d *driver) transact(t *testing.T, ops api.TxnOps) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ok, response, _, err := d.client.Txn().Txn(ops, nil)
		switch {
		case err == nil && ok:
			return
		case err == nil:
			t.Errorf("transaction refused: %v", response.Errors[0])
			return
		case time.Now().After(deadline):
			t.Error(err)
			return
		}
	}
}

// putAll fills the catalog, several transactions at a time.
func (d *driver) putAll(t *testing.T, services []*registry.Service) {
	t.Helper()
	var all api.TxnOps
	for _, s := range services {
		ops, ids := registration(s)
		d.put[s.Name.Name] = ids
		d.nodes[nodeOf(s.Name.Name)] = true
		all = append(all, ops...)
	}
	for number := range d.nodes {
		d.transact(t, api.TxnOps{nodeOp(number)})
	}
	var group errgroup.Group
	group.SetLimit(4)
	for part := range slices.Chunk(all, 62) { // an instance and its check together
		group.Go(func() error { d.transact(t, part); return nil })
	}
	_ = group.Wait()
}

func (d *driver) delete(t *testing.T, name registry.Name) {
	t.Helper()
	d.mu.Lock()
	var ops api.TxnOps
	for id := range d.put[name.Name] {
		ops = append(ops, deregistration(name.Name, id))
	}
	delete(d.put, name.Name)
	d.mu.Unlock()
	d.apply(t, name.Name, ops)
}

// clean leaves nothing of the case.
func (d *driver) clean(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for number := range d.nodes {
		if _, err := d.client.Catalog().Deregister(&api.CatalogDeregistration{Node: nodeName(number)}, nil); err != nil {
			t.Error(err)
		}
	}
}

func (d *driver) setHealth(t *testing.T, name registry.Name, addr netip.Addr, health registry.Health) {
	t.Helper()
	status := map[registry.Health]string{registry.Healthy: api.HealthPassing, registry.Unhealthy: api.HealthCritical}[health]
	id := name.Name + "-" + addr.String()
	d.apply(t, name.Name, api.TxnOps{checkOp(name.Name, id, status)})
}
