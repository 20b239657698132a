package xds

import (
	"encoding/json"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	lbMetadata   = "envoy.lb" // where labels stand in metadata
	maxSelectors = 64         // of a cluster: each is looked at for every host
	maxKeys      = 16         // of a selector
)

const subsetFields = `fallback_policy default_subset subset_selectors locality_weight_aware scale_locality_weight panic_mode_any list_as_any
	metadata_fallback_policy`

// addSubsets goes after addCluster and addRoute: it adds to what a Cluster, a RouteAction and a TcpProxy may have.
func (s schema) addSubsets(add func(protoreflect.FullName, string)) {
	const (
		subset = "envoy.extensions.load_balancing_policies.subset.v3.Subset"
		fields = "keys single_host_per_subset fallback_policy fallback_keys_subset"
	)
	s[clusterAPI]["lb_subset_config"] = true
	for _, message := range []protoreflect.FullName{
		"envoy.config.route.v3.RouteAction", "envoy.config.route.v3.WeightedCluster.ClusterWeight",
		"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
	} {
		s[message]["metadata_match"] = true
	}
	add(clusterAPI+".LbSubsetConfig", subsetFields)
	add(clusterAPI+".LbSubsetConfig.LbSubsetSelector", fields)
	add(subset, subsetFields+" subset_lb_policy allow_redundant_keys")
	add(subset+".LbSubsetSelector", fields)
}

// labels returns the labels that metadata has for load balancing. What names come later take the place of those before.
func labels(all ...*corev3.Metadata) config.Labels {
	merged := map[string]any{}
	for _, m := range all {
		for name, value := range m.GetFilterMetadata()[lbMetadata].GetFields() {
			merged[name] = value.AsInterface()
		}
	}
	return labelsOf(merged)
}

func labelsOf(values map[string]any) config.Labels {
	if len(values) == 0 {
		return ""
	}
	text, err := json.Marshal(values) // with sorted names
	if err != nil {
		return "" // there is no value in protobuf's that has no JSON
	}
	return config.Labels(intern(string(text)))
}

func labelsOfStruct(m *structpb.Struct) config.Labels { return labelsOf(m.AsMap()) }

// subsets reads how hosts are divided by their labels.
func (r *reader) subsets(at *path, m *clusterv3.Cluster_LbSubsetConfig) *config.Subsets {
	s := &config.Subsets{
		Default:         labelsOfStruct(m.GetDefaultSubset()),
		LocalityWeights: m.GetLocalityWeightAware(),
		ScaleLocality:   m.GetScaleLocalityWeight(),
		PanicAny:        m.GetPanicModeAny(),
		ListAsAny:       m.GetListAsAny(),
	}
	switch p := m.GetFallbackPolicy(); p {
	case clusterv3.Cluster_LbSubsetConfig_NO_FALLBACK:
		s.Fallback = config.FallbackNone
	case clusterv3.Cluster_LbSubsetConfig_ANY_ENDPOINT:
		s.Fallback = config.FallbackAny
	case clusterv3.Cluster_LbSubsetConfig_DEFAULT_SUBSET:
		s.Fallback = config.FallbackDefault
	default:
		r.wrong(at.field("fallback_policy"), p, "NO_FALLBACK, ANY_ENDPOINT or DEFAULT_SUBSET")
	}
	switch p := m.GetMetadataFallbackPolicy(); p {
	case clusterv3.Cluster_LbSubsetConfig_METADATA_NO_FALLBACK:
	case clusterv3.Cluster_LbSubsetConfig_FALLBACK_LIST:
		s.FallbackList = true
	default:
		r.wrong(at.field("metadata_fallback_policy"), p, "METADATA_NO_FALLBACK or FALLBACK_LIST")
	}
	if s.ScaleLocality && !s.LocalityWeights {
		r.wrong(at.field("scale_locality_weight"), true, "it with locality_weight_aware")
	}
	if n := len(m.GetSubsetSelectors()); n > maxSelectors {
		r.wrong(at.field("subset_selectors"), n, "at most 64")
	}
	for i, l := range m.GetSubsetSelectors() {
		s.Selectors = append(s.Selectors, r.selector(at.at("subset_selectors", i), l))
	}
	return s
}

func (r *reader) selector(at *path, m *clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector) config.Selector {
	out := config.Selector{Keys: distinctNames(m.GetKeys()), Single: m.GetSingleHostPerSubset()}
	if n := len(out.Keys); n == 0 || n > maxKeys {
		r.wrong(at.field("keys"), n, "1 to 16 keys")
	}
	if out.Single && len(out.Keys) != 1 {
		r.wrong(at.field("single_host_per_subset"), true, "it with exactly one key")
	}
	switch p := m.GetFallbackPolicy(); p {
	case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_NOT_DEFINED:
	case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_NO_FALLBACK:
		out.Fallback = config.FallbackNone
	case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_ANY_ENDPOINT:
		out.Fallback = config.FallbackAny
	case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_DEFAULT_SUBSET:
		out.Fallback = config.FallbackDefault
	case clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector_KEYS_SUBSET:
		out.Fallback, out.FallbackKeys = config.FallbackKeys, distinctNames(m.GetFallbackKeysSubset())
		missing := slices.ContainsFunc(out.FallbackKeys, func(k string) bool { return !slices.Contains(out.Keys, k) })
		if n := len(out.FallbackKeys); n == 0 || n >= len(out.Keys) || missing {
			r.wrong(at.field("fallback_keys_subset"), out.FallbackKeys, "some of the keys, not all")
		}
	default:
		r.wrong(at.field("fallback_policy"), p, "a policy that Envoy has")
	}
	if out.FallbackKeys == nil && len(m.GetFallbackKeysSubset()) > 0 {
		r.wrong(at.field("fallback_keys_subset"), "a value", "it with fallback_policy KEYS_SUBSET only")
	}
	return out
}

// distinctNames sorts names, each once.
func distinctNames(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}
