package proxy

import (
	"net/netip"
	"strings"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// addressesOf are all of a listener.
func addressesOf(l *config.Listener) []config.Address {
	all := make([]config.Address, 0, len(l.Addresses)+len(l.Pipes))
	for _, ip := range l.Addresses {
		all = append(all, config.Address{IP: ip})
	}
	for _, p := range l.Pipes {
		all = append(all, config.Address{Path: p.Path})
	}
	return all
}

// isFile reports whether a is a path in the file system.
func isFile(a config.Address) bool { return strings.HasPrefix(a.Path, "/") }

// statOwner is the name of a among the figures.
func statOwner(a config.Address) string { return strings.ReplaceAll(a.String(), ":", "_") }

// parseAddress reads what an address writes of itself.
func parseAddress(text string) (config.Address, bool) {
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, "@") {
		return config.Address{Path: text}, true
	}
	ip, err := netip.ParseAddrPort(text)
	return config.Address{IP: ip}, err == nil
}

// pipeMode is the mode of a listener's unix socket; 0: as the process makes files.
func pipeMode(l *config.Listener, path string) uint32 {
	for _, p := range l.Pipes {
		if p.Path == path {
			return p.Mode
		}
	}
	return 0
}
