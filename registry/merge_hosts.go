package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// atHost is the host that has an address.
type atHost struct {
	id, source string
	dead       bool
	claims     []Side // there are several, so it is none of them; id and source are the first one's
}

// same reports whether an endpoint at the address is told the same.
func (h atHost) same(o atHost) bool { return h.id == o.id && slices.Equal(h.claims, o.claims) }

// setHosts replaces the hosts of a source, and reports whether they differ. Only services with an endpoint at an address
// that has another host now will be merged again.
func (m *merger) setHosts(source int, next []Host) bool {
	if slices.EqualFunc(m.hosts[source], next, Host.equal) {
		return false
	}
	m.hosts[source] = next
	prev := m.at
	m.at = m.hostsByAddress()
	m.known = m.hostsByID()
	moved := make(map[netip.Addr]struct{})
	for addr, h := range m.at {
		if !h.same(prev[addr]) {
			moved[addr] = struct{}{}
		}
	}
	for addr := range prev {
		if _, ok := m.at[addr]; !ok {
			moved[addr] = struct{}{}
		}
	}
	m.touch(moved)
	return true
}

// touch has services with an endpoint at one of these addresses merged again.
func (m *merger) touch(moved map[netip.Addr]struct{}) {
	if len(moved) == 0 {
		return
	}
	hit := func(e *Endpoint) bool { _, ok := moved[e.Addr]; return ok }
	for _, s := range m.merged {
		if slices.ContainsFunc(s.Endpoints, hit) || slices.ContainsFunc(s.Standby, hit) {
			m.dirty[s.Name] = struct{}{}
		}
	}
}

// hostsByAddress says which host has an address: one that lives before one that is dead; it is none when there are two.
// A loopback address does not pass from a dead host to another: each has its own.
func (m *merger) hostsByAddress() map[netip.Addr]atHost {
	at := make(map[netip.Addr]atHost)
	for i, hosts := range m.hosts {
		for _, h := range hosts {
			for _, addr := range h.Addrs {
				have, ok := at[addr]
				passes := !addr.IsLoopback() || have.id == h.ID
				switch {
				case !ok || have.dead && !h.Dead && passes:
					at[addr] = atHost{id: h.ID, source: m.sources[i], dead: h.Dead}
				case h.Dead && !have.dead && passes || have.id == h.ID && have.claims == nil:
				case len(have.claims) < mostIDs:
					if have.claims == nil {
						have.claims = []Side{{have.source, have.id}}
					}
					if side := (Side{m.sources[i], h.ID}); !slices.Contains(have.claims, side) {
						have.claims = append(slices.Clip(have.claims), side)
					}
					at[addr] = have
				}
			}
		}
	}
	return at
}

// hostsByID are the hosts of all sources, each with the addresses that lead to it alone. One that lives to any of them lives.
func (m *merger) hostsByID() []Host {
	byID := make(map[string]*Host)
	for _, hosts := range m.hosts {
		for _, h := range hosts {
			have := byID[h.ID]
			if have == nil {
				have = &Host{ID: h.ID, Dead: true}
				byID[h.ID] = have
			}
			have.Dead = have.Dead && h.Dead
			for _, addr := range h.Addrs {
				if at := m.at[addr]; at.id == h.ID && at.claims == nil {
					have.Addrs = append(have.Addrs, addr)
				}
			}
		}
	}
	all := make([]Host, 0, len(byID))
	for _, h := range byID {
		slices.SortFunc(h.Addrs, netip.Addr.Compare)
		h.Addrs = slices.Compact(h.Addrs)
		all = append(all, *h)
	}
	slices.SortFunc(all, func(a, b Host) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// placeOnHosts gives endpoints that no registry gives a host the one that has their address.
func (u *union) placeOnHosts(at map[netip.Addr]atHost) {
	if len(at) == 0 {
		return
	}
	for _, endpoints := range [...][]*Endpoint{u.service.Endpoints, u.service.Standby} {
		for _, e := range endpoints {
			h, ok := at[e.Addr]
			switch {
			case !ok || e.Host != "":
			case h.claims == nil:
				e.Host = h.id
			default:
				text := fmt.Sprintf("host of %s: ", e.Addr)
				for i, side := range h.claims {
					if i > 0 {
						text += ", "
					}
					text += side.Source + " says " + quote(side.Says)
				}
				u.notes.add(Conflict{What: "host", Object: e.Addr.String(), Sides: slices.Clone(h.claims), Text: text + "; none is taken"}, e.ID)
			}
		}
	}
}

func (h Host) equal(o Host) bool {
	return h.ID == o.ID && h.Dead == o.Dead && slices.Equal(h.Addrs, o.Addrs)
}

// validateHosts reports the first thing that breaks what Host promises.
func validateHosts(hosts []Host) error {
	for i, h := range hosts {
		if h.ID == "" {
			return fmt.Errorf("host %d of %d: no ID", i+1, len(hosts))
		}
		if i > 0 && hosts[i-1].ID >= h.ID {
			return fmt.Errorf("host %q: want hosts sorted by ID, without duplicates", h.ID)
		}
		for _, addr := range h.Addrs {
			if err := validateHostAddr(addr); err != nil {
				return fmt.Errorf("host %q: %w", h.ID, err)
			}
		}
	}
	return nil
}

func validateHostAddr(addr netip.Addr) error {
	switch {
	case !addr.IsValid():
		return errors.New("no address")
	case addr.Is4In6():
		return fmt.Errorf("address %s: want IPv4 as IPv4", addr)
	case addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "":
		return fmt.Errorf("address %s: want one that leads to one host from everywhere", addr)
	}
	return nil
}
