package registrytest

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// suite is one running case.
type suite struct {
	*testing.T
	h        Harness
	registry registry.Registry
	driver   Driver
	ledger   *ledger
	record   *record
	seed     uint64
}

func newSuite(t *testing.T, h Harness, r *record, seed uint64) *suite {
	t.Helper()
	reg, d := h.New(t)
	if d.Put == nil || d.Delete == nil {
		t.Fatal("the Driver has no Put or no Delete")
	}
	return &suite{T: t, h: h, registry: reg, driver: d, ledger: newLedger(h.Prefix), record: r, seed: seed}
}

// put makes the service be exactly that. The ledger knows first.
func (s *suite) put(services ...*registry.Service) {
	s.Helper()
	for _, service := range services {
		s.ledger.put(service)
		s.driver.Put(s.T, service)
	}
}

// putAll puts services that are new.
func (s *suite) putAll(services []*registry.Service) {
	s.Helper()
	if s.driver.PutAll == nil {
		s.put(services...)
		return
	}
	for _, service := range services {
		s.ledger.put(service)
	}
	s.driver.PutAll(s.T, services)
}

func (s *suite) delete(name registry.Name) {
	s.Helper()
	s.ledger.put(&registry.Service{Name: name})
	s.driver.Delete(s.T, name)
}

func (s *suite) setHealth(name registry.Name, addr netip.Addr, health registry.Health) {
	s.Helper()
	s.ledger.setHealth(name, addr, health)
	s.driver.SetHealth(s.T, name, addr, health)
}

// need fails the case when the driver lacks a function for it.
func (s *suite) need(have bool, what string) {
	s.Helper()
	if !have {
		s.Fatalf("the Driver has no %s: give it, or name the case in Cannot with the reason", what)
	}
}

// service makes a service of n endpoints; number is the port that all of them listen on.
func (s *suite) service(name string, number uint16, n int) *registry.Service {
	third := 0
	for _, c := range []byte(name) {
		third = (third*31 + int(c)) % 250
	}
	made := &registry.Service{
		Name:  registry.Name{Namespace: registry.DefaultNamespace, Name: name},
		Ports: []registry.Port{{Protocol: registry.HTTP}},
	}
	for i := range n {
		made.Endpoints = append(made.Endpoints, s.endpoint(name, number, third, i+1))
	}
	return made
}

// endpoint makes the endpoint of a service at an address of the prefix; fourth, its last byte, is also its number.
func (s *suite) endpoint(service string, number uint16, third, fourth int) *registry.Endpoint {
	addr := s.h.Prefix.Addr().As4()
	addr[2], addr[3] = byte(third), byte(fourth)
	return &registry.Endpoint{
		ID:     fmt.Sprintf("%s-%d", service, fourth),
		Addr:   netip.AddrFrom4(addr),
		Ports:  []registry.EndpointPort{{Number: number}},
		Labels: map[string]string{"version": "v1"},
		Weight: 1,
		Health: registry.Healthy,
	}
}

// has tells whether the view holds the service with exactly those endpoints, by address and port, all serving.
func has(want *registry.Service) func(registry.View) error {
	return func(v registry.View) error {
		got := find(v, want.Name)
		if got == nil {
			return fmt.Errorf("no service %s", want.Name)
		}
		left := make(map[netip.AddrPort]bool, len(want.Endpoints))
		for _, e := range want.Endpoints {
			left[netip.AddrPortFrom(e.Addr, e.Ports[0].Number)] = true
		}
		for _, e := range got.Endpoints {
			if len(e.Ports) != 1 {
				return fmt.Errorf("service %s: endpoint %s has ports %v, want one", want.Name, e.ID, e.Ports)
			}
			at := netip.AddrPortFrom(e.Addr, e.Ports[0].Number)
			if !left[at] {
				return fmt.Errorf("service %s: endpoint %s at %s is not wanted", want.Name, e.ID, at)
			}
			if !e.Health.Serving() {
				return fmt.Errorf("service %s: endpoint %s is %s", want.Name, at, e.Health)
			}
			delete(left, at)
		}
		for at := range left {
			return fmt.Errorf("service %s: no endpoint %s", want.Name, at)
		}
		return nil
	}
}

