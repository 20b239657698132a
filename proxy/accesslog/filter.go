package accesslog

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// Filter says of which records a log has a line. A nil Filter takes all.
type Filter struct {
	kind    config.LogFilterKind
	op      config.LogComparison
	value   uint64
	flags   []string // none: any flag
	match   config.HeaderMatch
	field   fieldRef
	share   config.LogShare
	filters []Filter
}

// Filter compiles a filter, nil for nil.
func (c *Compiler) Filter(f *config.LogFilter) (*Filter, error) {
	if f == nil {
		return nil, nil
	}
	out, err := c.filter(f, 0)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

func (c *Compiler) filter(f *config.LogFilter, depth int) (Filter, error) {
	if depth > maxDepth {
		return Filter{}, fmt.Errorf("got more than %d levels, want fewer", maxDepth)
	}
	out := Filter{kind: f.Kind, op: f.Op, value: f.Value, flags: f.Flags, match: f.Header, share: f.Share}
	for _, flag := range f.Flags {
		if longFlag(flag) == "" {
			return Filter{}, fmt.Errorf("got the response flag %q, want one that Envoy has", clip(flag))
		}
	}
	if f.Kind == config.LogHeader {
		if !isFieldName(f.Header.Name) {
			return Filter{}, fmt.Errorf("got the field name %q, want a header field", clip(f.Header.Name))
		}
		ref, err := c.fieldRef("REQ", f.Header.Name, true)
		if err != nil {
			return Filter{}, err
		}
		out.field = ref
	}
	for i := range f.Filters {
		inner, err := c.filter(&f.Filters[i], depth+1)
		if err != nil {
			return Filter{}, err
		}
		out.filters = append(out.filters, inner)
	}
	return out, nil
}

// Takes reports whether r is to have a line.
func (f *Filter) Takes(r *Record) bool {
	if f == nil {
		return true
	}
	switch f.kind {
	case config.LogStatus:
		return f.compare(uint64(max(r.Status, 0)))
	case config.LogDuration:
		return f.compare(uint64(max(r.Duration, 0) / time.Millisecond))
	case config.LogNotHealthCheck:
		return true // there is no filter that would mark a request as a health check
	case config.LogFlags:
		return f.flagged(r)
	case config.LogHeader:
		return f.matches(r)
	case config.LogGRPC:
		return f.ended(r)
	case config.LogRuntime:
		return f.drawn(r)
	case config.LogAnd:
		for i := range f.filters {
			if !f.filters[i].Takes(r) {
				return false
			}
		}
		return true
	case config.LogOr:
		for i := range f.filters {
			if f.filters[i].Takes(r) {
				return true
			}
		}
	}
	return false
}

func (f *Filter) compare(n uint64) bool {
	switch f.op {
	case config.LogEqual:
		return n == f.value
	case config.LogAtLeast:
		return n >= f.value
	case config.LogAtMost:
		return n <= f.value
	case config.LogNotEqual:
		return n != f.value
	}
	return false
}

func (f *Filter) flagged(r *Record) bool {
	for i, name := range r.FlagNames {
		if r.Flags>>i&1 != 0 && (len(f.flags) == 0 || slices.Contains(f.flags, name)) {
			return true
		}
	}
	return false
}

// ended compares how a call of gRPC ended, or what the status of HTTP would mean for one; what tells nothing is unknown, as in Envoy.
func (f *Filter) ended(r *Record) bool {
	code, ok := r.grpcStatus()
	if !ok {
		code = message.GRPCUnknown
	}
	return (code >= 0 && code < len(grpcNames) && f.value>>code&1 != 0) == (f.op == config.LogEqual)
}

// matches compares a request's field as routes do: a field that is missing has no value, so that only an inverted test for
// presence matches.
func (f *Filter) matches(r *Record) bool {
	value, ok := f.field.value(r)
	if !ok {
		return f.match.Present && f.match.Invert
	}
	return (f.match.Present || string(value) == f.match.Exact) != f.match.Invert
}

// drawn takes a share. As in Envoy the request's identity decides, so that all proxies on the way of a request decide alike.
func (f *Filter) drawn(r *Record) bool {
	n := r.Random
	if id, ok := identity(r.RequestID); ok && !f.share.Independent {
		n = id
	}
	return n%f.share.Of < f.share.Part
}

// identity is what the first eight hexadecimal digits of a UUID say.
func identity(id []byte) (n uint64, ok bool) {
	if len(id) != 36 {
		return 0, false
	}
	for _, c := range id[:8] {
		digit := bytes.IndexByte([]byte(hex), c|0x20)
		if digit < 0 {
			return 0, false
		}
		n = n<<4 | uint64(digit)
	}
	return n, true
}
