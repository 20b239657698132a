package router_test

import (
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/router"
)

// TestConnect: CONNECT, which has no path, goes by the routes that are made for it, and nothing else does.
func TestConnect(t *testing.T) {
	connect := func(name string, headers ...config.HeaderMatch) *config.Route {
		return &config.Route{Name: name, PathMatch: config.PathConnect, Headers: headers}
	}
	table := router.New(&config.RouteTable{VirtualHosts: []*config.VirtualHost{
		{Name: "a", Domains: []string{"a:1", "b.*"}, Routes: []*config.Route{
			prefix("empty", ""), prefix("any", "/"), exact("none", ""), separated("none too", ""),
			connect("path", config.HeaderMatch{Name: ":path", Present: true}), connect("empty path", config.HeaderMatch{Name: ":path"}),
			connect("marked", config.HeaderMatch{Name: "x", Exact: "1"}), connect("other", config.HeaderMatch{Name: ":path", Present: true, Invert: true}),
		}},
		{Name: "c", Domains: []string{"c"}, Routes: []*config.Route{connect("first"), prefix("any", "/")}},
		{Name: "d", Domains: []string{"d:1"}, Routes: []*config.Route{prefix("any", "")}},
	}})
	for _, c := range []struct {
		method, host, path string
		fields             fields
		want               string
	}{
		{"CONNECT", "a:1", "", nil, "other"},
		{"CONNECT", "A:1", "", fields{"x", "1"}, "marked"},
		{"CONNECT", "a:2", "", nil, ""},
		{"CONNECT", "b.c:7", "", nil, "other"},
		{"CONNECT", "c:1", "", nil, ""},
		{"CONNECT", "c", "", nil, "first"},
		{"CONNECT", "d:1", "", nil, ""},
		{"CONNECT", "c", "/", nil, "any"}, // with a protocol (RFC 8441)
		{"GET", "c", "/", nil, "any"},
		{"GET", "a:1", "/", nil, "empty"},
	} {
		r := request(c.host, c.path, c.fields)
		r.Method = []byte(c.method)
		m, err := table.Match(r)
		name := ""
		if m.Route != nil {
			name = m.Route.Name
		}
		if err != nil || name != c.want {
			t.Errorf("%s %s %q: route %q, %v, want %q", c.method, c.host, c.path, name, err, c.want)
		}
	}
	for _, method := range []string{"GET", "connect", ""} {
		r := request("c", "", nil)
		r.Method = []byte(method)
		if m, err := table.Match(r); err == nil {
			t.Errorf("%q without a path: %+v", method, m.Route)
		}
	}
}
