// Package registries measures each adapter against its real server, which holds 10,000 services of 10 endpoints: the time
// until the first complete view, the time from a change to the Snapshot that has it, and what a churn costs mesh control.
package registries

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

const (
	services  = 10_000
	endpoints = 10
	changes   = 300
	churnRate = 1000 // changes a second
)

// server is a loaded real server and the ways to it.
type server struct {
	registry registry.Registry
	section  string // of control.yaml
	// change marks an endpoint of each service with a number, in one transaction where the server has them; it returns
	// when the server has taken it. It may be called from several goroutines for different services.
	change  func(ctx context.Context, marks map[int]int) error
	witness *witness // of the server's event; nil: that it has taken a change counts as such, which is before it
}

// measure runs all three measurements and reports their figures.
func measure(b *testing.B, err error, s server) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	catalog, stop := firstView(b, s)
	settle(b)
	singleChanges(b, s, catalog)
	stop()
	churn(b, s)
}

func firstView(b *testing.B, s server) (*registry.Catalog, func()) {
	b.Helper()
	catalog, err := registry.NewCatalog([]registry.Source{{Name: "bench", Kind: "bench", Registry: s.registry}}, registry.Options{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	began := time.Now()
	go func() { defer close(done); _ = catalog.Run(ctx) }()
	for {
		snapshot, changed := catalog.Current()
		if n := countEndpoints(snapshot); n == services*endpoints {
			break
		} else if n > 0 {
			b.Errorf("a snapshot has %d endpoints: the first view was not complete", n)
		}
		select {
		case <-changed:
		case <-time.After(2 * time.Minute):
			b.Fatalf("no complete view: %+v", catalog.Sources())
		}
	}
	b.ReportMetric(time.Since(began).Seconds(), "first-s")
	return catalog, func() { cancel(); <-done }
}

func countEndpoints(s *registry.Snapshot) int {
	n := 0
	for _, svc := range s.Services {
		if strings.HasPrefix(svc.Name.Name, "svc-") {
			n += len(svc.Endpoints)
		}
	}
	return n
}

// singleChanges measures from the server's event to the Snapshot that has the change, and from its word that it has it.
func singleChanges(b *testing.B, s server, catalog *registry.Catalog) {
	b.Helper()
	var event, written []time.Duration
	for i := range changes {
		service, mark := (i*7919)%services, 10_000+i
		if s.witness != nil {
			if err := s.witness.watch(testbed.LoadedServiceName(service)); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.change(context.Background(), map[int]int{service: mark}); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		for {
			snapshot, changed := catalog.Current()
			if svc := snapshot.Service(loaded(service)); svc != nil && slices.ContainsFunc(svc.Endpoints, marked(mark)) {
				break
			}
			select {
			case <-changed:
			case <-time.After(30 * time.Second):
				b.Fatalf("change %d is in no snapshot: %+v", i, catalog.Sources())
			}
		}
		seen := time.Now()
		written = append(written, seen.Sub(began))
		if s.witness != nil {
			told, err := s.witness.told()
			if err != nil {
				b.Fatal(err)
			}
			began = told
		}
		event = append(event, max(0, seen.Sub(began)))
		time.Sleep(60 * time.Millisecond)
	}
	reportQuantiles(b, "", event)
	if s.witness != nil {
		reportQuantiles(b, "written-", written)
	}
}

func reportQuantiles(b *testing.B, prefix string, took []time.Duration) {
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99, "max-ms": 1} {
		b.ReportMetric(float64(took[min(int(q*float64(len(took))), len(took)-1)].Microseconds())/1000, prefix+name)
	}
}

// churn changes endpoints at a constant rate while mesh control watches, reads what that costs mesh control, and checks
// that its final state is the server's.
func churn(b *testing.B, s server) {
	b.Helper()
	control, api := startControl(b, s.section)
	time.Sleep(10 * time.Second) // the first sync's work is over, and it is sealed
	want := make([]int, services)
	duration := churnTime()
	before, began := cpu(b, control), time.Now()
	sent := generate(b, s, want, duration)
	elapsed := time.Since(began)
	used := cpu(b, control) - before
	b.ReportMetric(used.Seconds()/elapsed.Seconds(), "churn-cores")
	b.ReportMetric(float64(sent)/elapsed.Seconds(), "churn-rate")
	b.ReportMetric(resident(b, control), "control-MB")
	ended := time.Now()
	for {
		lost := finalState(b, api, want)
		if lost == 0 {
			break
		}
		if time.Since(ended) > 10*time.Second {
			b.Fatalf("%d services do not have their last mark %s after the churn", lost, time.Since(ended))
		}
		time.Sleep(200 * time.Millisecond)
	}
	b.ReportMetric(time.Since(ended).Seconds(), "churn-settle-s")
}

// generate sends changes at churnRate, each worker to services of its own, a batch of them in a transaction where the server has such
// (one for each change is more than Consul can do here), and notes the last mark of each. What a
// server was late for is sent as soon as it can be.
func generate(b *testing.B, s server, want []int, duration time.Duration) (sent int) {
	b.Helper()
	const workers, batch = 10, 25
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	counts := make([]int, workers)
	var group errgroup.Group
	for w := range workers {
		group.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for due := time.Now(); ; due = due.Add(time.Second * workers * batch / churnRate) {
				time.Sleep(time.Until(due))
				if ctx.Err() != nil {
					return nil
				}
				marks := make(map[int]int, batch)
				for len(marks) < batch {
					marks[random.IntN(services/workers)*workers+w] = 20_000 + random.IntN(10_000)
				}
				if err := s.change(context.Background(), marks); err != nil {
					return err
				}
				for service, mark := range marks {
					want[service] = mark
				}
				counts[w] += batch
			}
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	for _, n := range counts {
		sent += n
	}
	return sent
}

// churnTime is 60 s, or as HOSTMESH_CHURN says.
func churnTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("HOSTMESH_CHURN")); err == nil {
		return d
	}
	return time.Minute
}

// startControl runs the mesh control of make build on one registry and waits until it has the whole of it.
func startControl(b *testing.B, section string) (control *exec.Cmd, api string) {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "hm-bench-")
	if err != nil {
		b.Fatal(err)
	}
	api = "127.0.0.1:" + strconv.Itoa(testbed.FreePort(b))
	file := filepath.Join(dir, "control.yaml")
	text := fmt.Sprintf("state: %s/state\nlisten: {xds: [\"unix:%s/xds.sock\"], http: %q, dns: \"\"}\nregistries:\n%s", dir, dir, api, section)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	program, err := filepath.Abs("../../bin/mesh")
	if err != nil {
		b.Fatal(err)
	}
	control = exec.Command(program, "control", "--config", file)
	control.Stderr = os.Stderr
	control.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := control.Start(); err != nil {
		b.Fatalf("%v: run make build first", err)
	}
	b.Cleanup(func() {
		_ = control.Process.Kill()
		_ = control.Wait()
		_ = os.RemoveAll(dir)
	})
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var all struct{ Registries []registry.SourceStatus }
		if err = get(api, "/api/v1/registries", &all); err == nil && all.Registries[0].Endpoints >= services*endpoints {
			return control, api
		}
		if time.Since(began) > 2*time.Minute {
			b.Fatalf("mesh control has not the whole registry: %+v, %v", all, err)
		}
	}
}

