package balance_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// loop is a picker with the states of its hosts, as an upstream.Cluster has them.
type loop struct {
	balance.Picker
	now    time.Time
	states map[config.Address]*balance.State
	active map[config.Address]int
}

func newLoop(c *config.Cluster, seed uint64) *loop {
	l := &loop{now: time.Unix(1e9, 0), states: map[config.Address]*balance.State{}, active: map[config.Address]int{}}
	l.Init(rand.New(rand.NewPCG(seed, 2)), l)
	l.update(c)
	return l
}

func (l *loop) Active(i int) int { return l.active[l.Plan().Hosts[i].Addr] }

func (l *loop) update(c *config.Cluster) {
	plan := balance.New(c, l.Plan(), l.now)
	states := make([]*balance.State, len(plan.Hosts))
	for i, e := range plan.Hosts {
		if l.states[e.Addr] == nil {
			l.states[e.Addr] = &balance.State{}
		}
		states[i] = l.states[e.Addr]
	}
	l.Use(plan, states, l.now)
}

// pick returns the number of the next host, 0 when there is none.
func (l *loop) pick() int {
	if l.Slow() {
		l.Tick(l.now)
	}
	i, _ := l.Pick(balance.Key{}, 0)
	return l.number(i)
}

func (l *loop) number(i int) int {
	if i < 0 {
		return 0
	}
	return int(l.Plan().Hosts[i].Addr.IP.Addr().As4()[3])
}

// shares are what part of n requests each host gets.
func (l *loop) shares(n int) map[int]float64 {
	got := map[int]float64{}
	for range n {
		got[l.pick()] += 1 / float64(n)
	}
	return got
}

func near(got, want map[int]float64, off float64) bool {
	for i := range 256 {
		if math.Abs(got[i]-want[i]) > off {
			return false
		}
	}
	return true
}

