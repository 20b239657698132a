// Package router finds the route of a request: virtual host by host, then the first route that matches.
//
// It is pure and allocates nothing on the way. The path that is routed is the path to forward: both are the normal form that
// [Normalize] gives, and a path that an upstream may read in a second way is refused when that reading has another route.
package router

import (
	"github.com/hostmesh/hostmesh/proxy/config"
)

// Headers gives the values of a request's header fields, line by line. Next returns the first value at or after line i of the
// field named name (lower case) and the line to continue at, -1 when there is none.
type Headers interface {
	Next(name string, i int) (value []byte, next int)
}

// Request is what a route may depend on. It is meant to be used again for the next request; it is not safe for concurrent use.
type Request struct {
	Method, Host []byte
	Path         []byte // as received, without query; starts with '/' or is "*"; empty for CONNECT
	Query        []byte // without '?'
	HasQuery     bool
	Headers      Headers
	Slashes      config.Slashes // how Path is read
	MergeSlashes bool

	lowered       []byte // Host in lower case
	plain         []byte // Path with its escaped slashes decoded
	normal, other []byte // the readings of Path
}

// Match is where a request goes.
type Match struct {
	Route       *config.Route       // nil: no route (404)
	VirtualHost *config.VirtualHost // nil: no virtual host for that host (404)
	// Path is the path to forward: that of the request, or its normal form in memory that belongs to the Request until its next
	// match.
	Path []byte
	// Redirect tells that the client is to ask for Path instead. There is no Route then.
	Redirect bool
}

// Table is an immutable route table, safe for concurrent use.
type Table struct {
	exact    map[string]int32 // domain → index of a virtual host
	suffixes wildcards        // of "*.b": ".b"
	prefixes wildcards        // of "a.*": "a."
	any      int32            // of "*", -1 without
	hosts    []virtualHost
	routes   []route
}

type virtualHost struct {
	config      *config.VirtualHost
	first, last int32 // its routes
}

type route struct {
	config *config.Route
	path   string // in normal form; lower case if compared without case
	other  string // its second reading
}

// New compiles t. Of two virtual hosts with the same domain the first has it.
func New(t *config.RouteTable) *Table {
	count := 0
	for _, vh := range t.VirtualHosts {
		count += len(vh.Routes)
	}
	table := &Table{
		exact:  make(map[string]int32, 2*len(t.VirtualHosts)),
		hosts:  make([]virtualHost, 0, len(t.VirtualHosts)),
		routes: make([]route, 0, count),
		any:    -1,
	}
	for i, vh := range t.VirtualHosts {
		first := int32(len(table.routes))
		for _, r := range vh.Routes {
			table.routes = append(table.routes, compile(r))
		}
		table.hosts = append(table.hosts, virtualHost{vh, first, int32(len(table.routes))})
		for _, d := range vh.Domains {
			table.addDomain(d, int32(i))
		}
	}
	table.suffixes.sort()
	table.prefixes.sort()
	return table
}

func compile(r *config.Route) route {
	c := route{config: r, path: r.Path, other: r.Path}
	if needsWork([]byte(r.Path)) {
		c.path = string(decodeUnreserved(nil, []byte(r.Path)))
		other, _ := secondReading(nil, []byte(c.path))
		c.other = string(other)
	}
	if r.CaseInsensitive {
		c.path, c.other = string(lower(nil, []byte(c.path))), string(lower(nil, []byte(c.other)))
	}
	return c
}

// Match finds the route of r. A non-nil error is an [Error]: the request must be refused.
func (t *Table) Match(r *Request) (Match, error) {
	if len(r.Path) == 0 && string(r.Method) == "CONNECT" {
		return t.matchConnect(r), nil
	}
	path, ambiguous, redirect, err := r.normalize()
	if err != nil {
		return Match{}, err
	}
	m := Match{Path: path, Redirect: redirect}
	if redirect {
		return m, nil
	}
	host := t.host(r)
	if host < 0 {
		return m, nil
	}
	vh := t.hosts[host]
	m.VirtualHost = vh.config
	found := t.find(vh, r, path, false)
	if ambiguous {
		var ok bool
		if r.other, ok = secondReading(r.other[:0], path); !ok || t.find(vh, r, r.other, true) != found {
			return m, ErrAmbiguousPath
		}
	}
	if found >= 0 {
		m.Route = t.routes[found].config
	}
	return m, nil
}

// matchConnect finds the route of a CONNECT without a path: only those that are made for it match.
func (t *Table) matchConnect(r *Request) (m Match) {
	host := t.host(r)
	if host < 0 {
		return m
	}
	vh := t.hosts[host]
	m.VirtualHost = vh.config
	for i := vh.first; i < vh.last; i++ {
		if c := t.routes[i].config; c.PathMatch == config.PathConnect && matchHeaders(c.Headers, r, nil) {
			m.Route = c
			break
		}
	}
	return m
}

// find returns the index of the first route that matches, -1 without.
func (t *Table) find(vh virtualHost, r *Request, path []byte, second bool) int32 {
	for i := vh.first; i < vh.last; i++ {
		route := &t.routes[i]
		want := route.path
		if second {
			want = route.other
		}
		if matchPath(route.config, want, path) && matchHeaders(route.config.Headers, r, path) {
			return i
		}
	}
	return -1
}

func matchPath(r *config.Route, want string, path []byte) bool {
	if len(path) < len(want) || r.PathMatch == config.PathConnect || r.PathMatch == config.PathExact && len(path) != len(want) {
		return false
	}
	if r.PathMatch == config.PathSeparatedPrefix && len(path) > len(want) && path[len(want)] != '/' {
		return false
	}
	if !r.CaseInsensitive {
		return string(path[:len(want)]) == want
	}
	return equalFold(path[:len(want)], want)
}

// Pick names one of clusters, by weight, of which there is at least one, with a number that is uniformly random.
func Pick(clusters []config.WeightedCluster, random uint64) string {
	return Choose(clusters, random).Name
}

// Choose is Pick for all that is said of the cluster.
func Choose(clusters []config.WeightedCluster, random uint64) *config.WeightedCluster {
	if len(clusters) == 1 {
		return &clusters[0]
	}
	var total uint64
	for i := range clusters {
		total += uint64(clusters[i].Weight)
	}
	if total == 0 {
		return &clusters[0]
	}
	random %= total
	for i := range clusters {
		w := uint64(clusters[i].Weight)
		if random < w {
			return &clusters[i]
		}
		random -= w
	}
	return &clusters[len(clusters)-1]
}
