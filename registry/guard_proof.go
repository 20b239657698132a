package registry

import (
	"maps"
	"net/netip"
	"time"
)

// mostReports bounds what is remembered of the proxies that tried one endpoint.
const mostReports = 256

// reporter is a proxy that tried one port of an endpoint.
type reporter struct {
	proxy  string
	number uint16
}

type proof struct {
	connected bool
	at        time.Time
}

// prove takes a proxy's report, and reports whether it releases something: what is served is then returned.
func (g *guard) prove(now time.Time, proxy string, at netip.AddrPort, connected bool) (services []*Service, proven bool) {
	if g.rules.Proofs < 0 {
		return nil, false
	}
	// A copy, for strike changes the list.
	for _, l := range append([]*loss(nil), g.at[place{at.Addr().Unmap(), at.Port()}]...) {
		if l.state != doubted {
			continue
		}
		l.report(now, reporter{proxy, at.Port()}, connected)
		if l.proven(now, g.rules.Proofs) {
			g.strike(l, byProof)
			proven = true
		}
	}
	if !proven {
		return nil, false
	}
	return g.pass(now), true
}

func (l *loss) report(now time.Time, by reporter, connected bool) {
	if l.reports == nil {
		l.reports = make(map[reporter]proof)
	}
	if _, ok := l.reports[by]; !ok && len(l.reports) >= mostReports {
		maps.DeleteFunc(l.reports, func(_ reporter, p proof) bool { return now.Sub(p.at) > proofAge })
		if len(l.reports) >= mostReports {
			return
		}
	}
	l.reports[by] = proof{connected, now}
}

// proven reports whether enough proxies could not connect to any TCP port of the endpoint, and none could.
func (l *loss) proven(now time.Time, enough int) bool {
	failed := make(map[uint16]int)
	for by, p := range l.reports {
		switch {
		case now.Sub(p.at) > proofAge:
		case p.connected:
			return false
		default:
			failed[by.number]++
		}
	}
	ports := l.connect()
	for _, p := range ports {
		if failed[p.Port()] < enough {
			return false
		}
	}
	return len(ports) > 0
}

// connect returns the TCP ports of the endpoint.
func (l *loss) connect() (at []netip.AddrPort) {
	for _, p := range l.endpoint.Ports {
		if i, ok := searchPort(l.service.Ports, p.Name); ok && l.service.Ports[i].Protocol != UDP {
			at = append(at, netip.AddrPortFrom(l.endpoint.Addr, p.Number))
		}
	}
	return at
}
