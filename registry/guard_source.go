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
	for _, b := range began {
		s.catalog.log.Warn("endpoints that the registry does not report any more are doubted and kept", "registry", s.Name,
			"endpoints", b.endpoints, "reason", b.reason)
	}
	for _, r := range released {
		s.guard.released[r.reason] += uint64(r.endpoints)
		s.catalog.log.Info("endpoints are doubted no more", "registry", s.Name, "endpoints", r.endpoints, "why", r.reason)
	}
	if len(began)+len(released) > 0 {
		s.catalog.doubts.Set(struct{}{})
	}
	s.arm()
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
	s.mu.Lock()
	defer s.mu.Unlock()
	from := len(all)
	for l := range s.guard.kept {
		if l.state != doubted {
			continue
		}
		d := Doubted{Source: s.Name, Service: l.service.Name, Endpoint: l.endpoint}
		if proofs := s.guard.rules.Proofs; proofs > 0 {
			d.Connect, d.Proofs = l.connect(), proofs
		}
		all = append(all, d)
	}
	slices.SortFunc(all[from:], func(a, b Doubted) int {
		return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Endpoint.ID, b.Endpoint.ID))
	})
	return all
}
