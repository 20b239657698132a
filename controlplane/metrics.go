package controlplane

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/registry"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("hostmesh_"+name, help, labels, nil)
}

// descriptions are the metrics that a collector exports.
type descriptions struct {
	number, services, endpoints, conflicts                                                          *prometheus.Desc
	regUp, regState, regView, regServices, regEndpoints, regProblems, regErrors                     *prometheus.Desc
	regDoubted, regReleased                                                                         *prometheus.Desc
	clients, nacks, dnsQueries, dnsTruncated, dnsLimited, dnsUnsigned, dnsSignatures, dnsSigned     *prometheus.Desc
	dnsCopied, dnsNotified, dnsNotifyFailures                                                       *prometheus.Desc
	dnsIgnored, dnsRefusedConns, dnsSocketErrors, dnsPanics                                         *prometheus.Desc
	fwdAnswers, fwdFailures, fwdUp, fwdCache, fwdRefused, fwdLoops, fwdEntries, fwdBytes, fwdFlying *prometheus.Desc
	dnsLogged, dnsUnlogged, dnsLogUp                                                                *prometheus.Desc
}

func newDescriptions() descriptions {
	return descriptions{
		number:        describe("snapshot_number", "The number of the state that is served: SOA serial and xDS version."),
		services:      describe("services", "Services in the snapshot."),
		endpoints:     describe("endpoints", "Endpoints in the snapshot, by health.", "health"),
		conflicts:     describe("conflicts", "Contradictions between registries in the snapshot."),
		regUp:         describe("registry_up", "Whether the registry answers now (1) or its last view is kept (0).", "registry", "kind"),
		regState:      describe("registry_state", "1 for the state that the registry is in.", "registry", "kind", "state"),
		regView:       describe("registry_last_view_timestamp_seconds", "When the registry's last view came, Unix time.", "registry"),
		regServices:   describe("registry_services", "Services in the registry's last view.", "registry"),
		regEndpoints:  describe("registry_endpoints", "Endpoints in the registry's last view.", "registry"),
		regProblems:   describe("registry_problems", "Entries of the registry that could not be read, by kind.", "registry", "kind"),
		regDoubted:    describe("registry_doubted_endpoints", "Endpoints that are kept although the registry does not report them any more.", "registry"),
		regReleased:   describe("registry_released_endpoints_total", "Endpoints that are doubted no more, by why.", "registry", "why"),
		regErrors:     describe("registry_failures_total", "How often watching the registry failed.", "registry"),
		clients:       describe("xds_clients", "xDS clients by kind and whether they are connected.", "kind", "connected"),
		nacks:         describe("xds_nacks", "Types of resources that a connected client has refused last.", "type"),
		dnsQueries:    describe("dns_queries_total", "DNS queries answered.", "zone", "transport", "type", "rcode"),
		dnsTruncated:  describe("dns_truncated_total", "DNS answers over UDP that did not fit."),
		dnsLimited:    describe("dns_limited_total", "DNS queries over UDP that were held back, as their source asked too much."),
		dnsUnsigned:   describe("dns_unsigned_total", "DNS queries with DO that were held back, as too many signatures were to be made."),
		dnsSigned:     describe("dns_zone_signed", "Whether the zone is signed (1), or not although it should be (0).", "zone"),
		dnsSignatures: describe("dns_signatures_total", "Signatures made for answers of DNS."),

		dnsIgnored:      describe("dns_ignored_total", "Messages that got no answer: they are no queries, or too many were being waited for."),
		dnsRefusedConns: describe("dns_refused_connections_total", "Connections for DNS that were closed, as too many were open."),
		dnsSocketErrors: describe("dns_socket_errors_total", "Errors of the sockets of DNS."),
		dnsPanics:       describe("dns_panics_total", "DNS queries that made the server panic; the log has them."),

		fwdAnswers:  describe("dns_forward_answers_total", "Answers of upstreams.", "upstream"),
		fwdFailures: describe("dns_forward_failures_total", "Questions that the upstream did not answer.", "upstream"),
		fwdUp:       describe("dns_forward_upstream_up", "Whether the upstream answers (1), or is asked after others as it does not (0).", "upstream"),
		fwdCache:    describe("dns_forward_cache_total", "Forwarded queries by where their answer came from: the cache (hit), the cache after its time (stale), an upstream (miss), nobody as such names are not asked for (local).", "result"),
		fwdRefused:  describe("dns_forward_refused_total", "Forwarded queries that were not answered, as too many were waiting."),
		fwdLoops:    describe("dns_forward_loops_total", "Queries to upstreams that came back."),
		fwdEntries:  describe("dns_forward_cache_entries", "Answers in the cache."),
		fwdBytes:    describe("dns_forward_cache_bytes", "Memory of the cache, more or less."),
		fwdFlying:   describe("dns_forward_in_flight", "Questions that upstreams are asked now."),

		dnsLogged:   describe("dns_query_log_written_total", "DNS queries, with their answers, that were written to the query log."),
		dnsUnlogged: describe("dns_query_log_dropped_total", "DNS queries that were to be logged, and were not taken in time."),
		dnsLogUp:    describe("dns_query_log_up", "Whether the query log is written now (1) or not (0)."),

		dnsCopied:         describe("dns_secondary_serial", "The serial of the zone that the secondary has copied last, 0 before it has.", "zone", "secondary"),
		dnsNotified:       describe("dns_secondary_notified_serial", "The serial that the secondary has confirmed to have been told of.", "zone", "secondary"),
		dnsNotifyFailures: describe("dns_secondary_notify_failures_total", "How often the secondary could not be told of a change.", "zone", "secondary"),
	}
}

