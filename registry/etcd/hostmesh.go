package etcd

import (
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// hostmeshLayout is Hostmesh's own: <namespace>/<service>/<instance> or <service>/<instance>, with a JSON object.
type hostmeshLayout struct {
	namespace string // of a key that names none
}

func (hostmeshLayout) name() string { return layoutHostmesh }

// instance is the JSON of one instance.
type instance struct {
	Address     string            `json:"address"`
	Port        uint16            `json:"port"`
	ServicePort uint16            `json:"servicePort"`
	Protocol    string            `json:"protocol"`
	Ports       []instancePort    `json:"ports"`
	Labels      map[string]string `json:"labels"`
	Weight      *uint32           `json:"weight"`
	Health      registry.Health   `json:"health"`
	Locality    registry.Locality `json:"locality"`
	Host        string            `json:"host"`
}

type instancePort struct {
	Name        string `json:"name"`
	Port        uint16 `json:"port"`
	ServicePort uint16 `json:"servicePort"`
	Protocol    string `json:"protocol"`
}

func (l hostmeshLayout) read(key string, value []byte) (*registry.Entry, error) {
	entry, id, err := l.readKey(key)
	if err != nil {
		return nil, err
	}
	var in instance
	if err := decodeObject(value, &in); err != nil {
		return nil, err
	}
	if in.Address == "" {
		return nil, wrong("address", "got no address, want one")
	}
	addr, err := parseAddr(in.Address)
	if err != nil {
		return nil, err
	}
	labels, err := checkLabels(in.Labels)
	if err != nil {
		return nil, err
	}
	weight := uint32(1)
	if in.Weight != nil {
		weight = *in.Weight
	}
	if weight == 0 {
		return nil, wrong("value", "got weight 0, want at least 1")
	}
	if len(in.Host) > 253 || len(in.Locality.Region)+len(in.Locality.Zone)+len(in.Locality.SubZone) > 3*maxLabelValue {
		return nil, wrong("size", "got a host or locality of too many bytes, want at most 253")
	}
	entry.Endpoint = &registry.Endpoint{
		ID: id, Addr: addr, Host: in.Host, Locality: in.Locality, Labels: labels, Weight: weight, Health: in.Health,
	}
	return entry, in.readPorts(entry)
}

// readKey returns an entry of the service that the key names, and the instance's ID.
func (l hostmeshLayout) readKey(key string) (*registry.Entry, string, error) {
	parts := strings.Split(key, "/")
	if slices.Contains(parts, "") || len(parts) < 2 || len(parts) > 3 {
		return nil, "", wrong("name", "got key %.200q below the prefix, want <namespace>/<service>/<instance> or <service>/<instance>", key)
	}
	entry := &registry.Entry{Namespace: l.namespace, Service: parts[len(parts)-2]}
	if len(parts) == 3 {
		entry.Namespace = parts[0]
	}
	return entry, parts[len(parts)-1], nil
}

// readPorts sets the ports of the endpoint and of its service.
func (in *instance) readPorts(entry *registry.Entry) error {
	const most = 64
	ports := in.Ports
	switch {
	case len(ports) > 0 && in.Port != 0:
		return wrong("port", "got port and ports, want one of them")
	case len(ports) > most:
		return wrong("size", "got %d ports, want at most %d", len(ports), most)
	case len(ports) == 0:
		ports = []instancePort{{Port: in.Port, ServicePort: in.ServicePort}}
	}
	slices.SortStableFunc(ports, func(x, y instancePort) int { return strings.Compare(x.Name, y.Name) })
	for i, p := range ports {
		switch {
		case p.Port == 0:
			return wrong("port", "got port %.100q without a number, want 1 to 65535", p.Name)
		case i > 0 && ports[i-1].Name == p.Name:
			return wrong("port", "got two ports of name %.100q, want names of their own", p.Name)
		case len(p.Name) > maxLabelKey:
			return wrong("size", "got a port's name of %d bytes, want at most %d", len(p.Name), maxLabelKey)
		}
		if p.Protocol == "" {
			p.Protocol = in.Protocol
		}
		protocol, err := parseProtocol(p.Protocol)
		if err != nil {
			return err
		}
		entry.Ports = append(entry.Ports, registry.Port{Name: p.Name, Number: p.ServicePort, Protocol: protocol})
		entry.Endpoint.Ports = append(entry.Endpoint.Ports, registry.EndpointPort{Name: p.Name, Number: p.Port})
	}
	return nil
}
