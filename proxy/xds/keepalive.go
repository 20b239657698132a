package xds

import (
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func (schema) addKeepalives(add func(protoreflect.FullName, string)) {
	add("envoy.config.core.v3.KeepaliveSettings", "interval timeout interval_jitter connection_idle_interval")
	add("envoy.config.core.v3.TcpKeepalive", "keepalive_probes keepalive_time keepalive_interval")
	add("envoy.config.cluster.v3.UpstreamConnectionOptions", "tcp_keepalive")
}

// pings reads by which pings the end of a peer is found out. The rules of the proto bound the figures.
func pings(m *corev3.KeepaliveSettings) *config.Keepalive {
	if m == nil {
		return nil
	}
	k := &config.Keepalive{
		Interval: m.GetInterval().AsDuration(), Timeout: m.GetTimeout().AsDuration(), Idle: m.GetConnectionIdleInterval().AsDuration(), Jitter: 0.15,
	}
	if j := m.GetIntervalJitter(); j != nil {
		k.Jitter = j.GetValue() / 100
	}
	return k
}

// tcpKeepalive reads by which probes of the kernel's it is. The bounds are Linux's.
func (r *reader) tcpKeepalive(at *path, m *corev3.TcpKeepalive) *config.TCPKeepalive {
	if m == nil {
		return nil
	}
	number := func(field string, v *wrapperspb.UInt32Value, most uint32) uint32 {
		if n := v.GetValue(); v != nil && (n < 1 || n > most) {
			r.wrong(at.field(field), n, "a number from 1 to "+strconv.Itoa(int(most)))
			return 0
		}
		return v.GetValue()
	}
	const mostSeconds, mostProbes = 32767, 127
	return &config.TCPKeepalive{
		Time:     time.Duration(number("keepalive_time", m.GetKeepaliveTime(), mostSeconds)) * time.Second,
		Interval: time.Duration(number("keepalive_interval", m.GetKeepaliveInterval(), mostSeconds)) * time.Second,
		Probes:   int(number("keepalive_probes", m.GetKeepaliveProbes(), mostProbes)),
	}
}
