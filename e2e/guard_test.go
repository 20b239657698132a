package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestFaultHalfOfConsulDeregisteredByMistake deregisters half of a Consul's services within a second: nothing leaves DNS or
// EDS. When the operator accepts it, it does.
func TestFaultHalfOfConsulDeregisteredByMistake(t *testing.T) {
	const services = 60
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	client := server.Client()
	at := demoAt(t, "victim", "v1", "127.0.0.1")
	name := func(i int) string { return fmt.Sprintf("svc-%02d", i) }
	var registered []string
	all := make(map[string][]netip.AddrPort) // by service
	for i := range services {
		for j := range 1 + i%3/2 { // most have one endpoint, some two
			id := fmt.Sprintf("%s-%d", name(i), j)
			place := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(j), 1}), at.Port())
			register(t, client, name(i), id, place)
			registered = append(registered, id)
			all[name(i)] = append(all[name(i)], place)
		}
	}
	p := newParts(t, fmt.Sprintf("  - {name: dc1, consul: {address: %q}}\n", server.Address))
	p.startPair(t)
	eventually(t, 30*time.Second, "the proxy knows every endpoint", func() error { return p.missing(all) })
	p.eventuallyAnswers(t, name(0)+".mesh.internal", "victim v1\n")
	traffic := startLoad(t, p.outbound, name(1)+".mesh.internal", 200)

	// The mistake, spread over a second.
	wrong, pause := 0, time.Second/time.Duration(len(registered)/2)
	stop, lost := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				lost <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := p.missing(all); err != nil {
				lost <- err
				return
			}
		}
	}()
	for i := range services / 2 {
		for _, id := range registered {
			if strings.HasPrefix(id, name(i)+"-") {
				if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: "test-host", ServiceID: id}, nil); err != nil {
					t.Fatal(err)
				}
				wrong++
				time.Sleep(pause)
			}
		}
	}
	eventually(t, 20*time.Second, "all that was deregistered is doubted", func() error {
		if out := p.mesh(t, "get", "endpoints"); strings.Count(out, "(doubted)") != wrong {
			return fmt.Errorf("want %d doubted:\n%s", wrong, out)
		}
		return nil
	})
	time.Sleep(outage(5*time.Second, time.Minute)) // the guard's time is longer
	close(stop)
	if err := <-lost; err != nil {
		t.Errorf("something left: %v", err)
	}
	out := p.mesh(t, "get", "endpoints", name(0))
	for _, want := range []string{"doubted for", "mesh registry accept dc1", "dc1"} {
		if !strings.Contains(out, want) {
			t.Errorf("mesh get endpoints does not say %q:\n%s", want, out)
		}
	}
	t.Logf("mesh get endpoints %s\n%s", name(0), out)
	traffic.finish()

	if out := p.mesh(t, "registry", "accept", "dc1"); !strings.Contains(out, fmt.Sprintf("%d endpoints of dc1 left", wrong)) {
		t.Errorf("mesh registry accept dc1: %s", out)
	}
	eventually(t, 20*time.Second, "what the operator accepted has left", func() error {
		if p.resolves(name(0), all[name(0)]) == nil {
			return errors.New("it is still in DNS")
		}
		clusters, err := fetch(p.admin, "", "/clusters")
		if err == nil && strings.Contains(clusters, "||"+name(0)+".default.mesh.internal::127.") {
			err = errors.New("it is still at the proxy")
		}
		return err
	})
	if err := p.resolves(name(services-1), all[name(services-1)]); err != nil {
		t.Errorf("a service that was not deregistered: %v", err)
	}
}

// TestDeregistrationOfOneIsNotDoubted shows that what is ordinary is done at once.
func TestDeregistrationOfOneIsNotDoubted(t *testing.T) {
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	client := server.Client()
	for i := range 3 {
		register(t, client, "orders", fmt.Sprint("orders-", i), demoAt(t, "orders", fmt.Sprint("v", i), "127.0.0.1"))
	}
	at := demoAt(t, "single", "v1", "127.0.0.1")
	for _, service := range []string{"single", "other", "third", "fourth"} { // two of a very few would be doubted
		register(t, client, service, service+"-0", at)
	}
	p := newParts(t, fmt.Sprintf("  - {name: dc1, consul: {address: %q}}\n", server.Address))
	p.startPair(t)
	for _, gone := range []struct{ service, id string }{{"orders", "orders-1"}, {"single", "single-0"}} {
		before, err := p.endpoints(gone.service)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: "test-host", ServiceID: gone.id}, nil); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		eventually(t, 10*time.Second, gone.id+" leaves", func() error {
			after, err := p.endpoints(gone.service)
			if err == nil && len(after) >= len(before) {
				return errors.New("it is there")
			}
			return nil // an error: the service is gone with its last endpoint
		})
		t.Logf("%s left after %s", gone.id, time.Since(began).Round(time.Millisecond))
	}
}

func register(t testing.TB, client *api.Client, service, id string, at netip.AddrPort) {
	t.Helper()
	_, err := client.Catalog().Register(&api.CatalogRegistration{
		Node: "test-host", Address: "127.0.0.1",
		Service: &api.AgentService{ID: id, Service: service, Address: at.Addr().String(), Port: int(at.Port()), Meta: map[string]string{"protocol": "http"}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// missing says which endpoint of the services is not in DNS or not at the proxy.
func (p parts) missing(services map[string][]netip.AddrPort) error {
	clusters, err := fetch(p.admin, "", "/clusters")
	if err != nil {
		return err
	}
	for name, endpoints := range services {
		for _, at := range endpoints {
			if !strings.Contains(clusters, "||"+name+".default.mesh.internal::"+at.String()+"::") {
				return fmt.Errorf("%s has no endpoint %s at the proxy", name, at)
			}
		}
		if err := p.resolves(name, endpoints); err != nil {
			return err
		}
	}
	return nil
}

// resolves asks the mesh's DNS for the addresses of a service's endpoints, and wants each.
func (p parts) resolves(service string, endpoints []netip.AddrPort) error {
	question := new(dns.Msg).SetQuestion(service+".default.mesh.internal.", dns.TypeA)
	answer, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(question, p.dns)
	switch {
	case err != nil:
		return err
	case answer.Rcode != dns.RcodeSuccess || len(answer.Answer) == 0:
		return fmt.Errorf("DNS says %s with %d answers for %s", dns.RcodeToString[answer.Rcode], len(answer.Answer), service)
	}
	for _, at := range endpoints {
		if !slices.ContainsFunc(answer.Answer, func(r dns.RR) bool {
			a, ok := r.(*dns.A)
			return ok && a.A.String() == at.Addr().String()
		}) {
			return fmt.Errorf("DNS does not say %s for %s: %v", at.Addr(), service, answer.Answer)
		}
	}
	return nil
}
