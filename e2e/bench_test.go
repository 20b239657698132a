package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// The figures of this file are those of make bench's works path-change and path-memory, which run the benchmarks below
// once each and compare what they report with its budget.

const (
	benchServices  = 1000
	benchEndpoints = 10
	benchChanges   = 300
)

// loadedMesh is a control plane that reads a Consul with many services over HTTPS, and a proxy subscribed to all.
func loadedMesh(b *testing.B) (client *api.Client, p parts, control, proxy *process) {
	b.Helper()
	consul := testbed.StartConsul(b, testbed.ConsulOptions{Mode: testbed.ConsulTLS})[0]
	client = consul.Client()
	if err := testbed.LoadConsul(context.Background(), client, benchServices, benchEndpoints); err != nil {
		b.Fatal(err)
	}
	p = newParts(b, fmt.Sprintf("  - name: consul\n    consul: {address: \"%s\", caFile: %s}\n", consul.Address, consul.Certs.CAFile))
	control, proxy = p.startControl(b), p.startProxy(b)
	eventually(b, 2*time.Minute, "the proxy knows every endpoint", func() error {
		clusters, err := fetch(p.admin, "", "/clusters")
		if err != nil {
			return err
		}
		if n := len(regexp.MustCompile(`(?m)::cx_active::`).FindAllString(clusters, -1)); n < benchServices*benchEndpoints {
			return fmt.Errorf("%d endpoints", n)
		}
		return nil
	})
	return client, p, control, proxy
}

// change gives one endpoint another weight; what it returned is in Consul's catalog.
func change(b *testing.B, client *api.Client, service, weight int) {
	b.Helper()
	ops := testbed.LoadedEndpoint(service, 0, benchEndpoints)
	ops[0].Service.Service.Weights = api.AgentWeights{Passing: weight, Warning: 1}
	ok, resp, _, err := client.Txn().Txn(ops, nil)
	if err != nil || !ok {
		b.Fatalf("change an endpoint: %v %v", err, resp)
	}
}

// acked returns the number of the snapshot that the one proxy has acknowledged for endpoints.
func acked(b *testing.B, p parts) uint64 {
	b.Helper()
	var proxies controlplane.Proxies
	if err := fetchJSON(p.api, "/api/v1/proxies", &proxies); err != nil {
		b.Fatal(err)
	}
	for _, t := range proxies.Proxies[0].Types {
		if t.Type == "EDS" {
			return t.Acked
		}
	}
	b.Fatalf("the proxy has not asked for endpoints: %+v", proxies)
	return 0
}

func BenchmarkPathChange(b *testing.B) {
	client, p, _, _ := loadedMesh(b)
	time.Sleep(5 * time.Second) // the first sync's work is over
	var took []time.Duration
	for i := range benchChanges {
		before := acked(b, p)
		began := time.Now()
		change(b, client, (i*7919)%benchServices, 2+i%100)
		for acked(b, p) == before {
			if time.Since(began) > 30*time.Second {
				b.Fatal("a change is not acknowledged")
			}
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(began))
		time.Sleep(50 * time.Millisecond)
	}
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99, "max-ms": 1} {
		b.ReportMetric(float64(took[min(int(q*float64(len(took))), len(took)-1)].Microseconds())/1000, name)
	}
}

// memory returns a line of /proc/PID/status in MB (10^6 bytes).
func memory(b *testing.B, p *process, line string) float64 {
	b.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + line + `:\s+(\d+) kB`).FindSubmatch(data)
	if found == nil {
		b.Fatalf("no %s in /proc/PID/status", line)
	}
	kb, _ := strconv.ParseFloat(string(found[1]), 64)
	return kb * 1024 / 1e6
}

func BenchmarkPathMemory(b *testing.B) {
	_, _, control, proxy := loadedMesh(b)
	gossip := fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(b))
	idle := newParts(b, fmt.Sprintf("  - name: hosts\n    gossip: {bind: %q, settle: 1s}\n", gossip))
	idle.startControl(b)
	host := startHost(b, idle, "idle", gossip, "web", "v1") // it announces a service and checks it
	eventually(b, time.Minute, "the idle proxy knows its own service", func() error {
		_, err := fetch(host.outbound, "web.mesh.internal", "/")
		return err
	})
	time.Sleep(60 * time.Second) // past the first sync: the runtime has given back what it took for it
	b.ReportMetric(memory(b, control, "VmRSS"), "control-MB")
	b.ReportMetric(memory(b, proxy, "VmRSS"), "proxy-MB")
	b.ReportMetric(memory(b, host.proxy, "VmRSS"), "idle-MB")
	b.ReportMetric(memory(b, host.proxy, "RssAnon"), "idle-anonymous-MB")
}
