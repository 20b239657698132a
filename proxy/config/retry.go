package config

import "time"

// RetryOn is a set of conditions under which a request is tried again on another host.
type RetryOn uint32

// The conditions, by Envoy's names.
const (
	RetryConnectFailure     RetryOn = 1 << iota // connect-failure: no connection could be made
	RetryReset                                  // reset: the upstream ended before the first byte of a response
	RetryRefusedStream                          // refused-stream
	Retry5xx                                    // 5xx
	RetryGatewayError                           // gateway-error: 502, 503, 504
	RetryResetBeforeRequest                     // reset-before-request: the same before a byte of the request was sent
	Retry4xx                                    // retriable-4xx: 409
	RetryStatusCodes                            // retriable-status-codes: those of Retry.Statuses
	RetryHeaders                                // retriable-headers: a response that Retry.Headers match
	RetryRateLimited                            // envoy-ratelimited: a response with x-envoy-ratelimited
	// Responses of gRPC that have this status and nothing else.
	RetryCancelled         // cancelled
	RetryDeadlineExceeded  // deadline-exceeded
	RetryResourceExhausted // resource-exhausted
	RetryInternal          // internal
	RetryUnavailable       // unavailable
)

// RetryGRPC are the conditions on a status of gRPC.
const RetryGRPC = RetryCancelled | RetryDeadlineExceeded | RetryResourceExhausted | RetryInternal | RetryUnavailable

// RetryNamed are the conditions that name a response with which the upstream declines the request. Only for them a request is
// repeated whatever its method is: who configures them knows what the upstream means by that response.
const RetryNamed = Retry4xx | RetryStatusCodes | RetryHeaders | RetryRateLimited | RetryGRPC

// Retry says when and how often a request is tried again. A request that was sent is only repeated when its body, if any, is
// still at hand and, but for RetryNamed, when its method is idempotent (RFC 9110 section 9.2.2).
type Retry struct {
	On             RetryOn
	Max            int
	PerTryTimeout  time.Duration // 0: the route's Timeout
	PerTryIdle     time.Duration // without a byte in either direction, within a try; 0: no limit
	Statuses       []int         // of RetryStatusCodes
	Headers        []HeaderMatch // of RetryHeaders: one that matches is enough
	RequestHeaders []HeaderMatch // not empty: only requests that one of them matches are retried
	// BackOff is the wait before the first retry, at most; it doubles with each retry up to MaxBackOff. 0: Envoy's 25 ms and
	// 250 ms, and no wait while there is a host that was not tried.
	BackOff, MaxBackOff time.Duration
	RateLimited         *RateLimitedBackOff // nil: the response does not say how long to wait
}

// RateLimitedBackOff takes the wait before a retry from the response that is the reason for it.
type RateLimitedBackOff struct {
	Headers []ResetHeader // the first that can be used counts
	Max     time.Duration // a longer wait is not believed
}

// ResetHeader is a field that says when a limited client may come again: in seconds from now, or as a Unix time.
type ResetHeader struct {
	Name string // lower case
	Unix bool
}

// RetryBudget limits the retries of a cluster to a part of its requests.
type RetryBudget struct {
	Percent        float64 // of the requests that are being served
	MinConcurrency uint32  // so many retries may always be
}