// lacks tells whether the view holds no endpoint of the service. The bare name may stay.
func lacks(name registry.Name) func(registry.View) error {
	return func(v registry.View) error {
		if got := find(v, name); got != nil && len(got.Endpoints) > 0 {
			return fmt.Errorf("service %s is there with %d endpoints", name, len(got.Endpoints))
		}
		return nil
	}
}

func find(v registry.View, name registry.Name) *registry.Service {
	return (&registry.Snapshot{Services: v.Services}).Service(name)
}

func (s *suite) emptyView() {
	w := s.watch()
	v := w.first()
	for _, name := range []string{"web", "api"} {
		if err := lacks(s.service(name, 1, 0).Name)(v); err != nil {
			s.Errorf("first view: %v, want a server without services of the suite", err)
		}
	}
}

func (s *suite) firstView() {
	s.put(s.service("web", 18080, 3), s.service("api", 18081, 1))
	if err := s.ledger.equals(s.watch().first()); err != nil {
		s.Errorf("first view is not complete: %v", err)
	}
}

func (s *suite) add() {
	s.put(s.service("web", 18080, 1))
	w := s.watch()
	w.await("one endpoint", has(s.service("web", 18080, 1)))
	s.put(s.service("api", 18081, 2))
	w.await("the added service", has(s.service("api", 18081, 2)))
	s.put(s.service("web", 18080, 3))
	w.await("the added endpoints", has(s.service("web", 18080, 3)))
	w.await("the other service still", has(s.service("api", 18081, 2)))
}

func (s *suite) change() {
	s.put(s.service("web", 18080, 2))
	w := s.watch()
	w.await("the service", has(s.service("web", 18080, 2)))
	s.put(s.service("web", 18090, 2))
	w.await("the changed port", has(s.service("web", 18090, 2)))
}

func (s *suite) remove() {
	web, api := s.service("web", 18080, 2), s.service("api", 18081, 1)
	s.put(web)
	s.put(api)
	w := s.watch()
	w.await("the service", has(web))
	w.await("the other", has(api))
	s.put(s.service("web", 18080, 1))
	w.await("one endpoint less", has(s.service("web", 18080, 1)))
	s.delete(web.Name)
	w.await("no such service", lacks(web.Name))
	w.await("the other service still", has(api))
}

func (s *suite) labels() {
	label := func(value string) func(registry.View) error {
		return func(v registry.View) error {
			web := find(v, s.service("web", 0, 0).Name)
			if web == nil || len(web.Endpoints) != 1 {
				return errors.New("not the one endpoint of web")
			}
			got, ok := web.Endpoints[0].Labels["version"]
			if !ok {
				got = web.Labels["version"]
			}
			if got != value {
				return fmt.Errorf("label version is %q, want %q", got, value)
			}
			return nil
		}
	}
	web := s.service("web", 18080, 1)
	s.put(web)
	w := s.watch()
	w.await("the label", label("v1"))
	web = s.service("web", 18080, 1)
	web.Endpoints[0].Labels["version"] = "v2"
	s.put(web)
	w.await("the changed label", label("v2"))
}

func (s *suite) weight() {
	web := s.service("web", 18080, 2)
	web.Endpoints[1].Weight = 7
	s.put(web)
	s.watch().await("weights 1 and 7", func(v registry.View) error {
		if err := has(web)(v); err != nil {
			return err
		}
		for _, e := range find(v, web.Name).Endpoints {
			want := uint32(1)
			if e.Addr == web.Endpoints[1].Addr {
				want = 7
			}
			if e.Weight != want {
				return fmt.Errorf("weight of %s is %d, want %d", e.Addr, e.Weight, want)
			}
		}
		return nil
	})
}

func (s *suite) protocol() {
	web := s.service("web", 18080, 1)
	s.put(web)
	s.watch().await("protocol http", func(v registry.View) error {
		got := find(v, web.Name)
		if got == nil {
			return errors.New("no service web")
		}
		if len(got.Ports) != 1 || got.Ports[0].Protocol != registry.HTTP {
			return fmt.Errorf("ports are %v, want one of protocol http", got.Ports)
		}
		return nil
	})
}

