package compile

import (
	"net/netip"
	"strconv"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// outbound is the name of the listener, and of its routes, that takes HTTP by Host for everything in scope.
const outbound = "outbound"

// Names by which Envoy knows its extensions.
const (
	hcmFilter     = "envoy.filters.network.http_connection_manager"
	tcpFilter     = "envoy.filters.network.tcp_proxy"
	routerFilter  = "envoy.filters.http.router"
	fileAccessLog = "envoy.access_loggers.file"
)

// portMetadata is where a listener has the names of its ports: by number, "_http._tcp". Others than mesh-proxy take no notice of it.
const portMetadata = "hostmesh.ports"

// outboundListener takes HTTP at the node's outbound address and routes it by Host.
func outboundListener(at netip.AddrPort) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:         outbound,
		Address:      socketAddress(at.Addr().String(), at.Port()),
		FilterChains: chain(hcmFilter, connectionManager(outbound, outbound)),
	}
}

// listener takes connections at the loopback address of s, on all its ports. Those that speak HTTP share a chain; each other one
// has its own, chosen by the port, unless it is the only one.
func (s *service) listener() *listenerv3.Listener {
	l := &listenerv3.Listener{Name: s.fqdn, Address: socketAddress(s.addr.String(), s.ports[0].Number)}
	for _, p := range s.ports[1:] {
		l.AdditionalAddresses = append(l.AdditionalAddresses, &listenerv3.AdditionalAddress{
			Address: socketAddress(s.addr.String(), p.Number),
		})
	}
	l.Metadata = s.portLabels()
	rest := s.ports
	if http := s.httpPorts(); len(http) > 0 {
		l.FilterChains, rest = chain(hcmFilter, connectionManager(s.fqdn, http[0].route)), rest[len(http):]
	}
	for i, p := range rest {
		own := chain(tcpFilter, s.passed(p, i))
		if len(s.ports) > 1 {
			own[0].FilterChainMatch = &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(uint32(p.Number))}
		}
		l.FilterChains = append(l.FilterChains, own...)
	}
	return l
}

// portLabels says how the ports are called in DNS, for the resolver of a mesh host: a listener has names of its addresses nowhere else.
func (s *service) portLabels() *corev3.Metadata {
	labels := map[string]*structpb.Value{}
	for _, p := range s.ports {
		if name := p.ServiceLabels(); name != "" {
			labels[strconv.Itoa(int(p.Number))] = structpb.NewStringValue(name)
		}
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{portMetadata: {Fields: labels}}}
}

// passed passes the bytes of a port on; i is its place among those that do not speak HTTP.
func (s *service) passed(p port, i int) *tcpv3.TcpProxy {
	stats := p.route
	if i == 0 && !s.ports[0].http() {
		stats = s.fqdn
	}
	return &tcpv3.TcpProxy{
		StatPrefix:       stats,
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: p.cluster},
		// Nothing was sent to a host that refuses, so another one is as good.
		MaxConnectAttempts: wrapperspb.UInt32(3),
		AccessLog:          stdoutLog(),
	}
}

// apiListener is what a gRPC client finds under its target's name: the routes, and nothing that listens.
func apiListener(name string, p port) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: name,
		ApiListener: &listenerv3.ApiListener{ApiListener: packed(&hcmv3.HttpConnectionManager{
			StatPrefix:     name,
			RouteSpecifier: rds(p.route),
			HttpFilters:    []*hcmv3.HttpFilter{routerLast()},
		})},
	}
}

// connectionManager is how a mesh reads HTTP: the peer is the client, a request has an id and a line in the access log,
// websockets pass. The peers are the host's own programs: the id with which they pass a request on, so that it can be followed
// through the mesh, stays. Everything else is Envoy's default.
func connectionManager(stats, routes string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix:        stats,
		ServerName:        "hostmesh",
		RouteSpecifier:    rds(routes),
		HttpFilters:       []*hcmv3.HttpFilter{routerLast()},
		AccessLog:         stdoutLog(),
		UseRemoteAddress:  wrapperspb.Bool(true),
		GenerateRequestId: wrapperspb.Bool(true),
		UpgradeConfigs:    []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},

		PreserveExternalRequestId: true,
	}
}

func rds(name string) *hcmv3.HttpConnectionManager_Rds {
	return &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: name, ConfigSource: overADS()}}
}

func routerLast() *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name:       routerFilter,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&routerv3.Router{})},
	}
}

// stdoutLog writes Envoy's default line where systemd's journal takes it.
func stdoutLog() []*accesslogv3.AccessLog {
	return []*accesslogv3.AccessLog{{
		Name:       fileAccessLog,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed(&filev3.FileAccessLog{Path: "/dev/stdout"})},
	}}
}

func chain(filter string, settings proto.Message) []*listenerv3.FilterChain {
	return []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name:       filter,
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(settings)},
	}}}}
}
