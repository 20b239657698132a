package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/internal/hostfile"
)

// Bounds of an announcement, for the one who makes it and the one who reads it.
const (
	maxBody      = 1 << 20 // bytes encoded
	maxInstances = 4096
	maxPorts     = 64 // of an instance
	maxAddresses = 64
)

// reservedNamespace is where hosts have their names in DNS: no service may take one.
const reservedNamespace = "host"

// announcementVersion is raised when an older reader would misunderstand a body. Fields that it may ignore are just added.
const announcementVersion = 1

// Announcement is all that a host says about itself. Host and incarnation are told apart: two lives of a host that run
// the same announce the same bytes, so nobody has to fetch them again.
type Announcement struct {
	Version   int          `json:"version"` // set by Announce
	Host      string       `json:"host"`    // set by Announce
	Addresses []netip.Addr `json:"addresses"`
	Locality  Locality     `json:"locality,omitzero"`
	Instances []Instance   `json:"instances"` // sorted by namespace, service, ID; set so by Announce
}

// Locality is where the host stands, as in xDS.
type Locality struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	SubZone string `json:"subZone,omitempty"`
}

// Instance is one instance of a service on the host.
type Instance struct {
	Namespace string            `json:"namespace"`
	Service   string            `json:"service"`
	ID        string            `json:"id"` // unique among the host's instances of the service, stable over restarts
	Address   netip.Addr        `json:"address"`
	Ports     []Port            `json:"ports"` // sorted by Name; set so by Announce
	Labels    map[string]string `json:"labels,omitempty"`
	Weight    uint32            `json:"weight"` // 1 to hostfile.MaxWeight
	Health    Health            `json:"health"`
}

// Port is one port of an instance.
type Port struct {
	Name     string `json:"name,omitempty"`
	Number   uint16 `json:"number"` // what callers dial
	Target   uint16 `json:"target"` // where the instance listens
	Protocol string `json:"protocol,omitempty"`
}

// Health is what the host knows of an instance.
type Health string

// The healths. Unknown means that there is no check.
const (
	Unknown   Health = "unknown"
	Healthy   Health = "healthy"
	Unhealthy Health = "unhealthy"
	Draining  Health = "draining"
)

// encodeAnnouncement sorts and checks a and returns its bytes and their digest.
func encodeAnnouncement(a Announcement, host string) ([]byte, digest, error) {
	a.Version, a.Host = announcementVersion, host
	a.Instances = slices.Clone(a.Instances)
	for i := range a.Instances {
		a.Instances[i].Ports = slices.Clone(a.Instances[i].Ports)
		slices.SortFunc(a.Instances[i].Ports, func(p, q Port) int { return strings.Compare(p.Name, q.Name) })
	}
	slices.SortFunc(a.Instances, compareInstances)
	if err := a.check(); err != nil {
		return nil, digest{}, fmt.Errorf("announce: %w", err)
	}
	body, err := json.Marshal(a)
	if err != nil {
		return nil, digest{}, fmt.Errorf("announce: %w", err)
	}
	if len(body) > maxBody {
		return nil, digest{}, fmt.Errorf("announce: %d bytes, at most %d can be told", len(body), maxBody)
	}
	return body, sha256.Sum256(body), nil
}

func compareInstances(a, b Instance) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(a.Service, b.Service); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// decodeAnnouncement reads what one of hosts announces: a digest that several have is that of at most one. Nothing in it is
// taken on trust.
func decodeAnnouncement(body []byte, hosts ...string) (*Announcement, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("decode announcement: %d bytes, want at most %d", len(body), maxBody)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &version); err != nil {
		return nil, fmt.Errorf("decode announcement: %w", err)
	}
	if version.Version != announcementVersion {
		return nil, fmt.Errorf("decode announcement: version %d, want %d", version.Version, announcementVersion)
	}
	a := new(Announcement)
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(a); err != nil {
		return nil, fmt.Errorf("decode announcement: %w", err)
	}
	if !slices.Contains(hosts, a.Host) {
		return nil, fmt.Errorf("decode announcement: it is of %q", a.Host)
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("decode announcement: %w", err)
	}
	return a, nil
}

func (a *Announcement) check() error {
	if len(a.Addresses) > maxAddresses || len(a.Instances) > maxInstances {
		return fmt.Errorf("%d addresses and %d instances, want at most %d and %d", len(a.Addresses), len(a.Instances), maxAddresses, maxInstances)
	}
	for _, addr := range a.Addresses {
		if err := checkAddr(addr); err != nil {
			return err
		}
	}
	for i := range a.Instances {
		in := &a.Instances[i]
		if err := in.check(); err != nil {
			return fmt.Errorf("%q/%q instance %q: %w", in.Namespace, in.Service, in.ID, err)
		}
		if i > 0 && compareInstances(a.Instances[i-1], *in) >= 0 {
			return fmt.Errorf("%s/%s instance %q: announced twice or out of order", in.Namespace, in.Service, in.ID)
		}
	}
	return nil
}

func (in *Instance) check() error {
	switch {
	case !hostfile.IsLabel(in.Namespace) || !hostfile.IsLabel(in.Service):
		return fmt.Errorf("want RFC 1123 labels as names")
	case in.Namespace == reservedNamespace:
		return fmt.Errorf("namespace %s is reserved for hosts", reservedNamespace)
	case in.ID == "" || len(in.ID) > 253:
		return fmt.Errorf("an id of %d bytes, want 1 to 253", len(in.ID))
	case in.Weight == 0 || in.Weight > hostfile.MaxWeight:
		return fmt.Errorf("weight %d, want 1 to %d", in.Weight, hostfile.MaxWeight)
	case len(in.Ports) == 0 || len(in.Ports) > maxPorts:
		return fmt.Errorf("%d ports, want 1 to %d", len(in.Ports), maxPorts)
	}
	switch in.Health {
	case Unknown, Healthy, Unhealthy, Draining:
	default:
		return fmt.Errorf("health %q", in.Health)
	}
	for i, p := range in.Ports {
		if p.Number == 0 || p.Target == 0 {
			return fmt.Errorf("port %q: number 0", p.Name)
		}
		if i > 0 && in.Ports[i-1].Name >= p.Name {
			return fmt.Errorf("port %q: twice or out of order", p.Name)
		}
		if p.Name != "" && !hostfile.IsLabel(p.Name) {
			return fmt.Errorf("port %q: want an RFC 1123 label", p.Name)
		}
		switch p.Protocol {
		case "", "tcp", "udp", "http", "http2", "grpc", "tls":
		default:
			return fmt.Errorf("port %q: unknown protocol %q", p.Name, p.Protocol)
		}
	}
	return checkAddr(in.Address)
}

func checkAddr(addr netip.Addr) error {
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.Is4In6() || addr.Zone() != "" {
		return fmt.Errorf("address %s: want a plain unicast address", addr)
	}
	return nil
}