func (s *Server) metricsHandler() http.Handler {
	all := prometheus.NewRegistry()
	all.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector{s, newDescriptions()},
	)
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{})
}

// collector reads what it exports at each scrape from those who know it; it holds no state of its own.
type collector struct {
	server *Server
	descriptions
}

// Describe sends nothing: the set of labels is known only at the scrape (an unchecked collector).
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	c.collectSnapshot(gauge)
	c.collectRegistries(gauge, out)
	c.collectClients(gauge)
	c.collectDNS(out)
}

type gaugeFunc func(d *prometheus.Desc, value float64, labels ...string)

func (c collector) collectSnapshot(gauge gaugeFunc) {
	snapshot, _ := c.server.catalog.Current()
	byHealth := map[registry.Health]int{registry.Healthy: 0, registry.Unhealthy: 0, registry.Draining: 0, registry.Unknown: 0}
	conflicts := 0
	for _, svc := range snapshot.Services {
		conflicts += len(svc.Conflicts)
		for _, e := range svc.Endpoints {
			byHealth[e.Health]++
		}
	}
	gauge(c.number, float64(snapshot.Number))
	gauge(c.services, float64(len(snapshot.Services)))
	gauge(c.conflicts, float64(conflicts))
	for health, n := range byHealth {
		gauge(c.endpoints, float64(n), health.String())
	}
}

func (c collector) collectClients(gauge gaugeFunc) {
	type key struct {
		kind      string
		connected bool
	}
	clients, nacks := map[key]int{}, map[string]int{}
	for _, kind := range []compile.Kind{compile.Proxy, compile.GRPC} {
		clients[key{kind.String(), true}], clients[key{kind.String(), false}] = 0, 0
	}
	for _, client := range c.server.xds.Clients() {
		clients[key{client.Kind, client.Disconnected == nil}]++
		for _, t := range client.Types {
			if t.Nack != nil && client.Disconnected == nil {
				nacks[t.Type]++
			}
		}
	}
	for k, n := range clients {
		gauge(c.clients, float64(n), k.kind, strconv.FormatBool(k.connected))
	}
	for _, t := range []string{"CDS", "EDS", "LDS", "RDS"} {
		gauge(c.nacks, float64(nacks[t]), t)
	}
}

func (c collector) collectRegistries(gauge gaugeFunc, out chan<- prometheus.Metric) {
	for _, r := range c.server.catalog.Sources() {
		up := 0.0
		if r.State == registry.Synced {
			up = 1
		}
		gauge(c.regUp, up, r.Name, r.Kind)
		for _, state := range []registry.SourceState{registry.Connecting, registry.Synced, registry.Stale, registry.Denied} {
			in := 0.0
			if r.State == state {
				in = 1
			}
			gauge(c.regState, in, r.Name, r.Kind, string(state))
		}
		if !r.LastView.IsZero() {
			gauge(c.regView, float64(r.LastView.UnixMilli())/1000, r.Name)
		}
		gauge(c.regServices, float64(r.Services), r.Name)
		gauge(c.regEndpoints, float64(r.Endpoints), r.Name)
		for kind, n := range r.ProblemKinds {
			gauge(c.regProblems, float64(n), r.Name, kind)
		}
		gauge(c.regDoubted, float64(r.Doubted), r.Name)
		for why, n := range r.Released {
			out <- prometheus.MustNewConstMetric(c.regReleased, prometheus.CounterValue, float64(n), r.Name, why)
		}
		out <- prometheus.MustNewConstMetric(c.regErrors, prometheus.CounterValue, float64(r.Failures+r.RefusedViews), r.Name)
	}
}

