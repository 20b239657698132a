package registry

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// watchful is a source's guard with its clock. It is guarded by the source's mu, which every method here takes or says
// that it is held.
type watchful struct {
	guard
	timer    *time.Timer // calls tick at guard.next; nil while no Watch runs
	released map[string]uint64

	warned time.Time // when doubts were logged last
	unsaid doubts    // that began since, with the latest reason
}

// serve takes what the guard says is to be served, and logs what it did. s.mu is held.
func (s *source) serve(services []*Service) {
	if !samePointers(s.view.Services, services) {
		s.view.Services = services
		s.endpoints = countEndpoints(services)
		s.fresh, s.unsealed = true, true
		notify(s.catalog.wake)
		notify(s.catalog.sealNow)
	}
	began, released := s.guard.events()
	s.warn(time.Now(), began)
	for _, r := range released {
		s.guard.released[r.reason] += uint64(r.endpoints)
		s.catalog.log.Info("endpoints are doubted no more", "registry", s.Name, "endpoints", r.endpoints, "why", r.reason)
	}
	if len(began)+len(released) > 0 {
		s.catalog.doubts.Set(struct{}{})
	}
	s.arm()
}

// warn logs that doubts began: the first at once, those that follow within Window together, after that. s.mu is held.
func (s *source) warn(now time.Time, began []doubts) {
	g := &s.guard
	for _, b := range began {
		g.unsaid.endpoints += b.endpoints
		g.unsaid.reason = b.reason
	}
	if g.unsaid.endpoints == 0 || now.Sub(g.warned) < g.rules.Window {
		return
	}
	s.catalog.log.Warn("endpoints that the registry does not report any more are doubted and kept", "registry", s.Name,
		"endpoints", g.unsaid.endpoints, "reason", g.unsaid.reason)
	g.warned, g.unsaid = now, doubts{}
}

// arm has tick called when time changes something. s.mu is held.
func (s *source) arm() {
	if s.guard.timer != nil {
		s.guard.timer.Stop()
		s.guard.timer = nil
	}
	if at := s.guard.next(); !at.IsZero() {
		call := s.call
		s.guard.timer = time.AfterFunc(max(time.Until(at), 0), func() { s.tick(call) })
	}
}

// tick lets time pass for the guard, while the same Watch runs.
func (s *source) tick(call uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if call == s.call {
		s.serve(s.guard.tick(time.Now()))
	}
}

func (s *source) accept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	services, n := s.guard.accept(time.Now())
	s.serve(services)
	return n
}

func (s *source) prove(proxy string, at netip.AddrPort, connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if services, proven := s.guard.prove(time.Now(), proxy, at, connected); proven {
		s.serve(services)
	}
}

// doubted appends what is doubted of the source.
func (s *source) doubted(all []Doubted) []Doubted {
	from, proofs := len(all), s.Guard.withDefaults().Proofs
	for _, l := range s.doubts() {
		d := Doubted{Source: s.Name, Service: l.service.Name, Endpoint: l.endpoint}
		if proofs > 0 {
			d.Connect, d.Proofs = l.connect(), proofs
		}
		all = append(all, d)
	}
	slices.SortFunc(all[from:], func(a, b Doubted) int {
		return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Endpoint.ID, b.Endpoint.ID))
	})
	return all
}

// doubts returns copies of what is doubted, in no order: the lock is not held for what takes long.
func (s *source) doubts() (all []loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.guard.kept {
		if l.state == doubted {
			all = append(all, loss{service: l.service, endpoint: l.endpoint})
		}
	}
	return all
}
