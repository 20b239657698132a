package main

import (
	"context"
	"fmt"
	"io"
)

// dnsWork measures the processor time that servers take for a query.
type dnsWork struct {
	name, about string
	ask         func(service int) string
	over        string // udp or tcp
	edns, do    bool
	rate        int // queries a second, 0: as many as are answered
	signed      bool
	without     map[string]string // peers that cannot do it, and why
	most        dnsLimits
}

// dnsLimits are the budgets of mesh control.
type dnsLimits struct{ nsd, knot, coredns float64 }

func (l dnsLimits) of(peer string) float64 {
	switch peer {
	case "nsd":
		return l.nsd
	case "knot":
		return l.knot
	case "coredns":
		return l.coredns
	}
	return 0
}

func dnsWorks() []work {
	var all []work
	for _, w := range []*dnsWork{
		{name: "dns-a", about: "A of a service with 10 endpoints, UDP, CPU per query", ask: askAddresses, most: dnsLimits{1, 1, 0.25}},
	} {
		if w.over == "" {
			w.over = "udp"
		}
		all = append(all, work{w.name, w.about, dnsGroup, w.run})
	}
	return all
}

// run measures each server in turn, round after round, with dnsperf on another processor.
func (w *dnsWork) run(ctx context.Context, o options, stdout io.Writer) ([]record, error) {
	return onStage(o, stdout, 1, func(s *stage) ([]record, error) {
		g, err := newDNSLoad(ctx, s, w)
		if err != nil {
			return nil, err
		}
		if err := s.startDNS(ctx, w); err != nil {
			return nil, err
		}
		samples, err := traffic{}.measureAll(ctx, s, g)
		if err != nil || len(s.peers) == 0 {
			return nil, err
		}
		records := comparison{w.name, "µs/query", ourDNS, dnsReference, w.most}.summarise(s.peers, samples)
		printTable(stdout, "query", dnsReference, len(s.cpus.proxy), s.peers, samples, records)
		return records, nil
	})
}

// lossless says what part of the queries may be lost, which UDP allows: none.
func lossless(sent, completed int) error {
	if sent != completed {
		return fmt.Errorf("of %d queries %d were answered", sent, completed)
	}
	return nil
}
