package xds

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamlogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	withoutqueryv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	fileLog      = typePrefix + "envoy.extensions.access_loggers.file.v3.FileAccessLog"
	stdoutLog    = typePrefix + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
	withoutQuery = typePrefix + "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"
	stderrLog    = typePrefix + "envoy.extensions.access_loggers.stream.v3.StderrAccessLog"
)

func (schema) addAccessLog(add func(protoreflect.FullName, string)) {
	const (
		log   = "envoy.config.accesslog.v3."
		place = "envoy.extensions.access_loggers."
	)
	add(log+"AccessLog", "name typed_config filter")
	add(log+"AccessLogFilter", `status_code_filter duration_filter not_health_check_filter response_flag_filter header_filter
		and_filter or_filter runtime_filter grpc_status_filter`)
	add(log+"StatusCodeFilter", "comparison")
	add(log+"DurationFilter", "comparison")
	add(log+"ComparisonFilter", "op value")
	add(log+"NotHealthCheckFilter", "")
	add(log+"ResponseFlagFilter", "flags")
	add(log+"HeaderFilter", "header")
	add(log+"GrpcStatusFilter", "statuses exclude")
	add(log+"AndFilter", "filters")
	add(log+"OrFilter", "filters")
	add(log+"RuntimeFilter", "runtime_key percent_sampled use_independent_randomness")
	add(place+"file.v3.FileAccessLog", "path log_format")
	add(place+"stream.v3.StdoutAccessLog", "log_format")
	add(place+"stream.v3.StderrAccessLog", "log_format")
	add("envoy.config.core.v3.SubstitutionFormatString", "text_format_source json_format omit_empty_values formatters")
	add("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery", "")
}

func (r *reader) accessLogs(at *path, logs []*accesslogv3.AccessLog) []config.AccessLog {
	var out []config.AccessLog
	for i, m := range logs {
		p := at.at("access_log", i)
		inner := p.field("typed_config")
		typed := m.GetTypedConfig()
		var place string
		var format *corev3.SubstitutionFormatString
		ok := true
		switch typed.GetTypeUrl() {
		case fileLog:
			f := new(filelogv3.FileAccessLog)
			ok = r.unpack(inner, typed, f)
			place, format = f.GetPath(), f.GetLogFormat()
		case stdoutLog:
			f := new(streamlogv3.StdoutAccessLog)
			ok = r.unpack(inner, typed, f)
			place, format = "/dev/stdout", f.GetLogFormat()
		case stderrLog:
			f := new(streamlogv3.StderrAccessLog)
			ok = r.unpack(inner, typed, f)
			place, format = "/dev/stderr", f.GetLogFormat()
		default:
			r.wrong(p, named(m.GetName(), typed.GetTypeUrl()), "envoy.access_loggers.file, .stdout or .stderr")
			continue
		}
		if place == "/dev/stdout" && r.stdout != "" {
			place = r.stdout
		}
		log := config.AccessLog{Path: place}
		if ok {
			log.Format = r.logFormat(inner.field("log_format"), format)
		}
		if m.GetFilter() != nil {
			f := r.logFilter(p.field("filter"), m.GetFilter())
			if _, err := new(accesslog.Compiler).Filter(&f); err != nil {
				r.problems = append(r.problems, problem{p.field("filter").String(), err.Error()})
			}
			log.Filter = &f
		}
		if place != NoAccessLog {
			out = append(out, log)
		}
	}
	return out
}

// logFormat reads a format, nil for Envoy's default.
func (r *reader) logFormat(at *path, m *corev3.SubstitutionFormatString) *config.LogFormat {
	if m == nil {
		return nil
	}
	for i, e := range m.GetFormatters() { // what they add is there without them
		if typed := e.GetTypedConfig(); typed.GetTypeUrl() != withoutQuery {
			r.wrong(at.at("formatters", i), named(e.GetName(), typed.GetTypeUrl()), "envoy.formatter.req_without_query")
		} else {
			r.unpack(at.at("formatters", i).field("typed_config"), typed, new(withoutqueryv3.ReqWithoutQuery))
		}
	}
	f := &config.LogFormat{OmitEmpty: m.GetOmitEmptyValues()}
	var err error
	switch {
	case m.GetJsonFormat() != nil:
		at = at.field("json_format")
		f.JSON = m.GetJsonFormat().AsMap()
		_, err = new(accesslog.Compiler).JSON(f.JSON, f.OmitEmpty)
	case m.GetTextFormatSource() != nil:
		at = at.field("text_format_source")
		f.Text = dataSource(m.GetTextFormatSource())
		if f.Text == "" || f.Text == accesslog.Default && !f.OmitEmpty {
			return nil
		}
		_, err = new(accesslog.Compiler).Text(f.Text, f.OmitEmpty)
	default:
		r.missing(at, "no format", "text_format_source or json_format")
	}
	if err != nil {
		r.problems = append(r.problems, problem{at.String(), err.Error()})
	}
	return f
}

