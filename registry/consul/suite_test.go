package consul_test

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

// TestSuite runs the suite of all adapters: with a query for each service over HTTPS, and with the bounded re-reads
// that plain HTTP asks for (eight connections are too few for a query each as soon as there is a service).
func TestSuite(t *testing.T) {
	for name, mode := range map[string]testbed.ConsulMode{"https": testbed.ConsulTLS, "http": testbed.ConsulACL} {
		t.Run(name, func(t *testing.T) {
			server := testbed.StartConsul(t, testbed.ConsulOptions{Mode: mode, ACL: true, Persist: true})[0]
			number := 0
			registrytest.Run(t, registrytest.Harness{
				New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
					number++
					token := newToken(t, server.Client(), fmt.Sprintf("suite-%d", number), minimalRules)
					r, err := consul.New(consul.Config{
						Address: server.Address, CAFile: server.Certs.CAFile, TokenFile: tokenFile(t, token.SecretID),
						MaxConnections: map[string]int{"https": 0, "http": 8}[name], WaitTime: time.Second,
					}, nil)
					if err != nil {
						t.Fatal(err)
					}
					d := &driver{client: server.Client(), put: make(map[string]map[string]bool)}
					t.Cleanup(func() {
						for service := range d.put {
							d.delete(t, registry.Name{Name: service})
						}
					})
					return r, registrytest.Driver{
						Put: d.putService, Delete: d.delete, SetHealth: d.setHealth,
						Down:  func(*testing.T) { server.Kill() },
						Up:    func(*testing.T) { server.Start(); server.AwaitLeader() },
						Deny:  func(t *testing.T) { setRules(t, server.Client(), token, `service_prefix "" { policy = "read" }`) },
						Allow: func(t *testing.T) { setRules(t, server.Client(), token, minimalRules) },
					}
				},
				Settle: 20 * time.Second,
			})
		})
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

// driver registers what the suite asks for, each endpoint with a check, on one node.
type driver struct {
	client *api.Client
	put    map[string]map[string]bool // by service: the IDs that are registered
}

const suiteNode = "suite-node"

func (d *driver) putService(t *testing.T, s *registry.Service) {
	t.Helper()
	ids := make(map[string]bool)
	for _, e := range s.Endpoints {
		id := s.Name.Name + "-" + e.Addr.String()
		ids[id] = true
		meta := maps.Clone(e.Labels)
		if meta == nil {
			meta = make(map[string]string)
		}
		meta["protocol"] = string(s.Ports[0].Protocol)
		d.register(t, &api.AgentService{
			ID: id, Service: s.Name.Name, Address: e.Addr.String(), Port: int(e.Ports[0].Number), Meta: meta,
			Weights: api.AgentWeights{Passing: int(e.Weight), Warning: 1},
		}, api.HealthPassing)
	}
	for id := range d.put[s.Name.Name] {
		if !ids[id] {
			d.deregister(t, id)
		}
	}
	d.put[s.Name.Name] = ids
}

func (d *driver) register(t *testing.T, s *api.AgentService, status string) {
	t.Helper()
	_, err := d.client.Catalog().Register(&api.CatalogRegistration{
		Node: suiteNode, Address: "127.20.0.1", Service: s,
		Check: &api.AgentCheck{Node: suiteNode, CheckID: "check:" + s.ID, Name: "suite", Status: status, ServiceID: s.ID},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

func (d *driver) deregister(t *testing.T, id string) {
	t.Helper()
	if _, err := d.client.Catalog().Deregister(&api.CatalogDeregistration{Node: suiteNode, ServiceID: id}, nil); err != nil {
		t.Fatal(err)
	}
}

func (d *driver) delete(t *testing.T, name registry.Name) {
	t.Helper()
	for _, id := range slices.Sorted(maps.Keys(d.put[name.Name])) {
		d.deregister(t, id)
	}
	delete(d.put, name.Name)
}

func (d *driver) setHealth(t *testing.T, name registry.Name, addr netip.Addr, health registry.Health) {
	t.Helper()
	status := map[registry.Health]string{registry.Healthy: api.HealthPassing, registry.Unhealthy: api.HealthCritical}[health]
	id := name.Name + "-" + addr.String()
	_, err := d.client.Catalog().Register(&api.CatalogRegistration{
		Node: suiteNode, Address: "127.20.0.1", SkipNodeUpdate: true,
		Check: &api.AgentCheck{Node: suiteNode, CheckID: "check:" + id, Name: "suite", Status: status, ServiceID: id},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}
