package compile

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/hostmesh/hostmesh/registry"
)

const connectTimeout = time.Second

// panicPercent makes a client use all endpoints only when none is healthy.
const panicPercent = 1

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// overADS says that a resource's parts come on the stream that it came on itself.
func overADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// clusterFor says how to use the endpoints of one port. Only a port that declares HTTP/2 or gRPC is spoken to in HTTP/2.
func clusterFor(p port) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 p.cluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS()},
		ConnectTimeout:       durationpb.New(connectTimeout),
		LbPolicy:             clusterv3.Cluster_ROUND_ROBIN,
		CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: panicPercent}},
		CircuitBreakers:      noBreakers(),
	}
	if p.Protocol == registry.HTTP2 || p.Protocol == registry.GRPC {
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpProtocolOptions: packed(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
						Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
					},
				},
			},
		})}
	}
	return c
}

// aliasCluster says that a service is another name for something outside of the mesh. Nobody sends it requests, so its addresses
// need not be new.
func aliasCluster(name, external string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS},
		ConnectTimeout:       durationpb.New(connectTimeout),
		//lint:ignore SA1019 what takes its place is an extension, and this is a field that every client reads
		DnsRefreshRate: durationpb.New(24 * time.Hour),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: socketAddress(strings.ToValidUTF8(external, "\uFFFD"), anyPort),
			}}}},
		}}},
	}
}

// address is one host of an assignment.
type address struct {
	endpoint *registry.Endpoint
	locality registry.Locality // as it can be told
	number   uint16
	weight   uint64
}

func (a address) serving() bool { return a.endpoint.Health.Serving() }

// addresses returns where p is served, sorted by locality and then as in the service. Clients ignore or refuse a
// duplicate, so the endpoints of one address are one, with the sum of their weights; the best of their healths counts.
func (s *service) addresses(p port) []address {
	return s.placed(func(e *registry.Endpoint) uint16 { return e.Port(p.Name) })
}

// anyPort is told of endpoints whose port nobody knows: there is no address without one.
const anyPort = 1

// placed is addresses for any choice of an endpoint's port, 0 for none.
func (s *service) placed(number func(*registry.Endpoint) uint16) []address {
	var all []address
	seen := map[netip.AddrPort]int{}
	for _, e := range s.src.Endpoints {
		at := netip.AddrPortFrom(e.Addr, number(e))
		if at.Port() == 0 || !e.Addr.IsValid() {
			continue
		}
		weight := uint64(max(e.Weight, 1))
		i, duplicate := seen[at]
		if !duplicate {
			seen[at] = len(all)
			all = append(all, address{e, tellable(e.Locality), at.Port(), weight})
			continue
		}
		all[i].weight += weight
		if e.Health.Serving() && !all[i].serving() {
			all[i].endpoint, all[i].locality = e, tellable(e.Locality)
		}
	}
	slices.SortStableFunc(all, func(a, b address) int { return compareLocality(a.locality, b.locality) })
	var total uint64
	for _, a := range all {
		total += a.weight
	}
	if limit := uint64(math.MaxUint32); total > limit { // clients refuse weights whose sum is no uint32
		divisor := total/(limit-uint64(len(all))) + 1
		for i := range all {
			all[i].weight = max(all[i].weight/divisor, 1)
		}
	}
	return all
}

// assignment groups the addresses of p by locality, whatever their health. A locality weighs what its serving
// endpoints weigh, so that a client that chooses the locality first (gRPC) shares the load as one that does not.
//
// trustAll hides bad health: gRPC drops such endpoints for good, it has no panic threshold. It is set when no endpoint
// is healthy, for then all are to be used.
func assignment(p port, addresses []address, trustAll bool) *endpointv3.ClusterLoadAssignment {
	cla := &endpointv3.ClusterLoadAssignment{ClusterName: p.cluster}
	for len(addresses) > 0 {
		locality := addresses[0].locality
		n := slices.IndexFunc(addresses, func(a address) bool { return a.locality != locality })
		if n < 0 {
			n = len(addresses)
		}
		group := &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Region: locality.Region, Zone: locality.Zone, SubZone: locality.SubZone}}
		var serving, all uint64
		for _, a := range addresses[:n] {
			health := a.endpoint.Health
			if trustAll {
				health = registry.Unknown
			}
			if all += a.weight; health.Serving() {
				serving += a.weight
			}
			group.LbEndpoints = append(group.LbEndpoints, lbEndpoint(a, health))
		}
		if serving == 0 {
			serving = all
		}
		group.LoadBalancingWeight = wrapperspb.UInt32(uint32(serving))
		cla.Endpoints = append(cla.Endpoints, group)
		addresses = addresses[n:]
	}
	return cla
}

func lbEndpoint(a address, health registry.Health) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: socketAddress(a.endpoint.Addr.String(), a.number),
		}},
		HealthStatus:        healthStatus(health),
		LoadBalancingWeight: wrapperspb.UInt32(uint32(a.weight)),
	}
}

func healthStatus(h registry.Health) corev3.HealthStatus {
	switch h {
	case registry.Healthy:
		return corev3.HealthStatus_HEALTHY
	case registry.Unhealthy:
		return corev3.HealthStatus_UNHEALTHY
	case registry.Draining:
		return corev3.HealthStatus_DRAINING
	}
	return corev3.HealthStatus_UNKNOWN
}

func socketAddress(addr string, number uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       addr,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(number)},
	}}}
}

// tellable replaces what is no UTF-8 in a registry's words: it could not be marshalled.
func tellable(l registry.Locality) registry.Locality {
	valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	return registry.Locality{Region: valid(l.Region), Zone: valid(l.Zone), SubZone: valid(l.SubZone)}
}

func compareLocality(a, b registry.Locality) int {
	if c := strings.Compare(a.Region, b.Region); c != 0 {
		return c
	}
	if c := strings.Compare(a.Zone, b.Zone); c != 0 {
		return c
	}
	return strings.Compare(a.SubZone, b.SubZone)
}

// noBreakers lifts Envoy's limits, as Istio does: its 3 retries at a time would turn the death of one of two instances
// into failed requests, and nobody has asked for the others.
func noBreakers() *clusterv3.CircuitBreakers {
	most := wrapperspb.UInt32(math.MaxUint32)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: most, MaxPendingRequests: most, MaxRequests: most, MaxRetries: most,
	}}}
}
