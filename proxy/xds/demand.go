package xds

import (
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// mostUnknown is how many names are kept that were asked for and of which the server has told nothing, or that they do not exist. Of
// more the oldest are asked for no longer: whoever may look names up can think of names without end.
const mostUnknown = 1000

// Want asks the server for what is behind each of the names: the listener of that name with all that it leads to, and the cluster
// of that name. What there is comes with the configuration; what there is not, in its Absent. A name is asked for as long as the
// Client lives, unless nothing is known of it, nor of many others.
func (c *Client) Want(names ...string) {
	if c.options.Bootstrap.Control == "" || c.options.Bootstrap.noLDS || c.options.Bootstrap.noCDS {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := false
	for _, name := range names {
		fresh = c.store.want(name, time.Now()) || fresh
	}
	if !fresh {
		return
	}
	select {
	case c.wants <- struct{}{}:
	default:
	}
}

// Unknown says why the configuration has neither the listener of that name nor that it is absent, as a part of a sentence.
func (c *Client) Unknown(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range []kind{listeners, clusters} {
		if refused, ok := c.store.types[k].rejected[name]; ok {
			return "its " + k.String() + " resource is refused: " + refused.reason
		}
	}
	switch {
	case c.options.Bootstrap.Control == "":
		return "there is no control plane to ask"
	case !c.status.connected:
		return "the control plane at " + c.status.server + " is away: " + c.status.lastError
	case c.store.listeners[name] != nil:
		return "the control plane has not told its routes and endpoints yet"
	}
	return "the control plane has not answered yet"
}

// want adds a name to those that are asked for and reports whether it is new.
func (s *store) want(name string, now time.Time) bool {
	if !s.asked[name].IsZero() {
		return false
	}
	s.forgetUnknown()
	s.asked[name] = now
	s.types[listeners].wanted[name] = now
	s.refer(now)
	return true
}

// forgetUnknown makes room for another name.
func (s *store) forgetUnknown() {
	if len(s.asked) < mostUnknown {
		return
	}
	oldest, unknown := "", 0
	for name, since := range s.asked {
		if s.listeners[name] != nil || s.built[name] != nil {
			continue
		}
		unknown++
		if oldest == "" || since.Before(s.asked[oldest]) {
			oldest = name
		}
	}
	if unknown < mostUnknown {
		return
	}
	delete(s.asked, oldest)
	delete(s.types[listeners].wanted, oldest)
	delete(s.types[listeners].absent, oldest)
}

// demanded are the clusters that are asked for by name.
func (s *store) demanded() map[string]bool {
	needed := make(map[string]bool, len(s.asked))
	for name := range s.asked {
		needed[name] = true
		if l := s.listeners[name]; l != nil {
			s.eachCluster(l, func(cluster string) bool { needed[cluster] = true; return false })
		}
	}
	return needed
}

// eachCluster calls f for the clusters that a listener leads to, as far as its tables are known, until it returns true, which is
// then returned.
func (s *store) eachCluster(l *listener, f func(cluster string) bool) bool {
	tables := make([]*config.RouteTable, len(l.routes))
	for i, name := range l.routes {
		if tables[i] = s.tables[name]; name != "" && tables[i] == nil {
			tables[i] = &config.RouteTable{}
		}
	}
	return l.with(tables, publishedListener{}).LeadsToAny(f)
}

// lacks reports whether a listener that was asked for leads to a cluster of which the server is yet to speak.
func (s *store) lacks(l *listener, now time.Time) bool {
	if s.asked[l.Name].IsZero() {
		return false
	}
	t := s.types[clusters]
	return s.eachCluster(l, func(cluster string) bool {
		since := t.wanted[cluster]
		return s.built[cluster] == nil && !t.absent[cluster] && !since.IsZero() && !s.late(since, now, s.fetch[clusters])
	})
}

// absent are the names that were asked for and do not exist.
func (s *store) absent() map[string]bool {
	var names map[string]bool
	for name := range s.asked {
		if s.types[listeners].absent[name] && s.types[clusters].absent[name] {
			if names == nil {
				names = map[string]bool{}
			}
			names[name] = true
		}
	}
	return names
}
