package zookeeper

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// curator is the layout of Apache Curator's service discovery: <root>/<service>/<id>, with a JSON of ServiceInstance.
// Spring Cloud ZooKeeper and Dubbo's application-level discovery write it too.
type curator struct{}

func (curator) place(at []string) place {
	switch len(at) {
	case 0, 1:
		return directory
	case 2:
		return instance
	}
	return ignored
}

// serviceInstance is what we read of a ServiceInstance, as Curator's JsonInstanceSerializer writes it.
type serviceInstance struct {
	Address *string
	Port    number
	SSLPort number
	Payload json.RawMessage
	Enabled *bool
}

func (curator) decode(at []string, data []byte) (*registry.Entry, error) {
	if len(at) != 2 {
		return nil, errors.New("got an instance outside of a service, want <root>/<service>/<id>")
	}
	var s serviceInstance
	if err := decodeObject(data, &s); err != nil {
		return nil, err
	}
	if s.Address == nil {
		return nil, wrong(kindAddress, "got no address, want a Curator ServiceInstance")
	}
	f := found{
		service: at[0], id: at[1], host: *s.Address, labels: payloadLabels(s.Payload),
		ports:  []foundPort{{number: int(s.Port)}, {name: "ssl", number: int(s.SSLPort), protocol: registry.TLS}},
		advice: "have the service register one (Curator: ServiceInstanceBuilder.address, Spring Cloud: discovery.instance-host)",
	}
	if s.Enabled != nil && !*s.Enabled {
		f.health = registry.Draining // Curator's providers do not choose it; who is connected stays
	}
	return f.entry()
}

// payloadLabels makes labels of a payload, which may be of any type of the application's.
func payloadLabels(raw json.RawMessage) map[string]string {
	raw = untyped(raw)
	if text, ok := scalar(raw); ok {
		return map[string]string{"payload": text}
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	class, _ := scalar(fields["@class"])
	metadata, spring := fields["metadata"]
	if spring && (strings.HasSuffix(class, ".ZookeeperInstance") || fields["@class"] == nil) {
		fields = nil
		if json.Unmarshal(metadata, &fields) != nil {
			return nil
		}
	}
	delete(fields, "@class")
	return scalars(fields)
}

// untyped takes a value out of ["its.java.Class", value], which Jackson writes for what is no object.
func untyped(raw json.RawMessage) json.RawMessage {
	var pair []json.RawMessage
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || len(pair[0]) == 0 || pair[0][0] != '"' {
		return raw
	}
	return pair[1]
}
