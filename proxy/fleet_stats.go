package proxy

import (
	"maps"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/health"
)

// jsonHealth is envoy.admin.v3.HostHealthStatus, and jsonPercent envoy.type.v3.Percent.
type (
	jsonHealth struct {
		FailedCheck    bool   `json:"failed_active_health_check,omitempty"`
		FailedOutlier  bool   `json:"failed_outlier_check,omitempty"`
		DegradedCheck  bool   `json:"failed_active_degraded_check,omitempty"`
		PendingRemoval bool   `json:"pending_dynamic_removal,omitempty"`
		PendingCheck   bool   `json:"pending_active_hc,omitempty"`
		CheckTimeout   bool   `json:"active_hc_timeout,omitempty"`
		EDS            string `json:"eds_health_status"`
	}
	jsonPercent struct {
		Value float64 `json:"value"`
	}
)

func percent(v float64) *jsonPercent {
	if v < 0 {
		return nil
	}
	return &jsonPercent{v}
}

// json is what is known of a host's health, as the admin interface shows it.
func (h *fleetHost) json() jsonHealth {
	return jsonHealth{
		FailedCheck: h.Flags&health.Failed != 0, FailedOutlier: h.ejected, DegradedCheck: h.Flags&health.Degraded != 0,
		PendingRemoval: h.Flags&health.Removed != 0, PendingCheck: h.Flags&health.Pending != 0, CheckTimeout: h.Flags&health.TimedOut != 0,
		EDS: healthName(h.Endpoint.Health),
	}
}

// text is the same in Envoy's text form.
func (h *fleetHost) text() string {
	var b strings.Builder
	said := h.Endpoint.Health
	for _, flag := range []struct {
		set  bool
		name string
	}{
		{h.Flags&health.Failed != 0, "/failed_active_hc"},
		{h.ejected, "/failed_outlier_check"},
		{said == config.Unhealthy, "/failed_eds_health"},
		{h.Flags&health.Degraded != 0, "/degraded_active_hc"},
		{said == config.Degraded, "/degraded_eds_health"},
		{h.Flags&health.Removed != 0, "/pending_dynamic_removal"},
		{h.Flags&health.Pending != 0, "/pending_active_hc"},
		{h.Flags&health.TimedOut != 0, "/active_hc_timeout"},
		{said == config.Draining, "/eds_status_draining"},
	} {
		if flag.set {
			b.WriteString(flag.name)
		}
	}
	if b.Len() == 0 {
		return "healthy"
	}
	return b.String()
}

// samples are the figures of health checks and outlier detection.
func (f *fleet) samples() []sample {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []sample
	for _, cluster := range slices.Sorted(maps.Keys(f.members)) {
		put := func(name string, value uint64, gauge bool) {
			out = append(out, sample{scope: "cluster", label: "envoy_cluster_name", owner: cluster, name: name, value: value, gauge: gauge})
		}
		if s, ok := f.checker.Stats(cluster); ok {
			put("health_check.attempt", s.Attempt, false)
			put("health_check.degraded", uint64(s.Degraded), true)
			put("health_check.failure", s.Failure, false)
			put("health_check.healthy", uint64(s.Healthy), true)
			put("health_check.network_failure", s.NetworkFailure, false)
			put("health_check.success", s.Success, false)
			put("health_check.warming_timeout", f.members[cluster].warming.count, false)
		}
		if m := f.members[cluster]; m.rules != nil {
			for _, figure := range m.detector.Figures() {
				put("outlier_detection."+figure.Name, figure.Value, figure.Gauge)
			}
		}
	}
	return out
}
