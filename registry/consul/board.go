package consul

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// board gathers the parts and publishes views of them as soon, and only while, all of them are there.
type board struct {
	namespace string
	changed   chan struct{} // holds one element when there is something new

	mu    sync.Mutex
	dcs   map[string]*dcParts // guarded by mu
	dirty map[string]bool     // guarded by mu: labels whose parts are not the published ones any more
	names map[string][]string // guarded by mu: Consul's names of a label, in any datacenter

	ready chan struct{} // closed by run when every part was there for the first time

	// Of run alone:
	published map[string]merged   // by label
	services  []*registry.Service // of published, sorted by name
	troubled  map[string]struct{} // labels of published with problems
}

type dcParts struct {
	listed bool                       // the names are known
	parts  map[string]*part           // by Consul's name; nil: wanted, not read yet
	odd    []registry.Problem         // what is wrong with the list itself
	alive  map[string]context.Context // of whoever may set the part
}

// merged is a service as it was last made, and what it was made from.
type merged struct {
	from     []*part
	service  *registry.Service // nil when no endpoint is left
	problems []registry.Problem
}

func newBoard(namespace string, datacenters []string) *board {
	b := &board{
		namespace: namespace, changed: make(chan struct{}, 1), ready: make(chan struct{}),
		dcs: make(map[string]*dcParts), dirty: make(map[string]bool), names: make(map[string][]string),
		published: make(map[string]merged), troubled: make(map[string]struct{}),
	}
	for _, dc := range datacenters {
		b.dcs[dc] = &dcParts{parts: make(map[string]*part), alive: make(map[string]context.Context)}
	}
	return b
}

// list declares which services a datacenter has, each with the context of the only one that may set its part: what
// comes after that context ended is dropped. Parts of other services are gone.
func (b *board) list(dc string, names map[string]context.Context, odd []registry.Problem) {
	b.mu.Lock()
	d := b.dcs[dc]
	d.listed, d.odd, d.alive = true, odd, maps.Clone(names)
	for name := range d.parts {
		if names[name] == nil {
			b.dirty[registry.Label(name)] = true
			delete(d.parts, name)
			b.forget(name)
		}
	}
	for name := range names {
		if _, ok := d.parts[name]; !ok {
			d.parts[name] = nil
			if label := registry.Label(name); !slices.Contains(b.names[label], name) {
				b.names[label] = append(b.names[label], name)
			}
		}
	}
	b.mu.Unlock()
	b.notify()
}

// forget drops a name that no datacenter has any more. b.mu is held.
func (b *board) forget(name string) {
	for _, d := range b.dcs {
		if _, ok := d.parts[name]; ok {
			return
		}
	}
	label := registry.Label(name)
	b.names[label] = slices.DeleteFunc(b.names[label], func(have string) bool { return have == name })
	if len(b.names[label]) == 0 {
		delete(b.names, label)
	}
}

// get returns the part as it stands, nil when there is none yet.
func (b *board) get(dc, name string) *part {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dcs[dc].parts[name]
}

// listed returns the datacenter's services.
func (b *board) listed(dc string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.dcs[dc].parts))
}

// wants tells whether the datacenter has a service of that name.
func (b *board) wants(dc, name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.dcs[dc].parts[name]
	return ok
}

// onNode returns the names of the datacenter's services that have, or for all we know may have, an endpoint on a node.
func (b *board) onNode(dc, node string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name, p := range b.dcs[dc].parts {
		if p == nil || slices.ContainsFunc(p.endpoints, func(e *registry.Endpoint) bool { return e.Host == node }) {
			names = append(names, name)
		}
	}
	return names
}

// set replaces a part. A part that equals the one before leaves that in place.
func (b *board) set(dc string, p *part) {
	b.mu.Lock()
	d := b.dcs[dc]
	alive := d.alive[p.name]
	before := d.parts[p.name]
	if alive == nil || alive.Err() != nil || before != nil && before.equal(p) {
		b.mu.Unlock()
		return
	}
	if before != nil {
		p.reuse(before)
	}
	d.parts[p.name] = p
	b.dirty[p.label] = true
	b.mu.Unlock()
	b.notify()
}

func (b *board) notify() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// leastPause is the least time between two views: what changes meanwhile is in one.
const leastPause = 20 * time.Millisecond

// run publishes a view after each change, from this goroutine. The receiver must not change the view's slices.
func (b *board) run(ctx context.Context, publish func(registry.View)) error {
	var last registry.View
	for first := true; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-b.changed:
		}
		groups, odd, ok := b.collect(first)
		if !ok || ctx.Err() != nil {
			continue
		}
		view := b.view(groups, odd)
		if !first && slices.Equal(view.Services, last.Services) && slices.Equal(view.Problems, last.Problems) {
			continue
		}
		publish(view)
		if first {
			close(b.ready)
		}
		first, last = false, view
		select {
		case <-ctx.Done():
		case <-time.After(leastPause):
		}
	}
}

