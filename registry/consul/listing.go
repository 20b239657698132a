package consul

import (
	"context"
	"sync"
)

// listing reads the list of services for those who want to know what is listed from now on. Whoever asks while a list
// is being read shares the next one: when thousands of services go at once, Consul need not go through all its
// instances for each.
type listing struct {
	read   func(context.Context) (map[string]bool, error)
	wanted chan struct{} // holds one element when next is set

	mu   sync.Mutex
	next *nameList // guarded by mu; what is not being read yet, nil when nobody has asked
}

// nameList is one list, complete when done is closed and read-only then.
type nameList struct {
	done chan struct{}
	set  map[string]bool
}

func newListing(read func(context.Context) (map[string]bool, error)) *listing {
	return &listing{read: read, wanted: make(chan struct{}, 1)}
}

// run reads lists until one cannot be read, one at a time.
func (l *listing) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.wanted:
		}
		l.mu.Lock()
		n := l.next
		l.next = nil
		l.mu.Unlock()
		if n == nil { // it was taken before its last asker raised wanted
			continue
		}
		set, err := l.read(ctx)
		if err != nil {
			return err
		}
		n.set = set
		close(n.done)
	}
}

// get returns a list that began to be read after get was called. It waits as long as ctx lasts, which has to end when
// run does.
func (l *listing) get(ctx context.Context) (map[string]bool, error) {
	l.mu.Lock()
	if l.next == nil {
		l.next = &nameList{done: make(chan struct{})}
	}
	n := l.next
	l.mu.Unlock()
	raise(l.wanted)
	select {
	case <-n.done:
		return n.set, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// list reads the services that the leader lists now.
func (d *datacenter) list(ctx context.Context) (map[string]bool, error) {
	a, err := d.client.get(ctx, query{path: "/v1/catalog/services", datacenter: d.name})
	if err != nil {
		return nil, err
	}
	return decodeNames(a.body)
}
