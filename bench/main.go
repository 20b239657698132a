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
	dnsPeers []string
	services int // of the works of DNS
	rounds   int
	duration time.Duration
	conns    int           // of p99
	idle     int           // connections of the works memory-idle
	clusters int           // of memory-cluster
	settle   time.Duration // until memory is read
	bin      string
	out      string
	keep     bool
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	names := flags.String("work", "all", "works to do, by comma; all; "+dataplane+" for all that have peers beside mesh-proxy; "+dnsGroup+" for those of DNS; "+twoCores+" for more of these on two processors")
	peers := flags.String("peers", "mesh-proxy,haproxy,nginx,envoy", "who does the works of the data plane, by comma")
	dnsPeers := flags.String("dns-peers", "mesh-control,nsd,knot,coredns", "who does those of DNS, by comma")
	list := flags.Bool("list", false, "list the works and end")
	o := options{}
	flags.IntVar(&o.rounds, "rounds", 5, "rounds; the medians are shown")
	flags.DurationVar(&o.duration, "duration", 2*time.Second, "of one measurement")
	flags.IntVar(&o.conns, "connections", 64, "of p99")
	flags.IntVar(&o.idle, "idle", 10000, "connections that memory-idle adds")
	flags.IntVar(&o.clusters, "clusters", 2000, "that memory-cluster adds")
	flags.DurationVar(&o.settle, "settle", 30*time.Second, "until memory-cluster reads memory; memory-idle takes a tenth")
	flags.IntVar(&o.services, "services", 10000, "of 10 endpoints that the works of DNS have")
	flags.StringVar(&o.bin, "bin", "bin", "folder of mesh-proxy")
	flags.StringVar(&o.out, "out", "bench/results.jsonl", "file to append results to; empty: none")
	flags.BoolVar(&o.keep, "keep", false, "keep the peers' configuration and logs, and say where they are")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.peers, o.dnsPeers = strings.Split(*peers, ","), strings.Split(*dnsPeers, ",")
	for _, name := range o.peers {
		if _, err := findProduct(o.bin, name); err != nil {
			return err
		}
	}
	for _, name := range o.dnsPeers {
		if _, err := findDNS(o.bin, name); err != nil {
			return err
		}
	}
	if *list {
		for _, w := range works() {
			fmt.Fprintf(stdout, "%-19s %s\n", w.name, w.about)
		}
		return nil
	}
	chosen, err := choose(*names)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runAll(ctx, o, chosen, stdout)
}

// runAll does one work after the other, also after one that has failed.
func runAll(ctx context.Context, o options, chosen []work, stdout io.Writer) error {
	var all []record
	var failed []string
	var failures error
	installed := false
	for _, w := range chosen {
		if w.group != "" && !installed {
			install(ctx, o, chosen, stdout)
			installed = true
		}
		fmt.Fprintf(stdout, "%s: %s\n", w.name, w.about)
		records, err := w.run(ctx, o, stdout)
		all = append(all, records...)
		if err := appendRecords(o.out, records); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if err != nil {
			failed = append(failed, w.name)
			failures = errors.Join(failures, fmt.Errorf("run %s: %w", w.name, err))
		}
	}
	if len(chosen) > 1 {
		printSummary(stdout, all, failed)
	}
	return failures
}

// install installs the peers when one is missing. What cannot be installed is left out of the works by name.
func install(ctx context.Context, o options, chosen []work, stdout io.Writer) {
	if !missing(ctx, o, chosen) {
		return
	}
	cmd := exec.CommandContext(ctx, "bench/setup.sh")
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(stdout, "run bench/setup.sh, from the top of the repository:", err)
	}
}

// missing says whether a program is not there that the chosen works want.
func missing(ctx context.Context, o options, chosen []work) bool {
	for _, w := range chosen {
		switch w.group {
		case dataplane, twoCores:
			for _, name := range o.peers {
				pr, err := findProduct(o.bin, name)
				if err != nil || name == ours {
					continue
				}
				if _, err := pr.program(true); err != nil {
					return true
				}
			}
		case dnsGroup:
			for _, name := range []string{"nsd", "knotd", "dnsperf"} {
				if _, err := installed(name)(ctx); err != nil {
					return true
				}
			}
		}
	}
	return false
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
