package router_test

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/router"
)

// naiveHost is the rule for hosts as Envoy's documentation words it.
func naiveHost(t *config.RouteTable, host string) *config.VirtualHost {
	host = strings.ToLower(host)
	var best *config.VirtualHost
	rank := [2]int{}
	for _, vh := range t.VirtualHosts {
		for _, d := range vh.Domains {
			var r [2]int
			switch {
			case d == host:
				r = [2]int{4, 0}
			case d == "*":
				r = [2]int{1, 0}
			case d[0] == '*' && strings.HasSuffix(host, d[1:]) && len(host) > len(d)-1:
				r = [2]int{3, len(d)}
			case d[0] != '*' && d[len(d)-1] == '*' && strings.HasPrefix(host, d[:len(d)-1]) && len(host) > len(d)-1:
				r = [2]int{2, len(d)}
			default:
				continue
			}
			if slices.Compare(r[:], rank[:]) > 0 {
				best, rank = vh, r
			}
		}
	}
	return best
}

func naiveRoute(vh *config.VirtualHost, p string) *config.Route {
	for _, r := range vh.Routes {
		want, got := r.Path, p
		if r.CaseInsensitive {
			want, got = strings.ToLower(want), strings.ToLower(got)
		}
		switch {
		case r.PathMatch == config.PathExact && got == want,
			r.PathMatch == config.PathPrefix && strings.HasPrefix(got, want),
			r.PathMatch == config.PathSeparatedPrefix && (got == want || strings.HasPrefix(got, want+"/")):
			return r
		}
	}
	return nil
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// FuzzMatch compares the table with a naive reading of the rules, domains and routes being fuzzed as well as the request.
func FuzzMatch(f *testing.F) {
	f.Add("a.b *.b a.* *", "/a =/b ~/c ^/D", "x.b", "/c/d")
	f.Add("a.b:80 *.a.b *-c.b", "/", "A.B:80", "/")
	f.Fuzz(func(t *testing.T, domains, routes, host, p string) {
		if !ascii(host) || !ascii(p) || !ascii(strings.ReplaceAll(domains+routes, " ", "")) || strings.ContainsAny(p+routes, `%\;`) {
			return
		}
		if !strings.HasPrefix(p, "/") || strings.Contains(p+routes, "//") || strings.Contains(p+routes, "/.") {
			return
		}
		table := &config.RouteTable{}
		for _, d := range strings.Fields(strings.ToLower(domains)) {
			vh := &config.VirtualHost{Name: d, Domains: []string{d}}
			for _, r := range strings.Fields(routes) {
				route := &config.Route{Name: d + r, Path: strings.TrimLeft(r, "=~^")}
				switch r[0] {
				case '=':
					route.PathMatch = config.PathExact
				case '~':
					route.PathMatch = config.PathSeparatedPrefix
				case '^':
					route.CaseInsensitive = true
				}
				vh.Routes = append(vh.Routes, route)
			}
			table.VirtualHosts = append(table.VirtualHosts, vh)
		}
		m, err := router.New(table).Match(request(host, p, nil))
		p, _, _ = strings.Cut(p, "?")
		if err != nil {
			t.Fatalf("Match: %v", err)
		}
		want := naiveHost(table, host)
		if m.VirtualHost != want {
			t.Fatalf("host %q of %q: %+v, want %+v", host, domains, m.VirtualHost, want)
		}
		if want == nil {
			return
		}
		if route := naiveRoute(want, p); m.Route != route || string(m.Path) != p {
			t.Fatalf("path %q of %q: %+v at %q, want %+v", p, routes, m.Route, m.Path, route)
		}
	})
}

// FuzzNormalize: the normal form is a fixed point, leads nowhere else by a dot segment, and means the same to who decodes it.
func FuzzNormalize(f *testing.F) {
	for _, p := range []string{"/", "/a/../b", "/%2e%2e/x", "//a//..", "/a%2fb/./", "/a/..;/b", `/\..`} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		normal, ambiguous, err := router.Normalize(nil, []byte(p))
		if err != nil {
			return
		}
		if len(normal) == 0 || normal[0] != '/' || len(normal) > len(p) {
			t.Fatalf("%q became %q", p, normal)
		}
		again, _, err := router.Normalize(nil, normal)
		if err != nil || string(again) != string(normal) {
			t.Fatalf("%q became %q and then %q, %v", p, normal, again, err)
		}
		for _, segment := range strings.Split(string(normal), "/") {
			if s := strings.ToLower(strings.ReplaceAll(segment, "%2e", ".")); s == "." || s == ".." {
				t.Fatalf("%q became %q with a dot segment", p, normal)
			}
		}
		decoded, err := url.PathUnescape(p)
		if err != nil {
			t.Fatalf("%q was accepted: %v", p, err)
		}
		if ambiguous || strings.Contains(strings.ToLower(p), "%2f") { // path.Clean would take an escaped slash for one
			return
		}
		clean := path.Clean(decoded)
		if clean != "/" && string(normal[len(normal)-1]) == "/" {
			clean += "/"
		}
		if !strings.Contains(decoded, "//") && clean != string(normal) {
			t.Fatalf("%q became %q; path.Clean says %q", p, normal, clean)
		}
	})
}

// FuzzNoBypass: however a server reads the path that is forwarded, it is not under /admin when the route was another's;
// whatever is done about escaped and double slashes before.
func FuzzNoBypass(f *testing.F) {
	for _, p := range []string{
		"/admin", "//admin", "/x/..%2fadmin", `/\admin`, "/x/..;/admin", "/adm%69n", "/admin;x/y", "/%5c/admin", "/x/.;a/../admin", "/x%2f%2e%2e/admin",
	} {
		f.Add(p)
	}
	table := router.New(oneHost(separated("admin", "/admin"), prefix("rest", "/")))
	f.Fuzz(func(t *testing.T, p string) {
		if strings.Contains(p, "?") {
			return
		}
		unescape := func(s string) string {
			u, err := url.PathUnescape(s)
			if err != nil {
				return s // a "%25" was decoded before
			}
			return u
		}
		slashes := func(s string) string { return strings.ReplaceAll(s, `\`, "/") }
		steps := []func(string) string{unescape, slashes, stripParameters, path.Clean, resolve}
		for policy := range 8 {
			r := request("h", p, nil)
			r.Slashes, r.MergeSlashes = config.Slashes(policy/2), policy%2 == 1
			m, err := table.Match(r)
			if err != nil || m.Route == nil || m.Route.Name == "admin" {
				continue
			}
			forAllOrders(string(m.Path), steps, func(read string) {
				if clean := path.Clean(read); clean == "/admin" || strings.HasPrefix(clean, "/admin/") {
					t.Fatalf("%q has route %q, is forwarded as %q and may be read as %q (policy %d)", p, m.Route.Name, m.Path, read, policy)
				}
			})
		}
	})
}

// forAllOrders calls check with what comes of any selection of steps in any order.
func forAllOrders(s string, steps []func(string) string, check func(string)) {
	check(s)
	for i, step := range steps {
		if next := step(s); next != s {
			forAllOrders(next, slices.Delete(slices.Clone(steps), i, i+1), check)
		}
	}
}

func stripParameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// resolve removes dot segments without merging slashes.
func resolve(p string) string {
	var out []string
	for _, s := range strings.Split(strings.TrimPrefix(p, "/"), "/") {
		switch {
		case s == ".":
		case s == ".." && len(out) > 0:
			out = out[:len(out)-1]
		case s != "..":
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}
