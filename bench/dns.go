package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
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
		{name: "dns-a", about: "A of a service with 10 endpoints, UDP, CPU per query", over: "udp", ask: askAddresses, most: dnsLimits{1, 1, 0.25}},
		{name: "dns-srv", about: "SRV of its port, with the addresses, EDNS", over: "udp", ask: askServers, edns: true, most: dnsLimits{1, 1, 0.25}},
		{name: "dns-nx", about: "A of a name that does not exist", over: "udp", ask: askNobody, most: dnsLimits{1, 1, 0.25}},
		{name: "dns-a-5000qps", about: "dns-a with 5,000 queries/s", over: "udp", ask: askAddresses, rate: 5000, most: dnsLimits{1, 1, 0.25}},
		{name: "dns-signed", about: "dns-a with signatures that were made before, EDNS with DO", over: "udp", ask: askAddresses, edns: true, do: true, signed: true, most: dnsLimits{0, 1.2, 0}},
		{name: "dns-tcp", about: "dns-a over TCP, connections that stay open", over: "tcp", ask: askAddresses, most: dnsLimits{1, 1, 0}},
	} {
		all = append(all, work{w.name, w.about, dnsGroup, w.run})
	}
	return append(
		all,
		work{"dns-build", "the zone of a snapshot in which one of 10,000 services has changed", dnsGroup, budgetWork("dns-build", "./controlplane/zone", "BenchmarkOneChange", budgets{"p50-ms": 2, "p99-ms": 2})},
		work{"dns-change", "a change of one of 10,000 services, from the registry's event until DNS answers with it", dnsGroup, budgetWork("dns-change", "./controlplane", "BenchmarkChangeAnswered", budgets{"p50-ms": 5, "p99-ms": 5})},
	)
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
		s.askOnce(g)
		s.checkAnswers(w)
		if err := s.printIdle(ctx); err != nil {
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

// askOnce asks everything once over TCP, where signatures are made for whoever asks.
func (s *stage) askOnce(g *dnsLoad) {
	for _, p := range slices.Clone(s.peers) {
		g.to = p.addr
		if err := g.once(); err != nil {
			s.remove(p, err)
		}
	}
}

// printIdle prints what the servers cost that are asked nothing. It is in their figures.
func (s *stage) printIdle(ctx context.Context) error {
	const quiet = time.Second
	fmt.Fprint(s.out, "processor time of a second without queries:")
	for _, p := range s.peers {
		before, err := p.cpuTime()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quiet):
		}
		after, err := p.cpuTime()
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, " %s %v", p.name, (after - before).Round(time.Microsecond))
	}
	fmt.Fprintln(s.out)
	return nil
}
