// Package config is what a proxy is told, as plain immutable values: listeners, routes, clusters, endpoints.
//
// proxy/xds makes it from protobuf, the data path reads it through one pointer. It is pure: no I/O, no locks. A part
// that did not change keeps its pointer in the next Config, so pointer equality is the cheap "unchanged".
package config

import (
	"net/netip"
	"time"
)

// Config is everything a request may see. Nil slices and maps are empty.
type Config struct {
	// Version is what the control plane calls this state (delta: system_version_info; state of the world: version_info
	// of the type that changed last). Empty for a purely static configuration.
	Version string
	// Listeners is sorted by Name. A listener whose routes have not arrived yet is not in it (warming).
	Listeners []*Listener
	// Clusters by name.
	Clusters map[string]*Cluster
	// Absent are the names that were asked for and of which the control plane says that there is neither a listener nor a cluster.
	Absent map[string]bool
}

// Listener is a set of addresses and what to do with connections that arrive there. One that does the same with all of them, in
// plaintext, has one of HTTP and TCP; another one has Chains or Otherwise, or both.
type Listener struct {
	Name       string
	Addresses  []netip.AddrPort
	Pipes      []Pipe // unix sockets; at least one of these or of Addresses
	HTTP       *HTTP
	TCP        *TCP
	Chains     []*FilterChain // no two match the same
	Otherwise  *FilterChain   // takes what no other one does; nil: that is closed
	AccessLogs []AccessLog
	Filters    Filters
	// ProxyProtocol, if set, is what connections begin with.
	ProxyProtocol *ProxyProtocol
	// OriginalDst: where a connection was going before it was redirected here is asked of the kernel.
	OriginalDst bool
	Balance     Balance
	Keepalive   *TCPKeepalive // of clients' connections; nil: none
	// PortLabels are how ports are called in DNS, such as "_http._tcp", by their number; nil: nobody said so.
	PortLabels map[uint16]string
}

// HTTP says how requests on a listener are read, changed and routed (Envoy's HttpConnectionManager). Durations of 0
// mean no limit unless said otherwise; proxy/xds has put Envoy's defaults in.
type HTTP struct {
	StatPrefix            string
	Routes                *RouteTable   // never nil
	RequestHeadersTimeout time.Duration // from the first byte of a request to the end of its head
	RequestTimeout        time.Duration // from the first byte of a request to its last byte
	StreamIdleTimeout     time.Duration // without a byte in either direction, within a request
	IdleTimeout           time.Duration // a connection without a request
	DrainTimeout          time.Duration // for which a client of HTTP/2 may begin requests that was told to go; 0: a second
	DelayedCloseTimeout   time.Duration // for a client to read why its connection ends; 0: it may never know
	MaxRequestHeadBytes   int           // a larger head is answered with 431
	MaxRequestHeaders     int           // more header lines are answered with 431
	UseRemoteAddress      bool          // the peer's address is the client's: append it to x-forwarded-for
	XFFTrustedHops        int
	GenerateRequestID     bool
	ServerName            string   // "server" header of local replies and, overwriting, of responses
	Upgrades              []string // lower case, e.g. "websocket", or ConnectUpgrade; others are refused with 403
	Protocol              Protocol // that clients speak; not ProtocolDownstream
	HTTP2                 HTTP2
	AccessLogs            []AccessLog
	SuppressEnvoyHeaders  bool // x-envoy-upstream-service-time and x-envoy-overloaded are not added to responses, x-envoy-expected-rq-timeout-ms not to requests
	RequestPolicy
}

// TCP forwards bytes (Envoy's TcpProxy).
type TCP struct {
	StatPrefix  string
	Clusters    []WeightedCluster // at least one
	IdleTimeout time.Duration
	Attempts    uint32 // to connect to a host, another one each time if there is one; 0 is 1
	AccessLogs  []AccessLog
}

// RouteTable maps requests to clusters (Envoy's RouteConfiguration).
type RouteTable struct {
	Name         string
	VirtualHosts []*VirtualHost
}

// VirtualHost holds the routes of some domains. A domain is exact ("a.b", "a.b:80"), a suffix ("*.b", "*-x.b"), a prefix
// ("a.*", "a.b:*") or "*"; they are matched in that order, longest first, without regard to case.
type VirtualHost struct {
	Name    string
	Domains []string // lower case
	Routes  []*Route // the first that matches wins
}

// PathMatch is how a route compares a path.
type PathMatch uint8

// The ways to match a path, without its query.
const (
	PathPrefix          PathMatch = iota
	PathExact                     // equal
	PathSeparatedPrefix           // equal, or followed by '/'
	PathConnect                   // no path, which is CONNECT and nothing else; Path is empty
)

