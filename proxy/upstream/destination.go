package upstream

import (
	"net/netip"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// maxDestinations bounds the hosts that a loop makes on demand in one cluster: a client may name any.
const maxDestinations = 4096

// pickDestination returns the host of an address, which is made when there is none yet; nil when it cannot be dialled or there
// are too many.
func (c *Cluster) pickDestination(at netip.AddrPort) *Host {
	if port := c.cfg.OriginalDst.Port; port != 0 {
		at = netip.AddrPortFrom(at.Addr(), port)
	}
	if !at.IsValid() || at.Port() == 0 || at.Addr().IsUnspecified() {
		return nil
	}
	addr := config.Address{IP: at}
	h := c.byAddr[addr]
	if h == nil {
		if len(c.hosts) >= maxDestinations {
			c.clean(false)
		}
		if len(c.hosts) >= maxDestinations {
			c.Stats.Count[DestinationOverflow]++
			return nil
		}
		h = &Host{cluster: c, Endpoint: &config.Endpoint{Addr: addr, Weight: 1}}
		h.speak(manner{c.cfg.EndpointTLS(h.Endpoint), c.cfg.Protocol})
		c.byAddr[addr] = h
		c.hosts = append(c.hosts, h)
		if !c.cleaning.Running() {
			c.loop.Start(&c.cleaning, c.cfg.OriginalDst.Cleanup, (*cleaner)(c))
		}
	}
	h.asked = true
	return h
}

// cleaner forgets hosts that nobody goes to any more.
type cleaner Cluster

// Expired is called once a cleanup interval while there are hosts.
func (c *cleaner) Expired(*loop.Timer) {
	if (*Cluster)(c).clean(true); len(c.hosts) > 0 && c.cfg.OriginalDst != nil {
		c.loop.Start(&c.cleaning, c.cfg.OriginalDst.Cleanup, c)
	}
}

// clean forgets the hosts that have no connection; with spare, only those that were not picked since the last time.
func (c *Cluster) clean(spare bool) {
	kept := c.hosts[:0]
	for _, h := range c.hosts {
		if h.conns > 0 || spare && h.asked {
			h.asked = false
			kept = append(kept, h)
			continue
		}
		delete(c.byAddr, h.Endpoint.Addr)
		h.leave()
	}
	clear(c.hosts[len(kept):])
	c.hosts = kept
}

// keepDestinations has hosts that were made on demand outlive a change of the configuration, which does not have them.
func (c *Cluster) keepDestinations(old map[config.Address]*Host) {
	if c.cfg.OriginalDst == nil {
		c.cleaning.Stop()
		return
	}
	for addr, h := range old {
		if c.byAddr[addr] == nil {
			h.speak(manner{c.cfg.EndpointTLS(h.Endpoint), c.cfg.Protocol})
			c.byAddr[addr] = h
			c.hosts = append(c.hosts, h)
		}
	}
	if len(c.hosts) > 0 {
		c.loop.Start(&c.cleaning, c.cfg.OriginalDst.Cleanup, (*cleaner)(c))
	}
}
