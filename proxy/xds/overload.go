package xds

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	cgroupv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/cgroup_memory/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	injectedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/injected_resource/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	monitors             = typePrefix + "envoy.extensions.resource_monitors."
	fixedHeapType        = monitors + "fixed_heap.v3.FixedHeapConfig"
	cgroupType           = monitors + "cgroup_memory.v3.CgroupMemoryConfig"
	connectionsType      = monitors + "downstream_connections.v3.DownstreamConnectionsConfig"
	injectedType         = monitors + "injected_resource.v3.InjectedResourceConfig"
	connectionsName      = "envoy.resource_monitors.global_downstream_max_connections"
	monitorsWant         = "envoy.resource_monitors.fixed_heap, cgroup_memory, injected_resource or global_downstream_max_connections"
	minOverloadInterval  = time.Millisecond
	listenerLimitPrefix  = "envoy.resource_limits.listener."
	listenerLimitSuffix  = ".connection_limit"
	globalConnectionsKey = "overload.global_downstream_max_connections"
)

func (schema) addOverload(add func(protoreflect.FullName, string)) {
	const (
		overload = "envoy.config.overload.v3."
		monitor  = "envoy.extensions.resource_monitors."
	)
	add(overload+"OverloadManager", "refresh_interval resource_monitors actions")
	add(overload+"ResourceMonitor", "name typed_config")
	add(overload+"OverloadAction", "name triggers")
	add(overload+"Trigger", "name threshold scaled")
	add(overload+"ThresholdTrigger", "value")
	add(overload+"ScaledTrigger", "scaling_threshold saturation_threshold")
	add(monitor+"fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes")
	add(monitor+"cgroup_memory.v3.CgroupMemoryConfig", "max_memory_bytes")
	add(monitor+"downstream_connections.v3.DownstreamConnectionsConfig", "max_active_downstream_connections")
	add(monitor+"injected_resource.v3.InjectedResourceConfig", "filename")
	add("envoy.config.bootstrap.v3.LayeredRuntime", "layers")
	add("envoy.config.bootstrap.v3.RuntimeLayer", "name static_layer")
}

// overload reads the overload manager.
func (r *reader) overload(at *path, m *overloadv3.OverloadManager, o *config.Overload) {
	o.Interval = r.duration(at.field("refresh_interval"), m.GetRefreshInterval(), time.Second)
	if o.Interval < minOverloadInterval {
		r.wrong(at.field("refresh_interval"), o.Interval, "at least "+minOverloadInterval.String())
	}
	watched := map[string]bool{}
	for i, monitor := range m.GetResourceMonitors() {
		p := at.at("resource_monitors", i)
		if watched[monitor.GetName()] {
			r.wrong(p.field("name"), clip(monitor.GetName()), "each monitor once")
		}
		watched[monitor.GetName()] = true
		r.monitor(p, monitor, o)
	}
	kinds := map[config.OverloadKind]bool{}
	for i, a := range m.GetActions() {
		p := at.at("actions", i)
		kind, ok := config.OverloadKindNamed(a.GetName())
		switch {
		case !ok:
			r.wrong(p.field("name"), clip(a.GetName()), "stop_accepting_requests, disable_http_keepalive, stop_accepting_connections, reject_incoming_connections, reset_high_memory_stream or shrink_heap of envoy.overload_actions")
			continue
		case kinds[kind]:
			r.wrong(p.field("name"), clip(a.GetName()), "each action once")
		}
		kinds[kind] = true
		o.Actions = append(o.Actions, config.OverloadAction{Kind: kind, Triggers: r.triggers(p, a.GetTriggers(), watched)})
	}
}

