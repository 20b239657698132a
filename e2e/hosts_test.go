package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// meshHost is a mesh-proxy that announces one instance of a service by gossip, as a host does.
type meshHost struct {
	proxy    *process
	admin    string
	outbound string
}

func startHost(t testing.TB, p parts, id, controlGossip, service, version string) meshHost {
	t.Helper()
	return startHostAt(t, p, id, "127.0.0.1", controlGossip, service, version)
}

// startHostAt starts a host with a loopback address of its own: what it announces is there, and so is the host.
func startHostAt(t testing.TB, p parts, id, addr, controlGossip, service, version string) meshHost {
	t.Helper()
	port := testbed.FreePort(t)
	h := meshHost{admin: fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t)), outbound: fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t))}
	start(t, service+" "+version, bin(t, "mesh"), "demo", service, "--version", version, "--listen", fmt.Sprintf("%s:%d", addr, port))
	dir := filepath.Join(p.dir, id)
	writeFile(t, filepath.Join(dir, "services.d", service+".yaml"), fmt.Sprintf(
		"service: %s\naddress: %s\nport: %d\nprotocol: http\nlabels: {version: %s}\ncheck: {http: /healthz, interval: 500ms}\n", service, addr, port, version))
	file := filepath.Join(dir, "proxy.yaml")
	writeFile(t, file, fmt.Sprintf("node: {id: %s}\ncontrol: %s\nadmin: %s\noutbound: %s\nservices: %s/services.d\nstate: %s/state\nadminSocket: %s/admin.sock\ngossip: {bind: \"%s:%d\", join: [%q]}\n",
		id, p.xds, h.admin, h.outbound, dir, dir, dir, addr, testbed.FreePort(t), controlGossip))
	h.proxy = start(t, "mesh-proxy "+id, bin(t, "mesh-proxy"), "--config", file)
	return h
}

func TestFaultHostKilled(t *testing.T) {
	gossip := fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t))
	p := newParts(t, fmt.Sprintf("  - name: hosts\n    gossip: {bind: %q, settle: 1s, reap: 5s}\n", gossip))
	p.startControl(t)
	caller := startHost(t, p, "h1", gossip, "caller", "v1")
	startHost(t, p, "h2", gossip, "stock", "v2")
	killed := startHost(t, p, "h3", gossip, "stock", "v3")
	startHost(t, p, "h4", gossip, "other", "v4") // so that one dead host is less than a third of them
	health := func() (map[string]registry.Health, error) {
		var endpoints controlplane.Endpoints
		err := fetchJSON(p.api, "/api/v1/endpoints?service=stock", &endpoints)
		all := map[string]registry.Health{}
		for _, e := range endpoints.Endpoints {
			all[e.Host] = e.Health
		}
		return all, err
	}
	eventually(t, 30*time.Second, "both hosts serve stock", func() error {
		all, err := health()
		if err == nil && (all["h2"] != registry.Healthy || all["h3"] != registry.Healthy) {
			return fmt.Errorf("health %v", all)
		}
		if err == nil {
			_, err = fetch(caller.outbound, "stock.mesh.internal", "/")
		}
		return err
	})
	traffic := startLoad(t, caller.outbound, "stock.mesh.internal", faultRate)
	began := time.Now()
	killed.proxy.kill() // the host's announcer dies; its instance still runs, so no request need fail
	eventually(t, 30*time.Second, "the dead host's endpoint is unhealthy", func() error {
		all, err := health()
		if err == nil && all["h3"] != registry.Unhealthy {
			return fmt.Errorf("health %v", all)
		}
		return err
	})
	t.Logf("the death of a host among 4 was seen after %s", time.Since(began).Round(10*time.Millisecond))
	eventually(t, 30*time.Second, "the dead host's endpoint is gone", func() error {
		all, err := health()
		if _, there := all["h3"]; err == nil && there {
			return errors.New("it is there")
		}
		return err
	})
	if all, err := health(); err != nil || all["h2"] != registry.Healthy {
		t.Errorf("the living host: %v, %v", all, err)
	}
	traffic.finish()
}

