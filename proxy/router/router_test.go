package router_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/router"
)

// fields is a list of header fields, "name", "value", ….
type fields []string

func (f fields) Next(name string, i int) ([]byte, int) {
	for ; 2*i+1 < len(f); i++ {
		if strings.EqualFold(f[2*i], name) {
			return []byte(f[2*i+1]), i + 1
		}
	}
	return nil, -1
}

func request(host, path string, f fields) *router.Request {
	path, query, has := strings.Cut(path, "?")
	return &router.Request{
		Method: []byte("GET"), Host: []byte(host), Path: []byte(path), Query: []byte(query), HasQuery: has, Headers: f,
	}
}

func prefix(name, path string) *config.Route { return &config.Route{Name: name, Path: path} }

func exact(name, path string) *config.Route {
	return &config.Route{Name: name, Path: path, PathMatch: config.PathExact}
}

func separated(name, path string) *config.Route {
	return &config.Route{Name: name, Path: path, PathMatch: config.PathSeparatedPrefix}
}

func oneHost(routes ...*config.Route) *config.RouteTable {
	return &config.RouteTable{VirtualHosts: []*config.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: routes}}}
}

func TestHost(t *testing.T) {
	var hosts []*config.VirtualHost
	for _, d := range []string{
		"a.b", "a.b:80", "*.b", "*.a.b", "*-x.b", "a.*", "a.b.*", "web.mesh.internal", "Upper.Case", "*", "*.b",
	} {
		hosts = append(hosts, &config.VirtualHost{
			Name: fmt.Sprint(len(hosts), " ", d), Domains: []string{d}, Routes: []*config.Route{prefix(d, "/")},
		})
	}
	table := router.New(&config.RouteTable{VirtualHosts: hosts})
	tests := []struct{ name, host, want string }{
		{"exact", "a.b", "0 a.b"},
		{"exact with port", "a.b:80", "1 a.b:80"},
		{"another port is another domain", "a.b:81", "5 a.*"},
		{"longest suffix", "q.a.b", "3 *.a.b"},
		{"longest suffix that is not a label", "q-x.b", "4 *-x.b"},
		{"shorter suffix", "q.z.b", "2 *.b"},
		{"a wildcard is not empty", ".b", "9 *"},
		{"nor without dot", "-x.b", "2 *.b"},
		{"longest prefix", "a.b.c", "6 a.b.*"},
		{"shorter prefix", "a.c", "5 a.*"},
		{"suffix before prefix", "a.q.b", "2 *.b"},
		{"any", "x.y", "9 *"},
		{"no host", "", "9 *"},
		{"host in capitals", "WEB.Mesh.INTERNAL", "7 web.mesh.internal"},
		{"domain in capitals", "upper.case", "8 Upper.Case"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := table.Match(request(tt.host, "/", nil))
			if err != nil || m.VirtualHost == nil || m.VirtualHost.Name != tt.want {
				t.Errorf("Match(%q) = %+v, %v; want %s", tt.host, m.VirtualHost, err, tt.want)
			}
		})
	}
	t.Run("no virtual host", func(t *testing.T) {
		m, err := router.New(&config.RouteTable{}).Match(request("a", "/", nil))
		if err != nil || m.VirtualHost != nil || m.Route != nil {
			t.Errorf("Match = %+v, %v; want nothing", m, err)
		}
	})
}

