package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"
)

// idleWork is what a peer's process grows by for each connection that has asked once and now is idle.
func idleWork(name, about string, h hop, most float64) work {
	run := func(ctx context.Context, o options, stdout io.Writer) ([]record, error) {
		return onStage(o, stdout, 1, func(s *stage) ([]record, error) {
			l, err := newLoad(newHTTP1(128))
			if err != nil {
				return nil, err
			}
			defer l.close()
			if h.TLS {
				if l.tls, err = s.certs.clientTLS(); err != nil {
					return nil, err
				}
			}
			n := min(o.idle, s.files*9/11-1000) // with a tenth as many before
			rows := map[string]growth{}
			var names []string
			for _, name := range o.peers {
				// One at a time: each peer alone has as many connections as a process may have.
				p, err := s.start(ctx, name, name, h, l.addr, func(set *settings) {
					set.MaxConns = 2 * n // nginx closes idle ones when it has few left
					set.IdleSeconds = 600
				})
				if s.absent(name, err) {
					continue
				}
				g, err := s.growth(ctx, p, n, func(n int) error { return l.askOnce(p.addr, n) })
				l.disconnect()
				p.stop()
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				if err != nil {
					s.fail(fmt.Errorf("%s: %w", name, err))
					continue
				}
				names, rows[name] = append(names, name), g
			}
			return reportGrowth(stdout, work{name: name}, "connection", names, rows, most), nil
		})
	}
	return work{name, about, dataplane, run}
}

// growth is what a process has for n more of something.
type growth struct {
	n             int
	before, after memory
}

func (g growth) each() float64 { return float64(g.after.own-g.before.own) / float64(g.n) }

// growth has more made first a tenth, so that what is needed once is there, then n.
func (s *stage) growth(ctx context.Context, p *peer, n int, more func(int) error) (growth, error) {
	g := growth{n: n}
	var err error
	for _, step := range []struct {
		n int
		m *memory
	}{{n / 10, &g.before}, {n, &g.after}} {
		if err := more(step.n); err != nil {
			return g, err
		}
		if err := pause(ctx, s.o.settle/10); err != nil {
			return g, err
		}
		if *step.m, err = p.memory(); err != nil {
			return g, err
		}
	}
	return g, p.check(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// clusterWork is what a process has more with many clusters of one endpoint than with few.
func clusterWork(name, about string, most float64) work {
	run := func(ctx context.Context, o options, stdout io.Writer) ([]record, error) {
		return onStage(o, stdout, 1, func(s *stage) ([]record, error) {
			backend, err := freePort() // nobody asks for it
			if err != nil {
				return nil, err
			}
			few, many := o.clusters/10, o.clusters/10+o.clusters
			started := map[string][2]*peer{}
			var names []string
			for _, name := range o.peers {
				var both [2]*peer
				for i, n := range []int{few, many} {
					p, err := s.start(ctx, name, name+"-"+strconv.Itoa(n), hop{}, backend, func(set *settings) {
						for id := range n {
							set.Clusters = append(set.Clusters, id)
						}
					})
					if s.absent(name, err) {
						break
					}
					both[i] = p
					s.peers = append(s.peers, p)
				}
				if both[1] != nil {
					names, started[name] = append(names, name), both
				}
			}
			if err := pause(ctx, o.settle); err != nil {
				return nil, err
			}
			rows := map[string]growth{}
			for _, name := range names {
				g := growth{n: many - few}
				if g.before, err = started[name][0].memory(); err != nil {
					return nil, err
				}
				if g.after, err = started[name][1].memory(); err != nil {
					return nil, err
				}
				rows[name] = g
			}
			return reportGrowth(stdout, work{name: name}, "cluster", names, rows, most), nil
		})
	}
	return work{name, about, dataplane, run}
}

func reportGrowth(stdout io.Writer, w work, of string, names []string, rows map[string]growth, most float64) []record {
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "peer\tbytes/%s\t%ss\tMiB before\tMiB after\n", of, of)
	var records []record
	for _, name := range names {
		g := rows[name]
		r := record{Work: w.name, Peer: name, Figure: "memory", Unit: "bytes/" + of, Value: round3(g.each()), Time: time.Now().UTC()}
		if name == ours {
			met := g.each() <= most
			r.Budget, r.Met = most, &met
		}
		records = append(records, r)
		fmt.Fprintf(t, "%s\t%.0f\t%d\t%.1f\t%.1f\n", name, g.each(), g.n, float64(g.before.own)/(1<<20), float64(g.after.own)/(1<<20))
	}
	t.Flush()
	printBudgets(stdout, records)
	fmt.Fprintln(stdout)
	return records
}
