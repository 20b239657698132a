package xds

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// fetchTimeout is how long the first answer about a name, or about all clusters, is waited for, if initial_fetch_timeout does
// not say otherwise (xDS's own figure).
const fetchTimeout = 15 * time.Second

// kind is a type of resource.
type kind int

// The kinds, in the order in which they are asked for: what is referred to comes before what refers to it.
const (
	clusters kind = iota
	endpoints
	listeners
	routeTables
	kinds
)

func (k kind) typeURL() string {
	return [...]string{
		"type.googleapis.com/envoy.config.cluster.v3.Cluster",
		"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
		"type.googleapis.com/envoy.config.listener.v3.Listener",
		"type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
	}[k]
}

// String is the kind's short name, as in Envoy's statistics.
func (k kind) String() string { return [...]string{"cds", "eds", "lds", "rds"}[k] }

// wildcard kinds are asked for without names; the others by the names that the wildcard ones mention.
func (k kind) wildcard() bool { return k == clusters || k == listeners }

func kindOf(typeURL string) (kind, bool) {
	for k := range kinds {
		if k.typeURL() == typeURL {
			return k, true
		}
	}
	return 0, false
}

// resource is an accepted resource in its wire form. It is never changed.
type resource struct {
	version string
	raw     []byte
	updated time.Time
	// gone: the server has taken it back while something still refers to it. It is used until that ends, but it is
	// no longer claimed when the stream is opened again.
	gone bool
}

// rejection is a resource that was refused, until a later one of its name is accepted.
type rejection struct {
	version, reason string
	at              time.Time
}

// typeState is what is known of one kind.
type typeState struct {
	have     map[string]*resource
	rejected map[string]rejection
	wanted   map[string]time.Time // names that are asked for, since when; for wildcard kinds, beside all
	absent   map[string]bool      // wanted names of which the server says that there is no such resource
	version  string               // system_version_info of the latest response that was applied
	answered bool                 // there was a response, or sealed state
}

// store holds what the server has said and makes a Config of it. It does no I/O and is not safe for concurrent use.
type store struct {
	rules     rules
	static    map[kind]map[string]bool // names that the server may not use
	types     [kinds]*typeState
	listeners map[string]*listener
	tables    map[string]*config.RouteTable
	clusters  map[string]*cluster
	users     map[string][]string           // name of an assignment → clusters that use it
	built     map[string]*config.Cluster    // what is published of clusters, and of leaving
	leaving   map[string]time.Time          // clusters taken back while a route may lead to them, since when
	published map[string]publishedListener  // by name
	standIns  map[string]*config.RouteTable // without routes, for tables that did not come in time
	relisten  bool                          // listeners or tables changed since they were last published
	warming   bool                          // a new listener waits for its tables
	asked     map[string]time.Time          // names of listeners and clusters that somebody wants, since when
	began     bool                          // nothing was waited for once: it serves
	current   *config.Config
	version   string
	opened    time.Time // when the stream was opened; zero without one
	noCDS     bool      // clusters are not asked for
	fetch     [kinds]time.Duration
}

// publishedListener is a listener in the present Config and what it was made of: a table, or nil, for each chain.
type publishedListener struct {
	from   *listener
	tables []*config.RouteTable
	out    *config.Listener
}

// newStore returns a store with what the bootstrap holds. That is published at once, whatever the server says.
func newStore(own rules, b *Bootstrap, now time.Time) *store {
	s := &store{
		rules: own, static: map[kind]map[string]bool{clusters: {}, listeners: {}},
		listeners: map[string]*listener{}, tables: map[string]*config.RouteTable{}, clusters: map[string]*cluster{},
		users: map[string][]string{}, built: map[string]*config.Cluster{}, leaving: map[string]time.Time{},
		published: map[string]publishedListener{}, standIns: map[string]*config.RouteTable{}, asked: map[string]time.Time{}, noCDS: b.Control == "" || b.noCDS,
	}
	for k := range kinds {
		if s.fetch[k] = fetchTimeout; b.fetch[k] != nil {
			s.fetch[k] = *b.fetch[k]
		}
		s.types[k] = &typeState{have: map[string]*resource{}, rejected: map[string]rejection{}, wanted: map[string]time.Time{}, absent: map[string]bool{}}
	}
	for _, l := range b.listeners {
		s.static[listeners][l.Name], s.listeners[l.Name] = true, l
	}
	for _, c := range b.clusters {
		own := *c
		s.static[clusters][c.Name] = true
		s.setCluster(c.Name, &own)
	}
	s.refer(now)
	s.current = &config.Config{Listeners: s.buildListeners(now), Clusters: maps.Clone(s.built)}
	return s
}

