package accesslog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Default is the line that Envoy writes when no format is given.
const Default = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"

const (
	maxFormat = 64 << 10 // bytes of a format
	maxLength = 1 << 20  // of one value
)

// Program is a compiled format.
type Program struct {
	ops  []op    // of a text
	json *member // of JSON; nil for a text
	omit bool    // what is missing leaves nothing instead of "-"
}

// Needs are parts of a Record that are costly to find out.
type Needs uint8

// The parts of a record that only some programs read.
const (
	NeedsUpstreamLocal Needs = 1 << iota
	NeedsLocal
	NeedsRemote
	NeedsTLS
	NeedsUpstreamTLS
	NeedsUnique
)

// Compiler turns the formats and filters of one listener into programs. The zero Compiler is ready.
type Compiler struct {
	Names    Names  // what the programs read so far
	Needs    Needs  // and what else
	Hostname string // of this host
}

// Text compiles a text format. It writes just what the format says: a line end only if the format has one.
func (c *Compiler) Text(format string, omitEmpty bool) (*Program, error) {
	ops, err := c.template(format)
	if err != nil {
		return nil, err
	}
	return &Program{ops: ops, omit: omitEmpty}, nil
}

// op is a piece of a template: a text that is written as it is, or a command operator.
type op struct {
	text  string                                                 // of a literal
	write func(o *op, dst []byte, r *Record) ([]byte, valueKind) // nil: a literal
	slots [2]fieldRef
	max   int // bytes; less than 0: no limit
	stamp []stampPart
	arg   int
}

// valueKind is what an operator found.
type valueKind uint8

const (
	missing valueKind = iota
	number
	text
)

// template splits a format into its pieces.
func (c *Compiler) template(format string) ([]op, error) {
	if len(format) > maxFormat {
		return nil, fmt.Errorf("got %d bytes, want at most %d", len(format), maxFormat)
	}
	var ops []op
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			ops = append(ops, op{text: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(format); {
		if format[i] != '%' {
			end := strings.IndexByte(format[i:], '%')
			if end < 0 {
				end = len(format) - i
			}
			literal.WriteString(format[i : i+end])
			i += end
			continue
		}
		if strings.HasPrefix(format[i:], "%%") {
			literal.WriteByte('%')
			i += 2
			continue
		}
		call, n, err := parseCall(format[i:])
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", i, err)
		}
		o, err := c.operator(call)
		if err != nil {
			return nil, err
		}
		flush()
		ops = append(ops, o)
		i += n
	}
	flush()
	return ops, nil
}

// call is a command operator as it was written: %NAME(params):length%.
type call struct {
	name, params string
	hasParams    bool
	length       int // less than 0: none
}

// parseCall reads a command operator at the start of s and returns its length.
func parseCall(s string) (c call, n int, err error) {
	c.length = -1
	end := 1
	for end < len(s) && (s[end] >= 'A' && s[end] <= 'Z' || s[end] >= '0' && s[end] <= '9' || s[end] == '_') {
		end++
	}
	c.name = s[1:end]
	if c.name == "" {
		return c, 0, fmt.Errorf("got %q, want %%%% or a command operator such as %%PROTOCOL%%", clip(s))
	}
	if strings.HasPrefix(s[end:], "(") {
		stop := strings.IndexByte(s[end:], ')')
		if stop < 0 {
			return c, 0, fmt.Errorf("got %%%s( without ), want both", c.name)
		}
		c.params, c.hasParams = s[end+1:end+stop], true
		end += stop + 1
	}
	if strings.HasPrefix(s[end:], ":") {
		stop := end + 1
		for stop < len(s) && s[stop] >= '0' && s[stop] <= '9' {
			stop++
		}
		if c.length, err = strconv.Atoi(s[end+1 : stop]); err != nil || c.length > maxLength {
			return c, 0, fmt.Errorf("got %%%s with the length %q, want a number up to %d", c.name, clip(s[end+1:stop]), maxLength)
		}
		end = stop
	}
	if !strings.HasPrefix(s[end:], "%") {
		return c, 0, fmt.Errorf("got %q, want a command operator that ends with %%", clip(s))
	}
	return c, end + 1, nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// operator compiles a command operator.
func (c *Compiler) operator(call call) (op, error) {
	switch call.name {
	case "REQ", "REQ_WITHOUT_QUERY", "RESP", "TRAILER":
		return c.field(call)
	case "PATH":
		return c.path(call)
	case "QUERY_PARAM":
		return queryParam(call)
	}
	if call.length >= 0 {
		return op{}, fmt.Errorf("got a length for %%%s%%, want it for REQ, REQ_WITHOUT_QUERY, RESP, TRAILER and QUERY_PARAM only", call.name)
	}
	switch call.name {
	case "START_TIME", "EMIT_TIME", "START_TIME_LOCAL", "EMIT_TIME_LOCAL":
		return stampOperator(call)
	case "COMMON_DURATION":
		return duration(call)
	case "RESPONSE_CODE_DETAILS":
		if call.hasParams && call.params != "ALLOW_WHITESPACES" {
			return op{}, fmt.Errorf("got %q for %%%s%%, want nothing or ALLOW_WHITESPACES", clip(call.params), call.name)
		}
		o := op{write: (*op).details}
		if call.hasParams {
			o.arg = 1
		}
		return o, nil
	case "GRPC_STATUS":
		return grpcOperator(call)
	}
	write, known := operators[call.name]
	switch {
	case call.name == "HOSTNAME":
		write = (*op).constant
	case !known:
		return op{}, unknown(call.name)
	}
	if call.hasParams {
		return op{}, fmt.Errorf("got parameters for %%%s%%, want none", call.name)
	}
	c.Needs |= needsOf(call.name)
	o := op{write: write}
	if call.name == "HOSTNAME" {
		o.text = c.Hostname
	}
	return o, nil
}

// needsOf is what an operator without parameters reads that is costly to find out.
func needsOf(name string) Needs {
	begins := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	}
	switch {
	case begins("UPSTREAM_LOCAL_"):
		return NeedsUpstreamLocal
	case begins("UPSTREAM_TLS_", "UPSTREAM_PEER_"):
		return NeedsUpstreamTLS
	case begins("DOWNSTREAM_LOCAL_"):
		return NeedsLocal
	case begins("DOWNSTREAM_REMOTE_"):
		return NeedsRemote
	case begins("DOWNSTREAM_TLS_", "DOWNSTREAM_PEER_", "REQUESTED_SERVER_NAME"):
		return NeedsTLS
	case begins("UNIQUE_ID"):
		return NeedsUnique
	}
	return 0
}

// unknown is the error for an operator that there is not. It names those that may be meant.
func unknown(name string) error {
	var near []string
	for _, other := range slices.Sorted(maps.Keys(operators)) {
		if strings.Contains(other, name) || strings.Contains(name, other) || distance(name, other) <= 2 {
			near = append(near, "%"+other+"%")
		}
	}
	want := "one that docs/accesslog.md lists"
	if len(near) > 0 && len(near) <= 6 {
		want = strings.Join(near, ", ") + ", or another " + want
	}
	return fmt.Errorf("got the command operator %%%s%%, want %s", clip(name), want)
}

// distance is how many letters have to be changed, added or taken away to make b of a (Levenshtein's). Of long names it is only
// known that it is large.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var row [65]int
	for j := range len(b) + 1 {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
