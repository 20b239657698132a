package proxy

import (
	"maps"
	"slices"
)

// nameSamples are the figures of the clusters that are found by name.
func (p *Proxy) nameSamples() []sample {
	all := p.names.Stats()
	var out []sample
	for _, cluster := range slices.Sorted(maps.Keys(all)) {
		s := all[cluster]
		for _, f := range []struct {
			name  string
			value uint64
		}{
			{"update_attempt", s.UpdateAttempt},
			{"update_empty", s.UpdateEmpty},
			{"update_failure", s.UpdateFailure},
			{"update_no_rebuild", s.UpdateNoRebuild},
			{"update_success", s.UpdateSuccess},
		} {
			out = append(out, sample{scope: "cluster", label: "envoy_cluster_name", owner: cluster, name: f.name, value: f.value})
		}
	}
	return out
}
