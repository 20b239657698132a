package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// generator loads a proxy and is the backend behind it.
type generator interface {
	backendAddr() netip.AddrPort
	connect(to netip.AddrPort) error
	// run loads for a while and returns how much of the work was done.
	run(time.Duration) (int, error)
	// disconnect closes the clients' connections.
	disconnect() error
	close()
}

// traffic is a work that measures processor time for a piece of work.
type traffic struct {
	name, about string
	hop         hop
	cores       int    // of the proxies; 0 is one
	unit        string // of work; empty: request
	per         int    // of what the generator counts are one of the unit; 0 is 1
	generator   func(*certificates) (generator, error)
	without     map[string]string // peers that cannot do it, and why
	logAtEnd    bool              // a line of the log is a connection, not a piece of work
	most        limits
}

// sample is one measurement of one peer.
type sample struct {
	cpu  float64 // nanoseconds of the proxies, for a unit of work
	load float64 // the same of this process
	rate float64 // units per second
}

func (w traffic) work(group string) work { return work{w.name, w.about, group, w.run} }

func (w traffic) unitName() string {
	if w.unit == "" {
		return "request"
	}
	return w.unit
}

// run measures each peer in turn, round after round, as a proxy between a load generator and a backend that share a processor.
func (w traffic) run(ctx context.Context, o options, stdout io.Writer) ([]record, error) {
	if w.cores > 1 {
		o.rounds *= 2 // the load is in the way on a machine of two processors, and the rounds differ more
	}
	return onStage(o, stdout, w.cores, func(s *stage) ([]record, error) {
		g, err := w.generator(s.certs)
		if err != nil {
			return nil, err
		}
		defer g.close()
		if err := s.startPeers(ctx, w.without, w.hop, g.backendAddr()); err != nil {
			return nil, err
		}
		samples, err := w.measureAll(ctx, s, g)
		if err != nil || len(s.peers) == 0 {
			return nil, err
		}
		records := comparison{w.name, "µs/" + w.unitName(), ours, reference, w.most}.summarise(s.peers, samples)
		printTable(stdout, w.unitName(), reference, len(s.cpus.proxy), s.peers, samples, records)
		return records, nil
	})
}

// measureAll returns the rounds of each peer. One that fails takes no further part.
func (w traffic) measureAll(ctx context.Context, s *stage, g generator) (map[string][]sample, error) {
	samples := map[string][]sample{}
	for round := range s.o.rounds {
		for i, peers := 0, rotated(s.peers, round); i < len(peers); i++ {
			p := peers[i]
			one, err := w.measure(ctx, s.o, g, p)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err != nil {
				delete(samples, p.name)
				s.remove(p, fmt.Errorf("round %d: %w", round+1, err))
				continue
			}
			samples[p.name] = append(samples[p.name], one)
		}
	}
	return samples, nil
}

// rotated has nobody always come after the same peer.
func rotated(peers []*peer, round int) []*peer {
	if len(peers) == 0 {
		return nil
	}
	n := round % len(peers)
	return append(append([]*peer(nil), peers[n:]...), peers[:n]...)
}

func (w traffic) measure(ctx context.Context, o options, g generator, p *peer) (one sample, err error) {
	if err := g.connect(p.addr); err != nil {
		g.disconnect()
		return sample{}, err
	}
	one, err = w.loaded(o, g, p)
	if err != nil {
		g.disconnect()
		return sample{}, err
	}
	if err := g.disconnect(); err != nil {
		return sample{}, err
	}
	if w.logAtEnd {
		for _, process := range p.processes {
			process.logged = 0
		}
	}
	return one, p.check(ctx)
}

// loaded measures a peer whose clients are connected.
func (w traffic) loaded(o options, g generator, p *peer) (sample, error) {
	if _, err := runSome(g, o.duration/5); err != nil { // warm up: connections to the backend, caches, buffers
		return sample{}, err
	}
	proxy, self, err := p.times()
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	n, err := runSome(g, o.duration)
	if err != nil {
		return sample{}, err
	}
	elapsed := time.Since(start)
	proxyAfter, selfAfter, err := p.times()
	if err != nil {
		return sample{}, err
	}
	units := float64(n) / float64(max(w.per, 1))
	return sample{float64(proxyAfter-proxy) / units, float64(selfAfter-self) / units, units / elapsed.Seconds()}, nil
}

// runSome loads for a while, and on a machine that has no time for it until something was done.
func runSome(g generator, d time.Duration) (int, error) {
	for start := time.Now(); ; {
		n, err := g.run(d)
		switch {
		case err != nil || n > 0:
			return n, err
		case time.Since(start) > 10*time.Second:
			return 0, fmt.Errorf("nothing was answered in %v", time.Since(start).Round(time.Millisecond))
		}
	}
}
