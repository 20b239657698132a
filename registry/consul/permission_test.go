package consul_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
)

func loadedACL(t *testing.T, mode testbed.ConsulMode) *testbed.Consul {
	t.Helper()
	server := testbed.StartConsul(t, testbed.ConsulOptions{Mode: mode, ACL: true})[0]
	if err := testbed.LoadConsul(t.Context(), server.Client(), 3, 2); err != nil {
		t.Fatal(err)
	}
	return server
}

// configOf asks often, so that a test need not wait for the regular look at what no change tells.
func configOf(server *testbed.Consul) consul.Config {
	return consul.Config{Address: server.Address, CAFile: server.Certs.CAFile, WaitTime: time.Second}
}

// permissionError fails unless err is one that tells of permissions and shows no secret.
func permissionError(t *testing.T, err error, secrets ...string) {
	t.Helper()
	if !errors.Is(err, registry.ErrPermission) {
		t.Errorf("got %v, want one that wraps ErrPermission", err)
	}
	for _, s := range secrets {
		if strings.Contains(err.Error(), s) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

func TestCVEClass28_NoTokenUnderDenyIsNotEmpty(t *testing.T) {
	t.Parallel()
	server := loadedACL(t, testbed.ConsulACL)
	f := follow(t, configOf(server))
	permissionError(t, f.fails(t, "no token"))
	if f.published() {
		t.Error("a view was published")
	}
}

// TestCVEClass28_AnonymousThatMayRead gives the anonymous token what it needs, and takes it away again: Consul then answers 200
// with an empty list and hides that it was filtered.
func TestCVEClass28_AnonymousThatMayRead(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]testbed.ConsulMode{"https": testbed.ConsulTLS, "http": testbed.ConsulACL} {
		for taken, left := range map[string]string{
			"all":      `key "x" { policy = "read" }`,
			"nodes":    `service_prefix "" { policy = "read" }`,
			"services": `node_prefix "" { policy = "read" } service "consul" { policy = "read" }`,
		} {
			t.Run(name+" "+taken, func(t *testing.T) {
				t.Parallel()
				server := loadedACL(t, mode)
				client := server.Client()
				policy := grantAnonymous(t, client)
				f := follow(t, configOf(server))
				f.sees(t, "all services", hasEndpoints("svc-0002", 2))
				f.promise(hasEndpoints("svc-0002", 2))
				if _, _, err := client.ACL().PolicyUpdate(&api.ACLPolicy{ID: policy.ID, Name: "anonymous", Rules: left}, nil); err != nil {
					t.Fatal(err)
				}
				permissionError(t, f.fails(t, "the policy is taken away"))
			})
		}
	}
}

// grantAnonymous lets the anonymous token read all, and returns its policy.
func grantAnonymous(t *testing.T, client *api.Client) *api.ACLPolicy {
	t.Helper()
	policy, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: "anonymous", Rules: minimalRules}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.ACL().TokenUpdate(&api.ACLToken{
		AccessorID: "00000000-0000-0000-0000-000000000002",
		Policies:   []*api.ACLTokenPolicyLink{{ID: policy.ID}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	return policy
}

// TestCVEClass28_AnonymousIsAskedWhileServicesChange takes the right to read services that are not there yet, so that
// nothing is missing, while the list of services is never quiet.
func TestCVEClass28_AnonymousIsAskedWhileServicesChange(t *testing.T) {
	t.Parallel()
	server := loadedACL(t, testbed.ConsulTLS)
	client := server.Client()
	policy := grantAnonymous(t, client)
	f := follow(t, configOf(server))
	f.sees(t, "all services", hasEndpoints("svc-0002", 2))
	f.promise(hasEndpoints("svc-0002", 2))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			op := testbed.LoadedEndpoint(1, 0, 2)[:1]
			op[0].Service.Service.Meta["version"] = strconv.Itoa(i)
			if ok, _, _, err := client.Txn().Txn(op, nil); err != nil || !ok {
				t.Errorf("change a service: %v", err)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	left := `service_prefix "svc-" { policy = "read" } service "consul" { policy = "read" } node_prefix "" { policy = "read" }`
	if _, _, err := client.ACL().PolicyUpdate(&api.ACLPolicy{ID: policy.ID, Name: "anonymous", Rules: left}, nil); err != nil {
		t.Fatal(err)
	}
	permissionError(t, f.fails(t, "what is new may not be read any more"))
}

func TestCVEClass28_TokenForSomeServices(t *testing.T) {
	t.Parallel()
	const rules = `service "svc-0001" { policy = "read" } node_prefix "" { policy = "read" }`
	for name, mode := range map[string]testbed.ConsulMode{"https": testbed.ConsulTLS, "http": testbed.ConsulACL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := loadedACL(t, mode)
			token := newToken(t, server.Client(), "some", rules)
			cfg := configOf(server)
			cfg.TokenFile = tokenFile(t, token.SecretID)

			all := follow(t, cfg)
			permissionError(t, all.fails(t, "all services with a token for one"), token.SecretID)
			if all.published() {
				t.Error("a part was published as if it were all")
			}

			cfg.Services = []string{"svc-0001"}
			one := follow(t, cfg)
			one.sees(t, "the one service", func(v registry.View) bool { return len(v.Services) == 1 && hasEndpoints("svc-0001", 2)(v) })
			one.promise(hasEndpoints("svc-0001", 2))
			setRules(t, server.Client(), token, `service "svc-0001" { policy = "read" }`)
			permissionError(t, one.fails(t, "no node may be read any more"), token.SecretID)
			setRules(t, server.Client(), token, rules)
			if _, err := server.Client().Catalog().Deregister(&api.CatalogDeregistration{Node: "node-003", ServiceID: "svc-0001-1"}, nil); err != nil {
				t.Fatal(err)
			}
			one.promise(nil)
			one.sees(t, "the change after the permission is back", hasEndpoints("svc-0001", 1))
		})
	}
}

func TestCVEClass28_UnknownToken(t *testing.T) {
	t.Parallel()
	server := loadedACL(t, testbed.ConsulACL)
	cfg := configOf(server)
	const secret = "22222222-2222-2222-2222-222222222222"
	cfg.TokenFile = tokenFile(t, secret)
	permissionError(t, follow(t, cfg).fails(t, "an unknown token"), secret)
}

// TestTokenRotates renews the token in its file and deletes the old one, without a failure in between.
func TestTokenRotates(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]testbed.ConsulMode{"https": testbed.ConsulTLS, "http": testbed.ConsulACL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := loadedACL(t, mode)
			client := server.Client()
			old := newToken(t, client, "old", minimalRules)
			cfg := configOf(server)
			cfg.TokenFile = tokenFile(t, old.SecretID)
			f := follow(t, cfg)
			f.sees(t, "all services", hasEndpoints("svc-0001", 2))
			f.promise(func(v registry.View) bool { return len(v.Services) == 3 })
			fresh := newToken(t, client, "fresh", minimalRules)
			if err := os.WriteFile(cfg.TokenFile, []byte(fresh.SecretID), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := client.ACL().TokenDelete(old.AccessorID, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: "node-003", ServiceID: "svc-0001-1"}, nil); err != nil {
				t.Fatal(err)
			}
			f.sees(t, "a change with the new token", hasEndpoints("svc-0001", 1))
			time.Sleep(2500 * time.Millisecond) // the list of services has been asked for again by then
			if errs := f.errors(); len(errs) > 0 {
				t.Errorf("Watch failed: %v", errs)
			}
		})
	}
}
