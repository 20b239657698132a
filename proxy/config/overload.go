package config

import (
	"slices"
	"time"
)

// ConnectionLimit bounds the connections of a filter chain, over all loops.
type ConnectionLimit struct {
	StatPrefix string
	Max        uint64
	Delay      time.Duration // before a connection beyond that is closed; nothing is read of it meanwhile
}

// Balance says how the connections of an address get to the loops.
type Balance uint8

// The balances.
const (
	BalanceDefault Balance = iota // by the kernel; few that last are evened out
	BalanceExact                  // each to the loop with fewest
)

// Overload says what the process is spared when it has too much, and how that is seen.
type Overload struct {
	Interval time.Duration // between looks
	// What is watched. 0 and "" are not.
	MaxHeap   uint64 // bytes that the Go runtime holds of the system
	Cgroup    bool   // the memory of the control group, against its limit
	MaxCgroup uint64 // or against so many bytes, if that is less
	Injected  string // a file with a pressure from 0 to 1
	// MaxConnections bounds client connections in all, MaxListenerConnections those of listeners by name.
	MaxConnections         uint64
	MaxListenerConnections map[string]uint64
	Actions                []OverloadAction
}

// OverloadAction is done while one of its triggers wants it.
type OverloadAction struct {
	Kind     OverloadKind
	Triggers []OverloadTrigger
}

// OverloadTrigger wants an action in part when the pressure of a resource is more than From, and in full from To on.
type OverloadTrigger struct {
	Resource OverloadResource
	From, To float64
}

// OverloadKind is something that can be done.
type OverloadKind uint8

// The kinds, in Envoy's words.
const (
	ShedRequests    OverloadKind = iota // stop_accepting_requests
	ShedKeepAlive                       // disable_http_keepalive
	ShedAccepting                       // stop_accepting_connections
	ShedConnections                     // reject_incoming_connections
	ShedStreams                         // reset_high_memory_stream
	ShrinkHeap                          // shrink_heap
	NumOverloadKinds
)

// OverloadResource is something of which there may be too little.
type OverloadResource uint8

// The resources.
const (
	ResourceHeap OverloadResource = iota
	ResourceCgroup
	ResourceInjected
	NumOverloadResources
)

var overloadKindNames = [NumOverloadKinds]string{
	ShedRequests:    "envoy.overload_actions.stop_accepting_requests",
	ShedKeepAlive:   "envoy.overload_actions.disable_http_keepalive",
	ShedAccepting:   "envoy.overload_actions.stop_accepting_connections",
	ShedConnections: "envoy.overload_actions.reject_incoming_connections",
	ShedStreams:     "envoy.overload_actions.reset_high_memory_stream",
	ShrinkHeap:      "envoy.overload_actions.shrink_heap",
}

var overloadResourceNames = [NumOverloadResources]string{
	ResourceHeap:     "envoy.resource_monitors.fixed_heap",
	ResourceCgroup:   "envoy.resource_monitors.cgroup_memory",
	ResourceInjected: "envoy.resource_monitors.injected_resource",
}

// String is Envoy's name of the action.
func (k OverloadKind) String() string { return overloadKindNames[k] }

// String is Envoy's name of what watches the resource.
func (r OverloadResource) String() string { return overloadResourceNames[r] }

// OverloadKindNamed is the action of Envoy's name.
func OverloadKindNamed(name string) (OverloadKind, bool) {
	i := slices.Index(overloadKindNames[:], name)
	return OverloadKind(max(i, 0)), i >= 0
}

// OverloadResourceNamed is the resource that Envoy's monitor of a name watches.
func OverloadResourceNamed(name string) (OverloadResource, bool) {
	i := slices.Index(overloadResourceNames[:], name)
	return OverloadResource(max(i, 0)), i >= 0
}
