package upstream_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// part is a loop with its part of a cluster.
type part struct {
	loop    *loop.Loop
	cluster *upstream.Cluster
}

// parts runs loops that have a cluster in common.
func parts(t *testing.T, loops int, cfg *config.Cluster) []part {
	t.Helper()
	all := upstream.NewBreakers()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	out := make([]part, loops)
	for i := range out {
		l, err := loop.New()
		if err != nil {
			t.Fatal(err)
		}
		out[i].loop = l
		running.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		out[i].do(t, func(p *part) {
			p.cluster = upstream.New(l, loops, cfg, random())
			p.cluster.Join(all)
		})
	}
	t.Cleanup(func() {
		for i := range out {
			out[i].do(t, func(p *part) { p.cluster.Close() })
		}
		cancel()
		running.Wait()
	})
	return out
}

func (p *part) do(t *testing.T, f func(*part)) {
	t.Helper()
	if err := p.loop.Do(context.Background(), func() { f(p) }); err != nil {
		t.Fatal(err)
	}
}

// TestSmallLimitsAreExact: whatever the loops do at the same time, no more is in use than the limit, and all of it can be.
func TestSmallLimitsAreExact(t *testing.T) {
	const loops, rounds = 4, 2000
	for _, limit := range []uint32{1, 2, 3, 7} {
		cfg := &config.Cluster{Name: "c", MaxRequests: limit, MaxRetries: limit}
		all := parts(t, loops, cfg)
		for _, kind := range []struct {
			name  string
			begin func(*upstream.Cluster) bool
			end   func(*upstream.Cluster)
		}{
			{"requests", (*upstream.Cluster).BeginRequest, (*upstream.Cluster).EndRequest},
			{"retries", (*upstream.Cluster).BeginRetry, (*upstream.Cluster).EndRetry},
		} {
			var used, most atomic.Int64
			var running sync.WaitGroup
			for i := range all {
				running.Go(func() {
					all[i].do(t, func(p *part) {
						for range rounds {
							if !kind.begin(p.cluster) {
								continue
							}
							n := used.Add(1)
							for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
							}
							used.Add(-1)
							kind.end(p.cluster)
						}
					})
				})
			}
			running.Wait()
			if most.Load() > int64(limit) {
				t.Errorf("%d %s at once, the limit is %d", most.Load(), kind.name, limit)
			}
			// Now one after the other: all of the limit, on any loop, and nothing beyond it.
			got := uint32(0)
			for i := range 2 * loops * int(limit) {
				all[i%loops].do(t, func(p *part) {
					if kind.begin(p.cluster) {
						got++
					}
				})
			}
			if got != limit {
				t.Errorf("%d %s are let in, the limit is %d", got, kind.name, limit)
			}
		}
	}
}

// TestLimitsThatChange: what is in use goes on to count when a limit becomes one that the loops count together, or no longer is.
func TestLimitsThatChange(t *testing.T) {
	all := parts(t, 2, &config.Cluster{Name: "c"})
	update := func(limit uint32) {
		for i := range all {
			all[i].do(t, func(p *part) { p.cluster.Update(&config.Cluster{Name: "c", MaxRequests: limit}) })
		}
	}
	begin := func(i int) (ok bool) {
		all[i].do(t, func(p *part) { ok = p.cluster.BeginRequest() })
		return ok
	}
	end := func(i int) { all[i].do(t, func(p *part) { p.cluster.EndRequest() }) }
	for range 2 {
		if !begin(0) || !begin(1) {
			t.Fatal("refused without a limit")
		}
	}
	update(5)
	if !begin(0) || begin(1) || begin(0) {
		t.Error("four are in use and five allowed: not exactly one more is let in")
	}
	update(0)
	if !begin(1) {
		t.Error("refused without a limit")
	}
	update(2)
	for _, i := range []int{0, 0, 0, 1} {
		end(i)
	}
	if begin(0) {
		t.Error("two are in use and two allowed: one more is let in")
	}
	end(1)
	if !begin(0) || begin(1) {
		t.Error("one is in use and two allowed: not exactly one more is let in")
	}
}

// TestRetryBudget: the budget follows the requests of all loops.
func TestRetryBudget(t *testing.T) {
	all := parts(t, 2, &config.Cluster{Name: "c", MaxRetries: 1, RetryBudget: &config.RetryBudget{Percent: 25, MinConcurrency: 2}})
	for _, c := range []struct{ requests, want int }{{0, 2}, {8, 2}, {12, 3}, {40, 10}} {
		for i := range c.requests {
			all[i%2].do(t, func(p *part) { p.cluster.BeginRequest() })
		}
		got := 0
		for i := range 2 * c.want {
			all[i%2].do(t, func(p *part) {
				if p.cluster.BeginRetry() {
					got++
				}
			})
		}
		if got != c.want {
			t.Errorf("%d retries beside %d requests, want %d", got, c.requests, c.want)
		}
		for i := range got {
			all[i%2].do(t, func(p *part) { p.cluster.EndRetry() })
		}
		for i := range c.requests {
			all[i%2].do(t, func(p *part) { p.cluster.EndRequest() })
		}
	}
}

// client takes connections on one loop and tells when it has one.
type client struct {
	part   *part
	waiter upstream.Waiter
	conn   *upstream.Conn
	err    error
	got    chan struct{}
}

func (c *client) ask() {
	conn, reused, err := c.part.cluster.Acquire(c.part.cluster.Hosts()[0], c, &c.waiter, upstream.Pooled)
	switch {
	case errors.Is(err, upstream.ErrWait):
	case err != nil:
		c.err = err
		close(c.got)
	default:
		if c.conn = conn; reused {
			close(c.got)
		}
	}
}

func (c *client) Free()                    { c.ask() }
func (c *client) UpstreamReady(loop.Event) {}
func (c *client) Connected(err error) {
	c.err = err
	close(c.got)
}

// TestConnectionsOfAllLoops: the loops never have more connections than the limit, and whoever waits gets one, also when all
// are idle or in use on another loop.
func TestConnectionsOfAllLoops(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	const loops, limit, clients, rounds = 4, 2, 12, 40
	cfg := &config.Cluster{
		Name: "c", ConnectTimeout: 5 * time.Second, MaxConnections: limit,
		Endpoints: []*config.Endpoint{{Addr: config.Address{IP: netip.MustParseAddrPort(server.Addr().String())}, Weight: 1}},
	}
	all := parts(t, loops, cfg)
	var used, most atomic.Int64
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() {
			for range rounds {
				c := &client{part: &all[i%loops], got: make(chan struct{})}
				c.part.do(t, func(*part) { c.ask() })
				select {
				case <-c.got:
				case <-time.After(20 * time.Second):
					t.Error("nobody gave up a connection")
					return
				}
				if c.err != nil {
					t.Error(c.err)
					return
				}
				n := used.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				used.Add(-1)
				c.part.do(t, func(*part) { c.conn.Release() })
			}
		})
	}
	running.Wait()
	if most.Load() > limit {
		t.Errorf("%d connections in use at once, the limit is %d", most.Load(), limit)
	}
	open := 0
	for i := range all {
		all[i].do(t, func(p *part) {
			g := p.cluster.Gauges()
			open += g.Conns
			if g.Pending != 0 {
				t.Errorf("loop %d: %d in the queue", i, g.Pending)
			}
		})
	}
	if open > limit {
		t.Errorf("%d connections are open, the limit is %d", open, limit)
	}
}
