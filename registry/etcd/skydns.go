package etcd

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// skydnsLayout is that of SkyDNS and of CoreDNS's plug-in etcd. A key is a name with its labels reversed; below the
// domain, the last label is the instance and those before it are the service. A record directly at a name of one label is
// that service's only one.
type skydnsLayout struct {
	namespace string
}

func (skydnsLayout) name() string { return layoutSkyDNS }

type skydnsRecord struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Priority int    `json:"priority"`
	Weight   int    `json:"weight"`
	Text     string `json:"text"`
	Mail     bool   `json:"mail"`
	TTL      uint32 `json:"ttl"`
}

// directID is the ID of the endpoint of a record directly at its service's name.
const directID = "@"

func (l skydnsLayout) read(key string, value []byte) (*registry.Entry, error) {
	labels := strings.Split(key, "/")
	if slices.Contains(labels, "") {
		return nil, wrong("name", "got key %.200q below the domain, want labels with a slash between them", key)
	}
	if labels[0] == "apex" || labels[0] == "dns" && len(labels) > 1 && (labels[1] == "ns" || labels[1] == "apex") {
		return nil, nil // name servers and what stands at the zone itself
	}
	var r skydnsRecord
	if err := decodeObject(value, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Mail, r.Host == "" && r.Text != "":
		return nil, nil // an MX or TXT record, no endpoint
	case r.Host == "":
		return nil, wrong("address", "got no host, want an IP address")
	case r.Port < 0 || r.Port > 65535:
		return nil, wrong("port", "got port %d, want 0 to 65535", r.Port)
	case r.Weight < 0 || r.Weight > 65535 || r.Priority < 0 || r.Priority > 65535:
		return nil, wrong("value", "got priority %d and weight %d, want 0 to 65535", r.Priority, r.Weight)
	}
	addr, err := parseAddr(r.Host)
	if err != nil {
		return nil, fmt.Errorf("read host: %w", err)
	}
	id := directID
	if len(labels) > 1 {
		id, labels = labels[len(labels)-1], labels[:len(labels)-1]
	}
	slices.Reverse(labels)
	e := &registry.Endpoint{ID: id, Addr: addr, Weight: max(uint32(r.Weight), 1), Labels: r.labels()}
	entry := &registry.Entry{Namespace: l.namespace, Service: strings.Join(labels, "."), Endpoint: e}
	if r.Port != 0 {
		entry.Ports = []registry.Port{{}}
		e.Ports = []registry.EndpointPort{{Number: uint16(r.Port)}}
	}
	return entry, nil
}

// labels keeps what the mesh has no notion of.
func (r *skydnsRecord) labels() map[string]string {
	labels := make(map[string]string)
	if r.Priority != 0 {
		labels["priority"] = strconv.Itoa(r.Priority)
	}
	if r.Text != "" {
		labels["text"] = strings.ToValidUTF8(r.Text[:min(len(r.Text), maxLabelValue)], "") // it may be cut within a character
	}
	if len(labels) == 0 {
		return nil
	}
	return labels
}

// direct knows the records that stand directly at the name of a service, /skydns/local/skydns/web. As for CoreDNS, such
// a record counts only while there is none below the name.
type direct struct {
	below  map[string]int    // by key of such a name: how many keys there are below
	values map[string][]byte // by key
}

// nameOf returns the key of the name that a key is at or below.
func (e *entries) nameOf(key string) (name string, below bool) {
	label, _, below := strings.Cut(strings.TrimPrefix(key, e.root), "/")
	return e.root + label, below
}

// hidden notes a key that was put, and tells whether it is a record that does not count. known says that the key was
// there before.
func (e *entries) hidden(key string, value []byte, known bool) bool {
	name, below := e.nameOf(key)
	if !below {
		e.direct.values[name] = bytes.Clone(value[:min(len(value), maxValue+1)]) // as much as tells that it is too large
		if e.direct.below[name] > 0 {
			e.hide(name)
			return true
		}
		return false
	}
	if !known {
		e.direct.below[name]++
		if _, ok := e.direct.values[name]; ok && e.direct.below[name] == 1 {
			e.hide(name)
		}
	}
	return false
}

func (e *entries) hide(name string) {
	delete(e.bad, name)
	e.assembly.Delete(object(name))
	e.assembly.RejectAs(object(name), "duplicate", "there are records below this name, so this one does not count")
}

// uncover notes a key that was deleted, and reads the record that counts again by that.
func (e *entries) uncover(key string) {
	name, below := e.nameOf(key)
	if !below {
		delete(e.direct.values, name)
		return
	}
	if e.direct.below[name]--; e.direct.below[name] > 0 {
		return
	}
	delete(e.direct.below, name)
	if value, ok := e.direct.values[name]; ok {
		e.read(name, value)
	}
}
