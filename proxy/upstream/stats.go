package upstream

import (
	"time"

	"github.com/hostmesh/hostmesh/proxy/http2"
)

// Counter is one of the counters of a cluster.
type Counter uint8

// The counters, by Envoy's names (see String).
const (
	ConnTotal Counter = iota
	ConnConnectFail
	ConnAttemptsExceeded
	ConnConnectTimeout
	ConnHTTP1
	ConnHTTP2
	ConnDestroy
	ConnDestroyLocal
	ConnDestroyRemote
	ConnDestroyActive // with a request, or a tunnel
	ConnDestroyLocalActive
	ConnDestroyRemoteActive
	ConnOverflow
	ConnIdleTimeout
	ConnMaxRequests
	ConnMaxDuration
	ConnProtocolError // the host broke the rules of HTTP: on a connection, or on a stream of it
	ConnRxBytes
	ConnTxBytes
	NoneHealthy
	Panic
	SubsetSelected
	SubsetFallback
	SubsetFallbackPanic
	DestinationInvalid
	DestinationOverflow
	RequestTotal
	RequestCompleted
	RequestPendingTotal
	RequestPendingOverflow
	RequestCancelled
	RequestTimeout
	RequestPerTryTimeout
	RequestPerTryIdleTimeout
	RequestRxReset
	RequestTxReset
	Retry
	RetrySuccess
	RetryLimitExceeded
	RetryOverflow
	RetryBackoffExponential
	RetryBackoffRateLimited
	Request1xx
	Request2xx
	Request3xx
	Request4xx
	Request5xx
	TLSHandshake
	TLSResumed
	TLSError
	TLSVerifyNone
	TLSVerifyError
	TLSVerifySAN
	TLSVerifyHash
	NumCounters
)

var counterNames = [NumCounters]string{
	ConnTotal:                "upstream_cx_total",
	ConnConnectFail:          "upstream_cx_connect_fail",
	ConnAttemptsExceeded:     "upstream_cx_connect_attempts_exceeded",
	ConnConnectTimeout:       "upstream_cx_connect_timeout",
	ConnHTTP1:                "upstream_cx_http1_total",
	ConnHTTP2:                "upstream_cx_http2_total",
	ConnDestroy:              "upstream_cx_destroy",
	ConnDestroyLocal:         "upstream_cx_destroy_local",
	ConnDestroyRemote:        "upstream_cx_destroy_remote",
	ConnDestroyActive:        "upstream_cx_destroy_with_active_rq",
	ConnDestroyLocalActive:   "upstream_cx_destroy_local_with_active_rq",
	ConnDestroyRemoteActive:  "upstream_cx_destroy_remote_with_active_rq",
	ConnOverflow:             "upstream_cx_overflow",
	ConnIdleTimeout:          "upstream_cx_idle_timeout",
	ConnMaxRequests:          "upstream_cx_max_requests",
	ConnMaxDuration:          "upstream_cx_max_duration_reached",
	ConnProtocolError:        "upstream_cx_protocol_error",
	ConnRxBytes:              "upstream_cx_rx_bytes_total",
	ConnTxBytes:              "upstream_cx_tx_bytes_total",
	NoneHealthy:              "upstream_cx_none_healthy",
	Panic:                    "lb_healthy_panic",
	SubsetSelected:           "lb_subsets_selected",
	SubsetFallback:           "lb_subsets_fallback",
	SubsetFallbackPanic:      "lb_subsets_fallback_panic",
	DestinationInvalid:       "original_dst_host_invalid",
	DestinationOverflow:      "original_dst_host_overflow",
	RequestTotal:             "upstream_rq_total",
	RequestCompleted:         "upstream_rq_completed",
	RequestPendingTotal:      "upstream_rq_pending_total",
	RequestPendingOverflow:   "upstream_rq_pending_overflow",
	RequestCancelled:         "upstream_rq_cancelled",
	RequestTimeout:           "upstream_rq_timeout",
	RequestPerTryTimeout:     "upstream_rq_per_try_timeout",
	RequestPerTryIdleTimeout: "upstream_rq_per_try_idle_timeout",
	RequestRxReset:           "upstream_rq_rx_reset",
	RequestTxReset:           "upstream_rq_tx_reset",
	Retry:                    "upstream_rq_retry",
	RetrySuccess:             "upstream_rq_retry_success",
	RetryLimitExceeded:       "upstream_rq_retry_limit_exceeded",
	RetryOverflow:            "upstream_rq_retry_overflow",
	RetryBackoffExponential:  "upstream_rq_retry_backoff_exponential",
	RetryBackoffRateLimited:  "upstream_rq_retry_backoff_ratelimited",
	Request1xx:               "upstream_rq_1xx",
	Request2xx:               "upstream_rq_2xx",
	Request3xx:               "upstream_rq_3xx",
	Request4xx:               "upstream_rq_4xx",
	Request5xx:               "upstream_rq_5xx",
	TLSHandshake:             "ssl.handshake",
	TLSResumed:               "ssl.session_reused",
	TLSError:                 "ssl.connection_error",
	TLSVerifyNone:            "ssl.fail_verify_no_cert",
	TLSVerifyError:           "ssl.fail_verify_error",
	TLSVerifySAN:             "ssl.fail_verify_san",
	TLSVerifyHash:            "ssl.fail_verify_cert_hash",
}

