package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// sample is one measurement of one peer.
type sample struct {
	cpu      time.Duration // of the proxy, per request
	rate     float64       // requests per second
	requests int
}

// httpWork measures each peer in turn, round after round, as a proxy between a load generator and a backend that share the
// other processor.
func httpWork(name string, size, rate int) func(context.Context, options, io.Writer) ([]record, error) {
	return func(ctx context.Context, o options, stdout io.Writer) ([]record, error) {
		dir, err := os.MkdirTemp("", "hostmesh-bench-")
		if err != nil {
			return nil, err
		}
		if o.keep {
			fmt.Fprintln(stdout, "files are in", dir)
		} else {
			defer os.RemoveAll(dir)
		}
		cpus, err := pin()
		if err != nil {
			return nil, err
		}
		l, err := newLoad(size, rate)
		if err != nil {
			return nil, err
		}
		defer l.close()
		peers, err := startPeers(ctx, o, dir, l, cpus)
		defer func() {
			for _, p := range peers {
				p.stop()
			}
		}()
		if err != nil {
			return nil, err
		}
		var samples [][]sample
		if err := onCPU(cpus.load, func() (err error) {
			samples, err = measureAll(ctx, o, l, peers)
			return err
		}); err != nil {
			return nil, err
		}
		records := summarise(name, peers, samples)
		printTable(stdout, peers, samples, records)
		return records, nil
	}
}

// measureAll returns samples[peer][round].
func measureAll(ctx context.Context, o options, l *load, peers []*peer) ([][]sample, error) {
	samples := make([][]sample, len(peers))
	for round := range o.rounds {
		for i := range peers {
			i = (i + round) % len(peers) // nobody always comes after the same peer
			s, err := measure(ctx, o, l, peers[i])
			if err != nil {
				return nil, fmt.Errorf("round %d of %s: %w", round+1, peers[i].name, err)
			}
			samples[i] = append(samples[i], s)
		}
	}
	return samples, nil
}

func measure(ctx context.Context, o options, l *load, p *peer) (sample, error) {
	if err := ctx.Err(); err != nil {
		return sample{}, err
	}
	if err := l.connect(p.addr, o.conns); err != nil {
		return sample{}, err
	}
	defer l.disconnect()
	if _, err := l.run(o.duration / 5); err != nil { // warm up: connections to the backend, caches, buffers
		return sample{}, err
	}
	before, err := cpuTime(p.pid())
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	n, err := l.run(o.duration)
	if err != nil {
		return sample{}, err
	}
	elapsed := time.Since(start)
	after, err := cpuTime(p.pid())
	if err != nil {
		return sample{}, err
	}
	if n == 0 {
		return sample{}, fmt.Errorf("no request was answered in %v", elapsed)
	}
	return sample{(after - before) / time.Duration(n), float64(n) / elapsed.Seconds(), n}, p.check()
}
