package xds

import (
	"maps"
	"slices"
	"time"
)

// Status is what an operator wants to know of the client.
type Status struct {
	Server     string    `json:"server"`     // its address; empty: all is static
	Identifier string    `json:"identifier"` // what it calls itself
	Connected  bool      `json:"connected"`  // there is a stream
	Since      time.Time `json:"since"`      // Connected holds since then
	LastError  string    `json:"last_error"` // why it is, or was last, not connected
	Version    string    `json:"version"`    // the server's number of the state that is served
	// Source is where what is served came from: "static", "sealed" or "control plane".
	Source string `json:"source"`
	// Sealed is the time of the sealed state, zero without one; SealedError says why it was not used or not written.
	Sealed      time.Time             `json:"sealed"`
	SealedError string                `json:"sealed_error"`
	Types       map[string]TypeStatus `json:"types"` // by cds, eds, lds, rds
}

// TypeStatus is the state of one type of resource.
type TypeStatus struct {
	Resources      int       `json:"resources"`
	Accepted       uint64    `json:"accepted"` // responses
	Rejected       uint64    `json:"rejected"`
	LastNACK       string    `json:"last_nack"`
	LastNACKAt     time.Time `json:"last_nack_at"`
	Waiting        []string  `json:"waiting"`        // names that the server has not answered
	RejectedByName []string  `json:"rejected_names"` // names whose latest resource was refused
}

// Stat is one figure under the name that Envoy gives it.
type Stat struct {
	Name    string
	Value   uint64
	Counter bool // otherwise a gauge
}

// standing is the part of Status that is not in the store.
type standing struct {
	server, identifier, lastError string
	connected, ready              bool
	since                         time.Time
	source                        string
	sealed                        time.Time
	sealedError                   string
	types                         [kinds]TypeStatus
}

func newStanding(server string, now time.Time) standing {
	return standing{server: server, since: now, source: "static"}
}

// count notes a response.
func (s *standing) count(k kind, refused error, now time.Time) {
	t := &s.types[k]
	if refused == nil {
		t.Accepted++
		return
	}
	t.Rejected++
	t.LastNACK, t.LastNACKAt = refused.Error(), now
}

// setConnected notes a new stream.
func (c *Client) setConnected(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.connected, c.status.since = true, now
}

// setAnswered notes the first answer on a stream. mu is held.
func (c *Client) setAnswered(identifier string) {
	c.status.identifier, c.status.source, c.status.lastError = identifier, "control plane", ""
	c.log.Info("control plane answers", "server", c.status.server, "identifier", identifier)
}

// setDisconnected notes the end of a stream or an attempt and reports whether that is news.
func (c *Client) setDisconnected(reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	news := c.status.lastError != reason
	if c.status.connected {
		c.status.connected, c.status.since = false, time.Now()
	}
	c.status.lastError = reason
	return news
}

// Ready reports whether everything that the server offered at first, or that was sealed, is there to be served; if not,
// what is waited for. Once ready a client stays so: later additions are no reason to send clients away.
func (c *Client) Ready() (bool, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.ready || c.status.server == "" {
		return true, ""
	}
	s, now := c.store, time.Now()
	switch {
	case !s.noCDS && !s.told(clusters, now):
		return false, "clusters from " + c.status.server
	case !c.options.Bootstrap.noLDS && !s.told(listeners, now):
		return false, "listeners from " + c.status.server
	case !s.whole(now):
		return false, "routes and endpoints from " + c.status.server
	}
	c.status.ready = true
	return true, ""
}

// Status returns the present state.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Status{
		Server: c.status.server, Identifier: c.status.identifier, Connected: c.status.connected, Since: c.status.since,
		LastError: c.status.lastError, Version: c.store.version, Source: c.status.source,
		Sealed: c.status.sealed, SealedError: c.status.sealedError, Types: map[string]TypeStatus{},
	}
	for k := range kinds {
		t, known := c.status.types[k], c.store.types[k]
		t.Resources = len(known.have)
		t.RejectedByName = slices.Sorted(maps.Keys(known.rejected))
		for name := range known.wanted {
			if known.have[name] == nil && !known.absent[name] {
				t.Waiting = append(t.Waiting, name)
			}
		}
		slices.Sort(t.Waiting)
		out.Types[k.String()] = t
	}
	return out
}

// Stats returns the client's figures, sorted by name.
func (c *Client) Stats() []Stat {
	c.mu.Lock()
	defer c.mu.Unlock()
	connected := uint64(0)
	if c.status.connected {
		connected = 1
	}
	out := []Stat{{Name: "control_plane.connected_state", Value: connected}}
	for k, prefix := range []string{clusters: "cluster_manager.cds", endpoints: "cluster_manager.eds", listeners: "listener_manager.lds", routeTables: "http.rds"} {
		t := c.status.types[k]
		out = append(out,
			Stat{Name: prefix + ".update_attempt", Value: t.Accepted + t.Rejected, Counter: true},
			Stat{Name: prefix + ".update_rejected", Value: t.Rejected, Counter: true},
			Stat{Name: prefix + ".update_success", Value: t.Accepted, Counter: true},
		)
	}
	slices.SortFunc(out, func(a, b Stat) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}
