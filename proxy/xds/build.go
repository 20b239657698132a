package xds

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// refer finds the names that listeners and clusters refer to, and forgets what no longer is referred to.
func (s *store) refer(now time.Time) {
	tables, assignments := map[string]bool{}, map[string]bool{}
	for _, l := range s.listeners {
		for _, name := range l.routes {
			if name != "" {
				tables[name] = true
			}
		}
	}
	clear(s.users)
	for name, c := range s.clusters {
		if c.eds != "" {
			assignments[c.eds] = true
			s.users[c.eds] = append(s.users[c.eds], name)
		}
	}
	for k, names := range map[kind]map[string]bool{routeTables: tables, endpoints: assignments, clusters: s.demanded()} {
		t := s.types[k]
		for name := range names {
			if t.wanted[name].IsZero() {
				t.wanted[name] = now
			}
		}
		for name := range t.wanted {
			if !names[name] {
				delete(t.wanted, name)
				delete(t.absent, name)
				if k == clusters {
					continue // the server says whether it is one of all
				}
				delete(t.have, name)
				delete(t.rejected, name)
				if k == routeTables {
					delete(s.tables, name)
					delete(s.standIns, name)
				}
			}
		}
	}
}

// versions is what is claimed when a stream is opened: name → version.
func (s *store) versions(k kind) map[string]string {
	out := map[string]string{}
	for name, res := range s.types[k].have {
		if !res.gone {
			out[name] = res.version
		}
	}
	return out
}

// names are the names to subscribe, sorted; none for a wildcard kind.
func (s *store) names(k kind) []string { return slices.Sorted(maps.Keys(s.types[k].wanted)) }

// build returns the Config for what is known at the time now and whether it is another than before. Parts that did not
// change keep their pointers.
//
// New listeners and routes wait until the endpoints of all clusters are known, and what they lead to stays as long: a
// request never meets a route whose cluster is still being fetched.
func (s *store) build(now time.Time) (*config.Config, bool) {
	ready := s.expire(now)
	next := &config.Config{Version: s.version, Listeners: s.current.Listeners, Clusters: s.current.Clusters}
	s.began = s.began || ready
	if ready && (s.relisten || s.warming) {
		next.Listeners = s.buildListeners(now)
		s.relisten = false
	}
	for name, since := range s.leaving {
		if !leadsTo(next.Listeners, name) || now.Sub(since) >= fetchTimeout {
			delete(s.leaving, name)
			delete(s.built, name)
		}
	}
	if next.Absent = s.absent(); maps.Equal(next.Absent, s.current.Absent) {
		next.Absent = s.current.Absent
	}
	if !maps.Equal(s.built, next.Clusters) {
		next.Clusters = maps.Clone(s.built)
	} else if maps.Equal(next.Absent, s.current.Absent) && slices.Equal(next.Listeners, s.current.Listeners) && next.Version == s.current.Version {
		return s.current, false
	}
	s.current = next
	return next, true
}

// settle ends the wait for everything that is not there: the state comes from before, there is nobody to wait for.
func (s *store) settle() {
	for name := range s.types[endpoints].wanted {
		for _, user := range s.users[name] {
			if c := s.clusters[user]; c != nil && !c.Assigned {
				s.types[endpoints].absent[name] = true
				s.assign(name, assignment{})
			}
		}
	}
}

// late reports whether the server has had its time to speak of something that is waited for since then. No time is for ever.
func (s *store) late(since, now time.Time, within time.Duration) bool {
	if s.opened.After(since) {
		since = s.opened
	}
	return !s.opened.IsZero() && within > 0 && now.Sub(since) >= within
}

// told reports whether the server has spoken of all clusters, or of all listeners, or had its time to.
func (s *store) told(k kind, now time.Time) bool {
	return s.types[k].answered || s.late(time.Time{}, now, s.fetch[k])
}

// expire ends the wait for assignments that the server has not spoken of in time: they have no endpoint. It reports
// whether nothing is waited for any more. A cluster that is to be waited for longer than usual, or for ever, keeps others
// waiting for that long before the proxy has begun to serve; later on, only as long as usual.
func (s *store) expire(now time.Time) bool {
	ready := s.noCDS || s.told(clusters, now)
	for name, since := range s.types[endpoints].wanted {
		for _, user := range s.users[name] {
			c := s.clusters[user]
			switch {
			case c == nil || c.Assigned:
			case s.late(since, now, c.fetch):
				s.assign(name, assignment{})
			case !s.began || !s.late(since, now, fetchTimeout):
				ready = false
			}
		}
	}
	return ready
}

// pending reports whether build may come to another result by time alone.
func (s *store) pending() bool {
	if len(s.leaving) > 0 || s.warming || !s.noCDS && !s.types[clusters].answered {
		return true
	}
	for _, c := range s.clusters {
		if !c.Assigned {
			return true
		}
	}
	return false
}

