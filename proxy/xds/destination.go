package xds

import (
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	originalDstType = typePrefix + "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"

	// Envoy's defaults.
	defaultCleanup    = 5 * time.Second
	originalDstHeader = "x-envoy-original-dst-host"
)

// originalDst reads a cluster whose hosts are where connections were going.
func (r *reader) originalDst(at *path, m *clusterv3.Cluster, c *cluster) {
	for _, other := range []struct {
		field string
		set   bool
	}{
		{"load_assignment", m.GetLoadAssignment() != nil},
		{"eds_cluster_config", m.GetEdsClusterConfig() != nil},
		{"health_checks", len(m.GetHealthChecks()) > 0},
		{"outlier_detection", m.GetOutlierDetection() != nil},
	} {
		if other.set {
			r.wrong(at.field(other.field), "a value", "it unset with type ORIGINAL_DST")
		}
	}
	lb, p := m.GetOriginalDstLbConfig(), at.field("original_dst_lb_config")
	d := &config.OriginalDst{Cleanup: r.duration(at.field("cleanup_interval"), m.GetCleanupInterval(), defaultCleanup)}
	if lb.GetUseHttpHeader() {
		if d.Header = strings.ToLower(lb.GetHttpHeaderName()); d.Header == "" {
			d.Header = originalDstHeader
		}
		if strings.HasPrefix(d.Header, ":") && d.Header != ":authority" || !visible(d.Header) {
			r.wrong(p.field("http_header_name"), clip(d.Header), "a field, or :authority")
		}
	} else if lb.GetHttpHeaderName() != "" {
		r.wrong(p.field("http_header_name"), clip(lb.GetHttpHeaderName()), "it with use_http_header")
	}
	if port := lb.GetUpstreamPortOverride(); port != nil {
		if port.GetValue() == 0 || port.GetValue() > 65535 {
			r.wrong(p.field("upstream_port_override"), port.GetValue(), "a port, 1 to 65535")
		}
		d.Port = uint16(port.GetValue())
	}
	c.OriginalDst, c.Assigned = d, true
}
