package registry

import (
	"errors"
	"net/netip"
	"time"
)

// Guard says when a source's word that endpoints are gone is doubted. A doubted endpoint stays in the source's view,
// marked with a Doubt, until the source has repeated its word for Time, an operator accepts it, or enough proxies
// report that they cannot connect to it. The zero Guard has the defaults.
type Guard struct {
	// Off takes every word at once.
	Off bool
	// Share is how much of a service's or of the source's own endpoints may leave within Window; more is doubted, unless
	// it is a single endpoint. Default 0.3.
	Share float64
	// Window is how long ago a loss counts as sudden. Default 10 s.
	Window time.Duration
	// Time is how long a source has to repeat its word, without a failure in between. Default 2 min.
	Time time.Duration
	// Proofs is how many proxies must report that they cannot connect. Default 2; -1 never takes their word.
	Proofs int
}

// Doubt marks an endpoint that its source does not report any more and that is kept all the same. It is immutable.
type Doubt struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"` // "12 of 20 endpoints of the registry left within 1s", …
}

// Doubted is an endpoint that one source's view keeps under doubt.
type Doubted struct {
	Source   string    `json:"source"`
	Service  Name      `json:"service"`
	Endpoint *Endpoint `json:"endpoint"` // its Doubt is set
}

// Doubts returns what is doubted now, by source, service and ID, and a channel that is closed when that changes.
func (c *Catalog) Doubts() ([]Doubted, <-chan struct{}) { return nil, nil }

// Accept takes the word of a source for everything that is doubted now, and returns how many endpoints leave for it.
// It fails when there is no source of that name.
func (c *Catalog) Accept(source string) (released int, err error) {
	return 0, errors.New("not here yet")
}

// Prove takes the report of a proxy, named by proxy, that it tried to connect to a doubted endpoint.
func (c *Catalog) Prove(proxy string, at netip.AddrPort, connected bool) {}
