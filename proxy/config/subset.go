package config

// Labels are values by their names, in a form that can be compared: a JSON object without spaces, its names sorted, and so in
// all that is in it. Empty is none.
type Labels string

// Subsets divides the hosts of a cluster by their Labels (Envoy's lb_subset_config): a request whose route names labels gets
// a host that has exactly those, among the names of a selector.
type Subsets struct {
	Selectors []Selector
	Fallback  Fallback // for a request without such a subset; FallbackUnset: FallbackNone
	Default   Labels   // of the hosts of FallbackDefault
	// LocalityWeights: LocalityWeighted holds within subsets too; ScaleLocality: with weights in proportion to what of a
	// locality's hosts is in the subset.
	LocalityWeights, ScaleLocality bool
	PanicAny                       bool // any host, when a fallback has none
	ListAsAny                      bool // a host with a list has each of its values
	FallbackList                   bool // "fallback_list" of a route has labels to be tried one after the other
	RedundantKeys                  bool // a route may name more labels than a selector has
}

// Selector makes a subset of each combination of values of its keys.
type Selector struct {
	Keys         []string // sorted, at least one
	Single       bool     // of hosts with the same value of the only key one is used, whatever its health
	Fallback     Fallback // for a request that names these keys with values that no host has
	FallbackKeys []string // of FallbackKeys: some of Keys, sorted
}

// Fallback is what is done for a request without a subset.
type Fallback uint8

// The ways, by Envoy's names.
const (
	FallbackUnset   Fallback = iota // of a selector: the cluster's
	FallbackNone                    // NO_FALLBACK: there is no host
	FallbackAny                     // ANY_ENDPOINT
	FallbackDefault                 // DEFAULT_SUBSET
	FallbackKeys                    // KEYS_SUBSET: again with fewer keys
)
