package proxy

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// sample is one figure: its name in /stats is scope.owner.name.
type sample struct {
	scope, label, owner string // e.g. cluster, envoy_cluster_name, the cluster's name
	name                string
	value               uint64
	gauge               bool
	histogram           *upstream.Histogram
}

func (p *Proxy) samples(ctx context.Context) []sample {
	n := p.gather(ctx)
	var out []sample
	for _, name := range slices.Sorted(maps.Keys(n.clusters)) {
		c := n.clusters[name]
		put := func(s sample) {
			s.scope, s.label, s.owner = "cluster", "envoy_cluster_name", name
			out = append(out, s)
		}
		for _, s := range c.samples() {
			put(s)
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(n.http)) {
		s := n.http[prefix]
		put := func(v sample) {
			v.scope, v.label, v.owner = "http", "envoy_http_conn_manager_prefix", prefix
			out = append(out, v)
		}
		for _, v := range s.samples() {
			put(v)
		}
	}
	for i := httpUnderscoreRejected; i < numHTTPCounters; i++ {
		sum := uint64(0)
		for _, s := range n.http {
			sum += s.count[i]
		}
		out = append(out, sample{scope: "http1", name: httpCounterNames[i], value: sum})
	}
	for i, v := range n.http2 {
		out = append(out, sample{scope: "http2", name: http2.Counter(i).String(), value: v})
	}
	out = append(out, sample{scope: "listener_manager", name: "total_listeners_draining", value: uint64(len(n.draining)), gauge: true})
	for _, prefix := range slices.Sorted(maps.Keys(n.tcp)) {
		s := n.tcp[prefix]
		for i, v := range s.count {
			out = append(out, sample{scope: "tcp", label: "envoy_tcp_prefix", owner: prefix, name: tcpCounterNames[i], value: v})
		}
		out = append(out, sample{scope: "tcp", label: "envoy_tcp_prefix", owner: prefix, name: "downstream_cx_active", value: uint64(s.active), gauge: true})
	}
	for _, addr := range slices.SortedFunc(maps.Keys(n.listeners), config.Address.Compare) {
		owner := statOwner(addr)
		for i, v := range n.listeners[addr].count {
			out = append(out, sample{scope: "listener", label: "envoy_listener_address", owner: owner, name: listenerCounterNames[i], value: v, gauge: listenerCounter(i) >= listenerPreCxActive})
		}
	}
	out = append(out, n.loopSamples()...)
	out = append(out, n.prefaces.samples()...)
	out = append(out, p.nameSamples()...)
	out = append(out, p.fleet.samples()...)
	out = append(out, p.legacySamples()...)
	out = append(out, p.overloadSamples()...)
	out = append(out, p.controlSamples()...)
	return append(out, p.serverSamples()...)
}

// controlSamples are the figures of the connection to the control plane.
func (p *Proxy) controlSamples() []sample {
	if p.opts.ControlPlane == nil {
		return nil
	}
	var out []sample
	for _, s := range p.opts.ControlPlane() {
		scope, name, _ := strings.Cut(s.Name, ".")
		out = append(out, sample{scope: scope, name: name, value: s.Value, gauge: !s.Counter})
	}
	return out
}

// serverSamples are the figures of the process.
func (p *Proxy) serverSamples() []sample {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	active, failed := 0, 0
	for _, at := range p.binder.listeners() {
		if at.bound {
			active++
		} else {
			failed++
		}
	}
	state, _ := p.state()
	live := uint64(0)
	if state == "LIVE" {
		live = 1
	}
	certs := p.certs.Stats()
	p.binder.mu.Lock()
	changes := p.binder.changes
	p.binder.mu.Unlock()
	gauge := func(scope, name string, v uint64) sample {
		return sample{scope: scope, name: name, value: v, gauge: true}
	}
	return []sample{
		{scope: "access_log", name: "dropped_lines", value: p.binder.droppedLines()},
		{scope: "listener_manager", name: "listener_added", value: changes.added},
		{scope: "listener_manager", name: "listener_modified", value: changes.modified},
		{scope: "listener_manager", name: "listener_removed", value: changes.removed},
		gauge("listener_manager", "total_listeners_active", uint64(active)),
		gauge("listener_manager", "total_listeners_not_bound", uint64(failed)),
		{scope: "certificates", name: "update_success", value: certs.UpdateSuccess},
		{scope: "certificates", name: "update_rejected", value: certs.UpdateRejected},
		gauge("certificates", "active", uint64(certs.Certificates)),
		gauge("server", "days_until_first_cert_expiring", certs.DaysUntilFirstExpiry),
		gauge("server", "concurrency", uint64(len(p.workers))),
		gauge("server", "live", live),
		gauge("server", "memory_allocated", memory.HeapAlloc),
		gauge("server", "uptime", uint64(time.Since(p.started).Seconds())),
	}
}
