package proxy

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// counts is everything that the loops have counted.
type counts struct {
	clusters  map[string]*clusterCounts
	http      map[string]*httpStats
	tcp       map[string]*tcpStats
	listeners map[config.Address]*listenerStats
	prefaces  prefaceStats
	perLoop   map[config.Address][]loopCount
}

// loopCount is what one loop has of an address.
type loopCount struct{ slot, active int }

// gather asks each loop for its counts, on the loop, and sums them. A loop that does not answer in time is left out.
func (p *Proxy) gather(ctx context.Context) *counts {
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	total := newCounts()
	for _, w := range p.workers {
		part := newCounts() // of its own: a loop that answers too late writes to what nobody reads
		if w.loop.Do(ctx, func() { part.take(w) }) == nil {
			total.add(part)
		}
	}
	return total
}

func newCounts() *counts {
	return &counts{map[string]*clusterCounts{}, map[string]*httpStats{}, map[string]*tcpStats{}, map[config.Address]*listenerStats{}, prefaceStats{}, map[config.Address][]loopCount{}}
}

// take copies what a worker has counted; on its loop.
func (n *counts) take(w *worker) {
	for name, c := range w.clusters {
		cc := &clusterCounts{gauges: c.Gauges(), plan: c.Plan(), hosts: map[config.Address]*hostCounts{}}
		cc.stats.Add(&c.Stats)
		for _, h := range c.Hosts() {
			cc.hosts[h.Endpoint.Addr] = &hostCounts{h.Stats, h.Active(), h.Conns()}
		}
		n.clusters[name] = cc
	}
	for prefix, s := range w.http {
		own := *s
		n.http[prefix] = &own
	}
	for prefix, s := range w.tcp {
		own := *s
		n.tcp[prefix] = &own
	}
	for addr, a := range w.acceptors {
		own := *a.stats
		n.listeners[addr] = &own
		n.perLoop[addr] = []loopCount{{w.slot, a.active}}
	}
	n.prefaces = w.prefaces
}

func (n *counts) add(other *counts) {
	for name, c := range other.clusters {
		mine := n.clusters[name]
		if mine == nil {
			n.clusters[name] = c
			continue
		}
		mine.stats.Add(&c.stats)
		mine.gauges.Conns += c.gauges.Conns
		mine.gauges.Requests += c.gauges.Requests
		mine.gauges.Pending += c.gauges.Pending
		for addr, h := range c.hosts {
			if m := mine.hosts[addr]; m == nil {
				mine.hosts[addr] = h
			} else {
				m.stats.Add(&h.stats)
				m.active += h.active
				m.conns += h.conns
			}
		}
		if c.plan.Config().OriginalDst != nil { // each loop has made its own
			mine.gauges.Members, mine.gauges.HealthyMembers = len(mine.hosts), len(mine.hosts)
		}
	}
	merge(n.http, other.http, (*httpStats).add)
	merge(n.tcp, other.tcp, (*tcpStats).add)
	merge(n.listeners, other.listeners, (*listenerStats).add)
	n.prefaces.add(&other.prefaces)
	for addr, counts := range other.perLoop {
		n.perLoop[addr] = append(n.perLoop[addr], counts...)
	}
}

