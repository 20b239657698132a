package accesslog

import (
	"strconv"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

type writer = func(o *op, dst []byte, r *Record) ([]byte, valueKind)

// operators are those without parameters.
var operators = map[string]writer{
	"PROTOCOL":                             func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, r.Protocol) },
	"UPSTREAM_PROTOCOL":                    func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, r.UpstreamProtocol) },
	"RESPONSE_CODE":                        func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return count(dst, uint64(max(r.Status, 0))) },
	"RESPONSE_FLAGS":                       func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return appendFlags(dst, r, false), text },
	"RESPONSE_FLAGS_LONG":                  func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return appendFlags(dst, r, true), text },
	"BYTES_RECEIVED":                       func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return count(dst, r.BytesReceived) },
	"BYTES_SENT":                           func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return count(dst, r.BytesSent) },
	"DURATION":                             func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return millis(dst, r.Duration) },
	"REQUEST_DURATION":                     func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return millis(dst, r.RequestDuration) },
	"REQUEST_TX_DURATION":                  func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return millis(dst, r.RequestTX) },
	"RESPONSE_DURATION":                    func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return millis(dst, r.ResponseDuration) },
	"RESPONSE_TX_DURATION":                 func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return millis(dst, r.ResponseTX) },
	"ROUTE_NAME":                           func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, r.Route) },
	"UPSTREAM_CLUSTER":                     func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, r.Cluster) },
	"UPSTREAM_CLUSTER_RAW":                 func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, r.Cluster) },
	"UPSTREAM_TRANSPORT_FAILURE_REASON":    func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return spaceless(dst, r.Failure) },
	"UPSTREAM_REQUEST_ATTEMPT_COUNT":       func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return count(dst, uint64(max(r.Attempts, 0))) },
	"CONNECTION_TERMINATION_DETAILS":       func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, r.Termination) },
	"DOWNSTREAM_TRANSPORT_FAILURE_REASON":  func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return spaceless(dst, r.DownstreamFailure) },
	"UNIQUE_ID":                            func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return raw(dst, r.Unique) },
	"TRACE_ID":                             func(_ *op, dst []byte, _ *Record) ([]byte, valueKind) { return dst, missing }, // nothing is traced
	"CONNECTION_ID":                        func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return count(dst, r.Connection) },
	"STREAM_ID":                            func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return raw(dst, r.RequestID) },
	"ACCESS_LOG_TYPE":                      func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, logType(r)) },
	"UPSTREAM_HOST":                        func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return addr(dst, r.UpstreamRemote) },
	"UPSTREAM_REMOTE_ADDRESS":              func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return addr(dst, r.reached()) },
	"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return ip(dst, r.reached()) },
	"UPSTREAM_REMOTE_PORT":                 func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return port(dst, r.reached()) },
	"UPSTREAM_LOCAL_ADDRESS": func(_ *op, dst []byte, r *Record) ([]byte, valueKind) {
		return addr(dst, config.Address{IP: r.UpstreamLocal})
	},
	"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": func(_ *op, dst []byte, r *Record) ([]byte, valueKind) {
		return ip(dst, config.Address{IP: r.UpstreamLocal})
	},
	"UPSTREAM_LOCAL_PORT": func(_ *op, dst []byte, r *Record) ([]byte, valueKind) {
		return port(dst, config.Address{IP: r.UpstreamLocal})
	},
	"DOWNSTREAM_REMOTE_ADDRESS":                     func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return addr(dst, config.Address{IP: r.Remote}) },
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":        func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return ip(dst, config.Address{IP: r.Remote}) },
	"DOWNSTREAM_REMOTE_PORT":                        func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return port(dst, config.Address{IP: r.Remote}) },
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":              func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return addr(dst, config.Address{IP: r.Direct}) },
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return ip(dst, config.Address{IP: r.Direct}) },
	"DOWNSTREAM_DIRECT_REMOTE_PORT":                 func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return port(dst, config.Address{IP: r.Direct}) },
	"DOWNSTREAM_LOCAL_ADDRESS":                      func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return addr(dst, r.Local) },
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":         func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return ip(dst, r.Local) },
	"DOWNSTREAM_LOCAL_PORT":                         func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return port(dst, r.Local) },
	"DOWNSTREAM_TLS_VERSION":                        downstreamTLS(func(t *TLS) string { return t.Version }),
	"DOWNSTREAM_TLS_CIPHER":                         downstreamTLS(func(t *TLS) string { return t.Cipher }),
	"DOWNSTREAM_PEER_SUBJECT":                       downstreamTLS(func(t *TLS) string { return t.Subject }),
	"DOWNSTREAM_PEER_ISSUER":                        downstreamTLS(func(t *TLS) string { return t.Issuer }),
	"DOWNSTREAM_PEER_SERIAL":                        downstreamTLS(func(t *TLS) string { return t.Serial }),
	"DOWNSTREAM_PEER_FINGERPRINT_256":               downstreamTLS(func(t *TLS) string { return t.Fingerprint }),
	"DOWNSTREAM_PEER_URI_SAN":                       downstreamTLS(func(t *TLS) string { return t.URIs }),
	"DOWNSTREAM_PEER_DNS_SAN":                       downstreamTLS(func(t *TLS) string { return t.DNSNames }),
	"UPSTREAM_TLS_VERSION":                          upstreamTLS(func(t *TLS) string { return t.Version }),
	"UPSTREAM_TLS_CIPHER":                           upstreamTLS(func(t *TLS) string { return t.Cipher }),
	"UPSTREAM_PEER_SUBJECT":                         upstreamTLS(func(t *TLS) string { return t.Subject }),
	"UPSTREAM_PEER_ISSUER":                          upstreamTLS(func(t *TLS) string { return t.Issuer }),
	"UPSTREAM_PEER_URI_SAN":                         upstreamTLS(func(t *TLS) string { return t.URIs }),
	"UPSTREAM_PEER_DNS_SAN":                         upstreamTLS(func(t *TLS) string { return t.DNSNames }),
	"REQUESTED_SERVER_NAME":                         downstreamTLS(func(t *TLS) string { return t.ServerName }),
	"FILTER_CHAIN_NAME":                             func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return str(dst, r.Chain) },
	"GRPC_STATUS_NUMBER":                            func(_ *op, dst []byte, r *Record) ([]byte, valueKind) { return appendGRPC(dst, r, grpcNumber) },
}

