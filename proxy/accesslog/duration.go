package accesslog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// points are the moments of a record by Envoy's names, as times after its start; less than 0: it was not reached.
var points = map[string]func(*Record) time.Duration{
	"DS_RX_BEG": func(*Record) time.Duration { return 0 },
	"DS_RX_END": func(r *Record) time.Duration { return r.RequestDuration },
	"US_TX_END": func(r *Record) time.Duration { return r.RequestTX },
	"US_RX_BEG": func(r *Record) time.Duration { return r.ResponseDuration },
	"DS_TX_END": func(r *Record) time.Duration {
		if r.TCP { // nobody has seen the last byte leave
			return -1
		}
		return r.Duration
	},
}

var units = map[string]time.Duration{"ms": time.Millisecond, "us": time.Microsecond, "ns": time.Nanosecond}

// duration compiles COMMON_DURATION(from:to:unit).
func duration(call call) (op, error) {
	parts := strings.Split(call.params, ":")
	if len(parts) != 3 {
		return op{}, fmt.Errorf("got %q for %%COMMON_DURATION%%, want two points and a unit with colons between them", clip(call.params))
	}
	from, to, unit := points[parts[0]], points[parts[1]], units[parts[2]]
	if from == nil || to == nil || unit == 0 {
		return op{}, fmt.Errorf("got %q for %%COMMON_DURATION%%, want points among %s, and the unit ms, us or ns",
			clip(call.params), strings.Join(slices.Sorted(maps.Keys(points)), ", "))
	}
	return op{write: func(_ *op, dst []byte, r *Record) ([]byte, valueKind) {
		a, b := from(r), to(r)
		if a < 0 || b < a {
			return dst, missing
		}
		return strconv.AppendInt(dst, int64((b-a)/unit), 10), number
	}}, nil
}
