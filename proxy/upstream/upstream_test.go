package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// on runs f on a loop.
func on(t *testing.T, f func(l *loop.Loop)) {
	t.Helper()
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.Post(func() { f(l) })
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	if err := l.Do(context.Background(), cancel); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func endpoint(i int, weight uint32, health config.Health, priority uint32) *config.Endpoint {
	return &config.Endpoint{Addr: config.Address{IP: netip.MustParseAddrPort(fmt.Sprintf("127.0.0.%d:1", i))}, Weight: weight, Health: health, Priority: priority}
}

func random() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestPickChoosesAmong(t *testing.T) {
	h, d, u, x := config.Healthy, config.Degraded, config.Unhealthy, config.Draining
	for _, c := range []struct {
		name  string
		hosts []*config.Endpoint
		panic float64
		want  []int
	}{
		{"healthy ones", []*config.Endpoint{endpoint(1, 1, h, 0), endpoint(2, 1, u, 0), endpoint(3, 1, h, 0)}, 50, []int{1, 3}},
		{"not the degraded", []*config.Endpoint{endpoint(1, 1, h, 0), endpoint(2, 1, d, 0), endpoint(3, 1, h, 0), endpoint(4, 1, h, 0)}, 50, []int{1, 3, 4}},
		{"the degraded too when the healthy are few", []*config.Endpoint{endpoint(1, 1, h, 0), endpoint(2, 1, d, 0)}, 50, []int{1, 2}},
		{"the degraded when none is healthy", []*config.Endpoint{endpoint(1, 1, u, 0), endpoint(2, 1, d, 0)}, 50, []int{2}},
		{"all in panic but the draining", []*config.Endpoint{endpoint(1, 1, u, 0), endpoint(2, 1, u, 0), endpoint(3, 1, h, 0), endpoint(4, 1, x, 0)}, 50, []int{1, 2, 3}},
		{"none without panic", []*config.Endpoint{endpoint(1, 1, u, 0)}, 0, nil},
		{"few without panic", []*config.Endpoint{endpoint(1, 1, u, 0), endpoint(2, 1, u, 0), endpoint(3, 1, h, 0)}, 0, []int{3}},
		{"the first priority", []*config.Endpoint{endpoint(1, 1, h, 1), endpoint(2, 1, h, 0)}, 50, []int{2}},
		{"the next priority", []*config.Endpoint{endpoint(1, 1, h, 1), endpoint(2, 1, u, 0)}, 50, []int{1}},
		{"an address once", []*config.Endpoint{endpoint(1, 1, h, 0), endpoint(1, 9, h, 0)}, 50, []int{1}},
		{"draining at last", []*config.Endpoint{endpoint(1, 1, x, 0)}, 50, []int{1}},
		{"nothing", nil, 50, nil},
	} {
		for _, policy := range []config.Policy{config.RoundRobin, config.LeastRequest, config.Random, config.RingHash, config.Maglev} {
			t.Run(fmt.Sprint(c.name, policy), func(t *testing.T) {
				on(t, func(l *loop.Loop) {
					cl := upstream.New(l, 1, &config.Cluster{Name: "c", Policy: policy, PanicThreshold: c.panic, Endpoints: c.hosts}, random())
					got := map[int]bool{}
					for range 200 {
						if host := cl.Pick(nil); host != nil {
							got[int(host.Endpoint.Addr.IP.Addr().As4()[3])] = true
						}
					}
					if len(got) != len(c.want) {
						t.Errorf("picked %v, want %v", got, c.want)
					}
					for _, i := range c.want {
						if !got[i] {
							t.Errorf("picked %v, want %v", got, c.want)
						}
					}
				})
			})
		}
	}
}

func TestWeights(t *testing.T) {
	for _, policy := range []config.Policy{config.RoundRobin, config.LeastRequest} {
		for _, weights := range [][]uint32{{1, 1, 1}, {1, 2, 7}, {100, 1, 1}, {5}} {
			on(t, func(l *loop.Loop) {
				cfg := &config.Cluster{Name: "c", Policy: policy}
				total := 0.0
				for i, w := range weights {
					cfg.Endpoints = append(cfg.Endpoints, endpoint(i+1, w, config.Healthy, 0))
					total += float64(w)
				}
				cl := upstream.New(l, 1, cfg, random())
				const n = 20_000
				got := map[*config.Endpoint]int{}
				for range n {
					got[cl.Pick(nil).Endpoint]++
				}
				for i, e := range cfg.Endpoints {
					want := float64(weights[i]) / total
					if share := float64(got[e]) / n; math.Abs(share-want) > 0.02 {
						t.Errorf("policy %d, weights %v: host %d got %.3f, want %.3f", policy, weights, i, share, want)
					}
				}
			})
		}
	}
}

func TestPickAvoidsTheTried(t *testing.T) {
	for _, policy := range []config.Policy{config.RoundRobin, config.LeastRequest, config.Random, config.RingHash, config.Maglev} {
		on(t, func(l *loop.Loop) {
			cfg := &config.Cluster{Name: "c", Policy: policy}
			for i := range 5 {
				cfg.Endpoints = append(cfg.Endpoints, endpoint(i+1, uint32(1+1000*(i%2)), config.Healthy, 0))
			}
			cl := upstream.New(l, 1, cfg, random())
			for range 100 {
				var tried []*upstream.Host
				for range cfg.Endpoints {
					tried = append(tried, cl.Pick(tried))
				}
				seen := map[*upstream.Host]bool{}
				for _, h := range tried {
					seen[h] = true
				}
				if len(seen) != len(cfg.Endpoints) {
					t.Fatalf("policy %d: %d different hosts of %d", policy, len(seen), len(cfg.Endpoints))
				}
				if cl.Pick(tried) == nil {
					t.Fatal("no host when all were tried")
				}
			}
		})
	}
}

func TestUpdateKeepsHosts(t *testing.T) {
	on(t, func(l *loop.Loop) {
		cfg := func(ids ...int) *config.Cluster {
			c := &config.Cluster{Name: "c"}
			for _, i := range ids {
				c.Endpoints = append(c.Endpoints, endpoint(i, 1, config.Healthy, 0))
			}
			return c
		}
		cl := upstream.New(l, 1, cfg(1, 2), random())
		one, two := cl.Hosts()[0], cl.Hosts()[1]
		one.Stats.RequestTotal = 7
		cl.Update(cfg(3, 1))
		if hosts := cl.Hosts(); len(hosts) != 2 || hosts[1] != one || hosts[1].Stats.RequestTotal != 7 {
			t.Error("a host that stays is not the same")
		}
		for range 20 {
			if cl.Pick(nil) == two {
				t.Error("a host that left is picked")
			}
		}
		cl.Update(nil)
		if cl.Pick(nil) != nil {
			t.Error("a retired cluster picks a host")
		}
	})
}

// user waits for its connection.
type user struct {
	conn      *upstream.Conn
	waiter    upstream.Waiter
	connected chan error
	freed     int
}

func (u *user) Connected(err error)        { u.connected <- err }
func (u *user) UpstreamReady(e loop.Event) {}
func (u *user) Free()                      { u.freed++ }

func TestPoolAndQueue(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	do := func(f func()) {
		t.Helper()
		if err := l.Do(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &config.Cluster{Name: "c", ConnectTimeout: time.Second, MaxConnections: 1, MaxPending: 1, Endpoints: []*config.Endpoint{{Addr: config.Address{IP: netip.MustParseAddrPort(server.Addr().String())}, Weight: 1}}}
	var c *upstream.Cluster
	var h *upstream.Host
	users := [3]user{}
	for i := range users {
		users[i].connected = make(chan error, 1)
	}
	acquire := func(i int) (reused bool, err error) {
		do(func() { users[i].conn, reused, err = c.Acquire(h, &users[i], &users[i].waiter, upstream.Pooled) })
		return reused, err
	}
	do(func() {
		c = upstream.New(l, 1, cfg, random())
		h = c.Pick(nil)
	})
	if _, err := acquire(0); err != nil {
		t.Fatal(err)
	}
	if err := <-users[0].connected; err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(1); !errors.Is(err, upstream.ErrWait) {
		t.Errorf("second connection: %v, want ErrWait", err)
	}
	if _, err := acquire(2); !errors.Is(err, upstream.ErrOverflow) {
		t.Errorf("third connection: %v, want ErrOverflow", err)
	}
	do(func() { users[0].conn.Release() })
	if users[1].freed != 1 {
		t.Error("the queued user was not told of the free connection")
	}
	if reused, err := acquire(1); err != nil || !reused {
		t.Errorf("the freed connection: reused %v, %v", reused, err)
	}
	do(func() {
		if g := c.Gauges(); g.Conns != 1 || g.Pending != 0 || h.Active() != 1 || h.Conns() != 1 {
			t.Errorf("gauges %+v, active %d, conns %d", g, h.Active(), h.Conns())
		}
		users[1].conn.Release()
		c.Close()
		if g := c.Gauges(); g.Conns != 0 {
			t.Errorf("%d connections after Close", g.Conns)
		}
	})
}

// TestQueueMovesOn: whoever of the queue is asked and does not take the connection leaves it to the next one; a cluster
// that is retired, or whose limits grow, leaves nobody behind; and no limit is exceeded on the way.
func TestQueueMovesOn(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	open := netip.MustParseAddrPort(server.Addr().String())
	cfg := func(limit uint32) *config.Cluster {
		return &config.Cluster{
			Name: "c", ConnectTimeout: time.Second, MaxConnections: limit, MaxPending: 10,
			Endpoints: []*config.Endpoint{{Addr: config.Address{IP: open}, Weight: 1}, {Addr: config.Address{IP: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), open.Port())}, Weight: 1}},
		}
	}
	for _, c := range []struct {
		name  string
		again bool // those who are asked try again, at the other host
		do    func(*upstream.Cluster, *upstream.Conn)
		asked int
	}{
		{"released, and they give up", false, func(_ *upstream.Cluster, conn *upstream.Conn) { conn.Release() }, 4},
		{"closed, and they give up", false, func(_ *upstream.Cluster, conn *upstream.Conn) { conn.Discard() }, 4},
		{"released, and the first takes it", true, func(_ *upstream.Cluster, conn *upstream.Conn) { conn.Release() }, 1},
		{"closed, and the first takes it", true, func(_ *upstream.Cluster, conn *upstream.Conn) { conn.Discard() }, 1},
		{"limit of three", true, func(c *upstream.Cluster, _ *upstream.Conn) { c.Update(cfg(3)) }, 2},
		{"no limit", true, func(c *upstream.Cluster, _ *upstream.Conn) { c.Update(cfg(0)) }, 4},
		{"retired", false, func(c *upstream.Cluster, _ *upstream.Conn) { c.Update(nil) }, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			on(t, func(l *loop.Loop) {
				cl := upstream.New(l, 1, cfg(1), random())
				first, other := cl.Hosts()[0], cl.Hosts()[1]
				conn, _, err := cl.Acquire(first, &keen{}, &upstream.Waiter{}, upstream.Pooled)
				if err != nil {
					t.Fatal(err)
				}
				var queue [4]*keen
				for i := range queue {
					u := &keen{}
					u.free = func() {
						if c.again {
							_, _, u.err = cl.Acquire(other, u, &u.waiter, upstream.Pooled)
						}
					}
					queue[i] = u
					if _, _, err := cl.Acquire(first, u, &u.waiter, upstream.Pooled); !errors.Is(err, upstream.ErrWait) {
						t.Fatal(err)
					}
				}
				conn.Ready(loop.Out) // it is there
				c.do(cl, conn)
				asked := 0
				for _, u := range queue {
					asked += u.freed
					if u.err != nil {
						t.Errorf("asked and refused: %v", u.err)
					}
				}
				if g := cl.Gauges(); asked != c.asked || g.Pending != 4-asked+g.ConnsOpening || cl.Config().MaxConnections > 0 && g.Conns > int(cl.Config().MaxConnections) {
					t.Errorf("%d were asked, want %d; %+v", asked, c.asked, g)
				}
				for _, u := range queue {
					cl.Dequeue(&u.waiter)
				}
				cl.Close()
			})
		})
	}
}

// keen is a user who does something when it is asked.
type keen struct {
	waiter upstream.Waiter
	free   func()
	freed  int
	err    error
}

func (k *keen) Connected(error)          {}
func (k *keen) UpstreamReady(loop.Event) {}
func (k *keen) Free()                    { k.freed++; k.free() }

func TestHistogram(t *testing.T) {
	var h, sum upstream.Histogram
	for _, ms := range []float64{0.1, 0.5, 0.6, 3, 4000, 1e9} {
		h.Observe(time.Duration(ms * float64(time.Millisecond)))
	}
	sum.Add(&h)
	sum.Add(&h)
	if sum.Count != 12 || sum.Buckets[0] != 4 || sum.Buckets[1] != 2 || sum.Buckets[2] != 2 || sum.Buckets[len(upstream.Bounds)] != 2 {
		t.Errorf("%+v", sum)
	}
}
