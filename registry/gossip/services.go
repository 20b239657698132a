package gossip

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"

	ring "github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/registry"
)

// catalogue makes services of announcements. It touches only the services of hosts that changed, and a service that
// comes out the same keeps its pointer.
type catalogue struct {
	hosts    map[string]*contribution
	services map[registry.Name]*registry.Service
	changed  bool // by the last update
}

// contribution is what one host adds to services.
type contribution struct {
	body   *ring.Announcement
	effect effect
	parts  map[registry.Name][]part
}

// part is one instance on a host.
type part struct {
	ports    []ring.Port
	endpoint *registry.Endpoint
}

func newCatalogue() *catalogue {
	return &catalogue{hosts: map[string]*contribution{}, services: map[registry.Name]*registry.Service{}}
}

// update takes in the hosts that there are, sorted by id, and returns the view.
func (c *catalogue) update(hosts []judged) registry.View {
	dirty := map[registry.Name]bool{}
	present := make(map[string]bool, len(hosts))
	for _, j := range hosts {
		present[j.host.ID] = true
		old := c.hosts[j.host.ID]
		if old != nil && old.body == j.host.Body && old.effect == j.effect {
			continue
		}
		now := contribute(j)
		c.hosts[j.host.ID] = now
		mark(dirty, old, now)
	}
	for id, old := range c.hosts {
		if !present[id] {
			mark(dirty, old, nil)
			delete(c.hosts, id)
		}
	}
	c.changed = false
	if len(dirty) > 0 {
		ids := slices.Sorted(maps.Keys(c.hosts))
		for name := range dirty {
			c.rebuild(name, ids)
		}
	}
	names := slices.SortedFunc(maps.Keys(c.services), registry.Name.Compare)
	view := registry.View{Services: make([]*registry.Service, len(names))}
	for i, name := range names {
		view.Services[i] = c.services[name]
	}
	return view
}

func mark(dirty map[registry.Name]bool, contributions ...*contribution) {
	for _, c := range contributions {
		if c == nil {
			continue
		}
		for name := range c.parts {
			dirty[name] = true
		}
	}
}

// rebuild makes the service of that name anew from the hosts.
func (c *catalogue) rebuild(name registry.Name, ids []string) {
	s := &registry.Service{Name: name}
	for _, id := range ids {
		for _, p := range c.hosts[id].parts[name] {
			addPorts(s, p, id)
			s.Endpoints = append(s.Endpoints, p.endpoint)
		}
	}
	old := c.services[name]
	if len(s.Endpoints) == 0 {
		delete(c.services, name)
		c.changed = c.changed || old != nil
		return
	}
	slices.SortFunc(s.Ports, comparePorts)
	slices.SortFunc(s.Endpoints, compareEndpoints)
	if old != nil && reflect.DeepEqual(old, s) {
		return
	}
	c.services[name] = s
	c.changed = true
}

func comparePorts(a, b registry.Port) int { return cmp.Compare(a.Name, b.Name) }

func compareEndpoints(a, b *registry.Endpoint) int { return cmp.Compare(a.ID, b.ID) }

// addPorts adds the ports of an instance to its service. Hosts that contradict each other leave the number to the
// merge, and the first that names a protocol is believed.
func addPorts(s *registry.Service, p part, host string) {
	for _, port := range p.ports {
		i := slices.IndexFunc(s.Ports, func(have registry.Port) bool { return have.Name == port.Name })
		if i < 0 {
			s.Ports = append(s.Ports, registry.Port{Name: port.Name, Number: port.Number, Protocol: registry.Protocol(port.Protocol)})
			continue
		}
		have := &s.Ports[i]
		if have.Number != port.Number {
			conflict(s, fmt.Sprintf("port %q: hosts disagree on its number, %s says %d", port.Name, host, port.Number))
			have.Number = 0
		}
		switch said := registry.Protocol(port.Protocol); {
		case have.Protocol == "":
			have.Protocol = said
		case said != "" && said != have.Protocol:
			conflict(s, fmt.Sprintf("port %q: hosts disagree on its protocol, %s says %s, an earlier one %s", port.Name, host, said, have.Protocol))
		}
	}
}

func conflict(s *registry.Service, text string) {
	if len(s.Conflicts) < 8 {
		s.Conflicts = append(s.Conflicts, registry.Conflict{What: "port", Text: text})
	}
}

// contribute makes the endpoints of a host.
func contribute(j judged) *contribution {
	c := &contribution{body: j.host.Body, effect: j.effect, parts: map[registry.Name][]part{}}
	if c.body == nil {
		return c
	}
	for i := range c.body.Instances {
		in := &c.body.Instances[i]
		e := &registry.Endpoint{
			ID:       j.host.ID + "/" + in.ID,
			Addr:     in.Address,
			Host:     j.host.ID,
			Locality: registry.Locality(c.body.Locality),
			Labels:   in.Labels,
			Weight:   in.Weight,
			Health:   health(in.Health, j.effect),
		}
		for _, p := range in.Ports {
			e.Ports = append(e.Ports, registry.EndpointPort{Name: p.Name, Number: p.Target})
		}
		name := registry.Name{Namespace: in.Namespace, Name: in.Service}
		c.parts[name] = append(c.parts[name], part{ports: in.Ports, endpoint: e})
	}
	return c
}

// health is the instance's own unless its host is in a worse state.
func health(own ring.Health, e effect) registry.Health {
	switch {
	case e == unhealthy:
		return registry.Unhealthy
	case e == draining || own == ring.Draining:
		return registry.Draining
	case own == ring.Unhealthy:
		return registry.Unhealthy
	case own == ring.Healthy:
		return registry.Healthy
	}
	return registry.Unknown
}
