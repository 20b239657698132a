package upstream

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// outlierRules are Envoy's defaults, but that everything is enforced and all hosts may be ejected.
func outlierRules() *config.Outlier {
	return &config.Outlier{
		Interval: 10 * time.Second, BaseEjectionTime: 30 * time.Second, MaxEjectionTime: 5 * time.Minute, MaxEjectionPercent: 100,
		Consecutive5xx: 5, ConsecutiveGateway: 5, ConsecutiveLocal: 5, Enforce5xx: 100, EnforceGateway: 100, EnforceLocal: 100,
		SuccessRate:       config.RateRule{MinimumHosts: 5, RequestVolume: 100, Threshold: 1900, Enforce: 100, EnforceOfLocal: 100},
		FailurePercentage: config.RateRule{MinimumHosts: 5, RequestVolume: 50, Threshold: 85, Enforce: 100, EnforceOfLocal: 100},
	}
}

// watch is a detector with hosts, on a clock of its own.
type watch struct {
	*Detector
	shared *Shared
	woken  int
	now    time.Time
}

func newWatch(rules *config.Outlier, hosts int) *watch {
	w := &watch{now: time.Unix(1_000_000, 0)}
	w.shared = NewShared(2, func() { w.woken++ })
	w.Detector = NewDetector(w.shared, rand.New(rand.NewPCG(1, 2)))
	w.Set(rules, outlierHosts(hosts))
	return w
}

func outlierAddr(i int) config.Address {
	return config.Address{IP: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80)}
}

func outlierHosts(n int) []*config.Endpoint {
	var list []*config.Endpoint
	for i := range n {
		list = append(list, &config.Endpoint{Addr: outlierAddr(i), Weight: 1})
	}
	return list
}

// answer reports n responses of a host, in turn on the loops.
func (w *watch) answer(host, status, n int) {
	h := w.shared.host(outlierAddr(host))
	for i := range n {
		h.answered(i%2, status)
	}
}

func (w *watch) reach(host int, how Local, n int) {
	h := w.shared.host(outlierAddr(host))
	for i := range n {
		h.reached(i%2, how)
	}
}

// sweep lets an interval pass.
func (w *watch) sweep() bool {
	w.now = w.now.Add(w.cfg.Interval)
	return w.Sweep(w.now)
}

func (w *watch) out() string {
	text := ""
	for i := range len(w.order) {
		if w.Ejected(outlierAddr(i)) {
			text += fmt.Sprint(i)
		}
	}
	return text
}

func (w *watch) figure(name string) uint64 {
	for _, f := range w.Figures() {
		if f.Name == name {
			return f.Value
		}
	}
	panic("no figure " + name)
}

