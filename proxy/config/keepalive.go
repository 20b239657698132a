package config

import "time"

// Keepalive is how a connection finds out by pings that its peer is gone without a word.
type Keepalive struct {
	Interval time.Duration // between them; 0: none
	Jitter   float64       // the share of the interval that is added at most
	Timeout  time.Duration // for an answer
	Idle     time.Duration // a connection to a host that was idle for this long is asked when it gets a request; 0: never
}

// TCPKeepalive has the kernel find out that a peer is gone without a word, by probes on a connection on which nothing happens. 0 leaves a
// figure to the kernel.
type TCPKeepalive struct {
	Time     time.Duration // without a byte until the first probe; whole seconds, as Interval
	Interval time.Duration // between probes
	Probes   int           // without an answer until the connection is closed
}
