package registry

import "slices"

// Snapshot is all registries merged at one moment. It is immutable: an unchanged service has the same pointer in the
// next Snapshot, so comparing pointers finds what changed.
type Snapshot struct {
	// Number is the one number of this state: SOA serial, xDS version, metrics and logs all tell it. It grows with
	// every Snapshot, over restarts too, and starts at the Unix time in seconds.
	Number uint64
	// Services is sorted by Name, without duplicates.
	Services []*Service
	// Hosts is sorted by ID, without duplicates: those that the registries know, each with the addresses that are its alone.
	Hosts []Host
}

// Service returns the service of that name, or nil.
func (s *Snapshot) Service(name Name) *Service {
	i, ok := slices.BinarySearchFunc(s.Services, name, func(svc *Service, n Name) int { return svc.Name.Compare(n) })
	if !ok {
		return nil
	}
	return s.Services[i]
}
