package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// budgets are the most that the metrics of a benchmark may be, by their units as go test prints them; 0 for one that is
// only told.
type budgets map[string]float64

// budgetWork runs a Go benchmark that has no peer, once, and compares what it reports with budgets.
func budgetWork(work, pkg, name string, most budgets) func(context.Context, options, io.Writer) ([]record, error) {
	return func(ctx context.Context, _ options, stdout io.Writer) ([]record, error) {
		var out bytes.Buffer
		cmd := goCommand(ctx, &out, "test", "-count=1", "-run=^$", "-bench=^"+name+"$", "-benchtime=1x", pkg)
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%w:\n%s", err, out.String())
		}
		records, err := compare(work, name, out.String(), most)
		if err != nil {
			return nil, err
		}
		t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "figure\tvalue\tbudget\tratio")
		for _, r := range records {
			if most[r.Figure] == 0 {
				fmt.Fprintf(t, "%s\t%.1f\t-\t-\n", r.Figure, r.Value)
				continue
			}
			fmt.Fprintf(t, "%s\t%.1f\t%.0f\t%.2f\n", r.Figure, r.Value, most[r.Figure], r.Ratio)
		}
		_ = t.Flush()
		fmt.Fprintln(stdout)
		return records, nil
	}
}

// compare reads the metrics from the line of a benchmark's result: its name, its rounds, then pairs of value and unit.
func compare(work, name, output string, most budgets) ([]record, error) {
	found := map[string]float64{}
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) < 4 || strings.SplitN(fields[0], "-", 2)[0] != name {
			continue
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read the result of %s: %w", name, err)
			}
			found[fields[i+1]] = value
		}
	}
	var records []record
	for _, unit := range slices.Sorted(maps.Keys(most)) {
		value, ok := found[unit]
		if !ok {
			return nil, fmt.Errorf("%s reported no %s:\n%s", name, unit, output)
		}
		ratio := 0.0
		if most[unit] > 0 {
			ratio = round3(value / most[unit])
		}
		_, short, _ := cutLast(unit, "-")
		records = append(records, record{Work: work, Peer: "budget", Figure: unit, Ratio: ratio, Min: ratio, Max: ratio, Unit: short, Value: value, Time: time.Now().UTC()})
	}
	return records, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, s, false
	}
	return s[:i], s[i+len(sep):], true
}