// apply takes one response. What is right in it takes effect; what is wrong keeps its former value and is named in the
// error, which is the reason for a NACK.
func (s *store) apply(k kind, m *discoveryv3.DeltaDiscoveryResponse, now time.Time) error {
	t := s.types[k]
	var wrong []string
	seen := map[string]bool{}
	for _, res := range m.GetResources() {
		name := res.GetName()
		err := s.accept(k, res, seen[name], now)
		seen[name] = true
		if err == nil {
			delete(t.rejected, name)
			delete(t.absent, name)
			continue
		}
		t.rejected[name] = rejection{res.GetVersion(), err.Error(), now}
		wrong = append(wrong, fmt.Sprintf("%s %q: %v", strings.ToUpper(k.String()), clip(name), err))
	}
	for _, name := range m.GetRemovedResources() {
		s.remove(k, name, now)
	}
	t.answered = true
	if v := m.GetSystemVersionInfo(); v != "" {
		t.version, s.version = v, v
	}
	if k != endpoints {
		s.refer(now)
	}
	if len(wrong) > 0 {
		const most = 4 << 10 // a peer need not take more of a reason
		text := strings.Join(wrong, "\n")
		return fmt.Errorf("%s", text[:min(len(text), most)])
	}
	return nil
}

// accept takes one resource or says why not.
func (s *store) accept(k kind, res *discoveryv3.Resource, again bool, now time.Time) error {
	t, name := s.types[k], intern(res.GetName())
	body := res.GetResource()
	old := t.have[name]
	switch {
	case body == nil && old != nil:
		return nil // a heartbeat
	case body == nil:
		return fmt.Errorf("got no resource, want a %s", k.typeURL())
	case again:
		return fmt.Errorf("got it twice in one response, want it once")
	case body.GetTypeUrl() != k.typeURL():
		return fmt.Errorf("got a %s, want a %s", clip(body.GetTypeUrl()), k.typeURL())
	case s.static[k][name]:
		return fmt.Errorf("name: got %s, which is static, want another name", clip(name))
	case res.GetTtl() != nil:
		return fmt.Errorf("ttl: got a value, want it unset: not supported")
	case !k.wildcard() && t.wanted[name].IsZero():
		return nil // no longer asked for: it was on its way
	}
	made := &resource{version: res.GetVersion(), raw: body.GetValue(), updated: now}
	if old != nil && bytes.Equal(old.raw, made.raw) {
		made.raw, made.updated = old.raw, old.updated
		t.have[name] = made
		return nil
	}
	if err := s.decode(k, name, made.raw); err != nil {
		return err
	}
	t.have[name] = made
	return nil
}

// decode puts the meaning of a resource in its place. On error nothing has changed.
func (s *store) decode(k kind, name string, raw []byte) error {
	r := &reader{rules: s.rules}
	switch k {
	case clusters:
		c := r.namedCluster(name, raw)
		if r.err() != nil {
			return r.err()
		}
		s.setCluster(name, c)
	case endpoints:
		a := r.namedAssignment(name, raw)
		if r.err() != nil {
			return r.err()
		}
		s.assign(name, a)
	case listeners:
		l := r.namedListener(name, raw)
		if r.err() != nil {
			return r.err()
		}
		s.listeners[name], s.relisten = l, true
	case routeTables:
		t := r.namedRoutes(name, raw)
		if r.err() != nil {
			return r.err()
		}
		s.tables[name], s.relisten = t, true
	}
	return nil
}

