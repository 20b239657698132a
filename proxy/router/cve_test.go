package router_test

import (
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/router"
)

// Rules are tried in the order that the specification gives: hosts exact before wildcard and longest first, routes as they
// stand (CVE-2024-42487).
func TestCVEClass08_OrderIsTheSpecifications(t *testing.T) {
	host := func(domain string, routes ...*config.Route) *config.VirtualHost {
		return &config.VirtualHost{Name: domain, Domains: []string{domain}, Routes: routes}
	}
	hosts := []*config.VirtualHost{
		host("*", prefix("any", "/")), host("*.example", prefix("short suffix", "/")), host("*.b.example", prefix("long suffix", "/")), host("a.*", prefix("a prefix", "/")),
		host("a.b.example", prefix("first", "/x"), exact("shadowed", "/x/y"), separated("other", "/z"), prefix("rest", "/")),
	}
	for range 2 {
		table := router.New(&config.RouteTable{VirtualHosts: hosts})
		for _, c := range []struct{ host, path, want string }{
			{"a.b.example", "/x/y", "first"},
			{"A.B.Example", "/z/1", "other"},
			{"a.b.example", "/zz", "rest"},
			{"c.b.example", "/x", "long suffix"},
			{"c.example", "/x", "short suffix"},
			{"a.other", "/x", "a prefix"},
			{"b.example", "/", "short suffix"},
			{"x", "/", "any"},
		} {
			if m, err := table.Match(request(c.host, c.path, nil)); err != nil || m.Route == nil || m.Route.Name != c.want {
				t.Errorf("%s%s: %+v, %v, want %s", c.host, c.path, m.Route, err, c.want)
			}
		}
		for i, j := 0, len(hosts)-1; i < j; i, j = i+1, j-1 { // the order of hosts means nothing
			hosts[i], hosts[j] = hosts[j], hosts[i]
		}
	}
}

// A rule sees every line of a field: a second one neither hides behind the first nor stands for it (CVE-2024-10006,
// CVE-2026-26308).
func TestCVEClass05_RulesSeeEveryLine(t *testing.T) {
	role := func(name, value string, invert bool) *config.Route {
		return &config.Route{Name: name, Path: "/", Headers: []config.HeaderMatch{{Name: "x-role", Exact: value, Invert: invert}}}
	}
	table := router.New(oneHost(role("admin", "admin", false), role("both", "user,admin", false), role("no user", "user", true), prefix("rest", "/")))
	for _, c := range []struct {
		lines fields
		want  string
	}{
		{fields{"x-role", "admin"}, "admin"},
		{fields{"X-Role", "admin", "X-Role", "user"}, "no user"},
		{fields{"x-role", "user", "X-ROLE", "admin"}, "both"},
		{fields{"x-role", "user"}, "rest"},
		{fields{"x-role", "user", "x-role", ""}, "no user"},
		{fields{"x-role", "admin", "x-role", ""}, "no user"},
		{nil, "rest"},
	} {
		if m, err := table.Match(request("h", "/", c.lines)); err != nil || m.Route == nil || m.Route.Name != c.want {
			t.Errorf("%q: %+v, %v, want %s", c.lines, m.Route, err, c.want)
		}
	}
}
