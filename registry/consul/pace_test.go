package consul

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// listCounter counts how often the list of services is asked for.
type listCounter struct {
	to    http.RoundTripper
	lists atomic.Int64 // as it is when it changes
	now   atomic.Int64 // as it is now
}

// RoundTrip implements http.RoundTripper.
func (c *listCounter) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case req.URL.Path != "/v1/catalog/services":
	case req.URL.Query().Has("index"):
		c.lists.Add(1)
	default:
		c.now.Add(1)
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

// TestManyServicesGoAtOnce has most services of a catalog leave together. That each is really gone is asked of the
// list; one answer tells it of many.
func TestManyServicesGoAtOnce(t *testing.T) {
	const services, stay = 1000, 100
	server := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulTLS})[0]
	client := server.Client()
	if err := testbed.LoadConsul(t.Context(), client, services, 1); err != nil {
		t.Fatal(err)
	}
	var asked listCounter
	w := startWatching(t, Config{Address: server.Address, CAFile: server.Certs.CAFile}, asked.count(t))
	w.await(t, "all services", func(v registry.View) bool { return len(v.Services) == services })
	var ops api.TxnOps
	for i := stay; i < services; i++ {
		op := testbed.LoadedEndpoint(i, 0, 1)[0].Service
		ops = append(ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceDelete, Node: op.Node, Service: op.Service}})
	}
	for part := range slices.Chunk(ops, 64) {
		if ok, response, _, err := client.Txn().Txn(part, nil); err != nil || !ok {
			t.Fatal(err, response)
		}
	}
	w.await(t, "those that stay", func(v registry.View) bool { return len(v.Services) == stay })
	t.Logf("%d lists were read for %d services that went", asked.now.Load(), services-stay)
}

// TestListIsSharedByWhoAsksMeanwhile has many ask while a list is being read: they get the next one, not that one, and
// all the same.
func TestListIsSharedByWhoAsksMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const askers = 1000
		reads, release := 0, make(chan struct{})
		l := newListing(func(context.Context) (map[string]bool, error) {
			reads++
			read := strconv.Itoa(reads)
			<-release
			return map[string]bool{read: true}, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.run(ctx) }()
		got := make(chan map[string]bool, askers)
		ask := func() {
			set, err := l.get(ctx)
			if err != nil {
				t.Error(err)
			}
			got <- set
		}
		go ask()
		synctest.Wait() // the first is being read
		for range askers {
			go ask()
		}
		synctest.Wait()
		release <- struct{}{}
		if first := <-got; !first["1"] {
			t.Errorf("who asked first got %v", first)
		}
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("%d have got a list that was begun before they asked", len(got))
		}
		release <- struct{}{}
		for range askers {
			if set := <-got; !set["2"] {
				t.Errorf("got %v, want the second list", set)
			}
		}
		if reads != 2 {
			t.Errorf("%d lists were read, want 2", reads)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("run ended with %v", err)
		}
		if _, err := l.get(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("get after the end: %v", err)
		}
	})
}