func logType(r *Record) string {
	switch {
	case r.Listener:
		return "NotSet" // as in Envoy
	case r.TCP:
		return "TcpConnectionEnd"
	}
	return "DownstreamEnd"
}

func str(dst []byte, s string) ([]byte, valueKind) {
	if s == "" {
		return dst, missing
	}
	return append(dst, s...), text
}

func raw(dst, s []byte) ([]byte, valueKind) {
	if len(s) == 0 {
		return dst, missing
	}
	return append(dst, s...), text
}

// spaceless writes a phrase as one word.
func spaceless(dst []byte, s string) ([]byte, valueKind) {
	from := len(dst)
	dst, kind := str(dst, s)
	for i, c := range dst[from:] {
		if c == ' ' || c == '\t' {
			dst[from+i] = '_'
		}
	}
	return dst, kind
}

func count(dst []byte, n uint64) ([]byte, valueKind) { return strconv.AppendUint(dst, n, 10), number }

func millis(dst []byte, d time.Duration) ([]byte, valueKind) {
	if d < 0 {
		return dst, missing
	}
	return strconv.AppendInt(dst, int64(d/time.Millisecond), 10), number
}

func addr(dst []byte, a config.Address) ([]byte, valueKind) {
	if !a.IP.IsValid() {
		return str(dst, a.Path)
	}
	return a.IP.AppendTo(dst), text
}

func ip(dst []byte, a config.Address) ([]byte, valueKind) {
	if !a.IP.IsValid() {
		return str(dst, a.Path)
	}
	return a.IP.Addr().AppendTo(dst), text
}

func port(dst []byte, a config.Address) ([]byte, valueKind) {
	if !a.IP.IsValid() {
		return dst, missing
	}
	return strconv.AppendUint(dst, uint64(a.IP.Port()), 10), number
}

func (o *op) constant(dst []byte, _ *Record) ([]byte, valueKind) { return str(dst, o.text) }

func (o *op) details(dst []byte, r *Record) ([]byte, valueKind) {
	if o.arg != 0 {
		return str(dst, r.Details)
	}
	return spaceless(dst, r.Details)
}

// appendFlags writes the flags with commas between them, "-" without one.
func appendFlags(dst []byte, r *Record, long bool) []byte {
	from := len(dst)
	for i, name := range r.FlagNames {
		if r.Flags>>i&1 == 0 {
			continue
		}
		if len(dst) > from {
			dst = append(dst, ',')
		}
		if long {
			name = longFlag(name)
		}
		dst = append(dst, name...)
	}
	if len(dst) == from {
		dst = append(dst, '-')
	}
	return dst
}

// longFlag is Envoy's long name of a response flag, empty for one that does not exist.
func longFlag(short string) string {
	for i := 0; i < len(flagTable); i += 2 {
		if flagTable[i] == short {
			return flagTable[i+1]
		}
	}
	return ""
}

var flagTable = [...]string{
	"UH", "NoHealthyUpstream", "UF", "UpstreamConnectionFailure", "UT", "UpstreamRequestTimeout", "UC", "UpstreamConnectionTermination",
	"UO", "UpstreamOverflow", "NR", "NoRouteFound", "URX", "UpstreamRetryLimitExceeded", "DC", "DownstreamConnectionTermination",
	"DPE", "DownstreamProtocolError", "UPE", "UpstreamProtocolError", "SI", "StreamIdleTimeout", "NC", "NoClusterFound", "DT", "DurationTimeout",
	"UMSDR", "UpstreamMaxStreamDurationReached", "OM", "OverloadManagerTerminated", "LH", "FailedLocalHealthCheck", "LR", "LocalReset",
	"UR", "UpstreamRemoteReset", "DI", "DelayInjected", "FI", "FaultInjected", "RL", "RateLimited", "UAEX", "UnauthorizedExternalService",
	"RLSE", "RateLimitServiceError", "IH", "InvalidEnvoyRequestHeaders", "RFCF", "ResponseFromCacheFilter", "NFCF", "NoFilterConfigFound",
	"DF", "DnsResolutionFailed", "DO", "DropOverload", "DR", "DownstreamRemoteReset", "UDO", "UnconditionalDropOverload",
}
