package xds

import (
	"maps"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	httpOptions     = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	httpOptionsType = typePrefix + httpOptions

	// Envoy's defaults.
	defaultConnectTimeout  = 5 * time.Second
	defaultPoolIdleTimeout = time.Hour
	defaultPanicThreshold  = 50
	defaultBreaker         = 1024
	defaultMaxRetries      = 3
)

// cluster is a decoded Cluster. When eds is set its endpoints come by EDS under that name and Endpoints is nil.
type cluster struct {
	config.Cluster
	eds   string
	fetch time.Duration // how long they are waited for; 0: for ever
}

// cluster reads a Cluster.
func (r *reader) cluster(at *path, m *clusterv3.Cluster) *cluster {
	lb := m.GetCommonLbConfig()
	c := &cluster{
		Cluster: config.Cluster{
			Name:           intern(m.GetName()),
			ConnectTimeout: r.duration(at.field("connect_timeout"), m.GetConnectTimeout(), defaultConnectTimeout),
			Keepalive:      r.tcpKeepalive(at.field("upstream_connection_options").field("tcp_keepalive"), m.GetUpstreamConnectionOptions().GetTcpKeepalive()),
			PanicThreshold: defaultPanicThreshold,
			IdleTimeout:    defaultPoolIdleTimeout,
		},
	}
	if c.ConnectTimeout == 0 {
		r.wrong(at.field("connect_timeout"), "0s", "more than 0s")
	}
	if t := lb.GetHealthyPanicThreshold(); t != nil {
		c.PanicThreshold = t.GetValue()
	}
	r.policy(at, m, c)
	r.breakers(at.field("circuit_breakers"), m.GetCircuitBreakers(), c)
	r.sockets(at, m, c)
	r.protocolOptions(at, m, c)
	r.discovery(at, m, c)
	r.health(at, m, c)
	return c
}

// discovery reads where the endpoints come from.
func (r *reader) discovery(at *path, m *clusterv3.Cluster, c *cluster) {
	switch {
	case r.byName(at, m, c):
	case m.GetClusterType() != nil:
		r.wrong(at.field("cluster_type"), named(m.GetClusterType().GetName(), m.GetClusterType().GetTypedConfig().GetTypeUrl()), "a type, or "+dnsCluster)
	case m.GetType() == clusterv3.Cluster_STATIC:
		if m.GetEdsClusterConfig() != nil {
			r.wrong(at.field("eds_cluster_config"), "a value", "it unset with type STATIC")
		}
		c.Assigned = true
		if m.GetLoadAssignment() == nil {
			return // Envoy starts such a cluster too; it has no host
		}
		assigned := r.assignment(at.field("load_assignment"), m.GetLoadAssignment())
		if len(r.problems) == 0 {
			assigned.give(&c.Cluster, nil)
		}
	case m.GetType() == clusterv3.Cluster_EDS:
		if m.GetLoadAssignment() != nil {
			r.wrong(at.field("load_assignment"), "a value", "it unset with type EDS")
		}
		c.fetch = r.ads(at.field("eds_cluster_config").field("eds_config"), m.GetEdsClusterConfig().GetEdsConfig())
		c.eds = c.Name
		if name := m.GetEdsClusterConfig().GetServiceName(); name != "" {
			c.eds = intern(name)
		}
	case m.GetType() == clusterv3.Cluster_ORIGINAL_DST:
		r.originalDst(at, m, c)
	default:
		r.wrong(at.field("type"), m.GetType(), "STATIC, EDS, STRICT_DNS, LOGICAL_DNS or ORIGINAL_DST")
	}
	if m.GetCleanupInterval() != nil && c.OriginalDst == nil {
		r.wrong(at.field("cleanup_interval"), m.GetCleanupInterval().AsDuration(), "it with type ORIGINAL_DST only")
	}
}

// breakers reads the limits of the default priority. Those of other priorities have no traffic to limit.
func (r *reader) breakers(at *path, m *clusterv3.CircuitBreakers, c *cluster) {
	c.MaxConnections, c.MaxPending, c.MaxRequests, c.MaxRetries = defaultBreaker, defaultBreaker, defaultBreaker, defaultMaxRetries
	seen := false
	for i, t := range m.GetThresholds() {
		p := at.at("thresholds", i)
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT || seen {
			r.wrong(p.field("priority"), t.GetPriority(), "DEFAULT, once")
			continue
		}
		seen = true
		c.RetryBudget = r.retryBudget(t.GetRetryBudget())
		for _, limit := range []struct {
			name string
			from interface{ GetValue() uint32 }
			set  bool
			to   *uint32
		}{
			{"max_connections", t.GetMaxConnections(), t.GetMaxConnections() != nil, &c.MaxConnections},
			{"max_pending_requests", t.GetMaxPendingRequests(), t.GetMaxPendingRequests() != nil, &c.MaxPending},
			{"max_requests", t.GetMaxRequests(), t.GetMaxRequests() != nil, &c.MaxRequests},
			{"max_retries", t.GetMaxRetries(), t.GetMaxRetries() != nil, &c.MaxRetries},
		} {
			if !limit.set {
				continue
			}
			// In a Config 0 means no limit, in Envoy it means nothing at all may pass.
			if *limit.to = limit.from.GetValue(); *limit.to == 0 {
				r.wrong(p.field(limit.name), 0, "at least 1")
			}
		}
	}
}

// protocolOptions reads what is set for the upstream's HTTP, in the old place and in the new one.
func (r *reader) protocolOptions(at *path, m *clusterv3.Cluster, c *cluster) {
	//lint:ignore SA1019 it is still sent
	c.MaxConnRequests = m.GetMaxRequestsPerConnection().GetValue()
	//lint:ignore SA1019 it is still sent
	r.poolOptions(at.field("common_http_protocol_options"), m.GetCommonHttpProtocolOptions(), c)
	options := m.GetTypedExtensionProtocolOptions()
	for _, name := range slices.Sorted(maps.Keys(options)) {
		p := at.field("typed_extension_protocol_options").field(name)
		if name != httpOptions || options[name].GetTypeUrl() != httpOptionsType {
			r.wrong(p, named(name, options[name].GetTypeUrl()), httpOptions)
			continue
		}
		o := new(httpv3.HttpProtocolOptions)
		if r.unpack(p, options[name], o) {
			r.poolOptions(p.field("common_http_protocol_options"), o.GetCommonHttpProtocolOptions(), c)
			r.upstreamProtocol(p, o, c)
		}
	}
}
