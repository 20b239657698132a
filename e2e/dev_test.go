package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
)

// mesh is a running mesh dev.
type mesh struct {
	*process
	dir                       string
	offset                    int
	api, dns, admin, outbound string
}

// startMesh runs mesh dev with ports of its own and waits until it says that it is ready.
func startMesh(t testing.TB, args ...string) *mesh {
	t.Helper()
	offset := freeOffset(t)
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port+offset) }
	m := &mesh{dir: shortDir(t), offset: offset, api: at(15014), dns: at(8053), admin: at(15000), outbound: at(15001)}
	argv := append([]string{bin(t, "mesh"), "dev", "--dir", m.dir, "--port-offset", fmt.Sprint(offset)}, args...)
	m.process = start(t, "mesh dev", argv...)
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(m.dir, "log", "*.log"))
			for _, log := range logs {
				out, _ := exec.Command("tail", "-n", "40", log).CombinedOutput()
				t.Logf("--- %s\n%s", filepath.Base(log), out)
			}
		}
	})
	eventually(t, 60*time.Second, "mesh dev is ready", func() error {
		if !m.running() {
			t.Fatalf("mesh dev ended:\n%s", m.text())
		}
		if !strings.Contains(m.text(), "The mesh is ready") {
			return fmt.Errorf("it has said %q", m.text())
		}
		return nil
	})
	return m
}

// freeOffset returns a number that moves every port of a mesh to a free one.
func freeOffset(t testing.TB) int {
	t.Helper()
	for offset := 1000; offset < 45000; offset += 97 {
		free := true
		for _, port := range []int{7946, 7947, 8053, 15000, 15001, 15010, 15014, 18081, 18082, 18083} {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+offset))
			if err != nil {
				free = false
				break
			}
			_ = l.Close()
		}
		if free {
			return offset
		}
	}
	t.Fatal("no free ports for a mesh")
	return 0
}

// pid finds the process that runs the named child of mesh dev.
func (m *mesh) pid(t testing.TB, pattern string) string {
	t.Helper()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(m.cmd.Process.Pid), "-f", pattern).Output()
	if err != nil {
		t.Fatalf("find the child %q: %v", pattern, err)
	}
	return strings.Fields(string(out))[0]
}

// killChild ends a child of mesh dev as a crash would; mesh dev starts it again.
func (m *mesh) killChild(t testing.TB, pattern string) {
	t.Helper()
	if out, err := exec.Command("kill", "-KILL", m.pid(t, pattern)).CombinedOutput(); err != nil {
		t.Fatalf("kill %q: %v: %s", pattern, err, out)
	}
}

func TestDevEveryPrintedLineIsTrueDigPort80(t *testing.T) {
	m := startMesh(t)
	lines := regexp.MustCompile(`(?m)^  ((?:dig|curl|/).*)$`).FindAllStringSubmatch(m.text(), -1)
	if len(lines) != 8 {
		t.Fatalf("mesh dev printed %d lines to try, want 8:\n%s", len(lines), m.text())
	}
	for _, line := range lines {
		t.Run(line[1], func(t *testing.T) {
			seen := map[string]bool{}
			for range 20 {
				out, err := exec.Command("sh", "-c", line[1]).Output()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if strings.TrimSpace(string(out)) == "" {
					t.Fatal("it printed nothing")
				}
				seen[strings.TrimSpace(string(out))] = true
				if !strings.HasPrefix(line[1], "curl") {
					break
				}
			}
			if !strings.HasPrefix(line[1], "curl") {
				return
			}
			for _, want := range []string{"web v1 ← api v1", "web v2 ← api v1"} {
				if !seen[want] {
					t.Errorf("no answer %q in %v", want, seen)
				}
			}
		})
	}
}

func TestDevShowsTheSameNumberEverywhereDig(t *testing.T) {
	m := startMesh(t)
	eventually(t, 10*time.Second, "SOA serial, xDS version and API agree", func() error {
		out, _ := run(t, "dig", "+short", "SOA", "mesh.internal", "@127.0.0.1", "-p", fmt.Sprint(8053+m.offset))
		fields := strings.Fields(out)
		if len(fields) < 3 {
			return fmt.Errorf("dig said %q", out)
		}
		var services controlplane.Services
		if err := fetchJSON(m.api, "/api/v1/services", &services); err != nil {
			return err
		}
		var proxies controlplane.Proxies
		if err := fetchJSON(m.api, "/api/v1/proxies", &proxies); err != nil {
			return err
		}
		metrics, err := fetch(m.api, "", "/metrics")
		if err != nil {
			return err
		}
		number := fmt.Sprint(services.Number)
		found := regexp.MustCompile(`(?m)^hostmesh_snapshot_number (\S+)$`).FindStringSubmatch(metrics)
		if fields[2] != number || len(found) != 2 || fmt.Sprint(parseFloat(t, found[1])) != number {
			return fmt.Errorf("SOA serial %s, API %s, metrics %v", fields[2], number, found)
		}
		return nil
	})
}

func TestDevWithoutDemoIsReadyPort80(t *testing.T) {
	m := startMesh(t, "--demo=false")
	var services controlplane.Services
	if err := fetchJSON(m.api, "/api/v1/services", &services); err != nil {
		t.Fatal(err)
	}
	if len(services.Services) != 0 {
		t.Errorf("services %v, want none", services.Services)
	}
	if _, err := fetch(m.outbound, "web.mesh.internal", "/"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown name: %v, want 404", err)
	}
}

func TestDevFileRegistryIsFollowedDig(t *testing.T) {
	dir := shortDir(t)
	m := startMesh(t, "--demo=false", "--registry", "file="+dir)
	addDemo(t, dir, "orders")
	eventually(t, 10*time.Second, "a new service is reachable", func() error {
		body, err := fetch(m.outbound, "orders.mesh.internal", "/")
		if err == nil && body != "orders v1\n" {
			return fmt.Errorf("got %q", body)
		}
		return err
	})
	out, _ := run(t, "dig", "+short", "orders.mesh.internal", "@127.0.0.1", "-p", fmt.Sprint(8053+m.offset))
	if _, err := netip.ParseAddr(strings.TrimSpace(out)); err != nil {
		t.Errorf("dig: %q", out)
	}
	writeFile(t, filepath.Join(dir, "orders.yaml"), "service: orders\nport: [\n")
	eventually(t, 10*time.Second, "a broken file is reported", func() error {
		body, err := fetch(m.api, "", "/api/v1/registries")
		if err == nil && !strings.Contains(body, "orders.yaml:") {
			return fmt.Errorf("registries: %s", body)
		}
		return err
	})
	if _, err := fetch(m.outbound, "orders.mesh.internal", "/"); err != nil {
		t.Errorf("after its file broke, the last good state is gone: %v", err)
	}
}
