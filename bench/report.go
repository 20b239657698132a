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

// reference is the peer that ratios are relative to.
const reference = "haproxy"

// record is a line of results.jsonl. Ratio, Min and Max compare with the reference round by round and are 0 without one.
type record struct {
	Work   string    `json:"work"`
	Peer   string    `json:"peer"`
	Figure string    `json:"figure"`
	Ratio  float64   `json:"ratio"` // median of the rounds
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Unit   string    `json:"unit"`
	Value  float64   `json:"value"` // median, in Unit
	Time   time.Time `json:"time"`
}

// summarise compares each peer's rounds with the reference's.
func summarise(work string, peers []*peer, samples [][]sample) []record {
	var base []sample
	for i, p := range peers {
		if p.name == reference {
			base = samples[i]
		}
	}
	var records []record
	for i, p := range peers {
		var cpu, ratios []float64
		for round, s := range samples[i] {
			cpu = append(cpu, float64(s.cpu.Nanoseconds())/1e3)
			if base != nil {
				ratios = append(ratios, float64(s.cpu)/float64(base[round].cpu))
			}
		}
		r := record{Work: work, Peer: p.name, Figure: "cpu", Unit: "µs/request", Value: round3(median(cpu)), Time: time.Now().UTC()}
		if base != nil {
			r.Ratio, r.Min, r.Max = round3(median(ratios)), round3(slices.Min(ratios)), round3(slices.Max(ratios))
		}
		records = append(records, r)
	}
	return records
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func round3(v float64) float64 { return float64(int(v*1000+0.5)) / 1000 }

func printTable(w io.Writer, peers []*peer, samples [][]sample, records []record) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "peer\tcpu µs/request\tratio to %s\tmin\tmax\trequests/s\tRSS MiB\n", reference)
	for i, r := range records {
		var rates []float64
		for _, s := range samples[i] {
			rates = append(rates, s.rate)
		}
		memory, err := rss(peers[i].pid())
		if err != nil {
			memory = 0
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.1f\n", r.Peer, r.Value, r.Ratio, r.Min, r.Max, median(rates), float64(memory)/(1<<20))
	}
	t.Flush()
	fmt.Fprintln(w)
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
