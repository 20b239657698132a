package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
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
	port := freePort(t)
	h := meshHost{admin: fmt.Sprintf("127.0.0.1:%d", freePort(t)), outbound: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	start(t, service+" "+version, bin(t, "mesh"), "demo", service, "--version", version, "--listen", fmt.Sprintf("127.0.0.1:%d", port))
	dir := filepath.Join(p.dir, id)
	writeFile(t, filepath.Join(dir, "services.d", service+".yaml"), fmt.Sprintf(
		"service: %s\nport: %d\nprotocol: http\nlabels: {version: %s}\ncheck: {http: /healthz, interval: 500ms}\n", service, port, version))
	file := filepath.Join(dir, "proxy.yaml")
	writeFile(t, file, fmt.Sprintf("node: {id: %s}\ncontrol: %s\nadmin: %s\noutbound: %s\nservices: %s/services.d\nstate: %s/state\nadminSocket: %s/admin.sock\ngossip: {bind: \"127.0.0.1:%d\", join: [%q]}\n",
		id, p.xds, h.admin, h.outbound, dir, dir, dir, freePort(t), controlGossip))
	h.proxy = start(t, "mesh-proxy "+id, bin(t, "mesh-proxy"), "--config", file)
	return h
}

func TestFaultHostKilled(t *testing.T) {
	gossip := fmt.Sprintf("127.0.0.1:%d", freePort(t))
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
