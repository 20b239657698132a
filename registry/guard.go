package registry

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Guard says when a source's word that endpoints are gone is doubted. A doubted endpoint stays in the source's view,
// marked with a Doubt, until the source has repeated its word, an operator accepts it, proxies prove it, or another
// service of the source is newly reported at its address and port, which is then that one's. The zero Guard has the
// defaults.
//
// An endpoint is lost when it was used and is no longer reported. Used is what serves, what did until it became unhealthy
// within Window, and all that is unhealthy in a service where nothing serves, for callers have no better there. An
// endpoint is not lost when it was draining, or unhealthy otherwise (it had no traffic), when it only moved (its ID or
// its address and port is still reported), or when it is replaced: each endpoint that begins to serve in the same
// service, up to Window before or any time after, and is still there, answers for one lost. So deploys that start before
// or after they stop, and single deregistrations, pass at once.
//
// Losses are sudden, and doubted, when within Window
//   - more than Share of the endpoints of a service are lost, two or more, or
//   - more than Share of the endpoints of the source are lost, two or more, or
//   - more than Share of the services of the source lose all that serves, or all that is used, two or more.
//
// Those of Window that have left by then come back. A single loss that is more than Share of its service (one of three,
// or the only one) is first held back, unmarked, until no service has had another such loss for Hold (or for 8 Holds in
// all), so that nothing leaves while many removals come in one by one. What is then not sudden leaves, except where two
// or more services lost all in that time: that is doubted until Window has passed, and leaves if it was not sudden.
//
// The first view of a Watch, after a start or a failure, is compared with what was served, as if all had left at once.
// If it has Problems that are new since, everything that it lacks is doubted whatever the share: what could not be read
// may be just that. A Problem is not new if the view before had it and nothing was served for it that is not now; one of
// kind "type" never is.
type Guard struct {
	// Off takes every word at once.
	Off bool
	// Share is how much of a service's or of the source's own endpoints may leave within Window; more is doubted, unless
	// it is a single endpoint. Up to 1; default 0.3.
	Share float64
	// Window is how long ago a loss counts as sudden. Default 10 s.
	Window time.Duration
	// Hold is how long a loss that is no small part of its service waits for others. Default 250 ms.
	Hold time.Duration
	// Time is how long a source has to repeat its word, without a failure in between: each end of Watch and each view
	// that is refused starts it again with the next good view. A source that is connected and quiet repeats its word.
	// What was missing in a first view with new Problems is not released by time while there are some. Default 2 min.
	Time time.Duration
	// Proofs is how many proxies must report that they cannot connect, while none reports that it can. Default 2; -1
	// never takes their word.
	Proofs int
}

// proofAge is how long a proxy's report counts; proxies repeat theirs every few seconds.
const proofAge = 30 * time.Second

// withDefaults returns g with its defaults.
func (g Guard) withDefaults() Guard {
	g.Share = cmp.Or(g.Share, 0.3)
	g.Window = cmp.Or(g.Window, 10*time.Second)
	g.Hold = min(cmp.Or(g.Hold, 250*time.Millisecond), g.Window)
	g.Time = cmp.Or(g.Time, 2*time.Minute)
	g.Proofs = cmp.Or(g.Proofs, 2)
	return g
}

// check reports what makes no sense.
func (g Guard) check() error {
	switch {
	case !(g.Share >= 0 && g.Share <= 1):
		return fmt.Errorf("guard: got share %v, want more than 0, up to 1", g.Share)
	case g.Window < 0 || g.Hold < 0 || g.Time < 0:
		return errors.New("guard: got a negative duration")
	case g.Proofs < -1:
		return fmt.Errorf("guard: got %d proofs, want 1 or more, or -1 for none", g.Proofs)
	}
	return nil
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
	// Connect is where Proofs proxies have to fail to connect to prove that the endpoint is gone, all of them; none if it
	// has no TCP port, or no proofs are taken.
	Connect []netip.AddrPort `json:"-"`
	Proofs  int              `json:"-"`
}

// Doubts returns what is doubted now, by source in configured order, service and ID, and a channel that is closed when
// that changes.
func (c *Catalog) Doubts() ([]Doubted, <-chan struct{}) {
	_, changed := c.doubts.Get() // first: a change from now on closes it
	var all []Doubted
	for _, s := range c.sources {
		all = s.doubted(all)
	}
	return all, changed
}

// Accept takes the word of a source for everything that is doubted now, and returns how many endpoints leave for it.
// It fails when there is no source of that name.
func (c *Catalog) Accept(source string) (released int, err error) {
	for _, s := range c.sources {
		if s.Name == source {
			return s.accept(), nil
		}
	}
	return 0, fmt.Errorf("accept: there is no registry %q", source)
}

// Prove takes the report of a proxy, named by proxy, that it tried to connect to a doubted endpoint. A later report of
// the same proxy takes the place of its earlier one; reports on anything else are ignored.
func (c *Catalog) Prove(proxy string, at netip.AddrPort, connected bool) {
	for _, s := range c.sources {
		s.prove(proxy, at, connected)
	}
}
