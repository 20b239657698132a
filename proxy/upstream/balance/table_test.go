package balance_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

func hashing(policy config.Policy, hosts ...*config.Endpoint) *config.Cluster {
	return &config.Cluster{Policy: policy, PanicThreshold: 50, Endpoints: hosts}
}

// TestHashKeepsHosts: equal keys meet equal hosts whatever else goes on, and a host that leaves moves its own keys alone.
func TestHashKeepsHosts(t *testing.T) {
	for policy, moved := range map[config.Policy]float64{config.RingHash: 0, config.Maglev: .03} {
		var hosts []*config.Endpoint
		for i := range 20 {
			hosts = append(hosts, host(i+1, uint32(1+i%3)))
		}
		a, b := newLoop(hashing(policy, hosts...), 1), newLoop(hashing(policy, hosts...), 2)
		less := newLoop(hashing(policy, hosts[1:]...), 3)
		other := 0.0
		const n = 10_000
		for i := range uint64(n) {
			key := balance.Key{Hash: balance.Hash(fmt.Sprint(i), 0), Set: true}
			x, _ := a.Pick(key, 0)
			y, _ := b.Pick(key, 0)
			z, _ := less.Pick(key, 0)
			if x != y {
				t.Fatalf("policy %d: two loops choose %d and %d", policy, x, y)
			}
			if a.number(x) != 1 && a.number(x) != less.number(z) {
				other++
			}
		}
		if other/n > moved {
			t.Errorf("policy %d: %.3f of the keys moved with a host that had none of them", policy, other/n)
		}
		got := a.shares(50_000) // by random keys
		for i, e := range hosts {
			want := float64(e.Weight) / 39
			if math.Abs(got[i+1]-want) > want*.35 {
				t.Errorf("policy %d: host %d has %.3f of the keys, want about %.3f", policy, i+1, got[i+1], want)
			}
		}
	}
}

func TestHashKeys(t *testing.T) {
	one, two, three := host(1, 1), host(2, 1), host(3, 1)
	where := func(c *config.Cluster) (out []string) {
		l := newLoop(c, 1)
		for i := range uint64(200) {
			h, _ := l.Pick(balance.Key{Hash: i * 0x9e3779b97f4a7c15, Set: true}, 0)
			e := l.Plan().Hosts[h]
			out = append(out, e.Hostname)
		}
		return out
	}
	one.Hostname, two.Hostname, three.Hostname = "a", "b", "a"
	byAddr, byName := hashing(config.RingHash, one, two), hashing(config.RingHash, one, two)
	byName.HashHostname = true
	moved := *three // elsewhere, with the name of host 1
	again := hashing(config.RingHash, &moved, two)
	again.HashHostname = true
	if diff := cmp.Diff(where(byName), where(again)); diff != "" {
		t.Errorf("a host of the same name has other keys:\n%s", diff)
	}
	if cmp.Equal(where(byAddr), where(byName)) {
		t.Error("by address and by name is the same")
	}
	keyed := *one
	keyed.HashKey = three.Addr.String()
	if cmp.Equal(where(hashing(config.RingHash, &keyed, two)), where(byAddr)) || !cmp.Equal(where(hashing(config.RingHash, &keyed, two)), where(hashing(config.RingHash, &moved, two))) {
		t.Error("the key of an endpoint does not count")
	}
}

// ofTables are the gauges of a plan's tables.
func ofTables(p *balance.Plan) []balance.Gauge {
	return slices.DeleteFunc(p.Gauges(), func(g balance.Gauge) bool { return !strings.Contains(g.Name, "_lb.") })
}

