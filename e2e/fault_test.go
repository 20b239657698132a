package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

const faultRate = 500 // requests a second under which every fault is injected

// neverEmpty watches that the control plane, whenever it answers, and the proxy, always, know endpoints of a service.
type neverEmpty struct {
	t       testing.TB
	stop    chan struct{}
	once    sync.Once
	watched sync.WaitGroup
}

func watchNeverEmpty(t testing.TB, m *mesh, service string) *neverEmpty {
	t.Helper()
	w := &neverEmpty{t: t, stop: make(chan struct{})}
	cluster := regexp.MustCompile(`\|\|` + service + `\.default\.mesh\.internal::[0-9]`) // the address of an endpoint
	w.watched.Go(func() {
		looked := 0
		for {
			select {
			case <-w.stop:
				if looked == 0 {
					t.Error("the watch on empty routes never looked")
				}
				return
			case <-time.After(50 * time.Millisecond):
			}
			clusters, err := fetch(m.admin, "", "/clusters")
			if err != nil {
				t.Errorf("the proxy's admin does not answer: %v", err)
				continue
			}
			looked++
			if !cluster.MatchString(clusters) {
				t.Errorf("the proxy's cluster of %s is empty:\n%s", service, clusters)
				return
			}
			var endpoints controlplane.Endpoints
			if err := fetchJSON(m.api, "/api/v1/endpoints?service="+service, &endpoints); err == nil && len(endpoints.Endpoints) == 0 {
				t.Errorf("the control plane answers that %s has no endpoints", service)
				return
			}
		}
	})
	t.Cleanup(w.finish)
	return w
}

// finish ends the watch; it may be called again.
func (w *neverEmpty) finish() {
	w.once.Do(func() { close(w.stop) })
	w.watched.Wait()
}

func TestFaultDemoInstanceKilledPort80(t *testing.T) {
	m := startMesh(t)
	traffic := startLoad(t, m.outbound, "web.mesh.internal", faultRate)
	watch := watchNeverEmpty(t, m, "web")
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		m.killChild(t, "demo web --version v1")
		before := traffic.answered("web v2")
		eventually(t, 20*time.Second, "the other instance answers", func() error {
			if traffic.answered("web v2") < before+faultRate/2 {
				return errors.New("too few answers yet")
			}
			return nil
		})
		back := traffic.answered("web v1")
		eventually(t, 30*time.Second, "the killed instance serves again", func() error {
			if traffic.answered("web v1") == back {
				return errors.New("no answer yet")
			}
			return nil
		})
	}
	watch.finish()
	traffic.finish()
}

func TestFaultControlPlaneKilledPort80(t *testing.T) {
	static := shortDir(t)
	m := startMesh(t, "--registry", "file="+static)
	traffic := startLoad(t, m.outbound, "web.mesh.internal", faultRate)
	watch := watchNeverEmpty(t, m, "web")
	for i := range 3 {
		before := controlPID(t, m)
		m.killChild(t, "mesh control")
		eventually(t, 30*time.Second, "the control plane is back and ready", func() error {
			if after, err := tryControlPID(m); err != nil || after == before {
				return fmt.Errorf("pid %s, %v", after, err)
			}
			_, err := fetch(m.api, "", "/readyz")
			return err
		})
		// The first change after the recovery.
		name := fmt.Sprintf("added-%d", i)
		addDemo(t, static, name)
		eventually(t, 20*time.Second, "the first change after the recovery arrives", func() error {
			_, err := fetch(m.outbound, name+".mesh.internal", "/")
			return err
		})
	}
	watch.finish()
	traffic.finish()
}

func controlPID(t testing.TB, m *mesh) string {
	t.Helper()
	return m.pid(t, "mesh control")
}

func tryControlPID(m *mesh) (string, error) {
	out, err := runQuiet("pgrep", "-P", fmt.Sprint(m.cmd.Process.Pid), "-f", "mesh control")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(out), nil
}

// parts are a control plane and a proxy started one by one, without mesh dev to start them again.
type parts struct {
	dir                         string
	controlFile, proxyFile, xds string
	api, dns, admin, outbound   string
}