// collect returns the parts of every label that is dirty, none for a label that is gone. Before the first view every
// part must be there; later a service that is new and was not read yet is just not there yet.
func (b *board) collect(all bool) (groups map[string][]*part, odd []registry.Problem, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if all && !b.complete() {
		return nil, nil, false
	}
	groups = make(map[string][]*part, len(b.dirty))
	for label := range b.dirty {
		groups[label] = nil
	}
	for _, dc := range slices.Sorted(maps.Keys(b.dcs)) {
		d := b.dcs[dc]
		odd = append(odd, d.odd...)
		for label := range b.dirty {
			for _, name := range b.names[label] {
				if p := d.parts[name]; p != nil {
					groups[label] = append(groups[label], p)
				}
			}
		}
	}
	clear(b.dirty)
	return groups, odd, true
}

// complete tells whether every part of every datacenter is there. b.mu is held.
func (b *board) complete() bool {
	for _, d := range b.dcs {
		if !d.listed {
			return false
		}
		for _, p := range d.parts {
			if p == nil {
				return false
			}
		}
	}
	return true
}

// view makes the next view from the groups that changed. What is made from the same parts as before is the same service.
func (b *board) view(groups map[string][]*part, odd []registry.Problem) registry.View {
	for label, parts := range groups {
		before := b.published[label]
		if len(parts) == 0 {
			delete(b.published, label)
			b.replace(label, merged{})
			continue
		}
		// The service that is spelled like its label comes first, then by spelling; datacenters stay in order.
		slices.SortStableFunc(parts, func(x, y *part) int {
			if (x.name == label) != (y.name == label) {
				if x.name == label {
					return -1
				}
				return 1
			}
			return strings.Compare(x.name, y.name)
		})
		if !slices.Equal(before.from, parts) {
			next := b.merge(label, parts, before)
			b.published[label] = next
			b.replace(label, next)
		}
	}
	view := registry.View{Services: slices.Clone(b.services), Problems: odd}
	for _, label := range slices.Sorted(maps.Keys(b.troubled)) {
		view.Problems = append(view.Problems, b.published[label].problems...)
	}
	return view
}

// replace puts what a label became in its place among the services and those with problems.
func (b *board) replace(label string, next merged) {
	i, found := slices.BinarySearchFunc(b.services, label, func(s *registry.Service, label string) int { return strings.Compare(s.Name.Name, label) })
	switch {
	case found && next.service != nil:
		b.services[i] = next.service
	case found:
		b.services = slices.Delete(b.services, i, i+1)
	case next.service != nil:
		b.services = slices.Insert(b.services, i, next.service)
	}
	if delete(b.troubled, label); len(next.problems) > 0 {
		b.troubled[label] = struct{}{}
	}
}

// merge makes one service of parts that have one label: of the first spelling, from all datacenters.
func (b *board) merge(label string, parts []*part, before merged) merged {
	m := merged{from: parts}
	service := &registry.Service{Name: registry.Name{Namespace: b.namespace, Name: label}}
	if parts[0].name != label {
		service.Original = parts[0].name
	}
	for _, p := range parts {
		if p.name != parts[0].name {
			m.problems = append(m.problems, registry.Problem{
				Object: p.name, Kind: "duplicate",
				Reason: "its name in the mesh would be " + quote(label) + ", which is that of " + quote(parts[0].name) + "; it is left out",
			})
			continue
		}
		m.problems = append(m.problems, p.problems...)
		service.Endpoints = append(service.Endpoints, p.endpoints...)
		service.Ports = mergePorts(service.Ports, p.ports)
	}
	if len(service.Endpoints) == 0 {
		return m
	}
	slices.SortFunc(service.Endpoints, func(x, y *registry.Endpoint) int { return strings.Compare(x.ID, y.ID) })
	m.service = service
	if before.service != nil && sameService(before.service, service) {
		m.service = before.service
	}
	return m
}

// mergePorts adds the ports of another datacenter that are not there yet; the first one's protocol stands.
func mergePorts(ports, more []registry.Port) []registry.Port {
	for _, p := range more {
		i, found := slices.BinarySearchFunc(ports, p.Name, func(x registry.Port, name string) int { return strings.Compare(x.Name, name) })
		switch {
		case !found:
			ports = slices.Insert(slices.Clip(ports), i, p)
		case ports[i].Protocol == "":
			ports = slices.Clone(ports)
			ports[i].Protocol = p.Protocol
		}
	}
	return ports
}
