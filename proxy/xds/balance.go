package xds

import (
	"math/big"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	// Envoy's defaults.
	defaultRingMin   = 1024
	defaultRingMax   = 8 << 20
	defaultMaglev    = 65537
	defaultMinWeight = 10 // percent

	maxChoices = 256 // each is looked at for every request
)

// addBalance goes after addCluster: it adds to what a Cluster may have.
func (s schema) addBalance(add func(protoreflect.FullName, string)) {
	for _, field := range []string{"round_robin_lb_config", "ring_hash_lb_config", "maglev_lb_config", "original_dst_lb_config", "cleanup_interval", "load_balancing_policy"} {
		s[clusterAPI][field] = true
	}
	s[clusterAPI+".CommonLbConfig"]["consistent_hashing_lb_config"] = true
	add(clusterAPI+".CommonLbConfig.ConsistentHashingLbConfig", "use_hostname_for_hashing")
	add(clusterAPI+".RoundRobinLbConfig", "slow_start_config")
	add(clusterAPI+".LeastRequestLbConfig", "choice_count active_request_bias slow_start_config")
	add(clusterAPI+".SlowStartConfig", "slow_start_window aggression min_weight_percent")
	add(clusterAPI+".RingHashLbConfig", "minimum_ring_size maximum_ring_size hash_function")
	add(clusterAPI+".MaglevLbConfig", "table_size")
	add(clusterAPI+".OriginalDstLbConfig", "use_http_header http_header_name upstream_port_override")
}

// policy reads how hosts are chosen.
func (r *reader) policy(at *path, m *clusterv3.Cluster, c *cluster) {
	common, p := m.GetCommonLbConfig(), at.field("common_lb_config")
	if m.GetLoadBalancingPolicy() != nil { // it takes the place of lb_policy, and of all that goes with that
		for _, wrong := range []struct {
			field *path
			set   bool
		}{
			{p.field("locality_weighted_lb_config"), common.GetLocalityWeightedLbConfig() != nil},
			{p.field("consistent_hashing_lb_config"), common.GetConsistentHashingLbConfig() != nil},
			{at.field("lb_subset_config"), m.GetLbSubsetConfig() != nil},
		} {
			if wrong.set {
				r.wrong(wrong.field, "a value", "it unset with load_balancing_policy")
			}
		}
		r.typedPolicies(at.field("load_balancing_policy"), m.GetLoadBalancingPolicy(), m, c)
		return
	}
	c.LocalityWeighted = common.GetLocalityWeightedLbConfig() != nil
	c.HashHostname = common.GetConsistentHashingLbConfig().GetUseHostnameForHashing()
	r.hashHostname(p.field("consistent_hashing_lb_config").field("use_hostname_for_hashing"), m, c)
	own := "" // the field that goes with the policy
	switch m.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		own = "round_robin_lb_config"
		c.Policy = config.RoundRobin
		c.SlowStart = r.slowStart(at.field(own).field("slow_start_config"), m.GetRoundRobinLbConfig().GetSlowStartConfig())
	case clusterv3.Cluster_LEAST_REQUEST:
		own = "least_request_lb_config"
		c.Policy = config.LeastRequest
		c.SlowStart = r.slowStart(at.field(own).field("slow_start_config"), m.GetLeastRequestLbConfig().GetSlowStartConfig())
		c.Choice = r.choice(at.field(own), m.GetLeastRequestLbConfig(), false)
	case clusterv3.Cluster_RANDOM:
		c.Policy = config.Random
	case clusterv3.Cluster_RING_HASH:
		own = "ring_hash_lb_config"
		c.Policy = config.RingHash
		c.Ring = r.ring(at.field(own), m.GetRingHashLbConfig())
		switch m.GetRingHashLbConfig().GetHashFunction() {
		case clusterv3.Cluster_RingHashLbConfig_XX_HASH:
		case clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2:
			c.Ring.Murmur = true
		default:
			r.wrong(at.field(own).field("hash_function"), m.GetRingHashLbConfig().GetHashFunction(), "XX_HASH or MURMUR_HASH_2")
		}
	case clusterv3.Cluster_MAGLEV:
		own = "maglev_lb_config"
		c.Policy = config.Maglev
		c.MaglevSize = r.maglev(at.field(own), m.GetMaglevLbConfig().GetTableSize())
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		own = "original_dst_lb_config"
		r.provided(at.field("lb_policy"), m)
	default:
		r.wrong(at.field("lb_policy"), m.GetLbPolicy(), "ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH, MAGLEV or CLUSTER_PROVIDED")
		return
	}
	oneof := m.ProtoReflect().Descriptor().Oneofs().ByName("lb_config")
	if fd := m.ProtoReflect().WhichOneof(oneof); fd != nil && string(fd.Name()) != own && r.schema[clusterAPI][string(fd.Name())] {
		r.wrong(at.field(string(fd.Name())), "a value", "it unset with lb_policy "+m.GetLbPolicy().String())
	}
	if m.GetType() == clusterv3.Cluster_ORIGINAL_DST && m.GetLbPolicy() != clusterv3.Cluster_CLUSTER_PROVIDED {
		r.wrong(at.field("lb_policy"), m.GetLbPolicy(), "CLUSTER_PROVIDED with type ORIGINAL_DST")
	}
	if m.GetLbSubsetConfig() != nil {
		c.Subsets = r.subsets(at.field("lb_subset_config"), m.GetLbSubsetConfig())
		if c.OriginalDst != nil || m.GetLbPolicy() == clusterv3.Cluster_CLUSTER_PROVIDED {
			r.wrong(at.field("lb_subset_config"), "a value", "it unset with lb_policy CLUSTER_PROVIDED")
		}
	}
}

