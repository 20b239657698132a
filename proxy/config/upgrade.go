package config

// ConnectUpgrade is the name of CONNECT among upgrades.
const ConnectUpgrade = "connect"

// Upgrade is what a route says of an upgrade, in the place of its HTTP.
type Upgrade struct {
	Name    string // lower case, e.g. "websocket", or ConnectUpgrade
	Allowed bool
}
