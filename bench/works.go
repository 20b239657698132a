package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// work is one thing to measure.
type work struct {
	name  string
	about string
	group string // a name that stands for all works of it
	run   func(context.Context, options, io.Writer) ([]record, error)
}

// Groups of works: those of the data plane, and what of it can be done with two threads or loops on two processors.
const (
	dataplane = "dataplane"
	twoCores  = "two-cores"
	dnsGroup  = "dns"
)

func works() []work {
	return slices.Concat(dataplaneWorks(), twoCoreWorks(), dnsWorks(), otherWorks())
}

func dataplaneWorks() []work {
	var all []work
	for _, w := range traffics() {
		all = append(all, w.work(dataplane))
	}
	return append(
		all,
		latencyWork("p99", "HTTP/1.1, 128 B, open loop at half of the peer's peak, p99 since a request was due", 128, limits{1, 1}),
		idleWork("memory-idle", "growth of the process for each idle connection, plain", hop{}, 1000),
		idleWork("memory-idle-tls", "growth of the process for each idle connection, TLS", hop{TLS: true}, 12000),
		clusterWork("memory-cluster", "growth of the process for each cluster of one endpoint", 10000),
	)
}

// noH2 is why nginx does not do the works of HTTP/2 but gRPC.
const noH2 = "nginx has no HTTP/2 to upstreams but grpc_pass, which has one request at a time on a connection"

// twoCoreWorks are those of the data plane that are not done with two processors there.
func twoCoreWorks() (all []work) {
	there := traffics()
	for _, w := range there {
		w.name += "-2"
		if w.cores == 0 && !slices.ContainsFunc(there, func(other traffic) bool { return other.name == w.name }) {
			w.about += "; with two threads or loops on two processors"
			w.cores = 2
			all = append(all, w.work(twoCores))
		}
	}
	return all
}

func traffics() []traffic {
	return []traffic{
		{
			name: "http1-128", about: "HTTP/1.1 keep-alive, responses of 128 B, CPU per request",
			generator: http1Load(128, 64, 0, 0, false), most: limits{0.75, 0.40},
		},
		{
			name: "http1-3000rps", about: "HTTP/1.1 keep-alive, 128 B, 3,000 requests/s in open loop, CPU per request",
			generator: http1Load(128, 0, 64, 3000, false), most: limits{0.90, 0.60},
		},
		{
			name: "http1-16k", about: "HTTP/1.1 keep-alive, responses of 16 KiB, CPU per request",
			generator: http1Load(16<<10, 64, 0, 0, false), most: limits{0.60, 0.40},
		},
		{
			name: "http1-idle", about: "HTTP/1.1, 128 B, 64 busy connections and 1,024 of which one asks 200 times a second, CPU per request",
			generator: http1Load(128, 64, 1024, 200, false), most: limits{0.70, 0.40},
		},
		{
			name: "http1-128-2", about: "http1-128 with two threads or loops on two processors", cores: 2,
			generator: http1Load(128, 64, 0, 0, false), most: limits{0.75, 0.40},
		},
		{
			name: "tls-128", about: "TLS 1.3 terminated, HTTP/1.1 keep-alive, responses of 128 B, CPU per request", hop: hop{TLS: true},
			generator: http1Load(128, 64, 0, 0, true), most: limits{0.70, 0.45},
		},
		{
			name: "tls-16k", about: "TLS 1.3 terminated, HTTP/1.1 keep-alive, responses of 16 KiB, CPU per request", hop: hop{TLS: true},
			generator: http1Load(16<<10, 64, 0, 0, true), most: limits{0.70, 0.45},
		},
		{
			name: "tls-handshake", about: "a connection with a full handshake of TLS 1.3 (P-256) for each request of 128 B, CPU per connection",
			hop: hop{TLS: true}, generator: handshakeLoad(128, 16), unit: "connection",
		},
		{
			name: "mtls-two", about: "client → proxy —mTLS→ proxy → backend, HTTP/1.1, 128 B, CPU of both proxies per request", hop: hop{Two: true},
			generator: http1Load(128, 64, 0, 0, false), most: limits{0.80, 0.45},
		},
		{
			name: "h2-64x1", about: "HTTP/2 (h2c) on both sides, 64 connections of 1 stream, 128 B, CPU per request", hop: hop{HTTP2: true},
			generator: h2Load(newH2(1, 128), 64), without: map[string]string{"nginx": noH2}, most: limits{0.85, 0.40},
		},
		{
			name: "h2-16x16", about: "HTTP/2 (h2c) on both sides, 16 connections of 16 streams, 128 B, CPU per request", hop: hop{HTTP2: true},
			generator: h2Load(newH2(16, 128), 16), without: map[string]string{"nginx": noH2}, most: limits{0.85, 0.40},
		},
		{
			name: "grpc", about: "unary gRPC (h2c) with messages of 128 B, 16 connections of 16 streams, CPU per call", hop: hop{HTTP2: true}, unit: "call",
			generator: h2Load(newGRPC(16, 128), 16), most: limits{0.85, 0.40},
		},
		{
			name: "grpc-64x1", about: "unary gRPC (h2c) with messages of 128 B, 64 connections of 1 stream, CPU per call", hop: hop{HTTP2: true}, unit: "call",
			generator: h2Load(newGRPC(1, 128), 64), most: limits{0.85, 0.40},
		},
		{
			name: "tcp", about: "TCP in one direction, 8 connections, writes of 64 KiB, CPU per MiB", hop: hop{TCP: true}, unit: "MiB", per: 1 << 20,
			generator: tcpLoad(8, 64<<10), logAtEnd: true, most: limits{0.90, 0.60},
		},
		{
			name: "tcp-1m", about: "TCP in one direction, 8 connections, writes of 1 MiB, CPU per MiB", hop: hop{TCP: true}, unit: "MiB", per: 1 << 20,
			generator: tcpLoad(8, 1<<20), logAtEnd: true, most: limits{0.90, 0.60},
		},
	}
}