// provided checks that a cluster brings its hosts.
func (r *reader) provided(at *path, m *clusterv3.Cluster) {
	if m.GetClusterType() != nil || m.GetType() != clusterv3.Cluster_ORIGINAL_DST {
		r.wrong(at, "CLUSTER_PROVIDED", "another policy, or type ORIGINAL_DST")
	}
}

// hashHostname refuses names where, as in Envoy, a host need not have one.
func (r *reader) hashHostname(at *path, m *clusterv3.Cluster, c *cluster) {
	if c.HashHostname && m.GetType() != clusterv3.Cluster_STRICT_DNS {
		r.wrong(at, true, "false, or type STRICT_DNS")
	}
}

// The messages of a policy's settings, in the fields of a Cluster and as extensions.
type (
	slowStartSettings interface {
		GetSlowStartWindow() *durationpb.Duration
		GetAggression() *corev3.RuntimeDouble
		GetMinWeightPercent() *typev3.Percent
	}
	choiceSettings interface {
		GetChoiceCount() *wrapperspb.UInt32Value
		GetActiveRequestBias() *corev3.RuntimeDouble
	}
	ringSettings interface {
		GetMinimumRingSize() *wrapperspb.UInt64Value
		GetMaximumRingSize() *wrapperspb.UInt64Value
	}
)

func (r *reader) slowStart(at *path, m slowStartSettings) *config.SlowStart {
	window := r.duration(at.field("slow_start_window"), m.GetSlowStartWindow(), 0)
	s := &config.SlowStart{
		Window:     window,
		Aggression: r.number(at.field("aggression"), m.GetAggression(), 1),
		MinWeight:  defaultMinWeight / 100.,
	}
	if s.Aggression == 0 {
		r.wrong(at.field("aggression"), 0, "more than 0")
	}
	if p := m.GetMinWeightPercent(); p != nil {
		s.MinWeight = p.GetValue() / 100
	}
	if window == 0 {
		return nil
	}
	if window < time.Millisecond {
		r.wrong(at.field("slow_start_window"), window, "0s, or at least 1ms")
	}
	return s
}

// number reads a value that Envoy's runtime could override. There is none here, so that its default is what counts.
func (r *reader) number(at *path, m *corev3.RuntimeDouble, unset float64) float64 {
	if m == nil {
		return unset
	}
	const most = 1e6
	v := m.GetDefaultValue()
	if !(v >= 0 && v <= most) { // nor is it NaN
		r.wrong(at.field("default_value"), v, "0 to 1000000")
		return unset
	}
	return v
}

// choice returns nil for Envoy's defaults.
func (r *reader) choice(at *path, m choiceSettings, all bool) *config.Choice {
	c := config.Choice{Hosts: 2, Bias: r.number(at.field("active_request_bias"), m.GetActiveRequestBias(), 1), All: all}
	if n := m.GetChoiceCount(); n != nil {
		c.Hosts = n.GetValue()
	}
	if c.Hosts > maxChoices {
		r.wrong(at.field("choice_count"), c.Hosts, "2 to 256")
	}
	if c == (config.Choice{Hosts: 2, Bias: 1}) {
		return nil
	}
	return &c
}

// ring reads all of a ring's settings but its hash function.
func (r *reader) ring(at *path, m ringSettings) *config.Ring {
	least, most := uint64(defaultRingMin), uint64(defaultRingMax)
	if n := m.GetMinimumRingSize(); n != nil {
		least = n.GetValue()
	}
	if n := m.GetMaximumRingSize(); n != nil {
		most = n.GetValue()
	}
	if least == 0 || least > most || most > defaultRingMax {
		r.wrong(at.field("minimum_ring_size"), least, "at least 1 and at most maximum_ring_size, which is at most 8388608")
	}
	return &config.Ring{Min: uint32(least), Max: uint32(most)}
}

func (r *reader) maglev(at *path, n *wrapperspb.UInt64Value) uint32 {
	size := uint64(defaultMaglev)
	if n != nil {
		size = n.GetValue()
	}
	const most = 5_000_011 // of the API's rules
	if size > most || !new(big.Int).SetUint64(size).ProbablyPrime(0) {
		r.wrong(at.field("table_size"), size, "a prime number of at most 5000011")
		return defaultMaglev
	}
	return uint32(size)
}
