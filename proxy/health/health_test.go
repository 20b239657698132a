package health

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func addr(i byte) config.Address {
	return config.Address{IP: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 80)}
}

func checked(hc *config.HealthCheck, hosts ...byte) *config.Cluster {
	c := &config.Cluster{Name: "web", Assigned: true, HealthCheck: hc}
	for _, i := range hosts {
		c.Endpoints = append(c.Endpoints, &config.Endpoint{Addr: addr(i), Weight: 1})
	}
	return c
}

func everySecond() *config.HealthCheck {
	return &config.HealthCheck{
		Timeout: 100 * time.Millisecond, Interval: time.Second, UnhealthyInterval: time.Second, UnhealthyEdgeInterval: time.Second, HealthyEdgeInterval: time.Second,
		NoTrafficInterval: 10 * time.Second, NoTrafficHealthyInterval: 10 * time.Second, UnhealthyThreshold: 2, HealthyThreshold: 2,
	}
}

// fake is the endpoints of a test: what their checks come to, and how often they were made.
type fake struct {
	mu       sync.Mutex
	outcomes map[config.Address]Outcome
	count    map[config.Address]int
	running  int
	most     int
	takes    time.Duration
	lasts    func(config.Address) time.Duration // takes the place of takes
}

func (f *fake) check(ctx context.Context, _ string, _ *config.HealthCheck, at config.Address, _ Way, _ *link) (Outcome, *link) {
	f.mu.Lock()
	f.count[at]++
	f.running++
	f.most = max(f.most, f.running)
	takes := f.takes
	if f.lasts != nil {
		takes = f.lasts(at)
	}
	f.mu.Unlock()
	if takes > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(takes):
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	return f.outcomes[at], nil
}

func (f *fake) set(at config.Address, o Outcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outcomes[at] = o
}

func (f *fake) slow(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes = d
}

func (f *fake) counted(at config.Address) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[at]
}

// run has a checker run in a bubble of its own time.
func run(t *testing.T, f func(c *Checker, fake *fake)) {
	synctest.Test(t, func(t *testing.T) {
		fake := &fake{outcomes: map[config.Address]Outcome{}, count: map[config.Address]int{}}
		c := New(nil)
		c.check = fake.check
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		f(c, fake)
		cancel()
		<-done
	})
}

func flagsOf(c *Checker) map[config.Address]Flags {
	hosts, _ := c.Hosts("web")
	all := map[config.Address]Flags{}
	for _, h := range hosts {
		all[h.Endpoint.Addr] = h.Flags
	}
	return all
}

// after lets time pass, and what is then to be done be done.
func after(d time.Duration) {
	time.Sleep(d + time.Millisecond)
	synctest.Wait()
}

func TestChecksGoOn(t *testing.T) {
	run(t, func(c *Checker, f *fake) {
		f.set(addr(2), Refused)
		c.Set(checked(everySecond(), 1, 2), func() bool { return true })
		if got := flagsOf(c); got[addr(1)] != Failed|Pending {
			t.Errorf("before the first check: %v", got)
		}
		after(0)
		if got := flagsOf(c); got[addr(1)] != 0 || got[addr(2)] != Failed {
			t.Errorf("after the first check: %v", got)
		}
		f.set(addr(1), Refused)
		f.set(addr(2), Passed)
		after(time.Second)
		if got := flagsOf(c); got[addr(1)] != 0 || got[addr(2)] != Failed {
			t.Errorf("before the thresholds: %v", got)
		}
		after(time.Second)
		if got := flagsOf(c); got[addr(1)] != Failed || got[addr(2)] != 0 {
			t.Errorf("after the thresholds: %v", got)
		}
		s, _ := c.Stats("web")
		if want := (Stats{Attempt: 6, Success: 3, Failure: 3, NetworkFailure: 3, Healthy: 1}); s != want {
			t.Errorf("stats %+v, want %+v", s, want)
		}
	})
}

func TestSlowWithoutTraffic(t *testing.T) {
	run(t, func(c *Checker, f *fake) {
		var used atomic.Bool
		c.Set(checked(everySecond(), 1), used.Load)
		after(5 * time.Second)
		if n := f.counted(addr(1)); n != 1 {
			t.Errorf("%d checks in 5 s without traffic", n)
		}
		used.Store(true)
		after(10 * time.Second)
		if n := f.counted(addr(1)); n < 6 || n > 7 {
			t.Errorf("%d checks in 15 s, of which 5 with traffic", n)
		}
	})
}

// TestUpdateKeepsState: what is known of an endpoint survives; a removed one is used until a check fails, unless the cluster
// or the control plane says otherwise.
func TestUpdateKeepsState(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(c *config.Cluster)
		kept   bool
	}{
		{"healthy", func(*config.Cluster) {}, true},
		{"ignore_health_on_host_removal", func(c *config.Cluster) { c.DropRemoved = true }, false},
		{"said to be draining", func(c *config.Cluster) { c.Endpoints[1].Health = config.Draining }, false},
		{"said to be unhealthy", func(c *config.Cluster) { c.Endpoints[1].Health = config.Unhealthy }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(checker *Checker, f *fake) {
				used := func() bool { return true }
				first := checked(everySecond(), 1, 2)
				c.change(first)
				checker.Set(first, used)
				after(0)
				next := checked(first.HealthCheck, 1, 3)
				next.DropRemoved = first.DropRemoved
				f.slow(100 * time.Microsecond) // or the first check of the new one might have ended already
				checker.Set(next, used)
				got := flagsOf(checker)
				if got[addr(1)] != 0 || got[addr(3)] != Failed|Pending {
					t.Errorf("one that stayed, and a new one: %v", got)
				}
				flags, there := got[addr(2)]
				if there != c.kept || there && flags != Removed {
					t.Errorf("the one that was removed: %v", got)
				}
				if !c.kept {
					return
				}
				f.set(addr(2), Rejected)
				after(time.Second)
				if got := flagsOf(checker); len(got) != 2 {
					t.Errorf("after a failed check: %v", got)
				}
				n := f.counted(addr(2))
				after(10 * time.Second)
				if f.counted(addr(2)) != n {
					t.Error("it is checked after it has left")
				}
			})
		})
	}
}

