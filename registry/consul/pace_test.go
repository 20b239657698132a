package consul

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// listCounter counts how often the list of services is waited for.
type listCounter struct {
	to    http.RoundTripper
	lists atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (c *listCounter) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path == "/v1/catalog/services" && req.URL.Query().Has("index") {
		c.lists.Add(1)
	}
	return c.to.RoundTrip(req)
}

// count has the questions of a client counted.
func (c *listCounter) count(t *testing.T) func(*client) {
	return func(asking *client) {
		c.to = asking.transport
		counted, err := api.NewClient(&api.Config{
			Scheme: asking.transport.scheme, Address: asking.transport.host, HttpClient: &http.Client{Transport: c},
		})
		if err != nil {
			t.Fatal(err)
		}
		asking.raw = counted.Raw()
	}
}

// TestLargeCatalogIsListedSeldom has the list of services change all the time. It may not be asked for more often than
// its size allows, not even by who reads one service only; and what is new, and what is gone, is seen.
func TestLargeCatalogIsListedSeldom(t *testing.T) {
	const services = 2000
	server := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulTLS})[0]
	client := server.Client()
	if err := testbed.LoadConsul(t.Context(), client, services, 1); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Address: server.Address, CAFile: server.Certs.CAFile}
	named := cfg
	named.Services = []string{testbed.LoadedServiceName(3)}
	var byAll, byNamed listCounter
	began := time.Now()
	all, one := startWatching(t, cfg, byAll.count(t)), startWatching(t, named, byNamed.count(t))
	all.await(t, "all services", func(v registry.View) bool { return len(v.Services) == services })
	one.await(t, "the service", func(v registry.View) bool { return len(v.Services) == 1 })

	var changes int
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				changes++
				relabel(t, client, changes%100, 1, strconv.Itoa(changes))
			}
		}
	}()
	there := func(want bool) func(registry.View) bool {
		return func(v registry.View) bool { return (serviceNamed(v, "late") != nil) == want }
	}
	for range 3 {
		if _, err := client.Catalog().Register(&api.CatalogRegistration{
			Node: "node-000", SkipNodeUpdate: true, Service: &api.AgentService{ID: "late", Service: "late", Address: "10.9.9.9", Port: 80},
		}, nil); err != nil {
			t.Error(err)
		}
		all.await(t, "a new service", there(true))
		time.Sleep(time.Second) // for questions to be counted
		if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: "node-000", ServiceID: "late"}, nil); err != nil {
			t.Error(err)
		}
		all.await(t, "its end", there(false))
	}
	close(stop)
	<-stopped
	// What a limiter lets pass: so many a second, as many at once, and one that waits.
	most := int64(listRate(services)*(time.Since(began).Seconds()+1)) + 1
	t.Logf("%d changes in %v: %d and %d lists, at most %d", changes, time.Since(began), byAll.lists.Load(), byNamed.lists.Load(), most)
	for who, lists := range map[string]int64{"reads all": byAll.lists.Load(), "reads one": byNamed.lists.Load()} {
		if lists > most || lists == 0 {
			t.Errorf("who %s has asked for %d lists, want 1 to %d", who, lists, most)
		}
	}
}