// String is the counter's name.
func (c Counter) String() string { return counterNames[c] }

// Stats are the counters of a cluster on one loop.
type Stats struct {
	Count [NumCounters]uint64
	// Time is how long requests took, from the end of the request head to the end of the response; Connect how long connections
	// took to open, and Length how long they lived. nil: there was none.
	Time, Connect, Length *Histogram
	// HTTP2 counts what happened on connections of HTTP/2. nil: there was none.
	HTTP2 *http2.Counts

	codes []codeCount
}

type codeCount struct {
	code  int
	count uint64
}

// maxCodes is how many statuses are counted each: more than there are, so that it bounds only what hosts make up.
const maxCodes = 200

// CountStatus counts a response.
func (s *Stats) CountStatus(status int) { s.addStatus(status, 1) }

func (s *Stats) addStatus(status int, n uint64) {
	for i := range s.codes {
		if s.codes[i].code != status {
			continue
		}
		if s.codes[i].count += n; i > 0 && s.codes[i].count > s.codes[i-1].count { // what is usual is found at once
			s.codes[i-1], s.codes[i] = s.codes[i], s.codes[i-1]
		}
		return
	}
	if len(s.codes) < maxCodes {
		s.codes = append(s.codes, codeCount{status, n})
	}
}

// Statuses passes each status that was counted to f, in no order.
func (s *Stats) Statuses(f func(status int, count uint64)) {
	for _, c := range s.codes {
		f(c.code, c.count)
	}
}

// Observe counts a request that took d.
func (s *Stats) Observe(d time.Duration) { observe(&s.Time, d) }

func observe(h **Histogram, d time.Duration) {
	if *h == nil {
		*h = &Histogram{}
	}
	(*h).Observe(d)
}

// Add adds another loop's counters.
func (s *Stats) Add(other *Stats) {
	for i, n := range other.Count {
		s.Count[i] += n
	}
	for _, h := range [...]struct{ mine, other **Histogram }{{&s.Time, &other.Time}, {&s.Connect, &other.Connect}, {&s.Length, &other.Length}} {
		if *h.other == nil {
			continue
		}
		if *h.mine == nil {
			*h.mine = &Histogram{}
		}
		(*h.mine).Add(*h.other)
	}
	if other.HTTP2 != nil {
		if s.HTTP2 == nil {
			s.HTTP2 = &http2.Counts{}
		}
		s.HTTP2.Add(other.HTTP2)
	}
	other.Statuses(s.addStatus)
}

// HostStats are the counters of a host on one loop.
type HostStats struct {
	ConnTotal, ConnectFail                   uint64
	RequestTotal, RequestSuccess, RequestErr uint64
	RequestTimeout                           uint64
}

// Add adds another loop's counters.
func (s *HostStats) Add(other *HostStats) {
	s.ConnTotal += other.ConnTotal
	s.ConnectFail += other.ConnectFail
	s.RequestTotal += other.RequestTotal
	s.RequestSuccess += other.RequestSuccess
	s.RequestErr += other.RequestErr
	s.RequestTimeout += other.RequestTimeout
}

// Bounds are the upper bounds of a histogram's buckets in milliseconds: those of Envoy.
var Bounds = [...]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// Histogram counts durations in buckets.
type Histogram struct {
	Buckets [len(Bounds) + 1]uint64 // the last has no bound
	Count   uint64
	Sum     time.Duration
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	h.Count++
	h.Sum += d
	ms := float64(d) / float64(time.Millisecond)
	i := 0
	for i < len(Bounds) && ms > Bounds[i] {
		i++
	}
	h.Buckets[i]++
}

// Add adds another loop's counts.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range other.Buckets {
		h.Buckets[i] += n
	}
	h.Count += other.Count
	h.Sum += other.Sum
}
