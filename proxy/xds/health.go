package xds

import (
	"encoding/hex"
	"net/url"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	// Envoy's defaults.
	defaultNoTrafficInterval = time.Minute
	defaultSweep             = 10 * time.Second
	defaultBaseEjection      = 30 * time.Second
	defaultMaxEjection       = 5 * time.Minute

	mostPayload = 4 << 10 // bytes that a check sends or waits for
)

// healthFields are the fields of a Cluster that this file reads.
func healthFields() []string {
	return []string{"health_checks", "outlier_detection", "ignore_health_on_host_removal"}
}

func (s schema) addHealth(add func(protoreflect.FullName, string)) {
	const core, cluster = "envoy.config.core.v3.", "envoy.config.cluster.v3."
	for _, f := range healthFields() {
		s[cluster+"Cluster"][f] = true
	}
	s[cluster+"Cluster.CommonLbConfig"]["ignore_new_hosts_until_first_hc"] = true
	add(core+"HealthCheck", `timeout interval initial_jitter interval_jitter interval_jitter_percent unhealthy_threshold healthy_threshold
		reuse_connection no_traffic_interval no_traffic_healthy_interval unhealthy_interval unhealthy_edge_interval healthy_edge_interval
		http_health_check tcp_health_check grpc_health_check`)
	add(core+"HealthCheck.GrpcHealthCheck", "service_name authority initial_metadata")
	add(core+"HealthCheck.HttpHealthCheck", "host path request_headers_to_add expected_statuses retriable_statuses codec_client_type method")
	add(core+"HealthCheck.TcpHealthCheck", "send receive")
	add(core+"HealthCheck.Payload", "text binary")
	add(core+"HeaderValueOption", "header append_action")
	add(core+"HeaderValue", "key value")
	add("envoy.type.v3.Int64Range", "start end")
	add(cluster+"OutlierDetection", `consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx
		enforcing_success_rate success_rate_minimum_hosts success_rate_request_volume success_rate_stdev_factor
		consecutive_gateway_failure enforcing_consecutive_gateway_failure split_external_local_origin_errors
		consecutive_local_origin_failure enforcing_consecutive_local_origin_failure enforcing_local_origin_success_rate
		failure_percentage_threshold enforcing_failure_percentage enforcing_failure_percentage_local_origin
		failure_percentage_minimum_hosts failure_percentage_request_volume max_ejection_time max_ejection_time_jitter
		successful_active_health_check_uneject_host always_eject_one_host`)
}

// health reads how the proxy finds out which endpoints may be used.
func (r *reader) health(at *path, m *clusterv3.Cluster, c *cluster) {
	c.DropRemoved = m.GetIgnoreHealthOnHostRemoval()
	c.SkipUnchecked = m.GetCommonLbConfig().GetIgnoreNewHostsUntilFirstHc()
	if m.GetOutlierDetection() != nil {
		c.Outlier = r.outlier(at.field("outlier_detection"), m.GetOutlierDetection())
	}
	switch checks := m.GetHealthChecks(); {
	case len(checks) > 1:
		r.wrong(at.field("health_checks"), len(checks), "at most one")
	case len(checks) == 1:
		c.HealthCheck = r.healthCheck(at.at("health_checks", 0), checks[0], c.Name)
	}
}

func (r *reader) healthCheck(at *path, m *corev3.HealthCheck, cluster string) *config.HealthCheck {
	every := r.duration(at.field("interval"), m.GetInterval(), 0)
	c := &config.HealthCheck{
		Timeout: r.duration(at.field("timeout"), m.GetTimeout(), 0), Interval: every,
		InitialJitter:         r.duration(at.field("initial_jitter"), m.GetInitialJitter(), 0),
		IntervalJitter:        r.duration(at.field("interval_jitter"), m.GetIntervalJitter(), 0),
		IntervalJitterPercent: m.GetIntervalJitterPercent(),
		UnhealthyThreshold:    m.GetUnhealthyThreshold().GetValue(), HealthyThreshold: m.GetHealthyThreshold().GetValue(),
		UnhealthyInterval:   r.duration(at.field("unhealthy_interval"), m.GetUnhealthyInterval(), every),
		HealthyEdgeInterval: r.duration(at.field("healthy_edge_interval"), m.GetHealthyEdgeInterval(), every),
		NoTrafficInterval:   r.duration(at.field("no_traffic_interval"), m.GetNoTrafficInterval(), defaultNoTrafficInterval),
		ReuseConnection:     m.GetReuseConnection() == nil || m.GetReuseConnection().GetValue(),
	}
	c.UnhealthyEdgeInterval = r.duration(at.field("unhealthy_edge_interval"), m.GetUnhealthyEdgeInterval(), c.UnhealthyInterval)
	c.NoTrafficHealthyInterval = r.duration(at.field("no_traffic_healthy_interval"), m.GetNoTrafficHealthyInterval(), c.NoTrafficInterval)
	if m.GetUnhealthyThreshold() != nil && c.UnhealthyThreshold == 0 {
		r.wrong(at.field("unhealthy_threshold"), 0, "at least 1")
	}
	if m.GetHealthyThreshold() != nil && c.HealthyThreshold == 0 {
		r.wrong(at.field("healthy_threshold"), 0, "at least 1")
	}
	switch {
	case m.GetHttpHealthCheck() != nil:
		c.HTTP = r.httpCheck(at.field("http_health_check"), m.GetHttpHealthCheck(), cluster)
	case m.GetGrpcHealthCheck() != nil:
		c.GRPC = r.grpcCheck(at.field("grpc_health_check"), m.GetGrpcHealthCheck(), cluster)
	case m.GetTcpHealthCheck() != nil:
		c.TCP = r.tcpCheck(at.field("tcp_health_check"), m.GetTcpHealthCheck())
	}
	return c
}