func (c collector) collectDNS(out chan<- prometheus.Metric) {
	if c.server.dns == nil {
		return
	}
	stats := c.server.dns.Stats()
	for _, q := range stats.Queries {
		out <- prometheus.MustNewConstMetric(c.dnsQueries, prometheus.CounterValue, float64(q.Count), q.Zone, q.Transport, q.Type, q.Rcode)
	}
	for desc, n := range map[*prometheus.Desc]uint64{
		c.dnsTruncated: stats.Truncated, c.dnsLimited: stats.Limited, c.dnsUnsigned: stats.Unsigned, c.dnsIgnored: stats.Ignored,
		c.dnsRefusedConns: stats.RefusedConns, c.dnsSocketErrors: stats.SocketErrors, c.dnsPanics: stats.Panics,
	} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n))
	}
	if c.server.forwarder != nil {
		c.collectForward(out)
	}
	if c.server.queryLog != nil {
		log, up := c.server.queryLog.Stats(), 0.0
		if log.Error == "" {
			up = 1
		}
		out <- prometheus.MustNewConstMetric(c.dnsLogged, prometheus.CounterValue, float64(log.Written))
		out <- prometheus.MustNewConstMetric(c.dnsUnlogged, prometheus.CounterValue, float64(log.Dropped))
		out <- prometheus.MustNewConstMetric(c.dnsLogUp, prometheus.GaugeValue, up)
	}
	for _, keys := range c.server.keys {
		out <- prometheus.MustNewConstMetric(c.dnsSigned, prometheus.GaugeValue, 1, keys.Zone())
	}
	for zone := range c.server.unsigned {
		out <- prometheus.MustNewConstMetric(c.dnsSigned, prometheus.GaugeValue, 0, zone)
	}
	for _, status := range c.server.copies.Status() {
		labels := []string{status.Zone, status.Secondary.String()}
		out <- prometheus.MustNewConstMetric(c.dnsCopied, prometheus.GaugeValue, float64(status.Serial), labels...)
		out <- prometheus.MustNewConstMetric(c.dnsNotified, prometheus.GaugeValue, float64(status.Notified), labels...)
		out <- prometheus.MustNewConstMetric(c.dnsNotifyFailures, prometheus.CounterValue, float64(status.Failures), labels...)
	}
	made := uint64(0)
	for _, signer := range c.server.signers {
		made += signer.Made()
	}
	out <- prometheus.MustNewConstMetric(c.dnsSignatures, prometheus.CounterValue, float64(made))
}

func (c collector) collectForward(out chan<- prometheus.Metric) {
	stats := c.server.forwarder.Stats()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, n float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, n, labels...)
	}
	for _, u := range stats.Upstreams {
		up := 0.0
		if u.Error == "" {
			up = 1
		}
		send(c.fwdAnswers, prometheus.CounterValue, float64(u.Answers), u.Addr.String())
		send(c.fwdFailures, prometheus.CounterValue, float64(u.Failures), u.Addr.String())
		send(c.fwdUp, prometheus.GaugeValue, up, u.Addr.String())
	}
	for result, n := range map[string]uint64{"hit": stats.Hits, "miss": stats.Misses, "stale": stats.Stale, "local": stats.Local} {
		send(c.fwdCache, prometheus.CounterValue, float64(n), result)
	}
	send(c.fwdRefused, prometheus.CounterValue, float64(stats.Refused))
	send(c.fwdLoops, prometheus.CounterValue, float64(stats.Loops))
	send(c.fwdEntries, prometheus.GaugeValue, float64(stats.Entries))
	send(c.fwdBytes, prometheus.GaugeValue, float64(stats.Size))
	send(c.fwdFlying, prometheus.GaugeValue, float64(stats.InFlight))
}
