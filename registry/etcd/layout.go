package etcd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// Bounds of the labels of one endpoint.
const (
	maxLabels     = 64
	maxLabelKey   = 63
	maxLabelValue = 255
)

// mistake is what is wrong with an entry, with its kind (see registry.Problem).
type mistake struct {
	error
	kind string
}

// Unwrap returns the cause.
func (m *mistake) Unwrap() error { return m.error }

func wrong(kind, format string, args ...any) error {
	return &mistake{fmt.Errorf(format, args...), kind}
}

func kindOf(err error) string {
	var m *mistake
	if errors.As(err, &m) {
		return m.kind
	}
	return "entry"
}

// decodeObject reads a JSON object into v. Keys that v does not have are left to others; a value of another type than
// v has is an error.
func decodeObject(value []byte, v any) error {
	if trimmed := bytes.TrimSpace(value); len(trimmed) == 0 || trimmed[0] != '{' {
		return wrong("syntax", "got value %.100q, want a JSON object", value)
	}
	err := json.Unmarshal(value, v)
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return wrong("syntax", "got %s: %s, want %s", kind.Field, kind.Value, kind.Type)
	}
	if err != nil {
		return wrong("syntax", "decode JSON: %w", err)
	}
	return nil
}

// looksLike returns the layout that a value seems to have, "" when it is of none.
func looksLike(value []byte) string {
	var fields map[string]json.RawMessage
	if len(value) > maxValue || json.Unmarshal(value, &fields) != nil {
		return ""
	}
	has := func(key string) bool { _, ok := fields[key]; return ok }
	switch {
	case has("Addr"):
		return layoutGRPC
	case has("address"):
		return layoutHostmesh
	case has("host"):
		return layoutSkyDNS
	}
	return ""
}

// parseAddr reads the address of an endpoint.
func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, wrong("address", "got address %.100q, want an IP address; for a host name use a registry of kind dns", text)
	}
	if addr = addr.Unmap(); addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Addr{}, wrong("address", "got address %s, want one that leads to one host from everywhere", addr)
	}
	return addr, nil
}

// parseHostPort reads an address with a port.
func parseHostPort(text string) (netip.Addr, uint16, error) {
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		return netip.Addr{}, 0, wrong("address", "got address %.100q, want ip:port", text)
	}
	addr, err := parseAddr(host)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return netip.Addr{}, 0, wrong("port", "got port %.100q, want 1 to 65535", number)
	}
	return addr, uint16(port), nil
}

// parseProtocol reads the protocol of a port, in any case of letters.
func parseProtocol(text string) (registry.Protocol, error) {
	switch p := registry.Protocol(strings.ToLower(text)); p {
	case "", registry.TCP, registry.UDP, registry.HTTP, registry.HTTP2, registry.GRPC, registry.TLS:
		return p, nil
	}
	return "", wrong("protocol", "got protocol %.100q, want tcp, udp, http, http2, grpc or tls", text)
}

// checkLabels returns the labels if they are within bounds; nil for none.
func checkLabels(labels map[string]string) (map[string]string, error) {
	if len(labels) == 0 {
		return nil, nil
	}
	if len(labels) > maxLabels {
		return nil, wrong("size", "got %d labels, want at most %d", len(labels), maxLabels)
	}
	for key, value := range labels {
		if key == "" || len(key) > maxLabelKey || len(value) > maxLabelValue {
			return nil, wrong("size", "got label %.100q of %d and %d bytes, want a key of 1 to %d and a value of at most %d",
				key, len(key), len(value), maxLabelKey, maxLabelValue)
		}
	}
	return labels, nil
}
