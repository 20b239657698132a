// Package hostfile reads the files that say by hand what runs where: services.d/*.yaml (what this host runs) and
// static.d/*.yaml (the same schema and endpoints: what others run). One file holds one service or several documents.
//
//	service: web                      # or namespace/web; or with a field namespace
//	port: 8080                        # what callers dial and where the instance listens
//	protocol: http                    # tcp (default), udp, http, http2, grpc or tls
//	labels: {version: v1}
//	check: {http: /healthz, interval: 2s}
//
// Where the two numbers differ, or with several ports, write them out:
//
//	ports:
//	  - {name: http, port: 80, targetPort: 8080, protocol: http}
//	  - {name: admin, port: 9000}
package hostfile

import (
	"net/netip"
	"time"
)

// DefaultNamespace is the namespace of a service that names none.
const DefaultNamespace = "default"

// Service is one service of a file, with all defaults put in by Decode or DecodeStatic.
type Service struct {
	// Service is the bare name, an RFC 1123 label. A file may say "namespace/name".
	Service   string `yaml:"service,required"`
	Namespace string `yaml:"namespace"` // never empty after decoding
	// Port and Protocol are the short form of Ports with a single, unnamed port.
	Port     uint16 `yaml:"port"`
	Protocol string `yaml:"protocol"`
	// Ports holds every port after decoding, at least one, the short form too; sorted by Name. Only a static service
	// whose endpoints bring their numbers may have one with Port 0.
	Ports  []Port            `yaml:"ports"`
	Labels map[string]string `yaml:"labels"` // of the instance; in static.d of every endpoint, which may override
	Weight uint32            `yaml:"weight"` // share among its siblings, 1 to MaxWeight, default 1; in static.d the endpoints' default
	// Address is where the instance listens; the zero Addr means the host's own address. Not in static.d.
	Address netip.Addr `yaml:"address"`
	Check   *Check     `yaml:"check"` // nil: not checked. Not in static.d.
	// Endpoints say where the service runs. In static.d alone, and there required (an empty list is a service without any).
	Endpoints []Endpoint `yaml:"endpoints"`
	// Line is where the document begins.
	Line int `yaml:",line"`
}

// Port is one port of a service.
type Port struct {
	Name       string `yaml:"name"`          // a DNS label, unique; may be left out for an only port
	Port       uint16 `yaml:"port,required"` // what callers dial
	TargetPort uint16 `yaml:"targetPort"`    // where the instance listens; Port when left out
	Protocol   string `yaml:"protocol"`      // "" when nobody said
}

// Check is how the host finds out whether its instance works. Exactly one of HTTP and TCP is asked for.
//
// The defaults are HAProxy's: every 2 s, up after 2 successes, down after 3 failures; a check that takes as long as
// the interval has failed.
type Check struct {
	HTTP     string        `yaml:"http"`     // path of a GET that a 2xx or 3xx status answers
	TCP      bool          `yaml:"tcp"`      // a connection that is accepted
	Port     uint16        `yaml:"port"`     // where to; default the first port's TargetPort
	Interval time.Duration `yaml:"interval"` // from the start of one check to the next; default 2s
	Timeout  time.Duration `yaml:"timeout"`  // at most the interval, which is the default
	Rise     int           `yaml:"rise"`     // successes in a row that make it healthy; default 2
	Fall     int           `yaml:"fall"`     // failures in a row that make it unhealthy; default 3
}

// Endpoint is one instance in static.d.
type Endpoint struct {
	Address  netip.Addr        `yaml:"address,required"`
	Port     uint16            `yaml:"port"`   // where it listens, for a service with one port; default the service's
	Ports    map[string]uint16 `yaml:"ports"`  // the same by port name
	Weight   uint32            `yaml:"weight"` // default the service's
	Labels   map[string]string `yaml:"labels"` // over the service's
	Locality Locality          `yaml:"locality"`
	Health   string            `yaml:"health"` // unknown (default), healthy, unhealthy or draining
	// Line is where the endpoint stands in its file.
	Line int `yaml:",line"`
}

// Locality is where an endpoint runs, as in xDS.
type Locality struct {
	Region  string `yaml:"region"`
	Zone    string `yaml:"zone"`
	SubZone string `yaml:"subZone"`
}

// MaxWeight is the largest weight; it keeps sums over many endpoints within xDS's 32 bits.
const MaxWeight = 10_000
