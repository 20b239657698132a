package registry

import (
	"maps"
	"slices"
)

// equal reports whether s and o say the same. Nil and empty are the same.
func (s *Service) equal(o *Service) bool {
	return s == o || s.Name == o.Name && s.Original == o.Original && s.ExternalName == o.ExternalName &&
		slices.Equal(s.Ports, o.Ports) &&
		maps.Equal(s.Labels, o.Labels) &&
		slices.EqualFunc(s.Conflicts, o.Conflicts, Conflict.equal) &&
		slices.EqualFunc(s.Standby, o.Standby, (*Endpoint).equal) &&
		slices.EqualFunc(s.Endpoints, o.Endpoints, (*Endpoint).equal)
}

func (e *Endpoint) equal(o *Endpoint) bool {
	return e == o || e.ID == o.ID && e.Addr == o.Addr && e.Host == o.Host && e.Locality == o.Locality &&
		e.Weight == o.Weight && e.Health == o.Health &&
		slices.Equal(e.Ports, o.Ports) &&
		maps.Equal(e.Labels, o.Labels) &&
		slices.Equal(e.Sources, o.Sources) &&
		e.Doubt.equal(o.Doubt) && e.Unreachable.equal(o.Unreachable)
}

func (d *Doubt) equal(o *Doubt) bool {
	return d == o || d != nil && o != nil && d.Since.Equal(o.Since) && d.Reason == o.Reason
}

func (u *Unreachable) equal(o *Unreachable) bool {
	return u == o || u != nil && o != nil && u.Since.Equal(o.Since) && u.Host == o.Host && u.Reason == o.Reason
}
