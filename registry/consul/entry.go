package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// entry is what we read of one instance in an answer of /v1/health/service.
type entry struct {
	Node    node
	Service service
	Checks  []check
}

type node struct {
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	Locality        *locality
}

type service struct {
	Kind            string
	ID              string
	Service         string
	Tags            []string
	Meta            map[string]string
	Address         string
	TaggedAddresses map[string]struct {
		Address string
		Port    int
	}
	Port  int
	Ports []struct {
		Name    string
		Port    int
		Default bool
	}
	Weights *struct {
		Passing int
		Warning int
	}
	Locality *locality
}

type locality struct {
	Region string
	Zone   string
}

type check struct {
	Node        string
	CheckID     string
	Status      string
	ServiceID   string
	ServiceName string
}

// The meta keys and the tag that mean something to us.
const (
	protocolKey = "protocol"
	regionKey   = "region"
	zoneKey     = "zone"
	subZoneKey  = "subzone"
	tagPrefix   = "tag/" // of the label of a tag that is not of the form key=value
)

// parse makes a part of an answer of /v1/health/service. An instance that cannot be read is a Problem; what before
// says of it stays.
func (cfg *Config) parse(name string, body []byte, before *part) (*part, error) {
	entries, bad, err := decodeEntries(body)
	if err != nil {
		return nil, fmt.Errorf("decode instances of %q: %w", name, err)
	}
	p := &part{name: name, label: registry.Label(name), instances: len(entries) + len(bad)}
	protocols := make(map[registry.Protocol]int) // by how many instances
	ports := make(map[string]bool)
	for _, b := range bad {
		p.unread(before, b.id, "syntax", fmt.Sprintf("%s[%d]", name, b.index), b.err.Error())
	}
	for i := range entries {
		e := &entries[i]
		endpoint, kind, err := cfg.endpoint(name, e)
		if err != nil {
			p.unread(before, e.id(), kind, fmt.Sprintf("%s/%s/%s", name, e.Node.Node, e.Service.ID), err.Error())
			continue
		}
		if endpoint == nil {
			continue // not one that we are to read
		}
		p.endpoints = append(p.endpoints, endpoint)
		if protocol, err := e.Service.protocol(); err != nil {
			p.problem("protocol", fmt.Sprintf("%s/%s/%s", name, e.Node.Node, e.Service.ID), err.Error())
		} else if protocol != "" {
			protocols[protocol]++
		}
	}
	slices.SortStableFunc(p.endpoints, func(x, y *registry.Endpoint) int { return strings.Compare(x.ID, y.ID) })
	p.endpoints = slices.CompactFunc(p.endpoints, func(x, y *registry.Endpoint) bool {
		if x.ID == y.ID {
			p.problem("duplicate", name+"/"+x.ID, "the instance is listed twice")
		}
		return x.ID == y.ID
	})
	for _, e := range p.endpoints {
		for _, port := range e.Ports {
			ports[port.Name] = true
		}
	}
	p.setPorts(ports, protocols)
	return p, nil
}

// badEntry is an entry that does not decode.
type badEntry struct {
	index int
	id    string // of its endpoint, "" if that cannot be told either
	err   error
}

// decodeEntries decodes a list as a whole and, if that fails, entry by entry to tell the bad ones from the others.
func decodeEntries(body []byte) (entries []entry, bad []badEntry, err error) {
	if err = json.Unmarshal(body, &entries); err == nil {
		if entries == nil {
			return nil, nil, errors.New("got null, want a list")
		}
		return entries, nil, nil
	}
	var raw []json.RawMessage
	if json.Unmarshal(body, &raw) != nil {
		return nil, nil, err
	}
	entries = entries[:0]
	for i, text := range raw {
		var e entry
		if err := json.Unmarshal(text, &e); err != nil {
			bad = append(bad, badEntry{index: i, id: endpointIDOf(text), err: err})
			continue
		}
		entries = append(entries, e)
	}
	return entries, bad, nil
}

