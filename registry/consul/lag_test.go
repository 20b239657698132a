package consul

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// laggard answers, once when it is told to, as a server does that has not applied yet what others have: with what Consul
// said before.
type laggard struct {
	to   http.RoundTripper
	path string

	mu     sync.Mutex
	before *http.Response // guarded by mu; the first answer, its body in text
	text   []byte         // guarded by mu
	armed  bool           // guarded by mu
	lagged chan struct{}  // closed when it has answered so
}

// RoundTrip implements http.RoundTripper.
func (l *laggard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path != l.path {
		return l.to.RoundTrip(req)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.before == nil:
		resp, err := l.to.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if l.text, err = io.ReadAll(resp.Body); err != nil {
			return nil, err
		}
		l.before = resp
		return l.old(), nil
	case l.armed && req.URL.Query().Has("index"):
		l.armed = false
		close(l.lagged)
		return l.old(), nil
	case !isClosed(l.lagged):
	case !req.URL.Query().Has("index"):
		time.Sleep(300 * time.Millisecond) // the old answer shall be seen, if it is taken
	}
	l.mu.Unlock()
	defer l.mu.Lock()
	return l.to.RoundTrip(req)
}

func (l *laggard) old() *http.Response {
	resp := *l.before
	resp.Body = io.NopCloser(bytes.NewReader(l.text))
	return &resp
}

// via has a client ask through another transport, whose own is then that of the client.
func via(t *testing.T, c *client, through http.RoundTripper) {
	t.Helper()
	asking, err := api.NewClient(&api.Config{
		Scheme: c.transport.scheme, Address: c.transport.host, HttpClient: &http.Client{Transport: through},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.raw = asking.Raw()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (l *laggard) arm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = true
}

// TestServerThatLagsTakesNothingBack has a server answer a blocking query, when its time is up, with less than the leader
// had told before. The view never goes back to that.
func TestServerThatLagsTakesNothingBack(t *testing.T) {
	for name, path := range map[string]string{
		"list of services": "/v1/catalog/services",
		"service":          "/v1/health/service/web",
	} {
		t.Run(name, func(t *testing.T) {
			server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
			register := func(service, version string) {
				t.Helper()
				if _, err := server.Client().Catalog().Register(&api.CatalogRegistration{
					Node: "far", Address: "10.9.9.9", Service: &api.AgentService{
						ID: service, Service: service, Address: "10.9.9.9", Port: 80, Meta: map[string]string{"version": version},
					},
				}, nil); err != nil {
					t.Fatal(err)
				}
			}
			register("web", "1")
			l := &laggard{path: path, lagged: make(chan struct{})}
			w := startWatching(t, Config{Address: server.Address}, func(c *client) {
				l.to = c.transport
				via(t, c, l)
			})
			w.await(t, "the start", labelled("web", "1"))
			register("web", "2")
			register("late", "1")
			there := func(v registry.View) bool { return labelled("web", "2")(v) && labelled("late", "1")(v) }
			w.await(t, "a change and a new service", there)
			l.arm()
			register("web", "3")
			select {
			case <-l.lagged:
			case <-time.After(30 * time.Second):
				t.Fatal("nothing was asked again")
			}
			register("end", "1")
			w.await(t, "what came last", func(v registry.View) bool {
				if labelled("web", "1")(v) || serviceNamed(v, "late") == nil {
					t.Errorf("the view has gone back: web %+v, late %+v", serviceNamed(v, "web"), serviceNamed(v, "late"))
				}
				return labelled("end", "1")(v)
			})
		})
	}
}

// behind has a server seem to be behind by what it will never catch up with: it holds the first blocking query for each
// loaded service for as long as it was asked to.
type behind struct {
	to http.RoundTripper

	mu   sync.Mutex
	held map[string]bool // guarded by mu; by path
}

// RoundTrip implements http.RoundTripper.
func (b *behind) RoundTrip(req *http.Request) (*http.Response, error) {
	values := req.URL.Query()
	if strings.HasPrefix(req.URL.Path, "/v1/health/service/svc-") && values.Has("index") && b.first(req.URL.Path) {
		req = req.Clone(req.Context())
		values.Set("index", "1000000")
		req.URL.RawQuery = values.Encode()
	}
	return b.to.RoundTrip(req)
}

func (b *behind) first(path string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held[path]
	b.held[path] = true
	return !held
}

// TestServerThatLagsHoldsNoTurn has a server hold more queries than may be under way in turn. A new service is read all the
// same.
func TestServerThatLagsHoldsNoTurn(t *testing.T) {
	const services = readsInTurn + 8
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	if err := testbed.LoadConsul(t.Context(), server.Client(), services, 1); err != nil {
		t.Fatal(err)
	}
	w := startWatching(t, Config{Address: server.Address}, func(c *client) {
		via(t, c, &behind{to: c.transport, held: make(map[string]bool)})
	})
	w.await(t, "the start", func(v registry.View) bool { return len(v.Services) == services })
	relabel(t, server.Client(), services-1, 1, "changed")
	if _, err := server.Client().Catalog().Register(&api.CatalogRegistration{
		Node: "far", Address: "10.9.9.9", Service: &api.AgentService{ID: "late", Service: "late", Address: "10.9.9.9", Port: 80},
	}, nil); err != nil {
		t.Fatal(err)
	}
	w.await(t, "a new service and a change", func(v registry.View) bool {
		return serviceNamed(v, "late") != nil && labelled(testbed.LoadedServiceName(services-1), "changed")(v)
	})
}

// resetting has Consul end its subscription of each service once, as it does when ACLs change.
type resetting struct {
	behind
	reset atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (r *resetting) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasPrefix(req.URL.Path, "/v1/health/service/svc-") && req.URL.Query().Has("index") && r.first(req.URL.Path) {
		r.reset.Add(1)
		body := io.NopCloser(strings.NewReader("stream reset requested"))
		return &http.Response{StatusCode: http.StatusInternalServerError, Header: make(http.Header), Body: body, Request: req}, nil
	}
	return r.to.RoundTrip(req)
}

// TestSubscriptionThatIsReset goes on, with a question to the leader, who tells whether it may be read still.
func TestSubscriptionThatIsReset(t *testing.T) {
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	if err := testbed.LoadConsul(t.Context(), server.Client(), 2, 1); err != nil {
		t.Fatal(err)
	}
	r := &resetting{behind: behind{held: make(map[string]bool)}}
	w := startWatching(t, Config{Address: server.Address}, func(c *client) {
		r.to = c.transport
		via(t, c, r)
	})
	w.await(t, "the start", func(v registry.View) bool { return len(v.Services) == 2 })
	for deadline := time.Now().Add(20 * time.Second); r.reset.Load() < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no subscription was reset")
		}
	}
	relabel(t, server.Client(), 1, 1, "changed")
	w.await(t, "a change after the reset", labelled(testbed.LoadedServiceName(1), "changed"))
}
