// Command bench gives Hostmesh and its peers the same work, interleaved on the same pinned processors, and prints what each
// costs as a ratio. bench/README.md says how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	peers    []string
	rounds   int
	duration time.Duration
	conns    int
	bin      string
	out      string
	keep     bool
}

// work is one thing to measure.
type work struct {
	name  string
	about string
	run   func(context.Context, options, io.Writer) ([]record, error)
}

func works() []work {
	return []work{
		{"http1-128", "HTTP/1.1 keep-alive, responses of 128 B, CPU per request", httpWork("http1-128", 128, 0)},
		{"http1-16k", "HTTP/1.1 keep-alive, responses of 16 KiB, CPU per request", httpWork("http1-16k", 16<<10, 0)},
		{"http1-3000rps", "HTTP/1.1 keep-alive, 128 B, 3,000 requests/s in open loop, CPU per request", httpWork("http1-3000rps", 128, 3000)},
		{"xds-100", "one endpoint changes, 100 delta clients", xdsWork(100)},
		{"xds-1000", "one endpoint changes, 1,000 delta clients", xdsWork(1000)},
		{"path-change", "a change at a real Consul with 1,000 services of 10 endpoints, until the proxy's ACK", budgetWork("path-change", "./e2e", "BenchmarkPathChange", budgets{"p50-ms": 100, "p99-ms": 100})},
		{"path-memory", "resident memory of mesh control and mesh-proxy with these, and of an idle mesh-proxy", budgetWork("path-memory", "./e2e", "BenchmarkPathMemory",
			budgets{"control-MB": 150, "proxy-MB": 60, "idle-MB": 28, "idle-anonymous-MB": 12})},
		{"registry-consul", registryAbout("Consul"), registryWork("consul", "BenchmarkConsul", 50)},
		{"registry-etcd", registryAbout("etcd"), registryWork("etcd", "BenchmarkEtcd", 50)},
		{"registry-zookeeper", registryAbout("ZooKeeper"), registryWork("zookeeper", "BenchmarkZooKeeper", 100)},
		{"registry-kubernetes", registryAbout("Kubernetes"), registryWork("kubernetes", "BenchmarkKubernetes", 50)},
		{"merge", "four registries with 10,000 services of 10 endpoints each: a service of each changes, until the merged services are there", budgetWork("merge", "./registry",
			"BenchmarkMergeFourSources", budgets{"p50-ms": 20, "p99-ms": 20})},
		{"snapshot-memory", "a Snapshot of 100,000 endpoints: growth of HeapInuse after two collections", budgetWork("snapshot-memory", "./registry",
			"BenchmarkSnapshotMemory", budgets{"heap-MB": 120})},
		{"gossip-death", "a host of 50 dies, until a control node has seen it", budgetWork("gossip-death", "./internal/gossip", "BenchmarkDeathAmong50",
			budgets{"p50-s": 3, "max-s": 3})},
	}
}

func registryAbout(server string) string {
	return "10,000 services of 10 endpoints in a real " + server + ": the first view, a change, a churn of 1,000 changes/s"
}

// registryWork is one of bench/registries; most is how many milliseconds a change may take until the Snapshot has it.
func registryWork(name, benchmark string, most float64) func(context.Context, options, io.Writer) ([]record, error) {
	return budgetWork("registry-"+name, "./bench/registries", benchmark, budgets{"first-s": 10, "p99-ms": most, "churn-cores": 1, "churn-rate": 0})
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	names := flags.String("work", "all", "works to do, by comma, or all")
	peers := flags.String("peers", "mesh-proxy,haproxy,nginx", "peers of the HTTP works, by comma")
	list := flags.Bool("list", false, "list the works and end")
	o := options{}
	flags.IntVar(&o.rounds, "rounds", 5, "rounds; the medians are shown")
	flags.DurationVar(&o.duration, "duration", 2*time.Second, "of one measurement")
	flags.IntVar(&o.conns, "connections", 64, "keep-alive connections")
	flags.StringVar(&o.bin, "bin", "bin", "folder of mesh-proxy")
	flags.StringVar(&o.out, "out", "bench/results.jsonl", "file to append results to; empty: none")
	flags.BoolVar(&o.keep, "keep", false, "keep the peers' configuration and logs, and say where they are")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.peers = strings.Split(*peers, ",")
	if *list {
		for _, w := range works() {
			fmt.Fprintf(stdout, "%-14s %s\n", w.name, w.about)
		}
		return nil
	}
	chosen, err := choose(*names)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, w := range chosen {
		fmt.Fprintf(stdout, "%s: %s\n", w.name, w.about)
		records, err := w.run(ctx, o, stdout)
		if err != nil {
			return fmt.Errorf("run %s: %w", w.name, err)
		}
		if err := appendRecords(o.out, records); err != nil {
			return err
		}
	}
	return nil
}

func choose(names string) ([]work, error) {
	if names == "all" {
		return works(), nil
	}
	var chosen []work
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, w := range works() {
			if w.name == name {
				chosen, found = append(chosen, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no work %q: see -list", name)
		}
	}
	return chosen, nil
}

// xdsWork runs the control plane's own benchmark, which prints its table and appends its results itself.
func xdsWork(clients int) func(context.Context, options, io.Writer) ([]record, error) {
	return func(ctx context.Context, o options, stdout io.Writer) ([]record, error) {
		args := []string{"run", "./bench/xds", "-clients", strconv.Itoa(clients), "-rounds", strconv.Itoa(o.rounds)}
		if o.out != "" {
			args = append(args, "-out", o.out)
		}
		return nil, goCommand(ctx, stdout, args...).Run()
	}
}

func goCommand(ctx context.Context, stdout io.Writer, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	return cmd
}
