package xds

import (
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	connectionlimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	connectionLimitType = typePrefix + "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"
	// limitFields are what the readers below know of a Listener.
	limitFields = " connection_balance_config"
)

func (schema) addLimits(add func(protoreflect.FullName, string)) {
	const balance = "envoy.config.listener.v3.Listener.ConnectionBalanceConfig"
	add("envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit", "stat_prefix max_connections delay")
	add(balance, "exact_balance")
	add(balance+".ExactBalance", "")
}

// limits reads the filters in front of the one that serves a chain, which it returns with its place.
func (r *reader) limits(at *path, filters []*listenerv3.Filter, c *config.FilterChain) (*listenerv3.Filter, *path) {
	if len(filters) == 0 {
		r.wrong(at.field("filters"), 0, "a filter that serves: envoy.filters.network.http_connection_manager or envoy.filters.network.tcp_proxy")
		return nil, nil
	}
	last := len(filters) - 1
	for i, f := range filters[:last] {
		p, typed := at.at("filters", i), f.GetTypedConfig()
		if typed.GetTypeUrl() != connectionLimitType {
			r.wrong(p, named(f.GetName(), typed.GetTypeUrl()), "envoy.filters.network.connection_limit in front of the last filter")
			continue
		}
		if c.Limit != nil {
			r.wrong(p, named(f.GetName(), typed.GetTypeUrl()), "the filter once")
			continue
		}
		m := new(connectionlimitv3.ConnectionLimit)
		p = p.field("typed_config")
		if r.unpack(p, typed, m) {
			c.Limit = &config.ConnectionLimit{StatPrefix: m.GetStatPrefix(), Max: m.GetMaxConnections().GetValue(), Delay: r.duration(p.field("delay"), m.GetDelay(), 0)}
		}
	}
	return filters[last], at.at("filters", last)
}

// balance reads how connections get to the loops. Another balance is refused by its field.
func (r *reader) balance(m *listenerv3.Listener_ConnectionBalanceConfig) config.Balance {
	if m.GetExactBalance() != nil {
		return config.BalanceExact
	}
	return config.BalanceDefault
}