// TestOutliers has a row for each documented rule: what hosts do, and which are ejected for it.
func TestOutliers(t *testing.T) {
	split := func(o *config.Outlier) { o.SplitLocal = true }
	rates := func(w *watch, good, bad int) { // host 0 is the bad one
		w.answer(0, 500, bad)
		w.answer(0, 200, 200-bad)
		for i := 1; i < 6; i++ {
			w.answer(i, 200, good)
			w.answer(i, 500, 200-good)
		}
		// Rows of failures are not what is judged here.
		for _, h := range w.shared.hosts {
			h.detected.Store(0)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*config.Outlier)
		do     func(w *watch)
		out    string
		counts []string // each is 1
	}{
		{"four 5xx", nil, func(w *watch) { w.answer(0, 500, 4) }, "", nil},
		{"five 5xx", nil, func(w *watch) { w.answer(0, 500, 5) }, "0", []string{"ejections_detected_consecutive_5xx", "ejections_enforced_consecutive_5xx", "ejections_enforced_total", "ejections_active"}},
		{"a success between", nil, func(w *watch) { w.answer(0, 500, 4); w.answer(0, 404, 1); w.answer(0, 500, 4) }, "", nil},
		{"another host", nil, func(w *watch) { w.answer(0, 500, 4); w.answer(1, 200, 1); w.answer(0, 500, 1) }, "0", nil},
		{"gateway failures", func(o *config.Outlier) { o.Consecutive5xx = 0 }, func(w *watch) { w.answer(0, 502, 2); w.answer(0, 503, 2); w.answer(0, 504, 1) }, "0", []string{"ejections_enforced_consecutive_gateway_failure"}},
		{"a 500 is no gateway failure", func(o *config.Outlier) { o.Consecutive5xx = 0 }, func(w *watch) { w.answer(0, 502, 4); w.answer(0, 500, 1); w.answer(0, 502, 4) }, "", nil},
		{"not enforced", func(o *config.Outlier) { o.Enforce5xx = 0 }, func(w *watch) { w.answer(0, 500, 5) }, "", []string{"ejections_detected_consecutive_5xx"}},
		{"connect failures count as 503", nil, func(w *watch) { w.reach(0, LocalFailed, 5) }, "0", []string{"ejections_enforced_consecutive_5xx"}},
		{"timeouts count as 504", nil, func(w *watch) { w.reach(0, LocalTimeout, 5) }, "0", []string{"ejections_detected_consecutive_5xx"}},
		{"being connected is not yet a success", nil, func(w *watch) { w.reach(0, LocalFailed, 4); w.reach(0, LocalConnected, 1); w.reach(0, LocalFailed, 1) }, "0", nil},
		{"a TCP connection is one", nil, func(w *watch) { w.reach(0, LocalFailed, 4); w.reach(0, LocalDone, 1); w.reach(0, LocalFailed, 1) }, "", nil},
		{"split: local failures", split, func(w *watch) { w.reach(0, LocalFailed, 3); w.reach(0, LocalTimeout, 2) }, "0", []string{"ejections_enforced_consecutive_local_origin_failure"}},
		{"split: being connected is a success", split, func(w *watch) { w.reach(0, LocalFailed, 4); w.reach(0, LocalConnected, 1); w.reach(0, LocalFailed, 4) }, "", nil},
		{"split: answers are something else", split, func(w *watch) { w.reach(0, LocalFailed, 4); w.answer(0, 500, 4) }, "", nil},

		{"success rate", nil, func(w *watch) { rates(w, 200, 20); w.sweep() }, "0", []string{"ejections_detected_success_rate", "ejections_enforced_success_rate", "ejections_success_rate"}},
		{"success rate, all the same", nil, func(w *watch) { rates(w, 180, 20); w.sweep() }, "", nil},
		{"success rate, too few hosts", func(o *config.Outlier) { o.SuccessRate.MinimumHosts = 7 }, func(w *watch) { rates(w, 200, 20); w.sweep() }, "", nil},
		{"success rate, too few requests", func(o *config.Outlier) { o.SuccessRate.RequestVolume = 201 }, func(w *watch) { rates(w, 200, 20); w.sweep() }, "", nil},
		{"success rate, not enforced", func(o *config.Outlier) { o.SuccessRate.Enforce = 0 }, func(w *watch) { rates(w, 200, 20); w.sweep() }, "", []string{"ejections_detected_success_rate"}},
		{"failure percentage", func(o *config.Outlier) { o.SuccessRate.MinimumHosts = 100 }, func(w *watch) { rates(w, 100, 170); w.sweep() }, "0", []string{"ejections_enforced_failure_percentage"}},
		{"failure percentage, below", func(o *config.Outlier) { o.SuccessRate.MinimumHosts = 100 }, func(w *watch) { rates(w, 100, 169); w.sweep() }, "", nil},
		{"only what came since the last sweep", nil, func(w *watch) { w.answer(0, 200, 100); w.sweep(); rates(w, 200, 20); w.sweep() }, "0", nil},
		{"split: rate of local failures", func(o *config.Outlier) { o.SplitLocal, o.ConsecutiveLocal = true, 0 }, func(w *watch) {
			for i := range 6 {
				w.reach(i, LocalConnected, 200)
			}
			w.reach(3, LocalFailed, 100)
			w.sweep()
		}, "3", []string{"ejections_enforced_local_origin_success_rate"}},

		{"no more than the percentage", func(o *config.Outlier) { o.MaxEjectionPercent = 34 }, func(w *watch) {
			for i := range 3 {
				w.answer(i, 500, 5)
			}
		}, "01", []string{"ejections_overflow"}},
		{"not even one", func(o *config.Outlier) { o.MaxEjectionPercent = 10 }, func(w *watch) { w.answer(0, 500, 5) }, "", []string{"ejections_overflow"}},
		{"but always one", func(o *config.Outlier) { o.MaxEjectionPercent, o.AlwaysEjectOne = 0, true }, func(w *watch) { w.answer(0, 500, 5); w.answer(1, 500, 5) }, "0", []string{"ejections_overflow"}},
		{"a passed check ends it", nil, func(w *watch) { w.answer(0, 500, 5); w.Look(w.now); w.Passed(outlierAddr(0)) }, "", []string{"ejections_enforced_total"}},
		{"a passed check does not", func(o *config.Outlier) { o.KeepOnCheck = true }, func(w *watch) { w.answer(0, 500, 5); w.Look(w.now); w.Passed(outlierAddr(0)) }, "0", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := outlierRules()
			if c.change != nil {
				c.change(rules)
			}
			w := newWatch(rules, 6)
			c.do(w)
			w.Look(w.now)
			if got := w.out(); got != c.out || w.Active() != len(c.out) {
				t.Errorf("ejected %q (%d), want %q", got, w.Active(), c.out)
			}
			for _, name := range c.counts {
				if n := w.figure(name); n != 1 {
					t.Errorf("%s is %d, want 1", name, n)
				}
			}
		})
	}
}

