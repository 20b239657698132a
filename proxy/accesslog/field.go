package accesslog

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

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

// withoutQuery as the arg of a field leaves out what follows a question mark.
const withoutQuery = 1

// field compiles REQ(name?alternative):length and its like.
func (c *Compiler) field(call call) (op, error) {
	main, alternative, two := strings.Cut(call.params, "?")
	if !call.hasParams || main == "" || two && alternative == "" || strings.Contains(alternative, "?") {
		return op{}, fmt.Errorf("got %%%s(%s)%%, want one field name, or two with ? between them", call.name, clip(call.params))
	}
	o, operator := op{write: (*op).field, max: call.length}, call.name
	if operator == "REQ_WITHOUT_QUERY" {
		o.arg, operator = withoutQuery, "REQ"
	}
	for i, name := range []string{main, alternative} {
		if name == "" {
			continue
		}
		if !isFieldName(name) {
			return op{}, fmt.Errorf("got the field name %q in %%%s%%, want a header field", clip(name), call.name)
		}
		ref, err := c.fieldRef(operator, strings.ToLower(name), false)
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

// field writes the first of two fields that is there, as far as it may go.
func (o *op) field(dst []byte, r *Record) ([]byte, valueKind) {
	for _, ref := range o.slots {
		value, ok := ref.value(r)
		if !ok {
			continue
		}
		if ref.from == statusPart {
			if r.Status <= 0 {
				continue
			}
			from := len(dst)
			dst = strconv.AppendInt(dst, int64(r.Status), 10)
			if o.max >= 0 && len(dst)-from > o.max {
				dst = dst[:from+o.max]
			}
			return dst, text
		}
		if o.arg == withoutQuery {
			value, _, _ = bytes.Cut(value, question)
		}
		if o.max >= 0 && len(value) > o.max {
			value = value[:o.max]
		}
		return append(dst, value...), text
	}
	return dst, missing
}

func (f fieldRef) value(r *Record) ([]byte, bool) {
	var part []byte
	switch f.from {
	case requestField:
		return r.Request.at(f.slot)
	case responseField:
		return r.Response.at(f.slot)
	case trailerField:
		return r.Trailer.at(f.slot)
	case statusPart:
		return nil, true
	case methodPart:
		part = r.Method
	case pathPart:
		part = r.Path
	case authorityPart:
		part = r.Authority
	case schemePart:
		part = r.Scheme
	case requestIDPart:
		part = r.RequestID
	case nowhere:
	}
	return part, len(part) > 0
}
