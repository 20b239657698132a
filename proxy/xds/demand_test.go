package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// wantNames takes the next request, which must ask for names, and for no more of them than "-" ends.
func (s *adsStream) wantNames(t *testing.T, k kind, names ...string) {
	t.Helper()
	m := s.want(t, k)
	got := m.GetResourceNamesSubscribe()
	for _, name := range m.GetResourceNamesUnsubscribe() {
		got = append(got, "-"+name)
	}
	if !slices.Equal(got, names) {
		t.Fatalf("%s: got %q, want %q", k, got, names)
	}
}

// TestWantedByName: a name brings its listener, the routes of that and the clusters that those lead to, in whatever order the
// server speaks; what does not exist is told, and sent when it appears.
func TestWantedByName(t *testing.T) {
	socket := socketPath(t)
	server, stop := serve(t, socket)
	c := newClient(t, socket, "")
	s := server.accept(t)
	s.first(t)
	waitFor(t, c.Config(), "everything", served)

	c.Want("web", "gone")
	c.Want("web")
	s.wantNames(t, clusters, "gone", "web")
	s.wantNames(t, listeners, "gone", "web")
	s.send(t, clusters, "c2", "7", nil, "gone", "web")
	s.wantACK(t, clusters, "c2")
	if why := c.Unknown("web"); !strings.Contains(why, "has not answered yet") {
		t.Errorf("unknown because %s", why)
	}
	s.send(t, listeners, "l2", "7", list(listenerNamed(t, "web", 15002, "web:80")), "gone")
	s.wantACK(t, listeners, "l2")
	s.wantNames(t, routeTables, "web:80")
	waitFor(t, c.Config(), "a name that does not exist", func(c *config.Config) bool { return c.Absent["gone"] && len(c.Absent) == 1 })
	if why := c.Unknown("web"); !strings.Contains(why, "routes") {
		t.Errorf("unknown because %s", why)
	}

	s.send(t, routeTables, "r2", "7", list(routesNamed(t, "web:80", "1", "outbound|80||web")))
	s.wantACK(t, routeTables, "r2")
	s.wantNames(t, clusters, "outbound|80||web")
	s.send(t, clusters, "c3", "8", list(clusterNamed(t, "outbound|80||web", "1")))
	s.wantACK(t, clusters, "c3")
	s.wantNames(t, endpoints, "outbound|80||web")
	if cfg := waitFor(t, c.Config(), "number 8", func(c *config.Config) bool { return c.Version == "8" }); len(cfg.Listeners) != 1 {
		t.Errorf("listeners %q are served before their endpoints are known", names(cfg))
	}
	s.send(t, endpoints, "e2", "8", list(endpointsNamed(t, "outbound|80||web", "1", 1003)))
	s.wantACK(t, endpoints, "e2")
	waitFor(t, c.Config(), "the listener", func(c *config.Config) bool { return slices.Equal(names(c), []string{"out", "web"}) })

	s.send(t, listeners, "l3", "9", list(listenerNamed(t, "gone", 15003, "routes")), "web")
	s.wantACK(t, listeners, "l3")
	s.wantNames(t, clusters, "a", "-outbound|80||web") // which "gone" leads to now
	s.wantNames(t, routeTables, "-web:80")
	waitFor(t, c.Config(), "one here, the other gone", func(c *config.Config) bool {
		return slices.Equal(names(c), []string{"gone", "out"}) && c.Absent["web"] && !c.Absent["gone"]
	})

	stop()
	server, _ = serve(t, socket)
	s = server.accept(t)
	s.wantNames(t, clusters, "*", "a", "gone", "web")
	s.wantNames(t, endpoints, "a", "b", "outbound|80||web")
	s.wantNames(t, listeners, "*", "gone", "web")
}

// TestRefusedByName: who asks why learns what is wrong with the resource.
func TestRefusedByName(t *testing.T) {
	socket := socketPath(t)
	server, stop := serve(t, socket)
	c := newClient(t, socket, "")
	s := server.accept(t)
	s.first(t)
	c.Want("web")
	s.wantNames(t, clusters, "web")
	s.wantNames(t, listeners, "web")
	bad := listenerNamed(t, "web", 15002, "routes")
	bad.Resource.Value = bad.Resource.Value[:8]
	s.send(t, listeners, "l2", "7", list(bad))
	if m := s.want(t, listeners); m.GetErrorDetail() == nil {
		t.Error("took it")
	}
	if why := c.Unknown("web"); !strings.Contains(why, "lds resource is refused") {
		t.Errorf("unknown because %s", why)
	}
	stop()
	for c.Status().Connected {
		time.Sleep(time.Millisecond)
	}
	if why := c.Unknown("other"); !strings.Contains(why, "is away") {
		t.Errorf("unknown because %s", why)
	}
}

// TestAbsentNamesAreBounded: whoever asks for random names fills no memory, and drives out no name that exists.
func TestAbsentNamesAreBounded(t *testing.T) {
	s := newTold(t)
	s.tell(clusters, nil)
	s.want("web", s.now)
	s.tell(listeners, list(listenerNamed(t, "web", 1, "r")), "x")
	for i := range mostUnknown + 10 {
		name := fmt.Sprint("random-", i)
		s.now = s.now.Add(1)
		s.want(name, s.now)
		s.tell(clusters, nil, name)
		s.tell(listeners, nil, name)
	}
	cfg := s.after(0)
	if n := len(s.asked); n != mostUnknown+1 || len(cfg.Absent) != mostUnknown || s.asked["web"].IsZero() {
		t.Errorf("%d names are asked for, %d of them absent", n, len(cfg.Absent))
	}
	if cfg.Absent["random-0"] || !cfg.Absent[fmt.Sprint("random-", mostUnknown+9)] {
		t.Error("another name than the oldest was forgotten")
	}
	if len(s.types[listeners].wanted) != len(s.asked) || len(s.types[clusters].wanted) != len(s.asked) || len(s.types[clusters].absent) != mostUnknown {
		t.Errorf("more is remembered: %d, %d, %d", len(s.types[listeners].wanted), len(s.types[clusters].wanted), len(s.types[clusters].absent))
	}
}

// TestCVEClass29_NamesThatNobodyKnowsAreBounded: whoever looks up random names while the server says nothing, for it is away, fills no
// memory, has no end of names asked for when it is back, and drives out no name of which something is known.
func TestCVEClass29_NamesThatNobodyKnowsAreBounded(t *testing.T) {
	s := newTold(t)
	s.tell(clusters, nil, "web")
	s.want("web", s.now)
	s.tell(listeners, list(listenerNamed(t, "web", 1, "r")))
	for i := range 3 * mostUnknown {
		s.now = s.now.Add(1)
		s.want(fmt.Sprint("random-", i), s.now)
	}
	newest := fmt.Sprint("random-", 3*mostUnknown-1)
	if n := len(s.asked); n != mostUnknown+1 || s.asked["web"].IsZero() || s.asked[newest].IsZero() {
		t.Errorf("%d names are asked for, web since %v, the newest since %v", n, s.asked["web"], s.asked[newest])
	}
	if len(s.types[listeners].wanted) != len(s.asked) || len(s.types[clusters].wanted) != len(s.asked) {
		t.Errorf("more is asked for: %d, %d", len(s.types[listeners].wanted), len(s.types[clusters].wanted))
	}
}
