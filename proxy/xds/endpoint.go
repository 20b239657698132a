package xds

import (
	"math"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const envoyOverprovisioning = 140 // percent; the value that is in force when none is given

// assignment is a decoded ClusterLoadAssignment.
type assignment struct {
	name       string
	localities []locality
}

// locality is one group of endpoints. Its weight counts only where a cluster asks for it.
type locality struct {
	weight    uint32
	priority  uint32
	sum       uint64 // of the endpoints' weights
	endpoints []*config.Endpoint
}

// assignment reads a ClusterLoadAssignment. Of endpoints with equal addresses the first counts.
func (r *reader) assignment(at *path, m *endpointv3.ClusterLoadAssignment) assignment {
	out := assignment{name: m.GetClusterName()}
	if f := m.GetPolicy().GetOverprovisioningFactor(); f != nil && f.GetValue() != envoyOverprovisioning {
		r.wrong(at.field("policy").field("overprovisioning_factor"), f.GetValue(), "140 or nothing")
	}
	seen := map[netip.AddrPort]bool{}
	for i, l := range m.GetEndpoints() {
		p := at.at("endpoints", i)
		group := locality{weight: l.GetLoadBalancingWeight().GetValue(), priority: l.GetPriority()}
		where := config.Locality{
			Region:  intern(l.GetLocality().GetRegion()),
			Zone:    intern(l.GetLocality().GetZone()),
			SubZone: intern(l.GetLocality().GetSubZone()),
		}
		for j, e := range l.GetLbEndpoints() {
			out := r.endpoint(p.at("lb_endpoints", j), e)
			if out == nil || seen[out.Addr] {
				continue
			}
			seen[out.Addr] = true
			out.Priority, out.Locality = l.GetPriority(), where
			group.sum += uint64(out.Weight)
			group.endpoints = append(group.endpoints, out)
		}
		if group.sum > math.MaxUint32 {
			r.wrong(p, group.sum, "a sum of weights of at most 4294967295")
		}
		out.localities = append(out.localities, group)
	}
	return out
}

func (r *reader) endpoint(at *path, m *endpointv3.LbEndpoint) *config.Endpoint {
	if m.GetEndpoint() == nil {
		r.wrong(at, "no endpoint", "an endpoint")
		return nil
	}
	p := at.field("endpoint").field("address")
	addr, ok := r.address(p, m.GetEndpoint().GetAddress())
	if !ok {
		return nil
	}
	if addr.Port() == 0 || addr.Addr().IsUnspecified() {
		r.wrong(p, addr, "an address and port that can be dialled")
	}
	out := &config.Endpoint{Addr: addr, Hostname: m.GetEndpoint().GetHostname(), Weight: 1}
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
	return out
}

// endpoints lists all endpoints. When weighted, each locality gets its weight's share of its priority, divided among
// its endpoints by theirs, and a locality without weight gets nothing; otherwise only the endpoints' weights count. It
// may change the endpoints in place and is called once.
func (a assignment) endpoints(weighted bool) []*config.Endpoint {
	var out []*config.Endpoint
	smallest, largest := map[uint32]float64{}, map[uint32]float64{}
	for _, l := range a.localities {
		if weighted && l.weight == 0 {
			continue
		}
		out = append(out, l.endpoints...)
		for _, e := range l.endpoints {
			s := l.share(e)
			if least, seen := smallest[l.priority]; !seen || s < least {
				smallest[l.priority] = s
			}
			largest[l.priority] = max(largest[l.priority], s)
		}
	}
	if !weighted {
		return out
	}
	// Shares become whole weights of which the smallest in a priority is 100 (or 1, when all are equal).
	for _, l := range a.localities {
		scale := 100 / smallest[l.priority]
		if smallest[l.priority] == largest[l.priority] {
			scale = 1 / smallest[l.priority]
		}
		if l.weight == 0 {
			continue
		}
		for _, e := range l.endpoints {
			e.Weight = uint32(max(1, min(math.Round(l.share(e)*scale), 1<<24)))
		}
	}
	return out
}

// share is what an endpoint gets of its priority's requests, up to a factor that all endpoints share.
func (l locality) share(e *config.Endpoint) float64 {
	return float64(l.weight) * float64(e.Weight) / float64(l.sum)
}
