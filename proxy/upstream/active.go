package upstream

import (
	"sync/atomic"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// load is how many requests a host is serving for all loops. Loops count in it together when the cluster's policy compares
// hosts by that.
type load struct {
	active atomic.Int64
	of     *tally
	addr   config.Address
	loops  int // guarded by of.mu
}

// busy counts n requests more that the host is serving.
func (h *Host) busy(n int) {
	h.active += n
	if h.load != nil {
		h.load.active.Add(int64(n))
	}
}

// requests is how many the host is serving, as far as is known here.
func (h *Host) requests() int {
	if h.load != nil {
		return int(h.load.active.Load())
	}
	return h.active
}

// shareLoads has the hosts' requests counted together with other loops, or by this one alone.
func (c *Cluster) shareLoads() {
	together := c.breaker.shared != nil && !c.gone && c.share > 1 && c.cfg.Policy == config.LeastRequest
	for _, h := range c.hosts {
		switch {
		case together && h.load == nil:
			h.load = c.breaker.shared.load(h.Endpoint.Addr)
			h.load.active.Add(int64(h.active))
		case !together:
			h.part()
		}
	}
}

// load returns the common count of a host, for one loop more.
func (s *tally) load(addr config.Address) *load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.loads[addr]
	if l == nil {
		l = &load{of: s, addr: addr}
		if s.loads == nil {
			s.loads = map[config.Address]*load{}
		}
		s.loads[addr] = l
	}
	l.loops++
	return l
}

// part takes what the host is serving for this loop out of the common count.
func (h *Host) part() {
	l := h.load
	if l == nil {
		return
	}
	h.load = nil
	l.active.Add(-int64(h.active))
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	if l.loops--; l.loops == 0 {
		delete(l.of.loads, l.addr)
	}
}
