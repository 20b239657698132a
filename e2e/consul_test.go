package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// instance starts one demo process and registers it in Consul as a service with a health check that Consul runs.
func instance(t testing.TB, client *api.Client, service, version string) {
	t.Helper()
	port := testbed.FreePort(t)
	start(t, service+" "+version, bin(t, "mesh"), "demo", service, "--version", version, "--listen", fmt.Sprintf("127.0.0.1:%d", port))
	registration := &api.CatalogRegistration{
		Node: "test-host", Address: "127.0.0.1",
		Service: &api.AgentService{ID: service + "-" + version, Service: service, Address: "127.0.0.1", Port: port, Meta: map[string]string{"protocol": "http"}},
		Check:   &api.AgentCheck{Node: "test-host", CheckID: service + "-" + version, Name: "up", Status: api.HealthPassing, ServiceID: service + "-" + version},
	}
	eventually(t, 30*time.Second, "Consul takes a registration", func() error { // a new leader takes a moment to take writes
		_, err := client.Catalog().Register(registration, nil)
		return err
	})
}

// cluster is three Consul servers and a mesh that reads one of those that do not lead.
func startClusterMesh(t testing.TB) ([]*testbed.Consul, *testbed.Consul, *mesh) {
	t.Helper()
	servers := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulCluster})
	follower := servers[0]
	if follower.IsLeader() {
		follower = servers[1]
	}
	for _, version := range []string{"v1", "v2"} {
		instance(t, follower.Client(), "shop", version)
	}
	m := startMesh(t, "--demo=false", "--registry", "consul="+follower.Address)
	eventually(t, 20*time.Second, "the service of Consul is reachable", func() error {
		_, err := fetch(m.outbound, "shop.mesh.internal", "/")
		return err
	})
	return servers, follower, m
}

// firstChangeArrives registers one more instance and waits for its first answer.
func firstChangeArrives(t testing.TB, client *api.Client, traffic *load, version string) {
	t.Helper()
	instance(t, client, "shop", version)
	eventually(t, 30*time.Second, "the first change after the recovery arrives", func() error {
		if traffic.answered("shop "+version) == 0 {
			return errors.New("no answer from it yet")
		}
		return nil
	})
}

func TestFaultConsulLeaderKilled(t *testing.T) {
	servers, follower, m := startClusterMesh(t)
	traffic := startLoad(t, m.outbound, "shop.mesh.internal", faultRate)
	watch := watchNeverEmpty(t, m, "shop")
	for _, server := range servers {
		if server != follower && server.IsLeader() {
			server.Kill()
			defer server.Start()
		}
	}
	follower.AwaitLeader()
	firstChangeArrives(t, follower.Client(), traffic, "v3")
	watch.finish()
	traffic.finish()
}

func TestFaultAllConsulServersStopped(t *testing.T) {
	servers, follower, m := startClusterMesh(t)
	traffic := startLoad(t, m.outbound, "shop.mesh.internal", faultRate)
	watch := watchNeverEmpty(t, m, "shop")
	for _, server := range servers {
		server.Stop()
	}
	eventually(t, 30*time.Second, "mesh get registries says so", func() error {
		out, code := run(t, bin(t, "mesh"), "get", "registries", "--server", m.api)
		if code != 0 || !strings.Contains(out, "stale") {
			return fmt.Errorf("exit code %d: %s", code, out)
		}
		return nil
	})
	time.Sleep(outage(6*time.Second, time.Minute))
	var endpoints controlplane.Endpoints
	if err := fetchJSON(m.api, "/api/v1/endpoints?service=shop", &endpoints); err != nil || len(endpoints.Endpoints) != 2 {
		t.Errorf("during the outage: %d endpoints, %v, want the 2 known", len(endpoints.Endpoints), err)
	}
	for _, server := range servers {
		server.Start()
	}
	follower.AwaitLeader()
	firstChangeArrives(t, follower.Client(), traffic, "v3")
	watch.finish()
	traffic.finish()
}

func TestFaultAllRegistriesAwayControlPlaneRestartedDig(t *testing.T) {
	consul := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulCluster})
	instance(t, consul[0].Client(), "shop", "v1")
	p := newParts(t, fmt.Sprintf("  - name: consul\n    consul: {address: \"%s\"}\n", consul[0].Address))
	control := p.startControl(t)
	answersDNS := func() error {
		host, port, _ := strings.Cut(p.dns, ":")
		out, _ := run(t, "dig", "+short", "shop.mesh.internal", "@"+host, "-p", port)
		if strings.TrimSpace(out) != "127.0.0.1" {
			return fmt.Errorf("dig said %q", out)
		}
		return nil
	}
	eventually(t, 30*time.Second, "DNS answers", answersDNS)
	for _, server := range consul {
		server.Stop()
	}
	control.stop(20 * time.Second)
	p.startControl(t)
	eventually(t, 30*time.Second, "DNS answers from the sealed view", answersDNS)
	p.startProxy(t) // a new proxy, without a seal of its own
	p.eventuallyAnswers(t, "shop.mesh.internal", "shop v1\n")
	if out, _ := run(t, bin(t, "mesh"), "get", "registries", "--server", p.api); !strings.Contains(out, "seal") {
		t.Errorf("mesh get registries does not say that the view is a sealed one:\n%s", out)
	}
}