func get(api, path string, into any) error {
	resp, err := http.Get("http://" + api + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// finalState counts the changed services that do not have the mark that they were given last.
func finalState(b *testing.B, api string, want []int) (wrong int) {
	b.Helper()
	var all struct {
		Endpoints []struct {
			Service registry.Name
			*registry.Endpoint
		}
	}
	if err := get(api, "/api/v1/endpoints", &all); err != nil {
		b.Fatal(err)
	}
	byService := map[registry.Name][]*registry.Endpoint{}
	for _, e := range all.Endpoints {
		byService[e.Service] = append(byService[e.Service], e.Endpoint)
	}
	for service, mark := range want {
		if mark != 0 && !slices.ContainsFunc(byService[loaded(service)], marked(mark)) {
			wrong++
		}
	}
	return wrong
}

func loaded(service int) registry.Name {
	return registry.Name{Namespace: registry.DefaultNamespace, Name: testbed.LoadedServiceName(service)}
}

// marked tells whether an endpoint has a mark: as its version, or as its port where there are no labels.
func marked(mark int) func(*registry.Endpoint) bool {
	text := strconv.Itoa(mark)
	return func(e *registry.Endpoint) bool {
		return e.Labels["version"] == text || len(e.Ports) == 1 && int(e.Ports[0].Number) == mark
	}
}

// cpu returns the processor time that a process has used, in user and system mode.
func cpu(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "stat"))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, i := range []int{11, 12} { // utime and stime, counted from the state
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// resident returns the process's resident memory in MB of 10^6 bytes.
func resident(b *testing.B, cmd *exec.Cmd) float64 {
	b.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib * 1024 / 1e6
		}
	}
	b.Fatalf("the process has no memory:\n%s", data)
	return 0
}