// Route is one rule of a virtual host. Exactly one of Clusters and Direct is set.
type Route struct {
	Name            string
	Path            string
	PathMatch       PathMatch
	CaseInsensitive bool
	Headers         []HeaderMatch // all must match
	Clusters        []WeightedCluster
	Hash            []HashPolicy // what chooses the host, with RingHash and Maglev
	Direct          *DirectResponse
	Timeout         time.Duration // for the whole response; 0: none
	IdleTimeout     time.Duration // 0: the HTTP's StreamIdleTimeout
	MaxDuration     time.Duration // of a request and its response; 0: the HTTP's MaxStreamDuration, less than 0: no limit
	GRPCTimeout     *GRPCTimeout  // a client's grpc-timeout takes the place of MaxDuration; nil: it does not
	TellDeadline    bool          // hosts are told by grpc-timeout what a call of gRPC may take, whatever its client said
	// TellHostAttempts and TellClientAttempts add x-envoy-attempt-count to requests and to responses.
	TellHostAttempts, TellClientAttempts bool
	Retry                                Retry
	Upgrades                             []Upgrade // what differs from the HTTP's Upgrades
	Terminate                            bool      // of PathConnect: the hosts get the tunnel's bytes and do not see CONNECT
}

// GRPCTimeout is how far a client's grpc-timeout is gone by.
type GRPCTimeout struct {
	Max    time.Duration // 0: no limit
	Offset time.Duration // by which it is shortened, at most to nothing
}

// HeaderMatch compares one request header. Pseudo headers (":method", ":path", ":authority") are allowed.
type HeaderMatch struct {
	Name    string // lower case
	Present bool   // the header must be there; Exact is ignored
	Exact   string
	Invert  bool
}

// WeightedCluster is a cluster's share of a route. Weights are at least 1.
type WeightedCluster struct {
	Name   string
	Weight uint32
	Labels Labels // of the hosts that are wanted, with Cluster.Subsets
}

// DirectResponse answers without an upstream.
type DirectResponse struct {
	Status int
	Body   string
}

// Cluster is a set of endpoints and how to use them.
type Cluster struct {
	Name           string
	Policy         Policy
	ConnectTimeout time.Duration // more than 0
	Keepalive      *TCPKeepalive // nil: none
	// PanicThreshold in percent: when fewer endpoints are healthy, health is ignored. 0: never.
	PanicThreshold float64
	Balancing
	Subsets        *Subsets      // nil: one set of all hosts
	IdleTimeout    time.Duration // of a pooled connection; 0: none
	MaxConnections uint32        // circuit breakers; 0: no limit
	MaxPending     uint32
	MaxRequests    uint32
	MaxRetries     uint32
	RetryBudget    *RetryBudget // takes the place of MaxRetries; nil: none
	Protocol       Protocol     // that the endpoints speak
	HTTP2          HTTP2
	TLS            *UpstreamTLS // nil: plaintext
	SocketMatches  []SocketMatch
	// A pooled connection is closed after so many requests, and when it is so old and its request is done. 0: no limit.
	MaxConnRequests uint32
	MaxConnDuration time.Duration
	// Assigned is false until the endpoints are known (EDS has not answered). An assigned cluster may be empty.
	Assigned  bool
	Endpoints []*Endpoint
	DNS       *DNS // where the endpoints come from, if by name
	// OriginalDst, if set, takes the place of Endpoints.
	OriginalDst *OriginalDst
	// ProxyHeader, if set, begins every connection to an endpoint.
	ProxyHeader *ProxyHeader

	HealthCheck *HealthCheck // nil: the proxy checks nothing itself
	Outlier     *Outlier     // nil: no outlier is detected
	// DropRemoved: an endpoint that is checked is not used on when it is taken away. SkipUnchecked: a new one is not even
	// counted before its first check.
	DropRemoved, SkipUnchecked bool
}

// Policy is a load balancing policy.
type Policy uint8

// The policies there are.
const (
	RoundRobin Policy = iota
	LeastRequest
	Random
	RingHash
	Maglev
)

// Endpoint is one upstream host of a cluster. Two Endpoints of one Addr in two Configs are the same host.
type Endpoint struct {
	Addr     Address
	Hostname string
	Weight   uint32 // at least 1
	Priority uint32
	Health   Health
	Locality Locality
	// LocalityWeight is the weight of the locality in its priority; 0: no requests where the cluster is LocalityWeighted.
	LocalityWeight uint32
	SocketMark     Marks  // what the cluster's SocketMatches look at
	HashKey        string // RingHash and Maglev know the endpoint by it; empty: by its address or hostname
	Labels         Labels // what Cluster.Subsets goes by
}

// Locality is where an endpoint runs.
type Locality struct {
	Region, Zone, SubZone string
}

// Health is what the control plane says of an endpoint.
type Health uint8

// The zero Health may be used.
const (
	Healthy Health = iota
	Degraded
	Unhealthy
	Draining
)
