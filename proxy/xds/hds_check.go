package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/health"
)

// Bounds of what a server may ask for.
const (
	mostChecksRead     = 10   // of a cluster
	mostHealthChecks   = 1000 // endpoints; further ones are left out
	mostAtATime        = 16   // checks
	leastCheckInterval = time.Second
	mostCheckInterval  = time.Hour
	leastCheckTimeout  = 100 * time.Millisecond
	mostCheckTimeout   = 10 * time.Second
)

// healthChecks are the checks that one specifier asks for. An endpoint is reported once for each time it was checked.
type healthChecks struct {
	clusters []clusterChecks
	every    time.Duration // between reports

	mu      sync.Mutex
	results map[checked]corev3.HealthStatus // guarded by mu; since the last report
}

type clusterChecks struct {
	name      string
	every     time.Duration
	check     *config.HealthCheck
	endpoints []checkedEndpoint
}

type checkedEndpoint struct {
	at       config.Address
	asked    *endpointv3.Endpoint // is sent back as it came
	locality *corev3.Locality
}

// checked says which endpoint, by its place in healthChecks.
type checked struct{ cluster, endpoint int }

// newHealthChecks reads a specifier, which may be nil, and tells what of it is not done.
func newHealthChecks(m *healthv3.HealthCheckSpecifier) (h *healthChecks, left []string) {
	h = &healthChecks{every: within(m.GetInterval(), leastCheckInterval, mostCheckInterval), results: make(map[checked]corev3.HealthStatus)}
	n, over, odd := 0, 0, 0
	for _, asked := range m.GetClusterHealthChecks() {
		check, every, err := firstCheck(asked)
		if err != nil {
			left = append(left, fmt.Sprintf("cluster %s: %v", clip(asked.GetClusterName()), err))
			continue
		}
		cluster := clusterChecks{name: asked.GetClusterName(), every: every, check: check}
		for _, locality := range asked.GetLocalityEndpoints() {
			for _, e := range locality.GetEndpoints() {
				at, ok := connectAddress(e)
				switch {
				case !ok:
					odd++
				case n == mostHealthChecks:
					over++
				default:
					n++
					cluster.endpoints = append(cluster.endpoints, checkedEndpoint{at, e, locality.GetLocality()})
				}
			}
		}
		if len(cluster.endpoints) > 0 {
			h.clusters = append(h.clusters, cluster)
		}
	}
	if over > 0 {
		left = append(left, fmt.Sprintf("%d endpoints more than %d", over, mostHealthChecks))
	}
	if odd > 0 {
		left = append(left, fmt.Sprintf("%d endpoints without an IP address and a port", odd))
	}
	if len(left) > 10 {
		left = append(left[:10], fmt.Sprintf("%d further clusters", len(left)-10))
	}
	return h, left
}

// firstCheck reads the first check that is done here: a connect, or one that a cluster may have. The error tells what is wrong
// with the first there is.
func firstCheck(asked *healthv3.ClusterHealthCheck) (check *config.HealthCheck, every time.Duration, err error) {
	var reason error
	for i, m := range asked.GetHealthChecks() {
		if i == mostChecksRead {
			break
		}
		own := &config.HealthCheck{TCP: &config.TCPCheck{}}
		if !isConnect(m) {
			r := &reader{rules: rules{schema: newSchema()}}
			at := (*path)(nil).at("health_checks", i)
			if r.check(at, m) {
				own = r.healthCheck(at, m, asked.GetClusterName())
			}
			if err := r.err(); err != nil {
				reason = cmp.Or(reason, err)
				continue
			}
		}
		own.Timeout, own.ReuseConnection = within(m.GetTimeout(), leastCheckTimeout, mostCheckTimeout), false
		return own, within(m.GetInterval(), leastCheckInterval, mostCheckInterval), nil
	}
	if reason == nil {
		reason = errors.New("health_checks: got none, want one")
	}
	return nil, 0, reason
}

// isConnect reports whether a check is one of TCP that sends and expects nothing.
func isConnect(check *corev3.HealthCheck) bool {
	tcp := check.GetTcpHealthCheck()
	return tcp != nil && tcp.GetSend() == nil && len(tcp.GetReceive()) == 0 && tcp.GetProxyProtocolConfig() == nil &&
		check.GetTransportSocketMatchCriteria() == nil
}

