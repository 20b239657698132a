package config

import "time"

// OriginalDst says that a cluster's hosts are where connections were going before they were redirected to the proxy. They
// are made when somebody goes there.
type OriginalDst struct {
	Header  string        // lower case; a request may name its host in it; empty: it may not
	Port    uint16        // takes the place of the destination's, if not 0
	Cleanup time.Duration // a host without connections is forgotten after so long at least; more than 0
}