// TestEjectionTime: it grows with every ejection up to a limit, and shrinks again with every quiet interval.
func TestEjectionTime(t *testing.T) {
	rules := outlierRules()
	rules.MaxEjectionTime = 75 * time.Second
	w := newWatch(rules, 2)
	// out returns how many sweeps an ejection lasts.
	out := func() int {
		w.answer(0, 500, 5)
		if !w.Look(w.now) {
			t.Fatal("not ejected")
		}
		for n := 1; ; n++ {
			if w.sweep() {
				return n
			}
		}
	}
	for i, want := range []int{3, 6, 8, 8} { // the sweep that ends one is no quiet interval
		if got := out(); got != want {
			t.Errorf("ejection %d lasts %d sweeps, want %d", i, got, want)
		}
	}
	quiet := func() {
		for range 10 {
			w.sweep()
		}
	}
	quiet()
	// So it does when a passed health check ends one between two sweeps.
	for i, want := range []time.Duration{1, 2, 3, 4, 4} {
		w.answer(0, 500, 5)
		w.Look(w.now)
		if got := w.hosts[outlierAddr(0)].backoff; got != want {
			t.Errorf("ejection %d counts %d times, want %d", i, got, want)
		}
		w.Passed(outlierAddr(0))
	}
	quiet()
	if got := out(); got != 3 {
		t.Errorf("after a quiet time it lasts %d sweeps, want 3", got)
	}
	rules.EjectionJitter = time.Minute
	seen := map[int]bool{}
	for range 50 {
		quiet()
		n := out()
		if seen[n] = true; n < 3 || n > 9 {
			t.Errorf("with jitter: %d sweeps", n)
		}
	}
	if len(seen) < 4 {
		t.Errorf("with jitter: only %v", seen)
	}
}

// TestUpdateKeepsEjections: what is known of hosts that stay survives, and what has left does not count.
func TestUpdateKeepsEjections(t *testing.T) {
	w := newWatch(outlierRules(), 3)
	w.answer(0, 500, 5)
	w.answer(2, 500, 5)
	w.answer(1, 500, 4)
	w.Look(w.now)
	w.Set(w.cfg, outlierHosts(2))
	if w.out() != "0" || w.Active() != 1 {
		t.Errorf("ejected %q, %d active", w.out(), w.Active())
	}
	w.answer(1, 500, 1)
	if w.Look(w.now); w.out() != "01" {
		t.Errorf("ejected %q: a row of failures was forgotten", w.out())
	}
	w.Set(w.cfg, outlierHosts(3))
	if w.Ejected(outlierAddr(2)) {
		t.Error("a host that left and came back is still ejected")
	}
	w.Set(nil, outlierHosts(3))
	if w.Active() != 0 || len(w.shared.hosts) != 0 {
		t.Errorf("without rules: %d ejected, %d hosts", w.Active(), len(w.shared.hosts))
	}
}

// TestReportsCostNothing: neither a success nor a failure allocates, and only what is detected wakes somebody.
func TestReportsCostNothing(t *testing.T) {
	w := newWatch(outlierRules(), 1)
	c := &Cluster{shared: w.shared}
	h := &Host{cluster: c, state: w.shared.host(outlierAddr(0))}
	none := &Host{cluster: c}
	if n := testing.AllocsPerRun(100, func() {
		for _, h := range []*Host{h, none} {
			h.Reached(LocalConnected)
			h.Answered(200)
			h.Answered(503)
			h.Reached(LocalFailed)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if w.woken != 0 {
		t.Errorf("woken %d times", w.woken)
	}
	w.answer(0, 500, 20)
	if w.woken == 0 || w.woken > 2 {
		t.Errorf("woken %d times by 20 failures", w.woken)
	}
}

// TestFiguresHaveEnvoysNames: the names are those that Envoy 1.40 shows, without ejections_detected_degradation, which is of a
// setting that is refused.
func TestFiguresHaveEnvoysNames(t *testing.T) {
	want := strings.Fields(`active consecutive_5xx detected_consecutive_5xx detected_consecutive_gateway_failure
		detected_consecutive_local_origin_failure detected_failure_percentage detected_local_origin_failure_percentage
		detected_local_origin_success_rate detected_success_rate enforced_consecutive_5xx enforced_consecutive_gateway_failure
		enforced_consecutive_local_origin_failure enforced_failure_percentage enforced_local_origin_failure_percentage
		enforced_local_origin_success_rate enforced_success_rate enforced_total overflow success_rate total`)
	var got []string
	for _, f := range newWatch(outlierRules(), 1).Figures() {
		got = append(got, strings.TrimPrefix(f.Name, "ejections_"))
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
