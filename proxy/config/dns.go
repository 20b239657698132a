package config

import (
	"net/netip"
	"time"
)

// DNS says how the endpoints of a cluster are found by name (Envoy's STRICT_DNS and LOGICAL_DNS). Who reads a Config
// before package resolve has seen it finds no endpoints in such a cluster.
type DNS struct {
	// Logical: the cluster is one host, and new connections go to the first address of the latest answer; those that are
	// open stay. Otherwise every address is an endpoint.
	Logical bool
	Names   []DNSName // exactly one when Logical
	Lookup  DNSLookup

	Refresh     time.Duration // between lookups; more than 0
	RespectTTL  bool          // an answer's TTL counts instead of Refresh, unless it is 0
	LeastTTL    time.Duration // a shorter TTL counts as this one
	Jitter      time.Duration // a lookup after a good answer is up to this much later
	FailureBase time.Duration // after a failure, doubled after each further one; 0: Refresh
	FailureMost time.Duration // at least FailureBase
}

// DNSName is a name and what its addresses have in common.
type DNSName struct {
	Host string // a name in lower case, or an IP address
	Port uint16
	As   Endpoint // without Addr
}

// DNSFamily says which addresses of a name are used.
type DNSFamily uint8

// The families, by Envoy's names.
const (
	DNSAuto        DNSFamily = iota // IPv6; IPv4 when there is none
	DNSV4Only                       // IPv4
	DNSV6Only                       // IPv6
	DNSV4Preferred                  // IPv4; IPv6 when there is none
	DNSAll                          // both
)

// DNSLookup says how names are looked up.
type DNSLookup struct {
	Family DNSFamily
	// Servers are asked instead of those of resolv.conf, or, with Fallback, when that has none.
	Servers  []netip.AddrPort
	Fallback bool
	Rotate   bool          // each question begins with another server
	TCP      bool          // and never UDP
	AsIs     bool          // no search domains
	Timeout  time.Duration // of one try; more than 0
	Tries    int           // how often each server is asked; at least 1
	UDPBytes uint16        // the largest answer by UDP that is asked for
}
