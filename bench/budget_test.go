package main

import (
	"strings"
	"testing"
)

func TestCompareWithBudgets(t *testing.T) {
	output := "goos: linux\nBenchmarkPathChange-2   \t       1\t42384645272 ns/op\t        20.5 p50-ms\t        99.0 p99-ms\nPASS\n"
	records, err := compare("path-change", "BenchmarkPathChange", output, budgets{"p50-ms": 0, "p99-ms": 90})
	if err != nil || len(records) != 2 {
		t.Fatalf("compare: %v, %v", records, err)
	}
	if r := records[1]; r.Figure != "p99-ms" || r.Value != 99 || r.Ratio != 1.1 || r.Unit != "ms" || r.Peer != "budget" {
		t.Errorf("record %+v", r)
	}
	if r := records[0]; r.Ratio != 0 || r.Value != 20.5 {
		t.Errorf("record of a metric without a budget %+v", r)
	}
	if _, err := compare("path-change", "BenchmarkPathChange", output, budgets{"max-ms": 1}); err == nil || !strings.Contains(err.Error(), "no max-ms") {
		t.Errorf("a metric that is missing: %v", err)
	}
}
