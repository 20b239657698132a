// Package retry decides whether a request is tried again, and when. It is pure: what happened goes in, the verdict comes out.
package retry

import (
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Failure is how a try ended that brought no response.
type Failure uint8

// The failures.
const (
	None      Failure = iota // there is a response
	NoConnect                // no connection could be made
	Ended                    // the upstream closed or reset the connection
	TimedOut                 // the try took too long
	Refused                  // the upstream refused the stream: it has not processed the request
)

// Outcome is how a try ended.
type Outcome struct {
	Failure     Failure
	Unsent      bool // not a byte of the request was sent
	Status      int  // of the response
	Header      bool // the response is one of the policy's Headers
	RateLimited bool // the response has x-envoy-ratelimited
}

// State is what is known of the request.
type State struct {
	Retries int
	AtHand  bool // all of it that was sent can be sent again, and nothing is missing
	Safe    bool // to send it twice does no harm: its method is idempotent, or nothing was sent
}

// Verdict is what to do.
type Verdict uint8

// The verdicts.
const (
	Pass      Verdict = iota // give the client what there is
	Again                    // try again
	Exhausted                // the same as Pass, because all retries are used up
)

// Decide says what to do about a try.
func Decide(p *config.Retry, o Outcome, s State) Verdict {
	met := p.On & conditions(p, o)
	switch {
	case met == 0 || !s.AtHand || !s.Safe && met&config.RetryNamed == 0:
		return Pass
	case s.Retries >= p.Max:
		return Exhausted
	}
	return Again
}

// conditions are those of Envoy that an outcome meets. A failure without a response meets 5xx and gateway-error too: the client
// would see it as one of them.
func conditions(p *config.Retry, o Outcome) config.RetryOn {
	var on config.RetryOn
	if o.Failure != None {
		on = config.RetryReset | config.Retry5xx | config.RetryGatewayError
		switch o.Failure {
		case NoConnect:
			on |= config.RetryConnectFailure
		case Refused:
			on |= config.RetryRefusedStream
		}
		if o.Unsent && o.Failure != TimedOut {
			on |= config.RetryResetBeforeRequest
		}
		return on
	}
	if o.RateLimited {
		return config.RetryRateLimited // and nothing else, whatever the status is
	}
	switch {
	case o.Status == 502, o.Status == 503, o.Status == 504:
		on = config.Retry5xx | config.RetryGatewayError
	case o.Status >= 500:
		on = config.Retry5xx
	case o.Status == 409:
		on = config.Retry4xx
	}
	if slices.Contains(p.Statuses, o.Status) {
		on |= config.RetryStatusCodes
	}
	if o.Header {
		on |= config.RetryHeaders
	}
	return on
}

// Envoy's waits when the policy has none.
const (
	defaultBackOff    = 25 * time.Millisecond
	defaultMaxBackOff = 250 * time.Millisecond
)

// BackOff is the wait before the retry that follows so many others: a part, drawn by random, of what doubles with each of them.
// It is more than 0.
func BackOff(p *config.Retry, retries int, random uint64) time.Duration {
	base, most := p.BackOff, p.MaxBackOff
	if base <= 0 {
		base, most = defaultBackOff, defaultMaxBackOff
	}
	wait := base
	for ; retries > 0 && wait < most; retries-- {
		wait *= 2
		if wait <= 0 {
			wait = most
		}
	}
	return time.Duration(random%uint64(min(wait, most))) + 1
}

// ResetAfter is the wait that a response asks for by a field, read at the Unix time now: never less than it says, and up to half
// more, so that not all come back at once. ok is false when the value is no number, or the wait is too long to be believed.
func ResetAfter(b *config.RateLimitedBackOff, unix bool, value []byte, now int64, random uint64) (wait time.Duration, ok bool) {
	var n int64
	if len(value) == 0 || len(value) > 18 {
		return 0, false
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if unix {
		n -= now
	}
	if n < 0 || n > int64(b.Max/time.Second) {
		return 0, false
	}
	wait = time.Duration(n) * time.Second
	if half := uint64(wait / 2); half > 0 {
		wait += time.Duration(random % half)
	}
	return max(wait, 1), true
}
