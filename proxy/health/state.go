package health

import (
	"math/rand/v2"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Flags say what checks have found of an endpoint. None means that it is healthy.
type Flags uint8

// The flags.
const (
	Failed   Flags = 1 << iota // or not checked yet
	Degraded                   // it says itself that it is, by x-envoy-degraded
	Pending                    // no check has ended yet
	TimedOut                   // the last check did
	Removed                    // the configuration has it no more: it is used until a check fails
)

// Outcome is the end of one check.
type Outcome uint8

// The outcomes.
const (
	Passed         Outcome = iota
	PassedDegraded         // with x-envoy-degraded
	Rejected               // an answer that means unhealthy, at once
	Retriable              // an answer that counts towards the threshold
	Refused                // no answer
	Late                   // no answer in time
	Unknown                // the reason is this host's: no descriptors, no network
)

// transition is what a check has done to an endpoint.
type transition uint8

const (
	unchanged transition = iota
	pending              // a threshold is begun
	changed
)

// state is an endpoint's health. It starts as unhealthy: an endpoint is used when a check has passed.
type state struct {
	flags            Flags
	passes, failures uint32 // in a row, towards a threshold
	checked          bool
}

func newState() state { return state{flags: Failed | Pending} }

// take applies the end of a check.
func (s *state) take(check *config.HealthCheck, o Outcome) transition {
	before := s.flags
	edge := false
	switch o {
	case Passed, PassedDegraded:
		edge = s.pass(check)
		s.flags &^= Degraded
		if o == PassedDegraded {
			s.flags |= Degraded
		}
	case Unknown:
		// It says nothing of the endpoint, but somebody may wait for the end of the first check.
	default:
		edge = s.fail(check, o)
	}
	s.flags &^= Pending
	s.checked = s.checked || o != Unknown
	switch {
	case s.flags != before:
		return changed
	case edge:
		return pending
	}
	return unchanged
}

// pass reports whether more checks must pass before the endpoint is healthy.
func (s *state) pass(check *config.HealthCheck) bool {
	s.failures = 0
	s.flags &^= TimedOut
	if s.flags&Failed == 0 {
		return false
	}
	s.passes++
	if s.checked && s.passes < check.HealthyThreshold {
		return true
	}
	s.passes = 0
	s.flags &^= Failed
	return false
}

// fail reports whether more checks must fail before the endpoint is unhealthy.
func (s *state) fail(check *config.HealthCheck, o Outcome) bool {
	s.passes = 0
	s.flags &^= TimedOut
	if o == Late {
		s.flags |= TimedOut
	}
	if s.flags&Failed != 0 {
		return false
	}
	s.failures++
	if o != Rejected && s.failures < check.UnhealthyThreshold {
		return true
	}
	s.failures = 0
	s.flags |= Failed
	return false
}

// interval is how long to wait for the next check. used: a connection to the cluster was made already.
func interval(check *config.HealthCheck, passed bool, t transition, used bool) time.Duration {
	d := check.Interval
	switch {
	case !used && passed && t != pending:
		d = check.NoTrafficHealthyInterval
	case !used:
		d = check.NoTrafficInterval
	case !passed && t == pending:
		d = check.UnhealthyEdgeInterval
	case !passed:
		d = check.UnhealthyInterval
	case t == pending:
		d = check.HealthyEdgeInterval
	}
	d += upTo(check.IntervalJitter) + upTo(time.Duration(float64(d)*float64(check.IntervalJitterPercent)/100))
	return max(d, time.Millisecond)
}

func upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}