func (r *reader) httpCheck(at *path, m *corev3.HealthCheck_HttpHealthCheck, cluster string) *config.HTTPCheck {
	c := &config.HTTPCheck{Method: "GET", Host: m.GetHost(), Path: m.GetPath()}
	switch m.GetMethod() {
	case corev3.RequestMethod_METHOD_UNSPECIFIED, corev3.RequestMethod_GET:
	case corev3.RequestMethod_HEAD:
		c.Method = "HEAD"
	default:
		r.wrong(at.field("method"), m.GetMethod(), "GET or HEAD")
	}
	switch t := m.GetCodecClientType(); t {
	case typev3.CodecClientType_HTTP1:
	case typev3.CodecClientType_HTTP2:
		c.HTTP2 = true
	default:
		r.wrong(at.field("codec_client_type"), t, "HTTP1 or HTTP2")
	}
	r.checkHost(at.field("host"), c.Host, cluster)
	if !strings.HasPrefix(c.Path, "/") || !visible(c.Path) || strings.Contains(c.Path, "#") {
		r.wrong(at.field("path"), clip(c.Path), "a path that begins with / and has visible characters only")
	} else if _, err := url.ParseRequestURI(c.Path); err != nil && c.HTTP2 {
		r.wrong(at.field("path"), clip(c.Path), "a path with right escapes")
	}
	for i, h := range m.GetRequestHeadersToAdd() {
		c.Headers = append(c.Headers, r.checkHeader(at.at("request_headers_to_add", i), h))
	}
	c.Expected = r.statuses(at, "expected_statuses", m.GetExpectedStatuses())
	if c.Expected == nil {
		c.Expected = []config.StatusRange{{From: 200, To: 201}}
	}
	c.Retriable = r.statuses(at, "retriable_statuses", m.GetRetriableStatuses())
	return c
}

// checkHeader reads a field that a check sends. What the message's framing depends on is the proxy's.
func (r *reader) checkHeader(at *path, m *corev3.HeaderValueOption) config.CheckHeader {
	if m.GetAppendAction() != corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
		r.wrong(at.field("append_action"), m.GetAppendAction(), "APPEND_IF_EXISTS_OR_ADD")
	}
	name, value := strings.ToLower(m.GetHeader().GetKey()), m.GetHeader().GetValue()
	switch name {
	case "host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "expect", "keep-alive", "proxy-connection", "user-agent":
		r.wrong(at.field("header").field("key"), name, "a field that the check does not set itself")
	}
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789!#$&'*+-.^_`|~") != "" {
		r.wrong(at.field("header").field("key"), clip(name), "the name of a field")
	}
	if strings.Contains(value, "%") || value != "" && !visible(strings.ReplaceAll(value, " ", "")) && strings.TrimSpace(value) != "" || strings.TrimSpace(value) != value {
		r.wrong(at.field("header").field("value"), clip(value), "visible characters and spaces, without %")
	}
	return config.CheckHeader{Name: name, Value: value}
}

func (r *reader) checkHost(at *path, host, cluster string) {
	switch {
	case host != "" && !visible(host):
		r.wrong(at, clip(host), "visible characters")
	case host == "" && !visible(cluster):
		r.wrong(at, "nothing, and a cluster's name with other than visible characters", "a host")
	}
}

func (r *reader) grpcCheck(at *path, m *corev3.HealthCheck_GrpcHealthCheck, cluster string) *config.GRPCCheck {
	c := &config.GRPCCheck{Service: m.GetServiceName(), Authority: m.GetAuthority()}
	r.checkHost(at.field("authority"), c.Authority, cluster)
	for i, h := range m.GetInitialMetadata() {
		p := at.at("initial_metadata", i)
		own := r.checkHeader(p, h)
		if own.Name == "content-type" || strings.HasPrefix(own.Name, "grpc-") {
			r.wrong(p.field("header").field("key"), own.Name, "a field that the check does not set itself")
		}
		c.Metadata = append(c.Metadata, own)
	}
	return c
}

