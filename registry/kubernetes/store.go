package kubernetes

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostmesh/hostmesh/registry"
)

// publishInterval is how soon one view may follow another. The first change after quiet goes out at once.
const publishInterval = 10 * time.Millisecond

// store holds what the feeds know and makes views of it.
type store struct {
	changed chan struct{} // holds one element when there may be something new

	mu       sync.Mutex                                  // guards all below
	waiting  map[string]struct{}                         // feeds, by name, that do not know everything yet
	services map[types.NamespacedName]*service           //
	slices   map[types.NamespacedName]map[string]*slice  // by Service, then by name
	owners   map[types.NamespacedName]string             // the Service of each slice
	nodes    map[string]registry.Locality                //
	dirty    map[types.NamespacedName]struct{}           // Services to be built again
	moved    map[string]struct{}                         // Nodes whose instances' Services are to be built again
	refused  map[string]string                           // feeds that we do without, and why
	odd      map[types.NamespacedName][]registry.Problem // of Services that have some
	view     []*registry.Service                         // sorted
	last     []registry.Problem                          // of the last view
}

func newStore() *store {
	return &store{
		changed:  make(chan struct{}, 1),
		services: make(map[types.NamespacedName]*service),
		slices:   make(map[types.NamespacedName]map[string]*slice),
		owners:   make(map[types.NamespacedName]string),
		nodes:    make(map[string]registry.Locality),
		dirty:    make(map[types.NamespacedName]struct{}),
		moved:    make(map[string]struct{}),
		odd:      make(map[types.NamespacedName][]registry.Problem),
		waiting:  make(map[string]struct{}),
		refused:  make(map[string]string),
	}
}

// update runs change, which may call the methods that set and drop.
func (s *store) update(change func()) {
	s.mu.Lock()
	change()
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// arrived says that a feed knows everything, or, with the reason, that we do without it. It is called by update.
func (s *store) arrived(feed, refusal string) {
	delete(s.waiting, feed)
	if delete(s.refused, feed); refusal != "" {
		s.refused[feed] = refusal
	}
}

func (s *store) setService(name types.NamespacedName, v *service) {
	s.services[name] = v
	s.dirty[name] = struct{}{}
}

func (s *store) dropService(name types.NamespacedName) {
	delete(s.services, name)
	s.dirty[name] = struct{}{}
}

func (s *store) setSlice(name types.NamespacedName, v *slice) {
	if before, ok := s.owners[name]; ok && before != v.owner.Name {
		s.dropSlice(name)
	}
	if s.slices[v.owner] == nil {
		s.slices[v.owner] = make(map[string]*slice, 1)
	}
	s.owners[name] = v.owner.Name
	s.slices[v.owner][name.Name] = v
	s.dirty[v.owner] = struct{}{}
}

func (s *store) dropSlice(name types.NamespacedName) {
	owner := types.NamespacedName{Namespace: name.Namespace, Name: s.owners[name]}
	delete(s.owners, name)
	if delete(s.slices[owner], name.Name); len(s.slices[owner]) == 0 {
		delete(s.slices, owner)
	}
	s.dirty[owner] = struct{}{}
}

// setNode takes the locality of a Node. Most news of a Node, and there are many, say nothing of that.
func (s *store) setNode(name types.NamespacedName, v registry.Locality) {
	if s.nodes[name.Name] != v {
		s.nodes[name.Name] = v
		s.moved[name.Name] = struct{}{}
	}
}

func (s *store) dropNode(name types.NamespacedName) {
	delete(s.nodes, name.Name)
	s.moved[name.Name] = struct{}{}
}

// touch has the Services built again that have an instance on a Node that moved. It is one pass over all instances for
// however many Nodes: at the start thousands of them come at once.
func (s *store) touch() {
	if len(s.moved) == 0 {
		return
	}
	on := func(i instance) bool { _, moved := s.moved[i.node]; return moved }
	for owner, parts := range s.slices {
		for _, p := range parts {
			if slices.ContainsFunc(p.instances, on) {
				s.dirty[owner] = struct{}{}
				break
			}
		}
	}
	clear(s.moved)
}

// run publishes a view after each change, as soon as everything is known.
func (s *store) run(ctx context.Context, publish func(registry.View)) error {
	for first := true; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.changed:
		}
		view, changed := s.next()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if view == nil || !changed && !first {
			continue
		}
		publish(*view)
		first = false
		if err := sleep(ctx, publishInterval); err != nil {
			return err
		}
	}
}

// next returns the view of now, and whether it says anything new. It is nil while something is not known.
func (s *store) next() (view *registry.View, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 {
		return nil, false
	}
	changed = s.rebuild()
	var problems []registry.Problem
	for _, name := range slices.Sorted(maps.Keys(s.refused)) {
		problems = append(problems, registry.Problem{Object: name, Kind: "permission", Reason: s.refused[name]})
	}
	for _, name := range sortedNames(s.odd) {
		problems = append(problems, s.odd[name]...)
	}
	if !slices.Equal(problems, s.last) {
		s.last, changed = problems, true
	}
	return &registry.View{Services: slices.Clone(s.view), Problems: slices.Clone(problems)}, changed
}

// rebuild builds the Services that are dirty and merges them into the view, in one pass over both.
func (s *store) rebuild() (changed bool) {
	s.touch()
	names := sortedNames(s.dirty)
	clear(s.dirty)
	old, merged := s.view, make([]*registry.Service, 0, len(s.view)+len(names))
	for _, name := range names {
		at := registry.Name{Namespace: name.Namespace, Name: name.Name}
		i, found := slices.BinarySearchFunc(old, at, func(x *registry.Service, n registry.Name) int { return x.Name.Compare(n) })
		merged = append(merged, old[:i]...)
		var before *registry.Service
		if old = old[i:]; found {
			before, old = old[0], old[1:]
		}
		after := s.build(name)
		if before != nil && after != nil && reflect.DeepEqual(before, after) {
			after = before
		}
		if after != nil {
			merged = append(merged, after)
		}
		changed = changed || before != after
	}
	s.view = append(merged, old...)
	return changed
}

// build makes one service and keeps its problems; nil without a Service: slices of none are nobody's.
func (s *store) build(name types.NamespacedName) *registry.Service {
	delete(s.odd, name)
	from := s.services[name]
	if from == nil {
		return nil
	}
	out, problems := build(name, from, s.slices[name], s.nodes)
	if len(problems) > 0 {
		s.odd[name] = problems
	}
	return out
}

func sortedNames[V any](m map[types.NamespacedName]V) []types.NamespacedName {
	names := make([]types.NamespacedName, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y types.NamespacedName) int {
		return registry.Name{Namespace: x.Namespace, Name: x.Name}.Compare(registry.Name{Namespace: y.Namespace, Name: y.Name})
	})
	return names
}