func TestRemovedComesBack(t *testing.T) {
	run(t, func(c *Checker, f *fake) {
		used, hc := func() bool { return true }, everySecond()
		c.Set(checked(hc, 1, 2), used)
		after(0)
		c.Set(checked(hc, 1), used)
		c.Set(checked(hc, 1, 2), used)
		if got := flagsOf(c); got[addr(2)] != 0 {
			t.Errorf("%v", got)
		}
		if hosts, _ := c.Hosts("web"); !slices.EqualFunc(hosts, []byte{1, 2}, func(h Host, i byte) bool { return h.Endpoint.Addr == addr(i) }) {
			t.Errorf("hosts %v", hosts)
		}
	})
}

// many is a cluster with so many endpoints, at addresses of their own.
func many(name string, number byte, n int) *config.Cluster {
	c := checked(everySecond())
	c.Name = name
	for i := range n {
		c.Endpoints = append(c.Endpoints, &config.Endpoint{Addr: config.Address{IP: netip.AddrPortFrom(addr(number).IP.Addr(), uint16(i+1))}, Weight: 1})
	}
	return c
}

// TestEveryClusterHasItsTurn: clusters whose checks all end in their timeouts do not keep those of another one waiting, whether
// that comes before them or after.
func TestEveryClusterHasItsTurn(t *testing.T) {
	for _, dead := range []int{1, 3, 40} {
		t.Run(fmt.Sprint(dead), func(t *testing.T) {
			run(t, func(c *Checker, f *fake) {
				f.lasts = func(at config.Address) time.Duration {
					if at == addr(1) {
						return 0
					}
					return 5 * time.Second
				}
				used := func() bool { return true }
				for i := range dead {
					c.Set(many(fmt.Sprint("dead ", i), byte(2+i), 1000), used)
				}
				after(time.Second)
				c.Set(checked(everySecond(), 1), used)
				after(6 * time.Second) // a place that is taken may be waited for once
				if flags := flagsOf(c); flags[addr(1)] != 0 {
					t.Fatalf("the first check has not ended: %v", flags)
				}
				before := f.counted(addr(1))
				after(time.Minute)
				if n := f.counted(addr(1)) - before; n < 60/6 || dead <= 3 && n < 59 {
					t.Errorf("%d checks in a minute", n)
				}
			})
		})
	}
}

// TestManyAreBounded: the checks of many endpoints do not run all at once, and those of a cluster that left end.
func TestManyAreBounded(t *testing.T) {
	run(t, func(c *Checker, f *fake) {
		f.takes = time.Hour
		names := []string{"web"}
		c.Set(many("web", 1, 1000), func() bool { return true })
		after(time.Minute)
		f.mu.Lock()
		if f.running != mostAtATime/2 || f.most != mostAtATime/2 {
			t.Errorf("%d run, %d at most, want %d", f.running, f.most, mostAtATime/2)
		}
		f.mu.Unlock()
		for i := range mostAtATime {
			name := fmt.Sprint("another ", i)
			names = append(names, name)
			c.Set(many(name, byte(i), 1000), func() bool { return true })
		}
		after(time.Minute)
		f.mu.Lock()
		if f.running != mostAtATime || f.most != mostAtATime {
			t.Errorf("%d run, %d at most, want %d", f.running, f.most, mostAtATime)
		}
		f.mu.Unlock()
		for _, name := range names {
			c.Forget(name)
		}
		synctest.Wait()
		f.mu.Lock()
		if f.running != 0 {
			t.Errorf("%d run after the cluster has left", f.running)
		}
		f.mu.Unlock()
		if _, known := c.Hosts("web"); known {
			t.Error("it is still there")
		}
	})
}

func TestInitialJitter(t *testing.T) {
	run(t, func(c *Checker, f *fake) {
		hc := everySecond()
		hc.InitialJitter = time.Minute
		all := checked(hc)
		for i := range 100 {
			all.Endpoints = append(all.Endpoints, &config.Endpoint{Addr: addr(byte(i)), Weight: 1})
		}
		c.Set(all, func() bool { return false })
		after(30 * time.Second)
		waiting := 0
		for _, flags := range flagsOf(c) {
			if flags&Pending != 0 {
				waiting++
			}
		}
		if waiting < 20 || waiting > 80 {
			t.Errorf("%d of 100 wait for their first check after half of the jitter", waiting)
		}
		after(30 * time.Second)
		for at, flags := range flagsOf(c) {
			if flags&Pending != 0 {
				t.Errorf("%v waits for its first check", at)
			}
		}
	})
}

// TestOtherChecks: when the way to check changes, the new way is used at once and the state stays.
func TestOtherChecks(t *testing.T) {
	run(t, func(c *Checker, f *fake) {
		slow := everySecond()
		slow.Interval = time.Hour
		c.Set(checked(slow, 1), func() bool { return true })
		after(time.Minute)
		c.Set(checked(everySecond(), 1), func() bool { return true })
		if got := flagsOf(c); got[addr(1)] != 0 {
			t.Errorf("%v", got)
		}
		after(2 * time.Second)
		if n := f.counted(addr(1)); n != 4 {
			t.Errorf("%d checks, want 4", n)
		}
	})
}
