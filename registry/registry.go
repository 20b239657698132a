// Package registry holds what runs where: the services that registries report, merged under one name.
//
// An adapter (a Registry) publishes complete Views of one registry. The Catalog runs the adapters, keeps what they
// said last, and merges it into Snapshots. Everything here is immutable once published, so readers need no lock.
package registry

import (
	"context"
	"errors"
	"net/netip"
	"strings"
)

// Registry watches one registry. It is implemented by the adapters in the folders below.
type Registry interface {
	// Watch reads the registry until ctx ends or something fails. It calls publish, from one goroutine at a time,
	// with complete views only: the first call means synced, a partial answer is never published. Services that did
	// not change since the last publish of the same Watch keep their *Service pointer.
	//
	// It returns at the first failure, with the cause, and has then ended all its goroutines; retry, backoff and
	// keeping the last view are the Catalog's. An error that wraps ErrPermission means that the registry refuses us.
	// It may be called again after it returned.
	Watch(ctx context.Context, publish func(View)) error
}

// ErrPermission is wrapped by an error of Watch when the registry answers but does not (or no longer) let us see all
// that we asked for. What was seen before stays: missing permission is never "no endpoints".
var ErrPermission = errors.New("permission lost")

// View is one registry's whole truth at one moment. The receiver owns it; it is not changed after publish.
type View struct {
	// Services is sorted by Name, without duplicates.
	Services []*Service
	// Hosts are the hosts that the registry knows, sorted by ID, without duplicates: what runs at their addresses runs there.
	Hosts []Host
	// Problems are entries that could not be read; their last good state, or nothing, stands in Services. One that is not
	// Stale takes nothing away for as long as it stands: the guard believes what is missing beside it.
	Problems []Problem
}

// Host is a host that a registry knows. It is immutable.
type Host struct {
	ID    string       `json:"id"`
	Addrs []netip.Addr `json:"addrs"` // each as an Endpoint.Addr has to be
	// Dead: it is known to be away. It has its addresses until a host that lives has them; what others report there is
	// judged by a connect check, see Unreachable.
	Dead bool `json:"dead,omitempty"`
}

// Problem is one entry of a registry that could not be used as it stands.
type Problem struct {
	Object string `json:"object"` // where: a file and line, a key, a service's name in that registry
	Reason string `json:"reason"` // what was got, what was wanted
	// Kind is the class of Reason, which is what is counted. It is a fixed word, never the registry's own data: "syntax" (not
	// of the format), "size" (beyond a bound), "name", "address", "port", "protocol" or "value" (another field, of what is
	// no good), "type" (of a sort that the mesh does not serve), "duplicate" (of something that stands), "permission" (a part
	// that we may not read), "layout" (written in another one), "unanswered" (a name in DNS, a host), "unreadable" (a
	// file), "entry" (refused by an Assembly) or "mapping".
	Kind string `json:"kind,omitempty"`
	// Stale: what the entry said when it could be read stands in Services.
	Stale bool `json:"stale,omitempty"`
}

// Name names a service. Both parts are RFC 1123 labels.
type Name struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// DefaultNamespace is the namespace of a service whose registry has none.
const DefaultNamespace = "default"

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then name.
func (n Name) Compare(other Name) int {
	if c := strings.Compare(n.Namespace, other.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, other.Name)
}

// Protocol is what is spoken on a port. The zero Protocol means that nobody said; it is served as TCP.
type Protocol string

// The protocols a port may declare.
const (
	TCP   Protocol = "tcp"
	UDP   Protocol = "udp"
	HTTP  Protocol = "http"
	HTTP2 Protocol = "http2"
	GRPC  Protocol = "grpc"
	TLS   Protocol = "tls"
)

// Port is one port of a service: the number its clients dial and what is spoken there.
type Port struct {
	Name     string   `json:"name"`             // unique within the service; "" for its only, unnamed port
	Number   uint16   `json:"number,omitempty"` // what callers dial; 0: not declared, the merge decides
	Protocol Protocol `json:"protocol,omitempty"`
}

// Service is one service as one registry reports it or, in a Snapshot, as all do together. It is immutable.
type Service struct {
	Name      Name              `json:"name"`
	Original  string            `json:"original,omitempty"` // the registry's own spelling, when Name differs from it
	Ports     []Port            `json:"ports"`              // sorted by Name
	Labels    map[string]string `json:"labels,omitempty"`
	Endpoints []*Endpoint       `json:"endpoints"` // sorted by ID, IDs unique
	// ExternalName is a domain name that stands for the service while it has no endpoints: in DNS it is an alias of that name.
	// Proxies are told of it when they ask for the service by name, for their host's DNS.
	ExternalName string `json:"externalName,omitempty"`
	// Standby are endpoints that the merge rule keeps traffic from: known, in no answer. Sorted by ID, set by the Catalog.
	Standby   []*Endpoint `json:"standby,omitempty"`
	Conflicts []Conflict  `json:"conflicts,omitempty"`
}

// Endpoint is one instance of a service. It is immutable.
type Endpoint struct {
	ID       string            `json:"id"`             // stable for the instance within its service
	Addr     netip.Addr        `json:"addr"`           // always valid, never an IPv4-mapped IPv6 address
	Ports    []EndpointPort    `json:"ports"`          // sorted by Name, one for each port it serves
	Host     string            `json:"host,omitempty"` // the host it runs on, when known; in a Snapshot also by its Addr, see View.Hosts
	Locality Locality          `json:"locality,omitzero"`
	Labels   map[string]string `json:"labels,omitempty"`
	Weight   uint32            `json:"weight"` // share among its siblings, at least 1
	Health   Health            `json:"health"`
	Sources  []string          `json:"sources,omitempty"` // registries that report it, in configured order; set by the Catalog
	Doubt    *Doubt            `json:"doubt,omitempty"`   // every registry that reported it does not any more; set by the Catalog
	// Unreachable is why Health is worse than what the registries say; set by the Catalog.
	Unreachable *Unreachable `json:"unreachable,omitempty"`
}

// EndpointPort says where an instance listens for a port of its service.
type EndpointPort struct {
	Name   string `json:"name"` // a Port.Name of the service
	Number uint16 `json:"number"`
}

// Port returns the number on which e serves the port of that name, or 0.
func (e *Endpoint) Port(name string) uint16 {
	for _, p := range e.Ports {
		if p.Name == name {
			return p.Number
		}
	}
	return 0
}

// Locality is where something runs, as in xDS.
type Locality struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	SubZone string `json:"subZone,omitempty"`
}

// Health is what the sources of an endpoint know about it.
type Health uint8

// The zero Health is Unknown: present, but nobody checks it. It is served like Healthy.
const (
	Unknown Health = iota
	Healthy
	Unhealthy
	Draining
)

// Serving reports whether new requests may go to an endpoint of that health.
func (h Health) Serving() bool { return h == Unknown || h == Healthy }

var healthNames = [...]string{"unknown", "healthy", "unhealthy", "draining"}

// String returns the lower-case name.
func (h Health) String() string {
	if int(h) < len(healthNames) {
		return healthNames[h]
	}
	return "invalid"
}

// MarshalText writes the lower-case name.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote and refuses anything else.
func (h *Health) UnmarshalText(text []byte) error {
	for i, name := range healthNames {
		if name == string(text) {
			*h = Health(i)
			return nil
		}
	}
	return errors.New("unknown health " + string(text))
}
