// Package watch holds a latest value that one side sets and any number of readers follow.
//
// It is how state is handed over everywhere in Hostmesh: slow readers skip values, writers never block.
package watch

import "sync"

// Value holds the latest T together with a wake-up for the next one. The zero Value holds the zero T and is ready
// to use; a Value must not be copied after its first use. All methods are safe for concurrent use.
type Value[T any] struct {
	mu      sync.Mutex
	current T             // guarded by mu
	changed chan struct{} // guarded by mu; closed by the next Set, nil until somebody asked
}

// New returns a Value that holds v.
func New[T any](v T) *Value[T] { return &Value[T]{current: v} }

// Set replaces the value and wakes every reader that waits on a channel from Get. It never blocks.
func (v *Value[T]) Set(value T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current = value
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// Get returns the latest value and a channel that is closed when a later one is set. A reader that comes late sees
// only the latest: values in between are skipped, the last one never is.
func (v *Value[T]) Get() (T, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.current, v.changed
}

// Load returns the latest value alone.
func (v *Value[T]) Load() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.current
}