func http1Load(size, busy, paced, rate int, encrypted bool) func(*certificates) (generator, error) {
	return func(certs *certificates) (generator, error) {
		l, err := newLoad(newHTTP1(size))
		if err != nil {
			return nil, err
		}
		l.busy, l.paced, l.rate = busy, paced, rate
		if encrypted {
			l.tls, err = certs.clientTLS()
		}
		return l, err
	}
}

func h2Load(p *h2, conns int) func(*certificates) (generator, error) {
	return func(*certificates) (generator, error) {
		l, err := newLoad(p)
		if err != nil {
			return nil, err
		}
		l.busy = conns
		return l, nil
	}
}

func handshakeLoad(size, clients int) func(*certificates) (generator, error) {
	return func(certs *certificates) (generator, error) {
		l, err := newLoad(newHTTP1(size))
		if err != nil {
			return nil, err
		}
		config, err := certs.clientTLS()
		return &handshakes{load: l, config: config, clients: clients}, err
	}
}

func tcpLoad(conns, chunk int) func(*certificates) (generator, error) {
	return func(*certificates) (generator, error) { return newStream(conns, chunk) }
}

func otherWorks() []work {
	var all []work
	add := func(name, about string, run func(context.Context, options, io.Writer) ([]record, error)) {
		all = append(all, work{name, about, "", run})
	}
	add("xds-100", "one endpoint changes, 100 delta clients", xdsWork(100))
	add("xds-1000", "one endpoint changes, 1,000 delta clients", xdsWork(1000))
	add("path-change", "a change at a real Consul with 1,000 services of 10 endpoints, until the proxy's ACK",
		budgetWork("path-change", "./e2e", "BenchmarkPathChange", budgets{"p50-ms": 100, "p99-ms": 100}))
	add("path-memory", "resident memory of mesh control and mesh-proxy with these, and of an idle mesh-proxy",
		budgetWork("path-memory", "./e2e", "BenchmarkPathMemory", budgets{"control-MB": 150, "proxy-MB": 60, "idle-MB": 28, "idle-anonymous-MB": 12}))
	for _, r := range []struct {
		name, server, benchmark string
		most                    float64 // milliseconds that a change may take until the Snapshot has it
	}{
		{"consul", "Consul", "BenchmarkConsul", 50},
		{"etcd", "etcd", "BenchmarkEtcd", 50},
		{"zookeeper", "ZooKeeper", "BenchmarkZooKeeper", 100},
		{"kubernetes", "Kubernetes", "BenchmarkKubernetes", 50},
	} {
		add("registry-"+r.name, "10,000 services of 10 endpoints in a real "+r.server+": the first view, a change, a churn of 1,000 changes/s",
			budgetWork("registry-"+r.name, "./bench/registries", r.benchmark, budgets{"first-s": 10, "p99-ms": r.most, "churn-cores": 1, "churn-rate": 0, "control-MB": 0}))
	}
	add("merge", "four registries with 10,000 services of 10 endpoints each: a service of each changes, until the merged services are there",
		budgetWork("merge", "./registry", "BenchmarkMergeFourSources", budgets{"p50-ms": 20, "p99-ms": 20}))
	add("snapshot-memory", "a Snapshot of 100,000 endpoints: growth of HeapInuse after two collections",
		budgetWork("snapshot-memory", "./registry", "BenchmarkSnapshotMemory", budgets{"heap-MB": 120}))
	add("gossip-death", "a host of 50 dies, until a control node has seen it",
		budgetWork("gossip-death", "./internal/gossip", "BenchmarkDeathAmong50", budgets{"p50-s": 3, "max-s": 3}))
	return all
}

func choose(names string) ([]work, error) {
	if names == "all" {
		return works(), nil
	}
	var chosen []work
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, w := range works() {
			if name == w.name || name == w.group {
				chosen, found = append(chosen, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no work %q: see -list", name)
		}
	}
	return chosen, nil
}
