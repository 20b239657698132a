package compile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Type is a type of resource. The order of the constants is the order in which changes are sent, so that nothing ever
// refers to what is not there yet (make before break).
type Type uint8

// The types of resources that are served.
const (
	Cluster Type = iota
	Endpoint
	Listener
	Route
	types
)

var typeURLs = [types]string{
	Cluster:  "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	Endpoint: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	Listener: "type.googleapis.com/envoy.config.listener.v3.Listener",
	Route:    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}

// Types is the number of types; a Type is less than it.
const Types = int(types)

// URL returns the type URL by which xDS names t.
func (t Type) URL() string { return typeURLs[t] }

// String returns the short name of the service that discovers t, as in "CDS".
func (t Type) String() string { return [types]string{"CDS", "EDS", "LDS", "RDS"}[t] }

// ParseType returns the type of that URL.
func ParseType(url string) (t Type, ok bool) {
	for t := range types {
		if typeURLs[t] == url {
			return t, true
		}
	}
	return 0, false
}

// Resource is one xDS resource, marshalled once for all who are sent it. It is immutable.
type Resource struct {
	TypeURL string
	Name    string
	Version string // hash of Body: equal bodies have equal versions, over restarts too
	Body    []byte // the value of a google.protobuf.Any, deterministically marshalled

	wire []byte // the field "resources" of a DeltaDiscoveryResponse; Body is its tail
	any  int    // where in wire its google.protobuf.Any begins, tag included
}

// DeltaField returns r as the field "resources" of a DeltaDiscoveryResponse, tag included: appended to such a message's
// bytes it adds r to it. It must not be changed.
func (r *Resource) DeltaField() []byte { return r.wire }

// StateField is DeltaField for a DiscoveryResponse (state of the world). The two share their memory: the Any is field 2
// of both a DiscoveryResponse and a delta Resource, and it stands last in the latter.
func (r *Resource) StateField() []byte { return r.wire[r.any:] }

// Numbers of fields in envoy.service.discovery.v3 and google.protobuf.
const (
	responseResources = 2
	resourceVersion   = 1
	resourceAny       = 2
	resourceName      = 3
	anyTypeURL        = 1
	anyValue          = 2
)

// newResource marshals m. It returns old when that says the same, so that a pointer tells what changed.
func newResource(old *Resource, t Type, name string, m proto.Message) *Resource {
	body := marshal(m)
	if old != nil && bytes.Equal(old.Body, body) {
		return old
	}
	return wrap(t, name, body)
}

// wrap makes a resource of its marshalled message.
func wrap(t Type, name string, body []byte) *Resource {
	sum := sha256.Sum256(body)
	version := hex.EncodeToString(sum[:8])

	anyLen := protowire.SizeTag(anyTypeURL) + protowire.SizeBytes(len(t.URL())) + protowire.SizeTag(anyValue) + protowire.SizeBytes(len(body))
	resLen := protowire.SizeTag(resourceName) + protowire.SizeBytes(len(name)) +
		protowire.SizeTag(resourceVersion) + protowire.SizeBytes(len(version)) +
		protowire.SizeTag(resourceAny) + protowire.SizeBytes(anyLen)
	wire := make([]byte, 0, protowire.SizeTag(responseResources)+protowire.SizeBytes(resLen))
	wire = protowire.AppendTag(wire, responseResources, protowire.BytesType)
	wire = protowire.AppendVarint(wire, uint64(resLen))
	wire = protowire.AppendTag(wire, resourceName, protowire.BytesType)
	wire = protowire.AppendString(wire, name)
	wire = protowire.AppendTag(wire, resourceVersion, protowire.BytesType)
	wire = protowire.AppendString(wire, version)
	start := len(wire)
	wire = protowire.AppendTag(wire, resourceAny, protowire.BytesType)
	wire = protowire.AppendVarint(wire, uint64(anyLen))
	wire = protowire.AppendTag(wire, anyTypeURL, protowire.BytesType)
	wire = protowire.AppendString(wire, t.URL())
	wire = protowire.AppendTag(wire, anyValue, protowire.BytesType)
	wire = protowire.AppendBytes(wire, body)
	return &Resource{TypeURL: t.URL(), Name: name, Version: version, Body: wire[len(wire)-len(body):], wire: wire, any: start}
}

// Message unmarshals r, for those who want to read or show it.
func (r *Resource) Message() (proto.Message, error) {
	var m proto.Message
	switch r.TypeURL {
	case Cluster.URL():
		m = &clusterv3.Cluster{}
	case Endpoint.URL():
		m = &endpointv3.ClusterLoadAssignment{}
	case Listener.URL():
		m = &listenerv3.Listener{}
	default:
		m = &routev3.RouteConfiguration{}
	}
	if err := proto.Unmarshal(r.Body, m); err != nil {
		return nil, fmt.Errorf("unmarshal %s %s: %w", r.TypeURL, r.Name, err)
	}
	return m, nil
}

// marshal cannot fail: every message is built here, from strings that are valid UTF-8.
func marshal(m proto.Message) []byte {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", m, err))
	}
	return body
}

func packed(m proto.Message) *anypb.Any {
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: marshal(m)}
}
