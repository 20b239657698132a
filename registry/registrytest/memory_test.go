package registrytest_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

// memory is a registry whose truth is in this process. Its breakage makes it break one promise of Registry.
type memory struct {
	breakage string
	mu       sync.Mutex // of update
	truth    watch.Value[truth]

	// Of Watch alone, over its calls.
	calls, views  int
	denials       int      // calls that were refused
	first, last   services // what was published at first, and last
	before, since services // what was published last before a fault, and the truth when it was over
}

type services map[registry.Name]*registry.Service

type truth struct {
	services     services
	down, denied bool
	fault        registrytest.Fault
}

func (m *memory) Watch(ctx context.Context, publish func(registry.View)) error {
	m.calls++
	m.last = nil
	for {
		now, changed := m.truth.Get()
		if err := m.tell(now, publish); err != nil {
			return err
		}
		if m.breakage == "leaves a goroutine" {
			go func() { <-changed; time.Sleep(time.Hour) }()
			go func() { time.Sleep(time.Hour) }()
		}
		select {
		case <-ctx.Done():
			if m.breakage == "outlives its context" || m.breakage == "hangs in a fault" && now.fault != "" {
				time.Sleep(time.Hour)
			}
			return ctx.Err()
		case <-changed:
		}
	}
}

// tell publishes what is to be said of the truth, or returns why nothing can be said.
func (m *memory) tell(now truth, publish func(registry.View)) error {
	switch {
	case now.fault != "":
		return m.suffer(now.fault, publish)
	case m.breakage == "rides an outage out" && now.down:
		return nil
	case m.breakage == "empties on an outage" && now.down:
		publish(registry.View{})
		return errors.New("connection refused")
	case now.down:
		return errors.New("connection refused")
	case m.breakage == "hides the permission" && now.denied:
		return errors.New("403")
	case m.breakage == "empties without permission" && now.denied:
		publish(registry.View{})
		return nil
	case m.breakage == "sees without permission" && now.denied:
		m.publish(now.services, publish)
		return registry.ErrPermission
	case now.denied:
		m.denials++
		return registry.ErrPermission
	case m.breakage == "forgets without permission" && m.denials > 2:
		return nil
	}
	if m.before != nil {
		if err := m.recover(&now, publish); err != nil {
			return err
		}
	}
	m.publish(now.services, publish)
	return nil
}

// publish publishes the services.
func (m *memory) publish(truth services, publish func(registry.View)) {
	next := services{}
	for name, s := range truth {
		s = m.see(s)
		if old := m.last[name]; old != nil && reflect.DeepEqual(old, s) && m.breakage != "new pointers" {
			s = old
		} else if old != nil && m.breakage == "changes in place" {
			*old = *s
			s = old
		}
		next[name] = s
	}
	v := next.view()
	switch m.breakage {
	case "unsorted":
		slices.Reverse(v.Services)
	case "lists problems":
		v.Problems = []registry.Problem{{Object: "web", Reason: "it is Monday"}}
	case "partial first":
		if m.last == nil && len(v.Services) > 1 {
			publish(registry.View{Services: v.Services[:1]})
		}
	case "flaps":
		if len(v.Services) > 1 {
			publish(registry.View{Services: v.Services[:len(v.Services)-1]})
		}
	case "never removes":
		if len(next) < len(m.last) {
			m.last = next
			return
		}
	case "sleeps through a burst":
		if m.views == 100 {
			return
		}
	case "late publish":
		defer time.AfterFunc(50*time.Millisecond, func() { publish(v) })
	}
	publish(v)
	m.views++
	m.last = next
	if m.first == nil {
		m.first = next
	}
}

func (s services) view() registry.View {
	var v registry.View
	for _, name := range slices.SortedFunc(maps.Keys(s), registry.Name.Compare) {
		v.Services = append(v.Services, s[name])
	}
	return v
}

// suffer is what Watch does in a fault: a sound one fails, and holds still where the fault may pass unnoticed.
func (m *memory) suffer(fault registrytest.Fault, publish func(registry.View)) error {
	if m.last == nil {
		if m.before == nil {
			m.before = m.first
		}
		return errors.New("connection refused")
	}
	m.before, m.since = m.last, nil
	web := registry.Name{Namespace: registry.DefaultNamespace, Name: "web"}
	endpoints := slices.Clone(m.last[web].Endpoints)
	first := *endpoints[0]
	switch m.breakage {
	case "drops an endpoint for a moment":
		endpoints = endpoints[1:]
	case "turns all unhealthy":
		first.Health = registry.Unhealthy
		endpoints[0] = &first
	case "believes garbage":
		first.ID, first.Addr = "a", netip.MustParseAddr("127.20.200.200")
		endpoints = slices.Insert(endpoints, 0, &first)
	case "rides a fault out", "hangs in a fault":
		return nil
	case "leaves a goroutine at a failure":
		go func() { time.Sleep(time.Hour) }()
	}
	if len(endpoints) != len(m.last[web].Endpoints) || endpoints[0] != m.last[web].Endpoints[0] {
		damaged, s := maps.Clone(m.last), *m.last[web]
		s.Endpoints = endpoints
		damaged[web] = &s
		publish(damaged.view())
		publish(m.last.view())
	}
	if injections()[fault].Blameless {
		return nil
	}
	return errors.New("connection lost")
}

// recover is what Watch does after a fault, before it publishes the truth.
func (m *memory) recover(now *truth, publish func(registry.View)) error {
	over := m.since == nil
	if over {
		m.since = now.services
	}
	switch m.breakage {
	case "never recovers":
		return errors.New("still lost")
	case "recovers late":
		if over {
			time.Sleep(3 * time.Second)
		}
	case "publishes a part after a fault":
		if over {
			publish(registry.View{Services: now.services.view().Services[1:]})
		}
	case "goes back in time":
		if over {
			m.publish(m.first, publish)
		}
	case "loses what changed meanwhile":
		kept := maps.Clone(m.before)
		for name, s := range now.services {
			if m.since[name] != s {
				kept[name] = s
			}
		}
		now.services = kept
	case "never removes after a fault":
		now.services = maps.Clone(now.services)
		for name, s := range m.before {
			if now.services[name] == nil {
				now.services[name] = s
			}
		}
	}
	return nil
}

// see copies a service as this registry sees it.
func (m *memory) see(s *registry.Service) *registry.Service {
	c := *s
	c.Endpoints = nil
	for _, e := range s.Endpoints {
		e := *e
		switch m.breakage {
		case "drops health":
			e.Health = registry.Healthy
		case "drops labels":
			e.Labels = nil
		case "drops weight":
			e.Weight = 1
		case "zero weight":
			e.Weight = 0
		case "drops port changes":
			e.Ports = []registry.EndpointPort{{Number: 18080}}
		}
		c.Endpoints = append(c.Endpoints, &e)
	}
	if m.breakage == "drops protocol" {
		c.Ports = []registry.Port{{}}
	}
	return &c
}

// update changes the truth.
func (m *memory) update(change func(*truth)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.truth.Load()
	now.services = maps.Clone(now.services)
	if now.services == nil {
		now.services = services{}
	}
	change(&now)
	m.truth.Set(now)
}
