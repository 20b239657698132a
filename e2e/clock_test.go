package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestFaultClockJumpsZooKeeperNamespace jumps the wall clock of mesh control, as a VM that is resumed or a first answer
// of NTP does, and breaks all its connections then, as the former does too. It shows that no registry's endpoints are
// lost and that the next change arrives. The program is built with a package time that adds what a file says; its
// monotonic clock goes on as it is, like the kernel's. The jumps stay within the time that the certificates are valid.
func TestFaultClockJumpsZooKeeperNamespace(t *testing.T) {
	if testbed.InNamespace(t, "10.77.0.1") {
		return
	}
	program, jump := buildWithClock(t), filepath.Join(shortDir(t), "jump")
	s := startSite(t)
	s.inConsul(t, "search", "1", demoAt(t, "search", "v1", "10.77.0.1"))
	s.inEtcd(t, "billing", "1", demoAt(t, "billing", "v1", "10.77.0.1"))
	s.inZooKeeper(t, "audit", "1", demoAt(t, "audit", "v1", "10.77.0.1"))
	s.inKubernetes(t, "stock", demoAt(t, "stock", "v1", "10.77.0.1"))
	registries, links := s.linked(t)
	p := newParts(t, registries)
	t.Setenv("CLOCK_JUMP_FILE", jump)
	control := start(t, "mesh control", program, "control", "--config", p.controlFile)
	p.startProxy(t)
	services := []string{"search", "billing", "audit", "stock"}
	for _, service := range services {
		p.eventuallyAnswers(t, service+".mesh.internal", service+" v1\n")
	}
	var watches []*neverEmpty
	for _, service := range services {
		watches = append(watches, watchNeverEmpty(t, &mesh{process: control, admin: p.admin, api: p.api}, service))
	}
	traffic := startLoad(t, p.outbound, "audit.mesh.internal", 100)
	last, err := p.number()
	if err != nil {
		t.Fatal(err)
	}
	for i, seconds := range []int{7200, -10800, 0, 30 * 24 * 3600} {
		writeFile(t, jump, fmt.Sprint(seconds))
		eventually(t, 10*time.Second, "the clock jumps", func() error {
			var answer struct{ Time time.Time }
			if err := fetchJSON(p.api, "/api/v1/registries", &answer); err != nil {
				return err
			}
			if off := answer.Time.Sub(time.Now().Add(time.Duration(seconds) * time.Second)).Abs(); off > time.Minute {
				return fmt.Errorf("the clock is off by %v", off)
			}
			return nil
		})
		time.Sleep(outage(2*time.Second, 30*time.Second)) // whatever the jump sets off
		for _, link := range links {
			link.Cut()
			link.Heal()
		}
		for registry, register := range map[string]func(service string){
			"dc1":    func(service string) { s.inConsul(t, service, "x", demoAt(t, service, "v1", "10.77.0.1")) },
			"core":   func(service string) { s.inEtcd(t, service, "x", demoAt(t, service, "v1", "10.77.0.1")) },
			"legacy": func(service string) { s.inZooKeeper(t, service, "x", demoAt(t, service, "v1", "10.77.0.1")) },
			"k8s":    func(service string) { s.inKubernetes(t, service, demoAt(t, service, "v1", "10.77.0.1")) },
		} {
			service := fmt.Sprintf("%s-%d", registry, i)
			register(service)
			p.eventuallyAnswers(t, service+".mesh.internal", service+" v1\n")
		}
		number, err := p.number()
		if err != nil || number <= last {
			t.Errorf("after a jump of %d s: number %d after %d, %v: want it to grow", seconds, number, last, err)
		}
		last = number
	}
	for _, w := range watches {
		w.finish()
	}
	traffic.finish()
}

// linked is registries with a link before each.
func (s *site) linked(t *testing.T) (registries string, links []*testbed.Link) {
	t.Helper()
	link := func(server string) string {
		l := testbed.NewLink(t, server)
		links = append(links, l)
		return l.Address
	}
	kubeconfig := s.kube.Kubeconfig(t, "https://"+link(strings.TrimPrefix(s.kube.Address, "https://")), s.kube.AdminToken)
	return fmt.Sprintf(`  - {name: dc1, consul: {address: %q}}
  - {name: core, etcd: {endpoints: [%q]}}
  - {name: legacy, zookeeper: {servers: [%q], layout: curator, root: /services}}
  - {name: k8s, kubernetes: {kubeconfig: %q}}
`, link(strings.TrimPrefix(s.consul.Address, "http://")), link(strings.TrimPrefix(s.etcd.Address, "http://")), link(s.zk.Address), kubeconfig), links
}

// number returns the number of the state that is served.
func (p parts) number() (uint64, error) {
	var answer struct{ Number uint64 }
	err := fetchJSON(p.api, "/api/v1/services", &answer)
	if err == nil && answer.Number == 0 {
		err = errors.New("no number")
	}
	return answer.Number, err
}

// buildWithClock builds mesh with a wall clock that is off by as many seconds as the file named by CLOCK_JUMP_FILE says.
func buildWithClock(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	goroot, err := runQuiet("go", "env", "GOROOT")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	original := filepath.Join(strings.TrimSpace(goroot), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), now) != 1 {
		t.Fatalf("%s has changed: this test knows where time.Now reads the clock", original)
	}
	replace := map[string]string{}
	plant := func(path, text string) {
		file := filepath.Join(dir, fmt.Sprint(len(replace))+".go")
		writeFile(t, file, text)
		replace[path] = file
	}
	plant(original, strings.Replace(string(source), now, now+"\tsec += Jump.Load()\n", 1))
	plant(filepath.Join(filepath.Dir(original), "jump.go"), "package time\n\nimport \"sync/atomic\"\n\nvar Jump atomic.Int64\n")
	plant(filepath.Join(root, "cmd", "mesh", "clockjump.go"), `package main

import (
	"os"
	"strconv"
	"time"
)

func init() {
	go func() {
		for ; ; time.Sleep(20 * time.Millisecond) {
			if text, err := os.ReadFile(os.Getenv("CLOCK_JUMP_FILE")); err == nil {
				if seconds, err := strconv.ParseInt(string(text), 10, 64); err == nil {
					time.Jump.Store(seconds)
				}
			}
		}
	}()
}
`)
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "mesh")
	writeFile(t, file, string(overlay))
	build := exec.Command("go", "build", "-overlay", file, "-o", program, "./cmd/mesh")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}
