// Command xds measures what it costs a control plane to tell its clients that one endpoint changed, beside
// go-control-plane's snapshot cache (delta) with the same content: 1,000 services with 10 endpoints each, every client
// subscribing to all of it over a connection of its own.
//
// It starts itself anew as the servers and as the clients, so that a server's CPU and memory are its own. A round is:
// the servers start, one after the other all clients connect and are synced (first sync), everything rests (-settle),
// the servers' resident memory is read, then endpoints change in turns. The ratio of a figure is taken round by round.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

type options struct {
	role     string
	addr     string
	clients  int
	rounds   int
	changes  int
	services int
	settle   time.Duration
	out      string
}

func main() {
	var o options
	flag.StringVar(&o.role, "role", "", "internal: what this process is; empty: the benchmark")
	flag.StringVar(&o.addr, "addr", "", "internal: the server's address")
	flag.IntVar(&o.clients, "clients", 100, "delta clients")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; the median counts")
	flag.IntVar(&o.changes, "changes", 10, "changes in a round")
	flag.IntVar(&o.services, "services", 1000, "services of 10 endpoints")
	flag.DurationVar(&o.settle, "settle", time.Minute, "rest between the last connect and the reading of memory")
	flag.StringVar(&o.out, "out", "", "append results to this file")
	flag.Parse()
	if err := run(o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "xds:", err)
		os.Exit(1)
	}
}

func run(o options, stdout io.Writer) error {
	if o.clients < 1 || o.rounds < 1 || o.changes < 1 || o.services < 1 {
		return errors.New("clients, rounds, changes and services must be at least 1")
	}
	switch o.role {
	case hostmesh, goControlPlane:
		return serve(o, os.Stdin, stdout)
	case "clients":
		return runClients(o, os.Stdin, stdout)
	case "":
		return measure(o, stdout)
	}
	return fmt.Errorf("unknown role %q", o.role)
}

// The servers that are compared.
const (
	hostmesh       = "hostmesh"
	goControlPlane = "go-control-plane"
)

// figures are what is measured of one server in one round.
type figures struct {
	sync    float64 // first connect → last client synced, ms
	syncCPU float64 // of the server meanwhile, ms
	latency float64 // a change → last ACK, ms, median of the round
	cpu     float64 // of the server for a change, ms
	memory  float64 // resident, MiB
}

// figure is one of figures, with its name.
type figure struct {
	name, unit string
	of         func(figures) float64
	budget     float64 // ratio; 0: none
}

func all() []figure {
	return []figure{
		{"latency", "ms", func(f figures) float64 { return f.latency }, 0.25},
		{"cpu", "ms", func(f figures) float64 { return f.cpu }, 0.25},
		{"memory", "MiB", func(f figures) float64 { return f.memory }, 0.6},
		{"sync", "ms", func(f figures) float64 { return f.sync }, 0.5},
		{"sync-cpu", "ms", func(f figures) float64 { return f.syncCPU }, 0},
	}
}

func measure(o options, stdout io.Writer) error {
	ours, peers := make([]figures, 0, o.rounds), make([]figures, 0, o.rounds)
	for round := range o.rounds {
		order := []string{hostmesh, goControlPlane}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		got, err := oneRound(o, order)
		if err != nil {
			return err
		}
		ours, peers = append(ours, got[hostmesh]), append(peers, got[goControlPlane])
		fmt.Fprintf(stdout, "round %d: %s %+v, %s %+v\n", round+1, hostmesh, got[hostmesh], goControlPlane, got[goControlPlane])
	}
	return report(o, ours, peers, stdout)
}

// row is a line of the results file. The unit is that of the figure, the ratio has none.
type row struct {
	Work   string  `json:"work"`
	Peer   string  `json:"peer"`
	Figure string  `json:"figure"`
	Ratio  float64 `json:"ratio"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Unit   string  `json:"unit"`
}

func report(o options, ours, peers []figures, stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "figure\t%s\t%s\tratio\tmin\tmax\tbudget\n", hostmesh, goControlPlane)
	var lines []byte
	for _, f := range all() {
		var mine, theirs, ratios []float64
		for i := range ours {
			a, b := f.of(ours[i]), f.of(peers[i])
			mine, theirs, ratios = append(mine, a), append(theirs, b), append(ratios, a/b)
		}
		r := row{
			Work: fmt.Sprintf("xds-%d", o.clients), Peer: goControlPlane, Figure: f.name, Unit: f.unit,
			Ratio: median(ratios), Min: slices.Min(ratios), Max: slices.Max(ratios),
		}
		line, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("write result: %w", err)
		}
		lines = append(append(lines, line...), '\n')
		budget := "-"
		if f.budget > 0 {
			budget = fmt.Sprintf("%.2f", f.budget)
		}
		fmt.Fprintf(table, "%s (%s)\t%.1f\t%.1f\t%.3f\t%.3f\t%.3f\t%s\n", f.name, f.unit, median(mine), median(theirs), r.Ratio, r.Min, r.Max, budget)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	if o.out == "" {
		return nil
	}
	file, err := os.OpenFile(o.out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("append results: %w", err)
	}
	if _, err := file.Write(lines); err != nil {
		return errors.Join(fmt.Errorf("append results: %w", err), file.Close())
	}
	return file.Close()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
