package main

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"text/tabwriter"
	"time"
)

// histogram counts times with an error of less than 1 %, as HDR histograms do: 128 steps for each power of two.
type histogram struct {
	counts [64 * steps]int
	total  int
}

const steps = 128

// bucket is where a time is counted; less than 2*steps nanoseconds each have their own.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 2*steps {
		return int(v)
	}
	shift := bits.Len64(v) - 8 // steps has 8 bits
	return shift*steps + int(v>>shift)
}

// bound is the longest time that is counted in a bucket.
func bound(bucket int) time.Duration {
	if bucket < 2*steps {
		return time.Duration(bucket)
	}
	shift := bucket/steps - 1
	return time.Duration((uint64(bucket-shift*steps)+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
}

// quantile returns the time that this share of all is not above.
func (h *histogram) quantile(q float64) time.Duration {
	left := int(q*float64(h.total) + 0.999999)
	for i, n := range h.counts {
		if left -= n; n > 0 && left <= 0 {
			return bound(i)
		}
	}
	return 0
}

// latencyWork is p99: mesh-proxy beside each of two peers, both at half of the peer's peak.
func latencyWork(name, about string, size int, most limits) work {
	run := func(ctx context.Context, o options, stdout io.Writer) ([]record, error) {
		return onStage(o, stdout, 1, func(s *stage) ([]record, error) {
			l, err := newLoad(newHTTP1(size))
			if err != nil {
				return nil, err
			}
			defer l.close()
			if err := s.startPeers(ctx, map[string]string{"nginx": "it has no budget"}, hop{}, l.addr); err != nil {
				return nil, err
			}
			var records []record
			for _, p := range s.peers {
				if p.name == ours {
					continue
				}
				more, err := s.pair(ctx, l, name, p, most)
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				if err != nil {
					s.fail(fmt.Errorf("beside %s: %w", p.name, err))
				}
				records = append(records, more...)
			}
			return records, nil
		})
	}
	return work{name, about, dataplane, run}
}

// pair measures a peer and mesh-proxy at half of the peer's peak.
func (s *stage) pair(ctx context.Context, l *load, work string, p *peer, most limits) ([]record, error) {
	peak, err := s.peak(ctx, l, p)
	if err != nil {
		return nil, err
	}
	l.busy, l.paced, l.rate = 0, s.o.conns, max(int(peak/2), 1)
	pair := []*peer{p}
	for _, q := range s.peers {
		if q.name == ours {
			pair = append(pair, q)
		}
	}
	p50, p99 := map[string][]float64{}, map[string][]float64{}
	for round := range s.o.rounds {
		for _, q := range rotated(pair, round) {
			h, err := s.latencies(ctx, l, q)
			if err != nil {
				return nil, fmt.Errorf("round %d of %s: %w", round+1, q.name, err)
			}
			p50[q.name] = append(p50[q.name], float64(h.quantile(0.5))/1e3)
			p99[q.name] = append(p99[q.name], float64(h.quantile(0.99))/1e3)
		}
	}
	var all []series
	for _, q := range pair {
		all = append(all, series{q.name, p99[q.name]})
	}
	records := comparison{work, "µs", ours, p.name, most}.records("p99", all)
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%d requests/s: half of %s's peak\tp50 µs\tp99 µs\tratio\tmin\tmax\n", l.rate, p.name)
	for i, q := range pair {
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%s\n", q.name, median(p50[q.name]), records[i].Value, ratios(records[i]))
	}
	t.Flush()
	printBudgets(s.out, records)
	fmt.Fprintln(s.out)
	return records, nil
}

// peak is how many requests a second a peer answers when the clients ask again at once.
func (s *stage) peak(ctx context.Context, l *load, p *peer) (float64, error) {
	l.busy, l.paced, l.rate, l.latency = s.o.conns, 0, 0, nil
	var rates []float64
	for range 3 {
		one, err := traffic{}.measure(ctx, s.o, l, p)
		if err != nil {
			return 0, fmt.Errorf("find its peak: %w", err)
		}
		rates = append(rates, one.rate)
	}
	return median(rates), nil
}

func (s *stage) latencies(ctx context.Context, l *load, p *peer) (*histogram, error) {
	l.latency = nil
	if err := l.connect(p.addr); err != nil {
		return nil, err
	}
	defer l.disconnect()
	if _, err := l.run(s.o.duration / 5); err != nil {
		return nil, err
	}
	// What the warm-up has left over is not in the figures.
	for range 50 {
		if len(l.idle) == len(l.clients) {
			break
		}
		if err := l.settle(20 * time.Millisecond); err != nil {
			return nil, err
		}
	}
	l.latency = new(histogram)
	if _, err := l.run(s.o.duration); err != nil {
		return nil, err
	}
	if l.latency.total == 0 {
		return nil, fmt.Errorf("nothing was answered in %v", s.o.duration)
	}
	return l.latency, p.check(ctx)
}