func (s *suite) healthChange() {
	s.need(s.driver.SetHealth != nil, "SetHealth")
	web := s.service("web", 18080, 2)
	health := func(want registry.Health) func(registry.View) error {
		return func(v registry.View) error {
			got := find(v, web.Name)
			if got == nil || len(got.Endpoints) != 2 {
				return errors.New("not the two endpoints of web")
			}
			for _, e := range got.Endpoints {
				wantOf := registry.Healthy
				if e.Addr == web.Endpoints[0].Addr {
					wantOf = want
				}
				if e.Health != wantOf {
					return fmt.Errorf("endpoint %s is %s, want %s", e.Addr, e.Health, wantOf)
				}
			}
			return nil
		}
	}
	s.put(web)
	w := s.watch()
	w.await("two healthy endpoints", health(registry.Healthy))
	s.setHealth(web.Name, web.Endpoints[0].Addr, registry.Unhealthy)
	w.await("an unhealthy endpoint", health(registry.Unhealthy))
	s.setHealth(web.Name, web.Endpoints[0].Addr, registry.Healthy)
	w.await("its recovery", health(registry.Healthy))
}

func (s *suite) downAndUp() {
	s.need(s.driver.Down != nil && s.driver.Up != nil, "Down and Up")
	s.outage("the server is down", s.driver.Down, s.driver.Up, func(err error) error { return nil })
}

func (s *suite) permissionLost() {
	s.need(s.driver.Deny != nil && s.driver.Allow != nil, "Deny and Allow")
	refused := func(err error) error {
		if !errors.Is(err, registry.ErrPermission) {
			return fmt.Errorf("it does not wrap ErrPermission: %w", err)
		}
		return nil
	}
	w := s.outage("permission is lost", s.driver.Deny, s.driver.Allow, refused)

	// An endpoint that is removed meanwhile is gone afterwards, and not before: who may not read cannot know.
	fewer := s.service("web", 18080, 1)
	w.forget()
	s.driver.Deny(s.T)
	if err := refused(w.failure("permission is lost again")); err != nil {
		s.Errorf("Watch while permission is lost again: %v", err)
	}
	s.put(fewer)
	for range 2 { // the first of these may be of a call that began before
		w.forget()
		if err := refused(w.failure("an endpoint is removed without permission to see it")); err != nil {
			s.Errorf("Watch while an endpoint is removed without permission to see it: %v", err)
		}
	}
	if err := has(s.service("web", 18080, 2))(w.latest()); err != nil {
		s.Errorf("the view while permission is lost: %v", err)
	}
	s.driver.Allow(s.T)
	w.await("what was removed without permission to see it is gone", has(fewer))
	w.await("the other service still", has(s.service("api", 18081, 3)))
}

// outage begins and ends an outage. Watch must tell of it by an error that judge accepts, no view may lose what was
// there, and what changed afterwards must arrive. Then web has 2 endpoints and api has 3.
func (s *suite) outage(what string, begin, end func(*testing.T), judge func(error) error) *watcher {
	web, api := s.service("web", 18080, 2), s.service("api", 18081, 1)
	s.put(web)
	s.put(api)
	w := s.watch()
	w.await("the service", has(web))
	w.await("the other", has(api))
	w.forget()
	begin(s.T)
	if err := judge(w.failure(what)); err != nil {
		s.Errorf("Watch while %s: %v", what, err)
	}
	end(s.T)
	s.put(s.service("api", 18081, 3))
	w.await("what changed after "+what, has(s.service("api", 18081, 3)))
	w.await("what was there before", has(web))
	return w
}

func (s *suite) pointerIdentity() {
	web, api := s.service("web", 18080, 2), s.service("api", 18081, 1)
	s.put(web)
	s.put(api)
	w := s.watch()
	w.await("the service", has(web))
	before := w.await("both services", has(api))
	s.put(s.service("api", 18081, 2))
	after := w.await("the change", has(s.service("api", 18081, 2)))
	if find(before, web.Name) != find(after, web.Name) {
		s.Error("a change of api gave web, which did not change, a new pointer")
	}
	if find(before, api.Name) == find(after, api.Name) {
		s.Error("api changed under its pointer")
	}
}

func (s *suite) noGoroutineLeft() {
	s.put(s.service("web", 18080, 2))
	for range 2 {
		before := goroutines()
		w := s.newWatcher()
		end := w.once(s.Context())
		w.first()
		end()
		w.ended()
		made := func() map[string]string {
			now := goroutines()
			for id := range before {
				delete(now, id)
			}
			return now
		}
		if left := s.leftover(made); left != "" {
			s.Fatalf("Watch returned and left goroutines behind:\n%s", left)
		}
		time.Sleep(100 * time.Millisecond) // a timer that was left behind would publish
		w.ended()
	}
}