// TestFaultHostOfOthersEndpointsKilled: Consul knows endpoints at three mesh hosts and checks none. One of the hosts dies,
// of another only the proxy. What does not answer a connect check is unhealthy, what does stays; no request fails.
func TestFaultHostOfOthersEndpointsKilled(t *testing.T) {
	consul := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	gossip := fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t))
	p := newParts(t, fmt.Sprintf("  - {name: dc1, consul: {address: %q}}\n  - name: hosts\n    gossip: {bind: %q, settle: 1s, reap: 12s}\n", consul.Address, gossip))
	p.startControl(t)
	var hosts [6]meshHost // so that two are no more than a third
	for i := range hosts {
		hosts[i] = startHostAt(t, p, fmt.Sprintf("h%d", i), fmt.Sprintf("127.0.0.%d", 10+i), gossip, "local", "v1")
	}
	var at [3]netip.AddrPort
	var processes [3]*process
	run := func(i int) {
		processes[i] = start(t, fmt.Sprint("orders h", i), bin(t, "mesh"), "demo", "orders", "--version", fmt.Sprint("h", i), "--listen", at[i].String())
	}
	for i := range at {
		at[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(10 + i)}), uint16(testbed.FreePort(t)))
		run(i)
		register(t, consul.Client(), "orders", fmt.Sprint("orders-", i), at[i])
	}
	await := func(what string, want ...registry.Health) {
		t.Helper()
		eventually(t, 30*time.Second, what, func() error {
			all, err := p.endpoints("orders")
			for i, a := range at {
				e, ok := all[a.String()]
				if err == nil && (!ok || e.Health != want[i] || (e.Unreachable != nil) != (want[i] == registry.Unhealthy)) {
					return fmt.Errorf("%s: %+v", a, e)
				}
			}
			return err
		})
	}
	answers := func(version string, load *load) {
		t.Helper()
		before := load.answered("orders " + version)
		eventually(t, 30*time.Second, version+" answers", func() error {
			if load.answered("orders "+version) < before+20 {
				return errors.New("too few answers yet")
			}
			return nil
		})
	}
	const unknown, unhealthy = registry.Unknown, registry.Unhealthy
	await("Consul's endpoints are known", unknown, unknown, unknown)
	locals := func(want int) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprint(want, " hosts announce"), func() error {
			all, err := p.endpoints("local")
			if err == nil && len(all) != want {
				return fmt.Errorf("%d do", len(all))
			}
			return err
		})
	}
	locals(len(hosts))
	eventually(t, 30*time.Second, "orders is served", func() error {
		_, err := fetch(hosts[0].outbound, "orders.mesh.internal", "/")
		return err
	})
	traffic := startLoad(t, hosts[0].outbound, "orders.mesh.internal", faultRate)
	answers("h1", traffic)

	began := time.Now()
	hosts[1].proxy.kill()
	processes[1].kill()
	hosts[2].proxy.kill()
	await("the endpoint at the dead host is unhealthy, the other is not", unknown, unhealthy, unknown)
	t.Logf("known after %s", time.Since(began).Round(10*time.Millisecond))
	out := p.mesh(t, "get", "endpoints", "orders")
	t.Logf("\n%s", out)
	for _, want := range []string{"unhealthy (unreachable)", ": host h1 died: ", at[1].String() + ": connect: connection refused"} {
		if strings.Count(out, want) != 1 {
			t.Errorf("mesh get endpoints does not say %q once:\n%s", want, out)
		}
	}
	answers("h2", traffic)

	// The dead hosts are forgotten, later than the guard's window: else that they leave would be doubted. It makes nothing well.
	locals(len(hosts) - 2)
	time.Sleep(outage(3*time.Second, time.Minute))
	await("it stays unhealthy", unknown, unhealthy, unknown)
	run(1)
	await("what takes connections is served", unknown, unknown, unknown)
	answers("h1", traffic)
	traffic.finish()
}
