package upstream

import "github.com/hostmesh/hostmesh/proxy/config"

// sameLogical reports whether both are one logical host by the same name. Its address may be another: what is open stays,
// new connections go to the new address.
func sameLogical(old, next *config.Cluster) bool {
	if len(next.Endpoints) != 1 || next.DNS == nil || old.DNS == nil || !next.DNS.Logical || !old.DNS.Logical {
		return false
	}
	a, b := &old.DNS.Names[0], &next.DNS.Names[0]
	return a.Host == b.Host && a.Port == b.Port
}