func TestRoute(t *testing.T) {
	header := func(name string, r *config.Route, h ...config.HeaderMatch) *config.Route {
		c := *r
		c.Name, c.Headers = name, h
		return &c
	}
	fold := prefix("fold", "/FoLd/")
	fold.CaseInsensitive = true
	table := router.New(oneHost(
		exact("exact", "/exact"),
		separated("separated", "/sep"),
		header("v2", prefix("", "/h"), config.HeaderMatch{Name: "x-v", Exact: "2"}),
		header("list", prefix("", "/h"), config.HeaderMatch{Name: "x-v", Exact: "1,2"}),
		header("present", prefix("", "/h"), config.HeaderMatch{Name: "x-p", Present: true}),
		header("inverted", prefix("", "/h"), config.HeaderMatch{Name: "x-i", Exact: "1", Invert: true}),
		header("absent", prefix("", "/abs"), config.HeaderMatch{Name: "x-p", Present: true, Invert: true}),
		header("post", prefix("", "/m"), config.HeaderMatch{Name: ":method", Exact: "POST"}),
		header("get", prefix("", "/m"), config.HeaderMatch{Name: ":method", Exact: "GET"}),
		header("query", prefix("", "/q"), config.HeaderMatch{Name: ":path", Exact: "/q?a=b"}),
		header("authority", prefix("", "/q"), config.HeaderMatch{Name: ":authority", Exact: "h:1"}),
		fold,
		exact("escaped", "/sp%20ace"),
		prefix("dots", "/%61bc"),
		prefix("slash", "/s/"),
	))
	tests := []struct {
		name, path string
		f          fields
		want       string
	}{
		{"exact", "/exact", nil, "exact"},
		{"exact without query", "/exact?x", nil, "exact"},
		{"exact only", "/exact/", nil, ""},
		{"separated equal", "/sep", nil, "separated"},
		{"separated below", "/sep/a", nil, "separated"},
		{"separated is no prefix", "/separate", nil, ""},
		{"header", "/h", fields{"X-V", "2"}, "v2"},
		{"header with another value", "/h", fields{"X-V", "3"}, ""},
		{"second line does not hide", "/h", fields{"X-V", "2", "X-V", "3"}, ""},
		{"two lines are a list", "/h", fields{"X-V", "1", "X-V", "2"}, "list"},
		{"a list is two lines", "/h", fields{"X-V", "1,2"}, "list"},
		{"present though empty", "/h", fields{"x-p", ""}, "present"},
		{"inverted", "/h", fields{"x-i", "2"}, "inverted"},
		{"inverted equal", "/h", fields{"x-i", "1"}, ""},
		{"inverted missing", "/h", nil, ""},
		{"absent", "/abs", nil, "absent"},
		{"absent but there", "/abs", fields{"x-p", "1"}, ""},
		{"method", "/m", nil, "get"},
		{"path with query", "/q?a=b", nil, "query"},
		{"authority", "/q?a=c", nil, "authority"},
		{"without case", "/fOlD/x", nil, "fold"},
		{"with case", "/EXACT", nil, ""},
		{"escape in a route", "/sp%20ace", nil, "escaped"},
		{"route is normalised", "/abc", nil, "dots"},
		{"request is normalised", "/x/../%61bc", nil, "dots"},
		{"prefix with slash", "/s", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := table.Match(request("h:1", tt.path, tt.f))
			name := ""
			if m.Route != nil {
				name = m.Route.Name
			}
			if err != nil || name != tt.want {
				t.Errorf("Match(%q) = %q, %v; want %q", tt.path, name, err, tt.want)
			}
		})
	}
}

// Classes of cve.md 1 to 3: a path must not get around the route of a more specific one, and what is routed is forwarded.
func TestCVEClass01_PathNormalisation(t *testing.T) {
	table := router.New(oneHost(
		separated("admin", "/admin"), separated("deep", "/public/secret"), prefix("files", "/files/"), prefix("rest", "/")))
	tests := []struct {
		path, route, forwarded string
		err                    error
	}{
		{"/x", "rest", "/x", nil},
		{"/admin/x", "admin", "/admin/x", nil},
		{"/x/../admin", "admin", "/admin", nil},
		{"/x/%2e%2E/admin", "admin", "/admin", nil},
		{"/x/.%2e/admin", "admin", "/admin", nil},
		{"/./admin", "admin", "/admin", nil},
		{"/%61dmin", "admin", "/admin", nil},
		{"/admin/..", "rest", "/", nil},
		{"/admin/../x", "rest", "/x", nil},
		{"/../../admin", "admin", "/admin", nil},
		{"/admin/.", "admin", "/admin/", nil},
		{"/.well-known/x", "rest", "/.well-known/x", nil},
		{"//admin", "", "", router.ErrAmbiguousPath},
		{"///admin/x", "", "", router.ErrAmbiguousPath},
		{"/x//y", "rest", "/x//y", nil},
		{"/files//y", "files", "/files//y", nil},
		{"/files/a%2Fb", "files", "/files/a%2Fb", nil},
		{"/files/a%20b", "files", "/files/a%20b", nil},
		{"/admin%2Fx", "", "", router.ErrAmbiguousPath},
		{"/public%2fsecret", "", "", router.ErrAmbiguousPath},
		{"/files/..%2fadmin", "", "", router.ErrAmbiguousPath},
		{"/files/%2e%2e%2fadmin", "", "", router.ErrAmbiguousPath},
		{"/x%5c..%5cadmin", "", "", router.ErrAmbiguousPath},
		{`/\admin`, "", "", router.ErrAmbiguousPath},
		{`/x\..\admin`, "", "", router.ErrAmbiguousPath},
		{"/files/..;/admin", "", "", router.ErrAmbiguousPath},
		{"/files/..;a=b/admin", "", "", router.ErrAmbiguousPath},
		{"/admin;a=b/x", "", "", router.ErrAmbiguousPath},
		{"/public;/secret", "", "", router.ErrAmbiguousPath},
		{"/files/a;b=c", "files", "/files/a;b=c", nil},
		{"/admin%3b", "", "", router.ErrAmbiguousPath},
		{"/;%2fadmin", "", "", router.ErrAmbiguousPath},
		{"/admin%2f%2f..%2fz", "", "", router.ErrAmbiguousPath},
		{"/x%2f..", "", "", router.ErrAmbiguousPath},
		{"/x/..;", "", "", router.ErrAmbiguousPath},
		{"/files/a%3bb", "files", "/files/a%3bb", nil},
		{"/%", "", "", router.ErrPath},
		{"/%4", "", "", router.ErrPath},
		{"/%zz", "", "", router.ErrPath},
		{"/a%00b", "", "", router.ErrPath},
		{"admin", "", "", router.ErrPath},
		{"", "", "", router.ErrPath},
		{"admin/../x", "", "", router.ErrPath},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			m, err := table.Match(request("h", tt.path, nil))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if m.Route.Name != tt.route || string(m.Path) != tt.forwarded {
				t.Errorf("route %q forwards %q; want %q, %q", m.Route.Name, m.Path, tt.route, tt.forwarded)
			}
		})
	}
}

