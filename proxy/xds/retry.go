package xds

import (
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	previousHosts = typePrefix + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"

	// Envoy's defaults.
	defaultRateLimitedMax = 300 * time.Second
	defaultBudgetPercent  = 20
	defaultBudgetMinimum  = 3
)

func (schema) addRetry(add func(protoreflect.FullName, string)) {
	const (
		retry  = "envoy.config.route.v3.RetryPolicy"
		budget = "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget"
	)
	add(retry, `retry_on num_retries per_try_timeout per_try_idle_timeout retry_host_predicate host_selection_retry_max_attempts
		retriable_status_codes retriable_headers retriable_request_headers retry_back_off rate_limited_retry_back_off`)
	add(retry+".RetryHostPredicate", "name typed_config")
	add(retry+".RetryBackOff", "base_interval max_interval")
	add(retry+".RateLimitedRetryBackOff", "reset_headers max_interval")
	add(retry+".ResetHeader", "name format")
	add("envoy.config.route.v3.RouteAction.MaxStreamDuration", "max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset")
	add(budget, "budget_percent min_retry_concurrency")
}

// retryConditions are Envoy's names. A failure without a response counts as a 5xx there, so that 5xx and gateway-error contain
// the conditions that have none.
func retryConditions(name string) (config.RetryOn, bool) {
	const withoutResponse = config.RetryReset | config.RetryConnectFailure | config.RetryRefusedStream
	switch name {
	case "":
		return 0, true
	case "connect-failure":
		return config.RetryConnectFailure, true
	case "refused-stream":
		return config.RetryRefusedStream, true
	case "reset":
		return withoutResponse, true
	case "reset-before-request":
		return config.RetryResetBeforeRequest | config.RetryConnectFailure, true
	case "5xx":
		return config.Retry5xx | withoutResponse, true
	case "gateway-error":
		return config.RetryGatewayError | withoutResponse, true
	case "retriable-4xx":
		return config.Retry4xx, true
	case "retriable-status-codes":
		return config.RetryStatusCodes, true
	case "retriable-headers":
		return config.RetryHeaders, true
	case "envoy-ratelimited":
		return config.RetryRateLimited, true
	case "cancelled":
		return config.RetryCancelled, true
	case "deadline-exceeded":
		return config.RetryDeadlineExceeded, true
	case "resource-exhausted":
		return config.RetryResourceExhausted, true
	case "internal":
		return config.RetryInternal, true
	case "unavailable":
		return config.RetryUnavailable, true
	}
	return 0, false
}

// retry reads a RetryPolicy; nil is no retry.
func (r *reader) retry(at *path, m *routev3.RetryPolicy) config.Retry {
	if m == nil {
		return config.Retry{}
	}
	out := config.Retry{
		Max:           1,
		PerTryTimeout: r.duration(at.field("per_try_timeout"), m.GetPerTryTimeout(), 0),
		PerTryIdle:    r.duration(at.field("per_try_idle_timeout"), m.GetPerTryIdleTimeout(), 0),
	}
	for name := range strings.SplitSeq(m.GetRetryOn(), ",") {
		on, ok := retryConditions(strings.TrimSpace(name))
		if !ok {
			r.wrong(at.field("retry_on"), clip(strings.TrimSpace(name)), "connect-failure, refused-stream, reset, reset-before-request, gateway-error, 5xx, "+
				"retriable-4xx, retriable-status-codes, retriable-headers, envoy-ratelimited, cancelled, deadline-exceeded, resource-exhausted, internal or unavailable")
		}
		out.On |= on
	}
	if n := m.GetNumRetries(); n != nil {
		out.Max = int(n.GetValue())
	}
	for i, status := range m.GetRetriableStatusCodes() {
		if status < 200 || status > 599 {
			r.wrong(at.at("retriable_status_codes", i), status, "200 to 599")
		}
		out.Statuses = append(out.Statuses, int(status))
	}
	out.Headers = r.headerMatches(at, "retriable_headers", m.GetRetriableHeaders())
	for i, match := range out.Headers {
		if strings.HasPrefix(match.Name, ":") {
			r.wrong(at.at("retriable_headers", i).field("name"), clip(match.Name), "a field of the response")
		}
	}
	out.RequestHeaders = r.headerMatches(at, "retriable_request_headers", m.GetRetriableRequestHeaders())
	r.backOff(at, m, &out)
	for i, predicate := range m.GetRetryHostPredicate() {
		// Another host is always preferred for a retry, so this one is met and every other is refused.
		if predicate.GetTypedConfig().GetTypeUrl() != previousHosts {
			r.wrong(at.at("retry_host_predicate", i), named(predicate.GetName(), predicate.GetTypedConfig().GetTypeUrl()), "envoy.retry_host_predicates.previous_hosts")
		}
	}
	return out
}

