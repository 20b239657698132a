package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
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
	// not when Error was last seen. Error is one line of at most about 1 KiB.
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
	// ProblemKinds counts Problems by their Kind, "other" for those without one and for kinds beyond the first 20.
	ProblemKinds map[string]int `json:"problemKinds,omitempty"`
	// Doubted is how many endpoints are kept although the source does not report them any more, DoubtedSince when the
	// first of them left, and DoubtReason why that one is doubted.
	Doubted      int       `json:"doubted,omitempty"`
	DoubtedSince time.Time `json:"doubtedSince,omitzero"`
	DoubtReason  string    `json:"doubtReason,omitempty"`
	// Released counts the endpoints that are doubted no more, by why, since the start.
	Released map[string]uint64 `json:"released,omitempty"`
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
	status.Error = s.errText
	s.countProblems(&status)
	s.countDoubts(&status)
	if s.sealErr != nil {
		status.SealError = s.sealErr.Error()
	}
	return status
}

// mostKinds bounds SourceStatus.ProblemKinds.
const mostKinds = 20

// countProblems counts by kind. s.mu is held.
func (s *source) countProblems(status *SourceStatus) {
	if len(s.view.Problems) == 0 {
		return
	}
	status.ProblemKinds = make(map[string]int)
	for _, p := range s.view.Problems {
		kind := cmp.Or(p.Kind, "other")
		if _, ok := status.ProblemKinds[kind]; !ok && len(status.ProblemKinds) >= mostKinds {
			kind = "other"
		}
		status.ProblemKinds[kind]++
	}
}

// countDoubts says what is doubted. s.mu is held.
func (s *source) countDoubts(status *SourceStatus) {
	status.Released = maps.Clone(s.guard.released)
	for l := range s.guard.kept {
		if l.state != doubted {
			continue
		}
		status.Doubted++
		if d := l.endpoint.Doubt; status.Doubted == 1 || d.Since.Before(status.DoubtedSince) {
			status.DoubtedSince, status.DoubtReason = d.Since, d.Reason
		}
	}
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
		why += ": " + s.errText
	}
	return false, why
}

// mostError bounds the bytes of an error that are shown: what a server answers is in it.
const mostError = 1 << 10

// line makes one line of an error: what does not print is written as in Go, and what is too long is cut.
func line(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		said := text[:size]
		if !strconv.IsPrint(r) || r == utf8.RuneError && size == 1 {
			said = strconv.Quote(said)
			said = said[1 : len(said)-1]
		}
		if b.Len()+len(said) > mostError {
			return b.String() + "…"
		}
		b.WriteString(said)
		text = text[size:]
	}
	return b.String()
}
