package registrytest

import (
	"fmt"
	"strings"
	"time"
)

// record keeps the longest time that was measured in each case, for those who compare.
type record struct{ worst []measured }

type measured struct {
	what string
	took time.Duration
}

func (r *record) note(what string, took time.Duration) {
	for i := range r.worst {
		if m := &r.worst[i]; m.what == what {
			m.took = max(m.took, took)
			return
		}
	}
	r.worst = append(r.worst, measured{what, took})
}

// String lists the times in the order of the cases.
func (r *record) String() string {
	var parts []string
	for _, m := range r.worst {
		parts = append(parts, fmt.Sprintf("%s %v", m.what, m.took.Round(time.Millisecond)))
	}
	return strings.Join(parts, ", ")
}