func (r *reader) sameName(field, got, want string) {
	if got != want {
		r.wrong((*path)(nil).field(field), clip(got), "the resource's name "+clip(want))
	}
}

func (r *reader) namedCluster(name string, raw []byte) *cluster {
	m := new(clusterv3.Cluster)
	if !r.unmarshal(nil, raw, m) {
		return nil
	}
	r.sameName("name", m.GetName(), name)
	return r.cluster(nil, m)
}

func (r *reader) namedAssignment(name string, raw []byte) assignment {
	m := new(endpointv3.ClusterLoadAssignment)
	if !r.unmarshal(nil, raw, m) {
		return assignment{}
	}
	r.sameName("cluster_name", m.GetClusterName(), name)
	return r.assignment(nil, m)
}

func (r *reader) namedListener(name string, raw []byte) *listener {
	m := new(listenerv3.Listener)
	if !r.unmarshal(nil, raw, m) {
		return nil
	}
	r.sameName("name", m.GetName(), name)
	return r.listener(nil, m)
}

func (r *reader) namedRoutes(name string, raw []byte) *config.RouteTable {
	m := new(routev3.RouteConfiguration)
	if !r.unmarshal(nil, raw, m) {
		return nil
	}
	r.sameName("name", m.GetName(), name)
	return r.routes(nil, m)
}

// setCluster puts a cluster in place. Its endpoints are those that are known under its assignment's name; while a
// new name's are not known, it keeps the endpoints that it had.
func (s *store) setCluster(name string, c *cluster) {
	old := s.built[name]
	keepTLS(&c.Cluster, old)
	s.clusters[name] = c
	delete(s.leaving, name)
	if c.eds != "" {
		if known := s.types[endpoints].have[c.eds]; known != nil {
			r := &reader{rules: s.rules}
			r.namedAssignment(c.eds, known.raw).give(&c.Cluster, old) // it was accepted before
		} else if old != nil && old.Assigned {
			c.Endpoints, c.Overprovisioning, c.Assigned = old.Endpoints, old.Overprovisioning, true
		} else {
			c.Assigned = s.types[endpoints].absent[c.eds]
		}
	}
	s.built[name] = &c.Cluster
}

// assign gives the clusters that use an assignment its endpoints.
func (s *store) assign(name string, a assignment) {
	for _, user := range s.users[name] {
		c, ok := s.clusters[user]
		if !ok {
			continue
		}
		next := c.Cluster
		a.give(&next, s.built[user])
		c.Cluster = next
		s.built[user] = &next
	}
}

// keep puts the old pointer in the place of each endpoint that did not change.
func keep(old *config.Cluster, list []*config.Endpoint) []*config.Endpoint {
	if old == nil {
		return list
	}
	before := make(map[config.Endpoint]*config.Endpoint, len(old.Endpoints))
	for _, e := range old.Endpoints {
		before[*e] = e
	}
	for i, e := range list {
		if same := before[*e]; same != nil {
			list[i] = same
		}
	}
	return list
}

// remove takes a resource back. A route table or an assignment that is still referred to stays in use: an outage of
// one resource must not empty a route.
func (s *store) remove(k kind, name string, now time.Time) {
	t := s.types[k]
	delete(t.rejected, name)
	if s.static[k][name] {
		return
	}
	old := t.have[name]
	if k.wildcard() && !t.wanted[name].IsZero() {
		t.absent[name] = true
	}
	switch k {
	case clusters:
		delete(t.have, name)
		if _, ok := s.clusters[name]; ok {
			delete(s.clusters, name)
			s.leaving[name] = now
		}
	case listeners:
		delete(t.have, name)
		delete(s.listeners, name)
		s.relisten = true
	case endpoints, routeTables:
		if old != nil {
			gone := *old
			gone.gone = true
			t.have[name] = &gone
			return
		}
		if t.wanted[name].IsZero() {
			return
		}
		t.absent[name] = true
		if k == endpoints {
			s.assign(name, assignment{}) // it does not exist: known, and empty
		}
	}
}