func merge[K comparable, V any](into, from map[K]*V, add func(*V, *V)) {
	for k, v := range from {
		if mine := into[k]; mine != nil {
			add(mine, v)
		} else {
			into[k] = v
		}
	}
}

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
		for i, v := range c.stats.Count {
			put(sample{name: upstream.Counter(i).String(), value: v})
		}
		put(sample{name: "upstream_cx_active", value: uint64(c.gauges.Conns), gauge: true})
		put(sample{name: "upstream_rq_active", value: uint64(c.gauges.Requests), gauge: true})
		put(sample{name: "upstream_rq_pending_active", value: uint64(c.gauges.Pending), gauge: true})
		put(sample{name: "membership_total", value: uint64(c.gauges.Members), gauge: true})
		put(sample{name: "membership_healthy", value: uint64(c.gauges.HealthyMembers), gauge: true})
		for _, s := range planSamples(c.plan) {
			put(s)
		}
		if c.stats.Time != nil {
			put(sample{name: "upstream_rq_time", histogram: c.stats.Time})
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(n.http)) {
		s := n.http[prefix]
		put := func(v sample) {
			v.scope, v.label, v.owner = "http", "envoy_http_conn_manager_prefix", prefix
			out = append(out, v)
		}
		for i, v := range s.count[:httpUnderscoreRejected] {
			put(sample{name: httpCounterNames[i], value: v})
		}
		put(sample{name: "downstream_cx_active", value: uint64(s.conns), gauge: true})
		put(sample{name: "downstream_rq_active", value: uint64(s.active), gauge: true})
		put(sample{name: "downstream_rq_time", histogram: &s.time})
	}
	for i := httpUnderscoreRejected; i < numHTTPCounters; i++ {
		sum := uint64(0)
		for _, s := range n.http {
			sum += s.count[i]
		}
		out = append(out, sample{scope: "http1", name: httpCounterNames[i], value: sum})
	}
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
	gauge := func(scope, name string, v uint64) sample {
		return sample{scope: scope, name: name, value: v, gauge: true}
	}
	return []sample{
		{scope: "access_log", name: "dropped_lines", value: p.binder.droppedLines()},
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

func (a *admin) stats(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("format") == "prometheus" {
		a.prometheus(w, r)
		return
	}
	filter, err := regexp.Compile(q.Get("filter"))
	if err != nil {
		http.Error(w, "filter: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	out := bufio.NewWriter(w)
	defer out.Flush()
	for _, s := range a.p.samples(r.Context()) {
		name := s.scope + "." + s.owner + "." + s.name
		if s.owner == "" {
			name = s.scope + "." + s.name
		}
		if !filter.MatchString(name) || q.Has("usedonly") && s.value == 0 && (s.histogram == nil || s.histogram.Count == 0) {
			continue
		}
		if s.histogram != nil {
			fmt.Fprintf(out, "%s: %s\n", name, quantiles(s.histogram))
		} else {
			fmt.Fprintf(out, "%s: %d\n", name, s.value)
		}
	}
}

// quantiles estimates some from the buckets, as upper bounds.
func quantiles(h *upstream.Histogram) string {
	if h.Count == 0 {
		return "No recorded values"
	}
	var b strings.Builder
	for _, q := range []float64{0.5, 0.9, 0.99, 0.999} {
		want, seen, bound := uint64(q*float64(h.Count)), uint64(0), "+Inf"
		for i, n := range h.Buckets {
			if seen += n; seen > want || seen == h.Count {
				if i < len(upstream.Bounds) {
					bound = strconv.FormatFloat(upstream.Bounds[i], 'g', -1, 64)
				}
				break
			}
		}
		fmt.Fprintf(&b, "P%g(%s) ", q*100, bound)
	}
	return strings.TrimSpace(b.String())
}

// prometheus writes the figures in Prometheus' text form, with Envoy's names and labels.
func (a *admin) prometheus(w http.ResponseWriter, r *http.Request) {
	families := map[string]*strings.Builder{}
	for _, s := range a.p.samples(r.Context()) {
		writeSample(families, &s)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	out := bufio.NewWriter(w)
	defer out.Flush()
	for _, name := range slices.Sorted(maps.Keys(families)) {
		_, _ = out.WriteString(families[name].String())
	}
}

// writeSample adds a figure to its family. A name like downstream_rq_2xx becomes downstream_rq_xx with the class as a label.
func writeSample(families map[string]*strings.Builder, s *sample) {
	name, labels := s.name, ""
	if n := len(name); strings.HasSuffix(name, "xx") && n > 4 && name[n-3] >= '1' && name[n-3] <= '5' {
		labels = fmt.Sprintf(`envoy_response_code_class="%c"`, name[n-3])
		name = name[:n-3] + "xx"
	}
	if s.label != "" {
		if labels != "" {
			labels += ","
		}
		labels += s.label + `="` + escapeLabel(s.owner) + `"`
	}
	name = "envoy_" + s.scope + "_" + strings.ReplaceAll(name, ".", "_")
	kind := "counter"
	switch {
	case s.histogram != nil:
		kind = "histogram"
	case s.gauge:
		kind = "gauge"
	}
	f := families[name]
	if f == nil {
		f = &strings.Builder{}
		families[name] = f
		fmt.Fprintf(f, "# TYPE %s %s\n", name, kind)
	}
	if s.histogram == nil {
		fmt.Fprintf(f, "%s{%s} %d\n", name, labels, s.value)
		return
	}
	seen := uint64(0)
	for i, n := range s.histogram.Buckets {
		seen += n
		bound := "+Inf"
		if i < len(upstream.Bounds) {
			bound = strconv.FormatFloat(upstream.Bounds[i], 'g', -1, 64)
		}
		fmt.Fprintf(f, "%s_bucket{%s,le=\"%s\"} %d\n", name, labels, bound, seen)
	}
	fmt.Fprintf(f, "%s_sum{%s} %g\n", name, labels, float64(s.histogram.Sum)/float64(time.Millisecond))
	fmt.Fprintf(f, "%s_count{%s} %d\n", name, labels, s.histogram.Count)
}

// escapeLabel escapes a label's value (Prometheus' text format).
func escapeLabel(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}
