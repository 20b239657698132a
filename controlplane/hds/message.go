package hds

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	health "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	clusterName = "doubted"
	timeout     = time.Second
	// interval is between two checks, and between two reports. It is longer than the time-out: an Envoy reports what it
	// has not checked yet as unhealthy.
	interval = 2 * time.Second
)

// nothing asks for nothing.
func nothing() *health.HealthCheckSpecifier {
	return &health.HealthCheckSpecifier{Interval: durationpb.New(interval)}
}

// specifier asks to connect to these addresses.
func specifier(asked map[netip.AddrPort]struct{}) *health.HealthCheckSpecifier {
	if len(asked) == 0 {
		return nothing()
	}
	var endpoints []*endpoint.Endpoint
	for _, at := range slices.SortedFunc(maps.Keys(asked), netip.AddrPort.Compare) {
		endpoints = append(endpoints, &endpoint.Endpoint{Address: &core.Address{Address: &core.Address_SocketAddress{
			SocketAddress: &core.SocketAddress{
				Address: at.Addr().String(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(at.Port())},
			},
		}}})
	}
	m := nothing()
	m.ClusterHealthChecks = []*health.ClusterHealthCheck{{
		ClusterName: clusterName,
		HealthChecks: []*core.HealthCheck{{
			Timeout: durationpb.New(timeout), Interval: durationpb.New(interval),
			UnhealthyThreshold: wrapperspb.UInt32(1), HealthyThreshold: wrapperspb.UInt32(1),
			ReuseConnection: wrapperspb.Bool(false),
			HealthChecker:   &core.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &core.HealthCheck_TcpHealthCheck{}},
		}},
		LocalityEndpoints: []*health.LocalityEndpoints{{Locality: &core.Locality{}, Endpoints: endpoints}},
	}}
	return m
}

// reports yields what a proxy says of addresses: whether it could connect. It leaves out what says neither.
func reports(m *health.EndpointHealthResponse) iter.Seq2[netip.AddrPort, bool] {
	return func(yield func(netip.AddrPort, bool) bool) {
		for _, cluster := range m.GetClusterEndpointsHealth() {
			for _, locality := range cluster.GetLocalityEndpointsHealth() {
				for _, e := range locality.GetEndpointsHealth() {
					at, ok := address(e.GetEndpoint())
					if !ok {
						continue
					}
					switch e.GetHealthStatus() {
					case core.HealthStatus_HEALTHY:
						ok = yield(at, true)
					case core.HealthStatus_UNHEALTHY, core.HealthStatus_TIMEOUT:
						ok = yield(at, false)
					}
					if !ok {
						return
					}
				}
			}
		}
	}
}

func address(e *endpoint.Endpoint) (netip.AddrPort, bool) {
	socket := e.GetAddress().GetSocketAddress()
	addr, err := netip.ParseAddr(socket.GetAddress())
	port := socket.GetPortValue()
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), err == nil && port > 0 && port < 1<<16
}
