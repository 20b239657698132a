package xds

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// maxHeadKB is what of a request's head fits into the buffer where heads are read.
const maxHeadKB = 60

// policyFields are what the reader below knows of an HttpConnectionManager.
const policyFields = " via skip_xff_append normalize_path merge_slashes path_with_escaped_slashes_action" +
	" forward_client_cert_details preserve_external_request_id"

func (schema) addPolicy(add func(protoreflect.FullName, string)) {
	add("envoy.config.core.v3.HttpProtocolOptions", `idle_timeout max_headers_count max_stream_duration max_connection_duration
		max_requests_per_connection headers_with_underscores_action`)
}

// requestPolicy reads what a listener does to requests.
func (r *reader) requestPolicy(at *path, m *hcmv3.HttpConnectionManager) config.RequestPolicy {
	options, common := at.field("common_http_protocol_options"), m.GetCommonHttpProtocolOptions()
	p := config.RequestPolicy{
		Via:                   m.GetVia(), // without control characters by the rules of the API
		SkipXFFAppend:         m.GetSkipXffAppend(),
		MergeSlashes:          m.GetMergeSlashes(),
		MaxStreamDuration:     r.duration(options.field("max_stream_duration"), common.GetMaxStreamDuration(), 0),
		MaxConnectionDuration: r.duration(options.field("max_connection_duration"), common.GetMaxConnectionDuration(), 0),
		MaxConnectionRequests: common.GetMaxRequestsPerConnection().GetValue(),
		KeepRequestID:         m.GetPreserveExternalRequestId(),
		ClientCert:            r.clientCert(at.field("forward_client_cert_details"), m.GetForwardClientCertDetails()),
	}
	if n := m.GetNormalizePath(); n != nil && !n.GetValue() {
		r.wrong(at.field("normalize_path"), false, "true or nothing: what is routed is always the normal form")
	}
	switch a := m.GetPathWithEscapedSlashesAction(); a {
	case hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT, hcmv3.HttpConnectionManager_KEEP_UNCHANGED:
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		p.Slashes = config.SlashesReject
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		p.Slashes = config.SlashesRedirect
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		p.Slashes = config.SlashesForward
	default:
		r.wrong(at.field("path_with_escaped_slashes_action"), a, "an action that Envoy has")
	}
	switch a := common.GetHeadersWithUnderscoresAction(); a {
	case corev3.HttpProtocolOptions_ALLOW:
	case corev3.HttpProtocolOptions_REJECT_REQUEST:
		p.Underscores = config.UnderscoresReject
	case corev3.HttpProtocolOptions_DROP_HEADER:
		p.Underscores = config.UnderscoresDrop
	default:
		r.wrong(options.field("headers_with_underscores_action"), a, "an action that Envoy has")
	}
	if kb := m.GetMaxRequestHeadersKb(); kb.GetValue() > maxHeadKB {
		r.wrong(at.field("max_request_headers_kb"), kb.GetValue(), "at most 60")
	}
	return p
}

// clientCert reads what is done about x-forwarded-client-cert.
func (r *reader) clientCert(at *path, d hcmv3.HttpConnectionManager_ForwardClientCertDetails) config.ClientCert {
	switch d {
	case hcmv3.HttpConnectionManager_SANITIZE:
	case hcmv3.HttpConnectionManager_FORWARD_ONLY:
		return config.ClientCertForward
	case hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY:
		return config.ClientCertAlways
	default:
		r.wrong(at, d, "SANITIZE, FORWARD_ONLY or ALWAYS_FORWARD_ONLY")
	}
	return config.ClientCertDrop
}

// poolOptions reads the limits of a cluster's connections.
func (r *reader) poolOptions(at *path, m *corev3.HttpProtocolOptions, c *cluster) {
	if m == nil {
		return
	}
	c.IdleTimeout = r.duration(at.field("idle_timeout"), m.GetIdleTimeout(), defaultPoolIdleTimeout)
	c.MaxConnDuration = r.duration(at.field("max_connection_duration"), m.GetMaxConnectionDuration(), 0)
	if n := m.GetMaxRequestsPerConnection(); n != nil {
		c.MaxConnRequests = n.GetValue()
	}
	if m.GetMaxHeadersCount() != nil {
		r.wrong(at.field("max_headers_count"), m.GetMaxHeadersCount().GetValue(), "it unset: not supported")
	}
	if m.GetMaxStreamDuration() != nil {
		r.wrong(at.field("max_stream_duration"), m.GetMaxStreamDuration().AsDuration().Round(time.Millisecond), "it unset: not supported for a cluster")
	}
	if a := m.GetHeadersWithUnderscoresAction(); a != corev3.HttpProtocolOptions_ALLOW {
		r.wrong(at.field("headers_with_underscores_action"), a, "ALLOW: not supported for a cluster")
	}
}
