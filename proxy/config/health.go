package config

import "time"

// HealthCheck says how the proxy itself finds out which endpoints of a cluster work. Exactly one of HTTP, TCP and GRPC is
// set.
type HealthCheck struct {
	Timeout               time.Duration // of a check; more than 0
	Interval              time.Duration // between checks of a healthy endpoint; more than 0
	InitialJitter         time.Duration // the first check waits for up to that
	IntervalJitter        time.Duration // up to that is added to every interval
	IntervalJitterPercent uint32        // the same in percent of the interval

	UnhealthyThreshold uint32 // failures in a row after which an endpoint is unhealthy; at least 1
	HealthyThreshold   uint32 // successes in a row after which it is healthy again; at least 1

	// The intervals of other states; proxy/xds has put Envoy's defaults in. An edge is a state of which a part of the
	// threshold's checks speak already.
	UnhealthyInterval     time.Duration
	UnhealthyEdgeInterval time.Duration
	HealthyEdgeInterval   time.Duration
	// Those of a cluster to which no connection was made yet.
	NoTrafficInterval        time.Duration
	NoTrafficHealthyInterval time.Duration

	ReuseConnection bool
	HTTP            *HTTPCheck
	TCP             *TCPCheck
	GRPC            *GRPCCheck
}

// HTTPCheck is a request over HTTP/1.1, or over HTTP/2.
type HTTPCheck struct {
	HTTP2     bool
	Method    string // GET or HEAD
	Host      string // empty: the cluster's name
	Path      string
	Headers   []CheckHeader
	Expected  []StatusRange // of a healthy endpoint
	Retriable []StatusRange // others are failures at once, these count towards the threshold
}

// CheckHeader is a field that a check sends.
type CheckHeader struct{ Name, Value string }

// StatusRange is From <= status < To.
type StatusRange struct{ From, To int }

// TCPCheck is a connection over which Send goes; the endpoint must answer with the blocks of Receive, in that order, with
// anything around them. Without Receive it is healthy when it accepts the connection.
type TCPCheck struct {
	Send    []byte
	Receive [][]byte
}

// GRPCCheck asks gRPC's health service (grpc.health.v1) about a service.
type GRPCCheck struct {
	Service   string        // empty: the server as a whole
	Authority string        // empty: the cluster's name
	Metadata  []CheckHeader // sent along
}

// Outlier says which endpoints are put out of use because of how requests to them end. Percentages are 0 to 100.
type Outlier struct {
	Interval           time.Duration // between sweeps; more than 0
	BaseEjectionTime   time.Duration // times the number of ejections in a row
	MaxEjectionTime    time.Duration // not less than BaseEjectionTime
	EjectionJitter     time.Duration // up to that is added
	MaxEjectionPercent uint32        // of the endpoints
	AlwaysEjectOne     bool          // whatever MaxEjectionPercent says
	// SplitLocal tells failures to reach an endpoint from its answers. Otherwise they count as answers 503 and 504.
	SplitLocal bool
	// KeepOnCheck: a passed health check does not end an ejection.
	KeepOnCheck bool

	// Failures in a row that are detected; 0 is never. Each kind is enforced in so many percent of the cases.
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocal uint32
	Enforce5xx, EnforceGateway, EnforceLocal             uint32

	SuccessRate       RateRule // Threshold: thousandths of the standard deviation below the mean
	FailurePercentage RateRule // Threshold: percent of failures
}

// RateRule compares the endpoints of a cluster over an interval.
type RateRule struct {
	MinimumHosts   uint32 // with RequestVolume requests each, or nothing is compared
	RequestVolume  uint32
	Threshold      uint32
	Enforce        uint32
	EnforceOfLocal uint32 // of failures to reach an endpoint
}
