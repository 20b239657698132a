package proxy

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// address is where a listener listens: an IP address with a port, or the path of a unix socket.
type address struct {
	ip   netip.AddrPort
	path string
}

// addressesOf are all of a listener.
func addressesOf(l *config.Listener) []address {
	all := make([]address, 0, len(l.Addresses)+len(l.Pipes))
	for _, ip := range l.Addresses {
		all = append(all, address{ip: ip})
	}
	for _, p := range l.Pipes {
		all = append(all, address{path: p.Path})
	}
	return all
}

func (a address) String() string {
	if a.path != "" {
		return a.path
	}
	return a.ip.String()
}

// isPipe reports whether it is that of a unix socket.
func (a address) isPipe() bool { return a.path != "" }

// isFile reports whether it is a path in the file system.
func (a address) isFile() bool { return strings.HasPrefix(a.path, "/") }

// compare orders addresses.
func (a address) compare(b address) int {
	return cmp.Or(a.ip.Compare(b.ip), strings.Compare(a.path, b.path))
}

// statOwner is its name among the figures.
func (a address) statOwner() string { return strings.ReplaceAll(a.String(), ":", "_") }

// parseAddress reads what String writes.
func parseAddress(text string) (address, bool) {
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, "@") {
		return address{path: text}, true
	}
	ip, err := netip.ParseAddrPort(text)
	return address{ip: ip}, err == nil
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
