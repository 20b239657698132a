package resolve

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestTimesOfLookups(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name string
		dns  config.DNS
		ttl  time.Duration
		want []time.Duration // in the first 31 s
	}{
		{"refresh", config.DNS{Refresh: 10 * s}, 3 * s, []time.Duration{0, 10 * s, 20 * s, 30 * s}},
		{"TTL", config.DNS{Refresh: 3 * s, RespectTTL: true}, 15 * s, []time.Duration{0, 15 * s, 30 * s}},
		{"TTL of 0", config.DNS{Refresh: 10 * s, RespectTTL: true}, 0, []time.Duration{0, 10 * s, 20 * s, 30 * s}},
		{"least TTL", config.DNS{Refresh: 3 * s, RespectTTL: true, LeastTTL: 20 * s}, s, []time.Duration{0, 20 * s}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.set("a.example", c.ttl, "10.0.0.1")
				run(t, f, configOf(dnsCluster("c", c.dns, "a.example")))
				time.Sleep(31 * s)
				synctest.Wait()
				if got := f.times("a.example"); !slices.Equal(got, c.want) {
					t.Errorf("asked at %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestJitterDelaysEachLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("a.example", 0, "10.0.0.1")
		run(t, f, configOf(dnsCluster("c", config.DNS{Refresh: 10 * time.Second, Jitter: 5 * time.Second}, "a.example")))
		time.Sleep(time.Hour)
		synctest.Wait()
		times, pauses := f.times("a.example"), map[time.Duration]bool{}
		for i := 1; i < len(times); i++ {
			pause := times[i] - times[i-1]
			pauses[pause] = true
			if pause < 10*time.Second || pause >= 15*time.Second {
				t.Errorf("got a pause of %s", pause)
			}
		}
		if len(pauses) < 100 {
			t.Errorf("got %d pauses that differ in %d lookups", len(pauses), len(times))
		}
	})
}

// TestFailuresBackOff: the pause is anything up to a bound that doubles, and starts anew after a good answer.
func TestFailuresBackOff(t *testing.T) {
	n := newName(key{}, &config.DNS{Refresh: 5 * time.Second}, time.Time{})
	n.failures = 3
	if got := n.pause(true, 0); got != 5*time.Second {
		t.Errorf("without a rate of its own: got %s, want the refresh rate", got)
	}
	n.dns = &config.DNS{Refresh: time.Hour, FailureBase: time.Second, FailureMost: 10 * time.Second}
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 1000: 10 * time.Second} {
		n.failures = failures
		longest := time.Duration(0)
		for range 1000 {
			longest = max(longest, n.pause(true, time.Minute))
		}
		if longest > want || longest < want*9/10 {
			t.Errorf("after %d failures: up to %s, want up to %s", failures, longest, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.fail("a.example", errors.New("SERVFAIL"))
		_, r := run(t, f, configOf(dnsCluster("c", config.DNS{Refresh: time.Hour, FailureBase: time.Second, FailureMost: 10 * time.Second}, "a.example")))
		time.Sleep(10 * time.Minute)
		failed := r.Stats()["c"].UpdateFailure
		if failed < 60 || failed > 400 {
			t.Errorf("asked %d times in 10 minutes, want about 120", failed)
		}
		f.set("a.example", 0, "10.0.0.1")
		time.Sleep(11 * time.Second)
		expect(t, r, "c c: 10.0.0.1:80")
		if n := r.names[key{"c", "a.example"}].failures; n != 0 {
			t.Errorf("after a good answer the back-off goes on: %d failures", n)
		}
	})
}

// TestListenersWaitForTheFirstAnswer: what is new waits until its names were asked for, what is there stays as it is.
func TestListenersWaitForTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.hold = 4 * time.Second
		f.set("a.example", 0, "10.0.0.1")
		f.set("b.example", 0, "10.0.0.2")
		a, b := dnsCluster("a", config.DNS{}, "a.example"), dnsCluster("b", config.DNS{}, "b.example")
		from, r := run(t, f, configOf(a))
		expect(t, r, "nothing")
		time.Sleep(4 * time.Second)
		expect(t, r, "a a: 10.0.0.1:80")

		from.Set(configOf(b)) // a leaves
		expect(t, r, "a a: 10.0.0.1:80 b:")
		time.Sleep(4 * time.Second)
		expect(t, r, "b b: 10.0.0.2:80")

		static := &config.Cluster{Name: "b", Assigned: true, Endpoints: []*config.Endpoint{{Addr: config.Address{IP: netip.MustParseAddrPort("10.0.0.7:70")}}}}
		from.Set(configOf(static))
		expect(t, r, "b b: 10.0.0.7:70")
		from.Set(configOf(b)) // as it was until the name is known
		expect(t, r, "b b: 10.0.0.7:70")
		time.Sleep(4 * time.Second)
		expect(t, r, "b b: 10.0.0.2:80")
	})
}

func TestAFailureEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.hold = time.Second
		f.fail("a.example", errors.New("SERVFAIL"))
		_, r := run(t, f, configOf(dnsCluster("a", config.DNS{}, "a.example")))
		expect(t, r, "nothing")
		time.Sleep(time.Second)
		expect(t, r, "a a:")
	})
}

func TestTheWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.hold = time.Hour
		_, r := run(t, f, configOf(dnsCluster("a", config.DNS{Refresh: time.Hour}, "a.example")))
		time.Sleep(warming - time.Nanosecond)
		expect(t, r, "nothing")
		time.Sleep(time.Nanosecond)
		expect(t, r, "a a:")
		time.Sleep(maxLookup)
		synctest.Wait()
		if got := r.Stats()["a"]; got.UpdateFailure != 1 {
			t.Errorf("a lookup that does not end: got %+v", got)
		}
	})
}
