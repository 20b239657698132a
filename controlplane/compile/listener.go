package compile

import (
	"net/netip"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
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

// outboundListener takes HTTP at the node's outbound address and routes it by Host.
func outboundListener(at netip.AddrPort) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:         outbound,
		Address:      socketAddress(at.Addr().String(), at.Port()),
		FilterChains: chain(hcmFilter, connectionManager(outbound, outbound)),
	}
}

// listener takes connections at the loopback address of s. All its ports speak HTTP, or there is one.
func (s *service) listener(name string, ports []port) *listenerv3.Listener {
	l := &listenerv3.Listener{Name: name, Address: socketAddress(s.addr.String(), ports[0].Number)}
	for _, p := range ports[1:] {
		l.AdditionalAddresses = append(l.AdditionalAddresses, &listenerv3.AdditionalAddress{
			Address: socketAddress(s.addr.String(), p.Number),
		})
	}
	if p := ports[0]; p.http() {
		l.FilterChains = chain(hcmFilter, connectionManager(name, p.route))
	} else {
		l.FilterChains = chain(tcpFilter, &tcpv3.TcpProxy{
			StatPrefix:       name,
			ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: p.cluster},
			// Nothing was sent to a host that refuses, so another one is as good.
			MaxConnectAttempts: wrapperspb.UInt32(3),
			AccessLog:          stdoutLog(),
		})
	}
	return l
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