// setPorts sets the service's ports. The protocol is that of all of them: what most instances declare, so that one of
// them does not turn the service; of as many the first by name.
func (p *part) setPorts(names map[string]bool, protocols map[registry.Protocol]int) {
	var protocol registry.Protocol
	all := slices.Sorted(maps.Keys(protocols))
	for _, said := range all {
		if protocols[said] > protocols[protocol] {
			protocol = said
		}
	}
	if len(all) > 1 {
		p.problem("protocol", p.name, fmt.Sprintf("its instances declare the protocols %q, want one; %s stands, of %d instances", all, protocol, protocols[protocol]))
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p.ports = append(p.ports, registry.Port{Name: name, Protocol: protocol})
	}
}

// endpoint makes an endpoint of an entry, or nil if it is not one that cfg wants. An error comes with the kind of its
// Problem.
func (cfg *Config) endpoint(name string, e *entry) (made *registry.Endpoint, kind string, err error) {
	switch {
	case e.Service.Service != name:
		return nil, "name", fmt.Errorf("got an instance of %q, want one of %q", e.Service.Service, name)
	case e.Node.Node == "" || e.Service.ID == "":
		return nil, "name", fmt.Errorf("got node %q and id %q, want both", e.Node.Node, e.Service.ID)
	case e.Service.Kind != "":
		return nil, "", nil // a sidecar or gateway of Consul's own mesh, which nobody can dial without its certificates
	case !cfg.wants(&e.Service):
		return nil, "", nil
	}
	addr, port, err := cfg.address(e)
	if err != nil {
		return nil, "address", err
	}
	ports, err := e.Service.ports(port)
	if err != nil {
		return nil, "port", err
	}
	health, weight, err := e.health()
	if err != nil {
		return nil, "value", err
	}
	return &registry.Endpoint{
		ID: e.id(), Addr: addr, Ports: ports, Host: e.Node.Node, Locality: e.locality(),
		Labels: e.Service.labels(), Weight: weight, Health: health,
	}, "", nil
}

func (e *entry) id() string {
	return e.Node.Datacenter + "/" + e.Node.Node + "/" + e.Service.ID
}

// endpointIDOf finds the ID in an entry that does not decode as a whole, or "".
func endpointIDOf(text []byte) string {
	var e struct {
		Node    struct{ Node, Datacenter string }
		Service struct{ ID string }
	}
	_ = json.Unmarshal(text, &e) // it fills what it can before and after the mistake
	if e.Node.Node == "" || e.Service.ID == "" {
		return ""
	}
	return e.Node.Datacenter + "/" + e.Node.Node + "/" + e.Service.ID
}

