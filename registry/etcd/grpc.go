package etcd

import (
	"fmt"
	"math"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// grpcLayout is that of etcd's package client/v3/naming/endpoints: <service>/<anything>, with the JSON of its Update.
// Its Op is not looked at, as that package does not either: an instance leaves when its key is deleted.
type grpcLayout struct {
	namespace string
}

func (grpcLayout) name() string { return layoutGRPC }

type grpcUpdate struct {
	Addr     string
	Metadata any
}

func (l grpcLayout) read(key string, value []byte) (*registry.Entry, error) {
	slash := strings.LastIndexByte(key, '/')
	if slash <= 0 || slash == len(key)-1 {
		return nil, wrong("name", "got key %.200q below the prefix, want <service>/<address>", key)
	}
	var u grpcUpdate
	if err := decodeObject(value, &u); err != nil {
		return nil, err
	}
	addr, port, err := parseHostPort(u.Addr)
	if err != nil {
		return nil, fmt.Errorf("read Addr: %w", err)
	}
	labels, weight := make(map[string]string), uint32(1)
	if metadata, ok := u.Metadata.(map[string]any); ok {
		for name, v := range metadata {
			switch v := v.(type) {
			case string:
				labels[name] = v
			case float64:
				if strings.EqualFold(name, "weight") {
					if v != math.Trunc(v) || v < 1 || v > math.MaxUint32 {
						return nil, wrong("value", "got weight %v, want a whole number from 1 to %d", v, uint32(math.MaxUint32))
					}
					weight = uint32(v)
				}
			}
		}
	}
	if labels, err = checkLabels(labels); err != nil {
		return nil, fmt.Errorf("read Metadata: %w", err)
	}
	return &registry.Entry{
		Namespace: l.namespace, Service: key[:slash], Ports: []registry.Port{{Protocol: registry.GRPC}},
		Endpoint: &registry.Endpoint{
			ID: key[slash+1:], Addr: addr, Ports: []registry.EndpointPort{{Number: port}}, Labels: labels, Weight: weight,
		},
	}, nil
}
