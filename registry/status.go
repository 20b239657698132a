package registry

import (
	"errors"
	"fmt"
	"time"
)

// SourceState is how a source stands.
type SourceState string

// The states of a source.
const (
	Connecting SourceState = "connecting" // it has no view yet; Error says why, if it tried
	Synced     SourceState = "synced"     // its last view is current
	Stale      SourceState = "stale"      // its last view stays, as the source is away, not yet heard, or answers nonsense
	Denied     SourceState = "denied"     // the registry refuses us; its last view, if any, stays
)

// SourceStatus is how a source stands, for display and metrics.
type SourceStatus struct {
	Name  string      `json:"name"`
	Kind  string      `json:"kind"`
	State SourceState `json:"state"`
	// Error is why the source is not synced; "" when it is, or has not failed yet. ErrorSince is when the outage began,
	// not when Error was last seen.
	Error      string    `json:"error,omitempty"`
	ErrorSince time.Time `json:"errorSince,omitzero"`
	// LastView is when the view that is served was published, in an earlier process when FromSeal is true.
	LastView time.Time `json:"lastView,omitzero"`
	FromSeal bool      `json:"fromSeal,omitempty"`
	// SealRefused is why the sealed view was not taken at the start, SealError why the last sealing failed.
	SealRefused string    `json:"sealRefused,omitempty"`
	SealError   string    `json:"sealError,omitempty"`
	Services    int       `json:"services"`
	Endpoints   int       `json:"endpoints"`
	Problems    []Problem `json:"problems,omitempty"`
	// Failures counts the ends of Watch, RefusedViews the views that did not validate, since the start.
	Failures     uint64 `json:"failures"`
	RefusedViews uint64 `json:"refusedViews"`
	// NextRetry is when Watch is called again; zero while it runs.
	NextRetry time.Time `json:"nextRetry,omitzero"`
}

// Sources returns the status of every source, in configured order.
func (c *Catalog) Sources() []SourceStatus {
	all := make([]SourceStatus, len(c.sources))
	for i, s := range c.sources {
		all[i] = s.status()
	}
	return all
}

func (s *source) status() SourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := SourceStatus{
		Name:         s.Name,
		Kind:         s.Kind,
		State:        s.state(),
		ErrorSince:   s.errSince,
		LastView:     s.viewed,
		FromSeal:     s.fromSeal,
		SealRefused:  s.sealRefused,
		Services:     len(s.view.Services),
		Endpoints:    s.endpoints,
		Problems:     s.view.Problems,
		Failures:     s.failures,
		RefusedViews: s.refused,
		NextRetry:    s.nextRetry,
	}
	if s.err != nil {
		status.Error = s.err.Error()
	}
	if s.sealErr != nil {
		status.SealError = s.sealErr.Error()
	}
	return status
}

// state tells how the source stands. s.mu is held.
func (s *source) state() SourceState {
	switch {
	case errors.Is(s.err, ErrPermission):
		return Denied
	case s.viewed.IsZero():
		return Connecting
	case s.err != nil || s.fromSeal:
		return Stale
	}
	return Synced
}

// spoken reports whether the source has published a view since the start, and how it stands if not.
func (s *source) spoken() (bool, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.viewed.IsZero() && !s.fromSeal {
		return true, ""
	}
	why := fmt.Sprintf("registry %s has not spoken yet", s.Name)
	if s.err != nil {
		why += ": " + s.err.Error()
	}
	return false, why
}