func (r *reader) monitor(at *path, m *overloadv3.ResourceMonitor, o *config.Overload) {
	typed := m.GetTypedConfig()
	p := at.field("typed_config")
	want := func(name string) {
		if m.GetName() != name {
			r.wrong(at.field("name"), clip(m.GetName()), name)
		}
	}
	switch typed.GetTypeUrl() {
	case fixedHeapType:
		c := new(heapv3.FixedHeapConfig)
		want(config.ResourceHeap.String())
		if r.unpack(p, typed, c) {
			o.MaxHeap = c.GetMaxHeapSizeBytes()
		}
	case cgroupType:
		c := new(cgroupv3.CgroupMemoryConfig)
		want(config.ResourceCgroup.String())
		if r.unpack(p, typed, c) {
			o.Cgroup, o.MaxCgroup = true, c.GetMaxMemoryBytes()
		}
	case injectedType:
		c := new(injectedv3.InjectedResourceConfig)
		want(config.ResourceInjected.String())
		if r.unpack(p, typed, c) {
			if o.Injected = c.GetFilename(); !filepath.IsAbs(o.Injected) {
				r.wrong(p.field("filename"), clip(o.Injected), "an absolute path")
			}
		}
	case connectionsType:
		c := new(connectionsv3.DownstreamConnectionsConfig)
		want(connectionsName)
		if r.unpack(p, typed, c) {
			o.MaxConnections = uint64(c.GetMaxActiveDownstreamConnections())
		}
	default:
		r.wrong(at, named(m.GetName(), typed.GetTypeUrl()), monitorsWant)
	}
}

func (r *reader) triggers(at *path, all []*overloadv3.Trigger, watched map[string]bool) []config.OverloadTrigger {
	var out []config.OverloadTrigger
	seen := map[string]bool{}
	for i, t := range all {
		p := at.at("triggers", i)
		resource, ok := config.OverloadResourceNamed(t.GetName())
		switch {
		case !ok || !watched[t.GetName()]:
			r.wrong(p.field("name"), clip(t.GetName()), "one of resource_monitors")
		case seen[t.GetName()]:
			r.wrong(p.field("name"), clip(t.GetName()), "each resource once")
		}
		seen[t.GetName()] = true
		trigger := config.OverloadTrigger{Resource: resource, From: t.GetThreshold().GetValue(), To: t.GetThreshold().GetValue()}
		if s := t.GetScaled(); s != nil {
			trigger.From, trigger.To = s.GetScalingThreshold(), s.GetSaturationThreshold()
			if trigger.From >= trigger.To {
				r.wrong(p.field("scaled"), fmt.Sprintf("%v to %v", trigger.From, trigger.To), "a saturation_threshold above the scaling_threshold")
			}
		}
		out = append(out, trigger)
	}
	return out
}

// runtime reads the keys of static layers that are limits of connections; there is no other runtime. Later layers count
// more.
func (r *reader) runtime(at *path, m *bootstrapv3.LayeredRuntime, o *config.Overload) {
	for i, layer := range m.GetLayers() {
		p := at.at("layers", i)
		if layer.GetStaticLayer() == nil {
			r.missing(p, "no static_layer", "a static_layer")
			continue
		}
		r.runtimeKeys(p.field("static_layer"), "", layer.GetStaticLayer(), o)
	}
}

// runtimeKeys reads a level of a layer. As in Envoy keys may be nested, or one text with dots.
func (r *reader) runtimeKeys(at *path, prefix string, m *structpb.Struct, o *config.Overload) {
	for _, key := range slices.Sorted(maps.Keys(m.GetFields())) {
		v := m.GetFields()[key]
		p, name := at.field(clip(key)), prefix+key
		if nested := v.GetStructValue(); nested != nil {
			r.runtimeKeys(p, name+".", nested, o)
			continue
		}
		listener, isListener := strings.CutPrefix(name, listenerLimitPrefix)
		listener, isLimit := strings.CutSuffix(listener, listenerLimitSuffix)
		switch {
		case name == globalConnectionsKey:
			o.MaxConnections = r.runtimeNumber(p, v)
		case isListener && isLimit && listener != "":
			if o.MaxListenerConnections == nil {
				o.MaxListenerConnections = map[string]uint64{}
			}
			o.MaxListenerConnections[listener] = r.runtimeNumber(p, v)
		default:
			r.wrong(p, clip(name), listenerLimitPrefix+"NAME"+listenerLimitSuffix+" or "+globalConnectionsKey)
		}
	}
}

func (r *reader) runtimeNumber(at *path, v *structpb.Value) uint64 {
	n, err := v.GetNumberValue(), error(nil)
	if text, ok := v.GetKind().(*structpb.Value_StringValue); ok {
		n, err = strconv.ParseFloat(text.StringValue, 64)
	}
	if err != nil || n < 1 || n != math.Trunc(n) || n > 1<<53 {
		r.wrong(at, v.AsInterface(), "a number of at least 1")
		return 0
	}
	return uint64(n)
}