// visible reports whether s is visible ASCII and not empty.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}

func (r *reader) statuses(at *path, field string, list []*typev3.Int64Range) []config.StatusRange {
	var out []config.StatusRange
	for i, s := range list {
		if s.GetStart() < 100 || s.GetEnd() > 600 || s.GetStart() >= s.GetEnd() {
			r.wrong(at.at(field, i), [2]int64{s.GetStart(), s.GetEnd()}, "100 <= start < end <= 600")
			continue
		}
		out = append(out, config.StatusRange{From: int(s.GetStart()), To: int(s.GetEnd())})
	}
	return out
}

func (r *reader) tcpCheck(at *path, m *corev3.HealthCheck_TcpHealthCheck) *config.TCPCheck {
	c := &config.TCPCheck{}
	if m.GetSend() != nil {
		c.Send = r.payload(at.field("send"), m.GetSend())
	}
	for i, p := range m.GetReceive() {
		c.Receive = append(c.Receive, r.payload(at.at("receive", i), p))
	}
	return c
}

func (r *reader) payload(at *path, m *corev3.HealthCheck_Payload) []byte {
	b := m.GetBinary()
	if m.GetBinary() == nil {
		var err error
		if b, err = hex.DecodeString(m.GetText()); err != nil {
			r.wrong(at.field("text"), clip(m.GetText()), "hexadecimal digits")
		}
	}
	if len(b) == 0 || len(b) > mostPayload {
		r.wrong(at, len(b), "1 to 4096 bytes")
	}
	return b
}

func (r *reader) outlier(at *path, m *clusterv3.OutlierDetection) *config.Outlier {
	number := func(v *wrapperspb.UInt32Value, otherwise uint32) uint32 {
		if v == nil {
			return otherwise
		}
		return v.GetValue()
	}
	duration := func(field string, d *durationpb.Duration, otherwise time.Duration) time.Duration {
		return r.duration(at.field(field), d, otherwise)
	}
	base := duration("base_ejection_time", m.GetBaseEjectionTime(), defaultBaseEjection)
	o := &config.Outlier{
		Interval:         duration("interval", m.GetInterval(), defaultSweep),
		BaseEjectionTime: base,
		MaxEjectionTime:  duration("max_ejection_time", m.GetMaxEjectionTime(), max(base, defaultMaxEjection)),
		EjectionJitter:   duration("max_ejection_time_jitter", m.GetMaxEjectionTimeJitter(), 0),

		MaxEjectionPercent: number(m.GetMaxEjectionPercent(), 10),
		AlwaysEjectOne:     m.GetAlwaysEjectOneHost().GetValue(),
		SplitLocal:         m.GetSplitExternalLocalOriginErrors(),
		KeepOnCheck:        m.GetSuccessfulActiveHealthCheckUnejectHost() != nil && !m.GetSuccessfulActiveHealthCheckUnejectHost().GetValue(),

		Consecutive5xx:     number(m.GetConsecutive_5Xx(), 5),
		ConsecutiveGateway: number(m.GetConsecutiveGatewayFailure(), 5),
		ConsecutiveLocal:   number(m.GetConsecutiveLocalOriginFailure(), 5),
		Enforce5xx:         number(m.GetEnforcingConsecutive_5Xx(), 100),
		EnforceGateway:     number(m.GetEnforcingConsecutiveGatewayFailure(), 0),
		EnforceLocal:       number(m.GetEnforcingConsecutiveLocalOriginFailure(), 100),
		SuccessRate: config.RateRule{
			MinimumHosts: number(m.GetSuccessRateMinimumHosts(), 5), RequestVolume: number(m.GetSuccessRateRequestVolume(), 100),
			Threshold: number(m.GetSuccessRateStdevFactor(), 1900),
			Enforce:   number(m.GetEnforcingSuccessRate(), 100), EnforceOfLocal: number(m.GetEnforcingLocalOriginSuccessRate(), 100),
		},
		FailurePercentage: config.RateRule{
			MinimumHosts: number(m.GetFailurePercentageMinimumHosts(), 5), RequestVolume: number(m.GetFailurePercentageRequestVolume(), 50),
			Threshold: number(m.GetFailurePercentageThreshold(), 85),
			Enforce:   number(m.GetEnforcingFailurePercentage(), 0), EnforceOfLocal: number(m.GetEnforcingFailurePercentageLocalOrigin(), 0),
		},
	}
	if o.MaxEjectionTime < o.BaseEjectionTime {
		r.wrong(at.field("max_ejection_time"), o.MaxEjectionTime, "at least base_ejection_time, "+base.String())
	}
	return o
}
