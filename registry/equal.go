package registry

import (
	"maps"
	"slices"
)

// equal reports whether s and o say the same. Nil and empty are the same.
func (s *Service) equal(o *Service) bool {
	return s == o || s.Name == o.Name && s.Original == o.Original &&
		slices.Equal(s.Ports, o.Ports) &&
		maps.Equal(s.Labels, o.Labels) &&
		slices.Equal(s.Conflicts, o.Conflicts) &&
		slices.EqualFunc(s.Endpoints, o.Endpoints, (*Endpoint).equal)
}

func (e *Endpoint) equal(o *Endpoint) bool {
	return e == o || e.ID == o.ID && e.Addr == o.Addr && e.Host == o.Host && e.Locality == o.Locality &&
		e.Weight == o.Weight && e.Health == o.Health &&
		slices.Equal(e.Ports, o.Ports) &&
		maps.Equal(e.Labels, o.Labels) &&
		slices.Equal(e.Sources, o.Sources)
}