func connectAddress(e *endpointv3.Endpoint) (config.Address, bool) {
	socket := e.GetAddress().GetSocketAddress()
	addr, err := netip.ParseAddr(socket.GetAddress())
	port := socket.GetPortValue()
	return config.Address{IP: netip.AddrPortFrom(addr, uint16(port))}, err == nil && addr.Zone() == "" && port > 0 && port < 1<<16 &&
		socket.GetProtocol() == corev3.SocketAddress_TCP
}

// within returns d, or the nearest of the two bounds.
func within(d *durationpb.Duration, least, most time.Duration) time.Duration {
	return min(max(d.AsDuration(), least), most)
}

// run checks again and again until ctx ends.
func (h *healthChecks) run(ctx context.Context) {
	running := make(chan struct{}, mostAtATime)
	var clusters errgroup.Group
	for i, cluster := range h.clusters {
		clusters.Go(func() error {
			for ctx.Err() == nil {
				next := time.NewTimer(cluster.every)
				h.round(ctx, i, running)
				select {
				case <-ctx.Done():
				case <-next.C:
				}
				next.Stop()
			}
			return nil
		})
	}
	_ = clusters.Wait()
}

// round checks every endpoint of a cluster once, in an order of its own, so that not all proxies go the same way.
func (h *healthChecks) round(ctx context.Context, cluster int, running chan struct{}) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, i := range rand.Perm(len(h.clusters[cluster].endpoints)) {
		select {
		case <-ctx.Done():
			return
		case running <- struct{}{}:
		}
		all.Go(func() {
			defer func() { <-running }()
			c := h.clusters[cluster]
			if result := statusOf(health.Once(ctx, c.name, c.check, c.endpoints[i].at)); result != corev3.HealthStatus_UNKNOWN {
				h.mu.Lock()
				h.results[checked{cluster, i}] = result
				h.mu.Unlock()
			}
		})
	}
}

// statusOf is the health that a check has found. It is unknown when the reason is this host's.
func statusOf(o health.Outcome) corev3.HealthStatus {
	switch o {
	case health.Passed:
		return corev3.HealthStatus_HEALTHY
	case health.PassedDegraded:
		return corev3.HealthStatus_DEGRADED
	case health.Late:
		return corev3.HealthStatus_TIMEOUT
	case health.Refused, health.Rejected, health.Retriable:
		return corev3.HealthStatus_UNHEALTHY
	default:
		return corev3.HealthStatus_UNKNOWN
	}
}

// report sends what was found since the last report, until ctx ends or send fails.
func (h *healthChecks) report(ctx context.Context, send func(*healthv3.EndpointHealthResponse) error) error {
	if len(h.clusters) == 0 {
		return nil
	}
	ticker := time.NewTicker(h.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if m := h.response(); m != nil {
			if err := send(m); err != nil {
				return fmt.Errorf("report health checks: %w", err)
			}
		}
	}
}

// response is the report of what is not reported yet; nil without anything.
func (h *healthChecks) response() *healthv3.EndpointHealthResponse {
	h.mu.Lock()
	results := h.results
	h.results = make(map[checked]corev3.HealthStatus)
	h.mu.Unlock()
	if len(results) == 0 {
		return nil
	}
	m := new(healthv3.EndpointHealthResponse)
	for i, cluster := range h.clusters {
		found := &healthv3.ClusterEndpointsHealth{ClusterName: cluster.name}
		var last *healthv3.LocalityEndpointsHealth
		for j, e := range cluster.endpoints {
			result, ok := results[checked{i, j}]
			if !ok {
				continue
			}
			if last == nil || last.Locality != e.locality { // the same pointer: they came together
				last = &healthv3.LocalityEndpointsHealth{Locality: e.locality}
				found.LocalityEndpointsHealth = append(found.LocalityEndpointsHealth, last)
			}
			last.EndpointsHealth = append(last.EndpointsHealth, &healthv3.EndpointHealth{Endpoint: e.asked, HealthStatus: result})
		}
		if last != nil {
			m.ClusterEndpointsHealth = append(m.ClusterEndpointsHealth, found)
		}
	}
	return m
}
