package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// hostility is a kind of bad client, and what must become of it.
type hostility struct {
	attack      string
	connections int
	tls         bool          // over TLS; else in plaintext
	lasts       time.Duration // in the ordinary run
	// ended: connections of the attacker must be ended by the proxy. Else it is enough that they do no harm.
	ended bool
	// counted are the figures of which one at least must have risen: those that well-behaved clients do not raise.
	counted string
}

const (
	// countedLimits are Envoy's figures of requests that were ended by a limit, in time or size.
	countedLimits = `http\.in\.downstream_rq_(4xx|timeout|header_timeout|idle_timeout|tx_reset|rx_reset)|http\.in\.downstream_cx_protocol_error|http\.in\.downstream_cx_idle_timeout`
	// countedLeft are Envoy's figure of clients that went away while their requests were under way.
	countedLeft = `http\.in\.downstream_cx_destroy_remote_active_rq`
	// countedResets are Envoy's figure of clients that begin requests for nothing.
	countedResets = `http\.in\.downstream_rq_too_many_premature_resets`
	// residentBound is by how much any attack here may make a hop grow.
	residentBound = 96 << 20

	slowly = 3500 * time.Millisecond // longer than the limits of hostileLimits
)

// http1Hostilities are what a listener of HTTP/1 meets.
func http1Hostilities() []hostility {
	return []hostility{
		{attack: "silence", connections: 200, lasts: slowly, ended: true, counted: `http\.in\.downstream_cx_idle_timeout`},
		{attack: "slow-head", connections: 200, lasts: slowly, ended: true, counted: countedLimits},
		{attack: "slow-body", connections: 200, lasts: slowly, ended: true, counted: countedLimits},
		{attack: "stopped-body", connections: 200, lasts: slowly, ended: true, counted: countedLimits},
		{attack: "slow-read", connections: 50, counted: countedLeft},
		{attack: "many-headers", connections: 4, ended: true, counted: countedLimits},
		{attack: "endless-header", connections: 4, ended: true, counted: countedLimits},
		{attack: "endless-chunk", connections: 4, ended: true, counted: countedLimits},
		{attack: "endless-trailer", connections: 4, ended: true, counted: countedLimits},
		{attack: "garbage", connections: 4, ended: true, counted: countedLimits},
		{attack: "pipeline", connections: 4, counted: countedLeft},
	}
}

// http2Hostilities are what a listener of HTTP/2 meets.
func http2Hostilities() (all []hostility) {
	for _, k := range [][2]string{
		{"rapid-reset", countedResets},
		{"made-you-reset", countedResets},
		{"continuation", `http2\.header_overflow`},
		{"empty-continuation", `http2\.inbound_empty_frames_flood`},
		{"settings", `http2\.outbound_control_flood`},
		{"ping", `http2\.outbound_control_flood`},
		{"priority", `http2\.inbound_priority_frames_flood`},
		{"empty-data", `http2\.inbound_empty_frames_flood`},
		{"window-updates", `http2\.inbound_window_update_frames_flood`},
	} {
		all = append(all, hostility{attack: k[0], connections: 4, lasts: 2 * time.Second, ended: true, counted: k[1]})
	}
	// These may be answered each, or have their streams reset.
	for _, name := range []string{"hpack-bomb", "many-fields"} {
		all = append(all, hostility{attack: name, connections: 4, counted: `http2\.header_overflow`})
	}
	for _, name := range []string{"zero-window", "one-byte-window"} {
		all = append(all, hostility{attack: name, connections: 4, lasts: slowly, counted: countedLeft})
	}
	return all
}

// hostileLimits is a listener as a careful operator has it, with short times so that a test need not wait.
const hostileLimits = `request_headers_timeout: 1s
request_timeout: 2s
stream_idle_timeout: 5s
common_http_protocol_options: {idle_timeout: 2s, max_headers_count: 100}
`

// hostileBackend answers well-behaved requests with their path, /large with much.
func hostileBackend(t testing.TB) string {
	t.Helper()
	large := make([]byte, 1<<20)
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path != "/large" {
			_, _ = io.WriteString(w, r.URL.Path)
			return
		}
		for range 64 {
			if _, err := w.Write(large); err != nil {
				return
			}
		}
	}))
	t.Cleanup(back.Close)
	return back.Listener.Addr().String()
}

// attackWindows are how often, and for how long, an attack goes on: once in the ordinary run, longer in make soak. HOSTMESH_SOAK is 36
// such times.
func attackWindows(t testing.TB, k hostility) (rounds int, each time.Duration) {
	each = max(k.lasts, time.Second)
	if k.ended {
		each = max(each, 2*time.Second) // who floods is shown the end a second late
	}
	soak := os.Getenv("HOSTMESH_SOAK")
	if soak == "" {
		return 1, each
	}
	d, err := time.ParseDuration(soak)
	if err != nil {
		t.Fatalf("HOSTMESH_SOAK: %v", err)
	}
	return 7, max(d/36, each)
}