func newParts(t testing.TB, registries string) parts {
	t.Helper()
	p := parts{dir: shortDir(t)}
	for _, addr := range []*string{&p.api, &p.dns, &p.admin, &p.outbound} {
		*addr = fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t))
	}
	p.xds = "unix:" + filepath.Join(p.dir, "xds.sock")
	p.controlFile, p.proxyFile = filepath.Join(p.dir, "control.yaml"), filepath.Join(p.dir, "proxy.yaml")
	writeFile(t, p.controlFile, fmt.Sprintf("state: %s/control\nlisten: {xds: [\"%s\"], http: \"%s\"}\ndns: {listen: [\"%s\"]}\nregistries:\n%s",
		p.dir, p.xds, p.api, p.dns, registries))
	writeFile(t, p.proxyFile, fmt.Sprintf("node: {id: test}\ncontrol: %s\nadmin: %s\noutbound: %s\nstate: %s/proxy\n", p.xds, p.admin, p.outbound, p.dir))
	for _, dir := range []string{"control", "proxy"} {
		if err := os.Mkdir(filepath.Join(p.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// newOrders are parts with a running service orders, and the directory of the file registry that knows it.
func newOrders(t testing.TB) (p parts, static string) {
	t.Helper()
	static = shortDir(t)
	p = newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	addDemo(t, static, "orders")
	return p, static
}

// addDemo starts a demo process and names it in a file of static.d.
func addDemo(t testing.TB, static, service string) {
	t.Helper()
	port := testbed.FreePort(t)
	start(t, service, bin(t, "mesh"), "demo", service, "--listen", fmt.Sprintf("127.0.0.1:%d", port))
	writeFile(t, filepath.Join(static, service+".yaml"),
		fmt.Sprintf("service: %s\nport: %d\nprotocol: http\nendpoints: [{address: 127.0.0.1}]\n", service, port))
}

func (p parts) startControl(t testing.TB) *process {
	t.Helper()
	return start(t, "mesh control", bin(t, "mesh"), "control", "--config", p.controlFile)
}

func (p parts) startProxy(t testing.TB) *process {
	t.Helper()
	return start(t, "mesh-proxy", bin(t, "mesh-proxy"), "--config", p.proxyFile)
}

func (p parts) eventuallyAnswers(t testing.TB, host, want string) {
	t.Helper()
	eventually(t, 30*time.Second, host+" answers through the proxy", func() error {
		body, err := fetch(p.outbound, host, "/")
		if err == nil && body != want {
			return fmt.Errorf("got %q", body)
		}
		return err
	})
}

func TestFaultProxyRestartsWithoutControlPlane(t *testing.T) {
	p, static := newOrders(t)
	control, proxy := p.startControl(t), p.startProxy(t)
	p.eventuallyAnswers(t, "orders.mesh.internal", "orders v1\n")
	eventually(t, 20*time.Second, "the proxy has sealed its configuration", func() error { return anyFile(filepath.Join(p.dir, "proxy")) })
	control.kill()
	for _, end := range []func(){func() { proxy.kill() }, func() { proxy.stop(20 * time.Second) }} {
		end()
		proxy = p.startProxy(t)
		p.eventuallyAnswers(t, "orders.mesh.internal", "orders v1\n")
	}
	// And it takes the first change when the control plane is back.
	p.startControl(t)
	addDemo(t, static, "second")
	p.eventuallyAnswers(t, "second.mesh.internal", "second v1\n")
}

func anyFile(dir string) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) == 0 {
		return errors.New("no file in " + dir)
	}
	return err
}

func TestFaultTornSealedFilesAreRefusedAndNamed(t *testing.T) {
	p, _ := newOrders(t)
	control, proxy := p.startControl(t), p.startProxy(t)
	p.eventuallyAnswers(t, "orders.mesh.internal", "orders v1\n")
	proxy.stop(20 * time.Second)
	control.stop(20 * time.Second)
	torn := 0
	for _, dir := range []string{"control", "proxy"} {
		entries, err := os.ReadDir(filepath.Join(p.dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(p.dir, dir, e.Name())
			if info, err := e.Info(); err != nil || !info.Mode().IsRegular() || info.Size() < 2 {
				continue
			}
			if err := os.Truncate(path, 1); err != nil {
				t.Fatal(err)
			}
			torn++
		}
	}
	if torn < 2 {
		t.Fatalf("%d sealed files, want one of each side at least", torn)
	}
	control, proxy = p.startControl(t), p.startProxy(t)
	p.eventuallyAnswers(t, "orders.mesh.internal", "orders v1\n")
	for _, process := range []*process{control, proxy} {
		if !strings.Contains(process.text(), "refused") {
			t.Errorf("%s does not say that it refused its torn file:\n%s", process.name, process.text())
		}
	}
}