func TestAsteriskIsNoPath(t *testing.T) {
	m, err := router.New(oneHost(prefix("root", "/"), exact("star", "*"))).Match(request("h", "*", nil))
	if err != nil || m.Route == nil || m.Route.Name != "star" {
		t.Errorf("Match = %+v, %v; want star", m.Route, err)
	}
}

func TestPick(t *testing.T) {
	clusters := []config.WeightedCluster{{Name: "a", Weight: 1}, {Name: "b", Weight: 3}, {Name: "c", Weight: 6}}
	got := map[string]int{}
	for i := range uint64(1000) {
		got[router.Pick(clusters, i)]++
	}
	if got["a"] != 100 || got["b"] != 300 || got["c"] != 600 {
		t.Errorf("shares %v, want 100, 300, 600", got)
	}
	if name := router.Pick(clusters[:1], 1<<63); name != "a" {
		t.Errorf("Pick of one = %q", name)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	var hosts []*config.VirtualHost
	for i := range 100 {
		name := fmt.Sprintf("s%d.default.mesh.internal", i)
		hosts = append(hosts, &config.VirtualHost{
			Name: name, Domains: []string{name, name + ":80", "*." + name},
			Routes: []*config.Route{
				{Path: "/a", Headers: []config.HeaderMatch{{Name: "x-v", Exact: "1"}}}, prefix("rest", "/"),
			},
		})
	}
	table := router.New(&config.RouteTable{VirtualHosts: hosts})
	parser, head := new(http1.Request), new(message.Head)
	r := &router.Request{Method: []byte("GET"), Host: []byte("Q.S7.default.mesh.internal")}
	raw := []byte("GET /a/%62/../c%2fd//e HTTP/1.1\r\nHost: x\r\nX-V: 2\r\n\r\n")
	match := func() {
		parser.Reset()
		if _, err := parser.Parse(raw, head, http1.Limits{}); err != nil {
			t.Fatal(err)
		}
		r.Path, r.Headers = head.Bytes(head.Path), head
		if m, err := table.Match(r); err != nil || m.Route == nil || string(m.Path) != "/a/c%2fd//e" {
			t.Fatalf("Match = %+v, %v", m, err)
		}
	}
	if n := testing.AllocsPerRun(100, match); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkNew(b *testing.B) {
	var hosts []*config.VirtualHost
	for i := range 1000 {
		name := fmt.Sprintf("s%d.default.mesh.internal", i)
		hosts = append(hosts, &config.VirtualHost{
			Name: name, Domains: []string{name, name + ":80"},
			Routes: []*config.Route{{Path: "/", Timeout: 15 * time.Second}},
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		router.New(&config.RouteTable{VirtualHosts: hosts})
	}
}
