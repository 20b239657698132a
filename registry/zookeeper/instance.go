package zookeeper

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// found is what a layout found in one node, before it is judged.
type found struct {
	service  string
	id       string
	host     string // an address, we hope
	ports    []foundPort
	protocol string // of the ports that say none
	weight   string // "" is 1
	health   registry.Health
	labels   map[string]string
	advice   string // how to have an IP address registered instead of a host's name
}

// foundPort is one port of an instance; a number of 0 is none.
type foundPort struct {
	name     string
	number   int
	protocol registry.Protocol
}

// The labels that mean something to us, whatever the layout.
const (
	weightLabel   = "weight"
	protocolLabel = "protocol"
	regionLabel   = "region"
	zoneLabel     = "zone"
	subZoneLabel  = "subzone"
)

// Bounds of what is taken from a node, which anybody may have written who may register.
const (
	maxData       = 256 << 10
	maxLabels     = 64
	maxLabelKey   = 128
	maxLabelValue = 1 << 10
	maxPorts      = 32
	maxPortName   = 63
)

// entry judges what was found. Without an address or with a bad port there is none; what else is wrong is told, and
// left out.
func (f *found) entry() (*registry.Entry, error) {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(f.host, "["), "]"))
	if err != nil {
		return nil, wrong(kindAddress, "got address %.100q, want an IP address: %s", f.host, f.advice)
	}
	e := &registry.Entry{Service: f.service, Endpoint: &registry.Endpoint{
		ID: f.id, Addr: addr.Unmap(), Weight: 1, Health: f.health,
	}}
	labels, tooMany := bounded(f.labels)
	protocol, unknown := protocolNamed(cmp.Or(f.protocol, labels[protocolLabel]))
	if err := f.addPorts(e, protocol); err != nil {
		return nil, err
	}
	badWeight := f.setWeight(e.Endpoint, cmp.Or(f.weight, labels[weightLabel]))
	if len(labels) > 0 {
		e.Endpoint.Labels = labels
	}
	e.Endpoint.Locality = registry.Locality{Region: labels[regionLabel], Zone: labels[zoneLabel], SubZone: labels[subZoneLabel]}
	return e, errors.Join(tooMany, unknown, badWeight)
}

func (f *found) addPorts(e *registry.Entry, protocol registry.Protocol) error {
	if len(f.ports) > maxPorts {
		return wrong(kindPort, "got %d ports, want %d at most", len(f.ports), maxPorts)
	}
	slices.SortFunc(f.ports, func(x, y foundPort) int { return strings.Compare(x.name, y.name) })
	for _, p := range f.ports {
		switch {
		case p.number == 0:
			continue
		case p.number < 0 || p.number > math.MaxUint16:
			return wrong(kindPort, "got port %d, want 1 to 65535", p.number)
		case len(p.name) > maxPortName:
			return wrong(kindPort, "got a port's name of %d bytes, want %d at most", len(p.name), maxPortName)
		}
		e.Ports = append(e.Ports, registry.Port{Name: p.name, Protocol: cmp.Or(p.protocol, protocol)})
		e.Endpoint.Ports = append(e.Endpoint.Ports, registry.EndpointPort{Name: p.name, Number: uint16(p.number)})
	}
	return nil
}

// setWeight sets the weight that text says. Weight 0 is how one says that an instance gets nothing new.
func (f *found) setWeight(e *registry.Endpoint, text string) error {
	if text == "" {
		return nil
	}
	weight, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || weight < 0 || math.IsNaN(weight):
		return wrong(kindValue, "got weight %.100q, want a number of 0 or more; it is not used", text)
	case weight == 0 && e.Health == registry.Unknown:
		e.Health = registry.Draining
	}
	e.Weight = uint32(min(max(math.Round(weight), 1), math.MaxUint16))
	return nil
}

func protocolNamed(text string) (registry.Protocol, error) {
	switch p := registry.Protocol(strings.ToLower(text)); p {
	case "", registry.TCP, registry.UDP, registry.HTTP, registry.HTTP2, registry.GRPC, registry.TLS:
		return p, nil
	}
	return "", wrong(kindProtocol, "got protocol %.100q, want tcp, udp, http, http2, grpc or tls; it is not used", text)
}

// bounded returns the labels that are not too many nor too long, the first ones by name.
func bounded(labels map[string]string) (map[string]string, error) {
	maps.DeleteFunc(labels, func(key, value string) bool { return key == "" })
	left := len(labels)
	maps.DeleteFunc(labels, func(key, value string) bool { return len(key) > maxLabelKey || len(value) > maxLabelValue })
	if len(labels) > maxLabels {
		for _, key := range slices.Sorted(maps.Keys(labels))[maxLabels:] {
			delete(labels, key)
		}
	}
	if left -= len(labels); left > 0 {
		return labels, wrong(kindValue, "%d labels are left out: want %d at most, names of %d bytes and values of %d bytes at most",
			left, maxLabels, maxLabelKey, maxLabelValue)
	}
	return labels, nil
}

// scalars returns the fields of a JSON object that are a string, a number or a boolean, as text.
func scalars(fields map[string]json.RawMessage) map[string]string {
	labels := make(map[string]string, len(fields))
	for key, raw := range fields {
		if text, ok := scalar(raw); ok {
			labels[key] = text
		}
	}
	return labels
}

func scalar(raw json.RawMessage) (text string, ok bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return "", false
	}
	switch c := raw[0]; {
	case c == '"':
		return text, json.Unmarshal(raw, &text) == nil
	case c == 't', c == 'f', c == '-', '0' <= c && c <= '9':
		return string(raw), true
	}
	return "", false
}

// number is a JSON number, a string that holds one, or null, which is 0.
type number int

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(raw []byte) error {
	text, ok := scalar(raw)
	if !ok && string(raw) == "null" || ok && text == "" {
		*n = 0
		return nil
	}
	value, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return fmt.Errorf("got %.40q, want a whole number", raw)
	}
	*n = number(value)
	return nil
}

// textual is a JSON string, number or boolean; anything else is "".
type textual string

// UnmarshalJSON implements json.Unmarshaler.
func (t *textual) UnmarshalJSON(raw []byte) error {
	text, _ := scalar(raw)
	*t = textual(text)
	return nil
}
