package upstream

import "time"

// Counter is one of the counters of a cluster.
type Counter uint8

// The counters, by Envoy's names (see String).
const (
	ConnTotal Counter = iota
	ConnConnectFail
	ConnAttemptsExceeded
	ConnConnectTimeout
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
	NumCounters
)

var counterNames = [NumCounters]string{
	ConnTotal:                "upstream_cx_total",
	ConnConnectFail:          "upstream_cx_connect_fail",
	ConnAttemptsExceeded:     "upstream_cx_connect_attempts_exceeded",
	ConnConnectTimeout:       "upstream_cx_connect_timeout",
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
}

// String is the counter's name.
func (c Counter) String() string { return counterNames[c] }

// Stats are the counters of a cluster on one loop.
type Stats struct {
	Count [NumCounters]uint64
	// Time is how long requests took, from the end of the request head to the end of the response.
	Time *Histogram
}

// Observe counts a request that took d.
func (s *Stats) Observe(d time.Duration) {
	if s.Time == nil {
		s.Time = &Histogram{}
	}
	s.Time.Observe(d)
}

// Add adds another loop's counters.
func (s *Stats) Add(other *Stats) {
	for i, n := range other.Count {
		s.Count[i] += n
	}
	if other.Time != nil {
		if s.Time == nil {
			s.Time = &Histogram{}
		}
		s.Time.Add(other.Time)
	}
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
