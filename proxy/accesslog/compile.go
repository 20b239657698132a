package accesslog

import (
	"fmt"
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
	case "REQ", "RESP", "TRAILER":
		return c.field(call)
	}
	if call.length >= 0 {
		return op{}, fmt.Errorf("got a length for %%%s%%, want it for REQ, RESP and TRAILER only", call.name)
	}
	switch call.name {
	case "START_TIME", "EMIT_TIME":
		stamp, err := parseStamp(call.params)
		if err != nil {
			return op{}, fmt.Errorf("%%%s%%: %w", call.name, err)
		}
		o := op{stamp: stamp, write: (*op).startTime}
		if call.name == "EMIT_TIME" {
			o.write = (*op).emitTime
		}
		return o, nil
	case "RESPONSE_CODE_DETAILS":
		if call.hasParams && call.params != "ALLOW_WHITESPACES" {
			return op{}, fmt.Errorf("got %q for %%%s%%, want nothing or ALLOW_WHITESPACES", clip(call.params), call.name)
		}
		o := op{write: (*op).details}
		if call.hasParams {
			o.arg = 1
		}
		return o, nil
	}
	if call.name == "GRPC_STATUS" {
		return grpcOperator(call)
	}
	write, known := operators[call.name]
	switch {
	case call.name == "HOSTNAME":
		write = (*op).constant
	case !known:
		return op{}, fmt.Errorf("got the command operator %%%s%%, want one that is supported", clip(call.name))
	}
	if call.hasParams {
		return op{}, fmt.Errorf("got parameters for %%%s%%, want none", call.name)
	}
	switch {
	case strings.HasPrefix(call.name, "UPSTREAM_LOCAL_"):
		c.Needs |= NeedsUpstreamLocal
	case strings.HasPrefix(call.name, "DOWNSTREAM_LOCAL_"):
		c.Needs |= NeedsLocal
	case strings.HasPrefix(call.name, "DOWNSTREAM_REMOTE_"):
		c.Needs |= NeedsRemote
	case strings.HasPrefix(call.name, "DOWNSTREAM_TLS_"), strings.HasPrefix(call.name, "DOWNSTREAM_PEER_"), call.name == "REQUESTED_SERVER_NAME":
		c.Needs |= NeedsTLS
	}
	o := op{write: write}
	if call.name == "HOSTNAME" {
		o.text = c.Hostname
	}
	return o, nil
}

// fieldRef is where a field's value is found.
type fieldRef struct {
	from source
	slot int
}

type source uint8

const (
	nowhere source = iota
	requestField
	responseField
	methodPart
	pathPart
	authorityPart
	schemePart
	requestIDPart
	statusPart
	trailerField
)

// field compiles REQ(name?alternative):length and its like.
func (c *Compiler) field(call call) (op, error) {
	main, alternative, two := strings.Cut(call.params, "?")
	if !call.hasParams || main == "" || two && alternative == "" || strings.Contains(alternative, "?") {
		return op{}, fmt.Errorf("got %%%s(%s)%%, want one field name, or two with ? between them", call.name, clip(call.params))
	}
	o := op{write: (*op).field, max: call.length}
	for i, name := range []string{main, alternative} {
		if name == "" {
			continue
		}
		if !isFieldName(name) {
			return op{}, fmt.Errorf("got the field name %q in %%%s%%, want a header field", clip(name), call.name)
		}
		ref, err := c.fieldRef(call.name, strings.ToLower(name), false)
		if err != nil {
			return op{}, err
		}
		o.slots[i] = ref
	}
	return o, nil
}

func (c *Compiler) fieldRef(operator, name string, all bool) (fieldRef, error) {
	switch {
	case operator == "TRAILER" && (name[0] == ':' || name == "host"):
		return fieldRef{}, nil // no trailer section has these
	case operator == "TRAILER":
		return fieldRef{trailerField, c.Names.Trailer.slot(name, all)}, nil
	case operator == "RESP" && name == ":status":
		return fieldRef{from: statusPart}, nil
	case operator == "RESP" && name[0] != ':':
		return fieldRef{responseField, c.Names.Response.slot(name, all)}, nil
	case operator == "RESP":
		return fieldRef{}, fmt.Errorf("got the field name %q in %%RESP%%, want :status or a header field", clip(name))
	}
	switch name {
	case ":method":
		return fieldRef{from: methodPart}, nil
	case ":path":
		return fieldRef{from: pathPart}, nil
	case ":authority", "host":
		return fieldRef{from: authorityPart}, nil
	case ":scheme":
		return fieldRef{from: schemePart}, nil
	case "x-request-id":
		return fieldRef{from: requestIDPart}, nil
	}
	if name[0] == ':' {
		return fieldRef{}, fmt.Errorf("got the field name %q in %%REQ%%, want :method, :path, :authority, :scheme or a header field", clip(name))
	}
	return fieldRef{requestField, c.Names.Request.slot(name, all)}, nil
}

// isFieldName reports whether s is a token, or one behind a colon.
func isFieldName(s string) bool {
	s = strings.TrimPrefix(s, ":")
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}
