package testbed_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

func TestBuildUnknown(t *testing.T) {
	if path, err := testbed.Build(context.Background(), "nosuch"); err == nil {
		t.Fatalf("got %s, want an error", path)
	}
}

func TestConsulModes(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]testbed.ConsulOptions{
		"dev":     {},
		"acl":     {Mode: testbed.ConsulACL},
		"tls":     {Mode: testbed.ConsulTLS},
		"tls-acl": {Mode: testbed.ConsulTLS, ACL: true, VerifyIncoming: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			consul := testbed.StartConsul(t, opts)[0]
			if err := testbed.LoadConsul(t.Context(), consul.Client(), 3, 2); err != nil {
				t.Fatal(err)
			}
			entries, _, err := consul.Client().Health().Service(testbed.LoadedServiceName(2), "", true, nil)
			if err != nil || len(entries) != 2 {
				t.Fatalf("got %d endpoints, %v, want 2", len(entries), err)
			}
			if opts.ACL || opts.Mode == testbed.ConsulACL {
				config := &api.Config{Address: consul.Address, TLSConfig: api.TLSConfig{
					CAFile: consul.Certs.CAFile, CertFile: consul.Certs.ClientCertFile, KeyFile: consul.Certs.ClientKeyFile,
				}}
				anonymous, err := api.NewClient(config)
				if err != nil {
					t.Fatal(err)
				}
				if services, _, err := anonymous.Catalog().Services(nil); err != nil || len(services) != 0 {
					t.Fatalf("anonymous sees %v, %v, want nothing", services, err)
				}
			}
			if opts.VerifyIncoming {
				if resp, err := http.Get(consul.Address + "/v1/status/leader"); err == nil {
					resp.Body.Close()
					t.Fatal("a client without a certificate was let in")
				}
			}
		})
	}
}

func TestConsulClusterSurvivesItsLeaderAndKeepsData(t *testing.T) {
	t.Parallel()
	servers := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulCluster})
	if err := testbed.LoadConsul(t.Context(), servers[0].Client(), 1, 1); err != nil {
		t.Fatal(err)
	}
	var leader, follower *testbed.Consul
	for _, s := range servers {
		if s.IsLeader() {
			leader = s
		} else {
			follower = s
		}
	}
	if leader == nil {
		t.Fatal("no server leads")
	}
	leader.Kill()
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, _, err := follower.Client().Catalog().Services(&api.QueryOptions{RequireConsistent: true})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, s := range servers {
		s.Kill()
	}
	for _, s := range servers {
		s.Start()
	}
	for _, s := range servers {
		s.AwaitLeader()
	}
	// Consistent: when all that was committed before is applied again.
	entries, _, err := servers[0].Client().Health().Service(testbed.LoadedServiceName(0), "", true, &api.QueryOptions{RequireConsistent: true})
	if err != nil || len(entries) != 1 {
		t.Fatalf("after the restart: %d endpoints, %v, want 1", len(entries), err)
	}
}

func TestConsulPause(t *testing.T) {
	t.Parallel()
	consul := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	consul.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := consul.Client().Catalog().Services((&api.QueryOptions{}).WithContext(ctx)); err == nil {
		t.Fatal("a paused server answered")
	}
	consul.Continue()
	consul.AwaitLeader()
}