func TestTablesAreSharedAndKept(t *testing.T) {
	cfg := hashing(config.Maglev, host(1, 1), host(2, 1))
	first := balance.New(cfg, nil, time.Time{})
	same := *cfg
	same.MaxRequests = 7
	grown := *cfg
	grown.Endpoints = append(slices.Clone(cfg.Endpoints), host(3, 1))
	for _, c := range []struct {
		name string
		cfg  *config.Cluster
		few  bool
	}{{"what changed is elsewhere", &same, true}, {"another host", &grown, false}} {
		allocated := testing.AllocsPerRun(5, func() { balance.New(c.cfg, first, time.Time{}) })
		fresh := testing.AllocsPerRun(5, func() { balance.New(c.cfg, nil, time.Time{}) })
		if (allocated < fresh) != c.few {
			t.Errorf("%s: %v allocations, %v for a new plan", c.name, allocated, fresh)
		}
	}
	if diff := cmp.Diff([]balance.Gauge{{Name: "maglev_lb.min_entries_per_host", Value: 32768}, {Name: "maglev_lb.max_entries_per_host", Value: 32769}}, ofTables(first)); diff != "" {
		t.Error(diff)
	}
	ring := hashing(config.RingHash, host(1, 1), host(2, 3))
	ring.Ring = &config.Ring{Min: 10, Max: 100}
	// The lightest host gets 3 points, of which it has a quarter: 12 in all.
	if diff := cmp.Diff([]balance.Gauge{{Name: "ring_hash_lb.size", Value: 12}, {Name: "ring_hash_lb.min_hashes_per_host", Value: 3}, {Name: "ring_hash_lb.max_hashes_per_host", Value: 9}}, ofTables(balance.New(ring, nil, time.Time{}))); diff != "" {
		t.Error(diff)
	}
	ring.Ring = &config.Ring{Min: 1, Max: 2}
	if got := ofTables(balance.New(ring, nil, time.Time{}))[0].Value; got != 2 {
		t.Errorf("a ring of %d points, want the most, 2", got)
	}
}

func TestAttemptsMeetOtherHosts(t *testing.T) {
	for _, policy := range []config.Policy{config.RingHash, config.Maglev} {
		l := newLoop(hashing(policy, host(1, 1), host(2, 1), host(3, 1), host(4, 1)), 1)
		others := 0
		for i := range uint64(1000) {
			key := balance.Key{Hash: balance.Hash(fmt.Sprint(i), 0), Set: true}
			first, _ := l.Pick(key, 0)
			second, _ := l.Pick(key, 1)
			if again, _ := l.Pick(key, 1); again != second {
				t.Fatal("the second choice changes")
			}
			if first != second {
				others++
			}
		}
		if others < 600 {
			t.Errorf("policy %d: %d of 1000 second attempts went elsewhere", policy, others)
		}
	}
}

func TestHashVectors(t *testing.T) {
	for text, want := range map[string]uint64{
		"":    0xef46db3751d8e999,
		"a":   0xd24ec4f1a98c6e5b,
		"abc": 0x44bc2cf5ad770999,
		"Call me Ishmael. Some years ago--never mind how long precisely-": 0x02a2e85470d6fd96,
	} {
		if got := balance.Hash(text, 0); got != want {
			t.Errorf("%q: got %x, want %x", text, got, want)
		}
		if balance.Hash([]byte(text), 3) != balance.Hash(text, 3) || balance.Hash(text, 3) == want {
			t.Errorf("%q: the seed, or the type, is not right", text)
		}
	}
}

// TestRingOfMurmur pins the hash that e2e compares with a stock Envoy's, for runs without one.
func TestRingOfMurmur(t *testing.T) {
	cfg := hashing(config.RingHash, host(1, 1), host(2, 1), host(3, 2), host(4, 1))
	cfg.Ring = &config.Ring{Min: 100, Max: 1000, Murmur: true}
	l := newLoop(cfg, 1)
	var got []int
	for i := range 16 {
		at, _ := l.Pick(balance.Key{Hash: balance.Hash(fmt.Sprint(i), 0), Set: true}, 0)
		got = append(got, l.number(at))
	}
	if diff := cmp.Diff([]int{4, 3, 2, 4, 4, 4, 1, 3, 2, 3, 3, 4, 1, 2, 1, 3}, got); diff != "" {
		t.Error(diff)
	}
}
