package main

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

func TestCPUTime(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	after, err := cpuTime(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("%v after %v, %v", after, before, err)
	}
	if _, err := cpuTime(1 << 28); err == nil {
		t.Error("a process that is not there has a processor time")
	}
}

func TestSummary(t *testing.T) {
	us := func(v ...float64) (s []sample) {
		for _, v := range v {
			s = append(s, sample{cpu: v * 1e3})
		}
		return s
	}
	peers := []*peer{{name: ours}, {name: reference}, {name: "envoy"}}
	records := comparison{"w", "µs/request", ours, reference, limits{0.75, 0.2}}.summarise(peers, map[string][]sample{ours: us(5, 12, 6), reference: us(10, 12, 10), "envoy": us(20, 20, 20)})
	if len(records) != 4 {
		t.Fatalf("%+v", records)
	}
	r := records[0]
	if r.Value != 6 || r.Ratio != 0.6 || r.Min != 0.5 || r.Max != 1 || r.Unit != "µs/request" || r.To != reference || r.Budget != 0.75 || !*r.Met {
		t.Errorf("ours: %+v", r)
	}
	if r := records[1]; r.Ratio != 1 || r.Value != 10 || r.Met != nil {
		t.Errorf("reference: %+v", r)
	}
	if r := records[3]; r.Peer != ours || r.To != "envoy" || r.Ratio != 0.3 || r.Budget != 0.2 || *r.Met {
		t.Errorf("ours to envoy: %+v", r)
	}
	var out bytes.Buffer
	printSummary(&out, records, []string{"another"})
	for _, want := range []string{"met", "NOT MET", "another", "FAILED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("summary has no %q:\n%s", want, &out)
		}
	}
	file := filepath.Join(t.TempDir(), "new", "results.jsonl")
	for range 2 {
		if err := appendRecords(file, records); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	var back record
	if err := json.Unmarshal(lines[0], &back); err != nil || len(lines) != 8 || back.Peer != ours || back.Ratio != 0.6 {
		t.Errorf("%d lines, first %+v, %v", len(lines), back, err)
	}
}

func TestHistogram(t *testing.T) {
	var all []time.Duration
	h := new(histogram)
	for range 10000 {
		d := time.Duration(math.Exp(rand.Float64() * 25)) // 1 ns to a minute
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		if got := h.quantile(q); got < want || float64(got) > float64(want)*1.01 {
			t.Errorf("quantile %v: %v, want %v or up to 1 %% more", q, got, want)
		}
	}
	h.add(math.MaxInt64)
	h.add(-1)
	if got := h.quantile(1); got != math.MaxInt64 {
		t.Errorf("the longest time is %v", got)
	}
}

func TestCoded(t *testing.T) {
	lists := [][]hpack.HeaderField{{field(":status", "200"), field("server", "bench")}, {field("grpc-status", "0")}}
	coded := code(lists...)
	for _, table := range []uint32{tableSize, 0} {
		conn := &h2conn{table: table}
		decoder := hpack.NewDecoder(table, nil)
		for nth := range 3 {
			for i := range lists {
				b := coded[i].of(conn, nth)
				fields, err := decoder.DecodeFull(b)
				if err != nil || fieldsText(fields) != fieldsText(lists[i]) {
					t.Errorf("table %d, list %d, time %d: %x is %q, %v", table, i, nth, b, fieldsText(fields), err)
				}
			}
		}
	}
}

// What a proxy sends never harms the load, however it is cut.
func FuzzH2Client(f *testing.F) {
	settings := appendGreeting(nil)
	head := newH2(1, 4).head.first
	answer := append(appendFrameHead(slices.Clone(settings), len(head), frameHeaders, flagEndHeaders, 1), head...)
	f.Add(append(appendFrameHead(answer, 4, frameData, flagEndStream, 1), "xxxx"...), 20)
	f.Add([]byte{0, 0, 1, frameHeaders, flagEndHeaders | flagPadded, 0, 0, 0, 1, 9}, 3)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		var ends [2]string
		for i := range ends {
			c := newH2(1, 4).client().(*h2Client)
			l, e := &load{}, &end{client: true, speaker: c}
			c.open(e)
			parts := [][]byte{b}
			if i == 1 && at >= 0 && at <= len(b) {
				parts = [][]byte{b[:at], b[at:]}
			}
			for _, part := range parts {
				if err := c.frames(e, slices.Clone(part), func(e *end, kind, flags byte, id uint32, payload []byte) error {
					return c.stream(l, e, kind, flags, id, payload)
				}); err != nil {
					ends[i] = err.Error()
					break
				}
			}
		}
		if ends[0] != ends[1] {
			t.Errorf("whole: %q, cut at %d: %q", ends[0], at, ends[1])
		}
	})
}

func TestCommandLine(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-list"}, &out); err != nil || strings.Count(out.String(), "\n") != len(works()) {
		t.Errorf("-list: %v\n%s", err, &out)
	}
	if err := run([]string{"-work", "nothing"}, &out); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("unknown work: %v", err)
	}
	if err := run([]string{"-work", "http1-128", "-peers", "nobody"}, &out); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("unknown peer: %v", err)
	}
	if chosen, err := choose("http1-16k,http1-128"); err != nil || len(chosen) != 2 || chosen[0].name != "http1-16k" {
		t.Errorf("choose: %v, %v", chosen, err)
	}
	if chosen, err := choose(dataplane); err != nil || len(chosen) != len(dataplaneWorks()) {
		t.Errorf("choose %s: %v, %v", dataplane, chosen, err)
	}
}
