package registry

import (
	"net/netip"
	"time"
)

// Unreachable says why an endpoint is unhealthy that its registries would have served: its host died, and a connect check
// agrees. It is immutable.
type Unreachable struct {
	Since  time.Time `json:"since"`
	Host   string    `json:"host"`
	Reason string    `json:"reason"` // how the check failed
}

const (
	checkEvery  = 2 * time.Second // each place, about; new endpoints are looked for as often
	mostChecked = 1000            // places; endpoints beyond stay as their registries say
	failsToTell = 2               // checks in a row
)

// vitals decide what the death of a host means for endpoints that others than its own proxy report at its addresses:
// nothing, until a connect check agrees. They are pure: time, hosts, services and the results of checks are given to them.
//
// What counts is the address. One whose host died is suspect until a host that lives has it. It stays so when the host is
// forgotten, for as long as an endpoint is there: nobody has said that it is well again.
type vitals struct {
	suspects map[netip.Addr]suspect
	places   map[netip.AddrPort]*checked // all that is checked; each is at a suspect address
	beyond   int                         // endpoints that are not, for mostChecked
	changed  bool                        // verdicts are others than at the last call of verdicts
}

// suspect is an address whose host died.
type suspect struct {
	host      string
	forgotten bool // no source knows a host that has it
}

// checked is a place that is checked.
type checked struct {
	next     time.Time // when to check it
	underWay bool
	failures int          // in a row
	silent   *Unreachable // nil while it is not known to take no connections
}

func newVitals() vitals {
	return vitals{suspects: make(map[netip.Addr]suspect), places: make(map[netip.AddrPort]*checked)}
}

// takeHosts takes in which host has which address. What is at an address whose host lives is as its registries say, at
// once.
func (v *vitals) takeHosts(at map[netip.Addr]atHost) {
	for addr, s := range v.suspects {
		h, ok := at[addr]
		switch {
		case !ok:
			s.forgotten = true
			v.suspects[addr] = s
		case !h.gone(addr):
			delete(v.suspects, addr)
		}
	}
	for addr, h := range at {
		if h.gone(addr) {
			v.suspects[addr] = suspect{host: h.id}
		}
	}
	v.keep(func(place netip.AddrPort) bool { _, ok := v.suspects[place.Addr()]; return ok })
}

// gone reports whether no host that lives has addr, and one that is dead does. A loopback address of several is no
// matter: each has its own, and it leads to none of them from here.
func (h atHost) gone(addr netip.Addr) bool { return h.dead && (h.claims == nil || !addr.IsLoopback()) }

// takeServices takes in the merged services, and so what is to be checked: all endpoints at suspect addresses that their
// registries would have served. One that a registry calls unhealthy is checked too if another reports it: its host's
// proxy may be the one that does, whose word goes when the host is forgotten.
func (v *vitals) takeServices(services []*Service) {
	want := make(map[netip.AddrPort]struct{})
	used := make(map[netip.Addr]struct{})
	v.beyond = 0
	for _, s := range services {
		for _, endpoints := range [...][]*Endpoint{s.Endpoints, s.Standby} {
			for _, e := range endpoints {
				if _, ok := v.suspects[e.Addr]; !ok {
					continue
				}
				used[e.Addr] = struct{}{}
				if !e.Health.Serving() && e.Unreachable == nil && len(e.Sources) < 2 {
					continue
				}
				at := connectable(s, e)
				if len(want)+len(at) > mostChecked {
					v.beyond++ // all of its ports or none
					continue
				}
				for _, place := range at {
					want[place] = struct{}{}
				}
			}
		}
	}
	for addr, s := range v.suspects {
		if _, ok := used[addr]; !ok && s.forgotten {
			delete(v.suspects, addr)
		}
	}
	v.keep(func(place netip.AddrPort) bool { _, ok := want[place]; return ok })
	for place := range want {
		if v.places[place] == nil {
			v.places[place] = new(checked)
			v.changed = true
		}
	}
}

// connectable returns where an endpoint of s takes TCP connections.
func connectable(s *Service, e *Endpoint) (at []netip.AddrPort) {
	for _, p := range e.Ports {
		if i, ok := searchPort(s.Ports, p.Name); ok && s.Ports[i].Protocol != UDP {
			at = append(at, netip.AddrPortFrom(e.Addr, p.Number))
		}
	}
	return at
}

// keep forgets the places that are not wanted.
func (v *vitals) keep(wanted func(netip.AddrPort) bool) {
	for place := range v.places {
		if !wanted(place) {
			delete(v.places, place)
			v.changed = true
		}
	}
}

// due returns the place that is to be checked next, and what is known of it; nil when there is none. Those that are being
// checked are not due.
func (v *vitals) due() (place netip.AddrPort, c *checked) {
	for at, o := range v.places {
		if !o.underWay && (c == nil || o.next.Before(c.next) || o.next.Equal(c.next) && at.Compare(place) < 0) {
			place, c = at, o
		}
	}
	return place, c
}

// begin says that a check of c begins, and when the next is due.
func (c *checked) begin(next time.Time) { c.underWay, c.next = true, next }

// take takes the result of a check that has begun: nil for a connection, else how there is none. It reports whether the
// verdict on the place is another now.
func (v *vitals) take(now time.Time, place netip.AddrPort, c *checked, failed error) bool {
	c.underWay = false
	if v.places[place] != c {
		return false // it was forgotten meanwhile
	}
	was := c.silent
	if failed == nil {
		c.failures, c.silent = 0, nil
	} else if c.failures++; c.failures >= failsToTell && was == nil {
		c.silent = &Unreachable{Since: now.Round(0), Host: v.suspects[place.Addr()].host, Reason: brief(failed.Error())}
	}
	v.changed = v.changed || c.silent != was
	return c.silent != was
}

// verdicts returns what is known of all that is checked, for merger.setVitals, and whether it is something else than the
// last time.
func (v *vitals) verdicts() (map[netip.AddrPort]*Unreachable, bool) {
	if !v.changed {
		return nil, false
	}
	v.changed = false
	all := make(map[netip.AddrPort]*Unreachable, len(v.places))
	for place, c := range v.places {
		all[place] = c.silent
	}
	return all, true
}

// setVitals replaces what connect checks say of the places that are checked: nil where nothing is known to be wrong. Only
// services with an endpoint there will be merged again.
func (m *merger) setVitals(next map[netip.AddrPort]*Unreachable) {
	moved := make(map[netip.Addr]struct{})
	differ := func(a, b map[netip.AddrPort]*Unreachable) {
		for place, u := range a {
			if other, ok := b[place]; !ok || other != u {
				moved[place.Addr()] = struct{}{}
			}
		}
	}
	differ(m.vitals, next)
	differ(next, m.vitals)
	m.vitals = next
	m.touch(moved)
}

// examine makes an endpoint unhealthy that would be served if none of its ports that are checked takes connections.
func (u *union) examine(e *Endpoint) {
	if len(u.vitals) == 0 || !e.Health.Serving() {
		return
	}
	var why *Unreachable
	for _, p := range e.Ports {
		silent, ok := u.vitals[netip.AddrPortFrom(e.Addr, p.Number)]
		switch {
		case !ok: // UDP
		case silent == nil:
			return
		case why == nil:
			why = silent
		}
	}
	if why != nil {
		e.Health, e.Unreachable = Unhealthy, why
	}
}
