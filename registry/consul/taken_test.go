package consul

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// backlog answers blocking queries for one path, from when it is armed, with what Consul said then, one after the other:
// as a stream does that comes after what the leader says. Then it answers as Consul does.
type backlog struct {
	to    http.RoundTripper
	path  string
	armed chan struct{}
	said  chan *http.Response
	ended chan struct{} // closed when more is asked for than was said
}

// RoundTrip implements http.RoundTripper.
func (b *backlog) RoundTrip(req *http.Request) (*http.Response, error) {
	blocking := req.URL.Path == b.path && req.URL.Query().Has("index")
	if !blocking || !isClosed(b.armed) { // the one that is under way when it is armed is held by Consul until then
		resp, err := b.to.RoundTrip(req)
		if err != nil || !blocking || !isClosed(b.armed) {
			return resp, err
		}
		_ = resp.Body.Close()
	}
	select {
	case old, more := <-b.said:
		if !more {
			if !isClosed(b.ended) {
				close(b.ended)
			}
			return b.to.RoundTrip(req)
		}
		old.Request = req
		return old, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// after returns what Consul says after an index.
func (b *backlog) after(t *testing.T, where url.URL, index string) *http.Response {
	t.Helper()
	where.Path, where.RawQuery = b.path, url.Values{"index": {index}, "wait": {"10s"}, "stale": {""}}.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, where.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.to.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp
}

// TestStreamBehindTheLeaderTakesNothingBack removes an instance, which has the leader asked, and before that adds another
// and removes it again. What the stream says of that comes after what the leader said, and is not taken.
func TestStreamBehindTheLeaderTakesNothingBack(t *testing.T) {
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	catalog := server.Client().Catalog()
	add := func(id, service string) {
		t.Helper()
		if _, err := catalog.Register(&api.CatalogRegistration{
			Node: "far", Address: "10.9.9.9", Service: &api.AgentService{ID: id, Service: service, Address: "10.9.9.9", Port: 80},
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(id string) {
		t.Helper()
		if _, err := catalog.Deregister(&api.CatalogDeregistration{Node: "far", ServiceID: id}, nil); err != nil {
			t.Fatal(err)
		}
	}
	add("web-1", "web")
	add("web-2", "web")
	b := &backlog{path: "/v1/health/service/web", armed: make(chan struct{}), said: make(chan *http.Response, 2), ended: make(chan struct{})}
	w := startWatching(t, Config{Address: server.Address}, func(c *client) {
		b.to = c.transport
		via(t, c, b)
	})
	ids := func(v registry.View) (ids []string) {
		if web := serviceNamed(v, "web"); web != nil {
			for _, e := range web.Endpoints {
				ids = append(ids, e.ID)
			}
		}
		return ids
	}
	w.await(t, "two instances", func(v registry.View) bool { return len(ids(v)) == 2 })
	time.Sleep(100 * time.Millisecond) // for the subscription
	where := url.URL{Scheme: w.client.transport.scheme, Host: w.client.transport.host}
	_, before, err := server.Client().Health().Service("web", "", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	close(b.armed)
	remove("web-2")
	removed := b.after(t, where, strconv.FormatUint(before.LastIndex, 10))
	add("web-3", "web")
	added := b.after(t, where, removed.Header.Get("X-Consul-Index"))
	remove("web-3")
	b.said <- removed
	b.said <- added
	close(b.said)
	select {
	case <-b.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("what the stream said was not asked for")
	}
	add("end-1", "end")
	w.await(t, "what came last", func(v registry.View) bool {
		if got := ids(v); len(got) == 2 && got[1] != "dc1/far/web-2" || len(got) > 2 {
			t.Errorf("a view has %q, of which web-3 was gone by the first answer", got)
		}
		return serviceNamed(v, "end") != nil
	})
}