func (r *reader) logFilter(at *path, m *accesslogv3.AccessLogFilter) config.LogFilter {
	switch s := m.GetFilterSpecifier().(type) {
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		return r.logComparison(config.LogStatus, s.StatusCodeFilter.GetComparison())
	case *accesslogv3.AccessLogFilter_DurationFilter:
		return r.logComparison(config.LogDuration, s.DurationFilter.GetComparison())
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		return config.LogFilter{Kind: config.LogNotHealthCheck}
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		return config.LogFilter{Kind: config.LogFlags, Flags: s.ResponseFlagFilter.GetFlags()}
	case *accesslogv3.AccessLogFilter_HeaderFilter:
		f := config.LogFilter{Kind: config.LogHeader}
		if h := s.HeaderFilter.GetHeader(); h != nil {
			f.Header = r.headerMatches(at.field("header_filter"), "header", []*routev3.HeaderMatcher{h})[0]
		}
		return f
	case *accesslogv3.AccessLogFilter_AndFilter:
		return r.logFilters(at.field("and_filter"), config.LogAnd, s.AndFilter.GetFilters())
	case *accesslogv3.AccessLogFilter_OrFilter:
		return r.logFilters(at.field("or_filter"), config.LogOr, s.OrFilter.GetFilters())
	case *accesslogv3.AccessLogFilter_GrpcStatusFilter:
		f := config.LogFilter{Kind: config.LogGRPC, Op: config.LogEqual}
		if s.GrpcStatusFilter.GetExclude() {
			f.Op = config.LogNotEqual
		}
		for i, code := range s.GrpcStatusFilter.GetStatuses() {
			if code < 0 || code > accesslogv3.GrpcStatusFilter_UNAUTHENTICATED {
				r.wrong(at.field("grpc_status_filter").at("statuses", i), code, "a status that gRPC has")
				continue
			}
			f.Value |= 1 << code
		}
		return f
	case *accesslogv3.AccessLogFilter_RuntimeFilter:
		return r.logShare(at.field("runtime_filter"), s.RuntimeFilter)
	}
	r.missing(at, "no filter", "one that is supported")
	return config.LogFilter{Kind: config.LogNotHealthCheck}
}

// logComparison reads a comparison. There is no runtime that could override its value.
func (r *reader) logComparison(kind config.LogFilterKind, m *accesslogv3.ComparisonFilter) config.LogFilter {
	f := config.LogFilter{Kind: kind, Value: uint64(m.GetValue().GetDefaultValue())}
	switch m.GetOp() {
	case accesslogv3.ComparisonFilter_EQ:
		f.Op = config.LogEqual
	case accesslogv3.ComparisonFilter_GE:
		f.Op = config.LogAtLeast
	case accesslogv3.ComparisonFilter_LE:
		f.Op = config.LogAtMost
	case accesslogv3.ComparisonFilter_NE:
		f.Op = config.LogNotEqual
	}
	return f
}

func (r *reader) logFilters(at *path, kind config.LogFilterKind, all []*accesslogv3.AccessLogFilter) config.LogFilter {
	f := config.LogFilter{Kind: kind}
	for i, m := range all {
		f.Filters = append(f.Filters, r.logFilter(at.at("filters", i), m))
	}
	return f
}

// logShare reads a share. Without a value nothing is taken, as in Envoy where the runtime has no key of that name.
func (r *reader) logShare(at *path, m *accesslogv3.RuntimeFilter) config.LogFilter {
	share := config.LogShare{Part: uint64(m.GetPercentSampled().GetNumerator()), Independent: m.GetUseIndependentRandomness()}
	switch d := m.GetPercentSampled().GetDenominator(); d {
	case typev3.FractionalPercent_HUNDRED:
		share.Of = 100
	case typev3.FractionalPercent_TEN_THOUSAND:
		share.Of = 10_000
	case typev3.FractionalPercent_MILLION:
		share.Of = 1_000_000
	default:
		r.wrong(at.field("percent_sampled").field("denominator"), d, "HUNDRED, TEN_THOUSAND or MILLION")
		share.Of = 100
	}
	return config.LogFilter{Kind: config.LogRuntime, Share: share}
}
