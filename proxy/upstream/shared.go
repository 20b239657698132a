package upstream

import (
	"sync"
	"sync/atomic"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Shared is what the whole process knows of a cluster's hosts: all loops write to it and its Detector reads it. Requests that
// succeed write only to what no other loop writes.
type Shared struct {
	loops    int
	wake     func() // something was detected
	used     atomic.Bool
	detected atomic.Bool
	rules    atomic.Pointer[config.Outlier]

	mu    sync.Mutex
	hosts map[config.Address]*HostState // guarded by mu
}

// HostState is what the process knows of a host.
type HostState struct {
	shared *Shared
	// Failures in a row. A success writes only if there was a failure.
	fives, gateways, locals atomic.Uint32
	detected                atomic.Uint32 // kinds, as bits, that the detector is to look at
	rates                   []hostRate    // by loop
}

// hostRate counts the requests of one loop. Only that loop writes; a cache line each.
type hostRate struct {
	answers, good           atomic.Uint64
	localTotal, localPassed atomic.Uint64
	_                       [32]byte
}

// NewShared makes the facts of a cluster. wake is called, from a loop, when a host is to be looked at; it must not block.
func NewShared(loops int, wake func()) *Shared {
	return &Shared{loops: max(loops, 1), wake: wake, hosts: map[config.Address]*HostState{}}
}

// Used reports whether a connection to the cluster was ever made.
func (s *Shared) Used() bool { return s.used.Load() }

// host returns the state of a host, which is made when there is none yet.
func (s *Shared) host(addr config.Address) *HostState {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[addr]
	if h == nil {
		h = &HostState{shared: s, rates: make([]hostRate, s.loops)}
		s.hosts[addr] = h
	}
	return h
}

// Share gives the cluster the facts of the process; nil ends it. slot is the loop's number. Of rules that are new to the same
// facts the next Update takes notice.
func (c *Cluster) Share(s *Shared, slot int) {
	if c.shared == s {
		return
	}
	c.shared, c.slot = s, slot
	for _, h := range c.hosts {
		h.state = c.state(h.Endpoint.Addr)
	}
}

// state is what a host's reports go to, nil when nobody wants them.
func (c *Cluster) state(addr config.Address) *HostState {
	if c.shared == nil || c.shared.rules.Load() == nil {
		return nil
	}
	return c.shared.host(addr)
}

// Local is how an attempt to reach a host ended.
type Local uint8

// The ends of attempts.
const (
	LocalConnected Local = iota // an answer is still to come
	LocalDone                   // that was all: a connection that is passed on as it is
	LocalFailed                 // refused, reset, no HTTP
	LocalTimeout
)

// Answered tells the outlier detection of a response.
func (h *Host) Answered(status int) {
	if h.state != nil {
		h.state.answered(h.cluster.slot, status)
	}
}

// Reached tells the outlier detection whether the host could be reached.
func (h *Host) Reached(how Local) {
	if h.state != nil {
		h.state.reached(h.cluster.slot, how)
	}
}

func (s *HostState) answered(slot, status int) {
	rules := s.shared.rules.Load()
	if rules == nil {
		return
	}
	rate := &s.rates[slot]
	bump(&rate.answers)
	if status < 500 || status > 599 {
		bump(&rate.good)
		clearCount(&s.fives)
		clearCount(&s.gateways)
		return
	}
	detected := uint32(0)
	if status >= 502 && status <= 504 {
		detected = count(&s.gateways, rules.ConsecutiveGateway, ConsecutiveGateway)
	} else {
		clearCount(&s.gateways)
	}
	s.detect(detected | count(&s.fives, rules.Consecutive5xx, Consecutive5xx))
}

func (s *HostState) reached(slot int, how Local) {
	rules := s.shared.rules.Load()
	if rules == nil {
		return
	}
	if !rules.SplitLocal {
		switch how {
		case LocalDone:
			s.answered(slot, 200)
		case LocalFailed:
			s.answered(slot, 503)
		case LocalTimeout:
			s.answered(slot, 504)
		}
		return
	}
	rate := &s.rates[slot]
	bump(&rate.localTotal)
	if how == LocalConnected || how == LocalDone {
		bump(&rate.localPassed)
		clearCount(&s.locals)
		return
	}
	s.detect(count(&s.locals, rules.ConsecutiveLocal, ConsecutiveLocal))
}

// count counts a failure, and returns the kind as a bit when this one makes the limit.
func count(n *atomic.Uint32, limit uint32, k Kind) uint32 {
	if n.Add(1) != limit {
		return 0
	}
	return 1 << k
}

// detect wakes the detector for kinds of failures: for all that one failure is, at once, so that it can tell which counts.
func (s *HostState) detect(kinds uint32) {
	if kinds == 0 {
		return
	}
	s.detected.Or(kinds)
	s.shared.detected.Store(true)
	s.shared.wake()
}

// bump adds one to what only this loop writes.
func bump(n *atomic.Uint64) { n.Store(n.Load() + 1) }

func clearCount(n *atomic.Uint32) {
	if n.Load() != 0 {
		n.Store(0)
	}
}

// markUsed notes that a connection is made.
func (s *Shared) markUsed() {
	if !s.used.Load() {
		s.used.Store(true)
	}
}
