package xds

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// schema says per message which fields this proxy understands; a message that is not listed is a plain value. Some
// fields are understood for some values only: the reader of the message checks those.
type schema map[protoreflect.FullName]map[string]bool

func newSchema() schema {
	s := schema{}
	add := func(message protoreflect.FullName, fields string) {
		known := map[string]bool{}
		for _, f := range strings.Fields(fields) {
			name, own := strings.CutSuffix(f, "~")
			known[name] = !own
		}
		s[message] = known
	}
	s.addCore(add)
	s.addRetry(add)
	s.addPolicy(add)
	s.addListener(add)
	s.addListenerFilters(add)
	s.addKeepalives(add)
	s.addLimits(add)
	s.addOverload(add)
	s.addChains(add)
	s.addTLS(add)
	s.addAccessLog(add)
	s.addRoute(add)
	s.addCluster(add)
	s.addProtocols(add)
	s.addDNS(add)
	s.addBalance(add)
	s.addHash(add)
	s.addSubsets(add)
	s.addTypedPolicies(add)
	s.addProxyHeader(add)
	s.addBootstrap(add)
	s.addHealth(add)
	s.addUpgrades(add)
	return s
}

func (schema) addCore(add func(protoreflect.FullName, string)) {
	const core = "envoy.config.core.v3."
	add(core+"Address", "socket_address pipe")
	add(core+"SocketAddress", "protocol address port_value")
	add(core+"Pipe", "path mode")
	add(core+"ConfigSource", "ads resource_api_version initial_fetch_timeout")
	add(core+"AggregatedConfigSource", "")
	add(core+"Metadata", "filter_metadata")
	add(core+"Locality", "region zone sub_zone")
	add(core+"DataSource", "inline_string inline_bytes")
	add(core+"TypedExtensionConfig", "name typed_config")
	add("envoy.type.matcher.v3.StringMatcher", "exact")
}

func (schema) addListener(add func(protoreflect.FullName, string)) {
	const (
		listener = "envoy.config.listener.v3."
		network  = "envoy.extensions.filters.network."
		hcm      = network + "http_connection_manager.v3."
	)
	add(listener+"Listener", "name address additional_addresses metadata traffic_direction access_log enable_reuse_port bind_to_port tcp_keepalive"+listenerFilterFields+chainFields+limitFields)
	add(listener+"AdditionalAddress", "address")
	add(listener+"Filter", "name typed_config")
	add(hcm+"HttpConnectionManager", `codec_type http2_protocol_options stat_prefix rds route_config http_filters common_http_protocol_options
		server_name max_request_headers_kb stream_idle_timeout request_timeout request_headers_timeout drain_timeout delayed_close_timeout access_log
		use_remote_address xff_num_trusted_hops generate_request_id upgrade_configs`+policyFields)
	add(hcm+"Rds", "config_source route_config_name")
	add(hcm+"HttpFilter", "name typed_config")
	add("envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers")
	add(network+"tcp_proxy.v3.TcpProxy", "stat_prefix cluster weighted_clusters idle_timeout max_connect_attempts access_log")
	add(network+"tcp_proxy.v3.TcpProxy.WeightedCluster", "clusters")
	add(network+"tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight", "name weight")
}

func (schema) addRoute(add func(protoreflect.FullName, string)) {
	const route = "envoy.config.route.v3."
	add(route+"RouteConfiguration", "name virtual_hosts validate_clusters max_direct_response_body_size_bytes metadata")
	add(route+"VirtualHost", "name domains routes retry_policy metadata include_request_attempt_count include_attempt_count_in_response")
	add(route+"Route", "name match route direct_response metadata")
	add(route+"RouteMatch", "prefix path path_separated_prefix connect_matcher case_sensitive headers")
	add(route+"HeaderMatcher", "name exact_match present_match string_match invert_match")
	add(route+"RouteAction", "cluster weighted_clusters timeout idle_timeout retry_policy max_stream_duration upgrade_configs")
	add(route+"WeightedCluster", "clusters total_weight")
	add(route+"WeightedCluster.ClusterWeight", "name weight")
	add(route+"DirectResponseAction", "status body")
}

func (schema) addCluster(add func(protoreflect.FullName, string)) {
	const (
		cluster  = "envoy.config.cluster.v3."
		endpoint = "envoy.config.endpoint.v3."
	)
	add(cluster+"Cluster", `name type eds_cluster_config connect_timeout lb_policy load_assignment circuit_breakers
		common_http_protocol_options typed_extension_protocol_options least_request_lb_config common_lb_config metadata max_requests_per_connection upstream_connection_options`+protocolFields)
	add(cluster+"Cluster.EdsClusterConfig", "eds_config service_name")
	add(cluster+"Cluster.CommonLbConfig", "healthy_panic_threshold locality_weighted_lb_config")
	add(cluster+"Cluster.CommonLbConfig.LocalityWeightedLbConfig", "")
	add(cluster+"CircuitBreakers", "thresholds")
	add(cluster+"CircuitBreakers.Thresholds", "priority max_connections max_pending_requests max_requests max_retries retry_budget")
	add(endpoint+"ClusterLoadAssignment", "cluster_name endpoints policy")
	add(endpoint+"ClusterLoadAssignment.Policy", "overprovisioning_factor")
	add(endpoint+"LocalityLbEndpoints", "locality metadata lb_endpoints load_balancing_weight priority")
	add(endpoint+"LbEndpoint", "endpoint health_status metadata load_balancing_weight")
	add(endpoint+"Endpoint", "address hostname")
}

func (schema) addBootstrap(add func(protoreflect.FullName, string)) {
	const (
		bootstrap = "envoy.config.bootstrap.v3."
		core      = "envoy.config.core.v3."
	)
	add(bootstrap+"Bootstrap", "node static_resources dynamic_resources admin overload_manager layered_runtime")
	add(bootstrap+"Bootstrap.StaticResources", "listeners clusters")
	add(bootstrap+"Bootstrap.DynamicResources", "lds_config cds_config ads_config")
	add(bootstrap+"Admin", "address")
	add(core+"Node", "id cluster metadata locality")
	add(core+"ApiConfigSource", "api_type transport_api_version grpc_services set_node_on_first_message_only")
	add(core+"GrpcService", "envoy_grpc google_grpc")
	add(core+"GrpcService.EnvoyGrpc", "cluster_name")
	add(core+"GrpcService.GoogleGrpc", "target_uri stat_prefix")
}
