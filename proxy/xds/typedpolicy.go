package xds

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	providedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/cluster_provided/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	subsetv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/subset/v3"
	wrrv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	policyAPI     = "envoy.extensions.load_balancing_policies."
	knownPolicies = "round_robin, least_request, random, ring_hash, maglev, subset, wrr_locality or cluster_provided"
)

func (schema) addTypedPolicies(add func(protoreflect.FullName, string)) {
	const cluster, common = "envoy.config.cluster.v3.", policyAPI + "common.v3."
	add(cluster+"LoadBalancingPolicy", "policies")
	add(cluster+"LoadBalancingPolicy.Policy", "typed_extension_config")
	add(common+"LocalityLbConfig", "locality_weighted_lb_config")
	add(common+"LocalityLbConfig.LocalityWeightedLbConfig", "")
	add(common+"SlowStartConfig", "slow_start_window aggression min_weight_percent")
	add(common+"ConsistentHashingLbConfig", "use_hostname_for_hashing")
	add(policyAPI+"round_robin.v3.RoundRobin", "slow_start_config locality_lb_config")
	add(policyAPI+"least_request.v3.LeastRequest", "choice_count active_request_bias slow_start_config locality_lb_config enable_full_scan selection_method")
	add(policyAPI+"random.v3.Random", "locality_lb_config")
	add(policyAPI+"ring_hash.v3.RingHash", "hash_function minimum_ring_size maximum_ring_size use_hostname_for_hashing consistent_hashing_lb_config locality_weighted_lb_config")
	add(policyAPI+"maglev.v3.Maglev", "table_size consistent_hashing_lb_config locality_weighted_lb_config")
	add(policyAPI+"wrr_locality.v3.WrrLocality", "endpoint_picking_policy")
	add(policyAPI+"cluster_provided.v3.ClusterProvided", "")
}

// typedPolicies reads a list of policies in the form of extensions. As xDS has it the first that is known counts.
func (r *reader) typedPolicies(at *path, list *clusterv3.LoadBalancingPolicy, m *clusterv3.Cluster, c *cluster) {
	for i, one := range list.GetPolicies() {
		typed := one.GetTypedExtensionConfig().GetTypedConfig()
		own := policyMessage(typed.GetTypeUrl())
		if own == nil {
			continue
		}
		p := at.at("policies", i).field("typed_extension_config").field("typed_config")
		if r.unpack(p, typed, own) {
			r.typedPolicy(p, own, m, c)
		}
		return
	}
	got := "none"
	if n := len(list.GetPolicies()); n > 0 {
		last := list.GetPolicies()[n-1].GetTypedExtensionConfig()
		got = named(last.GetName(), last.GetTypedConfig().GetTypeUrl())
	}
	r.wrong(at.field("policies"), got, "one of "+knownPolicies)
}

// policyMessage makes the message of a policy that is known; nil for another.
func policyMessage(typeURL string) proto.Message {
	for _, m := range []proto.Message{
		new(roundv3.RoundRobin), new(leastv3.LeastRequest), new(randomv3.Random), new(ringv3.RingHash), new(maglevv3.Maglev),
		new(subsetv3.Subset), new(wrrv3.WrrLocality), new(providedv3.ClusterProvided),
	} {
		if typeURL == typePrefix+string(m.ProtoReflect().Descriptor().FullName()) {
			return m
		}
	}
	return nil
}

func (r *reader) typedPolicy(at *path, own proto.Message, m *clusterv3.Cluster, c *cluster) {
	if _, provided := own.(*providedv3.ClusterProvided); !provided && m.GetType() == clusterv3.Cluster_ORIGINAL_DST && m.GetClusterType() == nil {
		r.wrong(at, string(own.ProtoReflect().Descriptor().Name()), "ClusterProvided with type ORIGINAL_DST")
	}
	switch p := own.(type) {
	case *roundv3.RoundRobin:
		c.Policy = config.RoundRobin
		c.SlowStart = r.slowStart(at.field("slow_start_config"), p.GetSlowStartConfig())
		r.byLocality(p.GetLocalityLbConfig(), c)
	case *leastv3.LeastRequest:
		c.Policy = config.LeastRequest
		c.SlowStart = r.slowStart(at.field("slow_start_config"), p.GetSlowStartConfig())
		//lint:ignore SA1019 it is still sent
		full := p.GetEnableFullScan().GetValue() || p.GetSelectionMethod() == leastv3.LeastRequest_FULL_SCAN
		c.Choice = r.choice(at, p, full)
		r.byLocality(p.GetLocalityLbConfig(), c)
	case *randomv3.Random:
		c.Policy = config.Random
		r.byLocality(p.GetLocalityLbConfig(), c)
	case *ringv3.RingHash:
		c.Policy = config.RingHash
		c.Ring = r.ring(at, p)
		c.Ring.Murmur = p.GetHashFunction() == ringv3.RingHash_MURMUR_HASH_2
		//lint:ignore SA1019 it is still sent
		c.HashHostname = p.GetUseHostnameForHashing()
		r.byHash(at, p.GetConsistentHashingLbConfig(), p.GetLocalityWeightedLbConfig(), m, c)
	case *maglevv3.Maglev:
		c.Policy = config.Maglev
		c.MaglevSize = r.maglev(at, p.GetTableSize())
		r.byHash(at, p.GetConsistentHashingLbConfig(), p.GetLocalityWeightedLbConfig(), m, c)
	case *wrrv3.WrrLocality:
		r.typedPolicies(at.field("endpoint_picking_policy"), p.GetEndpointPickingPolicy(), m, c)
		c.LocalityWeighted = true
	case *subsetv3.Subset:
		r.typedSubset(at, p, m, c)
	case *providedv3.ClusterProvided:
		r.provided(at, m)
	}
}

func (r *reader) byLocality(m *commonv3.LocalityLbConfig, c *cluster) {
	c.LocalityWeighted = m.GetLocalityWeightedLbConfig() != nil
}

func (r *reader) byHash(at *path, hashing *commonv3.ConsistentHashingLbConfig, weighted *commonv3.LocalityLbConfig_LocalityWeightedLbConfig, m *clusterv3.Cluster, c *cluster) {
	c.LocalityWeighted = weighted != nil
	c.HashHostname = c.HashHostname || hashing.GetUseHostnameForHashing()
	r.hashHostname(at.field("consistent_hashing_lb_config").field("use_hostname_for_hashing"), m, c)
}

// typedSubset reads subsets and the policy within them. The extension's fields are those of a Cluster's lb_subset_config, and two more.
func (r *reader) typedSubset(at *path, p *subsetv3.Subset, m *clusterv3.Cluster, c *cluster) {
	if c.Subsets != nil {
		r.wrong(at, "subsets of subsets", "another policy within a subset")
		return
	}
	raw, err := proto.Marshal(p)
	old := new(clusterv3.Cluster_LbSubsetConfig)
	if err == nil {
		err = proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, old)
	}
	if err != nil {
		r.wrong(at, err, "subsets")
		return
	}
	c.Subsets = r.subsets(at, old)
	c.Subsets.RedundantKeys = p.GetAllowRedundantKeys()
	r.typedPolicies(at.field("subset_lb_policy"), p.GetSubsetLbPolicy(), m, c)
}
