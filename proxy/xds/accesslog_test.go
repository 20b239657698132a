package xds

import (
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestAccessLogsAreRead(t *testing.T) {
	const stdout = `typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`
	for _, c := range []struct {
		name, filter, format string
		want                 config.AccessLog
	}{
		{"nothing", "", "", config.AccessLog{}},
		{"default", "", `text_format_source: {inline_string: ` + yamlQuote(accesslog.Default) + `}`, config.AccessLog{}},
		{"default without what is missing", "", `omit_empty_values: true, text_format_source: {inline_string: ` + yamlQuote(accesslog.Default) + `}`, config.AccessLog{Format: &config.LogFormat{Text: accesslog.Default, OmitEmpty: true}}},
		{"text", "", "text_format_source: {inline_string: '%PROTOCOL%'}", config.AccessLog{Format: &config.LogFormat{Text: "%PROTOCOL%"}}},
		{
			"formatters", "", "formatters: [{name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery}}], text_format_source: {inline_string: '%REQ_WITHOUT_QUERY(:PATH)%'}",
			config.AccessLog{Format: &config.LogFormat{Text: "%REQ_WITHOUT_QUERY(:PATH)%"}},
		},
		{
			"json", "", "omit_empty_values: true, json_format: {a: '%PROTOCOL%', b: [1, true, null, {c: d}]}",
			config.AccessLog{Format: &config.LogFormat{JSON: map[string]any{"a": "%PROTOCOL%", "b": []any{1.0, true, nil, map[string]any{"c": "d"}}}, OmitEmpty: true}},
		},
		{
			"status", "status_code_filter: {comparison: {op: GE, value: {default_value: 500, runtime_key: k}}}", "",
			config.AccessLog{Filter: &config.LogFilter{Kind: config.LogStatus, Op: config.LogAtLeast, Value: 500}},
		},
		{
			"duration", "duration_filter: {comparison: {op: LE, value: {default_value: 5, runtime_key: k}}}", "",
			config.AccessLog{Filter: &config.LogFilter{Kind: config.LogDuration, Op: config.LogAtMost, Value: 5}},
		},
		{"health", "not_health_check_filter: {}", "", config.AccessLog{Filter: &config.LogFilter{Kind: config.LogNotHealthCheck}}},
		{"flags", "response_flag_filter: {flags: [UF, DC]}", "", config.AccessLog{Filter: &config.LogFilter{Kind: config.LogFlags, Flags: []string{"UF", "DC"}}}},
		{
			"gRPC", "grpc_status_filter: {statuses: [OK, UNAVAILABLE]}", "",
			config.AccessLog{Filter: &config.LogFilter{Kind: config.LogGRPC, Op: config.LogEqual, Value: 1 | 1<<14}},
		},
		{
			"not gRPC", "grpc_status_filter: {statuses: [UNAUTHENTICATED], exclude: true}", "",
			config.AccessLog{Filter: &config.LogFilter{Kind: config.LogGRPC, Op: config.LogNotEqual, Value: 1 << 16}},
		},
		{
			"header", "header_filter: {header: {name: X-A, string_match: {exact: b}, invert_match: true}}", "",
			config.AccessLog{Filter: &config.LogFilter{Kind: config.LogHeader, Header: config.HeaderMatch{Name: "x-a", Exact: "b", Invert: true}}},
		},
		{
			"share", "runtime_filter: {runtime_key: k, percent_sampled: {numerator: 3, denominator: TEN_THOUSAND}, use_independent_randomness: true}", "",
			config.AccessLog{Filter: &config.LogFilter{Kind: config.LogRuntime, Share: config.LogShare{Part: 3, Of: 10_000, Independent: true}}},
		},
		{
			"or", "or_filter: {filters: [{not_health_check_filter: {}}, {and_filter: {filters: [{response_flag_filter: {}}, {not_health_check_filter: {}}]}}]}", "",
			config.AccessLog{Filter: &config.LogFilter{Kind: config.LogOr, Filters: []config.LogFilter{
				{Kind: config.LogNotHealthCheck},
				{Kind: config.LogAnd, Filters: []config.LogFilter{{Kind: config.LogFlags}, {Kind: config.LogNotHealthCheck}}},
			}}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			filter, format := "", ""
			if c.filter != "" {
				filter = "filter: {" + c.filter + "}, "
			}
			if c.format != "" {
				format = ", log_format: {" + c.format + "}"
			}
			m := fromYAML(t, new(listenerv3.Listener), strings.Replace(hcmYAML, "stat_prefix: s", "stat_prefix: s\n      access_log: [{name: a, "+filter+stdout+format+"}}]", 1))
			r := &reader{rules: rules{newSchema(), ""}}
			r.check(nil, m)
			l := r.listener(nil, m)
			if err := r.err(); err != nil {
				t.Fatal(err)
			}
			c.want.Path = "/dev/stdout"
			if diff := cmp.Diff([]config.AccessLog{c.want}, l.HTTP.AccessLogs); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// yamlQuote writes a text on one line.
func yamlQuote(s string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