// whole reports whether everything that is referred to is known, or overdue, so that the state is worth keeping.
func (s *store) whole(now time.Time) bool {
	for _, k := range []kind{endpoints, routeTables} {
		t := s.types[k]
		for name, since := range t.wanted {
			if t.have[name] == nil && !t.absent[name] && !s.late(since, now, s.patience(k, name)) {
				return false
			}
		}
	}
	return s.noCDS || s.told(clusters, now)
}

// patience is how long a name is waited for by who waits longest; no longer than usual once the proxy serves.
func (s *store) patience(k kind, name string) time.Duration {
	most, ever := time.Duration(0), false
	add := func(fetch time.Duration) { most, ever = max(most, fetch), ever || fetch == 0 }
	for _, user := range s.users[name] {
		if c := s.clusters[user]; c != nil && k == endpoints {
			add(c.fetch)
		}
	}
	for _, l := range s.listeners {
		if fetch, ok := l.fetch[name]; ok && k == routeTables {
			add(fetch)
		}
	}
	switch {
	case s.began && (ever || most > fetchTimeout):
		return fetchTimeout
	case ever:
		return 0
	}
	return most
}

// table returns a route table of a listener, nil if it is waited for. For one that does not come in time there is another one
// without routes, if it is for a listener that is new: one that serves keeps what it has.
func (s *store) table(l *listener, name string, now time.Time) *config.RouteTable {
	if t := s.tables[name]; t != nil || name == "" {
		return t
	}
	if _, serves := s.published[l.Name]; s.standIns[name] == nil && !serves && s.late(s.types[routeTables].wanted[name], now, l.fetch[name]) {
		s.standIns[name] = &config.RouteTable{Name: name}
	}
	return s.standIns[name]
}

// buildListeners returns all listeners whose routes are known, sorted. One that waits for a new route table stays as
// it was.
func (s *store) buildListeners(now time.Time) []*config.Listener {
	s.warming = false
	out := make([]*config.Listener, 0, len(s.listeners))
	next := map[string]publishedListener{}
	for name, l := range s.listeners {
		p := publishedListener{from: l}
		waits := false
		for _, routes := range l.routes {
			table := s.table(l, routes, now)
			waits = waits || routes != "" && table == nil
			p.tables = append(p.tables, table)
		}
		waits = waits || s.lacks(l, now)
		switch before, ok := s.published[name]; {
		case waits && !ok:
			s.warming = true
			continue
		case waits, ok && before.from == l && slices.Equal(before.tables, p.tables):
			p = before
		default:
			p.out = l.with(p.tables, before)
		}
		next[name] = p
		out = append(out, p.out)
	}
	s.published = next
	slices.SortFunc(out, func(a, b *config.Listener) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// leadsTo reports whether a route of any listener names the cluster.
func leadsTo(list []*config.Listener, cluster string) bool {
	return slices.ContainsFunc(list, func(l *config.Listener) bool { return l.LeadsTo(cluster) })
}

// with makes the listener with its route tables. A chain that did not change keeps its pointer.
func (l *listener) with(tables []*config.RouteTable, before publishedListener) *config.Listener {
	made := l.Listener
	if made.HTTP != nil {
		made.HTTP = routed(made.HTTP, tables[0])
		return &made
	}
	made.Chains = slices.Clone(made.Chains)
	for i := range tables {
		at := &made.Otherwise
		if i < len(made.Chains) {
			at = &made.Chains[i]
		}
		if *at == nil || (*at).HTTP == nil {
			continue
		}
		if before.from == l && before.tables[i] == tables[i] {
			*at = before.out.Chain(i)
			continue
		}
		own := **at
		own.HTTP = routed(own.HTTP, tables[i])
		*at = &own
	}
	if old := before.out; old != nil && before.from != l {
		keepChains(&made, old)
	}
	return &made
}

// routed is http with a table that came by RDS, if one did.
func routed(http *config.HTTP, table *config.RouteTable) *config.HTTP {
	if table == nil {
		return http
	}
	own := *http
	own.Routes = table
	return &own
}

// keepChains puts the old pointer in the place of each chain that is the same in a listener that was sent again.
func keepChains(l, old *config.Listener) {
	same := func(c *config.FilterChain) *config.FilterChain {
		for o := range old.Each() {
			if reflect.DeepEqual(o, c) {
				return o
			}
		}
		for o := range old.Each() {
			if c.TLS != nil && reflect.DeepEqual(o.Match, c.Match) && reflect.DeepEqual(o.TLS, c.TLS) {
				own := *c
				own.TLS = o.TLS
				return &own
			}
		}
		return c
	}
	for i, c := range l.Chains {
		l.Chains[i] = same(c)
	}
	if l.Otherwise != nil {
		l.Otherwise = same(l.Otherwise)
	}
}

// keepTLS puts the old pointers in the place of TLS values that did not change.
func keepTLS(c, old *config.Cluster) {
	if old == nil {
		return
	}
	if reflect.DeepEqual(c.TLS, old.TLS) {
		c.TLS = old.TLS
	}
	if reflect.DeepEqual(c.SocketMatches, old.SocketMatches) {
		c.SocketMatches = old.SocketMatches
	}
}