func (cfg *Config) wants(s *service) bool {
	for _, tag := range cfg.Tags {
		if !slices.Contains(s.Tags, tag) {
			return false
		}
	}
	for key, value := range cfg.Meta {
		if got, ok := s.Meta[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// address returns where the instance is: its tagged address if one is asked for, else its address, else its node's.
func (cfg *Config) address(e *entry) (netip.Addr, int, error) {
	text, port := e.Service.Address, e.Service.Port
	if tagged, ok := e.Service.TaggedAddresses[cfg.TaggedAddress]; ok && cfg.TaggedAddress != "" && tagged.Address != "" {
		text = tagged.Address
		if tagged.Port != 0 {
			port = tagged.Port
		}
	}
	if text == "" && cfg.TaggedAddress != "" {
		text = e.Node.TaggedAddresses[cfg.TaggedAddress]
	}
	if text == "" {
		text = e.Node.Address
	}
	addr, err := netip.ParseAddr(text)
	addr = addr.Unmap()
	if err != nil || addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
		return netip.Addr{}, 0, fmt.Errorf("got address %.100q, want an IP address that can be dialled", text)
	}
	return addr, port, nil
}

// ports returns the named ports, or the one port, or none for an instance without.
func (s *service) ports(port int) ([]registry.EndpointPort, error) {
	ports := make([]registry.EndpointPort, 0, max(len(s.Ports), 1))
	add := func(name string, number int) error {
		if number < 1 || number > math.MaxUint16 {
			return fmt.Errorf("got port %d, want 1 to 65535", number)
		}
		if slices.ContainsFunc(ports, func(p registry.EndpointPort) bool { return p.Name == name }) {
			return fmt.Errorf("got two ports named %.100q, want one", name)
		}
		ports = append(ports, registry.EndpointPort{Name: name, Number: uint16(number)})
		return nil
	}
	for _, p := range s.Ports {
		if err := add(p.Name, p.Port); err != nil {
			return nil, err
		}
	}
	if len(s.Ports) == 0 && port != 0 {
		if err := add("", port); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(ports, func(x, y registry.EndpointPort) int { return strings.Compare(x.Name, y.Name) })
	return ports, nil
}

// health returns the worst of the checks, as Consul judges, and the weight that goes with it.
func (e *entry) health() (registry.Health, uint32, error) {
	passing, warning := 1, 1
	if w := e.Service.Weights; w != nil {
		passing, warning = w.Passing, w.Warning
	}
	health, weight := registry.Unknown, passing
	for _, c := range e.Checks {
		switch {
		case c.CheckID == "_node_maintenance" || strings.HasPrefix(c.CheckID, "_service_maintenance:"):
			return registry.Draining, clampWeight(passing), nil
		case c.Status == "critical":
			health = registry.Unhealthy
		case c.Status == "passing" || c.Status == "warning":
			if health == registry.Unknown {
				health = registry.Healthy
			}
			if c.Status == "warning" {
				weight = warning
			}
		default:
			return 0, 0, fmt.Errorf("got status %.100q of check %.100q, want passing, warning or critical", c.Status, c.CheckID)
		}
	}
	if weight < 0 {
		return 0, 0, fmt.Errorf("got weight %d, want 0 or more", weight)
	}
	if weight == 0 && health == registry.Healthy {
		health = registry.Unhealthy // weight 0 is how one says that it gets nothing in that state
	}
	return health, clampWeight(weight), nil
}

func clampWeight(weight int) uint32 { return uint32(min(max(weight, 1), math.MaxUint16)) }

// labels returns the meta as it is, over tags key=value, over other tags as tag/<tag>: "true".
func (s *service) labels() map[string]string {
	if len(s.Tags)+len(s.Meta) == 0 {
		return nil
	}
	labels := make(map[string]string, len(s.Tags)+len(s.Meta))
	for _, tag := range s.Tags {
		if key, value, ok := strings.Cut(tag, "="); ok && key != "" {
			labels[key] = value
		} else if tag != "" {
			labels[tagPrefix+tag] = "true"
		}
	}
	maps.Copy(labels, s.Meta)
	return labels
}

// protocol returns what the instance says is spoken on its ports, "" when it says nothing.
func (s *service) protocol() (registry.Protocol, error) {
	text, ok := s.Meta[protocolKey]
	if !ok {
		for _, tag := range s.Tags {
			if value, found := strings.CutPrefix(tag, protocolKey+"="); found {
				text = value
			}
		}
	}
	switch p := registry.Protocol(strings.ToLower(text)); p {
	case "", registry.TCP, registry.UDP, registry.HTTP, registry.HTTP2, registry.GRPC, registry.TLS:
		return p, nil
	}
	return "", fmt.Errorf("got protocol %.100q, want tcp, udp, http, http2, grpc or tls; it is not used", text)
}

// locality returns Consul's own locality, else the node's meta, else the datacenter as region.
func (e *entry) locality() registry.Locality {
	l := registry.Locality{Region: e.Node.Meta[regionKey], Zone: e.Node.Meta[zoneKey], SubZone: e.Node.Meta[subZoneKey]}
	for _, own := range []*locality{e.Node.Locality, e.Service.Locality} {
		if own != nil && own.Region != "" {
			l.Region, l.Zone = own.Region, own.Zone
		}
	}
	if l.Region == "" {
		l.Region = e.Node.Datacenter
	}
	return l
}
