package xds

import (
	"math"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// assignment is a decoded ClusterLoadAssignment.
type assignment struct {
	name             string
	overprovisioning uint32 // percent; 0: none is given
	endpoints        []*config.Endpoint
}

// assignment reads a ClusterLoadAssignment. Of endpoints with equal addresses the first counts.
func (r *reader) assignment(at *path, m *endpointv3.ClusterLoadAssignment) assignment {
	out := assignment{name: m.GetClusterName(), overprovisioning: m.GetPolicy().GetOverprovisioningFactor().GetValue()}
	seen := map[config.Address]bool{}
	for i, l := range m.GetEndpoints() {
		p := at.at("endpoints", i)
		sum := uint64(0)
		where := config.Locality{
			Region:  intern(l.GetLocality().GetRegion()),
			Zone:    intern(l.GetLocality().GetZone()),
			SubZone: intern(l.GetLocality().GetSubZone()),
		}
		if l.GetMetadata().GetFilterMetadata()[socketMark] != nil {
			r.wrong(p.field("metadata").field("filter_metadata").field(socketMark), "a value", "it unset: endpoints have their own")
		}
		for j, e := range l.GetLbEndpoints() {
			own := r.endpoint(p.at("lb_endpoints", j), e)
			if own == nil || seen[own.Addr] {
				continue
			}
			seen[own.Addr] = true
			own.Priority, own.Locality, own.LocalityWeight = l.GetPriority(), where, l.GetLoadBalancingWeight().GetValue()
			sum += uint64(own.Weight)
			out.endpoints = append(out.endpoints, own)
		}
		if sum > math.MaxUint32 {
			r.wrong(p, sum, "a sum of weights of at most 4294967295")
		}
	}
	return out
}

func (r *reader) endpoint(at *path, m *endpointv3.LbEndpoint) *config.Endpoint {
	if m.GetEndpoint() == nil {
		r.wrong(at, "no endpoint", "an endpoint")
		return nil
	}
	p := at.field("endpoint").field("address")
	addr, ok := r.endpointAddress(p, m.GetEndpoint().GetAddress())
	if !ok {
		return nil
	}
	out := &config.Endpoint{Addr: addr}
	r.endpointValues(at, m, out)
	return out
}

// endpointAddress reads an address to dial, of either kind.
func (r *reader) endpointAddress(at *path, m *corev3.Address) (config.Address, bool) {
	if pipe := m.GetPipe(); pipe != nil {
		at = at.field("pipe")
		if pipe.GetMode() != 0 {
			r.wrong(at.field("mode"), pipe.GetMode(), "it unset: the endpoint makes its socket")
		}
		return config.Address{Path: intern(pipe.GetPath())}, r.socketPath(at.field("path"), pipe.GetPath())
	}
	ip, ok := r.address(at, m)
	if ok && (ip.Port() == 0 || ip.Addr().IsUnspecified()) {
		r.wrong(at, ip, "an address and port that can be dialled")
	}
	return config.Address{IP: ip}, ok
}

// endpointValues reads all of an endpoint but its address.
func (r *reader) endpointValues(at *path, m *endpointv3.LbEndpoint, out *config.Endpoint) {
	out.Hostname, out.Weight = m.GetEndpoint().GetHostname(), 1
	out.HashKey = m.GetMetadata().GetFilterMetadata()[lbMetadata].GetFields()["hash_key"].GetStringValue()
	out.SocketMark = r.mark(at.field("metadata"), m.GetMetadata())
	out.Labels = labels(m.GetMetadata())
	if w := m.GetLoadBalancingWeight(); w != nil {
		out.Weight = w.GetValue()
	}
	switch m.GetHealthStatus() {
	case corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY:
		out.Health = config.Healthy
	case corev3.HealthStatus_DEGRADED:
		out.Health = config.Degraded
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_TIMEOUT:
		out.Health = config.Unhealthy
	case corev3.HealthStatus_DRAINING:
		out.Health = config.Draining
	default:
		r.wrong(at.field("health_status"), m.GetHealthStatus(), "a health status")
	}
}

// give puts the endpoints into a cluster. Those that did not change since old, which may be nil, keep their pointers.
func (a assignment) give(c, old *config.Cluster) {
	c.Endpoints, c.Overprovisioning, c.Assigned = keep(old, slices.Clone(a.endpoints)), a.overprovisioning, true
}
