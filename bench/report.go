package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

const (
	ours = "mesh-proxy"
	// reference is the peer that ratios are relative to.
	reference = "haproxy"
)

// budgetsOf is the most that we may cost, as a ratio to a peer; 0: no budget.
type budgetsOf interface{ of(peer string) float64 }

// limits are the budgets of mesh-proxy.
type limits struct{ haproxy, envoy float64 }

func (l limits) of(peer string) float64 {
	switch peer {
	case "haproxy":
		return l.haproxy
	case "envoy":
		return l.envoy
	}
	return 0
}

// record is a line of results.jsonl. Ratio, Min and Max compare, round by round, with the reference or with the peer that To names,
// and are 0 without one.
type record struct {
	Work   string    `json:"work"`
	Peer   string    `json:"peer"`
	Figure string    `json:"figure"`
	To     string    `json:"to,omitempty"`
	Ratio  float64   `json:"ratio"` // median of the rounds
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Budget float64   `json:"budget,omitempty"` // the most that Ratio, or without one Value, may be
	Met    *bool     `json:"met,omitempty"`
	Unit   string    `json:"unit"`
	Value  float64   `json:"value"` // median, in Unit
	Time   time.Time `json:"time"`
}

// judge compares the ratio with a budget.
func (r *record) judge(budget float64) {
	if budget > 0 {
		met := r.Ratio <= budget
		r.Budget, r.Met = budget, &met
	}
}

// series is a figure of a peer, round by round.
type series struct {
	peer   string
	values []float64
}

// comparison says who is compared with whom.
type comparison struct {
	work, unit string
	us, base   string // whose cost has budgets; who the ratios are relative to
	most       budgetsOf
}

// records makes a record of each peer's figure, compared with base, and one of ours for each other peer that has a budget.
func (c comparison) records(figure string, all []series) []record {
	find := func(peer string) []float64 {
		for _, s := range all {
			if s.peer == peer {
				return s.values
			}
		}
		return nil
	}
	compared := func(s series, to string) record {
		r := record{Work: c.work, Peer: s.peer, Figure: figure, To: to, Unit: c.unit, Value: round3(median(s.values)), Time: time.Now().UTC()}
		if values := find(to); values != nil {
			var ratios []float64
			for i := range min(len(values), len(s.values)) {
				ratios = append(ratios, s.values[i]/values[i])
			}
			r.Ratio, r.Min, r.Max = round3(median(ratios)), round3(slices.Min(ratios)), round3(slices.Max(ratios))
			if s.peer == c.us {
				r.judge(c.most.of(to))
			}
		}
		return r
	}
	var records []record
	for _, s := range all {
		records = append(records, compared(s, c.base))
	}
	for _, s := range all {
		for _, to := range all {
			if s.peer == c.us && to.peer != c.base && c.most.of(to.peer) > 0 {
				records = append(records, compared(s, to.peer))
			}
		}
	}
	return records
}

// summarise compares each peer's processor time, round by round.
func (c comparison) summarise(peers []*peer, samples map[string][]sample) []record {
	var all []series
	for _, p := range peers {
		s := series{peer: p.name}
		for _, one := range samples[p.name] {
			s.values = append(s.values, one.cpu/1e3)
		}
		all = append(all, s)
	}
	return c.records("cpu", all)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func round3(v float64) float64 { return float64(int(v*1000+0.5)) / 1000 }

// printTable prints a line a peer. The two last columns but one say whether the proxy was what was measured: the load's own time, and how
// busy the proxy's processors were.
func printTable(w io.Writer, unit, base string, cores int, peers []*peer, samples map[string][]sample, records []record) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "peer\tcpu µs/%s\tratio to %s\tmin\tmax\tper cpu s\t%s/s\tload µs\tbusy %%\tRSS MiB\n", unit, base, unit)
	for i, p := range peers {
		var rates, loads, busy []float64
		for _, s := range samples[p.name] {
			rates, loads = append(rates, s.rate), append(loads, s.load/1e3)
			busy = append(busy, s.cpu*s.rate/1e7/float64(cores))
		}
		m, err := p.memory()
		if err != nil {
			m = memory{}
		}
		r := records[i]
		fmt.Fprintf(t, "%s\t%.2f\t%s\t%.0f\t%.0f\t%.2f\t%.0f\t%.1f\n",
			p.name, r.Value, ratios(r), 1e6/r.Value, median(rates), median(loads), median(busy), float64(m.resident)/(1<<20))
	}
	t.Flush()
	printBudgets(w, records)
	fmt.Fprintln(w)
}

// ratios are the columns of a ratio and its extremes.
func ratios(r record) string {
	if r.Ratio == 0 {
		return "-\t-\t-"
	}
	return fmt.Sprintf("%.2f\t%.2f\t%.2f", r.Ratio, r.Min, r.Max)
}

// printBudgets prints a line for each record that has a budget.
func printBudgets(w io.Writer, records []record) {
	for _, r := range records {
		if r.Met != nil {
			fmt.Fprintf(w, "  budget: %s\n", verdict(r))
		}
	}
}

func verdict(r record) string {
	says := "met"
	if !*r.Met {
		says = "NOT MET"
	}
	if r.Ratio == 0 || r.To == "" {
		return fmt.Sprintf("%s %s %.0f, at most %.0f: %s", r.Figure, r.Unit, r.Value, r.Budget, says)
	}
	return fmt.Sprintf("%s %.2f of %s (%.2f to %.2f), at most %.2f: %s", r.Figure, r.Ratio, r.To, r.Min, r.Max, r.Budget, says)
}

// printSummary prints, at the end of several works, the budgets of all, and which works failed.
func printSummary(w io.Writer, records []record, failed []string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "work\tfigure\tof\tvalue\tmin\tmax\tbudget\t")
	for _, r := range records {
		if r.Met == nil {
			continue
		}
		says, value, to := "met", r.Ratio, r.To
		if !*r.Met {
			says = "NOT MET"
		}
		if to == "" {
			to, value = r.Unit, r.Value
			fmt.Fprintf(t, "%s\t%s\t%s\t%.0f\t-\t-\t%.0f\t%s\n", r.Work, r.Figure, to, value, r.Budget, says)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%s\n", r.Work, r.Figure, to, value, r.Min, r.Max, r.Budget, says)
	}
	for _, name := range failed {
		fmt.Fprintf(t, "%s\t-\t-\t-\t-\t-\t-\tFAILED\n", name)
	}
	t.Flush()
}

func appendRecords(file string, records []record) error {
	if file == "" || len(records) == 0 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("append results: %w", err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("append results: %w", err)
	}
	e := json.NewEncoder(f)
	e.SetEscapeHTML(false)
	for _, r := range records {
		err = errors.Join(err, e.Encode(r))
	}
	return errors.Join(err, f.Close())
}
