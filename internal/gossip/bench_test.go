package gossip

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkDeathAmong50 reports how long it takes until a control node has seen that one of 50 hosts died. It is make
// bench's work gossip-death; the figure to hold is 3 s.
func BenchmarkDeathAmong50(b *testing.B) {
	const hosts, deaths = 50, 10
	control := start(b, Options{HostID: "control", Role: Control})
	var ring []*running
	for i := range hosts {
		ring = append(ring, start(b, Options{HostID: fmt.Sprintf("h%d", i), Role: Proxy, Config: seeds(control)}))
	}
	for i := range hosts {
		until(b, control, "all hosts", is(fmt.Sprintf("h%d", i), Alive))
	}
	time.Sleep(5 * time.Second) // every host knows every other
	var took []time.Duration
	for i := range deaths {
		ring[i*5].kill(b)
		began := time.Now()
		until(b, control, "the death", is(fmt.Sprintf("h%d", i*5), Dead))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(took[deaths/2].Seconds(), "p50-s")
	b.ReportMetric(took[deaths-1].Seconds(), "max-s")
}
