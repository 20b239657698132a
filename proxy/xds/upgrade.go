package xds

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func (schema) addUpgrades(add func(protoreflect.FullName, string)) {
	const route = "envoy.config.route.v3."
	add("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig", "upgrade_type enabled")
	add(route+"RouteMatch.ConnectMatcher", "")
	add(route+"RouteAction.UpgradeConfig", "upgrade_type enabled connect_config")
	add(route+"RouteAction.UpgradeConfig.ConnectConfig", "")
}

// upgradeName reads the name of an upgrade.
func (r *reader) upgradeName(at *path, name string) string {
	lower := strings.ToLower(name)
	if lower == "" || lower == "connect-udp" || strings.ContainsAny(lower, ", \t") {
		r.wrong(at.field("upgrade_type"), clip(name), "an upgrade such as websocket, or CONNECT")
	}
	return lower
}

// upgrades reads what a connection manager allows.
func (r *reader) upgrades(at *path, all []*hcmv3.HttpConnectionManager_UpgradeConfig) (names []string) {
	for i, u := range all {
		name := r.upgradeName(at.at("upgrade_configs", i), u.GetUpgradeType())
		if u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			names = append(names, name)
		}
	}
	return names
}

// routeUpgrades reads what a route says of upgrades in the place of its connection manager.
func (r *reader) routeUpgrades(at *path, all []*routev3.RouteAction_UpgradeConfig, out *config.Route) {
	seen := map[string]bool{}
	for i, u := range all {
		p := at.at("upgrade_configs", i)
		name := r.upgradeName(p, u.GetUpgradeType())
		if seen[name] {
			r.wrong(p.field("upgrade_type"), clip(u.GetUpgradeType()), "each upgrade once")
		}
		seen[name] = true
		out.Upgrades = append(out.Upgrades, config.Upgrade{Name: name, Allowed: u.GetEnabled() == nil || u.GetEnabled().GetValue()})
		if u.GetConnectConfig() == nil {
			continue
		}
		out.Terminate = true
		if name != config.ConnectUpgrade {
			r.wrong(p.field("connect_config"), "it with "+clip(u.GetUpgradeType()), "it with CONNECT only")
		}
	}
}