func host(i int, weight uint32) *config.Endpoint {
	return &config.Endpoint{Addr: config.Address{IP: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:80", i))}, Weight: weight}
}

func in(e *config.Endpoint, zone string, weight uint32) *config.Endpoint {
	e.Locality.Zone, e.LocalityWeight = zone, weight
	return e
}

// level makes hosts from..to of a priority, of which so many are healthy and so many degraded.
func level(priority uint32, from, to, healthy, degraded int) []*config.Endpoint {
	var out []*config.Endpoint
	for i := from; i <= to; i++ {
		e := host(i, 1)
		e.Priority = priority
		switch n := i - from; {
		case n < healthy:
		case n < healthy+degraded:
			e.Health = config.Degraded
		default:
			e.Health = config.Unhealthy
		}
		out = append(out, e)
	}
	return out
}

// TestPriorities has the rows of Envoy's documentation on priority levels, degraded endpoints and panic.
func TestPriorities(t *testing.T) {
	type row struct {
		name             string
		panic            float64
		overprovisioning uint32
		hosts            [][]*config.Endpoint
		want             []float64 // of the levels, then of the degraded hosts of the levels
		panics           bool
	}
	// levels gives each level 100 hosts: (healthy, degraded) each.
	levels := func(counts ...[2]int) (out [][]*config.Endpoint) {
		for i, n := range counts {
			out = append(out, level(uint32(i), 50*i+1, 50*i+50, n[0], n[1]))
		}
		return out
	}
	for _, c := range []row{
		{"all healthy", 50, 0, levels([2]int{50, 0}, [2]int{50, 0}), []float64{1, 0}, false},
		{"72 percent are enough", 50, 0, levels([2]int{36, 0}, [2]int{50, 0}), []float64{1, 0}, false},
		{"a half spills", 50, 0, levels([2]int{25, 0}, [2]int{50, 0}), []float64{.70, .30}, false},
		{"a quarter", 50, 0, levels([2]int{12, 0}, [2]int{50, 0}), []float64{.33, .67}, false},
		{"none", 50, 0, levels([2]int{0, 0}, [2]int{50, 0}), []float64{0, 1}, false},
		{"three levels", 50, 0, levels([2]int{10, 0}, [2]int{10, 0}, [2]int{50, 0}), []float64{.28, .28, .44}, false},
		{"more than 100 in sum", 50, 0, levels([2]int{25, 0}, [2]int{25, 0}), []float64{.70, .30}, false},
		{"less than all, no panic", 0, 0, levels([2]int{5, 0}, [2]int{15, 0}), []float64{.25, .75}, false},
		{"another factor", 50, 100, levels([2]int{40, 0}, [2]int{50, 0}), []float64{.80, .20}, false},
		{"degraded take the rest", 50, 0, levels([2]int{25, 25}), []float64{.70, .30}, false},
		{"healthy of the next level before degraded", 50, 0, levels([2]int{20, 30}, [2]int{20, 0}), []float64{.56, .44, 0, 0}, false},
		{"all in panic by numbers of hosts", 50, 0, levels([2]int{5, 0}, [2]int{5, 0}), []float64{.50, .50}, true},
		{"few healthy, but all is borne", 50, 0, levels([2]int{10, 0}, [2]int{30, 0}), []float64{.28, .72}, false},
		{"one of two in panic", 50, 0, levels([2]int{5, 0}, [2]int{26, 0}), []float64{.17, .83}, false},
		{"none healthy, no panic", 0, 0, levels([2]int{0, 0}, [2]int{0, 0}), []float64{0, 0}, false},
		{"nobody", 50, 0, nil, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &config.Cluster{Policy: config.Random, PanicThreshold: c.panic, Balancing: config.Balancing{Overprovisioning: c.overprovisioning}}
			cfg.Endpoints = slices.Concat(c.hosts...)
			l := newLoop(cfg, 1)
			got := make([]float64, 2*len(c.hosts))
			const n = 100_000
			for range n {
				i, panics := l.Pick(balance.Key{}, 0)
				if i < 0 {
					continue
				}
				if c.panics && !panics {
					t.Fatal("no panic")
				}
				e := l.Plan().Hosts[i]
				if !panics && e.Health == config.Unhealthy {
					t.Fatal("an unhealthy host without panic")
				}
				at := int(e.Priority)
				if !panics && e.Health == config.Degraded {
					at += len(c.hosts)
				}
				got[at] += 1. / n
			}
			for i := range got {
				want := 0.0
				if i < len(c.want) {
					want = c.want[i]
				}
				if len(c.hosts) == 1 && i == 1 {
					want = c.want[1]
				}
				if math.Abs(got[i]-want) > .01 {
					t.Errorf("got %.3f, want %.3f", got, c.want)
					break
				}
			}
		})
	}
}

func TestPanicSparesTheDraining(t *testing.T) {
	hosts := level(0, 1, 4, 1, 0)
	hosts[3].Health = config.Draining
	l := newLoop(&config.Cluster{PanicThreshold: 50, Endpoints: hosts}, 1)
	if got := l.shares(3000); got[4] != 0 || len(got) != 3 {
		t.Errorf("got %v, want hosts 1 to 3", got)
	}
}

func TestLocalityWeights(t *testing.T) {
	hosts := func() []*config.Endpoint {
		return []*config.Endpoint{in(host(1, 2), "a", 3), in(host(2, 1), "a", 3), in(host(3, 1), "b", 1), in(host(4, 1), "c", 0)}
	}
	sick := hosts()
	sick[0].Health = config.Unhealthy // a keeps 0.7 of its weight
	for _, c := range []struct {
		name     string
		policy   config.Policy
		weighted bool
		hosts    []*config.Endpoint
		want     map[int]float64
	}{
		{"round robin", config.RoundRobin, true, hosts(), map[int]float64{1: .5, 2: .25, 3: .25}},
		{"random", config.Random, true, hosts(), map[int]float64{1: .375, 2: .375, 3: .25}},
		{"least request", config.LeastRequest, true, hosts(), map[int]float64{1: .5, 2: .25, 3: .25}},
		{"ring", config.RingHash, true, hosts(), map[int]float64{1: .5, 2: .25, 3: .25}},
		{"maglev", config.Maglev, true, hosts(), map[int]float64{1: .5, 2: .25, 3: .25}},
		{"part of a locality", config.RoundRobin, true, sick, map[int]float64{2: 2.1 / 3.1, 3: 1 / 3.1}},
		{"not asked for", config.RoundRobin, false, hosts(), map[int]float64{1: .4, 2: .2, 3: .2, 4: .2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLoop(&config.Cluster{Policy: c.policy, PanicThreshold: 50, Endpoints: c.hosts, Balancing: config.Balancing{LocalityWeighted: c.weighted}}, 1)
			off := .005
			if c.policy == config.RingHash {
				off = .04 // of a ring of so few points
			}
			if got := l.shares(50_000); !near(got, c.want, off) {
				t.Errorf("got %.3v, want %.3v", got, c.want)
			}
		})
	}
	all := hosts()
	for _, e := range all {
		e.LocalityWeight = 0
	}
	l := newLoop(&config.Cluster{Endpoints: all, Balancing: config.Balancing{LocalityWeighted: true}}, 1)
	if got := l.shares(5000); !near(got, map[int]float64{1: .4, 2: .2, 3: .2, 4: .2}, .005) {
		t.Errorf("without any weight: got %v", got)
	}
}

// TestTurnsSurviveUpdates: with a change before each request every host still gets its weight's share, and in its turn.
func TestTurnsSurviveUpdates(t *testing.T) {
	for _, c := range []struct {
		name    string
		weights []uint32
		zones   bool
	}{{"weights", []uint32{1, 2, 7}, false}, {"equal", []uint32{1, 1, 1, 1}, false}, {"localities", []uint32{1, 1, 1}, true}} {
		t.Run(c.name, func(t *testing.T) {
			cfg := func(extra int) *config.Cluster {
				out := &config.Cluster{PanicThreshold: 50, MaxRequests: uint32(extra)}
				for i, w := range c.weights {
					e := host(i+1, w)
					if c.zones {
						in(e, fmt.Sprint(i), uint32(i+1))
						out.LocalityWeighted = true
					}
					out.Endpoints = append(out.Endpoints, e)
				}
				return out
			}
			sum := 0.0
			want := func(i int) float64 {
				if c.zones {
					return float64(i+1) / 6
				}
				return float64(c.weights[i]) / sum
			}
			for _, w := range c.weights {
				sum += float64(w)
			}
			l := newLoop(cfg(0), 7)
			got := make([]float64, len(c.weights))
			for n := 1; n <= 2000; n++ {
				l.update(cfg(n))
				got[l.pick()-1]++
				for i := range got {
					// Never more than a turn or two off: a random choice would be off by dozens.
					if off := got[i] - float64(n)*want(i); math.Abs(off) > 2 {
						t.Fatalf("after %d requests host %d has %v, want %.1f", n, i+1, got[i], float64(n)*want(i))
					}
				}
			}
		})
	}
}

func TestHostsThatComeAndGoKeepTheOthersTurns(t *testing.T) {
	l := newLoop(&config.Cluster{Endpoints: []*config.Endpoint{host(1, 1), host(2, 3)}}, 3)
	got := map[int]float64{}
	for n := range 4000 {
		list := []*config.Endpoint{host(1, 1), host(2, 3)}
		if n%2 == 0 {
			list = append(list, host(3, 4))
		}
		l.update(&config.Cluster{Endpoints: list})
		got[l.pick()]++
	}
	if r := got[2] / got[1]; r < 2.5 || r > 3.5 {
		t.Errorf("got %v, want three times as much for 2 as for 1", got)
	}
}

func TestLeastRequest(t *testing.T) {
	hosts := []*config.Endpoint{host(1, 1), host(2, 1), host(3, 1), host(4, 1)}
	for _, c := range []struct {
		choices uint32
		want    float64 // of the idle one: that it is among the choices
	}{{2, 1 - .75*.75}, {8, 1 - math.Pow(.75, 8)}} {
		l := newLoop(&config.Cluster{Policy: config.LeastRequest, Endpoints: hosts, Balancing: config.Balancing{Choice: &config.Choice{Hosts: c.choices, Bias: 1}}}, 1)
		for i := range 3 {
			l.active[hosts[i].Addr] = 5
		}
		if got := l.shares(20_000); math.Abs(got[4]-c.want) > .02 {
			t.Errorf("%d choices: the idle host got %.3f, want %.3f", c.choices, got[4], c.want)
		}
	}
	// With other weights a host's weight is divided by its requests.
	for _, c := range []struct {
		bias float64
		want map[int]float64
	}{
		{0, map[int]float64{1: .25, 2: .75}},
		{1, map[int]float64{1: .5, 2: .5}},
		{2, map[int]float64{1: .75, 2: .25}},
	} {
		two := []*config.Endpoint{host(1, 1), host(2, 3)}
		l := newLoop(&config.Cluster{Policy: config.LeastRequest, Endpoints: two, Balancing: config.Balancing{Choice: &config.Choice{Hosts: 2, Bias: c.bias}}}, 1)
		l.active[two[1].Addr] = 2
		if got := l.shares(4000); !near(got, c.want, .01) {
			t.Errorf("bias %v: got %v, want %v", c.bias, got, c.want)
		}
	}
}

func TestSlowStart(t *testing.T) {
	for _, policy := range []config.Policy{config.RoundRobin, config.LeastRequest} {
		for _, c := range []struct {
			name       string
			aggression float64
			least      float64
			after      time.Duration
			factor     float64
		}{
			{"at first the least weight", 1, .1, 0, .1},
			{"a quarter", 1, .1, 15 * time.Second, .25},
			{"a quarter, fast", 2, .1, 15 * time.Second, .5},
			{"a half, slow", .5, .1, 30 * time.Second, .25},
			{"not less than the least", 1, .4, 15 * time.Second, .4},
			{"after the window", 1, .1, time.Minute, 1},
		} {
			t.Run(fmt.Sprint(c.name, policy), func(t *testing.T) {
				cfg := func(hosts ...*config.Endpoint) *config.Cluster {
					return &config.Cluster{Policy: policy, Endpoints: hosts, Balancing: config.Balancing{SlowStart: &config.SlowStart{Window: time.Minute, Aggression: c.aggression, MinWeight: c.least}}}
				}
				l := newLoop(cfg(host(1, 1)), 1)
				l.now = l.now.Add(time.Hour)
				l.update(cfg(host(1, 1), host(2, 1)))
				l.now = l.now.Add(c.after)
				l.update(cfg(host(1, 1), host(2, 1))) // a change does not begin it again
				share := c.factor / (1 + c.factor)
				off := .01
				if policy == config.LeastRequest && c.factor == 1 {
					off = .02
				}
				if got := l.shares(20_000); !near(got, map[int]float64{1: 1 - share, 2: share}, off) {
					t.Errorf("got %v, want %.3f for the new host", got, share)
				}
			})
		}
	}
	t.Run("a host that gets healthy", func(t *testing.T) {
		cfg := func(h config.Health) *config.Cluster {
			sick := host(2, 1)
			sick.Health = h
			return &config.Cluster{Endpoints: []*config.Endpoint{host(1, 1), sick, host(3, 1)}, Balancing: config.Balancing{SlowStart: &config.SlowStart{Window: time.Minute, Aggression: 1, MinWeight: .1}}}
		}
		l := newLoop(cfg(config.Unhealthy), 1)
		l.now = l.now.Add(time.Hour)
		l.update(cfg(config.Healthy))
		if got := l.shares(20_000); !near(got, map[int]float64{1: 1 / 2.1, 2: .1 / 2.1, 3: 1 / 2.1}, .01) {
			t.Errorf("got %v", got)
		}
		l.now = l.now.Add(time.Hour)
		if l.shares(1); l.Slow() {
			t.Error("the slow start does not end")
		}
	})
}

func TestRandomIgnoresWeights(t *testing.T) {
	l := newLoop(&config.Cluster{Policy: config.Random, Endpoints: []*config.Endpoint{host(1, 1), host(2, 9)}}, 1)
	if got := l.shares(20_000); !near(got, map[int]float64{1: .5, 2: .5}, .02) {
		t.Errorf("got %v", got)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, policy := range []config.Policy{config.RoundRobin, config.LeastRequest, config.Random, config.RingHash, config.Maglev} {
		cfg := &config.Cluster{Policy: policy, Endpoints: []*config.Endpoint{in(host(1, 1), "a", 1), in(host(2, 4), "a", 1), in(host(3, 1), "b", 2)}}
		cfg.LocalityWeighted = true
		cfg.SlowStart = &config.SlowStart{Window: time.Minute, Aggression: 2}
		l := newLoop(cfg, 1)
		if n := testing.AllocsPerRun(100, func() { l.pick() }); n != 0 {
			t.Errorf("policy %d: %v allocations", policy, n)
		}
	}
}

// FuzzPlan: whatever hosts there are, their plan divides all requests among hosts that may have them.
func FuzzPlan(f *testing.F) {
	f.Add([]byte{1, 0, 0, 1, 2, 3, 0, 1, 200, 1, 1, 0}, uint8(50), uint8(0))
	f.Add([]byte{0, 9, 0, 0, 0, 3, 9, 9}, uint8(0), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, panics, policy uint8) {
		cfg := &config.Cluster{Policy: config.Policy(policy % 5), PanicThreshold: float64(panics % 101), Balancing: config.Balancing{
			LocalityWeighted: policy&8 != 0, MaglevSize: 251, Ring: &config.Ring{Min: 1, Max: 1000},
		}}
		for i := 0; i+4 <= len(data) && i < 400; i += 4 {
			e := host(i/4+1, uint32(data[i]))
			e.Health, e.Priority = config.Health(data[i+1]%4), uint32(data[i+2]%4)
			cfg.Endpoints = append(cfg.Endpoints, in(e, fmt.Sprint(data[i+3]%3), uint32(data[i+3]/64)))
		}
		l := newLoop(cfg, 1)
		usable := false
		for _, e := range cfg.Endpoints {
			usable = usable || e.Health == config.Healthy || e.Health == config.Degraded
		}
		for range 50 {
			i, inPanic := l.Pick(balance.Key{}, 0)
			if i < 0 && (usable || cfg.PanicThreshold > 0 && len(cfg.Endpoints) > 0) {
				t.Fatal("no host although there are some")
			}
			if i >= 0 && !inPanic && l.Plan().Hosts[i].Health != config.Healthy && l.Plan().Hosts[i].Health != config.Degraded {
				t.Fatalf("host %+v without panic", l.Plan().Hosts[i])
			}
		}
	})
}