// judgeHostile lets every kind of bad client at a hop while others are measured. Nobody else's request fails, the bad ones are
// ended and counted, memory is bounded and all is given back. In make soak the well-behaved are as fast as without, too.
func judgeHostile(t *testing.T, kind hopKind, speak speech, kinds []hostility) {
	spec := hopSpec{to: []string{hostileBackend(t)}, hcm: hostileLimits, cluster: ", circuit_breakers: {thresholds: [{max_requests: 10000, max_connections: 10000, max_pending_requests: 10000}]}"}
	if speak != onlyHTTP1 {
		spec.hcm += "http2_protocol_options: {max_concurrent_streams: 100}\n"
	}
	for _, k := range kinds {
		t.Run(k.attack, func(t *testing.T) {
			spec := spec
			if speak == bothOverTLS {
				certs := testbed.NewCerts(t)
				spec.tls = &certs
			}
			h, decoy := startHop(t, kind, spec), hop{}
			if os.Getenv("HOSTMESH_SOAK") != "" {
				decoy = startHop(t, kind, spec)
			}
			hostile(t, h, decoy, speak, k)
		})
	}
}

// hostile attacks h. When latencies are measured, a decoy that nobody else uses is attacked in turn: attackers elsewhere than on
// the machine of the proxy would not take its processor, and what the attack itself takes is there both times.
func hostile(t *testing.T, h, decoy hop, speak speech, k hostility) {
	rounds, each := attackWindows(t, k)
	others := startBystanders(t, h.addr, speak)
	h.eventuallyStat(t, `http\.in\.downstream_cx_active`, func(n uint64) bool { return n >= bystanderClients })
	before, counted, open := h.resident(t), h.stats(t, k.counted), h.stats(t, `http\.in\.downstream_cx_active`)
	most := watchResident(t, h)
	var all tally
	for round := range rounds {
		others.during(attackedElsewhere(round))
		if decoy.addr == "" {
			time.Sleep(time.Second)
		} else {
			attackHop(t, decoy, k, each)
		}
		others.during(attacked(round))
		one := attackHop(t, h, k, each)
		all.Connections, all.Ended, all.Open = all.Connections+one.Connections, all.Ended+one.Ended, all.Open+one.Open
	}
	others.during("after")
	grown := int64(most()) - int64(before)
	if all.Connections < int64(k.connections) || k.ended && all.Ended == 0 {
		t.Errorf("of %d connections %d were ended", all.Connections, all.Ended)
	}
	if grown > residentBound {
		t.Errorf("resident memory grew by %d MiB", grown>>20)
	}
	h.eventuallyStat(t, k.counted, func(n uint64) bool { return n > counted })
	h.eventuallyStat(t, `http\.in\.downstream_cx_active`, func(n uint64) bool { return n <= open })
	h.eventuallyStat(t, `cluster\.back\.upstream_rq_active`, func(n uint64) bool { return n <= bystanderClients })
	others.finish()
	t.Logf("%d connections, %d of them ended; resident memory +%d KiB", all.Connections, all.Ended, grown>>10)
	judgeTimes(t, others, rounds)
}

// attackedElsewhere is the period with which that of the attack is compared.
func attackedElsewhere(round int) string { return fmt.Sprintf("round %d, elsewhere", round) }

func attacked(round int) string { return fmt.Sprintf("the attack, round %d", round) }

func attackHop(t *testing.T, h hop, k hostility, d time.Duration) tally {
	t.Helper()
	args := []string{"attack", k.attack, h.addr, strconv.Itoa(k.connections), d.String()}
	if k.tls {
		args = append(args, "tls")
	}
	out, err := role(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	one, err := readTally(out)
	if err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return one
}

// judgeTimes says what became of the latencies; in make soak, which has the machine to itself, they are held to the promise. Machines
// have moods, so the periods of a round are compared with each other, and the median of the rounds counts.
func judgeTimes(t *testing.T, others *bystanders, rounds int) {
	t.Helper()
	var ratios []float64
	for round := range rounds {
		without, n := others.quantile(attackedElsewhere(round), 0.99)
		during, m := others.quantile(attacked(round), 0.99)
		ratios = append(ratios, float64(during)/float64(max(without, 1)))
		t.Logf("p99 %s of %d without, %s of %d during the attack", without.Round(time.Microsecond), n, during.Round(time.Microsecond), m)
	}
	slices.Sort(ratios)
	median := ratios[len(ratios)/2]
	t.Logf("ratio %.2f (%.2f to %.2f)", median, ratios[0], ratios[len(ratios)-1])
	if rounds > 1 && median > 1.5 {
		t.Errorf("p99 is %.2f times as long during the attack, want 1.5 at most", median)
	}
}

// watchResident samples the hop's resident memory until the returned function is called, which tells the most.
func watchResident(t testing.TB, h hop) func() uint64 {
	ctx, cancel := context.WithCancel(t.Context())
	var most atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", h.cmd.Process.Pid)); err == nil {
				var size, resident uint64
				if _, err := fmt.Sscan(string(data), &size, &resident); err == nil {
					most.Store(max(most.Load(), resident*uint64(os.Getpagesize())))
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return func() uint64 { cancel(); <-done; return most.Load() }
}