// backOff reads how long to wait before a retry.
func (r *reader) backOff(at *path, m *routev3.RetryPolicy, out *config.Retry) {
	if b := m.GetRetryBackOff(); b != nil {
		p := at.field("retry_back_off")
		out.BackOff = r.duration(p.field("base_interval"), b.GetBaseInterval(), 0)
		out.BackOff = max(out.BackOff, time.Millisecond) // so does Envoy
		out.MaxBackOff = r.duration(p.field("max_interval"), b.GetMaxInterval(), 10*out.BackOff)
		if out.MaxBackOff < out.BackOff {
			r.wrong(p.field("max_interval"), out.MaxBackOff, "at least base_interval")
		}
	}
	limited := m.GetRateLimitedRetryBackOff()
	if limited == nil {
		return
	}
	p := at.field("rate_limited_retry_back_off")
	out.RateLimited = &config.RateLimitedBackOff{Max: r.duration(p.field("max_interval"), limited.GetMaxInterval(), defaultRateLimitedMax)}
	for _, h := range limited.GetResetHeaders() {
		out.RateLimited.Headers = append(out.RateLimited.Headers, config.ResetHeader{
			Name: intern(strings.ToLower(h.GetName())), Unix: h.GetFormat() == routev3.RetryPolicy_UNIX_TIMESTAMP,
		})
	}
}

// maxStreamDuration reads a route's limits. As in Envoy a route that has them has no timeout, and tells hosts of its calls' deadlines.
func (r *reader) maxStreamDuration(at *path, m *routev3.RouteAction_MaxStreamDuration, out *config.Route) {
	if m == nil {
		return
	}
	out.Timeout, out.TellDeadline = 0, true
	if m.GetMaxStreamDuration() != nil {
		out.MaxDuration = r.duration(at.field("max_stream_duration"), m.GetMaxStreamDuration(), 0)
		if out.MaxDuration == 0 {
			out.MaxDuration = -1
		}
	}
	if m.GetGrpcTimeoutHeaderMax() != nil {
		out.GRPCTimeout = &config.GRPCTimeout{
			Max:    r.duration(at.field("grpc_timeout_header_max"), m.GetGrpcTimeoutHeaderMax(), 0),
			Offset: r.duration(at.field("grpc_timeout_header_offset"), m.GetGrpcTimeoutHeaderOffset(), 0),
		}
	}
}

// retryBudget reads a budget; nil is none.
func (r *reader) retryBudget(m *clusterv3.CircuitBreakers_Thresholds_RetryBudget) *config.RetryBudget {
	if m == nil {
		return nil
	}
	b := &config.RetryBudget{Percent: defaultBudgetPercent, MinConcurrency: defaultBudgetMinimum}
	if p := m.GetBudgetPercent(); p != nil {
		b.Percent = p.GetValue() // 0 to 100 by the rules of the API
	}
	if n := m.GetMinRetryConcurrency(); n != nil {
		b.MinConcurrency = n.GetValue()
	}
	return b
}
