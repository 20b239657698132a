package proxy

import (
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// httpCounter is one of the counters of HTTP listeners that share a stat prefix.
type httpCounter uint8

const (
	httpCxTotal httpCounter = iota
	httpCxIdleTimeout
	httpCxProtocolError
	httpCxHTTP1 // connections of either version follow each other, and so do their requests
	httpCxHTTP2
	httpRqHTTP1
	httpRqHTTP2
	httpCxDestroy
	httpCxDestroyLocal // what the client did follows what was done here
	httpCxDestroyRemote
	httpCxDestroyActive
	httpCxDestroyLocalActive
	httpCxDestroyRemoteActive
	httpCxDelayedClose
	httpRqTotal
	httpRqCompleted
	httpRq1xx
	httpRq2xx
	httpRq3xx
	httpRq4xx
	httpRq5xx
	httpRqRxReset
	httpRqTxReset
	httpRqTimeout
	httpRqHeaderTimeout
	httpRqIdleTimeout
	httpUpgradesTotal
	httpNoRoute
	httpNoCluster
	httpCxMaxRequests
	httpCxMaxDuration
	httpRqMaxDuration
	httpPathFailed
	httpPathRedirected
	httpRqOverload
	httpRqDirect
	httpRqResets
	httpCxOverloadKeepAlive
	httpUnderscoreRejected
	httpUnderscoreDropped
	numHTTPCounters
)

var httpCounterNames = [numHTTPCounters]string{
	httpCxTotal:         "downstream_cx_total",
	httpCxIdleTimeout:   "downstream_cx_idle_timeout",
	httpCxProtocolError: "downstream_cx_protocol_error",
	httpCxHTTP1:         "downstream_cx_http1_total",
	httpCxHTTP2:         "downstream_cx_http2_total",
	httpRqHTTP1:         "downstream_rq_http1_total",
	httpRqHTTP2:         "downstream_rq_http2_total",
	httpCxDestroy:       "downstream_cx_destroy",
	httpCxDestroyLocal:  "downstream_cx_destroy_local",
	httpCxDestroyRemote: "downstream_cx_destroy_remote",
	httpCxDestroyActive: "downstream_cx_destroy_active_rq",
	httpCxDelayedClose:  "downstream_cx_delayed_close_timeout",
	httpRqTotal:         "downstream_rq_total",
	httpRqCompleted:     "downstream_rq_completed",
	httpRq1xx:           "downstream_rq_1xx",
	httpRq2xx:           "downstream_rq_2xx",
	httpRq3xx:           "downstream_rq_3xx",
	httpRq4xx:           "downstream_rq_4xx",
	httpRq5xx:           "downstream_rq_5xx",
	httpRqRxReset:       "downstream_rq_rx_reset",
	httpRqTxReset:       "downstream_rq_tx_reset",
	httpRqTimeout:       "downstream_rq_timeout",
	httpRqHeaderTimeout: "downstream_rq_header_timeout",
	httpRqIdleTimeout:   "downstream_rq_idle_timeout",
	httpUpgradesTotal:   "downstream_cx_upgrades_total",
	httpNoRoute:         "no_route",
	httpNoCluster:       "no_cluster",
	httpCxMaxRequests:   "downstream_cx_max_requests_reached",
	httpCxMaxDuration:   "downstream_cx_max_duration_reached",
	httpRqMaxDuration:   "downstream_rq_max_duration_reached",
	httpPathFailed:      "downstream_rq_failed_path_normalization",
	httpPathRedirected:  "downstream_rq_redirected_with_normalized_path",
	httpRqOverload:      "downstream_rq_overload_close",

	httpRqDirect: "rq_direct_response",
	httpRqResets: "downstream_rq_too_many_premature_resets",

	httpCxDestroyLocalActive:  "downstream_cx_destroy_local_active_rq",
	httpCxDestroyRemoteActive: "downstream_cx_destroy_remote_active_rq",

	httpCxOverloadKeepAlive: "downstream_cx_overload_disable_keepalive",
	// Envoy counts these two by codec and not by listener; admin_stats.go sums them up.
	httpUnderscoreRejected: "requests_rejected_with_underscores_in_headers",
	httpUnderscoreDropped:  "dropped_headers_with_underscores",
}

// httpStats are one loop's counts of a stat prefix.
type httpStats struct {
	count    [numHTTPCounters]uint64
	active   int // requests
	conns    int
	versions [2]int // of them, by the version of HTTP that they are known to speak
	upgrades int    // tunnels
	time     upstream.Histogram
	length   upstream.Histogram // of connections' lives
}

func (s *httpStats) add(other *httpStats) {
	for i, n := range other.count {
		s.count[i] += n
	}
	s.active += other.active
	s.conns += other.conns
	for i, n := range other.versions {
		s.versions[i] += n
	}
	s.upgrades += other.upgrades
	s.time.Add(&other.time)
	s.length.Add(&other.length)
}

// samples are the figures, without their owner.
func (s *httpStats) samples() []sample {
	out := make([]sample, 0, numHTTPCounters+8)
	for i, v := range s.count[:httpUnderscoreRejected] {
		out = append(out, sample{name: httpCounterNames[i], value: v})
	}
	for _, g := range []struct {
		name  string
		value int
	}{
		{"downstream_cx_active", s.conns},
		{"downstream_rq_active", s.active},
		{"downstream_cx_http1_active", s.versions[0]},
		{"downstream_cx_http2_active", s.versions[1]},
		{"downstream_cx_upgrades_active", s.upgrades},
	} {
		out = append(out, sample{name: g.name, value: uint64(g.value), gauge: true})
	}
	return append(out, sample{name: "downstream_rq_time", histogram: &s.time}, sample{name: "downstream_cx_length_ms", histogram: &s.length})
}

// tcpCounter is one of the counters of TCP listeners that share a stat prefix.
type tcpCounter uint8

const (
	tcpCxTotal tcpCounter = iota
	tcpNoRoute
	tcpConnectFail
	tcpIdleTimeout
	tcpRxBytes
	tcpTxBytes
	numTCPCounters
)

var tcpCounterNames = [numTCPCounters]string{
	tcpCxTotal:     "downstream_cx_total",
	tcpNoRoute:     "downstream_cx_no_route",
	tcpConnectFail: "upstream_connect_fail",
	tcpIdleTimeout: "idle_timeout",
	tcpRxBytes:     "downstream_cx_rx_bytes_total",
	tcpTxBytes:     "downstream_cx_tx_bytes_total",
}

type tcpStats struct {
	count  [numTCPCounters]uint64
	active int
}

func (s *tcpStats) add(other *tcpStats) {
	for i, n := range other.count {
		s.count[i] += n
	}
	s.active += other.active
}

// listenerCounter is one of the counters of a listening address.
type listenerCounter uint8

const (
	listenerCxTotal listenerCounter = iota
	listenerCxDestroy
	listenerAcceptError
	listenerRxBytes
	listenerTxBytes
	listenerPreCxTimeout
	listenerFilterRemoteClose
	listenerFilterError
	listenerNoChain
	listenerCxOverflow
	listenerGlobalOverflow
	listenerOverloadReject
	listenerOverloadReset
	listenerCxRebalanced
	listenerHandshakeTimeout
	listenerHandshake
	listenerHandshakeError
	listenerResumed
	listenerNoCertificate
	listenerVerifyNone
	listenerVerifyError
	listenerVerifySAN
	listenerVerifyHash
	listenerPreCxActive // from here: gauges
	listenerCxActive
	numListenerCounters
)

var listenerCounterNames = [numListenerCounters]string{
	listenerCxTotal:     "downstream_cx_total",
	listenerCxActive:    "downstream_cx_active",
	listenerCxDestroy:   "downstream_cx_destroy",
	listenerAcceptError: "downstream_listener_accept_error",
	listenerRxBytes:     "downstream_cx_rx_bytes_total",
	listenerTxBytes:     "downstream_cx_tx_bytes_total",

	listenerNoChain: "no_filter_chain_match",

	listenerHandshakeTimeout: "downstream_cx_transport_socket_connect_timeout",
	listenerHandshake:        "ssl.handshake",
	listenerHandshakeError:   "ssl.connection_error",
	listenerResumed:          "ssl.session_reused",
	listenerNoCertificate:    "ssl.no_certificate",
	listenerVerifyNone:       "ssl.fail_verify_no_cert",
	listenerVerifyError:      "ssl.fail_verify_error",
	listenerVerifySAN:        "ssl.fail_verify_san",
	listenerVerifyHash:       "ssl.fail_verify_cert_hash",

	listenerPreCxTimeout:      "downstream_pre_cx_timeout",
	listenerFilterRemoteClose: "downstream_listener_filter_remote_close",
	listenerFilterError:       "downstream_listener_filter_error",
	listenerPreCxActive:       "downstream_pre_cx_active",

	listenerCxOverflow:     "downstream_cx_overflow",
	listenerGlobalOverflow: "downstream_global_cx_overflow",
	listenerOverloadReject: "downstream_cx_overload_reject",
	listenerOverloadReset:  "downstream_cx_overload_reset", // ours
	listenerCxRebalanced:   "downstream_cx_rebalanced",     // ours
}

type listenerStats struct {
	count [numListenerCounters]uint64
}

func (s *listenerStats) add(other *listenerStats) {
	for i, n := range other.count {
		s.count[i] += n
	}
}

// listenerChanges count what became of listeners.
type listenerChanges struct{ added, modified, removed uint64 }

// count takes a change of the configuration's listeners.
func (n *listenerChanges) count(old, now []*config.Listener) {
	before := make(map[string]*config.Listener, len(old))
	for _, l := range old {
		before[l.Name] = l
	}
	for _, l := range now {
		switch was := before[l.Name]; was {
		case l:
		case nil:
			n.added++
		default:
			n.modified++
		}
		delete(before, l.Name)
	}
	n.removed += uint64(len(before))
}
