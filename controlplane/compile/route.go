package compile

import (
	"bytes"
	"strconv"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What a route does when nobody says otherwise. The timeout is none, as Istio's users expect: Envoy's own 15 s would
// cut long downloads and streams. A reset is retried as well; mesh-proxy does so for idempotent methods only.
const (
	retryOn    = "connect-failure,reset"
	retryTimes = 2
)

// routesFor returns the routes of one port of s. The port itself is found under every name of s with its number, with
// another or with none; the further HTTP ports, which share its listener, only under their own number.
func (s *service) routesFor(p port) *routev3.RouteConfiguration {
	routes := &routev3.RouteConfiguration{Name: p.route, VirtualHosts: []*routev3.VirtualHost{s.virtualHost(p, true)}}
	if p.http() {
		for _, other := range s.httpPorts() {
			if other.Number != p.Number {
				routes.VirtualHosts = append(routes.VirtualHosts, s.virtualHost(other, false))
			}
		}
	}
	return routes
}

// virtualHost routes everything under the names of s to p.
func (s *service) virtualHost(p port, anyPort bool) *routev3.VirtualHost {
	host := &routev3.VirtualHost{Name: p.route}
	for _, form := range s.forms {
		host.Domains = append(host.Domains, form+":"+strconv.Itoa(int(p.Number)))
		if anyPort {
			host.Domains = append(host.Domains, form, form+":*")
		}
	}
	host.Routes = []*routev3.Route{{
		Name:  p.cluster,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: p.cluster},
			Timeout:          durationpb.New(0),
			// What a caller of gRPC has set itself as its deadline is kept on the way, too: nobody waits for what is given up.
			MaxStreamDuration: &routev3.RouteAction_MaxStreamDuration{GrpcTimeoutHeaderMax: durationpb.New(0)},
			RetryPolicy:       &routev3.RetryPolicy{RetryOn: retryOn, NumRetries: wrapperspb.UInt32(retryTimes)},
		}},
	}}
	return host
}

// block is a part of a marshalled message. Its pointer tells whether it changed.
type block struct{ wire []byte }

// outboundHosts returns the virtual hosts of all HTTP ports of s, as fields of a RouteConfiguration.
func (s *service) outboundHosts(old *service) *block {
	part := &routev3.RouteConfiguration{}
	for i, p := range s.httpPorts() {
		part.VirtualHosts = append(part.VirtualHosts, s.virtualHost(p, i == 0))
	}
	wire := marshal(part)
	if old != nil && bytes.Equal(old.hosts.wire, wire) {
		return old.hosts
	}
	return &block{wire}
}
